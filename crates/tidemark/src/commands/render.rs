//! Wire values as JSON and as words, the same in every command.

use crate::output::{bytes, duration_ms, hex};
use serde_json::{Value, json};
use snapshot_proto::v1::{
    AdminLease, AuditState, ClusterStatus, Liveness, NodeView, PartitionState, PartitionView, PauseEntry,
    PolicyState, Reason, RebuildCount, ReplicaRole, ReplicaView, RestoreKind, RestorePhase, RunningRestore,
    SnapshotView, TrimOutcome, TrimPrice, VerifyLevel, ViewAge,
};
use snapshot_store::Timestamp;

pub(super) fn liveness(value: i32) -> &'static str {
    match Liveness::try_from(value) {
        Ok(Liveness::Live) => "live",
        Ok(Liveness::Suspect) => "suspect",
        Ok(Liveness::Gone) => "gone",
        Ok(Liveness::Unknown | Liveness::Unspecified) | Err(_) => "unknown",
    }
}

pub(super) fn state(value: i32) -> &'static str {
    match PartitionState::try_from(value) {
        Ok(PartitionState::Opening) => "opening",
        Ok(PartitionState::Restoring) => "restoring",
        Ok(PartitionState::CatchingUp) => "catching-up",
        Ok(PartitionState::Active) => "active",
        Ok(PartitionState::Blocked) => "blocked",
        Ok(PartitionState::Unspecified) | Err(_) => "unknown",
    }
}

pub(super) fn role(value: i32) -> &'static str {
    match ReplicaRole::try_from(value) {
        Ok(ReplicaRole::Leader) => "leader",
        Ok(ReplicaRole::Follower) => "follower",
        Ok(ReplicaRole::Unspecified) | Err(_) => "unknown",
    }
}

pub(super) fn level(value: i32) -> &'static str {
    match VerifyLevel::try_from(value) {
        Ok(VerifyLevel::Presence) => "presence",
        Ok(VerifyLevel::Content) => "content",
        Ok(VerifyLevel::Restore) => "restore",
        Ok(VerifyLevel::Unspecified) | Err(_) => "none",
    }
}

fn restore_kind(value: i32) -> &'static str {
    match RestoreKind::try_from(value) {
        Ok(RestoreKind::Bootstrap) => "bootstrap",
        Ok(RestoreKind::TrimGap) => "trim-gap",
        Ok(RestoreKind::Rebuild) => "rebuild",
        Ok(RestoreKind::Unspecified) | Err(_) => "unknown",
    }
}

pub(super) fn time(millis: u64) -> String {
    Timestamp::from_millis(millis).to_string()
}

fn reason_json(reason: Option<&Reason>) -> Value {
    reason.map_or(Value::Null, |reason| {
        json!({
            "code": reason.code,
            "detail": reason.detail,
            "remedy": reason.remedy,
            "for_ms": reason.for_ms,
        })
    })
}

pub(super) fn cluster_json(status: &ClusterStatus) -> Value {
    json!({
        "cluster": status.cluster,
        "fingerprint": hex(&status.fingerprint),
        "admin": status.admin,
        "tick": status.tick,
        "lease": status.lease.as_ref().map(lease_json),
        "policy": status.policy.as_ref().map(policy_json),
        "audit": status.audit.as_ref().map(audit_json),
        "age": status.age.as_ref().map(age_json),
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "partitions": status.partitions.iter().map(partition_json).collect::<Vec<_>>(),
        "pauses": status.pauses.iter().map(pause_json).collect::<Vec<_>>(),
    })
}

fn audit_json(audit: &AuditState) -> Value {
    json!({
        "passes": audit.passes,
        "last_pass_ms": audit.last_pass_ms,
        "pass_age_ms": audit.pass_age_ms,
        "partitions_looked_at": audit.partitions_looked_at,
        "oldest_look_ms": audit.oldest_look_ms,
        "oldest_read_ms": audit.oldest_read_ms,
        "damaged_partitions": audit.damaged_partitions,
    })
}

/// Says how current the audit is, and what it leads to.
pub(super) fn audit_text(audit: &AuditState) -> String {
    let last = match audit.last_pass_ms {
        Some(took) => format!("the last pass took {}", duration_ms(took)),
        None => "no pass is over yet".to_owned(),
    };
    let mut text = format!(
        "Audit: every partition was looked at in the last {}; {last}",
        duration_ms(audit.oldest_look_ms)
    );
    if audit.passes == 0 {
        text = format!(
            "Audit: {} partitions looked at; {last}",
            audit.partitions_looked_at
        );
    }
    if !audit.damaged_partitions.is_empty() {
        text += &format!(
            "\nPartitions with a damaged snapshot: {:?}; new snapshots are ordered, the logs are held until they are verified",
            audit.damaged_partitions
        );
    }
    text
}

fn age_json(age: &ViewAge) -> Value {
    json!({
        "workers_ms": age.workers_ms,
        "logs_ms": age.logs_ms,
        "pointers_ms": age.pointers_ms,
        "control_ms": age.control_ms,
        "lease_ms": age.lease_ms,
    })
}

fn node_json(node: &NodeView) -> Value {
    json!({
        "node": node.node,
        "address": node.address,
        "liveness": liveness(node.liveness),
        "age_ms": node.age_ms,
        "error": node.error,
    })
}

pub(super) fn partition_json(view: &PartitionView) -> Value {
    json!({
        "partition": view.partition,
        "incarnation": view.incarnation.as_ref().map(|incarnation| json!({
            "generation": incarnation.generation,
            "id": hex(&incarnation.id),
        })),
        "trim_point": view.trim_point,
        "tail": view.tail,
        "held_bytes": view.held_bytes,
        "condition": view.condition,
        "log_age_ms": view.log_age_ms,
        "pointer_age_ms": view.pointer_age_ms,
        "archived_lsn": view.archived_lsn,
        "guard_lsn": view.guard_lsn,
        "leader": view.leader.as_ref().map(|leader| json!({
            "epoch": leader.epoch,
            "node": leader.node,
            "address": leader.address,
        })),
        "replicas_expected": view.replicas_expected,
        "replicas": view.replicas.iter().map(replica_json).collect::<Vec<_>>(),
        "snapshots": view.snapshots.iter().map(|snapshot| snapshot_json(view.partition, snapshot)).collect::<Vec<_>>(),
        "snapshot": reason_json(view.snapshot.as_ref()),
        "trim": reason_json(view.trim.as_ref()),
        "leadership": reason_json(view.leadership.as_ref()),
    })
}

fn replica_json(replica: &ReplicaView) -> Value {
    let status = replica.status.as_ref();
    json!({
        "node": replica.node,
        "liveness": liveness(replica.liveness),
        "state": status.map(|status| state(status.state)),
        "blocked_reason": status.map(|status| &status.blocked_reason).filter(|reason| !reason.is_empty()),
        "blocked_detail": status.map(|status| &status.blocked_detail).filter(|detail| !detail.is_empty()),
        "role": status.map(|status| role(status.role)),
        "applied_lsn": status.and_then(|status| status.applied_lsn),
        "durable_lsn": status.and_then(|status| status.durable_lsn),
        "needed_lsn": status.and_then(|status| status.needed_lsn),
        "log_bytes": status.and_then(|status| status.log_bytes),
        "state_machine": status.and_then(|status| status.state_machine.as_ref()).map(|opens| json!({
            "name": opens.name,
            "version": opens.version,
        })),
        "restore": status.and_then(|status| status.restore.as_ref()).map(restore_json),
        "last_restore": status.and_then(|status| status.last_restore.as_ref()).map(|restore| json!({
            "kind": restore_kind(restore.kind),
            "snapshot_id": restore.snapshot_id,
            "lsn": restore.lsn,
            "bytes": restore.bytes,
            "bytes_downloaded": restore.bytes_downloaded,
            "bytes_linked": restore.bytes_linked,
            "bytes_resumed": restore.bytes_resumed,
            "duration_ms": restore.duration_ms,
            "damaged": restore.damaged,
        })),
        "damaged_snapshots": status.map(|status| &status.damaged_snapshots),
        "rebuilds": status.map(|status| rebuilds_json(&status.rebuilds)),
    })
}

fn restore_json(restore: &RunningRestore) -> Value {
    json!({
        "phase": restore_phase(restore.phase),
        "snapshot_id": Some(&restore.snapshot_id).filter(|id| !id.is_empty()),
        "lsn": restore.lsn,
        "bytes_total": restore.bytes_total,
        "bytes_done": restore.bytes_done,
        "bytes_downloaded": restore.bytes_downloaded,
        "bytes_linked": restore.bytes_linked,
        "bytes_resumed": restore.bytes_resumed,
        "files_done": restore.files_done,
        "files_total": restore.files_total,
        "bytes_per_second": restore.bytes_per_second,
        "remaining_ms": restore.remaining_ms,
    })
}

/// Says how far a restore is, in a few words.
pub(super) fn restore_text(restore: &RunningRestore) -> String {
    let phase = restore_phase(restore.phase);
    if restore.bytes_total == 0 {
        return phase.to_owned();
    }
    let percent =
        u128::from(restore.bytes_done.min(restore.bytes_total)) * 100 / u128::from(restore.bytes_total);
    let mut text = format!("{phase} {percent} % of {}", bytes(restore.bytes_total));
    if let Some(rate) = restore.bytes_per_second {
        text += &format!(", {}/s", bytes(rate));
    }
    if let Some(remaining) = restore.remaining_ms {
        text += &format!(", {} left", duration_ms(remaining));
    }
    text
}

fn restore_phase(phase: i32) -> &'static str {
    match RestorePhase::try_from(phase) {
        Ok(RestorePhase::Queued) => "queued",
        Ok(RestorePhase::Choosing) => "choosing",
        Ok(RestorePhase::Reusing) => "reusing",
        Ok(RestorePhase::Downloading) => "downloading",
        Ok(RestorePhase::Checking) => "checking",
        Ok(RestorePhase::Installing) => "installing",
        // A worker of an earlier version does not say.
        Ok(RestorePhase::Unspecified) | Err(_) => "restoring",
    }
}

fn rebuilds_json(rebuilds: &[RebuildCount]) -> Value {
    rebuilds
        .iter()
        .map(|entry| (entry.reason.clone(), Value::from(entry.count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub(super) fn snapshot_json(partition: u32, snapshot: &SnapshotView) -> Value {
    json!({
        "partition": partition,
        "snapshot_id": snapshot.snapshot_id,
        "lsn": snapshot.lsn,
        "node": snapshot.node,
        "role": role(snapshot.role),
        "bytes_total": snapshot.bytes_total,
        "bytes_uploaded": snapshot.bytes_uploaded,
        "bytes_copied": snapshot.bytes_copied,
        "created_at": time(snapshot.created_at_ms),
        "verified": level(snapshot.verified),
        "damaged": snapshot.damaged,
        "verified_by": snapshot.verified_by,
        "read_age_ms": snapshot.read_age_ms,
    })
}

pub(super) fn pause_json(pause: &PauseEntry) -> Value {
    json!({
        "scope": if pause.partition.is_some() { "partition" } else { "cluster" },
        "partition": pause.partition,
        "by": pause.by,
        "at": time(pause.at_ms),
        "reason": pause.reason,
    })
}

pub(super) fn policy_json(state: &PolicyState) -> Value {
    json!({
        "revision": state.revision,
        "since": time(state.since_ms),
        "refused": (!state.refused.is_empty()).then_some(&state.refused),
        "policy": serde_json::from_str(&state.json).unwrap_or(Value::Null),
    })
}

pub(super) fn policy_text(state: &PolicyState) -> String {
    let mut text = format!(
        "policy: revision {} since {}",
        state.revision,
        time(state.since_ms)
    );
    if !state.refused.is_empty() {
        text += &format!("; a newer one was refused: {}", state.refused);
    }
    text
}

fn lease_json(lease: &AdminLease) -> Value {
    json!({
        "active": lease.active,
        "code": lease.code,
        "detail": lease.detail,
        "remedy": lease.remedy,
        "holder": lease.holder,
        "address": lease.address,
        "epoch": lease.epoch,
        "expires_at": lease.holder.as_ref().map(|_| time(lease.expires_at_ms)),
    })
}

pub(super) fn pause_text(pause: &PauseEntry) -> String {
    let scope = match pause.partition {
        Some(partition) => format!("partition {partition}"),
        None => "the whole cluster".to_owned(),
    };
    format!(
        "{scope} is paused by {} since {}: {}",
        pause.by,
        time(pause.at_ms),
        pause.reason
    )
}

pub(super) fn trim_json(outcome: &TrimOutcome) -> Value {
    json!({
        "partition": outcome.partition,
        "code": outcome.code,
        "detail": outcome.detail,
        "trim_point_before": outcome.trim_point_before,
        "trim_point_after": outcome.trim_point_after,
        "guard_lsn": outcome.guard_lsn,
        "left_behind": outcome.left_behind,
        "price": outcome.price.as_ref().map(price_json),
    })
}

fn price_json(price: &TrimPrice) -> Value {
    let restore = price.must_restore.iter().map(|restore| {
        json!({
            "node": restore.node,
            "needed_lsn": restore.needed_lsn,
            "live": restore.live,
            "bytes": restore.bytes,
        })
    });
    json!({
        "up_to": price.up_to,
        "records": price.records,
        "bytes": price.bytes,
        "bytes_estimated": price.bytes_estimated,
        "must_restore": restore.collect::<Vec<_>>(),
    })
}

/// Returns the bytes that a trim frees, `≈` where they are estimated.
pub(super) fn freed_bytes(price: &TrimPrice) -> Option<String> {
    let about = if price.bytes_estimated { "≈ " } else { "" };
    price.bytes.map(|freed| format!("{about}{}", bytes(freed)))
}

/// Returns who would have to restore, with what each reads at most.
pub(super) fn must_restore(price: &TrimPrice) -> String {
    let each = price.must_restore.iter().map(|restore| {
        let reads = restore.bytes.map(|most| format!(" (up to {})", bytes(most)));
        let away = if restore.live { "" } else { ", not live" };
        format!("{}{away}{}", restore.node, reads.unwrap_or_default())
    });
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_says_how_far_it_is() {
        let mut restore = RunningRestore {
            phase: RestorePhase::Queued.into(),
            ..RunningRestore::default()
        };
        assert_eq!(restore_text(&restore), "queued");
        restore = RunningRestore {
            phase: RestorePhase::Downloading.into(),
            bytes_total: 4 << 20,
            bytes_done: 3 << 20,
            bytes_per_second: Some(1 << 20),
            remaining_ms: Some(1000),
            ..restore
        };
        let text = restore_text(&restore);
        assert!(
            text.starts_with("downloading 75 % of ") && text.ends_with(" left"),
            "{text}"
        );
        assert_eq!(restore_json(&restore)["remaining_ms"], 1000);
    }
}
