//! What a partition cannot go on with by itself, and that it harms nobody else.

use super::bed::{
    Bed, Machine, P0, P1, commands, facts_at, incarnation, record, until, until_active, until_applied, value,
    write,
};
use crate::{
    core::{BlockedReason, LedBody, PartitionState, ReplicaStatus},
    processor::{PartitionHandle, ProposeError},
};
use object_store::{ObjectStoreExt, path::Path};
use partition_log::{Log, LogMove, Passage};
use snapshot_store::{Lsn, WriteId};
use std::sync::Arc;

async fn until_blocked(handle: &PartitionHandle, expected: BlockedReason) -> ReplicaStatus {
    let is_it = |status: &ReplicaStatus| match &status.state {
        PartitionState::Blocked { reason, detail } => *reason == expected && !detail.is_empty(),
        _ => false,
    };
    until(handle, is_it).await
}

#[tokio::test]
async fn a_missing_log_blocks_and_is_not_created() {
    let bed = Bed::new().await;
    bed.log.forget(P0);
    let w1 = bed.start(bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    until_blocked(&replica, BlockedReason::LogMissing).await;
    assert!(bed.log.registration(P0).await.is_err());
    bed.provision(P0, bed.incarnation).await;
    until_active(&replica).await;
}

#[tokio::test]
async fn an_older_or_conflicting_log_blocks_and_leaves_the_state_alone() {
    for other in [incarnation(1, 7), incarnation(2, 8)] {
        let bed = Bed::new().await;
        let (w1, leader) = bed.leader("w1").await;
        let last = write(&leader, 20).await;
        w1.shutdown().await;
        bed.log.forget(P0);
        bed.provision(P0, other).await;
        let w1 = bed.start(bed.options("w1"));
        let replica = w1.partition(P0).unwrap();
        let status = until_blocked(&replica, BlockedReason::LogIncarnation).await;
        assert_eq!(status.applied_lsn, Some(last));
        assert_eq!(bed.log.info(P0).await.unwrap().tail, Lsn::FIRST);
    }
}

#[tokio::test]
async fn a_newer_log_sets_the_old_state_aside() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    write(&leader, 20).await;
    w1.shutdown().await;
    bed.log.forget(P0);
    bed.provision(P0, incarnation(3, 1)).await;
    let w1 = bed.start(bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    let status = until_active(&replica).await;
    assert_eq!(
        (status.applied_lsn, status.incarnation),
        (Some(Lsn::ZERO), Some(incarnation(3, 1)))
    );
    let folders = std::fs::read_dir(bed.data_dir("w1").join("partitions/0")).unwrap();
    let aside = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(aside.filter(|name| name.starts_with("set-aside-2-")).count(), 1);
    replica.lead().await.unwrap();
    write(&replica, 3).await;
}

#[tokio::test]
async fn a_log_that_lost_its_tail_blocks() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    write(&leader, 20).await;
    w1.shutdown().await;
    bed.log.lose_tail(P0, 3);
    let w1 = bed.start(bed.options("w1"));
    until_blocked(&w1.partition(P0).unwrap(), BlockedReason::LogRegressed).await;
}

#[tokio::test]
async fn a_log_that_lost_its_tail_and_grew_again_blocks() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    w1.shutdown().await;
    bed.log.lose_tail(P0, 3);
    let strange = record(0, "other", 1, LedBody::NoOp);
    bed.append(vec![strange; 10]).await;
    let w1 = bed.start(bed.options("w1"));
    let status = until_blocked(&w1.partition(P0).unwrap(), BlockedReason::LogRegressed).await;
    assert_eq!(status.applied_lsn, Some(last));
}

#[tokio::test]
async fn a_state_that_the_log_contradicted_is_not_continued_when_it_is_trimmed_up_to_there() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    w1.shutdown().await;
    bed.log.lose_tail(P0, 3);
    bed.append(vec![record(0, "other", 1, LedBody::NoOp); 10]).await;
    let w1 = bed.start(bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    until_blocked(&replica, BlockedReason::LogRegressed).await;
    bed.trim(last).await;
    // It asks for a snapshot, and there is none.
    until_blocked(&replica, BlockedReason::NoCoveringSnapshot).await;
}

#[tokio::test]
async fn a_running_leader_notices_that_the_log_lost_records() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    write(&leader, 20).await;
    bed.log.lose_tail(P0, 3);
    let refused = leader.propose(commands(&["a=1"])).await;
    assert!(refused.is_err());
    until_blocked(&leader, BlockedReason::LogRegressed).await;
}

#[tokio::test]
async fn a_log_that_moved_blocks_and_says_where_it_lives() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    let id: WriteId = "00000000000000000000000001".parse().unwrap();
    let to = "nats://elsewhere".to_owned();
    let leaving = Passage::Leaving { id, to: to.clone() };
    let left = Passage::Left { id, to: to.clone() };
    for (from, to) in [(None, leaving.clone()), (Some(leaving), left)] {
        let changed = bed
            .log
            .change_passage(P0, bed.incarnation, from, Some(to.clone()));
        assert_eq!(changed.await.unwrap(), Some(to));
    }
    assert!(leader.propose(commands(&["a=1"])).await.is_err());
    let status = until_blocked(&leader, BlockedReason::LogMoved).await;
    assert_eq!(status.applied_lsn, Some(last));
    assert!(format!("{:?}", status.state).contains(&to), "{:?}", status.state);
}

#[tokio::test]
async fn a_hole_in_the_log_blocks() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    write(&leader, 20).await;
    w1.shutdown().await;
    bed.log.lose_record(P0, Lsn::new(10));
    let w2 = bed.start(bed.options("w2"));
    let status = until_blocked(&w2.partition(P0).unwrap(), BlockedReason::LogHole).await;
    assert_eq!(status.applied_lsn, Some(Lsn::new(9)));
}

#[tokio::test]
async fn a_trimmed_log_without_snapshot_blocks_a_new_replica() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    bed.trim(last).await;
    let w2 = bed.start(bed.options("w2"));
    let replica = w2.partition(P0).unwrap();
    let status = until_blocked(&replica, BlockedReason::NoCoveringSnapshot).await;
    assert_eq!((status.applied_lsn, status.needed), (None, None));
    // A replica that still has the state makes a snapshot, and the blocked one comes back by itself.
    bed.snapshot(&w1).await;
    assert_eq!(facts_at(&replica, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn an_unreachable_store_blocks_only_whom_needs_it() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    bed.store.switch_off(true);
    let w2 = bed.start(bed.options("w2"));
    let replica = w2.partition(P0).unwrap();
    until_blocked(&replica, BlockedReason::StoreUnavailable).await;
    let last = write(&leader, 5).await;
    bed.store.switch_off(false);
    assert_eq!(facts_at(&replica, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn a_pointer_that_cannot_be_understood_blocks_and_is_not_overwritten() {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, 20).await;
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    let pointer = Path::from("0/latest.json");
    let sound = bed.store.get(&pointer).await.unwrap().bytes().await.unwrap();
    bed.store.put(&pointer, "no pointer".into()).await.unwrap();
    let w2 = bed.start(bed.options("w2"));
    let replica = w2.partition(P0).unwrap();
    until_blocked(&replica, BlockedReason::StoreUnusable).await;
    let found = bed.store.get(&pointer).await.unwrap().bytes().await.unwrap();
    assert_eq!(found, "no pointer");
    bed.store.put(&pointer, sound.into()).await.unwrap();
    assert_eq!(facts_at(&replica, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn an_unavailable_log_blocks_after_a_while_and_is_come_back_from() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    bed.log.set_unavailable(P0, true);
    until_blocked(&leader, BlockedReason::LogUnavailable).await;
    assert!(matches!(
        leader.propose(commands(&["a=1"])).await,
        Err(ProposeError::NotActive { .. })
    ));
    bed.log.set_unavailable(P0, false);
    until_active(&leader).await;
}

#[tokio::test]
async fn a_poison_record_blocks_its_partition_and_no_other() {
    for poison in ["poison", "panic"] {
        let bed = Bed::new().await;
        let mut options = bed.options("w1");
        options.partitions = vec![P0, P1];
        let w1 = bed.start(options);
        let (poisoned, neighbour) = (w1.partition(P0).unwrap(), w1.partition(P1).unwrap());
        for handle in [&poisoned, &neighbour] {
            until_active(handle).await;
            handle.lead().await.unwrap();
        }
        // The good one before it lands in the same append, and is applied.
        let answer = poisoned.propose(commands(&["a=1", poison, "a=2"])).await;
        assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
        let status = until_blocked(&poisoned, BlockedReason::PoisonRecord).await;
        assert_eq!(status.applied_lsn, Some(Lsn::new(2)));
        assert_eq!(value(&poisoned, "a").as_deref(), Some("1"));
        assert_eq!(value(&poisoned, "trace"), None);
        let last = write(&neighbour, 20).await;
        until_applied(&neighbour, last).await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_record_are_poison() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let at = bed.append(vec![bytes::Bytes::from_static(b"\xff\xff")]).await;
    let status = until_blocked(&leader, BlockedReason::PoisonRecord).await;
    assert_eq!(status.applied_lsn, Some(at.prev()));
}

#[tokio::test]
async fn a_state_of_a_newer_state_machine_blocks() {
    let bed = Bed::new().await;
    let newer = bed.start_with(
        bed.options("w1"),
        Arc::new(bed.log.clone()),
        Machine { version: 2 },
    );
    until_active(&newer.partition(P0).unwrap()).await;
    newer.shutdown().await;
    let older = bed.start(bed.options("w1"));
    until_blocked(&older.partition(P0).unwrap(), BlockedReason::StateVersion).await;
}

#[tokio::test]
async fn a_folder_of_another_cluster_blocks() {
    let bed = Bed::new().await;
    let (w1, _) = bed.active("w1").await;
    w1.shutdown().await;
    let mut options = bed.options("w1");
    options.identity.partitions = 4;
    let w1 = bed.start(options);
    until_blocked(&w1.partition(P0).unwrap(), BlockedReason::LocalState).await;
}

#[tokio::test]
async fn a_log_of_another_cluster_blocks() {
    let bed = Bed::new().await;
    let mut options = bed.options("w1");
    options.identity.cluster.fingerprint = snapshot_store::Fingerprint::from_bytes([1; 16]);
    let w1 = bed.start(options);
    until_blocked(&w1.partition(P0).unwrap(), BlockedReason::LogIncarnation).await;
}
