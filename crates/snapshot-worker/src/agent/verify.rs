//! Checking a published snapshot, without touching the partition's own state.
//!
//! Presence and content are the repository's checks. At the level `restore` the snapshot is downloaded into
//! `staging/verifications`, opened, read through and compared with its manifest. Damage is called so only while
//! the pointer, read again, still names the snapshot.

use super::{
    compare::differences,
    export_job::chain,
    host::{HostError, PartitionHost},
    room::WithRoom,
    snapshot_agent::Shared,
    staging::StagingKind,
};
use crate::{
    core::check_owner,
    metrics::{self, VerifyOutcome},
};
use snapshot_store::{
    Anomaly, AnomalyKind, CheckLevel, DownloadError, PartitionId, Progress, SnapshotId, StoreError,
    format::{Keys, PointerEntry, VerifyLevel},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// The result of a check that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// How thorough it was.
    pub level: VerifyLevel,
    /// What is wrong; empty when the snapshot passed.
    pub anomalies: Vec<Anomaly>,
    /// Bytes of snapshot files that were read.
    pub bytes_read: u64,
    /// How long it took.
    pub duration: Duration,
}

impl VerifyReport {
    /// Returns whether the snapshot passed.
    pub fn ok(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// Whether it did not pass for another reason than that this node's software is too old for it.
    fn damaged(&self) -> bool {
        self.anomalies
            .iter()
            .any(|anomaly| anomaly.kind != AnomalyKind::NewerFormat)
    }
}

/// Why a check could not be made. It says nothing about the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The partition is not hosted here.
    #[error("partition {partition} is not hosted here: ask a node that has it")]
    UnknownPartition {
        /// The partition.
        partition: PartitionId,
    },
    /// The pointer does not name the snapshot.
    #[error("partition {partition}: the pointer does not name snapshot {snapshot_id}")]
    NotPublished {
        /// The partition.
        partition: PartitionId,
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// A stored object is foreign, unreadable or of a newer version.
    #[error("partition {partition}: {detail}")]
    StoreUnusable {
        /// The partition.
        partition: PartitionId,
        /// Which object, what is wrong with it, and what to do.
        detail: String,
    },
    /// The store did not answer.
    #[error("partition {partition}: the object store did not answer")]
    StoreUnavailable {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        #[source]
        source: StoreError,
    },
    /// The host or the local disk prevents it.
    #[error("partition {partition}: the snapshot cannot be opened here")]
    Local {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        #[source]
        source: HostError,
    },
}

impl VerifyError {
    fn store(partition: PartitionId, source: StoreError) -> Self {
        if source.is_retryable() {
            VerifyError::StoreUnavailable { partition, source }
        } else {
            VerifyError::StoreUnusable {
                partition,
                detail: chain(&source),
            }
        }
    }
}

/// Counts bytes.
#[derive(Default)]
struct Read(AtomicU64);

impl Progress for Read {
    fn advanced(&self, bytes: u64) {
        metrics::downloaded(bytes);
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

pub(super) async fn verify(
    shared: &Shared,
    partition: PartitionId,
    snapshot_id: SnapshotId,
    level: VerifyLevel,
) -> Result<VerifyReport, VerifyError> {
    let result = check(shared, partition, snapshot_id, level).await;
    let outcome = match &result {
        Ok(report) if report.ok() => VerifyOutcome::Ok,
        Ok(_) => VerifyOutcome::Damaged,
        Err(_) => VerifyOutcome::Failed,
    };
    metrics::verified(level, outcome);
    let mut slots = shared.lock();
    if let Some(slot) = slots.get_mut(&partition) {
        match outcome {
            VerifyOutcome::Damaged if result.as_ref().is_ok_and(VerifyReport::damaged) => {
                slot.note_damaged(snapshot_id);
            }
            // That all files are there does not refute a content that was found damaged.
            VerifyOutcome::Ok if level > VerifyLevel::Presence => {
                slot.damaged.remove(&snapshot_id);
            }
            VerifyOutcome::Ok | VerifyOutcome::Damaged | VerifyOutcome::Failed => {}
        }
    }
    result
}

async fn check(
    shared: &Shared,
    partition: PartitionId,
    snapshot_id: SnapshotId,
    level: VerifyLevel,
) -> Result<VerifyReport, VerifyError> {
    let host = shared
        .host(partition)
        .ok_or(VerifyError::UnknownPartition { partition })?;
    let Ok(_permit) = shared.verifications.acquire().await else {
        return Err(VerifyError::UnknownPartition { partition });
    };
    let began = Instant::now();
    let entry = published(shared, partition, snapshot_id).await?;
    let read = Read::default();
    let level_in_store = match level {
        VerifyLevel::Presence => Some(CheckLevel::Presence),
        VerifyLevel::Content => Some(CheckLevel::Content),
        VerifyLevel::Restore => None,
    };
    let anomalies = match level_in_store {
        Some(level) => {
            let cluster = &shared.config.cluster;
            shared
                .repository
                .check_snapshot(cluster, partition, &entry, level, &read)
                .await
                .map(|check| check.anomalies)
                .map_err(|error| VerifyError::store(partition, error))?
        }
        None => open(shared, partition, &*host, &entry, &read).await?,
    };
    if !anomalies.is_empty() {
        // What was evicted while it was read is rightly missing.
        published(shared, partition, snapshot_id).await?;
        metrics::anomalies(&anomalies);
        for anomaly in &anomalies {
            tracing::error!(%partition, %snapshot_id, %anomaly, "snapshot is damaged");
        }
    }
    let bytes_read = read.0.load(Ordering::Relaxed);
    Ok(VerifyReport {
        level,
        anomalies,
        bytes_read,
        duration: began.elapsed(),
    })
}

/// Returns the entry of `snapshot_id` in the pointer as it is now.
async fn published(
    shared: &Shared,
    partition: PartitionId,
    snapshot_id: SnapshotId,
) -> Result<PointerEntry, VerifyError> {
    let pointer = shared
        .repository
        .pointer(partition)
        .await
        .map_err(|error| VerifyError::store(partition, error))?
        .ok_or(VerifyError::NotPublished {
            partition,
            snapshot_id,
        })?
        .value;
    check_owner(&pointer, shared.config.cluster.fingerprint, partition).map_err(|refusal| {
        VerifyError::StoreUnusable {
            partition,
            detail: refusal.to_string(),
        }
    })?;
    let entry = pointer
        .snapshots
        .into_iter()
        .find(|entry| entry.snapshot_id == snapshot_id);
    entry.ok_or(VerifyError::NotPublished {
        partition,
        snapshot_id,
    })
}

/// Downloads the snapshot into a scratch folder, opens it and compares it with its manifest.
async fn open(
    shared: &Shared,
    partition: PartitionId,
    host: &dyn PartitionHost,
    entry: &PointerEntry,
    read: &Read,
) -> Result<Vec<Anomaly>, VerifyError> {
    let local = |source| VerifyError::Local { partition, source };
    let room = shared.staging.reserve(entry.bytes_total).await.map_err(local)?;
    let progress = WithRoom {
        room: Some(&room),
        progress: read,
    };
    // Two checks of the same snapshot may run at once: each has its own folder.
    let name = shared.seams.ulid().to_string();
    let folder = shared
        .staging
        .folder(StagingKind::Verify, &name)
        .await
        .map_err(|error| local(error.into()))?;
    let result = download_and_inspect(shared, partition, host, entry, folder.path(), &progress).await;
    folder.remove().await;
    result
}

async fn download_and_inspect(
    shared: &Shared,
    partition: PartitionId,
    host: &dyn PartitionHost,
    entry: &PointerEntry,
    dir: &std::path::Path,
    progress: &dyn Progress,
) -> Result<Vec<Anomaly>, VerifyError> {
    let manifest = match shared.repository.download(partition, entry, dir, progress).await {
        Ok(manifest) => manifest,
        Err(DownloadError::Damaged(anomalies)) => return Ok(anomalies),
        Err(DownloadError::Store(error)) => return Err(VerifyError::store(partition, error)),
        Err(DownloadError::Local(error)) => {
            return Err(VerifyError::Local {
                partition,
                source: error.into(),
            });
        }
    };
    let key = Keys::manifest(partition, &entry.path);
    match host.inspect(dir).await {
        Ok(facts) => Ok(differences(&facts, &manifest)
            .into_iter()
            .map(|difference| Anomaly::new(AnomalyKind::WrongState, key.clone(), difference))
            .collect()),
        Err(HostError::Corrupt(detail)) => Ok(vec![Anomaly::new(AnomalyKind::WrongState, key, detail)]),
        Err(source) => Err(VerifyError::Local { partition, source }),
    }
}
