//! Between the agent's values and the messages of `tidemark.v1.WorkerService`. Nothing is decided here.

use super::{
    export_job::{CreateSnapshot, ExportEvent, PublishedExport},
    repair::SkipOrder,
    verify::VerifyReport,
};
use crate::core::{
    Decline, FinishedRestore, PartitionState, PoisonRecord, RebuildCounts, RebuildPlan, RebuildReason,
    RebuildSource, ReplicaStatus, RestoreKind, RestorePhase, RunningRestore,
};
use bytes::Bytes;
use snapshot_proto::v1;
use snapshot_store::{
    Incarnation, Leadership, Lsn, NodeId, PartitionId, RecordHash, ReplicaRole, RequestId, SnapshotId,
    format::{ChainPoint, VerifyLevel},
};
use std::{str::FromStr, time::Duration};

/// A field of a request that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {detail}")]
pub(super) struct InvalidField {
    pub(super) field: &'static str,
    detail: String,
}

fn parse<T: FromStr<Err = String>>(field: &'static str, text: &str) -> Result<T, InvalidField> {
    text.parse().map_err(|detail| InvalidField { field, detail })
}

/// Reads a request; one without an id gets `fresh`.
pub(super) fn create_snapshot(
    request: v1::CreateSnapshotRequest,
    fresh: RequestId,
) -> Result<CreateSnapshot, InvalidField> {
    let distrusted: Result<_, _> = request
        .distrusted
        .iter()
        .map(|id| parse("distrusted", id))
        .collect();
    Ok(CreateSnapshot {
        partition: PartitionId::new(request.partition),
        min_lsn: Lsn::new(request.min_lsn),
        request_id: match request.request_id.as_str() {
            "" => fresh,
            id => parse("request_id", id)?,
        },
        distrusted: distrusted?,
        restorable_snapshots_min: Some(request.restorable_snapshots_min).filter(|min| *min > 0),
    })
}

pub(super) fn request_id(text: &str) -> Result<RequestId, InvalidField> {
    parse("request_id", text)
}

pub(super) fn snapshot_id(text: &str) -> Result<SnapshotId, InvalidField> {
    parse("snapshot_id", text)
}

/// Reads a level; left out it is the default, `content`.
pub(super) fn verify_level(level: i32) -> Result<VerifyLevel, InvalidField> {
    match v1::VerifyLevel::try_from(level) {
        Ok(v1::VerifyLevel::Presence) => Ok(VerifyLevel::Presence),
        Ok(v1::VerifyLevel::Content | v1::VerifyLevel::Unspecified) => Ok(VerifyLevel::Content),
        Ok(v1::VerifyLevel::Restore) => Ok(VerifyLevel::Restore),
        Err(_) => Err(InvalidField {
            field: "level",
            detail: format!("{level} is not a level this version knows: update this node"),
        }),
    }
}

const fn level(level: VerifyLevel) -> v1::VerifyLevel {
    match level {
        VerifyLevel::Presence => v1::VerifyLevel::Presence,
        VerifyLevel::Content => v1::VerifyLevel::Content,
        VerifyLevel::Restore => v1::VerifyLevel::Restore,
    }
}

const fn role(role: ReplicaRole) -> v1::ReplicaRole {
    match role {
        ReplicaRole::Leader => v1::ReplicaRole::Leader,
        ReplicaRole::Follower => v1::ReplicaRole::Follower,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn texts(ids: &[SnapshotId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn incarnation(incarnation: Incarnation) -> v1::Incarnation {
    v1::Incarnation {
        generation: incarnation.generation,
        id: Bytes::copy_from_slice(incarnation.id.as_bytes()),
    }
}

fn leadership((leader, address): (Leadership, String)) -> v1::Leadership {
    v1::Leadership {
        epoch: leader.epoch.get(),
        node: leader.node.to_string(),
        address,
    }
}

fn chain_point(point: &ChainPoint) -> v1::ChainPoint {
    v1::ChainPoint {
        lsn: point.lsn.get(),
        hash: Bytes::copy_from_slice(point.hash.as_bytes()),
    }
}

/// Returns state, reason and detail.
fn state(state: PartitionState) -> (v1::PartitionState, String, String) {
    let plain = |state| (state, String::new(), String::new());
    match state {
        PartitionState::Opening => plain(v1::PartitionState::Opening),
        PartitionState::Restoring => plain(v1::PartitionState::Restoring),
        PartitionState::CatchingUp => plain(v1::PartitionState::CatchingUp),
        PartitionState::Active => plain(v1::PartitionState::Active),
        PartitionState::Blocked { reason, detail } => (
            v1::PartitionState::Blocked,
            reason.as_str().to_owned(),
            match detail.as_str() {
                "" => reason.remedy().to_owned(),
                detail => format!("{detail}: {}", reason.remedy()),
            },
        ),
    }
}

fn finished_restore(restore: FinishedRestore) -> v1::FinishedRestore {
    let kind = match restore.kind {
        RestoreKind::Bootstrap => v1::RestoreKind::Bootstrap,
        RestoreKind::TrimGap => v1::RestoreKind::TrimGap,
        RestoreKind::Rebuild => v1::RestoreKind::Rebuild,
    };
    v1::FinishedRestore {
        kind: kind.into(),
        snapshot_id: restore.snapshot_id.to_string(),
        lsn: restore.lsn.get(),
        bytes: restore.bytes,
        duration_ms: millis(restore.duration),
        damaged: texts(&restore.damaged),
        bytes_downloaded: restore.bytes_downloaded,
        bytes_linked: restore.bytes_linked,
        bytes_resumed: restore.bytes_resumed,
    }
}

fn running_restore(restore: RunningRestore) -> v1::RunningRestore {
    let phase = match restore.phase {
        RestorePhase::Queued => v1::RestorePhase::Queued,
        RestorePhase::Choosing => v1::RestorePhase::Choosing,
        RestorePhase::Reusing => v1::RestorePhase::Reusing,
        RestorePhase::Downloading => v1::RestorePhase::Downloading,
        RestorePhase::Checking => v1::RestorePhase::Checking,
        RestorePhase::Installing => v1::RestorePhase::Installing,
    };
    v1::RunningRestore {
        snapshot_id: restore.snapshot.map(|(id, _)| id.to_string()).unwrap_or_default(),
        lsn: restore.snapshot.map(|(_, lsn)| lsn.get()).unwrap_or_default(),
        bytes_done: restore.bytes_done(),
        bytes_total: restore.bytes_total,
        phase: phase.into(),
        bytes_downloaded: restore.bytes_downloaded,
        bytes_linked: restore.bytes_linked,
        bytes_resumed: restore.bytes_resumed,
        files_done: restore.files_done,
        files_total: restore.files_total,
        bytes_per_second: restore.estimate.bytes_per_second,
        remaining_ms: restore.estimate.remaining.map(millis),
    }
}

pub(super) fn replica_status(status: ReplicaStatus) -> v1::ReplicaStatus {
    let (state, blocked_reason, blocked_detail) = state(status.state);
    v1::ReplicaStatus {
        partition: status.partition.get(),
        state: state.into(),
        blocked_reason,
        blocked_detail,
        role: role(status.role).into(),
        leader: status.leader.map(leadership),
        incarnation: status.incarnation.map(incarnation),
        applied_lsn: status.applied_lsn.map(Lsn::get),
        durable_lsn: status.durable_lsn.map(Lsn::get),
        needed_lsn: status.needed.map(|(lsn, _)| lsn.get()),
        log_bytes: status.log_bytes,
        needed_log_bytes: status.needed.map(|(_, bytes)| bytes),
        archived: status.archived.map(|archived| v1::ArchivedSnapshot {
            snapshot_id: archived.snapshot_id.to_string(),
            lsn: archived.lsn.get(),
            log_bytes: archived.log_bytes,
        }),
        chain: status.chain.0.iter().map(chain_point).collect(),
        state_machine: Some(v1::StateMachineVersion {
            name: status.state_machine.name,
            version: status.state_machine.version,
        }),
        export: status.export.map(|export| v1::RunningExport {
            request_id: export.request_id.to_string(),
            snapshot_id: export.snapshot_id.to_string(),
            lsn: export.lsn.get(),
            bytes_done: export.bytes_done,
            bytes_total: export.bytes_total,
            ahead: export.ahead,
        }),
        restore: status.restore.map(running_restore),
        last_restore: status.last_restore.map(finished_restore),
        damaged_snapshots: texts(&status.damaged),
        tail_seen: status.tail_seen.map(Lsn::get),
        rebuilds: rebuild_counts(status.rebuilds),
    }
}

fn rebuild_counts(counts: RebuildCounts) -> Vec<v1::RebuildCount> {
    let each = RebuildReason::ALL.iter().map(|reason| v1::RebuildCount {
        reason: reason.as_str().to_owned(),
        count: counts.of(*reason),
    });
    each.filter(|entry| entry.count > 0).collect()
}

/// Reads the hash of a record; `None` when it was left out.
pub(super) fn record_hash(bytes: &[u8]) -> Result<Option<RecordHash>, InvalidField> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let hash = RecordHash::from_slice(bytes).ok_or_else(|| InvalidField {
        field: "record_hash",
        detail: format!("{} bytes are no hash of 32 bytes", bytes.len()),
    })?;
    Ok(Some(hash))
}

/// Reads an order to skip a record.
pub(super) fn skip_order(request: v1::SkipRecordRequest) -> Result<SkipOrder, InvalidField> {
    let hash = record_hash(&request.record_hash)?.ok_or_else(|| InvalidField {
        field: "record_hash",
        detail: "name the record: a dry run shows its hash".to_owned(),
    })?;
    let order = SkipOrder {
        lsn: Lsn::new(request.lsn),
        hash,
        reason: request.reason,
    };
    match order.fault() {
        None => Ok(order),
        Some(detail) => Err(InvalidField {
            field: "reason",
            detail,
        }),
    }
}

pub(super) fn poison_record(record: PoisonRecord) -> v1::PoisonRecord {
    v1::PoisonRecord {
        lsn: record.lsn.get(),
        bytes: record.bytes,
        record_hash: Bytes::copy_from_slice(record.hash.as_bytes()),
        author: record.author.map(|author| leadership((author, String::new()))),
        detail: record.detail,
    }
}

pub(super) fn rebuild_reply(plan: &RebuildPlan) -> v1::RebuildPartitionReply {
    v1::RebuildPartitionReply {
        applied_lsn: plan.applied_lsn.map(Lsn::get),
        snapshot: match plan.source {
            RebuildSource::Replay => None,
            RebuildSource::Snapshot { snapshot_id, lsn } => Some(v1::RebuildSnapshot {
                snapshot_id: snapshot_id.to_string(),
                lsn: lsn.get(),
            }),
        },
    }
}

pub(super) fn export_event(event: ExportEvent) -> v1::CreateSnapshotEvent {
    use v1::create_snapshot_event::Event;
    let event = match event {
        ExportEvent::Queued { ahead } => Event::Queued(v1::SnapshotQueued { ahead }),
        ExportEvent::Accepted { snapshot_id, lsn } => Event::Accepted(v1::SnapshotAccepted {
            snapshot_id: snapshot_id.to_string(),
            lsn: lsn.get(),
        }),
        ExportEvent::Progress {
            bytes_done,
            bytes_total,
        } => Event::Progress(v1::SnapshotProgress {
            bytes_done,
            bytes_total,
        }),
        ExportEvent::Published(published) => Event::Published(snapshot_published(published)),
        ExportEvent::Declined(decline) => Event::Declined(snapshot_declined(&decline)),
        ExportEvent::Failed { reason, message } => Event::Failed(v1::SnapshotFailed {
            reason: reason.as_str().to_owned(),
            message,
        }),
    };
    v1::CreateSnapshotEvent { event: Some(event) }
}

fn snapshot_published(published: PublishedExport) -> v1::SnapshotPublished {
    v1::SnapshotPublished {
        snapshot_id: published.snapshot_id.to_string(),
        lsn: published.lsn.get(),
        bytes_total: published.bytes_total,
        bytes_uploaded: published.bytes_uploaded,
        bytes_copied: published.bytes_copied,
        duration_ms: millis(published.duration),
        role: role(published.role).into(),
    }
}

fn snapshot_declined(decline: &Decline) -> v1::SnapshotDeclined {
    use v1::DeclineReason as Reason;
    let (reason, applied, min, archived) = match decline {
        Decline::UnknownPartition { .. } => (Reason::UnknownPartition, None, None, None),
        Decline::Behind { applied, min_lsn, .. } => (Reason::Behind, *applied, Some(*min_lsn), None),
        Decline::Running { .. } => (Reason::Running, None, None, None),
        Decline::NotActive { applied, .. } => (Reason::NotActive, *applied, None, None),
        Decline::Covered {
            applied, archived, ..
        } => (Reason::Covered, Some(*applied), None, Some(*archived)),
        Decline::Busy { .. } => (Reason::Busy, None, None, None),
        Decline::Stopping { .. } => (Reason::Stopping, None, None, None),
    };
    v1::SnapshotDeclined {
        reason: reason.into(),
        message: decline.to_string(),
        applied_lsn: applied.map(Lsn::get),
        min_lsn: min.map(Lsn::get),
        archived_lsn: archived.map(Lsn::get),
    }
}

pub(super) fn verify_reply(report: VerifyReport, node: &NodeId) -> v1::VerifySnapshotReply {
    v1::VerifySnapshotReply {
        ok: report.ok(),
        level: level(report.level).into(),
        bytes_read: report.bytes_read,
        duration_ms: millis(report.duration),
        node: node.to_string(),
        anomalies: report
            .anomalies
            .into_iter()
            .map(|anomaly| v1::SnapshotAnomaly {
                kind: anomaly.kind.as_str().to_owned(),
                key: anomaly.key,
                message: format!("{}: {}", anomaly.detail, anomaly.kind.remedy()),
            })
            .collect(),
    }
}
