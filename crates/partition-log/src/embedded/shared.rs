//! What committer, readers and callers share: the database and where each partition's log stands.

use super::closed;
use super::folder::LogFolder;
use super::format::Position;
use super::store::Store;
use crate::{LogError, LogInfo, Registration};
use snapshot_store::PartitionId;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// Trimmed bytes after which files are dropped; fewer are not worth looking for them.
const RECLAIM_BYTES_MIN: u64 = 64 << 20;

pub(super) struct Shared {
    /// `None` once the log is closed, and while it cannot be opened again. The committer holds it while it commits a group, a reader for one chunk.
    pub(super) store: RwLock<Option<Store>>,
    folder: Mutex<Option<LogFolder>>,
    cells: RwLock<BTreeMap<PartitionId, Arc<Cell>>>,
    failure: Mutex<Option<String>>,
    freed_bytes: AtomicU64,
    closed: AtomicBool,
}

/// The committed state of one partition's log.
pub(super) struct Cell {
    registration: Mutex<Registration>,
    view: watch::Sender<View>,
}

/// What readers watch.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) position: Position,
    pub(super) closed: bool,
    /// Whether the passage of the log lets it be used.
    pub(super) usable: bool,
}

impl Cell {
    pub(super) fn new(registration: Registration, position: Position) -> Self {
        let view = watch::Sender::new(View {
            position,
            closed: false,
            usable: registration.check_use().is_ok(),
        });
        Cell {
            registration: Mutex::new(registration),
            view,
        }
    }

    pub(super) fn registration(&self) -> Registration {
        self.registration
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn position(&self) -> Position {
        self.view.borrow().position
    }

    pub(super) fn info(&self) -> LogInfo {
        let position = self.position();
        LogInfo {
            incarnation: self.registration().incarnation,
            trim_point: position.trim_point,
            tail: position.tail,
            held_bytes: Some(position.held_bytes()),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Makes a committed change visible, and wakes the readers.
    pub(super) fn publish(&self, registration: Registration, position: Position) {
        let usable = registration.check_use().is_ok();
        *self.registration.lock().unwrap_or_else(PoisonError::into_inner) = registration;
        self.view.send_if_modified(|view| {
            let changed = view.position != position || view.usable != usable;
            (view.position, view.usable) = (position, usable);
            changed
        });
    }
}

impl Shared {
    pub(super) fn new(store: Store, folder: LogFolder, logs: Vec<(Registration, Position)>) -> Self {
        let cells = logs
            .into_iter()
            .map(|(registration, position)| {
                (
                    registration.partition,
                    Arc::new(Cell::new(registration, position)),
                )
            })
            .collect();
        Shared {
            store: RwLock::new(Some(store)),
            folder: Mutex::new(Some(folder)),
            cells: RwLock::new(cells),
            failure: Mutex::new(None),
            freed_bytes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn cell(&self, partition: PartitionId) -> Result<Arc<Cell>, LogError> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells
            .get(&partition)
            .cloned()
            .ok_or(LogError::Missing { partition })
    }

    /// Returns the cell, unless the log is closed.
    pub(super) fn open_cell(&self, partition: PartitionId) -> Result<Arc<Cell>, LogError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed(partition));
        }
        self.cell(partition)
    }

    pub(super) fn insert(&self, partition: PartitionId, cell: Arc<Cell>) {
        self.cells
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(partition, cell);
    }

    /// Forgets a partition whose log was discarded; its readers end.
    pub(super) fn remove(&self, partition: PartitionId) {
        let cell = self
            .cells
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&partition);
        if let Some(cell) = cell {
            cell.view.send_modify(|view| view.closed = true);
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes why nothing is taken; with `None`, that everything is again.
    pub(super) fn set_failure(&self, fault: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn freed(&self, bytes: u64) {
        self.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether enough was trimmed since the last time to look for files to drop. Answers "yes" once.
    pub(super) fn take_reclaim(&self) -> bool {
        let taken = self
            .freed_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                (bytes >= RECLAIM_BYTES_MIN).then_some(0)
            });
        taken.is_ok()
    }

    /// Returns where each log stands.
    pub(super) fn cells(&self) -> BTreeMap<PartitionId, Arc<Cell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the files below the trim points of all partitions. Blocks.
    pub(super) fn reclaim(&self) {
        for (partition, cell) in self.cells() {
            let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
            let Some(store) = store.as_ref() else { return };
            if let Err(error) = store.reclaim(partition, cell.position().trim_point) {
                tracing::warn!(%partition, %error, "trimmed files were not dropped, they go with later ones");
            }
        }
    }

    /// Ends the readers and gives the folder free. Blocks until the chunks being read are done.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for cell in self.cells.read().unwrap_or_else(PoisonError::into_inner).values() {
            cell.view.send_modify(|view| view.closed = true);
        }
        let store = self.store.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(store) = store
            && let Err(error) = store.flush()
        {
            tracing::warn!(%error, "the log was not flushed, the next start replays its write-ahead log");
        }
        drop(self.folder.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
