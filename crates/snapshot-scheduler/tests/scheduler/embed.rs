//! The scheduler inside a host: a log of its own, workers that it discovers by itself.

use crate::cluster::{Cluster, Running, node, p, policy};
use async_trait::async_trait;
use partition_log::{Log, LogAdmin, LogError, LogInfo, memory::MemoryLog};
use snapshot_proto::v1;
use snapshot_scheduler::{
    ClusterLog, SchedulerOptions, WorkerClient, WorkerSpec, WorkersChange, WorkersFault,
};
use snapshot_store::{Incarnation, Lsn, PartitionId, core::HoldReason};
use std::{sync::Arc, time::Duration};

/// A host's log: the two methods that the admin needs, and nothing else.
struct HostLog(MemoryLog);

#[async_trait]
impl ClusterLog for HostLog {
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        Log::info(&self.0, partition).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        LogAdmin::trim(&self.0, partition, incarnation, up_to).await
    }
}

fn specs(cluster: &Cluster, names: &[&str]) -> Vec<WorkerSpec> {
    let workers = cluster
        .workers
        .iter()
        .filter(|worker| names.contains(&worker.node.as_str()));
    workers
        .map(|worker| WorkerSpec {
            node: worker.node.clone(),
            address: format!("http://{}", worker.node),
            partitions: vec![p(0)],
            client: worker.clone() as Arc<dyn WorkerClient>,
        })
        .collect()
}

/// An admin that was told of no worker yet.
fn start(cluster: &Cluster) -> Running {
    let log = Arc::new(HostLog(cluster.shared.log.clone()));
    cluster.start_with("admin", policy(), SchedulerOptions::default(), |builder| {
        builder.log(log).workers(Vec::new())
    })
}

fn names(nodes: &[v1::NodeView]) -> Vec<&str> {
    nodes.iter().map(|node| node.node.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_discovered_are_snapshotted_and_their_logs_trimmed_through_two_methods() {
    let cluster = Cluster::new(1).await;
    let running = start(&cluster);
    cluster.append(p(0), 120).await;
    running.until_held(0, HoldReason::NoLiveReplica).await;

    let change = running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2", "w3"]))
        .unwrap();
    assert_eq!(change.added, [node("w1"), node("w2"), node("w3")]);
    running
        .until("a snapshot", |running| !running.partition(0).snapshots.is_empty())
        .await;
    cluster.append(p(0), 120).await;
    running
        .until("a trim", |running| running.partition(0).trim_point > Some(0))
        .await;
    assert_eq!(cluster.trim_point(p(0)).await, Lsn::new(120));
    // The same again changes nothing.
    let again = running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2", "w3"]))
        .unwrap();
    assert_eq!(again, WorkersChange::default());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_joins_holds_the_trim_until_it_was_heard_or_is_gone_and_one_that_left_does_not() {
    let cluster = Cluster::new(1).await;
    let running = start(&cluster);
    running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2"]))
        .unwrap();
    // Long after the start, a third one joins and does not answer.
    tokio::time::sleep(Duration::from_secs(60)).await;
    cluster.worker("w3").set_up(false);
    running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2", "w3"]))
        .unwrap();
    running.until_held(0, HoldReason::ViewWarming).await;
    let joined = tokio::time::Instant::now();
    running
        .until("it counts as gone", |running| {
            running.trim_code(0) != HoldReason::ViewWarming.as_str()
        })
        .await;
    assert!(
        joined.elapsed() >= Duration::from_secs(13),
        "{:?}",
        joined.elapsed()
    );

    // It comes up, falls behind and holds the trim; once the host takes it out, it does not.
    cluster.worker("w3").set_up(true);
    running
        .until("it is live", |running| {
            running.handle.status().nodes[2].liveness() == v1::Liveness::Live
        })
        .await;
    cluster.append(p(0), 10).await;
    cluster.worker("w3").set_up(false);
    cluster.append(p(0), 120).await;
    cluster.worker("w3").set_up(true);
    running
        .until("a snapshot", |running| !running.partition(0).snapshots.is_empty())
        .await;
    cluster.worker("w3").set_up(false);
    cluster.append(p(0), 120).await;
    cluster.worker("w3").set_up(true);
    running.until_held(0, HoldReason::ReplicaBehind).await;
    let trimmed = cluster.trim_point(p(0)).await;
    let change = running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2"]))
        .unwrap();
    assert_eq!(change.removed, [node("w3")]);
    running
        .until("a trim past it", |running| {
            running.partition(0).trim_point > Some(trimmed.get())
        })
        .await;
    let status = running.handle.status();
    assert_eq!(names(&status.nodes), ["w1", "w2"]);
    assert_eq!(status.partitions[0].replicas_expected, 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_contradict_the_cluster_are_refused_and_the_old_ones_stay() {
    let cluster = Cluster::new(1).await;
    let running = start(&cluster);
    running
        .handle
        .set_workers(specs(&cluster, &["w1", "w2"]))
        .unwrap();
    let twice = [specs(&cluster, &["w1"]), specs(&cluster, &["w1"])].concat();
    let fault = running.handle.set_workers(twice).unwrap_err();
    assert_eq!(fault, WorkersFault::Duplicate { node: node("w1") });
    let mut beyond = specs(&cluster, &["w3"]);
    beyond[0].partitions.push(p(1));
    let fault = running.handle.set_workers(beyond).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "worker w3 is given with partition 1, the cluster has 0 to 0"
    );
    assert_eq!(names(&running.handle.status().nodes), ["w1", "w2"]);
    running.stop().await;
}
