//! Snapshots while no admin polls, with a clock that is moved by hand.

use crate::{
    fixture::{Cluster, Node, P},
    service::serve,
};
use snapshot_proto::v1;
use snapshot_store::{Lsn, ManualClock, Timestamp};
use snapshot_worker::core::{Autonomous, DueCause, LeaveReason};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const SILENCE: Duration = Duration::from_secs(60);
/// Longer than anything here takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster whose clock stands still.
async fn cluster() -> (Arc<ManualClock>, Cluster) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let mut cluster = Cluster::in_memory().await;
    cluster.seams.clock = clock.clone();
    (clock, cluster)
}

fn leader(cluster: &Cluster, name: &str) -> Node {
    let node = cluster.node(name);
    node.host.leads.store(true, Ordering::SeqCst);
    node
}

/// An admin polls once: a snapshot is due after 100 records.
async fn poll(node: &Node, change: impl FnOnce(&mut v1::WorkerPolicy)) {
    let mut policy = v1::WorkerPolicy {
        snapshot_after_records: 100,
        snapshot_after_bytes: 0,
        restorable_snapshots_min: 2,
        paused: false,
        paused_partitions: vec![],
        overrides: vec![],
    };
    change(&mut policy);
    let request = v1::GetStatusRequest {
        admin: "admin-1".to_owned(),
        known_version: 0,
        policy: Some(policy),
    };
    serve(node).await.get_status(request).await.unwrap();
}

async fn look(node: &Node) -> Autonomous {
    node.agent.snapshot_autonomously(SILENCE).await[&P]
}

async fn archived(node: &Node, lsn: u64) {
    let published = async {
        let is_there = |node: &Node| {
            node.agent
                .replica(P)
                .unwrap()
                .archived
                .map(|archived| archived.lsn)
                == Some(Lsn::new(lsn))
                && node.agent.replica(P).unwrap().export.is_none()
        };
        while !is_there(node) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, published).await.unwrap();
}

#[tokio::test]
async fn a_leader_makes_a_due_snapshot_once_the_admin_is_silent_and_not_before() {
    let (clock, cluster) = cluster().await;
    let node = leader(&cluster, "a");
    node.host.apply(150);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::NeverPolled));
    poll(&node, |_| {}).await;
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::Polled));
    clock.advance(SILENCE);
    let made = Autonomous::Make {
        min_lsn: Lsn::FIRST,
        cause: DueCause::Records,
    };
    assert_eq!(look(&node).await, made);
    archived(&node, 150).await;
    let pointer = cluster.pointer().await;
    assert_eq!(
        (pointer.snapshots.len(), pointer.snapshots[0].lsn),
        (1, Lsn::new(150))
    );

    node.host.apply(249);
    clock.advance(SILENCE * 1000);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::NotDue));
    node.host.apply(250);
    assert!(matches!(look(&node).await, Autonomous::Make { .. }));
    archived(&node, 250).await;
}

#[tokio::test]
async fn an_admin_that_returns_ends_it_and_asks_for_nothing_that_is_there() {
    let (clock, cluster) = cluster().await;
    let node = leader(&cluster, "a");
    node.host.apply(150);
    poll(&node, |_| {}).await;
    clock.advance(SILENCE);
    look(&node).await;
    archived(&node, 150).await;
    poll(&node, |_| {}).await;
    node.host.apply(300);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::Polled));
    assert_eq!(cluster.pointer().await.snapshots.len(), 1);
}

#[tokio::test]
async fn a_pause_of_cluster_or_partition_outlasts_the_admin_that_told_of_it() {
    let (clock, cluster) = cluster().await;
    let node = leader(&cluster, "a");
    node.host.apply(150);
    poll(&node, |policy| policy.paused = true).await;
    clock.advance(SILENCE);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::Paused));
    poll(&node, |policy| policy.paused_partitions = vec![P.get()]).await;
    clock.advance(SILENCE);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::Paused));
    poll(&node, |policy| policy.paused_partitions = vec![P.get() + 1]).await;
    clock.advance(SILENCE);
    assert!(matches!(look(&node).await, Autonomous::Make { .. }));
    archived(&node, 150).await;
}

#[tokio::test]
async fn thresholds_of_a_range_go_before_those_of_the_whole_cluster() {
    let (clock, cluster) = cluster().await;
    let node = leader(&cluster, "a");
    node.host.apply(150);
    let of_range = |first: u32, last: u32, records| v1::ThresholdOverride {
        first_partition: first,
        last_partition: last,
        snapshot_after_records: records,
        snapshot_after_bytes: 0,
    };
    let own = of_range(P.get(), P.get(), 151);
    let others = of_range(P.get() + 1, P.get() + 9, 1);
    poll(&node, |policy| policy.overrides = vec![others, own]).await;
    clock.advance(SILENCE);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::NotDue));
    node.host.apply(151);
    assert!(matches!(look(&node).await, Autonomous::Make { .. }));
    archived(&node, 151).await;
}

#[tokio::test]
async fn a_follower_leaves_it_to_the_leader() {
    let (clock, cluster) = cluster().await;
    let node = cluster.node("a");
    node.host.apply(150);
    poll(&node, |_| {}).await;
    clock.advance(SILENCE);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::NotLeader));
}

#[tokio::test]
async fn what_others_published_counts_before_one_is_made() {
    let (clock, cluster) = cluster().await;
    let (other, node) = (cluster.node("b"), leader(&cluster, "a"));
    other.publish(&cluster, 120).await;
    node.host.apply(150);
    poll(&node, |_| {}).await;
    clock.advance(SILENCE);
    assert_eq!(node.agent.replica(P).unwrap().archived, None);
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::NotDue));
    archived(&node, 120).await;
    assert_eq!(cluster.pointer().await.snapshots.len(), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_asked_again_at_the_next_look() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let (store, mut cluster) = Cluster::counted(4).await;
    cluster.seams.clock = clock.clone();
    let node = leader(&cluster, "a");
    node.host.apply(150);
    poll(&node, |_| {}).await;
    clock.advance(SILENCE);
    let before = store.requests();
    node.host.leads.store(false, Ordering::SeqCst);
    look(&node).await;
    assert_eq!(store.requests(), before, "only who may make one asks the store");
    node.host.leads.store(true, Ordering::SeqCst);
    store.fail_reads(Some("latest.json"));
    assert_eq!(look(&node).await, Autonomous::Leave(LeaveReason::StoreUnknown));
    store.fail_reads(None);
    assert!(matches!(look(&node).await, Autonomous::Make { .. }));
    archived(&node, 150).await;
}

#[tokio::test]
async fn it_looks_again_and_again_until_the_node_stops() {
    let (clock, cluster) = cluster().await;
    let node = leader(&cluster, "a");
    node.host.apply(150);
    let agent = node.agent.clone();
    let silence = Duration::from_millis(20);
    let looking = tokio::spawn(async move { agent.run_autonomously(silence).await });
    poll(&node, |_| {}).await;
    clock.advance(silence);
    archived(&node, 150).await;
    node.host.apply(260);
    archived(&node, 260).await;
    node.agent.shutdown().await;
    looking.await.unwrap();
}
