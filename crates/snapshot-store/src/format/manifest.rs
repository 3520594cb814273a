//! `metadata.json`: the immutable description of one snapshot.

use super::{SnapshotDirectory, Stored, Unknown};
use crate::vocabulary::{
    ChainHash, ClusterIdentity, ContentHash, Fingerprint, Incarnation, Leadership, Lsn, NodeId, PartitionId,
    ReplicaRole, RequestId, SnapshotId, StateDigest, Timestamp,
};
use serde::{Deserialize, Serialize};

/// The chain hash at one LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainPoint {
    /// The LSN.
    pub lsn: Lsn,
    /// The hash after that record.
    pub hash: ChainHash,
}

/// The chain hash at the state's own LSN and at the last multiples of [`ChainTrail::SPACING`] before it, so that
/// replicas and snapshots can be compared at equal LSNs.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainTrail(pub Vec<ChainPoint>);

impl ChainTrail {
    /// Distance of the LSNs at which the hash is remembered.
    pub const SPACING: u64 = 1024;
    /// How many multiples of the spacing are remembered.
    pub const LENGTH_MAX: usize = 64;

    /// Returns the first LSN at which both trails have a point and the hashes differ. Trails without a common LSN
    /// say nothing.
    pub fn first_mismatch(&self, other: &ChainTrail) -> Option<Lsn> {
        let differs = |point: &&ChainPoint| {
            other
                .0
                .iter()
                .any(|theirs| theirs.lsn == point.lsn && theirs.hash != point.hash)
        };
        self.0.iter().filter(differs).map(|point| point.lsn).min()
    }
}

/// Name and version of the state machine whose state a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateMachineVersion {
    /// Its name; a state of another name is never opened.
    pub name: String,
    /// Version of the stored state; a newer one is never opened.
    pub version: u32,
}

/// Which part of the key space the partition owns: the keys whose hash falls to `partition` among `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRange {
    /// Number of this partition.
    pub partition: u32,
    /// How many partitions share the key space.
    pub of: u32,
}

/// Who made a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// The node.
    pub node: NodeId,
    /// What it was to the partition at that moment.
    pub role: ReplicaRole,
}

/// Where a forked snapshot came from. Its files are those of the source, so the state in them still carries the
/// identity named here; a replica that restores it makes the state its own cluster's.
///
/// A forked snapshot that is forked again keeps the origin it has, for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The cluster it was taken from.
    pub cluster: ClusterIdentity,
    /// The incarnation it was made under.
    pub incarnation: Incarnation,
    /// Its id there.
    pub snapshot_id: SnapshotId,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Name inside the snapshot directory: no separators, not `metadata.json`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub hash: ContentHash,
    /// How often in a row these bytes were copied inside the store, from one snapshot to the next, since they were
    /// last uploaded; 0 when they were uploaded for this one.
    #[serde(default)]
    pub copies: u32,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The immutable description of one snapshot. All facts about the state are read from the finished checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The log whose records up to `lsn` it holds.
    pub incarnation: Incarnation,
    /// This attempt.
    pub snapshot_id: SnapshotId,
    /// The LSN whose state it holds, exactly.
    pub lsn: Lsn,
    /// Chain hashes at `lsn` and before; absent when the host keeps none.
    pub chain: Option<ChainTrail>,
    /// Digest over all pairs of the state; absent when the host computes none.
    pub state_digest: Option<StateDigest>,
    /// Leader at `lsn`; absent when the host keeps none in the state.
    pub leader: Option<Leadership>,
    /// Bytes of all records up to `lsn`, as appended.
    pub log_bytes: u64,
    /// State machine that wrote the state.
    pub state_machine: StateMachineVersion,
    /// Part of the key space.
    pub key_range: KeyRange,
    /// Who made it.
    pub producer: Producer,
    /// The request it answers; absent when nobody asked.
    pub request_id: Option<RequestId>,
    /// Where it was forked from; absent otherwise.
    pub origin: Option<Origin>,
    /// When the checkpoint was taken, by the producer's clock.
    pub created_at: Timestamp,
    /// Sum of all file sizes.
    pub bytes_total: u64,
    /// How much of it was uploaded by the producer.
    pub bytes_uploaded: u64,
    /// How much of it was copied inside the store from snapshots that were there already.
    #[serde(default)]
    pub bytes_copied: u64,
    /// All files, sorted by name.
    pub files: Vec<ManifestFile>,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Manifest {
    /// Name of the manifest inside its directory.
    pub const FILE_NAME: &'static str = "metadata.json";

    /// Returns the cluster and the log whose identity the state in the files carries: those of `origin` in a
    /// forked snapshot, and otherwise the snapshot's own.
    pub fn state_identity(&self) -> (Fingerprint, Incarnation) {
        match &self.origin {
            Some(origin) => (origin.cluster.fingerprint, origin.incarnation),
            None => (self.cluster.fingerprint, self.incarnation),
        }
    }

    /// Returns the chain hash at the snapshot's own LSN: what the log of a fork continues from. `None` when the
    /// host keeps no chain.
    pub fn chain_hash(&self) -> Option<ChainHash> {
        let points = &self.chain.as_ref()?.0;
        points
            .iter()
            .find(|point| point.lsn == self.lsn)
            .map(|point| point.hash)
    }

    /// Returns the directory this snapshot lives in.
    pub fn directory(&self) -> SnapshotDirectory {
        SnapshotDirectory {
            generation: self.incarnation.generation,
            lsn: self.lsn,
            snapshot_id: self.snapshot_id,
        }
    }
}

impl Stored for Manifest {
    const WHAT: &'static str = "snapshot manifest";
    const FORMAT: u32 = 1;
}
