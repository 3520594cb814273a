//! Builds and parses the keys below the repository's base; nothing else does.

use crate::vocabulary::{Lsn, PartitionId, SnapshotId};
use std::{fmt, str::FromStr};

/// Keys of the repository, relative to its base.
pub struct Keys;

impl Keys {
    /// Identity of the cluster.
    pub const CLUSTER: &'static str = "cluster.json";
    /// Pauses and sticky holds.
    pub const CONTROL: &'static str = "admin/control.json";
    /// Which of several admins acts.
    pub const LEASE: &'static str = "admin/lease.json";
    /// Prefix under which the capability check writes its probe objects.
    pub const PROBE: &'static str = "admin/probe";

    /// Pointer of a partition.
    pub fn pointer(partition: PartitionId) -> String {
        format!("{partition}/latest.json")
    }

    /// Certificate of the last trim of a partition.
    pub fn certificate(partition: PartitionId) -> String {
        format!("{partition}/trim.json")
    }

    /// Manifest in a snapshot directory.
    pub fn manifest(partition: PartitionId, directory: &SnapshotDirectory) -> String {
        format!("{partition}/{directory}/metadata.json")
    }

    /// A data file in a snapshot directory.
    pub fn file(partition: PartitionId, directory: &SnapshotDirectory, name: &str) -> String {
        format!("{partition}/{directory}/{name}")
    }
}

/// Name of a snapshot's directory: `<generation, 10 digits>-<lsn, 20 digits>_<snapshot id>`.
///
/// Generation and LSN stand in the name so that a directory without a manifest can still be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotDirectory {
    /// Generation of the log's incarnation.
    pub generation: u64,
    /// The snapshot's LSN.
    pub lsn: Lsn,
    /// The attempt.
    pub snapshot_id: SnapshotId,
}

impl fmt::Display for SnapshotDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:020}_{}", self.generation, self.lsn, self.snapshot_id)
    }
}

impl FromStr for SnapshotDirectory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = (|| {
            let (position, id) = text.split_once('_')?;
            let (generation, lsn) = position.split_once('-')?;
            Some(SnapshotDirectory {
                generation: generation.parse().ok()?,
                lsn: Lsn::new(lsn.parse().ok()?),
                snapshot_id: id.parse().ok()?,
            })
        })();
        // Printing it again must give the same text: a name that is merely similar is not ours.
        parsed
            .filter(|directory| directory.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not the name of a snapshot directory"))
    }
}

impl serde::Serialize for SnapshotDirectory {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SnapshotDirectory {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as serde::Deserialize>::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
