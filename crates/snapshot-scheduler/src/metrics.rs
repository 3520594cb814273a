//! Metrics of the admin. All are described here; label values come from enums.

use crate::core::{self, AuditResult, Condition, ConditionFacts, LeaseCode, Liveness, SnapshotCause};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use snapshot_proto::v1::DeclineReason;
use snapshot_store::{
    AnomalyKind,
    core::HoldReason,
    format::{LeaseEpoch, VerifyLevel},
};
use std::time::Duration;

mod partitions;
mod requests;

pub(crate) use partitions::{
    PartitionGauges, StoredBytes, partition, totals, withdraw_partition, withdraw_totals,
};
pub(crate) use requests::{RequestKind, request};

const REQUESTED: &str = "tidemark_admin_snapshots_requested_total";
const OUTCOMES: &str = "tidemark_admin_snapshot_outcomes_total";
const DECLINES: &str = "tidemark_admin_declines_total";
const TRIMS: &str = "tidemark_admin_trims_total";
const TRIMMED: &str = "tidemark_admin_trimmed_records_total";
const TRIMMED_BYTES: &str = "tidemark_admin_trimmed_bytes_total";
const HOLDS: &str = "tidemark_admin_holds_total";
const POLLS: &str = "tidemark_admin_polls_total";
const POLL_SECONDS: &str = "tidemark_admin_poll_seconds";
const IN_FLIGHT: &str = "tidemark_admin_requests_in_flight";
const VIEW_AGE: &str = "tidemark_admin_view_age_seconds";
const VERIFIES: &str = "tidemark_admin_verifications_total";
const LEADS: &str = "tidemark_admin_leaderships_assigned_total";
const DELETED: &str = "tidemark_admin_pruned_bytes_total";
const TICK_SECONDS: &str = "tidemark_admin_tick_seconds";
const NODES: &str = "tidemark_admin_nodes";
const PAUSED: &str = "tidemark_admin_paused_scopes";
const ACTIVE: &str = "tidemark_admin_active";
const LEASE_STATE: &str = "tidemark_admin_lease_state";
const LEASE_EPOCH: &str = "tidemark_admin_lease_epoch";
const LEASE_CHANGES: &str = "tidemark_admin_lease_changes_total";
const LEASE_FAILURES: &str = "tidemark_admin_lease_failures_total";
const POLICY_RELOADS: &str = "tidemark_admin_policy_reloads_total";
const HOLD: &str = "tidemark_admin_partition_hold";
const HOLD_AGE: &str = "tidemark_admin_hold_age_seconds";
const HELD_BYTES: &str = "tidemark_admin_log_held_bytes";
const ARCHIVED: &str = "tidemark_admin_archived_lsn";
const GUARD: &str = "tidemark_admin_guard_lsn";
const TRIM_POINT: &str = "tidemark_admin_trim_point_lsn";
const TAIL: &str = "tidemark_admin_tail_lsn";
const STORED_BYTES: &str = "tidemark_admin_stored_bytes";
const PARTITION_REPLICAS: &str = "tidemark_admin_partition_replicas";
const PARTITIONS: &str = "tidemark_admin_partitions";
const REPLICAS: &str = "tidemark_admin_replicas";
const HELD_PARTITIONS: &str = "tidemark_admin_held_partitions";
const ANOMALIES: &str = "tidemark_admin_anomalies_total";
const AUDITS: &str = "tidemark_admin_audits_total";
const AUDIT_REQUESTS: &str = "tidemark_admin_audit_requests_total";
const AUDIT_PASS: &str = "tidemark_admin_audit_pass_seconds";
const AUDIT_AGE_MAX: &str = "tidemark_admin_audit_age_max_seconds";
const DAMAGED: &str = "tidemark_admin_damaged_partitions";
const HOLD_AGE_MAX: &str = "tidemark_admin_hold_age_max_seconds";
const HELD_BYTES_MAX: &str = "tidemark_admin_log_held_max_bytes";
const ARCHIVE_LAG_MAX: &str = "tidemark_admin_archive_lag_max_records";
const HOLD_AGE_QUANTILE: &str = "tidemark_admin_hold_age_quantile_seconds";
const HELD_BYTES_QUANTILE: &str = "tidemark_admin_log_held_quantile_bytes";
const ARCHIVE_LAG_QUANTILE: &str = "tidemark_admin_archive_lag_quantile_records";
const ALL_STORED_BYTES: &str = "tidemark_admin_all_stored_bytes";

/// Metrics that have no series before something happens, with their labels; what the others have shows when they are
/// described. The reference (`docs/metrics.md`) and the test that compares it with running nodes read this.
pub const LABELS: &[(&str, &[&str])] = &[
    (NODES, &["liveness"]),
    (HOLD, &["partition", "reason"]),
    (HOLD_AGE, &["partition"]),
    (HELD_BYTES, &["partition"]),
    (ARCHIVED, &["partition"]),
    (GUARD, &["partition"]),
    (TRIM_POINT, &["partition"]),
    (TAIL, &["partition"]),
    (STORED_BYTES, &["partition", "state"]),
    (ALL_STORED_BYTES, &["state"]),
    (POLL_SECONDS, &["of"]),
    (VIEW_AGE, &["part"]),
    (LEASE_STATE, &["state"]),
    (PARTITION_REPLICAS, &["partition", "state"]),
    (PARTITIONS, &["state"]),
    (REPLICAS, &["state"]),
    (HELD_PARTITIONS, &["reason"]),
    (HOLD_AGE_QUANTILE, &["percentile"]),
    (HELD_BYTES_QUANTILE, &["percentile"]),
    (ARCHIVE_LAG_QUANTILE, &["percentile"]),
];

/// How a snapshot that was asked for ended.
const OUTCOME_WORDS: [&str; 4] = ["published", "declined", "failed", "unreachable"];
/// What happens to the lease of an admin.
const LEASE_CHANGE_WORDS: [&str; 3] = ["taken", "lost", "given-up"];
/// What comes of reading the policy again.
const RELOAD_WORDS: [&str; 3] = ["changed", "unchanged", "refused"];
const DECLINE_REASONS: [DeclineReason; 8] = [
    DeclineReason::Unspecified,
    DeclineReason::UnknownPartition,
    DeclineReason::Behind,
    DeclineReason::Running,
    DeclineReason::NotActive,
    DeclineReason::Covered,
    DeclineReason::Busy,
    DeclineReason::Stopping,
];

/// What the audit does, and what can come of it.
const AUDIT_LEVELS: [(VerifyLevel, &[AuditResult]); 2] = [
    (VerifyLevel::Presence, AuditResult::ALL),
    // Whose a snapshot is was seen before it is read.
    (
        VerifyLevel::Content,
        &[AuditResult::Sound, AuditResult::Damaged, AuditResult::Failed],
    ),
];

/// Describes every metric, and brings counters that are counted by reason to zero so that a rate can be computed
/// from the first event on. Called once, after the recorder is installed.
pub fn describe() {
    describe_counter!(REQUESTED, Unit::Count, "Snapshots asked for, by cause.");
    describe_counter!(
        OUTCOMES,
        Unit::Count,
        "Snapshots asked for that ended, by outcome."
    );
    describe_counter!(
        DECLINES,
        Unit::Count,
        "Snapshots that workers declined, by reason."
    );
    describe_counter!(TRIMS, Unit::Count, "Trims of logs, by outcome.");
    describe_counter!(TRIMMED, Unit::Count, "Log records trimmed.");
    describe_counter!(
        TRIMMED_BYTES,
        Unit::Bytes,
        "Bytes of log records trimmed, as far as they are known; in proportion to the records where positions are not."
    );
    describe_counter!(
        HOLDS,
        Unit::Count,
        "Times a partition's log began to be held, by reason."
    );
    describe_counter!(POLLS, Unit::Count, "Polls of workers, by outcome.");
    describe_histogram!(
        POLL_SECONDS,
        Unit::Seconds,
        "Time until a worker or a log answered, or did not in time."
    );
    describe_gauge!(
        IN_FLIGHT,
        Unit::Count,
        "Requests of this admin that wait for an answer, by kind."
    );
    describe_gauge!(
        VIEW_AGE,
        Unit::Seconds,
        "Age of the oldest part of what this admin knows, by kind of part."
    );
    describe_counter!(
        VERIFIES,
        Unit::Count,
        "Checks of snapshots by workers, by outcome."
    );
    describe_counter!(LEADS, Unit::Count, "Leaderships assigned, by outcome.");
    describe_counter!(DELETED, Unit::Bytes, "Bytes of snapshots deleted after trims.");
    describe_histogram!(TICK_SECONDS, Unit::Seconds, "Time taken to plan.");
    describe_gauge!(NODES, Unit::Count, "Configured workers, by liveness.");
    describe_gauge!(
        ACTIVE,
        Unit::Count,
        "1 while this admin acts, 0 while it only watches."
    );
    describe_gauge!(
        LEASE_STATE,
        Unit::Count,
        "1 for the state this admin's lease is in, 0 for the others."
    );
    describe_gauge!(
        LEASE_EPOCH,
        Unit::Count,
        "Epoch of the lease as this admin saw it last, 0 before that; grows with every change of the active admin."
    );
    describe_counter!(
        LEASE_CHANGES,
        Unit::Count,
        "Leases taken, lost and given up by this admin."
    );
    describe_counter!(
        LEASE_FAILURES,
        Unit::Count,
        "Times the lease could not be read or written."
    );
    describe_counter!(
        POLICY_RELOADS,
        Unit::Count,
        "Times the policy was read again, by outcome."
    );
    describe_gauge!(PAUSED, Unit::Count, "Pauses in force.");
    describe_gauge!(
        HOLD,
        Unit::Count,
        "1 for the reason a partition's log is held for now."
    );
    describe_gauge!(
        HOLD_AGE,
        Unit::Seconds,
        "How long a partition's log has been held for its present reason."
    );
    describe_gauge!(HELD_BYTES, Unit::Bytes, "Bytes of records in a partition's log.");
    describe_gauge!(
        STORED_BYTES,
        Unit::Bytes,
        "Bytes in the object store after a partition's last trim, by what they are to it."
    );
    describe_gauge!(
        PARTITION_REPLICAS,
        Unit::Count,
        "Replicas of a partition: expected, live, and active among the live ones."
    );
    describe_gauge!(PARTITIONS, Unit::Count, "Partitions, by condition.");
    describe_gauge!(
        REPLICAS,
        Unit::Count,
        "Replicas of all partitions: expected, live, and active among the live ones."
    );
    describe_gauge!(
        HELD_PARTITIONS,
        Unit::Count,
        "Partitions whose log is held for now, by reason."
    );
    describe_counter!(
        ANOMALIES,
        Unit::Count,
        "Damage that looks before trims and of the audit found, by kind."
    );
    describe_counter!(
        AUDITS,
        Unit::Count,
        "Partitions looked at and snapshots read again by the audit, by level and result."
    );
    describe_counter!(
        AUDIT_REQUESTS,
        Unit::Count,
        "Requests to the store that the audit made."
    );
    describe_gauge!(
        AUDIT_PASS,
        Unit::Seconds,
        "Time that the last completed pass of the audit over all partitions took; 0 before it."
    );
    describe_gauge!(
        AUDIT_AGE_MAX,
        Unit::Seconds,
        "How long ago the partition was looked at that waits longest for the audit."
    );
    describe_gauge!(
        DAMAGED,
        Unit::Count,
        "Partitions with a damaged restorable snapshot, until new ones are published and verified."
    );
    describe_gauge!(
        ARCHIVED,
        Unit::Count,
        "LSN of the newest published, trusted snapshot."
    );
    describe_gauge!(
        GUARD,
        Unit::Count,
        "Lowest LSN among the restorable snapshots, all verified."
    );
    describe_gauge!(
        TRIM_POINT,
        Unit::Count,
        "Highest LSN trimmed from a partition's log."
    );
    describe_gauge!(TAIL, Unit::Count, "First unwritten LSN of a partition's log.");
    describe_gauge!(
        HOLD_AGE_MAX,
        Unit::Seconds,
        "Longest hold of any partition that is not merely idle."
    );
    describe_gauge!(
        HELD_BYTES_MAX,
        Unit::Bytes,
        "Bytes of records in the largest log."
    );
    describe_gauge!(
        ARCHIVE_LAG_MAX,
        Unit::Count,
        "Most records of any log above its archived LSN."
    );
    describe_gauge!(
        HOLD_AGE_QUANTILE,
        Unit::Seconds,
        "Percentiles of how long the logs are held that are not merely idle."
    );
    describe_gauge!(
        HELD_BYTES_QUANTILE,
        Unit::Bytes,
        "Percentiles of the bytes of records in a log."
    );
    describe_gauge!(
        ARCHIVE_LAG_QUANTILE,
        Unit::Count,
        "Percentiles of the records of a log above its archived LSN."
    );
    describe_gauge!(
        ALL_STORED_BYTES,
        Unit::Bytes,
        "Bytes in the object store of all partitions that were trimmed since the start, by what they are to them."
    );

    for cause in SnapshotCause::ALL {
        counter!(REQUESTED, "cause" => cause.as_str()).absolute(0);
    }
    for outcome in OUTCOME_WORDS {
        counter!(OUTCOMES, "outcome" => outcome).absolute(0);
    }
    for reason in DECLINE_REASONS {
        counter!(DECLINES, "reason" => crate::wire::decline_word(reason)).absolute(0);
    }
    for outcome in ["trimmed", "failed"] {
        counter!(TRIMS, "outcome" => outcome).absolute(0);
    }
    for kind in AnomalyKind::ALL {
        counter!(ANOMALIES, "kind" => kind.as_str()).absolute(0);
    }
    for reason in HoldReason::ALL {
        counter!(HOLDS, "reason" => reason.as_str()).absolute(0);
    }
    for outcome in ["answered", "failed"] {
        counter!(POLLS, "outcome" => outcome).absolute(0);
        counter!(LEADS, "outcome" => outcome).absolute(0);
    }
    for outcome in ["ok", "damaged", "failed"] {
        counter!(VERIFIES, "outcome" => outcome).absolute(0);
    }
    for change in LEASE_CHANGE_WORDS {
        counter!(LEASE_CHANGES, "change" => change).absolute(0);
    }
    counter!(LEASE_FAILURES).absolute(0);
    for outcome in RELOAD_WORDS {
        counter!(POLICY_RELOADS, "outcome" => outcome).absolute(0);
    }
    for (level, results) in AUDIT_LEVELS {
        for result in results {
            counter!(AUDITS, "level" => level.as_str(), "result" => result.as_str()).absolute(0);
        }
    }
    counter!(AUDIT_REQUESTS).absolute(0);
    gauge!(AUDIT_PASS).set(0.0);
    for kind in RequestKind::ALL {
        gauge!(IN_FLIGHT, "kind" => kind.as_str()).set(0.0);
    }
    counter!(TRIMMED).absolute(0);
    counter!(TRIMMED_BYTES).absolute(0);
    counter!(DELETED).absolute(0);
}

pub(crate) fn snapshot_requested(cause: SnapshotCause) {
    counter!(REQUESTED, "cause" => cause.as_str()).increment(1);
}

pub(crate) fn snapshot_outcome(outcome: &'static str) {
    debug_assert!(OUTCOME_WORDS.contains(&outcome), "outcomes are a closed list");
    counter!(OUTCOMES, "outcome" => outcome).increment(1);
}

pub(crate) fn declined(reason: DeclineReason) {
    counter!(DECLINES, "reason" => crate::wire::decline_word(reason)).increment(1);
}

pub(crate) fn trimmed(records: u64, bytes: u64) {
    counter!(TRIMS, "outcome" => "trimmed").increment(1);
    counter!(TRIMMED).increment(records);
    counter!(TRIMMED_BYTES).increment(bytes);
}

pub(crate) fn trim_failed() {
    counter!(TRIMS, "outcome" => "failed").increment(1);
}

pub(crate) fn hold_began(reason: HoldReason) {
    counter!(HOLDS, "reason" => reason.as_str()).increment(1);
}

pub(crate) fn poll(ok: bool, took: Duration) {
    counter!(POLLS, "outcome" => if ok { "answered" } else { "failed" }).increment(1);
    histogram!(POLL_SECONDS, "of" => "worker").record(took.as_secs_f64());
}

pub(crate) fn log_poll(took: Duration) {
    histogram!(POLL_SECONDS, "of" => "log").record(took.as_secs_f64());
}

pub(crate) fn view_age(part: &'static str, age: Option<Duration>) {
    if let Some(age) = age {
        gauge!(VIEW_AGE, "part" => part).set(age.as_secs_f64());
    }
}

pub(crate) fn verified(outcome: &'static str) {
    counter!(VERIFIES, "outcome" => outcome).increment(1);
}

pub(crate) fn anomaly(kind: AnomalyKind) {
    counter!(ANOMALIES, "kind" => kind.as_str()).increment(1);
}

pub(crate) fn audited(level: VerifyLevel, result: AuditResult) {
    counter!(AUDITS, "level" => level.as_str(), "result" => result.as_str()).increment(1);
}

pub(crate) fn audit_requests(count: u32) {
    counter!(AUDIT_REQUESTS).increment(u64::from(count));
}

pub(crate) fn audit_passed(took: Duration) {
    gauge!(AUDIT_PASS).set(took.as_secs_f64());
}

/// Exports how current the audit is, and how many partitions are held for damage.
pub(crate) fn audit(oldest_look: Duration, damaged: usize) {
    gauge!(AUDIT_AGE_MAX).set(oldest_look.as_secs_f64());
    gauge!(DAMAGED).set(damaged as f64);
}

pub(crate) fn lead(ok: bool) {
    counter!(LEADS, "outcome" => if ok { "answered" } else { "failed" }).increment(1);
}

pub(crate) fn pruned(bytes: u64) {
    counter!(DELETED).increment(bytes);
}

pub(crate) fn ticked(took: Duration) {
    histogram!(TICK_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn nodes(liveness: Liveness, count: usize) {
    gauge!(NODES, "liveness" => liveness.as_str()).set(count as f64);
}

pub(crate) fn lease(code: LeaseCode, epoch: LeaseEpoch) {
    let is = |is: bool| if is { 1.0 } else { 0.0 };
    gauge!(ACTIVE).set(is(code.acts()));
    for state in LeaseCode::ALL {
        gauge!(LEASE_STATE, "state" => state.as_str()).set(is(*state == code));
    }
    gauge!(LEASE_EPOCH).set(epoch.get() as f64);
}

pub(crate) fn lease_changed(change: &'static str) {
    debug_assert!(LEASE_CHANGE_WORDS.contains(&change), "changes are a closed list");
    counter!(LEASE_CHANGES, "change" => change).increment(1);
}

pub(crate) fn lease_failed() {
    counter!(LEASE_FAILURES).increment(1);
}

pub(crate) fn policy_reloaded(outcome: &'static str) {
    debug_assert!(RELOAD_WORDS.contains(&outcome), "outcomes are a closed list");
    counter!(POLICY_RELOADS, "outcome" => outcome).increment(1);
}

pub(crate) fn pauses(count: usize) {
    gauge!(PAUSED).set(count as f64);
}

#[cfg(test)]
mod tests;
