//! The continuous audit: damage done behind the system's back is found though nobody reads the snapshot, holds the trim,
//! is healed by new snapshots, and the alarm clears.

use crate::{
    cluster::{Cluster, Running, node, p, policy},
    cut_store::CutStore,
    holds::{snapshots, sticky},
};
use object_store::path::Path;
use snapshot_proto::v1;
use snapshot_scheduler::{AuditPolicy, Policy, SchedulerOptions};
use snapshot_store::{
    Lsn, Repository,
    core::HoldReason,
    format::{Keys, PauseScope, StickyReason, VerifyLevel},
};
use std::time::Duration;
use tokio::time::Instant;

/// A pass in a second, and everything is read again after five.
fn quick() -> Policy {
    Policy {
        audit: AuditPolicy {
            interval_ms: 1000,
            requests_per_second: 100,
            content_interval_ms: 5000,
            ..AuditPolicy::default()
        },
        ..policy()
    }
}

fn audit(running: &Running) -> v1::AuditState {
    running.handle.status().audit.unwrap()
}

/// Two verified snapshots of partition 0, and nothing left to trim, so that no look before a trim is due for an hour.
async fn idle(cluster: &Cluster, policy: Policy) -> Running {
    let running = cluster.start(policy);
    snapshots(cluster, &running, 2).await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running.until_held(0, HoldReason::NothingToTrim).await;
    running
}

fn fail_snapshots(cluster: &Cluster, fail: bool) {
    for worker in &cluster.workers {
        worker.lock().fail_snapshots = fail;
    }
}

/// The hold comes with the damage, stays as long as no new snapshot can be made, and goes with the proof of repair.
/// Returns how long the first took.
async fn found_and_healed(cluster: &Cluster, running: &Running, id: u32) -> Duration {
    let begun = Instant::now();
    fail_snapshots(cluster, true);
    running
        .until("found", |running| audit(running).damaged_partitions == [id])
        .await;
    let found = begun.elapsed();
    running.until_held(id, HoldReason::DamagedSnapshot).await;
    let before = cluster.trim_point(p(id)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(running.trim_code(id), HoldReason::DamagedSnapshot.as_str());
    assert_eq!(cluster.trim_point(p(id)).await, before);
    assert_eq!(sticky(cluster).await, [StickyReason::DamagedSnapshot]);
    fail_snapshots(cluster, false);
    running
        .until("the alarm to clear", |running| {
            audit(running).damaged_partitions.is_empty()
        })
        .await;
    running
        .until("trimmed on", |running| {
            running.partition(id).trim_point > Some(before.get())
        })
        .await;
    assert_eq!(sticky(cluster).await, []);
    found
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_that_nobody_reads_is_found_and_healed_on_an_idle_partition() {
    let cluster = Cluster::new(1).await;
    let running = idle(&cluster, quick()).await;
    let damaged = cluster.flip_newest(p(0)).await;
    let found = found_and_healed(&cluster, &running, 0).await;
    assert!(found < Duration::from_secs(15), "{found:?}");
    let pointer = cluster.pointer(p(0)).await.unwrap();
    assert!(
        pointer.snapshots[..2]
            .iter()
            .all(|entry| entry.snapshot_id != damaged && entry.lsn > Lsn::new(200)),
        "{pointer:?}"
    );
    assert_eq!(
        cluster.worker("w1").lock().noops,
        2,
        "only the leader appended, once for each new snapshot"
    );
    // Read by workers that did not make them.
    for worker in &cluster.workers {
        let made: Vec<_> = pointer
            .snapshots
            .iter()
            .filter(|e| e.node == worker.node)
            .collect();
        let read = worker.lock().verified.clone();
        assert!(made.iter().all(|entry| {
            read.iter()
                .all(|request| request.snapshot_id != entry.snapshot_id.to_string())
        }));
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_vanished_file_is_found_and_healed_on_an_idle_and_on_a_busy_partition() {
    for busy in [false, true] {
        let cluster = Cluster::new(2).await;
        let running = idle(&cluster, quick()).await;
        let entry = cluster.pointer(p(0)).await.unwrap().snapshots[1].clone();
        cluster.delete(&Keys::file(p(0), &entry.path, "state.sst")).await;
        let writes = async {
            loop {
                if busy {
                    cluster.append(p(0), 20).await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let found = tokio::select! {
            found = found_and_healed(&cluster, &running, 0) => found,
            never = writes => never,
        };
        assert!(found < Duration::from_secs(5), "busy {busy}: {found:?}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pointer_that_vanished_from_an_idle_partition_is_found_and_written_anew() {
    let cluster = Cluster::new(1).await;
    let running = idle(&cluster, quick()).await;
    fail_snapshots(&cluster, true);
    cluster.delete(&Keys::pointer(p(0))).await;
    running.until_held(0, HoldReason::PointerMissing).await;
    fail_snapshots(&cluster, false);
    running
        .until("healed", |running| running.partition(0).archived_lsn >= Some(200))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_that_no_trim_rests_on_is_named_and_holds_nothing() {
    let cluster = Cluster::new(1).await;
    let running = idle(&cluster, quick()).await;
    // The certificate keeps the oldest one retained; a third snapshot is not yet trimmed for.
    cluster.worker("w3").set_up(false);
    let lsn = cluster.append(p(0), 100).await.get();
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(lsn)
        })
        .await;
    let pointer = cluster.pointer(p(0)).await.unwrap();
    let oldest = pointer.snapshots.get(2).expect("three are retained").clone();
    cluster.delete(&Keys::file(p(0), &oldest.path, "state.sst")).await;
    running
        .until("named", |running| {
            let snapshots = running.partition(0).snapshots;
            snapshots
                .iter()
                .any(|seen| seen.damaged && seen.snapshot_id == oldest.snapshot_id.to_string())
        })
        .await;
    assert_eq!(audit(&running).damaged_partitions, [0_u32; 0]);
    assert_eq!(sticky(&cluster).await, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_partition_is_looked_at_within_the_budget_and_the_pass_time_is_said() {
    const PARTITIONS: u32 = 20;
    let cluster = Cluster::new(PARTITIONS).await;
    for id in (0..PARTITIONS).map(p) {
        cluster.append(id, 60).await;
        for lsn in [20, 40] {
            cluster.publish("w2", id, Lsn::new(lsn)).await;
        }
    }
    let policy = Policy {
        audit: AuditPolicy {
            interval_ms: 60_000,
            requests_per_second: 10,
            concurrency_max: 8,
            ..AuditPolicy::default()
        },
        ..policy()
    };
    let running = cluster.start(policy);
    running
        .until("first pass", |running| audit(running).passes == 1)
        .await;
    // Five requests for each partition: its pointer, and manifest and listing of two snapshots.
    let took = Duration::from_millis(audit(&running).last_pass_ms.unwrap());
    let expected = Duration::from_secs(u64::from(PARTITIONS) * 5 / 10);
    assert!(
        took >= expected.mul_f64(0.9) && took < expected.mul_f64(1.3),
        "{took:?}"
    );
    let state = audit(&running);
    assert_eq!(
        (state.partitions_looked_at, state.pass_age_ms),
        (PARTITIONS, None)
    );

    // The next one begins a minute after the first one did.
    running
        .until("second pass", |running| audit(running).pass_age_ms.is_some())
        .await;
    running
        .until("second pass", |running| audit(running).passes == 2)
        .await;
    assert!(audit(&running).oldest_look_ms < 15_000, "{:?}", audit(&running));
    let lines = running.handle.explain(p(3)).unwrap().lines;
    assert!(lines.iter().any(|line| line.starts_with("audit: ")), "{lines:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_does_not_audit_and_begins_when_it_takes_over() {
    let cluster = Cluster::new(1).await;
    let first = cluster.start_as("a1", quick(), SchedulerOptions::default());
    first.until("passes", |running| audit(running).passes >= 2).await;
    let second = cluster.start_as("a2", quick(), SchedulerOptions::default());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(audit(&second).passes, 0);
    first.stop().await;
    second.until("passes", |running| audit(running).passes >= 2).await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_asked_again_and_nothing_is_taken_for_damage() {
    let cluster = Cluster::new(1).await;
    let store = CutStore::around(cluster.shared.store.clone());
    let repository = Repository::with_store(
        std::sync::Arc::new(store.clone()),
        Path::default(),
        cluster.shared.seams.clone(),
    );
    let running = cluster.start_on("admin", quick(), SchedulerOptions::default(), repository);
    snapshots(&cluster, &running, 2).await;
    running.until_held(0, HoldReason::NothingToTrim).await;
    store.set_cut(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let passes = audit(&running).passes;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(audit(&running).passes, passes, "none was completed");
    assert!(audit(&running).oldest_look_ms > 60_000);
    store.set_cut(false);
    running
        .until("passes again", |running| audit(running).passes > passes + 1)
        .await;
    assert_eq!(sticky(&cluster).await, []);
    assert_eq!(audit(&running).damaged_partitions, [0_u32; 0]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_is_looked_at_and_not_read() {
    let cluster = Cluster::new(1).await;
    let running = idle(&cluster, quick()).await;
    running
        .handle
        .pause(PauseScope::Cluster, "ops", "maintenance")
        .await
        .unwrap();
    running.until_held(0, HoldReason::Paused).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let reads = || -> usize {
        cluster
            .workers
            .iter()
            .map(|worker| worker.lock().verified.len())
            .sum()
    };
    let before = (reads(), audit(&running).passes);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(reads(), before.0);
    assert!(audit(&running).passes > before.1);

    let entry = cluster.pointer(p(0)).await.unwrap().snapshots[0].clone();
    cluster.delete(&Keys::file(p(0), &entry.path, "state.sst")).await;
    running
        .until("found", |running| audit(running).damaged_partitions == [0])
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(running.trim_code(0), "paused");
    assert_eq!(sticky(&cluster).await, [StickyReason::DamagedSnapshot]);
    assert_eq!(
        cluster.pointer(p(0)).await.unwrap().snapshots[0],
        entry,
        "no repair meanwhile"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_certificate_says_was_read_is_not_read_again_by_the_next_admin() {
    let cluster = Cluster::new(1).await;
    let week = Policy {
        audit: AuditPolicy {
            content_interval_ms: 7 * 86_400_000,
            ..quick().audit
        },
        ..quick()
    };
    let running = idle(&cluster, week.clone()).await;
    running.stop().await;
    let certified = cluster.certificate(p(0)).await.unwrap();
    assert!(
        certified
            .snapshots
            .iter()
            .all(|snapshot| snapshot.verified == VerifyLevel::Content)
    );
    let reads = || -> usize {
        cluster
            .workers
            .iter()
            .map(|worker| worker.lock().verified.len())
            .sum()
    };
    let before = reads();
    let day = Duration::from_secs(86_400);
    cluster.shared.clock.advance(day * 3);
    let running = cluster.start_as("next", week.clone(), SchedulerOptions::default());
    running
        .until("passes", |running| audit(running).passes >= 10)
        .await;
    assert_eq!(reads(), before);
    let age = running.partition(0).snapshots[0].read_age_ms.unwrap();
    assert!(age >= 3 * 86_400_000, "{age}");
    assert_ne!(running.partition(0).snapshots[0].verified_by, "");
    running.stop().await;

    cluster.shared.clock.advance(day * 5);
    let running = cluster.start_as("third", week, SchedulerOptions::default());
    running.until("read again", |_| reads() == before + 2).await;
    assert_eq!(running.handle.status().admin, node("third").to_string());
    running.stop().await;
}
