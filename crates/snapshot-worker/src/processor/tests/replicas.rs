//! Replicas of one log become the same, and stay so over restarts.

use super::bed::{
    Bed, P0, PAIRS, commands, facts_at, node, until, until_active, until_applied, value, write,
};
use crate::{
    core::{LedBody, PartitionState},
    processor::ProposeError,
};
use partition_log::Log;
use snapshot_store::{Lsn, ReplicaRole, format::ChainTrail};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[tokio::test]
async fn replicas_agree_whatever_their_batches() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 2500).await;
    let mut trails: Vec<ChainTrail> = vec![until_applied(&leader, last).await.chain];
    let expected = facts_at(&leader, last).await;
    for (name, records, bytes) in [("w2", 1, 1 << 20), ("w3", 7, 1 << 20), ("w4", 5000, 100)] {
        let mut options = bed.options(name);
        (options.apply_records_max, options.apply_bytes_max) = (records, bytes);
        let worker = bed.start(options);
        let replica = worker.partition(P0).unwrap();
        assert_eq!(facts_at(&replica, last).await, expected, "{name}");
        trails.push(replica.status().chain);
    }
    assert!(trails.iter().all(|trail| *trail == trails[0]));
    let lsns: Vec<u64> = trails[0].0.iter().map(|point| point.lsn.get()).collect();
    assert_eq!(lsns, [1024, 2048, last.get()]);
}

#[tokio::test]
async fn a_write_is_acknowledged_once_it_is_applied() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let applied = leader.propose(commands(&["a=1", "a=2"])).await.unwrap();
    assert_eq!(
        applied
            .iter()
            .map(|applied| applied.lsn.get())
            .collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(applied[1].reply, "1");
    let view = leader.view().unwrap();
    assert_eq!(view.get(&PAIRS, b"a").unwrap(), Some(b"2".to_vec()));
    assert_eq!(
        (view.applied_lsn(), view.role()),
        (Lsn::new(3), ReplicaRole::Leader)
    );
    assert_eq!(view.leader().unwrap().0.node, node("w1"));
}

#[tokio::test]
async fn a_follower_refuses_writes_and_names_the_leader() {
    let bed = Bed::new().await;
    let (_w1, _leader) = bed.leader("w1").await;
    let (_w2, follower) = bed.active("w2").await;
    until_applied(&follower, Lsn::FIRST).await;
    let Err(ProposeError::NotLeader {
        leader: Some((leader, address)),
    }) = follower.propose(commands(&["a=1"])).await
    else {
        panic!("a follower took a write")
    };
    assert_eq!((leader.node, address.as_str()), (node("w1"), "http://w1"));
    assert_eq!(bed.log.info(P0).await.unwrap().tail, Lsn::new(2));
}

#[tokio::test]
async fn a_view_stands_still_while_writes_go_on() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    leader.propose(commands(&["a=1", "b=2", "c=3"])).await.unwrap();
    let view = leader.view().unwrap();
    leader.propose(commands(&["a=9", "b=", "d=4"])).await.unwrap();
    let pairs: Vec<_> = view.scan(&PAIRS, b"b").map(Result::unwrap).collect();
    assert_eq!(
        pairs,
        [(b"b".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"3".to_vec())]
    );
    assert_eq!(view.applied_lsn(), Lsn::new(4));
    assert_eq!(leader.view().unwrap().scan(&PAIRS, b"").count(), 3);
}

#[tokio::test]
async fn a_quiet_partition_becomes_durable_by_itself() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    let status = until(&leader, |status| status.durable_lsn == Some(last)).await;
    assert_eq!(status.needed, Some((last, status.log_bytes.unwrap())));
}

#[tokio::test]
async fn a_start_with_good_local_state_asks_the_store_nothing() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 50).await;
    let before = facts_at(&leader, last).await;
    w1.shutdown().await;
    let requests = bed.store.requests();
    let (_w1, again) = bed.active("w1").await;
    assert_eq!(again.digest().await.unwrap(), before);
    assert_eq!(bed.store.requests(), requests);
}

#[tokio::test]
async fn a_start_at_the_trim_point_asks_the_store_nothing() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 50).await;
    w1.shutdown().await;
    bed.trim(last).await;
    let requests = bed.store.requests();
    let (_w1, again) = bed.active("w1").await;
    assert_eq!(again.status().applied_lsn, Some(last));
    assert_eq!(bed.store.requests(), requests);
    again.lead().await.unwrap();
    assert_eq!(write(&again, 1).await, last.plus(2));
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

/// Returns all files below `dir` with their sizes.
fn listing(dir: &Path, files: &mut BTreeMap<PathBuf, u64>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => listing(&entry.path(), files),
            Ok(metadata) => drop(files.insert(entry.path(), metadata.len())),
            // It went between the two calls; the next listing will differ.
            Err(_) => {}
        }
    }
}

/// Copies `from` as it stands at one moment: again, while files came, went or grew meanwhile.
fn copy_of_one_moment(from: &Path, to: &Path) {
    for _ in 0..1000 {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        listing(from, &mut before);
        drop(fs::remove_dir_all(to));
        copy_all(from, to);
        listing(from, &mut after);
        if before == after {
            return;
        }
    }
    panic!("{} never stands still", from.display());
}

#[tokio::test]
async fn after_a_crash_a_replica_goes_on_from_its_durable_lsn() {
    let bed = Bed::new().await;
    let mut options = bed.options("w1");
    options.flush_interval = std::time::Duration::from_secs(3600);
    options.flush_records = 100;
    let w1 = bed.start(options);
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    write(&leader, 150).await;
    let durable = until(&leader, |status| status.durable_lsn >= Some(Lsn::new(100)))
        .await
        .durable_lsn;
    let last = write(&leader, 30).await;
    let expected = facts_at(&leader, last).await;
    // What is on disk now is what a crash would leave.
    copy_of_one_moment(&bed.data_dir("w1"), &bed.data_dir("w2"));
    let w2 = bed.start(bed.options("w2"));
    let copy = w2.partition(P0).unwrap();
    let opened = until(&copy, |status| status.applied_lsn.is_some()).await;
    assert!(opened.applied_lsn >= durable && durable < Some(last));
    assert_eq!(facts_at(&copy, last).await, expected);
}

#[tokio::test]
async fn a_leader_that_restarts_announces_itself_anew() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    write(&leader, 5).await;
    w1.shutdown().await;
    assert_eq!(
        leader.propose(commands(&["a=1"])).await,
        Err(ProposeError::Stopping)
    );
    let (_w1, again) = bed.active("w1").await;
    assert_eq!(again.status().role, ReplicaRole::Follower);
    assert!(matches!(
        again.propose(commands(&["a=1"])).await,
        Err(ProposeError::NotLeader { .. })
    ));
    assert_eq!(again.lead().await.unwrap().get(), 2);
    assert_eq!(again.status().role, ReplicaRole::Leader);
    again.propose(commands(&["a=1"])).await.unwrap();
    assert_eq!(value(&again, "a").as_deref(), Some("1"));
}

#[tokio::test]
async fn partitions_are_opened_and_closed_while_the_worker_runs() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    write(&leader, 5).await;
    let p1 = super::bed::P1;
    until_active(&w1.open_partition(p1).unwrap()).await;
    assert!(w1.open_partition(p1).is_err());
    assert!(w1.open_partition(snapshot_store::PartitionId::new(2)).is_err());
    assert!(w1.close_partition(P0).await);
    assert!(!w1.close_partition(P0).await);
    assert_eq!(w1.partitions(), [p1]);
    let reopened = w1.open_partition(P0).unwrap();
    assert_eq!(until_active(&reopened).await.applied_lsn, Some(Lsn::new(6)));
    assert_eq!(reopened.status().state, PartitionState::Active);
}

#[tokio::test]
async fn records_of_other_terms_change_nothing_on_any_replica() {
    let bed = Bed::new().await;
    let (_w1, first) = bed.leader("w1").await;
    first.propose(commands(&["a=1"])).await.unwrap();
    let (_w2, second) = bed.leader("w2").await;
    second.propose(commands(&["a=2"])).await.unwrap();
    // Late, early, and of the right epoch by the wrong node.
    let body = |text| LedBody::Command(commands(&[text]).remove(0));
    let last = bed
        .append(vec![
            super::bed::record(1, "w1", 3, body("a=late")),
            super::bed::record(3, "w1", 1, body("a=early")),
            super::bed::record(2, "w1", 9, body("a=wrong")),
        ])
        .await;
    assert_eq!(facts_at(&first, last).await, facts_at(&second, last).await);
    assert_eq!(value(&first, "a").as_deref(), Some("2"));
}
