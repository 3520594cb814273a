//! `<partition>/trim.json`: the durable record of why the last trim was safe.

use super::{Pointer, SnapshotDirectory, Stored, Unknown};
use crate::vocabulary::{
    ClusterIdentity, ContentHash, Incarnation, Lsn, NodeId, PartitionId, SnapshotId, Timestamp, WriteId,
};
use serde::{Deserialize, Serialize};

/// How thoroughly a snapshot was checked; each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// Manifest and all files are there with their sizes.
    Presence,
    /// All files have the hashes the manifest names.
    Content,
    /// The snapshot was opened and read through.
    Restore,
}

impl VerifyLevel {
    /// Returns the word used in configuration, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            VerifyLevel::Presence => "presence",
            VerifyLevel::Content => "content",
            VerifyLevel::Restore => "restore",
        }
    }
}

/// One snapshot that a trim relied on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifiedSnapshot {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its directory below the partition.
    pub path: SnapshotDirectory,
    /// BLAKE3 of the manifest's bytes.
    pub manifest_hash: ContentHash,
    /// How thoroughly it was checked.
    pub verified: VerifyLevel,
    /// Which node checked it.
    pub verified_by: NodeId,
    /// When.
    pub verified_at: Timestamp,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Why trimming a partition's log up to `up_to` was safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The log it speaks of.
    pub incarnation: Incarnation,
    /// Drawn anew for every write.
    pub write_id: WriteId,
    /// Highest LSN that may be trimmed, inclusive.
    pub up_to: Lsn,
    /// The snapshots it rests on, newest first. Retention keeps them.
    pub snapshots: Vec<CertifiedSnapshot>,
    /// The admin that issued it.
    pub issued_by: NodeId,
    /// When.
    pub issued_at: Timestamp,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Certificate {
    /// Returns whether the certificate rests on `snapshot_id`.
    pub fn names(&self, snapshot_id: SnapshotId) -> bool {
        self.snapshots
            .iter()
            .any(|snapshot| snapshot.snapshot_id == snapshot_id)
    }

    /// Returns its snapshots that `pointer` does not retain, newest first. A swap that was decided before the certificate
    /// was written may evict what that names: the two objects cannot change together. What a certificate in force names
    /// stays in the store all the same.
    pub fn unretained<'a>(
        &'a self,
        pointer: Option<&'a Pointer>,
    ) -> impl Iterator<Item = &'a CertifiedSnapshot> {
        let retains = move |id| pointer.is_some_and(|pointer| pointer.retains(id));
        self.snapshots
            .iter()
            .filter(move |snapshot| !retains(snapshot.snapshot_id))
    }

    /// Returns the lowest LSN among its snapshots.
    pub fn oldest_lsn(&self) -> Option<Lsn> {
        self.snapshots.iter().map(|snapshot| snapshot.lsn).min()
    }
}

impl Stored for Certificate {
    const WHAT: &'static str = "trim certificate";
    const FORMAT: u32 = 1;
}
