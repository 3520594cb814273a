//! Two versions of the state machine in one cluster.

use crate::{
    cluster::{Cluster, node, p, policy},
    holds::snapshots,
};
use snapshot_store::{Lsn, core::HoldReason};

fn run_version(cluster: &Cluster, name: &str, version: u32) {
    let worker = cluster.worker(name);
    worker.lock().state_machine = version;
    worker.change(p(0), |status| {
        status.state_machine.as_mut().unwrap().version = version;
    });
}

#[tokio::test(start_paused = true)]
async fn the_older_version_makes_the_snapshots_so_that_everybody_can_open_them() {
    let cluster = Cluster::new(1).await;
    run_version(&cluster, "w1", 2);
    run_version(&cluster, "w2", 2);
    let running = cluster.start(policy());
    snapshots(&cluster, &running, 4).await;
    let asked: Vec<_> = cluster.orders().into_iter().map(|(node, _)| node).collect();
    assert_eq!(asked, vec![node("w3"); 4]);
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(300))
        .await;
    let lines = running.handle.explain(p(0)).unwrap().lines.join("\n");
    for said in ["fake up to version 1", "fake up to version 2"] {
        assert!(lines.contains(said), "{lines}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_snapshot_that_a_live_replica_cannot_open_holds_the_trim() {
    let cluster = Cluster::new(1).await;
    cluster.append(p(0), 90).await;
    cluster.publish("w3", p(0), Lsn::new(40)).await;
    run_version(&cluster, "w2", 2);
    cluster.publish("w2", p(0), Lsn::new(90)).await;
    let newest = cluster.pointer(p(0)).await.unwrap().snapshots[0].snapshot_id;
    let running = cluster.start(policy());
    running.until_held(0, HoldReason::VersionUnsupported).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert_eq!(cluster.trim_point(p(0)).await, Lsn::ZERO);
    let detail = running.partition(0).trim.unwrap().detail;
    assert!(
        detail.contains("fake version 1") && detail.contains(&newest.to_string()),
        "{detail}"
    );
    // Once all can open it; or once two that all can open are the newest.
    run_version(&cluster, "w1", 2);
    run_version(&cluster, "w3", 2);
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(40))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_the_older_version_release_a_trim_that_a_newer_one_held() {
    let cluster = Cluster::new(1).await;
    cluster.append(p(0), 90).await;
    cluster.publish("w3", p(0), Lsn::new(40)).await;
    run_version(&cluster, "w2", 2);
    cluster.publish("w2", p(0), Lsn::new(90)).await;
    let running = cluster.start(policy());
    running.until_held(0, HoldReason::VersionUnsupported).await;
    // w1 leads, and w3 is the only other one of the older version.
    snapshots(&cluster, &running, 2).await;
    assert!(cluster.orders().iter().all(|(asked, _)| *asked == node("w3")));
    running
        .until("trimmed", |running| running.partition(0).trim_point >= Some(190))
        .await;
    running.stop().await;
}
