//! The seam between the snapshot agent and the service that owns the partition's state.

use super::repair::{RebuildAnswer, RebuildError, SkipError, SkipOrder};
use crate::core::{PoisonRecord, ReplicaStatus};
use async_trait::async_trait;
use partition_log::Registration;
use serde::{Deserialize, Serialize};
use snapshot_store::{
    Fingerprint, Incarnation, LeaderEpoch, Leadership, Lsn, PartitionId, StateDigest,
    format::{ChainTrail, KeyRange, Manifest, StateMachineVersion},
};
use std::path::{Path, PathBuf};

/// Facts about a state, read from a finished checkpoint that was opened read-only, not from memory.
///
/// A host may keep them in the state as they are, written together with the data: fields that a later version brings will
/// be optional in their serialised form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFacts {
    /// The LSN whose state it holds.
    pub lsn: Lsn,
    /// The log its records came from.
    pub incarnation: Incarnation,
    /// The cluster it belongs to.
    pub fingerprint: Fingerprint,
    /// Chain hashes; `None` when the host keeps none.
    pub chain: Option<ChainTrail>,
    /// Leader at `lsn`; `None` when the host keeps none in the state.
    pub leader: Option<Leadership>,
    /// Bytes of all records up to `lsn`.
    pub log_bytes: u64,
    /// The state machine that wrote the state.
    pub state_machine: StateMachineVersion,
    /// Digest over all pairs, from reading the state through once; `None` when the host computes none.
    pub state_digest: Option<StateDigest>,
    /// Part of the key space.
    pub key_range: KeyRange,
}

impl CheckpointFacts {
    /// Returns the facts of a state that has applied nothing of the log in `registration`, without the optional ones. It
    /// is at [`Lsn::ZERO`] also where the log has a base: that one's state has to be restored.
    pub fn empty(
        registration: &Registration,
        key_range: KeyRange,
        state_machine: StateMachineVersion,
    ) -> Self {
        CheckpointFacts {
            lsn: Lsn::ZERO,
            incarnation: registration.incarnation,
            fingerprint: registration.fingerprint,
            chain: None,
            leader: None,
            log_bytes: 0,
            state_machine,
            state_digest: None,
            key_range,
        }
    }

    /// Returns what a follower says of itself that is opening and whose durable state this is; the host sets its real
    /// role and state on top.
    pub fn status(&self) -> ReplicaStatus {
        let partition = PartitionId::new(self.key_range.partition);
        ReplicaStatus {
            incarnation: Some(self.incarnation),
            applied_lsn: Some(self.lsn),
            durable_lsn: Some(self.lsn),
            needed: Some((self.lsn, self.log_bytes)),
            log_bytes: Some(self.log_bytes),
            chain: self.chain.clone().unwrap_or_default(),
            ..ReplicaStatus::new(partition, self.state_machine.clone())
        }
    }
}

/// Why a host did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The files in the folder are not a readable state: a damaged snapshot, or a damaged local state.
    #[error("the state cannot be read: {0}")]
    Corrupt(String),
    /// The state is readable and not what was expected (other cluster, partition, or a newer state machine).
    #[error("the state does not fit: {0}")]
    Mismatch(String),
    /// The host cannot do this now (not the leader, not open, shutting down).
    #[error("{0}")]
    Unavailable(String),
    /// The disk has no room for it, or none beside its reserve.
    #[error("the disk is full: {0}")]
    NoSpace(String),
    /// The host never does this.
    #[error("not supported by this service")]
    Unsupported,
    /// Disk trouble.
    #[error("input or output failed")]
    Io(#[from] std::io::Error),
}

impl HostError {
    /// Whether all it takes is room on the disk.
    pub fn is_full_disk(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            HostError::NoSpace(_) => true,
            HostError::Io(error) => {
                matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// A partition whose state somebody else owns: what the snapshot agent needs of it.
///
/// Methods may run for as long as their work takes; the agent bounds how many run at once.
#[async_trait]
pub trait PartitionHost: Send + Sync + 'static {
    /// Returns what the replica says of itself now. Cheap; called at every poll. The agent overwrites `export`,
    /// `restore`, `last_restore`, `archived` and `damaged` with its own knowledge.
    fn status(&self) -> ReplicaStatus;

    /// Flushes and makes a checkpoint in `dir`, which does not exist yet; hard links on the same file system.
    async fn checkpoint(&self, dir: &Path) -> Result<(), HostError>;

    /// Opens the state in `dir` read-only, reads all of it once (so that damaged blocks show), and returns its
    /// facts. Leaves `dir` as it is.
    async fn inspect(&self, dir: &Path) -> Result<CheckpointFacts, HostError>;

    /// Replaces the local state by the one in `dir`, which was verified against `manifest`, in one step. The old
    /// state goes only when the new one is in place. `dir` is moved away, or holds the old state afterwards; what is in it
    /// then is removed by the agent.
    ///
    /// With `manifest.origin` the snapshot was forked from another cluster, and the state in `dir` still says that it
    /// belongs to that one ([`Manifest::state_identity`]). The host then first makes it say `manifest.cluster` and
    /// `manifest.incarnation`, durably and in `dir`, where nobody looks after a crash, and only then puts it in
    /// place: no crash may leave a local state of mixed or foreign identity. LSN, chain hash, leader epoch and data
    /// stay as they are, because the fork's log goes on from them; addresses of the source's nodes are forgotten, or
    /// clients of the fork would be sent to the source. A host whose state says nothing of cluster and log has nothing
    /// to do.
    async fn install(&self, dir: &Path, manifest: &Manifest) -> Result<(), HostError>;

    /// Returns the folder of the present local state, however stale, when its `.sst` and `.blob` files are written once and
    /// never changed: a restore links those that fit instead of downloading them, after hashing them. The folder may be
    /// in use meanwhile. `None`: everything is downloaded.
    fn reusable_files(&self) -> Option<PathBuf> {
        None
    }

    /// Appends a record that changes nothing and returns its LSN. Only a leader can.
    async fn advance(&self) -> Result<Lsn, HostError> {
        Err(HostError::Unsupported)
    }

    /// Announces itself as leader, and returns the term once the announcement was applied.
    async fn lead(&self) -> Result<LeaderEpoch, HostError> {
        Err(HostError::Unsupported)
    }

    /// Returns the record the replica is blocked at because it cannot apply it; `None` when none is in its way.
    fn poison(&self) -> Option<PoisonRecord> {
        None
    }

    /// Appends the order to pass over the record the replica is blocked at, and returns where the order stands.
    /// Only a replica that is blocked at exactly this record may.
    async fn skip(&self, _order: SkipOrder) -> Result<Lsn, SkipError> {
        Err(SkipError::Unsupported)
    }

    /// Sets the local state aside and begins to get another one, provided that one can be had; a `dry_run` only
    /// says what would be done.
    async fn rebuild(&self, _dry_run: bool) -> RebuildAnswer {
        Err(RebuildError::Unsupported)
    }
}
