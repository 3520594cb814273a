//! Which workers there are: configured at the start, or told by the host's own discovery while the scheduler runs.

use crate::{client::WorkerSpec, core::NodeView, handle::SchedulerHandle, state::NodeMemory};
use snapshot_store::{NodeId, PartitionId};
use std::collections::{BTreeMap, BTreeSet};

/// The workers by their ids.
pub(crate) type Workers = BTreeMap<NodeId, WorkerSpec>;

/// Workers that cannot be those of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkersFault {
    /// Two have the same node id.
    #[error("worker {node} is given twice: node ids must be unique")]
    Duplicate {
        /// The node.
        node: NodeId,
    },
    /// One is expected to host a partition the cluster does not have.
    #[error("worker {node} is given with partition {partition}, the cluster has 0 to {last}")]
    UnknownPartition {
        /// The node.
        node: NodeId,
        /// The partition.
        partition: PartitionId,
        /// The highest partition.
        last: u32,
    },
}

/// How the workers changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkersChange {
    /// Workers that were not there before.
    pub added: Vec<NodeId>,
    /// Workers that are no longer there.
    pub removed: Vec<NodeId>,
}

/// Brings workers into order.
pub(crate) fn index(workers: Vec<WorkerSpec>, partitions: u32) -> Result<Workers, WorkersFault> {
    let mut index = BTreeMap::new();
    for worker in workers {
        let node = worker.node.clone();
        let unknown = worker.partitions.iter().find(|id| id.get() >= partitions);
        if let Some(partition) = unknown.copied() {
            let last = partitions.saturating_sub(1);
            return Err(WorkersFault::UnknownPartition {
                node,
                partition,
                last,
            });
        }
        if index.insert(node.clone(), worker).is_some() {
            return Err(WorkersFault::Duplicate { node });
        }
    }
    Ok(index)
}

/// Returns which nodes each partition is expected on.
pub(crate) fn expected(workers: &Workers) -> BTreeMap<PartitionId, BTreeSet<NodeId>> {
    let mut expected: BTreeMap<PartitionId, BTreeSet<NodeId>> = BTreeMap::new();
    for (node, worker) in workers {
        for partition in &worker.partitions {
            expected.entry(*partition).or_default().insert(node.clone());
        }
    }
    expected
}

impl SchedulerHandle {
    /// Replaces the workers: for a host that discovers them by itself. They are polled at once.
    ///
    /// Give all that belong to the cluster, whether they answer or not: a worker that is left out no longer keeps its
    /// logs from being trimmed past what it needs, and would have to restore. A new one holds the trims of its partitions
    /// until it was heard, or `gone_after_ms` has passed.
    ///
    /// # Errors
    /// When they contradict each other or the cluster; then the old ones stay.
    pub fn set_workers(&self, workers: Vec<WorkerSpec>) -> Result<WorkersChange, WorkersFault> {
        let partitions = u32::try_from(self.partitions()).unwrap_or(u32::MAX);
        let workers = index(workers, partitions)?;
        let mut expected = expected(&workers);
        let ctx = &self.ctx;
        let mut state = ctx.lock();
        let before: BTreeSet<NodeId> = state.view.nodes.keys().cloned().collect();
        let after: BTreeSet<NodeId> = workers.keys().cloned().collect();
        let change = WorkersChange {
            added: after.difference(&before).cloned().collect(),
            removed: before.difference(&after).cloned().collect(),
        };
        let known_since = ctx.now();
        for node in &change.added {
            let view = NodeView {
                known_since,
                ..NodeView::default()
            };
            state.view.nodes.insert(node.clone(), view);
            state.nodes.insert(node.clone(), NodeMemory::default());
        }
        for node in &change.removed {
            state.view.nodes.remove(node);
            state.nodes.remove(node);
        }
        let ids: Vec<PartitionId> = state.view.partitions.keys().copied().collect();
        for id in ids {
            let Some((view, _)) = state.partition(id) else {
                continue;
            };
            view.expected = expected.remove(&id).unwrap_or_default();
            let mut forgotten = false;
            for node in &change.removed {
                forgotten |= view.replicas.remove(node).is_some();
            }
            if forgotten {
                state.refresh_suspected(id);
            }
        }
        ctx.replace_workers(workers);
        drop(state);
        if change != WorkersChange::default() {
            tracing::info!(added = ?change.added, removed = ?change.removed, "the workers changed");
        }
        ctx.poll_wake.notify_one();
        ctx.wake.notify_one();
        Ok(change)
    }
}
