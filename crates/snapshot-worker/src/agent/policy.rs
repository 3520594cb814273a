//! The admin's policy as it arrives with a poll.

use snapshot_store::{PartitionId, Timestamp};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// What a worker needs of the admin's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPolicy {
    /// The admin that sent it.
    pub admin: String,
    /// When it arrived, by this node's clock.
    pub received_at: Timestamp,
    /// Records after which a snapshot is due.
    pub snapshot_after_records: u64,
    /// Log bytes after which a snapshot is due.
    pub snapshot_after_bytes: u64,
    /// How many of the newest snapshots retention keeps at least.
    pub restorable_snapshots_min: u32,
    /// Whether the cluster was paused, or that was not known.
    pub paused: bool,
    /// Partitions that were paused or held for themselves.
    pub paused_partitions: BTreeSet<PartitionId>,
    /// Other thresholds for ranges of partitions.
    pub overrides: Vec<ThresholdOverride>,
}

/// Thresholds of a range of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdOverride {
    /// The partitions, both ends inclusive.
    pub partitions: RangeInclusive<PartitionId>,
    /// Records after which a snapshot of them is due; 0 when none are.
    pub snapshot_after_records: u64,
    /// Log bytes after which a snapshot of them is due; 0 when none are.
    pub snapshot_after_bytes: u64,
}

impl WorkerPolicy {
    /// Returns after how many records, and after how many log bytes, a snapshot of `partition` is due.
    pub fn thresholds(&self, partition: PartitionId) -> (u64, u64) {
        let of_range = self
            .overrides
            .iter()
            .find(|rule| rule.partitions.contains(&partition));
        match of_range {
            Some(rule) => (rule.snapshot_after_records, rule.snapshot_after_bytes),
            None => (self.snapshot_after_records, self.snapshot_after_bytes),
        }
    }
}
