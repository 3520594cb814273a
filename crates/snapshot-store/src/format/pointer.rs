//! `<partition>/latest.json`: the pointer, the one object a restore depends on that is ever replaced.

use super::{SnapshotDirectory, Stored, Unknown};
use crate::vocabulary::{
    ClusterIdentity, ContentHash, Incarnation, Lsn, NodeId, PartitionId, ReplicaRole, SnapshotId, Timestamp,
    WriteId,
};
use serde::{Deserialize, Serialize};

/// One retained snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerEntry {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// The log it covers.
    pub incarnation: Incarnation,
    /// Up to where, inclusive.
    pub lsn: Lsn,
    /// Its directory below the partition.
    pub path: SnapshotDirectory,
    /// Bytes of all log records up to `lsn`.
    pub log_bytes: u64,
    /// Number of data files.
    pub files: u32,
    /// Sum of all file sizes.
    pub bytes_total: u64,
    /// How much of it was uploaded by the producer.
    pub bytes_uploaded: u64,
    /// How much of it was copied inside the store.
    #[serde(default)]
    pub bytes_copied: u64,
    /// When it was made, by the producer's clock.
    pub created_at: Timestamp,
    /// Who made it.
    pub node: NodeId,
    /// What that node was to the partition.
    pub role: ReplicaRole,
    /// BLAKE3 of the manifest's bytes.
    pub manifest_hash: ContentHash,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the pointer remembers of a snapshot after it left retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSnapshot {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// The log it covers.
    pub incarnation: Incarnation,
    /// Up to where, inclusive.
    pub lsn: Lsn,
    /// When the pointer began to name it, by the publisher's clock.
    pub published_at: Timestamp,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What can be restored, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// Drawn anew for every write: tells two writes of equal content apart.
    pub write_id: WriteId,
    /// How many of the newest snapshots retention keeps at least.
    pub restorable_snapshots_min: u32,
    /// Retained snapshots, newest `(generation, LSN)` first; never empty.
    pub snapshots: Vec<PointerEntry>,
    /// The last snapshots that were published, newest first, this one included: a writer whose reply was lost
    /// finds itself here, and a delayed trim finds the guard as it stood.
    pub history: Vec<PublishedSnapshot>,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Pointer {
    /// How many snapshots the history remembers.
    pub const HISTORY_MAX: usize = 64;

    /// Returns the latest snapshot; `None` only for a pointer that breaks the format.
    pub fn latest(&self) -> Option<&PointerEntry> {
        self.snapshots.first()
    }

    /// Returns whether `snapshot_id` is among the retained snapshots.
    pub fn retains(&self, snapshot_id: SnapshotId) -> bool {
        self.snapshots
            .iter()
            .any(|entry| entry.snapshot_id == snapshot_id)
    }

    /// Returns whether `snapshot_id` was published, now or a short while ago.
    pub fn has_published(&self, snapshot_id: SnapshotId) -> bool {
        self.history
            .iter()
            .any(|published| published.snapshot_id == snapshot_id)
            || self.retains(snapshot_id)
    }

    /// Returns the `restorable_min` newest snapshots of `incarnation`: what trimming relies on. Fewer when there
    /// are fewer.
    pub fn restorable<'a>(
        &'a self,
        incarnation: &'a Incarnation,
        restorable_min: u32,
    ) -> impl Iterator<Item = &'a PointerEntry> {
        self.snapshots
            .iter()
            .filter(move |entry| entry.incarnation == *incarnation)
            .take(restorable_min as usize)
    }
}

impl Stored for Pointer {
    const WHAT: &'static str = "snapshot pointer";
    const FORMAT: u32 = 1;
}
