//! The way back after the disk failed: the database is closed and opened again, as a restart of the process would do.
//!
//! Opening reads what is on the disk, writes it to new files and syncs those, so nothing rests on pages whose sync failed.
//! What was answered "unknown" may be there afterwards or not; what was acknowledged has to be, or the log stays closed.

use super::{EmbeddedOptions, Shared, format::Position, reserve::Reserve, shared::Cell, store::Store};
use crate::Registration;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

/// How often opening the database again is tried.
pub(super) const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What the committer needs to keep its database open.
pub(super) struct Keeper {
    dir: PathBuf,
    database: PathBuf,
    options: EmbeddedOptions,
    pub(super) reserve: Reserve,
    /// Acknowledged records are gone: no attempt can help.
    lost: bool,
}

impl Keeper {
    pub(super) fn new(dir: &Path, database: &Path, options: EmbeddedOptions) -> Self {
        let reserve = Reserve::new(dir, options.disk_reserve_bytes, options.write_buffer_bytes);
        Keeper {
            dir: dir.to_owned(),
            database: database.to_owned(),
            options,
            reserve,
            lost: false,
        }
    }

    /// Opens the database again, with the room of the reserve where it takes that, and shows where its logs stand now.
    /// Returns whether that succeeded. Blocks as long as an open does.
    pub(super) fn reopen(&mut self, shared: &Shared) -> bool {
        if self.lost {
            return false;
        }
        let mut reopened = self.try_reopen(shared);
        if reopened.is_err() && !self.lost {
            self.reserve.give_up();
            reopened = self.try_reopen(shared);
            self.reserve.hold();
        }
        let failure = reopened.err();
        match &failure {
            None => {
                tracing::warn!(dir = %self.dir.display(), "the log was opened again after its disk failed")
            }
            Some(failure) if self.lost => tracing::error!(failure, "the log stays closed"),
            Some(failure) => tracing::debug!(failure, "the log could not be opened again"),
        }
        shared.set_failure(failure.clone());
        failure.is_none()
    }

    fn try_reopen(&mut self, shared: &Shared) -> Result<(), String> {
        let mut slot = shared.store.write().unwrap_or_else(PoisonError::into_inner);
        // RocksDB locks its folder: the old one must be gone first.
        drop(slot.take());
        let failed = |error: &dyn std::fmt::Display| {
            format!("its disk failed or is full, and the log cannot be opened again yet: {error}")
        };
        let store = Store::open(&self.database, &self.options).map_err(|error| failed(&error))?;
        let logs = store.load(&self.dir).map_err(|error| failed(&error))?;
        if let Err(lost) = check_kept(shared, &logs) {
            self.lost = true;
            return Err(lost);
        }
        *slot = Some(store);
        drop(slot);
        for (registration, position) in logs {
            let partition = registration.partition;
            match shared.cell(partition) {
                Ok(cell) => cell.publish(registration, position),
                Err(_) => shared.insert(partition, Arc::new(Cell::new(registration, position))),
            }
        }
        Ok(())
    }
}

/// Checks that all that was acknowledged is there.
fn check_kept(shared: &Shared, logs: &[(Registration, Position)]) -> Result<(), String> {
    for (partition, cell) in shared.cells() {
        let (known, incarnation) = (cell.position(), cell.registration().incarnation);
        let kept = logs.iter().any(|(registration, position)| {
            registration.partition == partition
                && registration.incarnation == incarnation
                && position.tail >= known.tail
                && position.trim_point >= known.trim_point
        });
        if !kept {
            return Err(format!(
                "its disk lost acknowledged records of partition {partition}, whose tail was {}: see the runbook for a lost log",
                known.tail
            ));
        }
    }
    Ok(())
}
