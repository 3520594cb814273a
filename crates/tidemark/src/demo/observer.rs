//! What is seen while the demo runs: every snapshot that was published, how far trims went, and whether a trim
//! ever went further than the pointer's snapshots reach.

use super::report::SnapshotReport;
use crate::cluster::Endpoints;
use snapshot_store::{PartitionId, Repository};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const INTERVAL: Duration = Duration::from_millis(200);

/// What was seen of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionHistory {
    /// All snapshots ever seen in the pointer, by LSN and id.
    pub(super) snapshots: BTreeMap<(u64, String), SnapshotReport>,
    /// Trim points in the order in which they were seen, without 0.
    pub(super) trim_points: Vec<u64>,
}

/// What was seen of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) partitions: BTreeMap<u32, PartitionHistory>,
    /// Sentences about what must never be.
    pub(super) violations: Vec<String>,
}

impl History {
    /// Returns what was seen of `partition`.
    pub(super) fn partition(&self, partition: u32) -> PartitionHistory {
        self.partitions.get(&partition).cloned().unwrap_or_default()
    }
}

/// Looks again and again until it is dropped.
#[derive(Debug)]
pub(super) struct Observer {
    history: Arc<Mutex<History>>,
    task: tokio::task::JoinHandle<()>,
}

impl Observer {
    pub(super) fn start(endpoints: Endpoints, repository: Repository, partitions: u32) -> Self {
        let history = Arc::new(Mutex::new(History::default()));
        let task = tokio::spawn({
            let history = history.clone();
            async move {
                loop {
                    look(&endpoints, &repository, partitions, &history).await;
                    tokio::time::sleep(INTERVAL).await;
                }
            }
        });
        Observer { history, task }
    }

    /// Returns what was seen so far.
    pub(super) fn history(&self) -> History {
        lock(&self.history).clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks once. An admin or a store that does not answer is not looked at this time.
async fn look(endpoints: &Endpoints, repository: &Repository, partitions: u32, history: &Mutex<History>) {
    // The trim points first: what the pointer covers only grows, so that a later pointer must cover them too.
    let trim_points: BTreeMap<u32, u64> = match endpoints.cluster_status().await {
        Ok(status) => {
            let known = |view: snapshot_proto::v1::PartitionView| Some((view.partition, view.trim_point?));
            status.partitions.into_iter().filter_map(known).collect()
        }
        Err(_) => BTreeMap::new(),
    };
    for partition in 0..partitions {
        let Ok(Some(pointer)) = repository.pointer(PartitionId::new(partition)).await else {
            continue;
        };
        let pointer = pointer.value;
        let mut history = lock(history);
        let trim_point = trim_points.get(&partition).copied().unwrap_or(0);
        let restorable = pointer
            .snapshots
            .iter()
            .take(pointer.restorable_snapshots_min as usize);
        let guard = restorable.map(|entry| entry.lsn.get()).min().unwrap_or(0);
        if trim_point > guard {
            history.violations.push(format!(
                "partition {partition}: trimmed up to {trim_point}, but the oldest restorable snapshot is at {guard}"
            ));
        }
        let seen = history.partitions.entry(partition).or_default();
        if trim_point > seen.trim_points.last().copied().unwrap_or(0) {
            seen.trim_points.push(trim_point);
        }
        for entry in &pointer.snapshots {
            let report = SnapshotReport {
                snapshot_id: entry.snapshot_id.to_string(),
                lsn: entry.lsn.get(),
                node: entry.node.to_string(),
                role: entry.role.as_str(),
                bytes_total: entry.bytes_total,
                bytes_uploaded: entry.bytes_uploaded,
                bytes_copied: entry.bytes_copied,
            };
            seen.snapshots
                .insert((report.lsn, report.snapshot_id.clone()), report);
        }
    }
}
