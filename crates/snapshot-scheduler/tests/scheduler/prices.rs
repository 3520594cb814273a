//! What a trim would free and cost, and a dry run of the whole admin.

use crate::cluster::{Cluster, p, policy};
use snapshot_proto::v1::{self, admin_service_server::AdminService as _};
use snapshot_scheduler::{AdminService, Policy, SchedulerOptions, TrimMode, TrimResult};
use snapshot_store::Lsn;
use std::time::Duration;
use tonic::Request;

const PLAN: TrimMode = TrimMode {
    force: false,
    dry_run: true,
};

fn dry() -> Policy {
    Policy {
        dry_run: true,
        ..policy()
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_says_what_a_trim_frees_and_which_replicas_would_have_to_restore() {
    let cluster = Cluster::new(1).await;
    // A dry run: nothing is trimmed before it is asked about.
    let running = cluster.start(dry());
    cluster.append(p(0), 300).await;
    cluster.publish("w2", p(0), Lsn::new(200)).await;
    cluster.publish("w2", p(0), Lsn::new(250)).await;
    running
        .until("verified", |running| running.partition(0).guard_lsn == Some(200))
        .await;
    let plan = async |mode| running.handle.trim(&[p(0)], mode).await.pop().unwrap();
    let report = plan(PLAN).await;
    assert_eq!(report.result, TrimResult::WouldTrim { up_to: Lsn::new(200) });
    let price = report.price.unwrap();
    let freed = price.bytes.unwrap();
    // Each record has 10 bytes, and the snapshot knows how many lie below it.
    assert_eq!((price.records, freed.bytes, freed.estimated), (200, 2000, false));
    assert_eq!(price.must_restore, []);

    // One replica is behind, another one away.
    cluster.worker("w2").apply(p(0), Lsn::new(150));
    cluster.worker("w3").set_up(false);
    cluster.worker("w3").apply(p(0), Lsn::new(120));
    running
        .until("gone", |running| {
            let nodes = running.handle.status().nodes;
            nodes[2].liveness() == v1::Liveness::Gone
        })
        .await;
    let report = plan(PLAN).await;
    assert_eq!(
        report.price.unwrap().up_to,
        Lsn::new(150),
        "it waits for the live one"
    );
    let forced = plan(TrimMode { force: true, ..PLAN }).await;
    let price = forced.price.unwrap();
    assert_eq!(price.up_to, Lsn::new(200));
    let restore: Vec<_> = price
        .must_restore
        .iter()
        .map(|restore| {
            (
                restore.node.as_str(),
                restore.needed_lsn.map(Lsn::get),
                restore.live,
            )
        })
        .collect();
    // w3 was heard last when it had everything.
    assert_eq!(restore, [("w2", Some(150), true)]);
    assert!(price.must_restore[0].bytes > Some(0));

    let service: AdminService = running.handle.clone().into();
    let request = v1::TrimRequest {
        partitions: vec![0],
        force: true,
        dry_run: true,
    };
    let reply = service.trim(Request::new(request)).await.unwrap().into_inner();
    let wire = reply.partitions[0].price.clone().unwrap();
    assert_eq!((wire.up_to, wire.records, wire.bytes), (200, 200, Some(2000)));
    assert_eq!(wire.must_restore[0].node, "w2");
    assert_eq!(cluster.trim_point(p(0)).await, Lsn::ZERO, "nothing was trimmed");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_everything_and_does_nothing_not_even_for_an_operator() {
    let cluster = Cluster::new(2).await;
    for worker in &cluster.workers {
        worker.change(p(1), |status| {
            status.leader = None;
            status.set_role(v1::ReplicaRole::Follower);
        });
    }
    cluster.append(p(0), 200).await;
    let running = cluster.start(dry());
    running
        .until("decided", |running| running.snapshot_code(0) == "dry-run")
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let snapshot = running.partition(0).snapshot.unwrap();
    assert!(snapshot.detail.contains("would be asked for LSN"), "{snapshot:?}");
    let leadership = running.partition(1).leadership.unwrap();
    assert_eq!(leadership.code, "dry-run");
    assert!(leadership.detail.contains("is asked to lead"), "{leadership:?}");
    let refused = running.handle.create_snapshot(p(0), Lsn::ZERO, None).unwrap_err();
    assert!(refused.to_string().contains("dry-run"), "{refused}");
    let lease = running.handle.status().lease.unwrap();
    assert_eq!((lease.active, lease.code.as_str()), (false, "dry-run"));

    assert_eq!(cluster.orders(), []);
    assert!(
        cluster.shared.repository.lease().await.unwrap().is_none(),
        "it takes no lease"
    );
    let led =
        |worker: &std::sync::Arc<crate::worker::FakeWorker>| worker.lock().replicas[&p(1)].leader.is_some();
    assert!(!cluster.workers.iter().any(led), "nobody was asked to lead");

    // Beside it another admin acts; told to act, it waits for that one; told not to, it gives its lease up.
    let acting = cluster.start_as("acting", policy(), SchedulerOptions::default());
    acting.until("active", |running| running.handle.acts()).await;
    acting
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(200)
        })
        .await;
    running.handle.set_policy(policy()).unwrap();
    running
        .until("standby", |running| {
            running.handle.status().lease.unwrap().code == "standby"
        })
        .await;
    acting.handle.set_policy(dry()).unwrap();
    running.until("takeover", |running| running.handle.acts()).await;
    assert!(!acting.handle.acts());
    acting.stop().await;
    running.stop().await;
}
