//! A leader that does not know yet that its term is over changes nothing.

use super::{
    bed::{Bed, Machine, P0, commands, facts_at, node, record, until, until_active, value, write},
    stalling::StallingLog,
};
use crate::{core::LedBody, processor::ProposeError};
use snapshot_store::ReplicaRole;
use std::sync::Arc;

#[tokio::test]
async fn a_zombie_leaders_records_are_ignored_by_old_and_restored_replicas_alike() {
    let bed = Bed::new().await;
    let log = Arc::new(StallingLog::new(bed.log.clone()));
    let w1 = bed.start_with(bed.options("w1"), Arc::clone(&log) as _, Machine { version: 1 });
    let zombie = w1.partition(P0).unwrap();
    until_active(&zombie).await;
    zombie.lead().await.unwrap();
    write(&zombie, 20).await;
    let (w2, new) = bed.active("w2").await;

    // It hears nothing of the log any more, and another one takes the lead.
    log.freeze(true);
    new.lead().await.unwrap();
    new.propose(commands(&["a=new"])).await.unwrap();
    let covered = bed.snapshot(&w2).await.lsn;
    bed.trim(covered.minus(5)).await;
    // What it had sent before lands now, in the midst of the new term; and a client still waits for an answer.
    let late = |sequence, text: &'static str| record(1, "w1", sequence, LedBody::Command(text.into()));
    bed.append(vec![late(22, "a=late"), late(23, "a=later")]).await;
    let before = log.appends();
    let (answer, last) = tokio::join!(zombie.propose(commands(&["a=zombie"])), async {
        while log.appends() == before {
            tokio::task::yield_now().await;
        }
        let last = write(&new, 10).await;
        log.freeze(false);
        last
    });
    let Err(ProposeError::NotLeader {
        leader: Some((leader, address)),
    }) = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (leader.node, leader.epoch.get(), address.as_str()),
        (node("w2"), 2, "http://w2")
    );
    until(&zombie, |status| status.role == ReplicaRole::Follower).await;

    let (w3, restored) = bed.active("w3").await;
    let expected = facts_at(&new, last).await;
    for replica in [&zombie, &restored] {
        assert_eq!(facts_at(replica, last).await, expected);
        assert_eq!(value(replica, "a").as_deref(), Some("new"));
    }
    assert_eq!(w3.agent().replica(P0).unwrap().last_restore.unwrap().lsn, covered);
}
