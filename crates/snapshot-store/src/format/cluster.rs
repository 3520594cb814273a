//! `cluster.json`: who the cluster is. Written once, by `cluster init` or a copy of the whole repository, immutable.

use super::{Stored, Unknown};
use crate::vocabulary::{ClusterIdentity, Incarnation, PartitionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How keys are spread over partitions; fixed for the life of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyHash {
    /// The first 8 bytes of BLAKE3 of the key, as a big-endian number, modulo the partition count.
    Blake3Mod,
}

impl KeyHash {
    /// Returns the partition of `key` among `partitions`, which is at least 1.
    pub fn partition_of(self, key: &[u8], partitions: u32) -> PartitionId {
        let KeyHash::Blake3Mod = self;
        let hash = blake3::hash(key);
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        let partition = u64::from_be_bytes(head) % u64::from(partitions.max(1));
        PartitionId::new(u32::try_from(partition).unwrap_or(0))
    }
}

/// Identity and shape of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Name and fingerprint.
    pub cluster: ClusterIdentity,
    /// How many partitions there are, at least 1.
    pub partitions: u32,
    /// How keys are spread over them.
    pub key_hash: KeyHash,
    /// First incarnation of each partition's log.
    pub incarnations: BTreeMap<PartitionId, Incarnation>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The cluster whose snapshots a fork copied here; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ClusterIdentity>,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Stored for ClusterRecord {
    const WHAT: &'static str = "cluster identity";
    const FORMAT: u32 = 1;
}
