//! Admins that restart, pause, compete, or see nodes that are away.

use crate::cluster::{Cluster, node, p, policy};
use partition_log::Log as _;
use snapshot_proto::v1;
use snapshot_scheduler::{SchedulerOptions, TrimMode, TrimResult};
use snapshot_store::{
    Lsn,
    core::HoldReason,
    format::{Pause, PauseScope, Unknown},
};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_restarted_admin_does_not_snapshot_again() {
    let cluster = Cluster::new(2).await;
    let running = cluster.start(policy());
    for id in 0..2 {
        cluster.append(p(id), 150).await;
        running
            .until("archived", |running| {
                running.partition(id).archived_lsn == Some(150)
            })
            .await;
    }
    running.stop().await;
    // Workers were restarted too and remember nothing.
    for worker in &cluster.workers {
        for id in 0..2 {
            worker.change(p(id), |status| status.archived = None);
        }
        worker.lock().generation += 1;
    }
    let before = cluster.orders().len();
    let running = cluster.start(policy());
    running
        .until("not due", |running| {
            (0..2).all(|id| running.snapshot_code(id) == "not-due")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(cluster.orders().len(), before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_worker_does_not_stop_other_partitions() {
    let cluster = Cluster::new(4).await;
    cluster.worker("w3").set_up(false);
    let running = cluster.start(policy());
    for _ in 0..2 {
        for id in 0..4 {
            cluster.append(p(id), 100).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    running
        .until("trimmed", |running| {
            (0..4).all(|id| running.partition(id).trim_point == Some(100))
        })
        .await;
    let status = running.handle.status();
    let gone = status.nodes.iter().find(|view| view.node == "w3").unwrap();
    assert!(gone.error.contains("connection refused"), "{}", gone.error);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_for_one_partition_stops_no_other() {
    let cluster = Cluster::new(2).await;
    cluster.shared.log.set_unavailable(p(0), true);
    let running = cluster.start(policy());
    for _ in 0..2 {
        let lsn = cluster.append(p(1), 100).await.get();
        running
            .until("archived", |running| {
                running.partition(1).archived_lsn == Some(lsn)
            })
            .await;
    }
    running
        .until("trimmed", |running| running.partition(1).trim_point == Some(100))
        .await;
    running.until_held(0, HoldReason::LogUnavailable).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_seal_of_a_moved_repository_is_obeyed_and_no_pause_displaces_it() {
    let cluster = Cluster::new(1).await;
    let seal = Pause {
        scope: PauseScope::Cluster,
        by: "ann".to_owned(),
        at: cluster.shared.seams.clock.now(),
        reason: "moved to s3://new/place".to_owned(),
        moved_to: Some("s3://new/place".to_owned()),
        unknown: Unknown::default(),
    };
    let (repository, identity) = (&cluster.shared.repository, &cluster.shared.record.cluster);
    repository
        .update_control(identity, |control| control.pauses = vec![seal.clone()])
        .await
        .unwrap();
    let running = cluster.start(policy());
    cluster.append(p(0), 300).await;
    running.until_held(0, HoldReason::Paused).await;
    let paused = running
        .handle
        .pause(PauseScope::Cluster, "ops", "too")
        .await
        .unwrap();
    assert_eq!(paused.seal(), Some(&seal));
    assert_eq!(paused.pauses.len(), 2);
    let resumed = running.handle.resume(PauseScope::Cluster).await.unwrap();
    assert_eq!(resumed.pauses, []);
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(300)
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_stored_and_obeyed_by_every_admin() {
    let cluster = Cluster::new(2).await;
    let first = cluster.start(policy());
    first
        .until("view", |running| running.snapshot_code(0) == "not-due")
        .await;
    first
        .handle
        .pause(PauseScope::Partition(p(0)), "ops", "maintenance")
        .await
        .unwrap();
    first.stop().await;

    let second = cluster.start_as("other", policy(), SchedulerOptions::default());
    cluster.append(p(0), 300).await;
    cluster.append(p(1), 300).await;
    second
        .until("other partition", |running| {
            running.partition(1).archived_lsn == Some(300)
        })
        .await;
    second.until_held(0, HoldReason::Paused).await;
    assert_eq!(second.snapshot_code(0), "paused");
    assert_eq!(second.partition(0).archived_lsn, None);
    let pauses = second.handle.status().pauses;
    assert_eq!(
        (pauses.len(), pauses[0].by.as_str(), pauses[0].partition),
        (1, "ops", Some(0))
    );

    second.handle.resume(PauseScope::Partition(p(0))).await.unwrap();
    second
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(300)
        })
        .await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_admins_at_once_never_trim_past_what_the_store_can_restore() {
    let cluster = Cluster::new(2).await;
    // Without a lease both act.
    let options = SchedulerOptions {
        lease_term_ms: 0,
        ..SchedulerOptions::default()
    };
    let admins = ["a1", "a2"].map(|name| cluster.start_as(name, policy(), options.clone()));
    for _ in 0..10 {
        for id in 0..2 {
            cluster.append(p(id), 70).await;
        }
        tokio::time::sleep(Duration::from_millis(1700)).await;
        for id in 0..2 {
            let trim_point = cluster.trim_point(p(id)).await;
            if trim_point > Lsn::ZERO {
                let pointer = cluster.pointer(p(id)).await.unwrap();
                let guard = pointer
                    .snapshots
                    .iter()
                    .take(2)
                    .map(|entry| entry.lsn)
                    .min()
                    .unwrap();
                let certificate = cluster.certificate(p(id)).await.unwrap();
                assert!(trim_point <= guard, "{trim_point} is above the guard {guard}");
                assert!(trim_point <= certificate.up_to);
            }
        }
    }
    assert!(
        cluster.trim_point(p(0)).await > Lsn::new(100),
        "they make progress"
    );
    for admin in admins {
        admin.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_written_before_a_crash_lets_the_next_admin_trim_without_writing() {
    let cluster = Cluster::new(1).await;
    cluster.shared.log.set_trims_delayed(p(0), true);
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
        .until("failed", |running| running.trim_code(0) == "failed")
        .await;
    let certificate = cluster.certificate(p(0)).await.unwrap();
    assert_eq!(
        (certificate.up_to, cluster.trim_point(p(0)).await),
        (Lsn::new(100), Lsn::ZERO)
    );
    running.stop().await;

    cluster.shared.log.set_trims_delayed(p(0), false);
    let running = cluster.start_as("next", policy(), SchedulerOptions::default());
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    assert_eq!(
        cluster.certificate(p(0)).await.unwrap(),
        certificate,
        "nothing was written again"
    );
    let tail = cluster.shared.log.info(p(0)).await.unwrap().tail;
    assert_eq!(tail, Lsn::new(201), "and nothing was appended for it");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_a_leader_gets_one_and_keeps_it() {
    let cluster = Cluster::new(6).await;
    for worker in &cluster.workers {
        for id in 0..6 {
            worker.change(p(id), |status| {
                status.leader = None;
                status.set_role(v1::ReplicaRole::Follower);
            });
        }
    }
    let running = cluster.start(policy());
    let leaders = |running: &crate::cluster::Running| -> Vec<Option<(String, u64)>> {
        let partitions = running.handle.status().partitions;
        partitions
            .into_iter()
            .map(|partition| partition.leader.map(|l| (l.node, l.epoch)))
            .collect()
    };
    running
        .until("led", |running| leaders(running).iter().all(Option::is_some))
        .await;
    let first = leaders(&running);
    for name in ["w1", "w2", "w3"] {
        let led = first.iter().flatten().filter(|(node, _)| node == name).count();
        assert_eq!(led, 2, "leaderships spread evenly: {first:?}");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(leaders(&running), first, "nobody is asked again");

    cluster.worker("w2").set_up(false);
    running
        .until("failover", |running| {
            leaders(running)
                .iter()
                .all(|leader| leader.as_ref().is_some_and(|(node, _)| node != "w2"))
        })
        .await;
    for (before, after) in first.iter().zip(leaders(&running)) {
        if before.as_ref().is_some_and(|(node, _)| node != "w2") {
            assert_eq!(*before, after, "who has a live leader keeps it");
        }
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_manual_snapshot_reports_its_outcome_and_a_manual_trim_obeys_the_rule() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    running
        .until("view", |running| running.snapshot_code(0) == "not-due")
        .await;
    cluster.append(p(0), 10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut events = running
        .handle
        .create_snapshot(p(0), Lsn::ZERO, Some(node("w2")))
        .unwrap();
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = event.event;
    }
    let Some(v1::create_snapshot_event::Event::Published(published)) = last else {
        panic!("{last:?}")
    };
    assert_eq!(published.lsn, 10);

    let refused = running.handle.create_snapshot(p(0), Lsn::ZERO, None).unwrap_err();
    assert!(refused.to_string().contains("needs-record"), "{refused}");
    assert!(running.handle.create_snapshot(p(9), Lsn::ZERO, None).is_err());
    assert!(
        running
            .handle
            .create_snapshot(p(0), Lsn::ZERO, Some(node("w9")))
            .is_err()
    );

    for force in [false, true] {
        let reports = running
            .handle
            .trim(
                &[],
                TrimMode {
                    force,
                    dry_run: false,
                },
            )
            .await;
        assert_eq!(
            reports[0].result,
            TrimResult::Held(HoldReason::TooFewSnapshots),
            "force does not skip the guard"
        );
    }
    cluster.append(p(0), 10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut events = running.handle.create_snapshot(p(0), Lsn::ZERO, None).unwrap();
    while events.recv().await.is_some() {}
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(10))
        .await;
    let reports = running
        .handle
        .trim(
            &[p(0), p(7)],
            TrimMode {
                force: false,
                dry_run: true,
            },
        )
        .await;
    assert_eq!(reports[0].result, TrimResult::Held(HoldReason::NothingToTrim));
    assert_eq!(reports[1].result, TrimResult::Failed);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_another_cluster_or_name_is_not_believed() {
    let cluster = Cluster::new(1).await;
    let stranger = Cluster::new(1).await;
    // A second cluster has another fingerprint only if its randomness differs.
    let mut foreign = stranger.shared.record.cluster.clone();
    foreign.fingerprint = snapshot_store::Fingerprint::from_bytes([9; 16]);
    let spec =
        |worker: &std::sync::Arc<crate::worker::FakeWorker>, name: &str| snapshot_scheduler::WorkerSpec {
            node: node(name),
            address: "http://test".to_owned(),
            partitions: vec![p(0)],
            client: worker.clone(),
        };
    let scheduler = snapshot_scheduler::Scheduler::builder(policy())
        .admin(node("admin"))
        .cluster_identity(foreign, 1)
        .log(std::sync::Arc::new(cluster.shared.log.clone()))
        .store(cluster.shared.repository.clone())
        .workers(vec![
            spec(&cluster.workers[0], "w1"),
            spec(&cluster.workers[1], "other"),
        ])
        .build()
        .unwrap();
    let handle = scheduler.handle();
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(scheduler.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let nodes = handle.status().nodes;
    assert!(nodes[0].error.contains("calls itself \"w2\""), "{nodes:?}");
    assert!(nodes[1].error.contains("another cluster"), "{nodes:?}");
    stop.cancel();
    task.await.unwrap();
}
