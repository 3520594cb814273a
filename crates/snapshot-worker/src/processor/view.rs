//! Reading a partition's state, and using it from outside.

use super::{
    metadata::StateMetadata,
    propose::{Applied, LeadError, ProposeError, check_size},
    replica::Replica,
    state_machine::Keyspace,
    store::{StateError, StateSnapshot, digest, read_metadata},
};
use crate::core::{LedBody, PartitionState, ReplicaStatus};
use bytes::Bytes;
use snapshot_store::{ChainHash, LeaderEpoch, Leadership, Lsn, PartitionId, ReplicaRole, StateDigest};
use std::sync::Arc;
use tokio::sync::watch;

/// Why a state could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no open state.
    #[error("the partition has no open state: it is {state}")]
    NotOpen {
        /// Where the replica is in its life.
        state: PartitionState,
    },
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A partition's state as it was at one LSN, unmoved by what is applied later.
///
/// While it lives the state cannot be closed or replaced: keep it for a moment, not for minutes. Its methods block
/// their thread when they have to read from disk.
pub struct StateView {
    snapshot: Box<dyn StateSnapshot>,
    metadata: StateMetadata,
    role: ReplicaRole,
    /// Who is told when the state turns out to be damaged, and the number of the state there.
    replica: Arc<Replica>,
    opened: u64,
}

impl StateView {
    /// Returns the LSN whose state this is.
    pub fn applied_lsn(&self) -> Lsn {
        self.metadata.applied_lsn
    }

    /// Returns what this replica was to the partition.
    pub fn role(&self) -> ReplicaRole {
        self.role
    }

    /// Returns the leader at that LSN, and where clients reach it; `None` before the first announcement.
    pub fn leader(&self) -> Option<&(Leadership, String)> {
        self.metadata.leader.as_ref()
    }

    /// Returns the chain hash at that LSN.
    pub fn chain_hash(&self) -> ChainHash {
        self.metadata.chain.hash
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let value = self.snapshot.get(&keyspace.stored_key(key));
        self.replica.note_read(self.opened, &value);
        value
    }

    /// Returns the pairs of `keyspace` from the key `from` on, in key order.
    ///
    /// # Errors
    /// An item is an error when the state cannot be read.
    pub fn scan<'a>(
        &'a self,
        keyspace: &Keyspace,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>> + 'a {
        let prefix = keyspace.prefix;
        let pairs = self.snapshot.scan(&keyspace.stored_key(from)).map(move |pair| {
            self.replica.note_read(self.opened, &pair);
            let (key, value) = pair?;
            match key.split_first() {
                Some((first, key)) if *first == prefix => Ok(Some((key.to_vec(), value.into_vec()))),
                _ => Ok(None),
            }
        });
        pairs.map_while(Result::transpose)
    }
}

/// Digest of a state, and where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFacts {
    /// Digest over all pairs.
    pub digest: StateDigest,
    /// Number of pairs.
    pub pairs: u64,
    /// The LSN whose state it is.
    pub lsn: Lsn,
    /// Chain hash at that LSN.
    pub chain_hash: ChainHash,
}

/// The way to one partition on this node. Clones are the same partition.
#[derive(Clone)]
pub struct PartitionHandle {
    replica: Arc<Replica>,
}

impl PartitionHandle {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        PartitionHandle { replica }
    }

    #[cfg(test)]
    pub(super) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Returns the partition.
    pub fn partition(&self) -> PartitionId {
        self.replica.partition
    }

    /// Proposes `commands`, which are appended together, and returns once each was applied as accepted, with its
    /// LSN and the state machine's answer.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] when they may have been applied, and [`ProposeError::Skipped`] when one of several
    /// will not be; after any other error none of them was, nor ever will be.
    pub async fn propose(&self, commands: Vec<Bytes>) -> Result<Vec<Applied>, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let result = match check_size(&commands) {
            Ok(bytes) => {
                let bodies = commands.into_iter().map(LedBody::Command).collect();
                self.replica.submit(bodies, bytes).await
            }
            Err(error) => Err(error),
        };
        crate::metrics::proposed(result.as_ref().err());
        result
    }

    /// Announces this replica as leader, and returns its term once the announcement was applied.
    ///
    /// # Errors
    /// When another replica was faster, or this one is not active.
    pub async fn lead(&self) -> Result<LeaderEpoch, LeadError> {
        self.replica.announce().await
    }

    /// Returns the state as it is now.
    ///
    /// # Errors
    /// When it is not open, or cannot be read.
    pub fn view(&self) -> Result<StateView, ViewError> {
        let not_open = || ViewError::NotOpen {
            state: self.replica.status.borrow().state.clone(),
        };
        let (opened, store) = self.replica.numbered_store();
        let snapshot = store.ok_or_else(not_open)?.snapshot();
        let metadata = read_metadata(&*snapshot);
        self.replica.note_read(opened, &metadata);
        let metadata = metadata?.ok_or_else(not_open)?;
        let status = self.replica.status.borrow();
        let leads = |(leader, _): &(Leadership, String)| {
            status.role == ReplicaRole::Leader && leader.node == self.replica.node
        };
        let role = match metadata.leader.as_ref().is_some_and(leads) {
            true => ReplicaRole::Leader,
            false => ReplicaRole::Follower,
        };
        drop(status);
        Ok(StateView {
            snapshot,
            metadata,
            role,
            replica: Arc::clone(&self.replica),
            opened,
        })
    }

    /// Reads the whole state once and returns its digest.
    ///
    /// # Errors
    /// When it is not open, or cannot be read.
    pub async fn digest(&self) -> Result<StateFacts, ViewError> {
        let view = self.view()?;
        let keyspaces = self.replica.machine.keyspaces();
        let read = move || {
            let read = digest(&*view.snapshot, keyspaces);
            view.replica.note_read(view.opened, &read);
            let (digest, pairs) = read?;
            Ok(StateFacts {
                digest,
                pairs,
                lsn: view.applied_lsn(),
                chain_hash: view.chain_hash(),
            })
        };
        self.replica.blocking.run(read).await
    }

    /// Returns the status now, without what the agent adds to it (exports, restores, the archived snapshot).
    pub fn status(&self) -> ReplicaStatus {
        self.replica.status.borrow().clone()
    }

    /// Returns the status and its changes, without what the agent adds to it.
    pub fn watch(&self) -> watch::Receiver<ReplicaStatus> {
        self.replica.status.subscribe()
    }
}
