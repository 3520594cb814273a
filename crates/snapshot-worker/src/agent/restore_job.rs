//! What a caller sees of a restore, and the restore in progress as the status shows it.

use super::{export_job::chain, host::HostError};
use crate::{
    core::{FinishedRestore, RestoreKind, RestorePhase, RunningRestore, estimate},
    failpoint,
    metrics::{self, RestoreResult, ReuseSource},
};
use snapshot_store::{Incarnation, Lsn, PartitionId, Progress, StoreError, format::PointerEntry};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

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

impl RestoreRequest {
    /// Asks for what a replica needs whose log begins after `trim_point`: all of the state when it has applied nothing
    /// (`None`, or [`Lsn::ZERO`]), otherwise what fills the gap. Local files may be used.
    pub fn new(incarnation: Incarnation, trim_point: Lsn, applied_lsn: Option<Lsn>) -> Self {
        let applied_lsn = applied_lsn.filter(|lsn| *lsn > Lsn::ZERO);
        RestoreRequest {
            kind: match applied_lsn {
                None => RestoreKind::Bootstrap,
                Some(_) => RestoreKind::TrimGap,
            },
            incarnation,
            trim_point,
            applied_lsn,
            reuse: ReuseLocal::Allowed,
        }
    }
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
#[derive(Debug)]
pub(super) struct RestoreJob {
    partition: PartitionId,
    state: Mutex<JobState>,
}

#[derive(Debug, Default)]
struct JobState {
    running: RunningRestore,
    /// Bytes of all log records up to the chosen snapshot.
    log_bytes: u64,
    /// When reading from the store began.
    fetching_since: Option<Instant>,
}

impl RestoreJob {
    pub(super) fn new(partition: PartitionId) -> Self {
        metrics::restore_queued();
        RestoreJob {
            partition,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with `entry`; with `None` a snapshot is being chosen.
    pub(super) fn choose(&self, entry: Option<&PointerEntry>) {
        let mut state = self.state();
        if state.running.phase == RestorePhase::Queued {
            metrics::restore_began();
        }
        *state = JobState {
            running: RunningRestore {
                phase: entry.map_or(RestorePhase::Choosing, |_| RestorePhase::Reusing),
                snapshot: entry.map(|entry| (entry.snapshot_id, entry.lsn)),
                bytes_total: entry.map_or(0, |entry| entry.bytes_total),
                ..RunningRestore::default()
            },
            log_bytes: entry.map_or(0, |entry| entry.log_bytes),
            fetching_since: None,
        };
    }

    /// Goes on to `phase`.
    pub(super) fn enter(&self, phase: RestorePhase) {
        let mut state = self.state();
        state.running.phase = phase;
        if phase == RestorePhase::Downloading {
            state.fetching_since = Some(Instant::now());
        }
    }

    pub(super) fn running(&self) -> RunningRestore {
        let state = self.state();
        let mut running = state.running;
        if let Some(since) = state.fetching_since {
            running.estimate = estimate(running.bytes_downloaded, since.elapsed(), running.bytes_left());
        }
        running
    }

    /// What the replica no longer needs from the log: all up to the snapshot; nothing while choosing.
    pub(super) fn needed(&self) -> Option<(Lsn, u64)> {
        let state = self.state();
        state.running.snapshot.map(|(_, lsn)| (lsn, state.log_bytes))
    }

    fn advance(&self, change: impl FnOnce(&mut RunningRestore)) {
        change(&mut self.state().running);
        metrics::restore_moved(self.partition, &self.running());
    }
}

impl Drop for RestoreJob {
    fn drop(&mut self) {
        let queued = self.state().running.phase == RestorePhase::Queued;
        metrics::restore_left(self.partition, queued);
    }
}

impl Progress for RestoreJob {
    fn total(&self, bytes: u64) {
        self.advance(|running| running.bytes_total = bytes);
    }

    fn files(&self, files: u64) {
        self.advance(|running| running.files_total = files);
    }

    fn advanced(&self, bytes: u64) {
        metrics::downloaded(bytes);
        failpoint::reached("restore: bytes are read");
        self.advance(|running| running.bytes_downloaded += bytes);
    }

    fn resumed(&self, bytes: u64) {
        metrics::reused(ReuseSource::Staging, bytes);
        self.advance(|running| running.bytes_resumed += bytes);
    }

    fn linked(&self, bytes: u64) {
        metrics::reused(ReuseSource::Local, bytes);
        self.advance(|running| running.bytes_linked += bytes);
    }

    fn file_done(&self) {
        self.advance(|running| running.files_done += 1);
        failpoint::reached("restore: a file is complete");
    }
}
