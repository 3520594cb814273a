//! The seam to the engine that keeps a partition's state. RocksDB is the one implementation ([`RocksEngine`]).
//!
//! The engine's own write-ahead log is off: the partition's log is the log. What counts as stored is what a flush
//! has made safe, and a flush makes safe whole batches, metadata included.

pub(super) mod handles;
mod rocks;

pub use rocks::{FLUSH_THREADS, RocksEngine, RocksOptions};

use super::{
    metadata::{METADATA_KEY, StateMetadata},
    state_machine::{Changes, Keyspace},
};
use snapshot_store::{PairDigest, StateDigest};
use std::{path::Path, sync::Arc};

/// Why a state could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is damaged.
    #[error("{0}")]
    Corrupt(String),
    /// A newer version of Tidemark wrote it.
    #[error("the state's metadata has format {found}, this version reads up to {known}: update this node")]
    Newer {
        /// The format found.
        found: u32,
        /// The highest this version reads.
        known: u32,
    },
    /// The disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// Disk trouble, or the state is in use.
    #[error("{0}")]
    Failed(String),
}

/// Opens states. One for all partitions of a node, so that they share memory and threads.
pub trait StateEngine: Send + Sync + 'static {
    /// Opens the state in `dir`, and creates an empty one when there is none.
    ///
    /// # Errors
    /// When it is damaged or cannot be reached.
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError>;

    /// Opens the state in `dir` for reading alone; leaves no trace in `dir`.
    ///
    /// # Errors
    /// When it is damaged or cannot be reached.
    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError>;
}

/// An open state. Every method blocks its thread.
pub trait StateStore: Send + Sync + 'static {
    /// Returns the value stored under `key`.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Writes all of `changes`, or nothing.
    ///
    /// # Errors
    /// When the state cannot be written.
    fn write(&self, changes: &Changes) -> Result<(), StateError>;

    /// Makes everything written so far survive a crash.
    ///
    /// # Errors
    /// When the state cannot be written.
    fn flush(&self) -> Result<(), StateError>;

    /// Flushes and makes a copy in `dir`, which does not exist yet; cheap on the same file system.
    ///
    /// # Errors
    /// When the state or `dir` cannot be written.
    fn checkpoint(&self, dir: &Path) -> Result<(), StateError>;

    /// Returns the state as it is now, unmoved by later writes. It keeps the store open while it lives.
    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot>;

    /// Returns whether a snapshot keeps the store open.
    fn has_snapshots(&self) -> bool;
}

/// A pair as stored.
pub type StoredPair = (Box<[u8]>, Box<[u8]>);

/// What pairs are shown to, by key and value; its error ends the visit.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>;

/// A state that stands still.
pub trait StateSnapshot: Send + Sync {
    /// Returns the value stored under `key`.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Returns all pairs from `from` on, in key order, and ends after the first error.
    fn scan<'a>(&'a self, from: &[u8]) -> Box<dyn Iterator<Item = Result<StoredPair, StateError>> + 'a>;

    /// Shows all pairs to `visit`, in key order, and ends after the first error: its own, or the state's. An engine
    /// that need not copy each pair for that has an implementation of its own.
    ///
    /// # Errors
    /// When the state cannot be read, and what `visit` returns.
    fn visit(&self, visit: Visit<'_>) -> Result<(), StateError> {
        for pair in self.scan(&[]) {
            let (key, value) = pair?;
            visit(&key, &value)?;
        }
        Ok(())
    }
}

/// Reads the metadata; `None` for a state that was created and never written.
pub(super) fn read_metadata(snapshot: &dyn StateSnapshot) -> Result<Option<StateMetadata>, StateError> {
    snapshot
        .get(METADATA_KEY)?
        .map(|bytes| StateMetadata::decode(&bytes))
        .transpose()
}

/// Reads all pairs once, which checks every block, and returns their digest and number.
pub(super) fn digest(
    snapshot: &dyn StateSnapshot,
    keyspaces: &[Keyspace],
) -> Result<(StateDigest, u64), StateError> {
    let mut digest = PairDigest::new();
    // Each keyspace but the first is announced, also when it holds nothing.
    let mut upcoming = keyspaces.iter().map(|space| space.prefix).skip(1).peekable();
    snapshot.visit(&mut |key, value| {
        let Some((&prefix, key)) = key.split_first() else {
            return Err(StateError::Corrupt("the state holds an empty key".to_owned()));
        };
        if prefix == 0 {
            return Ok(());
        }
        if keyspaces.iter().all(|space| space.prefix != prefix) {
            return Err(StateError::Corrupt(format!(
                "the state holds a key of the unknown keyspace {prefix}"
            )));
        }
        while let Some(next) = upcoming.next_if(|next| *next <= prefix) {
            digest.next_keyspace(next);
        }
        digest.pair(key, value);
        Ok(())
    })?;
    for next in upcoming {
        digest.next_keyspace(next);
    }
    Ok((digest.finish(), digest.pairs()))
}
