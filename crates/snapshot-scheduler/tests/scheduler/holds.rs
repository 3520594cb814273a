//! Every reason for which a log is held, brought about and seen by its name; and how damage is repaired.

use crate::cluster::{Cluster, Running, p, policy};
use snapshot_proto::v1;
use snapshot_scheduler::{Policy, SchedulerOptions};
use snapshot_store::{
    Incarnation, IncarnationId, Lsn,
    core::HoldReason,
    format::{Control, Keys, StickyReason, Stored},
};
use std::time::Duration;

/// Brings the cluster to two verified snapshots at 100 and 200, and the log to a trim point of 100.
pub(crate) async fn trimmed(cluster: &Cluster, policy: Policy) -> Running {
    trimmed_by(cluster, cluster.start(policy)).await
}

/// The same by an admin that runs already.
pub(crate) async fn trimmed_by(cluster: &Cluster, running: Running) -> Running {
    snapshots(cluster, &running, 2).await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running
}

pub(crate) async fn snapshots(cluster: &Cluster, running: &Running, count: usize) {
    for _ in 0..count {
        let lsn = cluster.append(p(0), 100).await.get();
        running
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
    }
}

/// The log must not move while `reason` is the answer.
async fn stays_held(cluster: &Cluster, running: &Running, reason: HoldReason) {
    running.until_held(0, reason).await;
    let before = cluster.trim_point(p(0)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(running.trim_code(0), reason.as_str());
    assert_eq!(cluster.trim_point(p(0)).await, before);
    let reason_view = running.partition(0).trim.unwrap();
    assert!(!reason_view.remedy.is_empty(), "every hold says what to do");
    assert!(reason_view.for_ms >= 10_000, "it says since when");
}

pub(crate) async fn sticky(cluster: &Cluster) -> Vec<StickyReason> {
    let control = cluster.shared.repository.control().await.unwrap().unwrap().value;
    control.holds.iter().map(|hold| hold.reason).collect()
}

#[tokio::test(start_paused = true)]
async fn an_idle_trimmed_log_says_that_there_is_nothing_to_trim() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    stays_held(&cluster, &running, HoldReason::NothingToTrim).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_says_that_the_log_lost_records_holds_all_until_it_does_not_say_so() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    let say = |state: v1::PartitionState, reason: &str| {
        cluster.workers[2].change(p(0), |status| {
            status.state = state.into();
            status.blocked_reason = reason.to_owned();
        });
    };
    say(v1::PartitionState::Blocked, HoldReason::LogRegressed.as_str());
    running.until_held(0, HoldReason::LogRegressed).await;
    // The log grows: nothing in it shows that it ever was shorter.
    let lsn = cluster.append(p(0), 100).await.get();
    stays_held(&cluster, &running, HoldReason::LogRegressed).await;
    assert_eq!(running.partition(0).archived_lsn, Some(200));
    assert_eq!(sticky(&cluster).await, []);
    say(v1::PartitionState::Active, "");
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(lsn)
        })
        .await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(200))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_snapshot_is_too_few() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    snapshots(&cluster, &running, 1).await;
    stays_held(&cluster, &running, HoldReason::TooFewSnapshots).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unverified_snapshot_holds_the_trim_until_somebody_can_check_it() {
    let cluster = Cluster::new(1).await;
    for worker in &cluster.workers {
        worker.lock().fail_verify = true;
    }
    let running = cluster.start(policy());
    snapshots(&cluster, &running, 2).await;
    stays_held(&cluster, &running, HoldReason::UnverifiedSnapshot).await;
    assert_eq!(running.partition(0).guard_lsn, None);
    for worker in &cluster.workers {
        worker.lock().fail_verify = false;
    }
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_pointer_is_an_error_and_is_never_overwritten() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    running.stop().await;
    cluster
        .overwrite_pointer(p(0), |pointer| {
            pointer.cluster.fingerprint = snapshot_store::Fingerprint::from_bytes([1; 16]);
        })
        .await;
    let foreign = cluster.pointer(p(0)).await;
    let running = cluster.start(policy());
    cluster.append(p(0), 500).await;
    stays_held(&cluster, &running, HoldReason::ForeignIdentity).await;
    assert_eq!(running.snapshot_code(0), "archive-unreadable");
    assert_eq!(cluster.pointer(p(0)).await, foreign);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_pointer_that_is_taken_away_again_is_noticed_without_a_restart() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    running.stop().await;
    let replace = |fingerprint| {
        cluster.overwrite_pointer(p(0), move |pointer| pointer.cluster.fingerprint = fingerprint)
    };
    let ours = cluster.pointer(p(0)).await.unwrap().cluster.fingerprint;
    replace(snapshot_store::Fingerprint::from_bytes([1; 16])).await;
    // What it would allow was trimmed long ago: no trim is tried that would read it again.
    let running = cluster.start(policy());
    stays_held(&cluster, &running, HoldReason::ForeignIdentity).await;
    replace(ours).await;
    cluster.append(p(0), 500).await;
    running
        .until("a snapshot is made again", |running| {
            running.partition(0).trim_point > Some(100)
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unparsable_pointer_is_an_error_that_names_the_object() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    cluster.put(&Keys::pointer(p(0)), b"not json".to_vec()).await;
    cluster.append(p(0), 500).await;
    stays_held(&cluster, &running, HoldReason::PointerUnreadable).await;
    assert!(
        running
            .partition(0)
            .trim
            .unwrap()
            .detail
            .contains("0/latest.json")
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_pointer_over_a_trimmed_log_is_an_alarm_and_heals_by_a_new_snapshot() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    running.stop().await;
    cluster.delete(&Keys::pointer(p(0))).await;
    let mut held = policy();
    held.dry_run = true;
    let running = cluster.start(held);
    stays_held(&cluster, &running, HoldReason::PointerMissing).await;
    running.stop().await;

    let running = cluster.start(policy());
    running
        .until("healed", |running| running.partition(0).archived_lsn == Some(200))
        .await;
    let (_, order) = cluster.orders().pop().unwrap();
    assert!(order.min_lsn >= 100, "not below what was trimmed");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
pub(crate) async fn snapshots_of_a_newer_incarnation_hold_the_trim() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    cluster
        .overwrite_pointer(p(0), |pointer| {
            let newest = &mut pointer.snapshots[0];
            newest.incarnation = Incarnation {
                generation: 2,
                id: IncarnationId::from_bytes([2; 16]),
            };
            newest.path.generation = 2;
        })
        .await;
    stays_held(&cluster, &running, HoldReason::IncarnationMismatch).await;
    assert_eq!(running.snapshot_code(0), "incarnation-mismatch");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_records_is_held_for_good_and_gets_no_leader() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    cluster.shared.log.lose_tail(p(0), 50);
    stays_held(&cluster, &running, HoldReason::LogRegressed).await;
    assert_eq!(sticky(&cluster).await, [StickyReason::LogRegressed]);
    for worker in &cluster.workers {
        worker.change(p(0), |status| status.set_role(v1::ReplicaRole::Follower));
    }
    running
        .until("no leader", |running| {
            running
                .partition(0)
                .leadership
                .is_some_and(|reason| reason.code == "held")
        })
        .await;
    running.stop().await;
    // It outlives the admin, and the log growing again.
    cluster.append(p(0), 300).await;
    let running = cluster.start(policy());
    stays_held(&cluster, &running, HoldReason::LogRegressed).await;
    assert_eq!(running.snapshot_code(0), "held");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_differ_at_the_same_lsn_hold_the_trim_for_good() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    cluster.append(p(0), 10).await;
    cluster
        .worker("w3")
        .change(p(0), |status| status.chain[0].hash = vec![7; 32].into());
    stays_held(&cluster, &running, HoldReason::ChainMismatch).await;
    let detail = running.partition(0).trim.unwrap().detail;
    assert!(detail.contains("w3") && detail.contains("LSN 210"), "{detail}");
    assert_eq!(sticky(&cluster).await, [StickyReason::ChainMismatch]);

    // The evidence is gone; only an operator lifts the hold.
    cluster.append(p(0), 10).await;
    stays_held(&cluster, &running, HoldReason::ChainMismatch).await;
    running
        .handle
        .resume(snapshot_store::format::PauseScope::Partition(p(0)))
        .await
        .unwrap();
    running.until_held(0, HoldReason::NothingToTrim).await;
    assert_eq!(sticky(&cluster).await, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_admin_that_has_not_heard_from_all_workers_waits_until_they_are_gone() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    running.stop().await;
    cluster.append(p(0), 10).await;
    cluster.publish("w2", p(0), Lsn::new(210)).await;
    cluster.worker("w3").set_up(false);
    let options = SchedulerOptions {
        gone_after_ms: 60_000,
        view_age_max_ms: 60_000,
        ..Default::default()
    };
    let running = cluster.start_as("admin", policy(), options);
    stays_held(&cluster, &running, HoldReason::ViewWarming).await;
    assert!(running.partition(0).trim.unwrap().detail.contains("w3"));
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(200))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_view_with_an_old_report_is_stale_until_the_node_answers_or_is_gone() {
    let cluster = Cluster::new(1).await;
    let options = SchedulerOptions {
        suspect_after_ms: 5000,
        view_age_max_ms: 6000,
        gone_after_ms: 60_000,
        ..Default::default()
    };
    let running = cluster.start_as("admin", policy(), options);
    snapshots(&cluster, &running, 2).await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    cluster.worker("w3").set_up(false);
    stays_held(&cluster, &running, HoldReason::StaleView).await;
    assert!(running.partition(0).trim.unwrap().detail.contains("w3"));
    running.until_held(0, HoldReason::NothingToTrim).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_trimmed_while_no_replica_is_live() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    for worker in &cluster.workers {
        worker.set_up(false);
    }
    stays_held(&cluster, &running, HoldReason::NoLiveReplica).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_behind_holds_the_trim_and_one_that_is_far_behind_does_not() {
    let cluster = Cluster::new(1).await;
    let running = cluster.start(policy());
    cluster.worker("w3").set_up(true);
    snapshots(&cluster, &running, 1).await;
    cluster.append(p(0), 100).await;
    cluster.worker("w3").apply(p(0), Lsn::ZERO);
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(200)
        })
        .await;
    stays_held(&cluster, &running, HoldReason::ReplicaBehind).await;
    running.stop().await;

    let mut impatient = policy();
    impatient.held_records_max = 50;
    let running = cluster.start(impatient);
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    let explained = running.handle.explain(p(0)).unwrap().lines.join("\n");
    assert!(
        explained.contains("left behind: w3") || explained.contains("nothing"),
        "{explained}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_open_what_would_be_left_holds_the_trim() {
    let cluster = Cluster::new(1).await;
    for name in ["w1", "w2"] {
        cluster.worker(name).lock().state_machine = 2;
        cluster
            .worker(name)
            .change(p(0), |status| status.state_machine.as_mut().unwrap().version = 2);
    }
    cluster.append(p(0), 90).await;
    cluster.publish("w2", p(0), Lsn::new(40)).await;
    cluster.publish("w2", p(0), Lsn::new(90)).await;
    let running = cluster.start(policy());
    stays_held(&cluster, &running, HoldReason::VersionUnsupported).await;
    assert!(running.partition(0).trim.unwrap().detail.contains("w3"));
    cluster
        .worker("w3")
        .change(p(0), |status| status.state_machine.as_mut().unwrap().version = 2);
    // Nothing about the snapshots changed: found by the next look.
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(40))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn young_snapshots_wait_for_the_trim_delay() {
    let cluster = Cluster::new(1).await;
    let mut delayed = policy();
    delayed.trim_delay_ms = 3_600_000;
    let running = cluster.start(delayed);
    snapshots(&cluster, &running, 2).await;
    stays_held(&cluster, &running, HoldReason::Delay).await;
    cluster.shared.clock.advance(Duration::from_secs(3600));
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_control_state_stops_everything_and_is_not_created() {
    let cluster = Cluster::new(1).await;
    cluster.delete(Keys::CONTROL).await;
    let running = cluster.start(policy());
    cluster.append(p(0), 500).await;
    stays_held(&cluster, &running, HoldReason::ControlUnreadable).await;
    assert_eq!(running.snapshot_code(0), "control-unreadable");
    assert!(running.partition(0).trim.unwrap().detail.contains("control.json"));
    let refused = running
        .handle
        .pause(snapshot_store::format::PauseScope::Cluster, "ops", "why")
        .await;
    assert!(refused.is_err());
    assert!(cluster.shared.repository.control().await.unwrap().is_none());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_control_state_of_another_cluster_counts_as_unreadable() {
    let cluster = Cluster::new(1).await;
    let mut other = cluster.shared.record.cluster.clone();
    other.fingerprint = snapshot_store::Fingerprint::from_bytes([3; 16]);
    let control = Control::empty(other, snapshot_store::WriteId::new(cluster.shared.seams.ulid()));
    cluster.put(Keys::CONTROL, control.encode()).await;
    let running = cluster.start(policy());
    stays_held(&cluster, &running, HoldReason::ControlUnreadable).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let cluster = Cluster::new(1).await;
    cluster.append(p(0), 200).await;
    cluster.publish("w2", p(0), Lsn::new(40)).await;
    cluster.publish("w2", p(0), Lsn::new(90)).await;
    let mut dry = policy();
    dry.dry_run = true;
    let running = cluster.start(dry);
    stays_held(&cluster, &running, HoldReason::DryRun).await;
    assert!(running.partition(0).trim.unwrap().detail.contains("up to 40"));
    assert_eq!(running.snapshot_code(0), "dry-run");
    assert_eq!(cluster.certificate(p(0)).await, None);
    assert_eq!(cluster.orders(), []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_not_trimmed() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    cluster.shared.log.set_unavailable(p(0), true);
    running.until_held(0, HoldReason::LogUnavailable).await;
    running.stop().await;
}
