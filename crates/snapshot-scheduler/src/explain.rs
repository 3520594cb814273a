//! One page per partition: what is known, what was decided last and why, and what would have to change for the next step.

use crate::{
    core::{self, Looked, Moment, PartitionView, SnapshotCode, TrimStatus},
    lease,
    state::{Context, PartitionMemory, State},
    status,
};
use snapshot_proto::v1;
use snapshot_store::{
    Lsn, PartitionId,
    core::{HoldReason, SnapshotTrust},
    format::PointerEntry,
};

/// Returns the page of a partition; `None` when the cluster does not have it.
pub(crate) fn explain(
    ctx: &Context,
    state: &State,
    id: PartitionId,
    now: Moment,
) -> Option<v1::ExplainReply> {
    let partition = status::partition_view(state, id, now)?;
    let view = state.view.partitions.get(&id)?;
    let memory = state.memory.get(&id)?;
    let mut lines = known(state, view, memory, now);
    lines.extend(restorable(view, memory));
    lines.extend(replicas(state, id, view, now));
    lines.extend(decided(ctx, state, id, view, memory, now));
    lines.extend(next_steps(ctx, state, id, view, memory, now));
    lines.extend(
        memory
            .trim_lines
            .iter()
            .map(|line| format!("trim, last look: {line}")),
    );
    let policy = ctx.policy();
    let thresholds = policy.thresholds(id);
    lines.push(format!(
        "{}: snapshot after {} records or {} bytes, lag at most {} records; policy: {} restorable snapshots verified by {}",
        thresholds.rule_name(),
        thresholds.records,
        thresholds.bytes,
        thresholds.lag_records_max,
        policy.restorable_snapshots_min,
        policy.verify_before_trim.as_str(),
    ));
    Some(v1::ExplainReply {
        partition: Some(partition),
        lines,
    })
}

fn shown(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "none".to_owned(), |lsn| lsn.to_string())
}

/// Where the log and the snapshots stand.
fn known(state: &State, view: &PartitionView, memory: &PartitionMemory, now: Moment) -> Vec<String> {
    let log = match (&view.log, &view.log_error) {
        (_, Some(error)) => format!("log: {error}"),
        (None, None) => "log: it has not answered yet".to_owned(),
        (Some(log), None) => {
            let bytes = log
                .held_bytes
                .map(|bytes| format!(", {} bytes in it", core::grouped(bytes)));
            format!(
                "log: tail {}, trim point {}{}, {} ms old",
                log.facts.tail,
                log.facts.trim_point,
                bytes.unwrap_or_default(),
                now.since(log.heard_at).as_millis()
            )
        }
    };
    let archive = match &view.archive {
        core::ArchiveView::Unread => "pointer: it was not read yet".to_owned(),
        core::ArchiveView::Unreadable { reason, detail } => format!("pointer: {reason}: {detail}"),
        core::ArchiveView::Known(_) => {
            let read = memory
                .pointer_read_at
                .map(|read_at| now.since(read_at).as_millis());
            format!(
                "archived LSN {}, guard {}, by the pointer as it was {} ms ago",
                shown(view.archived().map(|entry| entry.lsn)),
                shown(status::guard(state, view, memory)),
                read.unwrap_or_default()
            )
        }
    };
    vec![log, archive]
}

/// The snapshots of the log, newest first, with when and how each was verified.
fn restorable(view: &PartitionView, memory: &PartitionMemory) -> Vec<String> {
    let checked = |entry: &PointerEntry| {
        let id = entry.snapshot_id;
        if view.trust.get(&id) == Some(&SnapshotTrust::Damaged) {
            let what = memory.damage.get(&id).map_or("", String::as_str);
            return format!("damaged: {what}");
        }
        match memory.checks.get(&id) {
            Some(check) => format!(
                "verified ({}) by {} at {}",
                check.level.as_str(),
                check.by,
                check.at
            ),
            None if view.verifying == Some(id) => "being verified".to_owned(),
            None => "not verified".to_owned(),
        }
    };
    view.entries()
        .map(|entry| {
            format!(
                "snapshot {} at LSN {} by {} ({}) at {}: {}",
                entry.snapshot_id,
                entry.lsn,
                entry.node,
                entry.role.as_str(),
                entry.created_at,
                checked(entry)
            )
        })
        .collect()
}

fn replicas(state: &State, id: PartitionId, view: &PartitionView, now: Moment) -> Vec<String> {
    let last = view.log.map(|log| log.facts.tail.prev());
    let heard = view.replicas.iter().map(|(node, report)| {
        let status = state.nodes.get(node).and_then(|memory| memory.replicas.get(&id));
        let durable = status.and_then(|status| status.durable_lsn).map(Lsn::new);
        let blocked = status.filter(|status| !status.blocked_reason.is_empty());
        let blocked = blocked.map(|status| format!(": {}: {}", status.blocked_reason, status.blocked_detail));
        let lag = last.zip(report.applied_lsn);
        let lag = lag
            .map(|(last, applied)| format!(", lag {} records", core::grouped(last.records_since(applied))));
        format!(
            "replica {node}: {}, {}, {}, applied {}, durable {}, needed {}, opens {} up to version {}{}{}",
            state.view.liveness(node, now).as_str(),
            report.state.as_str(),
            report.role.as_str(),
            shown(report.applied_lsn),
            shown(durable),
            shown(report.needed_lsn),
            report.state_machine.name,
            report.state_machine.version,
            lag.unwrap_or_default(),
            blocked.unwrap_or_default(),
        )
    });
    let unheard = view
        .expected
        .iter()
        .filter(|node| !view.replicas.contains_key(*node));
    let unheard = unheard.map(|node| {
        let liveness = state.view.liveness(node, now);
        format!(
            "replica {node}: {}, it has not reported this partition",
            liveness.as_str()
        )
    });
    heard.chain(unheard).collect()
}

/// The last decisions, and what holds them.
fn decided(
    ctx: &Context,
    state: &State,
    id: PartitionId,
    view: &PartitionView,
    memory: &PartitionMemory,
    now: Moment,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(planned) = state.plan.partitions.get(&id) {
        let snapshot = planned.snapshot_reason();
        lines.push(format!("snapshot: {}: {}", snapshot.code, snapshot.detail));
        let leadership = planned.leadership_reason();
        lines.push(format!("leadership: {}: {}", leadership.code, leadership.detail));
    }
    for (reason, detail) in &view.holds {
        lines.push(format!("sticky hold: {reason:?}: {detail}"));
    }
    for (snapshot, detail) in &memory.damage {
        lines.push(format!("damaged: {snapshot}: {detail}"));
    }
    lines.push(match view.audit.looked_at {
        Some(looked_at) => format!(
            "audit: all snapshots in the pointer were looked at {} s ago",
            now.since(looked_at).as_secs()
        ),
        None => "audit: not looked at yet".to_owned(),
    });
    if let Some(certified) = memory.certified {
        lines.push(format!("certificate in force: up to {certified}"));
    }
    if let Some(certificate) = &memory.unretained {
        for snapshot in certificate.unretained(view.pointer()) {
            lines.push(format!(
                "only the certificate names snapshot {} at {}",
                snapshot.snapshot_id, snapshot.lsn
            ));
        }
    }
    let standing = lease::standing(ctx, state, now);
    lines.push(format!("this admin: {}: {}", standing.code, standing.detail));
    let trim = memory.trim.reason();
    lines.push(format!("trim: {}: {}", trim.code, trim.detail));
    lines
}

/// What would have to change for the next snapshot and the next trim.
fn next_steps(
    ctx: &Context,
    state: &State,
    id: PartitionId,
    view: &PartitionView,
    memory: &PartitionMemory,
    now: Moment,
) -> Vec<String> {
    let policy = ctx.policy();
    let looked = Looked::at(&state.view, view, now);
    let mut lines = Vec::new();
    let code = state
        .plan
        .partitions
        .get(&id)
        .map(|planned| planned.snapshot.code);
    let missing = core::since_latest(&looked)
        .filter(|_| code == Some(SnapshotCode::NotDue))
        .and_then(|since| core::until_snapshot(&policy.thresholds(id), since));
    lines.extend(missing.map(|missing| format!("next: {missing}")));
    let TrimStatus::Held { reason, .. } = &memory.trim else {
        return lines;
    };
    match reason {
        HoldReason::ReplicaBehind => {
            let guard = status::guard(state, view, memory);
            let behind = looked.replicas.iter().filter_map(|replica| {
                let (guard, needed) = (guard?, replica.report.needed_lsn?);
                (needed < guard)
                    .then(|| core::held_by_replica(replica.node, needed, guard, policy.held_records_max))
            });
            lines.extend(behind.map(|behind| format!("held: {behind}")));
        }
        HoldReason::NothingToTrim => {
            lines.push("next: a trim follows the next verified snapshot".to_owned());
        }
        HoldReason::TooFewSnapshots => lines.push(format!(
            "next: a trim needs {} restorable snapshots, there are {}",
            policy.restorable_snapshots_min,
            view.entries().count()
        )),
        HoldReason::Delay => lines.push(format!(
            "next: a trim follows when the snapshots were published {} ms ago",
            policy.trim_delay_ms
        )),
        // What would have to change is a person's business, and stands in the remedy.
        other => lines.push(format!("held: {other}: {}", other.remedy())),
    }
    lines
}
