//! Damage in the store: held, repaired by new snapshots, released by proof.

use crate::cluster::{Cluster, node, p, policy};
use crate::holds::{snapshots, sticky, trimmed};
use snapshot_scheduler::SchedulerOptions;
use snapshot_store::{
    core::HoldReason,
    format::{Keys, StickyReason},
};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_held_repaired_by_new_ones_and_released_by_proof() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    let damaged = cluster.flip_newest(p(0)).await;
    // A worker that restored says so.
    cluster.worker("w3").change(p(0), |status| {
        status.damaged_snapshots = vec![damaged.to_string()]
    });
    running.until_held(0, HoldReason::DamagedSnapshot).await;
    running
        .until("sticky", |running| {
            running.partition(0).snapshots.iter().any(|s| s.damaged)
        })
        .await;

    // Nothing is appended by anybody: the admin has the leader append, twice, and orders a snapshot after each.
    running
        .until("repaired", |running| running.partition(0).trim_point >= Some(201))
        .await;
    let pointer = cluster.pointer(p(0)).await.unwrap();
    let newest: Vec<_> = pointer
        .snapshots
        .iter()
        .take(2)
        .map(|entry| entry.snapshot_id)
        .collect();
    assert!(!newest.contains(&damaged), "the restorable ones are all new");
    assert_eq!(cluster.worker("w1").lock().noops, 2);
    let distrusting = cluster
        .orders()
        .iter()
        .filter(|(_, order)| order.distrusted == [damaged.to_string()])
        .count();
    assert_eq!(distrusting, 2);
    assert_eq!(sticky(&cluster).await, [], "the proof of repair cleared the hold");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_damage_too() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    let entry = cluster.pointer(p(0)).await.unwrap().snapshots[1].clone();
    cluster.delete(&Keys::file(p(0), &entry.path, "state.sst")).await;
    running.until_held(0, HoldReason::DamagedSnapshot).await;
    running
        .until("repaired", |running| running.partition(0).trim_point > Some(100))
        .await;
    assert_eq!(sticky(&cluster).await, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn damage_found_by_another_admin_is_looked_at_again_and_not_believed_away() {
    let cluster = Cluster::new(1).await;
    let first = trimmed(&cluster, policy()).await;
    first.stop().await;
    let damaged = cluster.flip_newest(p(0)).await;
    // The hold is all that is left of who found it; the certificate still praises the snapshot.
    cluster
        .shared
        .repository
        .update_control(&cluster.shared.record.cluster, |control| {
            control.holds = vec![snapshot_store::format::StickyHold {
                partition: p(0),
                reason: StickyReason::DamagedSnapshot,
                since: cluster.shared.seams.clock.now(),
                detail: "found by another admin".to_owned(),
                unknown: snapshot_store::format::Unknown::default(),
            }];
        })
        .await
        .unwrap();
    let running = cluster.start_as("second", policy(), SchedulerOptions::default());
    running
        .until("found", |running| {
            running
                .partition(0)
                .snapshots
                .iter()
                .any(|s| s.damaged && s.snapshot_id == damaged.to_string())
        })
        .await;
    running
        .until("repaired", |running| running.partition(0).trim_point >= Some(201))
        .await;
    assert_eq!(sticky(&cluster).await, []);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_false_report_of_damage_is_checked_and_dismissed() {
    let cluster = Cluster::new(1).await;
    let running = trimmed(&cluster, policy()).await;
    let sound = cluster.pointer(p(0)).await.unwrap().snapshots[0].snapshot_id;
    let checks = |cluster: &Cluster| -> usize {
        cluster
            .workers
            .iter()
            .map(|worker| worker.lock().verified.len())
            .sum()
    };
    let before = checks(&cluster);
    cluster
        .worker("w3")
        .change(p(0), |status| status.damaged_snapshots = vec![sound.to_string()]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(checks(&cluster), before + 1, "looked at once more, and only once");
    assert_eq!(sticky(&cluster).await, []);
    let orders = cluster.orders().len();
    snapshots(&cluster, &running, 1).await;
    assert_eq!(cluster.orders().len(), orders + 1);
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(200))
        .await;
    assert_eq!(running.handle.status().admin, node("admin").to_string());
    running.stop().await;
}
