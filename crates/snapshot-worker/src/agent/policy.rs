//! The admin's policy as it arrives with a poll.

use snapshot_store::{PartitionId, Timestamp};
use std::collections::BTreeSet;

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
}
