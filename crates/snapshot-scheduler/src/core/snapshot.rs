//! When a partition needs a snapshot, and who is asked.
//!
//! ```text
//! due      = applied - archived LSN >= snapshot_after_records, or log bytes - bytes at it >= snapshot_after_bytes,
//!            as the override says that names the partition, else the policy
//! min_lsn  = max(freshest - lag_records_max, latest + 1)
//! asked    = uniform(live, active, applied >= min_lsn, lowest state machine version, free, not in backoff)
//!            out of the non-leaders; the leader only when there is none, or none could be asked for long enough
//! ```

use super::{
    candidate::Choice,
    evidence,
    looked::Looked,
    next::Since,
    policy::Policy,
    reason::{SnapshotCause, SnapshotCode},
    thresholds::Thresholds,
    view::{ArchiveView, ClusterView, ControlView, Liveness, LogView, Moment, PartitionView},
};
use snapshot_store::{
    Entropy, Incarnation, Lineage, Lsn, NodeId, PartitionId, SnapshotId, format::StickyReason,
};
use std::{collections::BTreeMap, fmt};

/// An order for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotCommand {
    /// The partition.
    pub partition: PartitionId,
    /// The log it must cover.
    pub incarnation: Incarnation,
    /// Who is asked.
    pub node: NodeId,
    /// Whether that is the leader.
    pub from_leader: bool,
    /// The LSN it must hold at least.
    pub min_lsn: Lsn,
    /// Snapshots that count as if they were not there: damaged ones, and those that a worker reported as damaged.
    pub distrusted: Vec<SnapshotId>,
    /// Why.
    pub cause: SnapshotCause,
}

/// What is to be done for a snapshot of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Ask a worker.
    Order(SnapshotCommand),
    /// Let the leader append a record first.
    AppendNoop {
        /// The leader.
        node: NodeId,
    },
    /// Nothing.
    Wait,
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDecision {
    /// What to do.
    pub step: SnapshotStep,
    /// Why.
    pub code: SnapshotCode,
    /// The values it rests on.
    pub detail: String,
}

/// What an operator's request changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Lower bound of the LSN.
    pub min_lsn: Lsn,
    /// Ask this node, whatever its role.
    pub node: Option<NodeId>,
}

/// How many more snapshots may be started.
#[derive(Clone, Debug)]
pub struct Budget {
    cluster_left: usize,
    node_left: BTreeMap<NodeId, usize>,
}

impl Budget {
    /// Returns what the orders in `view` leave of the limits.
    pub fn new(view: &ClusterView, policy: &Policy) -> Self {
        let mut running: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for order in view
            .partitions
            .values()
            .filter_map(|partition| partition.order.as_ref())
        {
            *running.entry(&order.node).or_default() += 1;
        }
        let total: usize = running.values().sum();
        let node_left = view
            .nodes
            .iter()
            .map(|(name, node)| {
                let own_limit = if node.exports_max == 0 {
                    u32::MAX
                } else {
                    node.exports_max
                };
                let limit = policy.snapshots_per_node_max.min(own_limit) as usize;
                let ordered = running.get(name).copied().unwrap_or(0);
                (
                    name.clone(),
                    limit.saturating_sub(ordered.max(node.exports_running as usize)),
                )
            })
            .collect();
        Budget {
            cluster_left: (policy.snapshots_max as usize).saturating_sub(total),
            node_left,
        }
    }

    pub(super) fn has_room_on(&self, node: &NodeId) -> bool {
        self.node_left.get(node).is_some_and(|left| *left > 0)
    }

    fn take(&mut self, node: &NodeId) {
        self.cluster_left = self.cluster_left.saturating_sub(1);
        if let Some(left) = self.node_left.get_mut(node) {
            *left = left.saturating_sub(1);
        }
    }
}

/// Returns how many records the freshest live replica is ahead of the latest trusted snapshot: the order in which
/// partitions are served when not all can be.
pub(super) fn records_due(looked: &Looked<'_>) -> u64 {
    let archived = looked.partition.archived().map_or(Lsn::ZERO, |entry| entry.lsn);
    looked
        .freshest()
        .map_or(0, |freshest| freshest.records_since(archived))
}

/// What speaks against any snapshot of the partition, whatever the policy.
fn obstacle(looked: &Looked<'_>, id: PartitionId) -> Option<(SnapshotCode, String)> {
    let (view, partition) = (looked.view, looked.partition);
    if let Some(detail) = &view.standby {
        return Some((SnapshotCode::Standby, detail.clone()));
    }
    match &view.control {
        ControlView::Unread => {
            return Some((
                SnapshotCode::ControlUnreadable,
                "control.json was not read yet".to_owned(),
            ));
        }
        ControlView::Unreadable(detail) => return Some((SnapshotCode::ControlUnreadable, detail.clone())),
        ControlView::Known(control) => {
            if let Some(pause) = control.pause_of(id) {
                let detail = format!(
                    "{} paused by {} at {}: {}",
                    pause.scope, pause.by, pause.at, pause.reason
                );
                return Some((SnapshotCode::Paused, detail));
            }
        }
    }
    if let Some((_, detail)) = evidence::evidence_hold(looked) {
        return Some((SnapshotCode::Held, detail));
    }
    if let Some(order) = &partition.order {
        return Some((
            SnapshotCode::Running,
            format!("request {} on {}", order.request_id, order.node),
        ));
    }
    match &partition.archive {
        ArchiveView::Unread => {
            return Some((
                SnapshotCode::ArchiveUnknown,
                "latest.json is to be read first".to_owned(),
            ));
        }
        ArchiveView::Unreadable { detail, .. } => {
            return Some((SnapshotCode::ArchiveUnreadable, detail.clone()));
        }
        ArchiveView::Known(_) if partition.archive_stale => {
            return Some((
                SnapshotCode::ArchiveUnknown,
                "a newer latest.json is to be read first".to_owned(),
            ));
        }
        ArchiveView::Known(_) => {}
    }
    let Some(log) = &partition.log else {
        let detail = partition
            .log_error
            .clone()
            .unwrap_or_else(|| "the log has not answered yet".to_owned());
        return Some((SnapshotCode::LogUnavailable, detail));
    };
    let pointer = partition.pointer()?;
    if pointer.cluster.fingerprint != view.fingerprint || pointer.partition != id {
        let detail = format!("latest.json belongs to {}", pointer.cluster);
        return Some((SnapshotCode::ArchiveUnreadable, detail));
    }
    pointer.snapshots.iter().find_map(
        |entry| match entry.incarnation.compared_to(&log.facts.incarnation) {
            Lineage::Same | Lineage::Older => None,
            Lineage::Newer | Lineage::Conflict => Some((
                SnapshotCode::IncarnationMismatch,
                format!(
                    "a snapshot is of incarnation {}, the log of {}",
                    entry.incarnation, log.facts.incarnation
                ),
            )),
        },
    )
}

/// Returns what was appended since the latest trusted snapshot, by the freshest live replica; `None` while there is none,
/// or while the log is not known.
pub fn since_latest(looked: &Looked<'_>) -> Option<Since> {
    let log = looked.partition.log.as_ref()?;
    let freshest = looked.freshest()?;
    Some(appended_since(
        looked.partition,
        log,
        freshest,
        looked.log_bytes(),
    ))
}

fn appended_since(partition: &PartitionView, log: &LogView, freshest: Lsn, log_bytes: Option<u64>) -> Since {
    // A log that continues another one begins at its trim point; nothing below is new.
    let (lsn, bytes_then) = match partition.archived() {
        Some(entry) => (entry.lsn, Some(entry.log_bytes)),
        None if log.facts.trim_point == Lsn::ZERO => (Lsn::ZERO, Some(0)),
        None => (log.facts.trim_point, None),
    };
    let bytes = log_bytes.zip(bytes_then);
    Since {
        lsn,
        records: freshest.records_since(lsn),
        bytes: bytes.map(|(now, then)| now.saturating_sub(then)),
    }
}

/// Says why a snapshot is due, or that none is.
fn due(
    partition: &PartitionView,
    policy: &Policy,
    thresholds: &Thresholds,
    freshest: Lsn,
    log_bytes: Option<u64>,
) -> Result<(SnapshotCause, String), String> {
    let Some(log) = &partition.log else {
        return Err("the log has not answered yet".to_owned());
    };
    let wanted = policy.restorable_snapshots_min.max(1) as usize;
    if let Some(damaged) = partition
        .entries()
        .take(wanted)
        .find(|entry| partition.is_damaged(entry.snapshot_id))
    {
        let detail = format!("snapshot {} at {} is damaged", damaged.snapshot_id, damaged.lsn);
        return Ok((SnapshotCause::Repair, detail));
    }
    if partition.pointer().is_none() && log.facts.trim_point > Lsn::ZERO {
        let detail = format!(
            "latest.json is missing and the log is trimmed to {}",
            log.facts.trim_point
        );
        return Ok((SnapshotCause::PointerMissing, detail));
    }
    let Since {
        lsn: since,
        records,
        bytes,
    } = appended_since(partition, log, freshest, log_bytes);
    let bytes_text: &dyn fmt::Display = match &bytes {
        Some(bytes) => bytes,
        None => &"unknown",
    };
    let detail = format!(
        "{records} of {} records and {bytes_text} of {} bytes since LSN {since}, by {}",
        thresholds.records,
        thresholds.bytes,
        thresholds.rule_name(),
    );
    if thresholds.records > 0 && records >= thresholds.records {
        return Ok((SnapshotCause::Records, detail));
    }
    let bytes_due = bytes.is_some_and(|bytes| bytes >= thresholds.bytes);
    if thresholds.bytes > 0 && bytes_due && records > 0 {
        return Ok((SnapshotCause::Bytes, detail));
    }
    Err(detail)
}

/// Decides about a snapshot of one partition. `demand` is an operator's request; it overrides the thresholds and
/// the limits, never what is unsafe.
pub fn decide_snapshot(
    view: &ClusterView,
    id: PartitionId,
    policy: &Policy,
    now: Moment,
    budget: &mut Budget,
    entropy: &Entropy,
    demand: Option<&Demand>,
) -> SnapshotDecision {
    let Some(partition) = view.partitions.get(&id) else {
        let detail = "there is no such partition".to_owned();
        return SnapshotDecision {
            step: SnapshotStep::Wait,
            code: SnapshotCode::NoLiveReplica,
            detail,
        };
    };
    let looked = Looked::at(view, partition, now);
    decide_looked(&looked, id, policy, budget, entropy, demand)
}

pub(super) fn decide_looked(
    looked: &Looked<'_>,
    id: PartitionId,
    policy: &Policy,
    budget: &mut Budget,
    entropy: &Entropy,
    demand: Option<&Demand>,
) -> SnapshotDecision {
    let wait = |code, detail: String| SnapshotDecision {
        step: SnapshotStep::Wait,
        code,
        detail,
    };
    let partition = looked.partition;
    if let Some((code, detail)) = obstacle(looked, id) {
        return wait(code, detail);
    }
    let Some(freshest) = looked.freshest() else {
        let detail = format!(
            "none of {} expected replicas is live and active",
            partition.expected.len()
        );
        return wait(SnapshotCode::NoLiveReplica, detail);
    };
    if looked.replicas.iter().any(|replica| replica.report.exporting) {
        return wait(SnapshotCode::Running, "a worker is making one".to_owned());
    }
    let log_bytes = looked.log_bytes();
    let thresholds = policy.thresholds(id);
    let (cause, why) = match (demand, due(partition, policy, &thresholds, freshest, log_bytes)) {
        (_, Ok((cause @ SnapshotCause::Repair, why))) => (cause, why),
        (Some(_), Ok((_, why)) | Err(why)) => (SnapshotCause::Manual, why),
        (None, Ok((cause, why))) => (cause, why),
        (None, Err(why)) => return wait(SnapshotCode::NotDue, why),
    };

    // The pointer must grow strictly even when what it names is not trusted.
    let latest = partition.entries().next().map(|entry| entry.lsn);
    let floor = latest
        .map_or(Lsn::FIRST, Lsn::next)
        .max(demand.map_or(Lsn::ZERO, |demand| demand.min_lsn));
    let trim_point = partition.log.map_or(Lsn::ZERO, |log| log.facts.trim_point);
    let min_lsn = freshest
        .minus(thresholds.lag_records_max)
        .max(floor)
        .max(trim_point);
    if freshest < floor {
        return needs_record(looked, cause, floor);
    }
    if budget.cluster_left == 0 && demand.is_none() {
        let detail = format!("{} snapshots are being made", policy.snapshots_max);
        return wait(SnapshotCode::ClusterBusy, detail);
    }
    let choice = Choice {
        looked,
        policy,
        budget,
        demand,
        min_lsn,
    };
    match choice.candidate(entropy) {
        Err((code, detail)) => wait(code, format!("{why}; {detail}")),
        Ok((node, from_leader)) => {
            // Found in this very moment: a replica that differs must not publish what it has. Asked last, because it
            // compares all chains.
            if let Some(detail) = new_chain_mismatch(looked) {
                return wait(SnapshotCode::Held, detail);
            }
            budget.take(&node);
            if policy.dry_run {
                let detail = format!("{why}; {node} would be asked for LSN {min_lsn} or above");
                return wait(SnapshotCode::DryRun, detail);
            }
            // Also what is only suspected: the new snapshot might else copy the damaged files of the old one.
            let distrusted = partition
                .entries()
                .map(|entry| entry.snapshot_id)
                .filter(|snapshot| partition.is_damaged(*snapshot) || partition.suspected.contains(snapshot))
                .collect();
            let incarnation = partition.log.map(|log| log.facts.incarnation);
            let Some(incarnation) = incarnation else {
                return wait(
                    SnapshotCode::LogUnavailable,
                    "the log has not answered yet".to_owned(),
                );
            };
            let detail = format!("{why}; {node} is asked for LSN {min_lsn} or above");
            let command = SnapshotCommand {
                partition: id,
                incarnation,
                node,
                from_leader,
                min_lsn,
                distrusted,
                cause,
            };
            SnapshotDecision {
                step: SnapshotStep::Order(command),
                code: SnapshotCode::Ordered,
                detail,
            }
        }
    }
}

/// A new snapshot would not be above the latest one: a record must be appended first.
fn needs_record(looked: &Looked<'_>, cause: SnapshotCause, floor: Lsn) -> SnapshotDecision {
    let leader = looked.leader().map(|leader| &leader.node);
    let live = leader.filter(|node| looked.liveness(node) == Liveness::Live);
    let rested = looked.now >= looked.partition.noop_not_before;
    let step = match live {
        Some(node) if cause == SnapshotCause::Repair && rested => {
            SnapshotStep::AppendNoop { node: node.clone() }
        }
        _ => SnapshotStep::Wait,
    };
    let detail = format!("nothing at LSN {floor} or above is applied yet");
    SnapshotDecision {
        step,
        code: SnapshotCode::NeedsRecord,
        detail,
    }
}

/// Returns why the evidence in the view forbids trusting the replicas of the partition.
pub(super) fn new_chain_mismatch(looked: &Looked<'_>) -> Option<String> {
    let known = looked.partition.holds.contains_key(&StickyReason::ChainMismatch);
    if known || !evidence::chains_differ(looked) {
        return None;
    }
    evidence::chain_mismatch(looked.view, looked.partition, looked.now)
}
