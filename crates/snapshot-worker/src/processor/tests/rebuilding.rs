//! A damaged local state is replaced by itself, and one that is not trusted on order.

use super::bed::{Bed, P0, commands, facts_at, until, until_active, write};
use crate::{
    agent::{PartitionHost, PublishedExport, RebuildError},
    core::{BlockedReason, PartitionState, RebuildReason, RebuildSource, ReplicaStatus, RestoreKind},
    processor::{PartitionHandle, Worker},
};
use snapshot_store::{Lsn, ReplicaRole};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Returns the largest file of the state that holds data.
pub(super) fn largest_sst(state: &Path) -> PathBuf {
    let files = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let data = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    data.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

/// Flips one byte of the data in the file, in place, as a failing disk does.
pub(super) fn flip_byte(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 3, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

fn state_dir(bed: &Bed, name: &str) -> PathBuf {
    bed.data_dir(name).join("partitions/0/state")
}

fn folders(bed: &Bed, name: &str) -> Vec<String> {
    let entries = fs::read_dir(bed.data_dir(name).join("partitions/0")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn until_rebuilt(handle: &PartitionHandle, reason: RebuildReason) -> ReplicaStatus {
    until(handle, |status| {
        status.rebuilds.of(reason) == 1 && status.state == PartitionState::Active
    })
    .await
}

/// A leader that keeps everything in one file, and has made a snapshot of it; the log is trimmed up to there.
async fn leader_with_snapshot(bed: &Bed) -> (Worker, PartitionHandle, PublishedExport) {
    let mut options = bed.options("w1");
    options.flush_interval = std::time::Duration::from_secs(3600);
    let worker = bed.start(options);
    let leader = worker.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    let last = write(&leader, 600).await;
    let snapshot = bed.snapshot(&worker).await;
    bed.trim(last).await;
    (worker, leader, snapshot)
}

/// By what damage is met.
#[derive(Clone, Copy, Debug)]
enum Met {
    Applying,
    Reading,
    Exporting,
    Compacting,
}

#[tokio::test]
async fn a_flipped_byte_in_a_local_file_has_the_state_rebuilt_from_the_store() {
    for met in [Met::Applying, Met::Reading, Met::Exporting, Met::Compacting] {
        let bed = Bed::new().await;
        let (worker, leader, snapshot) = leader_with_snapshot(&bed).await;
        flip_byte(&largest_sst(&state_dir(&bed, "w1")));
        match met {
            Met::Applying => {
                let texts: Vec<String> = (0..501).map(|n| format!("key-{n}+")).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                assert!(leader.propose(commands(&texts)).await.is_err());
            }
            Met::Reading => assert!(leader.digest().await.is_err()),
            Met::Exporting => {
                leader.propose(commands(&["new=1"])).await.unwrap();
                assert!(bed.try_snapshot(&worker).await.is_err());
            }
            Met::Compacting => compact_until_noticed(&bed, &leader).await,
        }
        let status = until_rebuilt(&leader, RebuildReason::Corruption).await;
        assert_eq!(status.role, ReplicaRole::Follower, "{met:?}");
        let restored = worker.agent().replica(P0).unwrap().last_restore.unwrap();
        assert_eq!(
            (restored.kind, restored.lsn),
            (RestoreKind::Rebuild, snapshot.lsn),
            "{met:?}"
        );
        leader.lead().await.unwrap();
        let last = write(&leader, 1).await;
        let (_w2, other) = bed.active("w2").await;
        assert_eq!(
            facts_at(&leader, last).await,
            facts_at(&other, last).await,
            "{met:?}"
        );
        assert_eq!(folders(&bed, "w1"), ["state"], "{met:?}");
    }
}

#[tokio::test]
async fn a_state_that_does_not_open_is_replayed_where_the_log_has_everything() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 200).await;
    let before = facts_at(&leader, last).await;
    w1.shutdown().await;
    fs::remove_file(largest_sst(&state_dir(&bed, "w1"))).unwrap();
    let w1 = bed.start(bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    until_rebuilt(&replica, RebuildReason::Corruption).await;
    assert_eq!(facts_at(&replica, last).await, before);
    assert_eq!(w1.agent().replica(P0).unwrap().last_restore, None);
}

#[tokio::test]
async fn a_damaged_state_that_nothing_can_replace_stays_aside_until_something_can() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let (w2, _sound) = bed.active("w2").await;
    let last = write(&leader, 200).await;
    let before = facts_at(&leader, last).await;
    bed.trim(last.minus(50)).await;
    w1.shutdown().await;
    fs::remove_file(largest_sst(&state_dir(&bed, "w1"))).unwrap();
    let w1 = bed.start(bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    let blocked = until(&replica, |status| {
        matches!(
            status.state,
            PartitionState::Blocked {
                reason: BlockedReason::NoCoveringSnapshot,
                ..
            }
        )
    });
    let blocked = blocked.await;
    assert_eq!((blocked.applied_lsn, blocked.needed), (None, None));
    assert_eq!(folders(&bed, "w1"), ["set-aside-corruption"]);
    bed.snapshot(&w2).await;
    until_rebuilt(&replica, RebuildReason::Corruption).await;
    assert_eq!(facts_at(&replica, last).await, before);
    until_only_state_is_left(&bed, "w1").await;
}

/// Has files come up that RocksDB compacts with the others, until a write is refused.
async fn compact_until_noticed(bed: &Bed, leader: &PartitionHandle) {
    for round in 0..500 {
        let command = format!("c-{round}=1");
        if leader.propose(commands(&[&command])).await.is_err() {
            return;
        }
        // A checkpoint flushes, which makes a file.
        let dir = bed.dir.path().join(format!("checkpoint-{round}"));
        drop(leader.replica().checkpoint(&dir).await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("nobody noticed");
}

/// What was set aside goes right after the partition is active again.
async fn until_only_state_is_left(bed: &Bed, name: &str) {
    for _ in 0..1000 {
        if folders(bed, name) == ["state"] {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{:?}", folders(bed, name))
}

#[tokio::test]
async fn an_order_replaces_a_sound_state_and_takes_the_lead_away_first() {
    let bed = Bed::new().await;
    let (worker, leader, snapshot) = leader_with_snapshot(&bed).await;
    let last = write(&leader, 30).await;
    let dry = leader.replica().rebuild(true).await.unwrap();
    assert_eq!(dry.applied_lsn, Some(last));
    assert!(matches!(dry.source, RebuildSource::Snapshot { lsn, .. } if lsn == snapshot.lsn));
    leader.propose(commands(&["a=1"])).await.unwrap();
    let expected = facts_at(&leader, last.next()).await;
    let status = leader.status();
    assert_eq!(
        (status.role, status.leader.unwrap().0.epoch.get()),
        (ReplicaRole::Leader, 1)
    );

    let plan = leader.replica().rebuild(false).await.unwrap();
    assert_eq!(plan.source, dry.source);
    let status = until_rebuilt(&leader, RebuildReason::Ordered).await;
    assert_eq!(
        (status.role, status.rebuilds.of(RebuildReason::Corruption)),
        (ReplicaRole::Follower, 0)
    );
    assert_eq!(facts_at(&leader, last.next()).await, expected);
    assert_eq!(
        worker.agent().replica(P0).unwrap().last_restore.unwrap().kind,
        RestoreKind::Rebuild
    );
    until_only_state_is_left(&bed, "w1").await;
    assert_eq!(leader.lead().await.unwrap().get(), 2);
}

#[tokio::test]
async fn an_order_is_refused_when_nothing_could_take_the_place() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 50).await;
    bed.trim(last.minus(10)).await;
    let refused = leader.replica().rebuild(false).await;
    let Err(RebuildError::NoSource(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        why.contains("trimmed up to") && why.contains("latest.json"),
        "{why}"
    );
    bed.store.switch_off(true);
    let refused = leader.replica().rebuild(false).await;
    assert!(
        matches!(refused, Err(RebuildError::Unavailable(_))),
        "{refused:?}"
    );
    // Nothing happened to it: it even leads in the same term.
    assert_eq!(write(&leader, 5).await, last.plus(5));
    let status = leader.status();
    assert_eq!(
        (
            status.leader.unwrap().0.epoch.get(),
            status.rebuilds.of(RebuildReason::Ordered)
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn a_state_set_aside_on_order_comes_back_when_the_snapshot_proves_damaged() {
    let bed = Bed::new().await;
    let (_w1, leader, snapshot) = leader_with_snapshot(&bed).await;
    let last = write(&leader, 30).await;
    let expected = facts_at(&leader, last).await;
    bed.spoil(snapshot.snapshot_id).await;
    leader.replica().rebuild(false).await.unwrap();
    let status = until(&leader, |status| {
        status.state == PartitionState::Active && status.applied_lsn >= Some(last)
    });
    assert_eq!(status.await.rebuilds.of(RebuildReason::Ordered), 1);
    assert_eq!(facts_at(&leader, last).await, expected);
    assert!(snapshot.lsn < last && folders(&bed, "w1") == ["state"]);
    leader.lead().await.unwrap();
    write(&leader, 5).await;
}

#[tokio::test]
async fn a_disk_that_damages_everything_does_not_have_the_store_read_over_and_over() {
    let bed = Bed::new().await;
    let (worker, leader, _) = leader_with_snapshot(&bed).await;
    flip_byte(&largest_sst(&state_dir(&bed, "w1")));
    assert!(leader.digest().await.is_err());
    until_rebuilt(&leader, RebuildReason::Corruption).await;
    flip_byte(&largest_sst(&state_dir(&bed, "w1")));
    assert!(leader.digest().await.is_err());
    let blocked = until(&leader, |status| {
        matches!(
            status.state,
            PartitionState::Blocked {
                reason: BlockedReason::LocalState,
                ..
            }
        )
    });
    assert_eq!(blocked.await.rebuilds.of(RebuildReason::Corruption), 1);
    worker.shutdown().await;
    assert_eq!(
        leader.status().leader.map(|(leader, _)| leader.epoch.get()),
        Some(1)
    );
    assert!(leader.status().applied_lsn > Some(Lsn::ZERO));
}
