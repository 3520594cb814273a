//! The scheduler against a fake cluster: snapshots, verified trims, pauses, restarts, two admins.

use crate::{
    cluster::{Cluster, node, p, policy},
    worker::QUEUED_SAID_EVERY,
};
use snapshot_proto::v1;
use snapshot_scheduler::{Policy, PolicyOverride};
use snapshot_store::{
    Lsn,
    core::HoldReason,
    format::{PauseScope, VerifyLevel},
};
use std::{collections::BTreeSet, time::Duration};

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_asked_of_a_follower_at_the_threshold_and_not_before() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    cluster.append(p(0), 99).await;
    running
        .until("not due", |running| running.snapshot_code(0) == "not-due")
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.orders(), []);

    cluster.append(p(0), 1).await;
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    let orders = cluster.orders();
    assert_eq!(orders.len(), 1);
    let (asked, order) = &orders[0];
    assert_ne!(*asked, node("w1"), "the leader is not asked");
    assert_eq!((order.min_lsn, order.restorable_snapshots_min), (50, 2));
    assert_eq!(running.trim_code(0), HoldReason::TooFewSnapshots.as_str());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_alone_make_a_snapshot_due() {
    let cluster = Cluster::new(1).await;
    let mut policy = policy();
    policy.snapshot_after_records = 0;
    policy.snapshot_after_bytes = 500;
    let running = cluster.start(policy);
    cluster.append(p(0), 49).await;
    running
        .until("not due", |running| running.snapshot_code(0) == "not-due")
        .await;
    cluster.append(p(0), 1).await;
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(50)
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_is_trimmed_to_the_guard_under_a_certificate() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    cluster.append(p(0), 100).await;
    running
        .until("first", |running| running.partition(0).archived_lsn == Some(100))
        .await;
    assert_eq!(
        cluster.trim_point(p(0)).await,
        Lsn::ZERO,
        "one snapshot is not enough"
    );
    cluster.append(p(0), 100).await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;

    let certificate = cluster.certificate(p(0)).await.unwrap();
    assert_eq!(certificate.up_to, Lsn::new(100));
    assert_eq!(certificate.snapshots.len(), 2);
    let pointer = cluster.pointer(p(0)).await.unwrap();
    for certified in &certificate.snapshots {
        assert_eq!(certified.verified, VerifyLevel::Content);
        let entry = pointer
            .snapshots
            .iter()
            .find(|entry| entry.snapshot_id == certified.snapshot_id)
            .unwrap();
        assert_ne!(
            certified.verified_by, entry.node,
            "a node does not verify what it made itself"
        );
    }
    let view = running.partition(0);
    assert_eq!((view.guard_lsn, view.archived_lsn), (Some(100), Some(200)));
    running.until_held(0, HoldReason::NothingToTrim).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_snapshot_is_verified_once() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    for _ in 0..4 {
        let lsn = cluster.append(p(0), 100).await.get();
        running
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
    }
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(300))
        .await;
    let verified: Vec<_> = cluster
        .workers
        .iter()
        .flat_map(|worker| {
            worker
                .lock()
                .verified
                .iter()
                .map(|r| r.snapshot_id.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    let distinct: BTreeSet<_> = verified.iter().collect();
    assert_eq!(verified.len(), distinct.len(), "no snapshot is read twice");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_makes_the_snapshot_when_nobody_else_is_live() {
    let cluster = Cluster::new(1).await;
    cluster.worker("w2").set_up(false);
    cluster.worker("w3").set_up(false);
    let running = cluster.start(policy());
    cluster.append(p(0), 100).await;
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    assert_eq!(cluster.orders()[0].0, node("w1"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failing_followers_are_waited_for_before_the_leader_is_asked() {
    let cluster = Cluster::new(1).await;
    for name in ["w2", "w3"] {
        cluster.worker(name).lock().fail_snapshots = true;
    }
    let mut policy = policy();
    policy.leader_fallback_after_ms = 0;
    policy.validate().unwrap();
    let running = cluster.start(policy);
    cluster.append(p(0), 100).await;
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    let asked: Vec<_> = cluster.orders().into_iter().map(|(node, _)| node).collect();
    assert!(
        asked.contains(&node("w2")) && asked.contains(&node("w3")),
        "both were tried: {asked:?}"
    );
    assert!(asked.contains(&node("w1")));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_on_which_everything_fails_is_not_tried_by_every_partition() {
    let cluster = Cluster::new(40).await;
    cluster.worker("w2").lock().fail_snapshots = true;
    for id in 0..40 {
        cluster.append(p(id), 100).await;
    }
    let running = cluster.start(policy());
    running
        .until("archived", |running| {
            (0..40).all(|id| running.partition(id).archived_lsn == Some(100))
        })
        .await;
    let asked: Vec<_> = cluster.orders().into_iter().map(|(node, _)| node).collect();
    let count = |name| asked.iter().filter(|asked| **asked == node(name)).count();
    assert_eq!(count("w3"), 40, "each was made by the sound follower");
    assert!(
        (3..=10).contains(&count("w2")),
        "{} partitions tried w2",
        count("w2")
    );
    // It is only preferred less: what only that node could make is asked of it all the same.
    cluster.worker("w3").set_up(false);
    cluster.worker("w2").lock().fail_snapshots = false;
    cluster.append(p(0), 100).await;
    running
        .until("archived again", |running| {
            running.partition(0).archived_lsn == Some(200)
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_override_decides_when_a_snapshot_of_its_partitions_is_due() {
    let cluster = Cluster::new(3).await;
    let policy = Policy {
        overrides: vec![PolicyOverride {
            first_partition: 1,
            last_partition: 1,
            snapshot_after_records: Some(60),
            ..PolicyOverride::default()
        }],
        ..policy()
    };
    let running = cluster.start(policy);
    for id in 0..3 {
        cluster.append(p(id), 70).await;
    }
    running
        .until("archived", |running| {
            running.partition(1).archived_lsn == Some(70)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for id in [0, 2] {
        assert_eq!(running.snapshot_code(id), "not-due");
    }
    assert_eq!(cluster.orders().len(), 1);
    let explained = |id| running.handle.explain(p(id)).unwrap().lines.join("\n");
    let (own, other) = (explained(1), explained(0));
    assert!(
        own.contains("0 of 60 records") && own.contains("by policy.override[0]"),
        "{own}"
    );
    assert!(
        other.contains("70 of 100 records") && other.contains("by policy\n"),
        "{other}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_decline_updates_the_view_and_somebody_else_is_asked() {
    let cluster = Cluster::new(1).await;
    cluster.append(p(0), 100).await;
    // Both followers report 100 and say 10 when asked.
    for name in ["w2", "w3"] {
        cluster.worker(name).lock().declines.push(v1::SnapshotDeclined {
            reason: v1::DeclineReason::Behind.into(),
            applied_lsn: Some(10),
            min_lsn: Some(50),
            ..Default::default()
        });
    }
    let running = cluster.start(policy());
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    let asked: Vec<_> = cluster.orders().into_iter().map(|(node, _)| node).collect();
    assert_eq!(
        asked.iter().filter(|asked| **asked == node("w2")).count(),
        1,
        "{asked:?}"
    );
    assert_eq!(
        asked.iter().filter(|asked| **asked == node("w3")).count(),
        1,
        "{asked:?}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_covered_decline_makes_the_admin_read_the_pointer_instead_of_asking_again() {
    let cluster = Cluster::new(1).await;
    let mut unaudited = policy();
    unaudited.audit.interval_ms = 0;
    let running = cluster.start(unaudited);
    running
        .until("view", |running| running.snapshot_code(0) == "not-due")
        .await;
    cluster.append(p(0), 100).await;
    // Somebody publishes behind the admin's back, and no worker reports it.
    cluster.publish("w3", p(0), Lsn::new(100)).await;
    for worker in &cluster.workers {
        worker.change(p(0), |status| status.archived = None);
        worker.lock().declines.push(v1::SnapshotDeclined {
            reason: v1::DeclineReason::Covered.into(),
            applied_lsn: Some(100),
            archived_lsn: Some(100),
            ..Default::default()
        });
    }
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.orders().len(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_made_while_no_admin_was_there_is_not_made_again() {
    let cluster = Cluster::new(1).await;
    let last = cluster.append(p(0), 120).await;
    cluster.publish("w1", p(0), last).await;
    let running = cluster.start(policy());
    running
        .until("not due", |running| running.snapshot_code(0) == "not-due")
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.orders(), []);
    assert_eq!(running.partition(0).archived_lsn, Some(120));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_tell_workers_what_keeps_them_from_making_snapshots_unasked() {
    let cluster = Cluster::new(3).await;
    let running = cluster.start(policy());
    let told = |cluster: &Cluster| {
        let policy = cluster.worker("w1").lock().policy.clone();
        policy.map(|policy| (policy.paused, policy.paused_partitions))
    };
    running
        .until("polled", |_| told(&cluster) == Some((false, vec![])))
        .await;
    let scope = PauseScope::Partition(p(1));
    running.handle.pause(scope, "test", "one").await.unwrap();
    running
        .until("one paused", |_| told(&cluster) == Some((false, vec![1])))
        .await;
    running
        .handle
        .pause(PauseScope::Cluster, "test", "all")
        .await
        .unwrap();
    running
        .until("all paused", |_| told(&cluster).is_some_and(|(all, _)| all))
        .await;
    running.stop().await;

    let dry = Policy {
        dry_run: true,
        ..policy()
    };
    let cluster = Cluster::new(1).await;
    let running = cluster.start(dry);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(told(&cluster), None, "a dry run tells workers nothing");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn polls_tell_workers_the_thresholds_of_overrides_with_all_their_values() {
    let cluster = Cluster::new(3).await;
    let range = PolicyOverride {
        first_partition: 1,
        last_partition: 2,
        snapshot_after_bytes: Some(4096),
        ..PolicyOverride::default()
    };
    let running = cluster.start(Policy {
        overrides: vec![range],
        ..policy()
    });
    let expected = v1::ThresholdOverride {
        first_partition: 1,
        last_partition: 2,
        snapshot_after_records: 100,
        snapshot_after_bytes: 4096,
    };
    running
        .until("told", |_| {
            let policy = cluster.worker("w1").lock().policy.clone();
            policy.is_some_and(|policy| policy.overrides == [expected])
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_is_polled_for_next_to_nothing() {
    let cluster = Cluster::new(3).await;
    let running = cluster.start(policy());
    running
        .until("all are live", |running| {
            let nodes = running.handle.status().nodes;
            nodes.iter().all(|node| node.liveness() == v1::Liveness::Live)
        })
        .await;
    let polls = || {
        let state = cluster.worker("w1").lock();
        (state.polls, state.full_reports)
    };
    let (before, reports) = polls();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (after, same) = polls();
    assert!(after - before >= 25, "it was polled {} times", after - before);
    assert_eq!(same, reports, "nothing changed, so nothing was said twice");
    // What it said stands, and is as young as the last poll.
    let status = running.handle.status();
    assert!(status.nodes[0].age_ms.unwrap() < 2000, "{status:?}");
    assert!(status.age.unwrap().workers_ms.unwrap() < 2000);
    cluster.worker("w1").change(p(0), |_| {});
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(polls().1, reports + 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_waits_for_its_turn_is_waited_for() {
    let cluster = Cluster::new(1).await;
    for worker in &cluster.workers {
        worker.lock().queued_said = 12;
    }
    let running = cluster.start(policy());
    cluster.append(p(0), 100).await;
    running
        .until("ordered", |running| running.snapshot_code(0) == "running")
        .await;
    tokio::time::sleep(QUEUED_SAID_EVERY * 11).await;
    assert_eq!(running.snapshot_code(0), "running");
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    assert_eq!(cluster.orders().len(), 1, "nobody else was asked meanwhile");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_full_queue_is_not_asked() {
    let cluster = Cluster::new(1).await;
    cluster.worker("w2").lock().exports_queued = 4;
    let running = cluster.start(policy());
    cluster.append(p(0), 100).await;
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(100)
        })
        .await;
    let asked: Vec<_> = cluster.orders().into_iter().map(|(node, _)| node).collect();
    assert_eq!(asked, [node("w3")]);
    running.stop().await;
}
