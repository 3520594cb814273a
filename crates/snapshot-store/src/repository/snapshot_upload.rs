//! What is published: a finished checkpoint and what is known of it.

use super::upload::bytes_of;
use crate::{
    core::PointerCandidate,
    format::{
        ChainTrail, KeyRange, Manifest, ManifestFile, Pointer, Producer, SnapshotDirectory,
        StateMachineVersion, Unknown,
    },
    vocabulary::{
        ClusterIdentity, Incarnation, Leadership, Lsn, PartitionId, RequestId, SnapshotId, StateDigest,
        Timestamp,
    },
};
use std::path::PathBuf;

/// How many of the newest snapshots retention keeps when nobody said anything.
const RESTORABLE_SNAPSHOTS_MIN_DEFAULT: u32 = 2;
/// A finished checkpoint and what is known of it.
#[derive(Clone, Debug)]
pub struct SnapshotUpload {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The log whose records up to `lsn` it holds.
    pub incarnation: Incarnation,
    /// This attempt: drawn anew for every one, never reused.
    pub snapshot_id: SnapshotId,
    /// The LSN whose state it holds, exactly.
    pub lsn: Lsn,
    /// Chain hashes; absent when the host keeps none.
    pub chain: Option<ChainTrail>,
    /// Digest over all pairs of the state; absent when the host computes none.
    pub state_digest: Option<StateDigest>,
    /// Leader at `lsn`; absent when the host keeps none.
    pub leader: Option<Leadership>,
    /// Bytes of all records up to `lsn`.
    pub log_bytes: u64,
    /// State machine that wrote the state.
    pub state_machine: StateMachineVersion,
    /// Part of the key space.
    pub key_range: KeyRange,
    /// Who made it.
    pub producer: Producer,
    /// The request it answers; absent when nobody asked.
    pub request_id: Option<RequestId>,
    /// When the checkpoint was taken.
    pub created_at: Timestamp,
    /// The finished checkpoint. All files in it are uploaded; folders in it are refused.
    pub dir: PathBuf,
    /// How many of the newest snapshots retention must keep; absent when the publisher was not told.
    pub restorable_snapshots_min: Option<u32>,
    /// Whether that number may be lower than what the pointer says: only for an admin's explicit request.
    pub lower_restorable_min: bool,
    /// The log's incarnation and trim point, where known: without a pointer, a new one must not lie below.
    pub trimmed: Option<(Incarnation, Lsn)>,
    /// Snapshots known to be damaged. The agent does not count them as coverage; publishing itself makes no
    /// difference, because the pointer must grow strictly over them too.
    pub distrusted: Vec<SnapshotId>,
}

impl SnapshotUpload {
    /// Returns the directory it is uploaded to.
    pub fn directory(&self) -> SnapshotDirectory {
        SnapshotDirectory {
            generation: self.incarnation.generation,
            lsn: self.lsn,
            snapshot_id: self.snapshot_id,
        }
    }

    pub(super) fn candidate(&self) -> PointerCandidate<'_> {
        PointerCandidate {
            cluster: &self.cluster,
            partition: self.partition,
            incarnation: self.incarnation,
            lsn: self.lsn,
            snapshot_id: self.snapshot_id,
        }
    }

    pub(super) fn manifest(&self, files: Vec<ManifestFile>) -> Manifest {
        let bytes_total = bytes_of(&files);
        let copied = files.iter().filter(|file| file.copies > 0);
        let bytes_copied = copied.map(|file| file.bytes).sum();
        Manifest {
            cluster: self.cluster.clone(),
            partition: self.partition,
            incarnation: self.incarnation,
            snapshot_id: self.snapshot_id,
            lsn: self.lsn,
            chain: self.chain.clone(),
            state_digest: self.state_digest,
            leader: self.leader.clone(),
            log_bytes: self.log_bytes,
            state_machine: self.state_machine.clone(),
            key_range: self.key_range,
            producer: self.producer.clone(),
            request_id: self.request_id,
            origin: None,
            created_at: self.created_at,
            bytes_total,
            bytes_uploaded: bytes_total - bytes_copied,
            bytes_copied,
            files,
            unknown: Unknown::default(),
        }
    }

    pub(super) fn restorable_min(&self, current: Option<&Pointer>) -> u32 {
        let standing = current.map(|pointer| pointer.restorable_snapshots_min);
        let kept = match self.restorable_snapshots_min {
            Some(told) if self.lower_restorable_min => Some(told),
            told => told.max(standing),
        };
        kept.unwrap_or(RESTORABLE_SNAPSHOTS_MIN_DEFAULT).max(1)
    }
}
