//! Snapshots in place of records.

use super::{
    bed::{Bed, P0, facts_at, until, until_active, write},
    stalling::StallingLog,
};
use crate::{
    agent::PartitionHost,
    core::{BlockedReason, PartitionState, ReplicaStatus, RestoreKind, RestorePhase},
    processor::WorkerOptions,
};
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn a_new_replica_from_a_snapshot_equals_one_that_replayed_everything() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let (_w2, replayed) = bed.active("w2").await;
    write(&leader, 1500).await;
    let covered = leader.status().applied_lsn;
    bed.snapshot(&w1).await;
    bed.trim(leader.status().applied_lsn.unwrap()).await;
    let last = write(&leader, 30).await;

    let w3 = bed.start(bed.options("w3"));
    let restored = w3.partition(P0).unwrap();
    let expected = facts_at(&replayed, last).await;
    assert_eq!(facts_at(&restored, last).await, expected);
    let trail = restored.status().chain;
    assert_eq!(trail, replayed.status().chain);
    assert!(trail.0.len() > 1);
    let finished = w3.agent().replica(P0).unwrap().last_restore.unwrap();
    assert_eq!(finished.kind, RestoreKind::Bootstrap);
    assert_eq!(Some(finished.lsn), covered);
}

#[tokio::test]
async fn a_replica_that_was_away_while_the_log_was_trimmed_comes_back() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let (w2, _) = bed.active("w2").await;
    write(&leader, 50).await;
    w2.shutdown().await;
    let last = write(&leader, 50).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    let w2 = bed.start(bed.options("w2"));
    let back = w2.partition(P0).unwrap();
    let last = write(&leader, 5).await;
    assert_eq!(facts_at(&back, last).await, facts_at(&leader, last).await);
    assert_eq!(
        w2.agent().replica(P0).unwrap().last_restore.unwrap().kind,
        RestoreKind::TrimGap
    );
    let folders = std::fs::read_dir(bed.data_dir("w2").join("partitions/0"))
        .unwrap()
        .count();
    assert_eq!(folders, 1, "the replaced state is gone");
}

#[tokio::test]
async fn a_reader_overtaken_by_a_trim_in_mid_stream_comes_back() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let log = Arc::new(StallingLog::new(bed.log.clone()));
    let w2 = bed.start_with(
        bed.options("w2"),
        Arc::clone(&log) as _,
        super::bed::Machine { version: 1 },
    );
    let slow = w2.partition(P0).unwrap();
    let first = write(&leader, 20).await;
    facts_at(&slow, first).await;
    log.stall(true);
    write(&leader, 5).await;
    let last = write(&leader, 100).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    log.stall(false);
    assert_eq!(facts_at(&slow, last).await, facts_at(&leader, last).await);
    until_active(&slow).await;
    assert_eq!(
        w2.agent().replica(P0).unwrap().last_restore.unwrap().kind,
        RestoreKind::TrimGap
    );
}

#[tokio::test]
async fn an_idle_reader_overtaken_by_a_trim_comes_back() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let log = Arc::new(StallingLog::new(bed.log.clone()));
    let w2 = bed.start_with(
        bed.options("w2"),
        Arc::clone(&log) as _,
        super::bed::Machine { version: 1 },
    );
    let idle = w2.partition(P0).unwrap();
    let seen = write(&leader, 20).await;
    facts_at(&idle, seen).await;
    // It waits at the end of the log, and has read none of what comes now when all of it is trimmed.
    log.freeze(true);
    let last = write(&leader, 100).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    log.freeze(false);
    assert_eq!(facts_at(&idle, last).await, facts_at(&leader, last).await);
    let restored = w2.agent().replica(P0).unwrap().last_restore.unwrap();
    assert_eq!((restored.kind, restored.lsn), (RestoreKind::TrimGap, last));
    let last = write(&leader, 5).await;
    assert_eq!(facts_at(&idle, last).await, facts_at(&leader, last).await);
}

/// What a replica that restores finds.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// The log begins right after the snapshot.
    ExactlyTheTrimPoint,
    /// The log is empty.
    FullyTrimmed,
    /// The newest snapshot is damaged, and the log still has what the older one does not hold.
    DamagedNewest,
}

#[tokio::test]
async fn after_a_restore_the_log_is_followed_without_another_one() {
    for found in [
        Found::ExactlyTheTrimPoint,
        Found::FullyTrimmed,
        Found::DamagedNewest,
    ] {
        let bed = Bed::new().await;
        let (w1, leader) = bed.leader("w1").await;
        write(&leader, 50).await;
        let mut snapshot = bed.snapshot(&w1).await;
        let mut last = snapshot.lsn;
        match found {
            Found::FullyTrimmed => bed.trim(snapshot.lsn).await,
            Found::ExactlyTheTrimPoint => {
                last = write(&leader, 30).await;
                bed.trim(snapshot.lsn).await;
            }
            Found::DamagedNewest => {
                bed.trim(snapshot.lsn).await;
                last = write(&leader, 30).await;
                let older = std::mem::replace(&mut snapshot, bed.snapshot(&w1).await);
                bed.spoil(snapshot.snapshot_id).await;
                snapshot = older;
            }
        }
        let w2 = bed.start(bed.options("w2"));
        let replica = w2.partition(P0).unwrap();
        assert_eq!(
            facts_at(&replica, last).await,
            facts_at(&leader, last).await,
            "{found:?}"
        );
        until_active(&replica).await;
        let restored = w2.agent().replica(P0).unwrap().last_restore.unwrap();
        assert_eq!(restored.lsn, snapshot.lsn, "{found:?}");
        // Going on, also after a restart, takes the log alone.
        let requests = bed.store.requests();
        let last = write(&leader, 40).await;
        facts_at(&replica, last).await;
        w2.shutdown().await;
        let last = write(&leader, 10).await;
        let (_w2, replica) = bed.active("w2").await;
        assert_eq!(
            facts_at(&replica, last).await,
            facts_at(&leader, last).await,
            "{found:?}"
        );
        assert_eq!(bed.store.requests(), requests, "{found:?}");
    }
}

#[tokio::test]
async fn a_trim_at_an_idle_replicas_own_lsn_needs_no_snapshot() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let (_w2, idle) = bed.active("w2").await;
    let last = write(&leader, 20).await;
    facts_at(&idle, last).await;
    let requests = bed.store.requests();
    bed.trim(last).await;
    let last = write(&leader, 20).await;
    assert_eq!(facts_at(&idle, last).await, facts_at(&leader, last).await);
    assert_eq!(idle.status().state, PartitionState::Active);
    assert_eq!(bed.store.requests(), requests);
}

#[tokio::test]
async fn while_restoring_nothing_is_needed_but_the_snapshot() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    bed.trim(last).await;
    bed.store.switch_off(true);
    let w2 = bed.start(bed.options("w2"));
    let waiting = w2.partition(P0).unwrap();
    let status = until(&waiting, |status| {
        matches!(status.state, PartitionState::Blocked { .. })
    })
    .await;
    assert_eq!(status.needed, None);
    assert_eq!(status.applied_lsn, None);
}

#[tokio::test]
async fn a_checkpoint_says_of_itself_what_the_replica_says() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 1100).await;
    let expected = facts_at(&leader, last).await;
    let dir = bed.dir.path().join("checkpoint");
    let replica = leader.replica();
    replica.checkpoint(&dir).await.unwrap();
    write(&leader, 10).await;
    let facts = replica.inspect(&dir).await.unwrap();
    assert_eq!(facts.lsn, last);
    assert_eq!(facts.state_digest, Some(expected.digest));
    assert_eq!(
        facts.chain.as_ref().unwrap().0.last().unwrap().hash,
        expected.chain_hash
    );
    assert_eq!(facts.chain.unwrap().0.len(), 2);
    assert_eq!(facts.incarnation, bed.incarnation);
    assert_eq!(facts.fingerprint, bed.cluster.fingerprint);
    assert_eq!((facts.key_range.partition, facts.key_range.of), (0, 2));
}

#[tokio::test]
async fn a_partition_without_a_covering_snapshot_goes_on_by_itself_when_one_appears() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    bed.trim(last).await;
    let w2 = bed.start(bed.options("w2"));
    let waiting = w2.partition(P0).unwrap();
    let is_blocked = |status: &ReplicaStatus| matches!(&status.state, PartitionState::Blocked { reason, .. } if *reason == BlockedReason::NoCoveringSnapshot);
    let status = until(&waiting, is_blocked).await;
    assert_eq!(status.needed, None);
    // It asks again and again, and still there is nothing.
    let requests = bed.store.requests();
    while bed.store.requests() < requests + 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until(&waiting, is_blocked).await;

    bed.snapshot(&w1).await;
    until_active(&waiting).await;
    let last = write(&leader, 5).await;
    assert_eq!(facts_at(&waiting, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn a_restore_that_is_slower_than_the_snapshots_still_gets_there() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let first = write(&leader, 50).await;
    bed.snapshot(&w1).await;
    bed.trim(first).await;

    bed.store.hold_tables(true);
    let w2 = bed.start(bed.options("w2"));
    let slow = w2.partition(P0).unwrap();
    let needed = || w2.agent().replica(P0).unwrap().needed.map(|(lsn, _)| lsn);
    until(&slow, |status| status.state == PartitionState::Restoring).await;
    while needed().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        needed(),
        Some(first),
        "the log must keep what follows this snapshot"
    );

    // Meanwhile the others go on: two newer snapshots, and trims as far as the slow replica lets them.
    for _ in 0..2 {
        write(&leader, 30).await;
        bed.snapshot(&w1).await;
        bed.trim(needed().unwrap()).await;
    }
    let last = write(&leader, 10).await;
    bed.store.hold_tables(false);
    while slow.status().state != PartitionState::Active {
        assert!(
            needed() >= Some(first),
            "nothing is needed for a moment, and a trim would take the log away"
        );
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(w2.agent().replica(P0).unwrap().last_restore.unwrap().lsn, first);
    assert_eq!(facts_at(&slow, last).await, facts_at(&leader, last).await);
}

/// Options of a worker on which only snapshots flush, so that each makes one table.
fn quiet(bed: &Bed, name: &str) -> WorkerOptions {
    let mut options = bed.options(name);
    options.flush_interval = Duration::from_secs(600);
    options
}

#[tokio::test]
async fn a_stale_replica_downloads_only_what_is_new() {
    let bed = Bed::new().await;
    let w1 = bed.start(quiet(&bed, "w1"));
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    let first = write(&leader, 1500).await;
    let before = bed.snapshot(&w1).await;
    bed.trim(first).await;
    let w2 = bed.start(quiet(&bed, "w2"));
    until_active(&w2.partition(P0).unwrap()).await;
    w2.shutdown().await;

    let last = write(&leader, 20).await;
    let after = bed.snapshot(&w1).await;
    bed.trim(last).await;
    let w2 = bed.start(quiet(&bed, "w2"));
    let back = w2.partition(P0).unwrap();
    until_active(&back).await;
    let restored = w2.agent().replica(P0).unwrap().last_restore.unwrap();
    assert_eq!((restored.kind, restored.lsn), (RestoreKind::TrimGap, last));
    assert!(
        restored.bytes_linked > before.bytes_total / 2,
        "{restored:?} of {after:?}"
    );
    let parts = restored.bytes_downloaded + restored.bytes_linked + restored.bytes_resumed;
    assert_eq!(parts, restored.bytes, "{restored:?}");
    assert_eq!(facts_at(&back, last).await, facts_at(&leader, last).await);
    // The new state goes on by itself: the folder the links came from is gone.
    let last = write(&leader, 200).await;
    assert_eq!(facts_at(&back, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_the_swap_loses_neither_state_nor_download() {
    let bed = Bed::new().await;
    let w1 = bed.start(quiet(&bed, "w1"));
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    let first = write(&leader, 1500).await;
    let before = bed.snapshot(&w1).await;
    bed.trim(first).await;
    let w2 = bed.start(quiet(&bed, "w2"));
    until_active(&w2.partition(P0).unwrap()).await;
    w2.shutdown().await;
    let last = write(&leader, 20).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;

    bed.store.hold_tables(true);
    let w2 = bed.start(quiet(&bed, "w2"));
    let phase = || {
        w2.agent()
            .replica(P0)
            .unwrap()
            .restore
            .map(|restore| restore.phase)
    };
    while phase() != Some(RestorePhase::Downloading) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    w2.shutdown().await;
    bed.store.hold_tables(false);
    // The first of the renames that replace a state, and then the end.
    let folder = bed.data_dir("w2").join("partitions/0");
    std::fs::rename(folder.join("state"), folder.join("set-aside-replaced")).unwrap();

    let w2 = bed.start(quiet(&bed, "w2"));
    let back = w2.partition(P0).unwrap();
    assert_eq!(facts_at(&back, last).await, facts_at(&leader, last).await);
    let restored = w2.agent().replica(P0).unwrap().last_restore.unwrap();
    assert!(
        restored.bytes_resumed > before.bytes_total / 2,
        "the table that was linked is kept: {restored:?}"
    );
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        1,
        "the old state is gone"
    );
}

#[tokio::test]
async fn what_an_interrupted_restore_left_goes_once_the_partition_is_active() {
    let bed = Bed::new().await;
    let left = bed.data_dir("w1").join("staging/downloads/0/of-another-time");
    std::fs::create_dir_all(&left).unwrap();
    let (w1, _) = bed.active("w1").await;
    w1.shutdown().await;
    assert!(!left.parent().unwrap().exists());
}
