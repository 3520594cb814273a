//! What a caller sees of an export, and the export as its task and the agent share it.

use super::{queue::give_turns, snapshot_agent::Shared};
use crate::{
    core::{Decline, RunningExport},
    failpoint, metrics,
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use snapshot_store::{Lsn, PartitionId, Progress, ReplicaRole, RequestId, SnapshotId};
use std::{error::Error, fmt::Write as _, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// A request for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSnapshot {
    /// The partition.
    pub partition: PartitionId,
    /// The snapshot must hold at least this LSN.
    pub min_lsn: Lsn,
    /// Names the request: a repetition joins the export that is running.
    pub request_id: RequestId,
    /// Published snapshots that the caller does not trust: they count as if they were not there.
    pub distrusted: Vec<SnapshotId>,
    /// How many of the newest snapshots retention keeps at least, by the admin's policy; `None` keeps to the last
    /// policy received and what the pointer says. A number given here may also lower the pointer's.
    pub restorable_snapshots_min: Option<u32>,
}

/// A snapshot that was made and published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedExport {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// The LSN it holds.
    pub lsn: Lsn,
    /// Sum of all file sizes.
    pub bytes_total: u64,
    /// How much of it was uploaded.
    pub bytes_uploaded: u64,
    /// How much of it was copied inside the store.
    pub bytes_copied: u64,
    /// From acceptance to publication.
    pub duration: Duration,
    /// What the replica was when it made it.
    pub role: ReplicaRole,
}

/// Why an accepted export did not end in a published snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFailure {
    /// It was cancelled, or the node stopped.
    Cancelled,
    /// Disk trouble.
    Local,
    /// The node's disk is full, or its reserve is touched.
    DiskFull,
    /// The checkpoint cannot be read through: the local state is damaged.
    Corrupt,
    /// The checkpoint is not of this cluster, partition or log, or is behind what was applied.
    Mismatch,
    /// The host could not make a checkpoint now.
    Unavailable,
    /// The store did not answer.
    StoreUnavailable,
    /// A stored object is foreign, unreadable or newer, or the store is unfit. It was not overwritten.
    StoreUnusable,
    /// The store has a distrusted or newer snapshot at this LSN or above: a pointer only moves up, so a record
    /// must be appended first.
    NeedsNewerLsn,
    /// The store took the upload and does not have all of it.
    Incomplete,
    /// It is unknown whether the pointer was swapped. The upload stays.
    Indeterminate,
    /// The task died.
    Internal,
}

impl ExportFailure {
    /// Returns the word used in events and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ExportFailure::Cancelled => "cancelled",
            ExportFailure::Local => "local",
            ExportFailure::DiskFull => "disk-full",
            ExportFailure::Corrupt => "corrupt",
            ExportFailure::Mismatch => "mismatch",
            ExportFailure::Unavailable => "unavailable",
            ExportFailure::StoreUnavailable => "store-unavailable",
            ExportFailure::StoreUnusable => "store-unusable",
            ExportFailure::NeedsNewerLsn => "needs-newer-lsn",
            ExportFailure::Incomplete => "incomplete",
            ExportFailure::Indeterminate => "indeterminate",
            ExportFailure::Internal => "internal",
        }
    }
}

/// What a caller sees of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportEvent {
    /// It waits for its turn. Told when that begins, whenever it moves up, and now and then meanwhile.
    Queued {
        /// How many others wait before it.
        ahead: u32,
    },
    /// It began.
    Accepted {
        /// The attempt.
        snapshot_id: SnapshotId,
        /// LSN applied when its turn came; the snapshot holds at least that.
        lsn: Lsn,
    },
    /// Bytes were transferred.
    Progress {
        /// So far.
        bytes_done: u64,
        /// In all; 0 while unknown.
        bytes_total: u64,
    },
    /// It ended with a published snapshot.
    Published(PublishedExport),
    /// The request was refused. Nothing was published.
    Declined(Decline),
    /// It ended without one.
    Failed {
        /// What kind of failure.
        reason: ExportFailure,
        /// What happened, and what to do.
        message: String,
    },
}

/// How often a watcher of a waiting export is told that it still waits: well below the silence after which an admin takes
/// the node for lost.
const QUEUED_SAID_EVERY: Duration = Duration::from_secs(30);

/// An export that is running or waits: what callers watch, and the way to stop it.
#[derive(Debug)]
pub(super) struct ExportJob {
    pub(super) request_id: RequestId,
    pub(super) cancel: CancellationToken,
    pub(super) snapshot_id: SnapshotId,
    /// Grows with every export: they have their turns in this order.
    pub(super) number: u64,
    view: watch::Sender<ExportView>,
}

/// How far an export is. A watcher that is slow misses intermediate numbers and nothing else.
#[derive(Clone, Debug, Default)]
struct ExportView {
    /// How many others wait before it; `None` once its turn has come.
    ahead: Option<u32>,
    /// Applied LSN when it was taken on, later when its turn came.
    lsn: Lsn,
    accepted: bool,
    bytes_done: u64,
    bytes_total: u64,
    outcome: Option<ExportEvent>,
}

impl ExportJob {
    pub(super) fn new(
        request_id: RequestId,
        snapshot_id: SnapshotId,
        number: u64,
        lsn: Lsn,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let view = ExportView {
            lsn,
            ..ExportView::default()
        };
        Arc::new(ExportJob {
            request_id,
            cancel,
            snapshot_id,
            number,
            view: watch::Sender::new(view),
        })
    }

    /// Returns the applied LSN it was taken on with.
    pub(super) fn lsn(&self) -> Lsn {
        self.view.borrow().lsn
    }

    /// Whether it waits for its turn.
    pub(super) fn is_queued(&self) -> bool {
        self.view.borrow().ahead.is_some()
    }

    /// Notes how many others wait before it.
    pub(super) fn queue_behind(&self, others: usize) {
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        self.view
            .send_if_modified(|view| view.ahead.replace(others) != Some(others));
    }

    /// Notes that its turn has come.
    pub(super) fn take_turn(&self) {
        self.view.send_modify(|view| view.ahead = None);
    }

    /// Waits for its turn; returns at once when it has come.
    pub(super) async fn turn(&self) {
        // The sender is this job's own, so waiting cannot fail.
        drop(self.view.subscribe().wait_for(|view| view.ahead.is_none()).await);
    }

    /// Notes what the replica has applied by now.
    pub(super) fn move_up_to(&self, lsn: Lsn) {
        self.view.send_modify(|view| view.lsn = lsn);
    }

    /// Tells watchers that the work begins.
    pub(super) fn accept(&self) {
        self.view.send_modify(|view| view.accepted = true);
    }

    pub(super) fn running(&self) -> RunningExport {
        let view = self.view.borrow();
        RunningExport {
            request_id: self.request_id,
            snapshot_id: self.snapshot_id,
            lsn: view.lsn,
            bytes_done: view.bytes_done,
            bytes_total: view.bytes_total,
            ahead: view.ahead,
        }
    }

    /// Returns the events from the beginning; they end with the outcome.
    pub(super) fn events(self: &Arc<Self>) -> BoxStream<'static, ExportEvent> {
        struct Watcher {
            job: Arc<ExportJob>,
            view: watch::Receiver<ExportView>,
            queued: Option<u32>,
            accepted: bool,
            told: (u64, u64),
            finished: bool,
        }
        let watcher = Watcher {
            job: Arc::clone(self),
            view: self.view.subscribe(),
            queued: None,
            accepted: false,
            told: (0, 0),
            finished: false,
        };
        stream::unfold(watcher, |mut watcher| async move {
            // Each round ends in an event or waits for a change; the outcome is the last change.
            while !watcher.finished {
                let view = watcher.view.borrow_and_update().clone();
                if watcher.queued != view.ahead {
                    watcher.queued = view.ahead;
                    if let Some(ahead) = view.ahead {
                        return Some((ExportEvent::Queued { ahead }, watcher));
                    }
                }
                if view.accepted && !watcher.accepted {
                    watcher.accepted = true;
                    let event = ExportEvent::Accepted {
                        snapshot_id: watcher.job.snapshot_id,
                        lsn: view.lsn,
                    };
                    return Some((event, watcher));
                }
                if watcher.told != (view.bytes_done, view.bytes_total) {
                    watcher.told = (view.bytes_done, view.bytes_total);
                    let ExportView {
                        bytes_done,
                        bytes_total,
                        ..
                    } = view;
                    return Some((
                        ExportEvent::Progress {
                            bytes_done,
                            bytes_total,
                        },
                        watcher,
                    ));
                }
                if let Some(outcome) = view.outcome {
                    watcher.finished = true;
                    return Some((outcome, watcher));
                }
                let Some(ahead) = watcher.queued else {
                    // The job holds the sender, so this cannot fail while the watcher holds the job.
                    watcher.view.changed().await.ok()?;
                    continue;
                };
                match timeout(QUEUED_SAID_EVERY, watcher.view.changed()).await {
                    Ok(changed) => changed.ok()?,
                    Err(_) => return Some((ExportEvent::Queued { ahead }, watcher)),
                }
            }
            None
        })
        .boxed()
    }
}

impl ExportJob {
    fn done(&self, bytes: u64) {
        self.view
            .send_modify(|view| view.bytes_done = view.bytes_done.saturating_add(bytes));
    }
}

impl Progress for ExportJob {
    fn total(&self, bytes: u64) {
        self.view.send_modify(|view| view.bytes_total = bytes);
    }

    fn advanced(&self, bytes: u64) {
        metrics::uploaded(bytes);
        failpoint::reached("export: bytes are sent");
        self.done(bytes);
    }

    fn copied(&self, bytes: u64) {
        metrics::copied(bytes);
        self.done(bytes);
    }
}

/// The place an export takes up; freed when it is dropped, with an outcome for whoever watches.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) partition: PartitionId,
    pub(super) job: Arc<ExportJob>,
}

impl Place {
    pub(super) fn end(self, outcome: ExportEvent) {
        self.free(Some(outcome));
    }

    /// Frees the place before anybody learns the outcome: whoever asks again upon it finds the place free.
    fn free(&self, outcome: Option<ExportEvent>) {
        let mut slots = self.shared.lock();
        if let Some(slot) = slots.get_mut(&self.partition)
            && slot
                .export
                .as_ref()
                .is_some_and(|job| Arc::ptr_eq(job, &self.job))
        {
            slot.export = None;
            if let Some(ExportEvent::Published(published)) = &outcome {
                slot.published = Some((self.job.request_id, published.clone()));
            }
            give_turns(&slots, self.shared.config.exports_max.max(1));
        }
        drop(slots);
        self.job.view.send_modify(|view| {
            if view.outcome.is_none() {
                view.outcome = Some(outcome.unwrap_or_else(|| ExportEvent::Failed {
                    reason: ExportFailure::Internal,
                    message: "the export stopped unexpectedly; see the log of the node".to_owned(),
                }));
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free(None);
    }
}

/// Returns an error with all its sources, for a message that travels without them.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
