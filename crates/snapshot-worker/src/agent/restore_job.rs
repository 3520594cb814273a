//! What a caller sees of a restore, and the restore in progress as the status shows it.

use super::{export_job::chain, host::HostError};
use crate::{
    core::{FinishedRestore, RestoreKind, RunningRestore},
    metrics::{self, RestoreResult},
};
use snapshot_store::{Incarnation, Lsn, PartitionId, Progress, SnapshotId, StoreError, format::PointerEntry};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Whether a restore may take files from what lies on the local disk. Whatever it takes is hashed again first, from its
/// bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReuseLocal {
    /// It continues what an interrupted restore left in staging, and links immutable files of the local state.
    #[default]
    Allowed,
    /// All files are read from the store: a rebuild after local corruption trusts nothing on this disk.
    Nothing,
}

/// What a host needs restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreRequest {
    /// Why.
    pub kind: RestoreKind,
    /// The log it goes on with.
    pub incarnation: Incarnation,
    /// The log's trim point.
    pub trim_point: Lsn,
    /// What is applied already; `None` without local state.
    pub applied_lsn: Option<Lsn>,
    /// Whether local files may be used.
    pub reuse: ReuseLocal,
}

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// The host has the state of this snapshot.
    Restored(FinishedRestore),
    /// The store has no snapshot that helps. The local state is as it was.
    NothingUsable {
        /// What was found, and why none of it helps.
        detail: String,
        /// Whether a snapshot that would have helped is damaged.
        any_damaged: bool,
    },
}

/// Why nothing could be restored. The local state is as it was, unless the host's `install` says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store did not answer: try again later.
    #[error("partition {partition}: the object store did not answer")]
    StoreUnavailable {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        #[source]
        source: StoreError,
    },
    /// A stored object is foreign, unreadable or of a newer version. It is never overwritten.
    #[error("partition {partition}: {detail}")]
    StoreUnusable {
        /// The partition.
        partition: PartitionId,
        /// Which object, what is wrong with it, and what to do.
        detail: String,
    },
    /// The snapshots are in order, but this node's software cannot read them.
    #[error("partition {partition}: {detail}")]
    Unfit {
        /// The partition.
        partition: PartitionId,
        /// What the host said of each.
        detail: String,
    },
    /// The host or the local disk prevents it.
    #[error("partition {partition}: the snapshot cannot be put in place")]
    Local {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        #[source]
        source: HostError,
    },
}

impl RestoreError {
    pub(super) fn store(partition: PartitionId, source: StoreError) -> Self {
        if source.is_retryable() {
            RestoreError::StoreUnavailable { partition, source }
        } else {
            RestoreError::StoreUnusable {
                partition,
                detail: chain(&source),
            }
        }
    }

    pub(super) fn local(partition: PartitionId) -> impl FnOnce(HostError) -> Self {
        move |source| RestoreError::Local { partition, source }
    }

    pub(super) const fn result(&self) -> RestoreResult {
        match self {
            RestoreError::StoreUnavailable { .. } => RestoreResult::StoreUnavailable,
            RestoreError::StoreUnusable { .. } => RestoreResult::StoreUnusable,
            RestoreError::Unfit { .. } => RestoreResult::Unfit,
            RestoreError::Local { .. } => RestoreResult::Local,
        }
    }
}

/// A restore in progress, for the status.
#[derive(Debug, Default)]
pub(super) struct RestoreJob {
    chosen: Mutex<Option<Chosen>>,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

/// The snapshot being tried.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    snapshot_id: SnapshotId,
    lsn: Lsn,
    log_bytes: u64,
}

impl RestoreJob {
    fn chosen(&self) -> Option<Chosen> {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn choose(&self, entry: Option<&PointerEntry>) {
        let chosen = entry.map(|entry| Chosen {
            snapshot_id: entry.snapshot_id,
            lsn: entry.lsn,
            log_bytes: entry.log_bytes,
        });
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
        self.bytes_done.store(0, Ordering::Relaxed);
        self.bytes_total
            .store(entry.map_or(0, |entry| entry.bytes_total), Ordering::Relaxed);
    }

    pub(super) fn running(&self) -> RunningRestore {
        RunningRestore {
            snapshot: self.chosen().map(|chosen| (chosen.snapshot_id, chosen.lsn)),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }

    /// What the replica no longer needs from the log: all up to the snapshot; nothing while choosing.
    pub(super) fn needed(&self) -> Option<(Lsn, u64)> {
        self.chosen().map(|chosen| (chosen.lsn, chosen.log_bytes))
    }
}

impl Progress for RestoreJob {
    fn total(&self, bytes: u64) {
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    fn advanced(&self, bytes: u64) {
        metrics::downloaded(bytes);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}
