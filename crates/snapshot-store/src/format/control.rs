//! `admin/control.json`: pauses and sticky holds. Every admin obeys it; a missing one is unreadable.

use super::{Stored, Unknown};
use crate::vocabulary::{ClusterIdentity, PartitionId, Timestamp, WriteId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a pause covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseScope {
    /// All partitions.
    Cluster,
    /// One partition.
    Partition(PartitionId),
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PauseScope::Cluster => f.write_str("cluster"),
            PauseScope::Partition(partition) => write!(f, "partition {partition}"),
        }
    }
}

/// An operator's order to leave a partition, or all of them, alone: no snapshot, no trim, no deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What it covers.
    pub scope: PauseScope,
    /// Who ordered it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// URL of the repository that took this one's place: the pause is a seal. Absent for any other pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Why a hold outlives the admin that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StickyReason {
    /// Two replicas, or a replica and a snapshot, differ at the same LSN.
    ChainMismatch,
    /// The log lost records that a replica or a snapshot has.
    LogRegressed,
    /// A restorable snapshot is damaged.
    DamagedSnapshot,
}

/// A hold that only an operator or a proof of repair clears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyHold {
    /// The partition that is held.
    pub partition: PartitionId,
    /// Why.
    pub reason: StickyReason,
    /// When it was set.
    pub since: Timestamp,
    /// What was seen.
    pub detail: String,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Pauses and sticky holds of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// Drawn anew for every write.
    pub write_id: WriteId,
    /// Pauses in force.
    pub pauses: Vec<Pause>,
    /// Sticky holds in force.
    pub holds: Vec<StickyHold>,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Control {
    /// Returns the control state of a new cluster: nothing paused, nothing held.
    pub fn empty(cluster: ClusterIdentity, write_id: WriteId) -> Self {
        Control {
            cluster,
            write_id,
            pauses: Vec::new(),
            holds: Vec::new(),
            unknown: Unknown::default(),
        }
    }

    /// Returns the pause that covers `partition`, the cluster-wide one first.
    pub fn pause_of(&self, partition: PartitionId) -> Option<&Pause> {
        let covering = |scope| self.pauses.iter().find(move |pause| pause.scope == scope);
        covering(PauseScope::Cluster).or_else(|| covering(PauseScope::Partition(partition)))
    }

    /// Returns the seal of a repository that was moved elsewhere.
    pub fn seal(&self) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.moved_to.is_some())
    }

    /// Returns the sticky holds of `partition`.
    pub fn holds_of(&self, partition: PartitionId) -> impl Iterator<Item = &StickyHold> {
        self.holds.iter().filter(move |hold| hold.partition == partition)
    }
}

impl Stored for Control {
    const WHAT: &'static str = "control state";
    const FORMAT: u32 = 1;
}
