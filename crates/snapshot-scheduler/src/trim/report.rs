//! What a trim came to, and the rule with its values, for people.

use super::{Reads, restorable};
use crate::{
    core::{FreedBytes, Moment, PriceFacts, TrimPrice, price},
    state::{Context, State},
};
use snapshot_store::{
    Lsn, NodeId, PartitionId,
    core::{HoldReason, SnapshotTrust, TrimBound, TrimGrant},
};
use std::collections::BTreeMap;

/// Who wants the trim, and what it may skip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimMode {
    /// An operator's `--force`: skips replica protection and `retain_records`, never the guard.
    pub force: bool,
    /// Decide, and change nothing.
    pub dry_run: bool,
}

/// What trimming a partition came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrimResult {
    /// The log was trimmed.
    Trimmed {
        /// Trim point before.
        before: Lsn,
        /// Trim point now in force, as the log says.
        after: Lsn,
    },
    /// It would be trimmed, were this not a dry run.
    WouldTrim {
        /// How far.
        up_to: Lsn,
    },
    /// The log is left alone.
    Held(HoldReason),
    /// A step after the decision failed; trying again is safe.
    Failed,
}

/// What trimming a partition came to, with the values it was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimReport {
    /// The partition.
    pub partition: PartitionId,
    /// The outcome.
    pub result: TrimResult,
    /// What was seen.
    pub detail: String,
    /// The guard, where it could be determined.
    pub guard_lsn: Option<Lsn>,
    /// Trim point before, where the log answered.
    pub trim_point: Option<Lsn>,
    /// Replicas that will have to restore, because they are too far behind to be waited for.
    pub left_behind: Vec<NodeId>,
    /// What the trim frees, and who would have to restore after it; `None` when none is allowed.
    pub price: Option<TrimPrice>,
    /// The rule with its values, line by line.
    pub lines: Vec<String>,
}

/// Works out what trimming as far as `grant` allows frees and costs, from what was read in this pass and what replicas
/// reported last.
pub(super) fn price_of(
    state: &State,
    id: PartitionId,
    reads: &Reads,
    grant: &TrimGrant,
    now: Moment,
) -> Option<TrimPrice> {
    let view = state.view.partitions.get(&id)?;
    let entries = reads.pointer.iter().flat_map(|pointer| &pointer.snapshots);
    let of_this_log = entries.filter(|entry| entry.incarnation == grant.incarnation);
    let mut known: BTreeMap<Lsn, u64> = of_this_log.map(|entry| (entry.lsn, entry.log_bytes)).collect();
    for (_, report, _) in state.view.counted_replicas(view, now) {
        if report.incarnation == Some(grant.incarnation) {
            known.extend(report.applied_lsn.zip(report.log_bytes));
            known.extend(report.needed_lsn.zip(report.needed_log_bytes));
        }
    }
    let away = view
        .expected
        .iter()
        .filter(|node| !state.view.liveness(node, now).counts())
        .map(|node| {
            let last = view.replicas.get(node).and_then(|report| report.needed_lsn);
            (node.clone(), last)
        });
    let facts = PriceFacts {
        log: reads.log?,
        held_bytes: reads.held_bytes,
        known,
        replicas: &reads.replicas,
        away: away.collect(),
        snapshot_bytes: grant.snapshots.first().map(|entry| entry.bytes_total),
    };
    Some(price(&facts, grant.up_to))
}

/// Says a price in words.
pub(super) fn price_text(price: &TrimPrice) -> String {
    let bytes = match price.bytes {
        None => "an unknown number of bytes".to_owned(),
        Some(FreedBytes { bytes, estimated }) => {
            format!("{}{bytes} bytes", if estimated { "about " } else { "" })
        }
    };
    let restore = price.must_restore.iter().map(|restore| match restore.live {
        true => restore.node.to_string(),
        false => format!("{} (not live)", restore.node),
    });
    let restore: Vec<String> = restore.collect();
    let who = match restore.is_empty() {
        true => "no replica would have to restore".to_owned(),
        false => format!("{} would have to restore", restore.join(", ")),
    };
    format!("{} records and {bytes} freed; {who}", price.records)
}

pub(super) fn describe(grant: &TrimGrant) -> String {
    let bound = match &grant.bound {
        TrimBound::Guard => "the guard".to_owned(),
        TrimBound::DelayedGuard => "the guard as it stood trim_delay ago".to_owned(),
        TrimBound::Replica(node) => format!("replica {node}"),
        TrimBound::RetainRecords => "retain_records".to_owned(),
    };
    format!(
        "up to {}, bounded by {bound}; guard {}",
        grant.up_to, grant.guard_lsn
    )
}

/// Returns the rule with the values of this pass.
pub(super) fn explain(ctx: &Context, reads: &Reads, report: &TrimReport) -> Vec<String> {
    let policy = &reads.policy;
    let mut lines = Vec::new();
    match (&reads.log, &reads.log_error) {
        (Some(log), _) => lines.push(format!(
            "log: incarnation {}, trim point {}, tail {}",
            log.incarnation, log.trim_point, log.tail
        )),
        (None, Some(error)) => lines.push(format!("log: {error}")),
        (None, None) => lines.push("log: not asked in this pass".to_owned()),
    }
    match &reads.certificate {
        Some(certificate) => lines.push(format!(
            "certificate: up to {}, by {} at {}",
            certificate.up_to, certificate.issued_by, certificate.issued_at
        )),
        None => lines.push("certificate: none".to_owned()),
    }
    for entry in restorable(ctx, reads) {
        let trust = match reads.trust.get(&entry.snapshot_id) {
            Some(SnapshotTrust::Verified(level)) => format!("verified ({})", level.as_str()),
            Some(SnapshotTrust::Damaged) => "damaged".to_owned(),
            None => "not verified".to_owned(),
        };
        lines.push(format!(
            "restorable: {} at LSN {} by {}, {trust}",
            entry.snapshot_id, entry.lsn, entry.node
        ));
    }
    let guard = report
        .guard_lsn
        .map_or_else(|| "unknown".to_owned(), |guard| guard.to_string());
    lines.push(format!(
        "guard = {guard}: lowest LSN of the {} newest snapshots, all verified ({})",
        policy.restorable_snapshots_min,
        policy.verify_before_trim.as_str()
    ));
    for replica in &reads.replicas {
        let needed = replica.needed_lsn.map_or_else(
            || "nothing that is left".to_owned(),
            |lsn| format!("what is above {lsn}"),
        );
        lines.push(format!("needed: {} needs {needed}", replica.node));
    }
    for node in &report.left_behind {
        lines.push(format!(
            "left behind: {node} is beyond held_records_max or held_bytes_max and will restore"
        ));
    }
    lines.push(format!(
        "up_to = min(guard, needed, tail - 1 - {}) with trim_delay {} ms",
        policy.retain_records, policy.trim_delay_ms
    ));
    if let Some(price) = &report.price {
        lines.push(format!("price: {}", price_text(price)));
    }
    lines.push(format!("decision: {}", report.detail));
    lines
}
