//! The admin's gRPC service, asked directly.

use crate::cluster::{Cluster, Running, p, policy};
use futures::StreamExt;
use snapshot_proto::v1::{self, admin_service_server::AdminService as _};
use snapshot_scheduler::AdminService;
use std::time::Duration;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

fn service(running: &Running) -> AdminService {
    running.handle.clone().into()
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "tidemark");
    info.reason
}

#[tokio::test(start_paused = true)]
async fn errors_carry_a_machine_readable_reason() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    running
        .until("view", |running| running.snapshot_code(0) == "not-due")
        .await;
    let service = service(&running);

    let status = service
        .explain(Request::new(v1::ExplainRequest { partition: 5 }))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "unknown-partition")
    );
    let request = v1::TrimRequest {
        partitions: vec![5],
        ..Default::default()
    };
    let status = service.trim(Request::new(request)).await.unwrap_err();
    assert_eq!(reason(&status), "unknown-partition");
    let request = v1::AdminCreateSnapshotRequest {
        node: "w9".to_owned(),
        ..Default::default()
    };
    let Err(status) = service.create_snapshot(Request::new(request)).await else {
        panic!("w9 does not exist")
    };
    assert_eq!(reason(&status), "unknown-node");
    let request = v1::AdminCreateSnapshotRequest {
        node: "No Node".to_owned(),
        ..Default::default()
    };
    let Err(status) = service.create_snapshot(Request::new(request)).await else {
        panic!("it is no node id")
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "invalid-node-id")
    );

    let pause = v1::PauseRequest {
        partition: Some(0),
        by: "ops".to_owned(),
        reason: "why".to_owned(),
    };
    let pauses = service
        .pause(Request::new(pause))
        .await
        .unwrap()
        .into_inner()
        .pauses;
    assert_eq!((pauses.len(), pauses[0].partition), (1, Some(0)));
    let request = v1::AdminCreateSnapshotRequest::default();
    let Err(status) = service.create_snapshot(Request::new(request)).await else {
        panic!("it is paused")
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "paused")
    );
    let resumed = service
        .resume(Request::new(v1::ResumeRequest { partition: Some(0) }))
        .await
        .unwrap();
    assert_eq!(resumed.into_inner().pauses, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn explain_and_preview_show_rules_with_their_values() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    for _ in 0..2 {
        let lsn = cluster.append(p(0), 100).await.get();
        running
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
    }
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running
        .until("looked", |running| running.trim_code(0) == "nothing-to-trim")
        .await;
    let service = service(&running);
    let explained = service
        .explain(Request::new(v1::ExplainRequest { partition: 0 }))
        .await
        .unwrap()
        .into_inner();
    let text = explained.lines.join("\n");
    for expected in [
        "guard = 100",
        "up_to = min(guard, needed",
        "verified (content)",
        "trim point 100, tail 201",
        "needs what is above 200",
        // One page: log, snapshots with when and how verified, replicas, what would have to change.
        "log: tail 201, trim point 100, 1,000 bytes in it, ",
        "archived LSN 200, guard 100, by the pointer as it was ",
        "at LSN 200 by w",
        ": verified (content) by w",
        "replica w1: live, active, leader, applied 200, durable 200, needed 200, opens fake up to version 1, lag 0 records",
        "snapshot: not-due: 0 of 100 records",
        "leadership: led: w1 leads",
        "certificate in force: up to 100",
        "this admin: active: ",
        "trim: nothing-to-trim: ",
        "next: 100 more records until the next snapshot",
        "next: a trim follows the next verified snapshot",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }

    cluster.append(p(0), 100).await;
    for worker in &cluster.workers {
        // Nobody can be asked, so the plan keeps wanting to.
        worker.lock().fail_snapshots = true;
    }
    running
        .until("due", |running| running.snapshot_code(0) != "not-due")
        .await;
    let plan = service
        .preview_plan(Request::new(v1::PreviewPlanRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plan.partitions.len(), 1);
    assert_ne!(plan.partitions[0].snapshot.as_ref().unwrap().code, "not-due");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn explain_names_who_holds_a_log_by_how_much_and_what_else_is_missing() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    let explained = |running: &Running| {
        let page = running.handle.explain(p(0)).unwrap();
        (page.lines.join("\n"), page.partition.unwrap())
    };
    cluster.append(p(0), 40).await;
    running
        .until("what is missing is said", |running| {
            explained(running)
                .0
                .contains("next: 60 more records until the next snapshot")
        })
        .await;
    running
        .until("too few snapshots", |running| {
            explained(running)
                .0
                .contains("next: a trim needs 2 restorable snapshots, there are 0")
        })
        .await;
    // One replica stays where it is, two snapshots are made above it.
    cluster.worker("w3").set_up(false);
    for _ in 0..2 {
        let lsn = cluster.append(p(0), 200).await.get();
        running
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
        cluster.worker("w3").set_up(true);
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.worker("w3").set_up(false);
    }
    cluster.worker("w3").set_up(true);
    let held = "held: w3 is 200 records behind, cap 10,000,000";
    running
        .until("who holds it is said", |running| {
            explained(running).0.contains(held)
        })
        .await;
    let (_, partition) = explained(&running);
    assert_eq!(partition.condition, "held");
    assert!(partition.log_age_ms.unwrap() < 3000 && partition.pointer_age_ms.is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_sends_at_once_and_again_only_when_something_changed() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    running
        .until("settled", |running| running.trim_code(0) == "too-few-snapshots")
        .await;
    let service = service(&running);
    let mut watch = service
        .watch(Request::new(v1::WatchRequest { interval_ms: 100 }))
        .await
        .unwrap()
        .into_inner();
    assert!(watch.next().await.unwrap().is_ok());
    let quiet = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    assert!(quiet.is_err(), "nothing changed");
    cluster.append(p(0), 5).await;
    let news = tokio::time::timeout(Duration::from_secs(5), watch.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(news.partitions[0].tail, Some(6));
    running.stop().await;
}
