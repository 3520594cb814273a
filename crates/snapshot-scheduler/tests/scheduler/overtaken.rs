//! Snapshots are published while an admin reads: what it read first must not look like damage beside what it read last.

use crate::{
    cluster::{Cluster, p, policy},
    holds::trimmed_by,
};
use async_trait::async_trait;
use partition_log::{LogError, LogInfo};
use snapshot_scheduler::{ClusterLog, SchedulerOptions};
use snapshot_store::{Incarnation, Lsn, PartitionId, core::HoldReason};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A log that grows, and gets a snapshot of its new end, while its answer is under way.
struct Overtaken {
    cluster: Arc<Cluster>,
    times_left: Arc<AtomicUsize>,
}

#[async_trait]
impl ClusterLog for Overtaken {
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let info = ClusterLog::info(&self.cluster.shared.log, partition).await;
        let less = |left: usize| left.checked_sub(1);
        if self
            .times_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            let last = self.cluster.append(partition, 50).await;
            self.cluster.publish("w2", partition, last).await;
        }
        info
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        ClusterLog::trim(&self.cluster.shared.log, partition, incarnation, up_to).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_published_while_an_admin_reads_does_not_look_like_a_log_that_lost_records() {
    let cluster = Arc::new(Cluster::new(1).await);
    let times_left = Arc::new(AtomicUsize::new(0));
    let log = Overtaken {
        cluster: cluster.clone(),
        times_left: times_left.clone(),
    };
    let running = cluster.start_with("admin", policy(), SchedulerOptions::default(), |builder| {
        builder.log(Arc::new(log))
    });
    let running = trimmed_by(&cluster, running).await;
    let before = cluster.trim_point(p(0)).await;
    times_left.store(200, Ordering::SeqCst);
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_ne!(running.trim_code(0), HoldReason::LogRegressed.as_str());
    }
    assert!(times_left.load(Ordering::SeqCst) < 150, "it was overtaken");
    assert!(
        cluster.trim_point(p(0)).await > before,
        "and trimmed all the same"
    );
    running.stop().await;
}
