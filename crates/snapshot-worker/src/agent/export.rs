//! Making and publishing a snapshot.
//!
//! 1. Decide (pure, `core::decline`), under the lock that counts exports. When as many run as may, wait for a turn
//!    (`queue`) and decide again. Read the pointer; accept.
//! 2. Checkpoint into `staging/exports/<snapshot_id>`. A crash leaves the folder; the next start removes it.
//! 3. Have the host open the checkpoint and read it through: all facts come from there, not from memory.
//! 4. Publish: upload, then swap the pointer (`Repository::publish`, which says what a crash leaves there).
//! 5. Remove the folder, remember the archived LSN. A crash in between loses a hint, which the next one renews.
//!
//! Each attempt draws its own snapshot id, so that a repetition never meets the remains of the one before. An
//! export is a task of its own; callers only watch it. Whatever ends it, also a panic of the host, frees its place.

use super::{
    export_job::{CreateSnapshot, ExportEvent, ExportFailure, ExportJob, Place, PublishedExport, chain},
    host::{CheckpointFacts, HostError, PartitionHost},
    queue::ExportCounts,
    snapshot_agent::Shared,
    staging::{StagingFolder, StagingKind},
};
use crate::{
    core::{
        ArchivedSnapshot, Coverage, Decline, ExportFacts, ReplicaStatus, check_owner, coverage, decide_export,
    },
    failpoint,
    metrics::{self, ExportOutcome},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use snapshot_store::{
    Incarnation, Lsn, PartitionId, PublishError, Published, ReplicaRole, SnapshotId, SnapshotUpload,
    StoreError, format::Producer,
};
use std::{
    error::Error,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};
use tokio::time::Instant;

/// Decides about `request` and, if it is taken on, starts the task. Returns the events for the caller.
pub(super) fn begin(shared: &Arc<Shared>, request: CreateSnapshot) -> BoxStream<'static, ExportEvent> {
    match admit(shared, &request) {
        Admission::Join(job) => job.events(),
        Admission::Answer(event) => stream::iter([event]).boxed(),
        Admission::Decline(decline) => {
            metrics::export_declined(&decline);
            tracing::debug!(partition = %request.partition, request_id = %request.request_id, %decline, "snapshot declined");
            stream::iter([ExportEvent::Declined(decline)]).boxed()
        }
        Admission::Start {
            job,
            host,
            incarnation,
        } => {
            let events = job.events();
            let place = Place {
                shared: Arc::clone(shared),
                partition: request.partition,
                job,
            };
            shared.tasks.spawn(run(place, host, incarnation, request));
            events
        }
    }
}

/// What becomes of a request.
enum Admission {
    Join(Arc<ExportJob>),
    Answer(ExportEvent),
    Decline(Decline),
    Start {
        job: Arc<ExportJob>,
        host: Arc<dyn PartitionHost>,
        incarnation: Option<Incarnation>,
    },
}

fn admit(shared: &Shared, request: &CreateSnapshot) -> Admission {
    // The host is asked without the lock: it may be about to call the agent.
    let host = shared.host(request.partition);
    let status = host.as_ref().map(|host| host.status());
    let snapshot_id = SnapshotId::new(shared.seams.ulid());

    let mut slots = shared.lock();
    let exports = ExportCounts::of(&slots);
    let slot = slots.get_mut(&request.partition);
    let job = slot.as_ref().and_then(|slot| slot.export.clone());
    if let Some(job) = &job
        && job.request_id == request.request_id
    {
        return Admission::Join(Arc::clone(job));
    }
    if let Some((request_id, published)) = slot.as_ref().and_then(|slot| slot.published.as_ref())
        && *request_id == request.request_id
    {
        return Admission::Answer(ExportEvent::Published(published.clone()));
    }
    let decided = decide_export(&ExportFacts {
        partition: request.partition,
        min_lsn: request.min_lsn,
        replica: status.as_ref().map(|status| (&status.state, status.applied_lsn)),
        running: job.map(|job| job.request_id),
        exports_running: exports.running,
        exports_queued: exports.queued,
        exports_max: shared.config.exports_max.max(1),
        exports_queue_max: shared.config.exports_queue_max,
        stopping: shared.stop.is_cancelled(),
    });
    match (decided, slot, host, status) {
        (Ok(lsn), Some(slot), Some(host), Some(ReplicaStatus { incarnation, .. })) => {
            let cancel = shared.stop.child_token();
            let number = shared.export_numbers.fetch_add(1, Ordering::Relaxed);
            let job = ExportJob::new(request.request_id, snapshot_id, number, lsn, cancel);
            if exports.running >= shared.config.exports_max.max(1) {
                job.queue_behind(exports.queued);
            }
            slot.export = Some(Arc::clone(&job));
            Admission::Start {
                job,
                host,
                incarnation,
            }
        }
        (Err(decline), ..) => Admission::Decline(decline),
        // Detached between the two looks.
        (Ok(_), ..) => Admission::Decline(Decline::UnknownPartition {
            partition: request.partition,
        }),
    }
}

/// How an export that did not publish ended.
enum Unpublished {
    Declined(Decline),
    Failed(ExportFailure, String),
}

impl Unpublished {
    fn failed(reason: ExportFailure, error: &dyn Error) -> Self {
        Unpublished::Failed(reason, chain(error))
    }

    fn store(error: &StoreError) -> Self {
        let reason = if error.is_retryable() {
            ExportFailure::StoreUnavailable
        } else {
            ExportFailure::StoreUnusable
        };
        Unpublished::failed(reason, error)
    }
}

impl From<HostError> for Unpublished {
    fn from(error: HostError) -> Self {
        let reason = match &error {
            full if full.is_full_disk() => ExportFailure::DiskFull,
            HostError::Corrupt(_) => ExportFailure::Corrupt,
            HostError::Mismatch(_) => ExportFailure::Mismatch,
            HostError::Unavailable(_) | HostError::Unsupported => ExportFailure::Unavailable,
            HostError::NoSpace(_) => ExportFailure::DiskFull,
            HostError::Io(_) => ExportFailure::Local,
        };
        Unpublished::failed(reason, &error)
    }
}

/// Waits for the turn of an export that was queued, and decides again, because time has passed: returns the incarnation
/// the replica has now.
async fn wait_turn(
    shared: &Shared,
    job: &ExportJob,
    host: &dyn PartitionHost,
    request: &CreateSnapshot,
) -> Result<Option<Incarnation>, Unpublished> {
    let _waiting = metrics::export_queued();
    tokio::select! {
        () = job.turn() => {}
        () = job.cancel.cancelled() => {}
    }
    ensure_wanted(job)?;
    let status = host.status();
    let decided = decide_export(&ExportFacts {
        partition: request.partition,
        min_lsn: request.min_lsn,
        replica: Some((&status.state, status.applied_lsn)),
        // The place is its own.
        running: None,
        exports_running: 0,
        exports_queued: 0,
        exports_max: 1,
        exports_queue_max: 0,
        stopping: shared.stop.is_cancelled(),
    });
    job.move_up_to(decided.map_err(Unpublished::Declined)?);
    Ok(status.incarnation)
}

async fn run(
    place: Place,
    host: Arc<dyn PartitionHost>,
    incarnation: Option<Incarnation>,
    request: CreateSnapshot,
) {
    let (partition, job) = (place.partition, Arc::clone(&place.job));
    let incarnation = match job.is_queued() {
        false => Ok(incarnation),
        true => wait_turn(&place.shared, &job, &*host, &request).await,
    };
    let began = Instant::now();
    let running = incarnation.is_ok().then(metrics::export_began);
    let result = match incarnation {
        Ok(incarnation) => export(&place.shared, &*host, &job, incarnation, &request).await,
        Err(unpublished) => Err(unpublished),
    };
    drop(running);
    let outcome = match result {
        Ok((published, role)) => {
            let entry = &published.entry;
            let (snapshot_id, lsn) = (entry.snapshot_id, entry.lsn);
            let archived = ArchivedSnapshot {
                snapshot_id,
                lsn,
                log_bytes: entry.log_bytes,
            };
            place
                .shared
                .note_archived(partition, entry.incarnation, archived)
                .await;
            let duration = began.elapsed();
            metrics::export_published(duration);
            tracing::info!(%partition, %snapshot_id, %lsn, request_id = %job.request_id, ?duration, "snapshot published");
            ExportEvent::Published(PublishedExport {
                snapshot_id,
                lsn,
                bytes_total: entry.bytes_total,
                bytes_uploaded: entry.bytes_uploaded,
                bytes_copied: entry.bytes_copied,
                duration,
                role,
            })
        }
        Err(Unpublished::Declined(decline)) => {
            metrics::export_declined(&decline);
            tracing::debug!(%partition, request_id = %job.request_id, %decline, "snapshot declined");
            ExportEvent::Declined(decline)
        }
        Err(Unpublished::Failed(ExportFailure::Cancelled, message)) => {
            metrics::export_ended(ExportOutcome::Cancelled);
            ExportEvent::Failed {
                reason: ExportFailure::Cancelled,
                message,
            }
        }
        Err(Unpublished::Failed(reason, message)) => {
            metrics::export_ended(ExportOutcome::Failed);
            tracing::warn!(%partition, request_id = %job.request_id, reason = reason.as_str(), %message, "snapshot failed");
            ExportEvent::Failed { reason, message }
        }
    };
    place.end(outcome);
}

async fn export(
    shared: &Arc<Shared>,
    host: &dyn PartitionHost,
    job: &ExportJob,
    incarnation: Option<Incarnation>,
    request: &CreateSnapshot,
) -> Result<(Published, ReplicaRole), Unpublished> {
    if let Some(incarnation) = incarnation {
        ask_pointer(shared, job, incarnation, request).await?;
    }
    job.accept();
    shared.discard_downloads(request.partition);
    let _room = shared.staging.reserve(0).await?;
    let folder = shared
        .staging
        .folder(StagingKind::Export, &job.snapshot_id.to_string())
        .await
        .map_err(HostError::Io)?;
    let result = checkpoint_and_publish(shared, host, job, incarnation, request, &folder).await;
    failpoint::reached("export: the upload is over");
    folder.remove().await;
    failpoint::reached("export: the checkpoint is removed");
    result
}

/// Spends one request on not making a snapshot that the store has already.
async fn ask_pointer(
    shared: &Shared,
    job: &ExportJob,
    incarnation: Incarnation,
    request: &CreateSnapshot,
) -> Result<(), Unpublished> {
    ensure_wanted(job)?;
    let partition = request.partition;
    let pointer = shared
        .repository
        .pointer(partition)
        .await
        .map_err(|error| Unpublished::store(&error))?;
    let Some(pointer) = pointer.map(|versioned| versioned.value) else {
        return Ok(());
    };
    check_owner(&pointer, shared.config.cluster.fingerprint, partition)
        .map_err(|error| Unpublished::failed(ExportFailure::StoreUnusable, &error))?;
    let lsn = job.lsn();
    match coverage(&pointer, incarnation, lsn, &request.distrusted) {
        Coverage::Uncovered => Ok(()),
        Coverage::Trusted(entry) => Err(Unpublished::Declined(Decline::Covered {
            partition,
            applied: lsn,
            snapshot_id: entry.snapshot_id,
            archived: entry.lsn,
        })),
        Coverage::Distrusted(entry) => Err(needs_newer(partition, lsn, entry.lsn)),
    }
}

fn needs_newer(partition: PartitionId, ours: Lsn, theirs: Lsn) -> Unpublished {
    Unpublished::Failed(
        ExportFailure::NeedsNewerLsn,
        format!(
            "partition {partition}: the pointer names a snapshot at {theirs} and only moves up, this one would be at {ours}: append a record first"
        ),
    )
}

fn ensure_wanted(job: &ExportJob) -> Result<(), Unpublished> {
    if job.cancel.is_cancelled() {
        return Err(Unpublished::Failed(
            ExportFailure::Cancelled,
            "the export was cancelled".to_owned(),
        ));
    }
    Ok(())
}

async fn checkpoint_and_publish(
    shared: &Shared,
    host: &dyn PartitionHost,
    job: &ExportJob,
    incarnation: Option<Incarnation>,
    request: &CreateSnapshot,
    folder: &StagingFolder,
) -> Result<(Published, ReplicaRole), Unpublished> {
    ensure_wanted(job)?;
    host.checkpoint(folder.path()).await?;
    failpoint::reached("export: the checkpoint is made");
    let created_at = shared.seams.clock.now();
    let role = host.status().role;
    ensure_wanted(job)?;
    let facts = host.inspect(folder.path()).await?;
    failpoint::reached("export: the checkpoint is read");
    check_facts(shared, job, incarnation, request, &facts)?;
    ensure_wanted(job)?;
    let policy = shared
        .policy
        .borrow()
        .as_ref()
        .map(|policy| policy.restorable_snapshots_min);
    let upload = SnapshotUpload {
        cluster: shared.config.cluster.clone(),
        partition: request.partition,
        incarnation: facts.incarnation,
        snapshot_id: job.snapshot_id,
        lsn: facts.lsn,
        chain: facts.chain,
        state_digest: facts.state_digest,
        leader: facts.leader,
        log_bytes: facts.log_bytes,
        state_machine: facts.state_machine,
        key_range: facts.key_range,
        producer: Producer {
            node: shared.config.node.clone(),
            role,
        },
        request_id: Some(request.request_id),
        created_at,
        dir: folder.path().to_owned(),
        restorable_snapshots_min: request.restorable_snapshots_min.or(policy),
        lower_restorable_min: request.restorable_snapshots_min.is_some(),
        trimmed: shared
            .lock()
            .get(&request.partition)
            .and_then(|slot| slot.trimmed),
        distrusted: request.distrusted.clone(),
    };
    let published = publish(shared, &upload, job).await?;
    published
        .map(|published| (published, role))
        .map_err(|error| unpublished(error, request, facts.lsn))
}

/// Publishes, and gives up when the disk reserve is touched meanwhile: the checkpoint keeps files on the disk that the
/// partition has replaced since.
async fn publish(
    shared: &Shared,
    upload: &SnapshotUpload,
    job: &ExportJob,
) -> Result<Result<Published, PublishError>, HostError> {
    let mut publishing = pin!(shared.repository.publish(upload, job, &job.cancel));
    let short = tokio::select! {
        published = &mut publishing => return Ok(published),
        short = shared.staging.until_short() => short,
    };
    job.cancel.cancel();
    match publishing.await {
        Err(PublishError::Cancelled) => Err(short),
        // The pointer swap was under way already.
        published => Ok(published),
    }
}

/// Checks that the checkpoint is what the request was accepted for.
fn check_facts(
    shared: &Shared,
    job: &ExportJob,
    incarnation: Option<Incarnation>,
    request: &CreateSnapshot,
    facts: &CheckpointFacts,
) -> Result<(), Unpublished> {
    let expected = &shared.config.cluster;
    let partition = request.partition;
    let fault = if facts.fingerprint != expected.fingerprint {
        format!("it belongs to cluster {}, not to {expected}", facts.fingerprint)
    } else if facts.key_range.partition != partition.get() {
        format!("it holds partition {}", facts.key_range.partition)
    } else if let Some(incarnation) = incarnation.filter(|incarnation| *incarnation != facts.incarnation) {
        format!("it is of incarnation {}, not {incarnation}", facts.incarnation)
    } else if facts.lsn < job.lsn() {
        format!(
            "it holds {}, although {} was applied before",
            facts.lsn,
            job.lsn()
        )
    } else {
        return Ok(());
    };
    Err(Unpublished::Failed(
        ExportFailure::Mismatch,
        format!("partition {partition}: the checkpoint does not fit: {fault}"),
    ))
}

fn unpublished(error: PublishError, request: &CreateSnapshot, lsn: Lsn) -> Unpublished {
    let partition = request.partition;
    match &error {
        PublishError::Superseded { current, .. } if request.distrusted.contains(&current.snapshot_id) => {
            needs_newer(partition, lsn, current.lsn)
        }
        PublishError::Superseded { current, .. } => Unpublished::Declined(Decline::Covered {
            partition,
            applied: lsn,
            snapshot_id: current.snapshot_id,
            archived: current.lsn,
        }),
        PublishError::Store(store) => Unpublished::store(store),
        PublishError::Refused { .. } => Unpublished::failed(ExportFailure::StoreUnusable, &error),
        PublishError::Incomplete { .. } => Unpublished::failed(ExportFailure::Incomplete, &error),
        PublishError::Local(_) => Unpublished::failed(ExportFailure::Local, &error),
        PublishError::Indeterminate { .. } => Unpublished::failed(ExportFailure::Indeterminate, &error),
        PublishError::Cancelled => Unpublished::failed(ExportFailure::Cancelled, &error),
    }
}
