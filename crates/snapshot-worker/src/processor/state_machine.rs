//! What an embedder writes: a deterministic state machine over ordered keyspaces.

use super::store::{StateError, StateStore};
use bytes::Bytes;
use snapshot_store::Lsn;
use std::collections::BTreeMap;

/// One ordered set of pairs inside a partition's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// What people call it.
    pub name: &'static str,
    /// First byte of its keys on disk: at least 1, and never changed once data is stored. 0 is the worker's own.
    pub prefix: u8,
}

impl Keyspace {
    pub(super) fn stored_key(&self, key: &[u8]) -> Vec<u8> {
        let mut stored = Vec::with_capacity(key.len() + 1);
        stored.push(self.prefix);
        stored.extend_from_slice(key);
        stored
    }
}

/// Turns commands into changes of the state. The same commands in the same order must give the same state and the
/// same replies on every node: no clock, randomness, or anything outside the transaction.
pub trait StateMachine: Send + Sync + 'static {
    /// Returns the name; a state of another name is never opened.
    fn name(&self) -> &'static str;

    /// Returns the version of the stored state; a newer one is never opened.
    fn version(&self) -> u32;

    /// Returns the keyspaces, in ascending order of their prefixes.
    fn keyspaces(&self) -> &'static [Keyspace];

    /// Applies the command at `lsn` and returns the reply to whoever proposed it.
    ///
    /// # Errors
    /// Only when this version cannot apply the command: the partition is blocked at `lsn` then, and nothing of the
    /// command is kept. A command that is understood and refused (a compare-and-set that failed, say) is a reply.
    fn apply(&self, lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError>;
}

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// This version cannot apply it: a poison record.
    #[error("{0}")]
    Poison(String),
    /// The state could not be read; the same command may work later.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Changes by key; `None` deletes.
pub type Changes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// The state as one command sees it: what is stored, under what the commands before it changed, under its own changes.
pub struct Transaction<'a> {
    store: &'a dyn StateStore,
    /// Changes of commands before this run, as far as the store may lack them.
    under_way: Option<&'a Changes>,
    /// Changes of this run.
    changes: &'a mut Changes,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        store: &'a dyn StateStore,
        under_way: Option<&'a Changes>,
        changes: &'a mut Changes,
    ) -> Self {
        Transaction {
            store,
            under_way,
            changes,
        }
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let key = keyspace.stored_key(key);
        let changed = self.changes.get(&key).or_else(|| self.under_way?.get(&key));
        match changed {
            Some(changed) => Ok(changed.as_ref().map(|value| value.to_vec())),
            None => self.store.get(&key),
        }
    }

    /// Sets the value of `key`. A value that is a slice of the command's [`Bytes`] is not copied.
    pub fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: impl Into<Bytes>) {
        self.changes.insert(keyspace.stored_key(key), Some(value.into()));
    }

    /// Removes `key`; there need not be one.
    pub fn delete(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.changes.insert(keyspace.stored_key(key), None);
    }
}
