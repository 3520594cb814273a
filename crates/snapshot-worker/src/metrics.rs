//! Metrics of the worker side: names, help texts and the words of their labels, in one place.
//!
//! Nothing else in the crate names a metric. [`describe`] is called once by the binary; without a recorder all of
//! this costs next to nothing.

use crate::{
    core::{
        BlockedReason, Decline, Outcome, PartitionState, RebuildReason, ReplicaStatus, RestoreKind,
        RunningRestore,
    },
    processor::ProposeError,
};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use partition_log::AppendError;
use snapshot_store::{Anomaly, AnomalyKind, Lsn, PartitionId, format::VerifyLevel};
use std::time::Duration;

mod labels;

pub use labels::LABELS;

const SNAPSHOTS: &str = "tidemark_worker_snapshots_total";
const DECLINES: &str = "tidemark_worker_declines_total";
const AUTONOMOUS: &str = "tidemark_worker_autonomous";
const AUTONOMOUS_SNAPSHOTS: &str = "tidemark_worker_autonomous_snapshots_total";
const EXPORTS_RUNNING: &str = "tidemark_worker_exports_running";
const EXPORTS_QUEUED: &str = "tidemark_worker_exports_queued";
const EXPORT_DURATION: &str = "tidemark_worker_export_duration_seconds";
const UPLOADED: &str = "tidemark_worker_uploaded_bytes_total";
const COPIED: &str = "tidemark_worker_copied_bytes_total";
const RESTORES: &str = "tidemark_worker_restores_total";
const RESTORE_DURATION: &str = "tidemark_worker_restore_duration_seconds";
const RESTORE_FALLBACKS: &str = "tidemark_worker_restore_fallbacks_total";
const RESTORES_RUNNING: &str = "tidemark_worker_restores_running";
const RESTORES_QUEUED: &str = "tidemark_worker_restores_queued";
const RESTORE_BYTES_LEFT: &str = "tidemark_worker_restore_left_bytes";
const RESTORE_FILES_LEFT: &str = "tidemark_worker_restore_left_files";
const RESTORE_TIME_LEFT: &str = "tidemark_worker_restore_left_seconds";
const DOWNLOADED: &str = "tidemark_worker_downloaded_bytes_total";
const REUSED: &str = "tidemark_worker_reused_bytes_total";
const VERIFICATIONS: &str = "tidemark_worker_verifications_total";
const ANOMALIES: &str = "tidemark_worker_anomalies_total";

/// How an attempt to make a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportOutcome {
    Published,
    Declined,
    Failed,
    Cancelled,
}

impl ExportOutcome {
    const ALL: &[ExportOutcome] = &[
        ExportOutcome::Published,
        ExportOutcome::Declined,
        ExportOutcome::Failed,
        ExportOutcome::Cancelled,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            ExportOutcome::Published => "published",
            ExportOutcome::Declined => "declined",
            ExportOutcome::Failed => "failed",
            ExportOutcome::Cancelled => "cancelled",
        }
    }
}

/// How a restore ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestoreResult {
    Restored,
    NothingUsable,
    Unfit,
    StoreUnavailable,
    StoreUnusable,
    Local,
}

impl RestoreResult {
    const ALL: &[RestoreResult] = &[
        RestoreResult::Restored,
        RestoreResult::NothingUsable,
        RestoreResult::Unfit,
        RestoreResult::StoreUnavailable,
        RestoreResult::StoreUnusable,
        RestoreResult::Local,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            RestoreResult::Restored => "restored",
            RestoreResult::NothingUsable => "nothing-usable",
            RestoreResult::Unfit => "unfit",
            RestoreResult::StoreUnavailable => "store-unavailable",
            RestoreResult::StoreUnusable => "store-unusable",
            RestoreResult::Local => "local",
        }
    }
}

/// Where a restore took a file from instead of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReuseSource {
    Staging,
    Local,
}

impl ReuseSource {
    const ALL: &[ReuseSource] = &[ReuseSource::Staging, ReuseSource::Local];

    const fn as_str(self) -> &'static str {
        match self {
            ReuseSource::Staging => "staging",
            ReuseSource::Local => "local",
        }
    }
}

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerifyOutcome {
    Ok,
    Damaged,
    Failed,
}

impl VerifyOutcome {
    const ALL: &[VerifyOutcome] = &[VerifyOutcome::Ok, VerifyOutcome::Damaged, VerifyOutcome::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            VerifyOutcome::Ok => "ok",
            VerifyOutcome::Damaged => "damaged",
            VerifyOutcome::Failed => "failed",
        }
    }
}

/// Registers help texts and units of all metrics of this crate, and starts counters with labels at zero, so that a
/// rate over them is right from the first event on. Call it once, after the recorder was installed.
pub fn describe() {
    describe_agent();
    zero_agent();
    describe_processor();
}

fn describe_agent() {
    let count = Unit::Count;
    describe_counter!(SNAPSHOTS, count, "Requests for a snapshot by how they ended");
    describe_counter!(
        DECLINES,
        count,
        "Requests for a snapshot that were declined, by reason"
    );
    describe_gauge!(
        AUTONOMOUS,
        count,
        "1 while no admin polls and leaders make snapshots of their own accord"
    );
    describe_counter!(AUTONOMOUS_SNAPSHOTS, count, "Snapshots begun without an admin");
    describe_gauge!(EXPORTS_RUNNING, count, "Snapshots being made");
    describe_gauge!(
        EXPORTS_QUEUED,
        count,
        "Snapshots that wait because as many are made as may be"
    );
    describe_histogram!(
        EXPORT_DURATION,
        Unit::Seconds,
        "Time from acceptance to publication of a snapshot"
    );
    describe_counter!(
        UPLOADED,
        Unit::Bytes,
        "Bytes of snapshot files sent to the object store"
    );
    describe_counter!(
        COPIED,
        Unit::Bytes,
        "Bytes of snapshot files copied inside the object store instead of being sent"
    );
    describe_counter!(
        RESTORES,
        count,
        "Restores by why they were needed and how they ended"
    );
    describe_histogram!(
        RESTORE_DURATION,
        Unit::Seconds,
        "Time from choosing a snapshot to having it open"
    );
    describe_counter!(
        RESTORE_FALLBACKS,
        count,
        "Damaged snapshots that a restore passed over"
    );
    describe_gauge!(RESTORES_RUNNING, count, "Restores under way");
    describe_gauge!(
        RESTORES_QUEUED,
        count,
        "Restores that wait because as many run as may"
    );
    describe_gauge!(
        RESTORE_BYTES_LEFT,
        Unit::Bytes,
        "Bytes that the restore of a partition still has to bring, by partition; 0 when none runs"
    );
    describe_gauge!(
        RESTORE_FILES_LEFT,
        count,
        "Files that the restore of a partition still has to bring, by partition; 0 when none runs"
    );
    describe_gauge!(
        RESTORE_TIME_LEFT,
        Unit::Seconds,
        "Time that reading from the object store still takes at the average rate so far, by partition; 0 when no restore runs or no rate is known"
    );
    describe_counter!(
        DOWNLOADED,
        Unit::Bytes,
        "Bytes of snapshot files read from the object store"
    );
    describe_counter!(
        REUSED,
        Unit::Bytes,
        "Bytes of snapshot files that restores took from the local disk instead, by where they lay"
    );
    describe_counter!(
        VERIFICATIONS,
        count,
        "Verifications of published snapshots by level and outcome"
    );
    describe_counter!(
        ANOMALIES,
        count,
        "Damage found in published snapshots by verifications and restores, by kind"
    );
}

fn zero_agent() {
    for outcome in ExportOutcome::ALL {
        counter!(SNAPSHOTS, "outcome" => outcome.as_str()).absolute(0);
    }
    for reason in Decline::REASONS {
        counter!(DECLINES, "reason" => *reason).absolute(0);
    }
    for kind in RestoreKind::ALL {
        for result in RestoreResult::ALL {
            counter!(RESTORES, "kind" => kind.as_str(), "outcome" => result.as_str()).absolute(0);
        }
    }
    for level in [VerifyLevel::Presence, VerifyLevel::Content, VerifyLevel::Restore] {
        for outcome in VerifyOutcome::ALL {
            counter!(VERIFICATIONS, "level" => level.as_str(), "outcome" => outcome.as_str()).absolute(0);
        }
    }
    for kind in AnomalyKind::ALL {
        counter!(ANOMALIES, "kind" => kind.as_str()).absolute(0);
    }
    counter!(AUTONOMOUS_SNAPSHOTS).absolute(0);
    counter!(UPLOADED).absolute(0);
    counter!(COPIED).absolute(0);
    counter!(DOWNLOADED).absolute(0);
    for source in ReuseSource::ALL {
        counter!(REUSED, "source" => source.as_str()).absolute(0);
    }
    gauge!(RESTORES_RUNNING).set(0.0);
    gauge!(RESTORES_QUEUED).set(0.0);
    counter!(RESTORE_FALLBACKS).absolute(0);
    gauge!(EXPORTS_RUNNING).set(0.0);
    gauge!(EXPORTS_QUEUED).set(0.0);
}

pub(crate) fn export_ended(outcome: ExportOutcome) {
    counter!(SNAPSHOTS, "outcome" => outcome.as_str()).increment(1);
}

pub(crate) fn export_declined(decline: &Decline) {
    export_ended(ExportOutcome::Declined);
    counter!(DECLINES, "reason" => decline.reason()).increment(1);
}

pub(crate) fn autonomous(is: bool) {
    gauge!(AUTONOMOUS).set(f64::from(u8::from(is)));
}

pub(crate) fn autonomous_snapshot() {
    counter!(AUTONOMOUS_SNAPSHOTS).increment(1);
}

pub(crate) fn export_published(duration: Duration) {
    export_ended(ExportOutcome::Published);
    histogram!(EXPORT_DURATION).record(duration);
}

/// Counts an export as running or waiting until it is dropped; several agents may share one process.
#[must_use]
pub(crate) struct ExportGauge(&'static str);

pub(crate) fn export_began() -> ExportGauge {
    ExportGauge::new(EXPORTS_RUNNING)
}

pub(crate) fn export_queued() -> ExportGauge {
    ExportGauge::new(EXPORTS_QUEUED)
}

impl ExportGauge {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        ExportGauge(name)
    }
}

impl Drop for ExportGauge {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

pub(crate) fn uploaded(bytes: u64) {
    counter!(UPLOADED).increment(bytes);
}

pub(crate) fn copied(bytes: u64) {
    counter!(COPIED).increment(bytes);
}

pub(crate) fn restore_ended(kind: RestoreKind, result: RestoreResult) {
    counter!(RESTORES, "kind" => kind.as_str(), "outcome" => result.as_str()).increment(1);
}

pub(crate) fn restore_queued() {
    gauge!(RESTORES_QUEUED).increment(1.0);
}

/// A restore that waited begins.
pub(crate) fn restore_began() {
    gauge!(RESTORES_QUEUED).decrement(1.0);
    gauge!(RESTORES_RUNNING).increment(1.0);
}

/// A restore is over, or gave up while it was `queued`.
pub(crate) fn restore_left(partition: PartitionId, queued: bool) {
    gauge!(if queued { RESTORES_QUEUED } else { RESTORES_RUNNING }).decrement(1.0);
    restore_moved(partition, &RunningRestore::default());
}

/// Shows how far a restore is.
pub(crate) fn restore_moved(partition: PartitionId, running: &RunningRestore) {
    if partition.get() >= SERIES_PARTITIONS_MAX {
        return;
    }
    let partition = partition.to_string();
    let files = running.files_total.saturating_sub(running.files_done);
    let time = running.estimate.remaining.unwrap_or_default();
    gauge!(RESTORE_BYTES_LEFT, "partition" => partition.clone()).set(running.bytes_left() as f64);
    gauge!(RESTORE_FILES_LEFT, "partition" => partition.clone()).set(files as f64);
    gauge!(RESTORE_TIME_LEFT, "partition" => partition).set(time.as_secs_f64());
}

pub(crate) fn reused(source: ReuseSource, bytes: u64) {
    counter!(REUSED, "source" => source.as_str()).increment(bytes);
}

pub(crate) fn restore_took(duration: Duration) {
    histogram!(RESTORE_DURATION).record(duration);
}

pub(crate) fn restore_fell_back() {
    counter!(RESTORE_FALLBACKS).increment(1);
}

pub(crate) fn anomalies(found: &[Anomaly]) {
    for anomaly in found {
        counter!(ANOMALIES, "kind" => anomaly.kind.as_str()).increment(1);
    }
}

pub(crate) fn downloaded(bytes: u64) {
    counter!(DOWNLOADED).increment(bytes);
}

pub(crate) fn verified(level: VerifyLevel, outcome: VerifyOutcome) {
    counter!(VERIFICATIONS, "level" => level.as_str(), "outcome" => outcome.as_str()).increment(1);
}

const RECORDS_APPLIED: &str = "tidemark_worker_records_applied_total";
const APPLIED_LSN: &str = "tidemark_worker_applied_lsn";
const DURABLE_LSN: &str = "tidemark_worker_durable_lsn";
const APPLY_LAG: &str = "tidemark_worker_apply_lag_records";
const BLOCKED: &str = "tidemark_worker_partition_blocked";
const BLOCKED_TOTAL: &str = "tidemark_worker_blocked_total";
const REBUILDS: &str = "tidemark_worker_rebuilds_total";
const PROPOSALS: &str = "tidemark_worker_proposals_total";
const APPENDS: &str = "tidemark_worker_appends_total";
const FLUSHES: &str = "tidemark_worker_flushes_total";

/// Partitions from this number on have no series of their own.
const SERIES_PARTITIONS_MAX: u32 = 1000;

fn describe_processor() {
    let count = Unit::Count;
    describe_counter!(
        RECORDS_APPLIED,
        count,
        "Log records applied, by what became of them"
    );
    describe_gauge!(APPLIED_LSN, count, "Highest LSN applied, by partition");
    describe_gauge!(DURABLE_LSN, count, "Highest LSN flushed to disk, by partition");
    describe_gauge!(
        APPLY_LAG,
        count,
        "Records between the tail seen last and the applied LSN, by partition"
    );
    describe_gauge!(
        BLOCKED,
        count,
        "1 while the partition cannot go on by itself, by partition"
    );
    describe_counter!(
        BLOCKED_TOTAL,
        count,
        "How often a partition became blocked, by reason"
    );
    describe_counter!(REBUILDS, count, "Local states set aside and replaced, by reason");
    describe_counter!(PROPOSALS, count, "Proposals by how they ended");
    describe_counter!(APPENDS, count, "Appends to the log by outcome");
    describe_counter!(FLUSHES, count, "Flushes of a partition's state to disk");
    for outcome in Outcome::ALL {
        counter!(RECORDS_APPLIED, "outcome" => outcome.as_str()).absolute(0);
    }
    for reason in BlockedReason::ALL {
        counter!(BLOCKED_TOTAL, "reason" => reason.as_str()).absolute(0);
    }
    for reason in RebuildReason::ALL {
        counter!(REBUILDS, "reason" => reason.as_str()).absolute(0);
    }
    counter!(FLUSHES).absolute(0);
}

pub(crate) fn records_applied(outcome: Outcome, count: u64) {
    counter!(RECORDS_APPLIED, "outcome" => outcome.as_str()).increment(count);
}

/// Shows where a replica is.
pub(crate) fn replica_moved(status: &ReplicaStatus) {
    if status.partition.get() >= SERIES_PARTITIONS_MAX {
        return;
    }
    let partition = status.partition.to_string();
    let position = |lsn: Option<Lsn>| lsn.unwrap_or_default();
    let applied = position(status.applied_lsn);
    let lag = position(status.tail_seen).prev().records_since(applied);
    let blocked = matches!(status.state, PartitionState::Blocked { .. });
    gauge!(APPLIED_LSN, "partition" => partition.clone()).set(applied.get() as f64);
    gauge!(DURABLE_LSN, "partition" => partition.clone()).set(position(status.durable_lsn).get() as f64);
    gauge!(APPLY_LAG, "partition" => partition.clone()).set(lag as f64);
    gauge!(BLOCKED, "partition" => partition).set(f64::from(u8::from(blocked)));
}

pub(crate) fn became_blocked(reason: BlockedReason) {
    counter!(BLOCKED_TOTAL, "reason" => reason.as_str()).increment(1);
}

pub(crate) fn rebuild_began(reason: RebuildReason) {
    counter!(REBUILDS, "reason" => reason.as_str()).increment(1);
}

pub(crate) fn proposed(error: Option<&ProposeError>) {
    counter!(PROPOSALS, "outcome" => error.map_or("accepted", ProposeError::as_str)).increment(1);
}

pub(crate) fn appended(error: Option<&AppendError>) {
    let outcome = match error {
        None => "landed",
        Some(AppendError::TailMismatch { .. }) => "tail-mismatch",
        Some(AppendError::Unknown { .. }) => "unknown",
        Some(AppendError::Unavailable { .. }) => "unavailable",
        Some(AppendError::TooLarge { .. } | AppendError::Sealed | AppendError::Log(_)) => "refused",
    };
    counter!(APPENDS, "outcome" => outcome).increment(1);
}

pub(crate) fn flushed() {
    counter!(FLUSHES).increment(1);
}
