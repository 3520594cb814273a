//! A record that no replica can apply is passed over by all of them alike.

use super::{
    bed::{
        Bed, Machine, P0, commands, facts_at, node, record, until, until_active, until_applied, value, write,
    },
    stalling::StallingLog,
};
use crate::{
    agent::{PartitionHost, SkipError, SkipOrder},
    core::{Chain, LedBody, Outcome, PartitionState, PoisonRecord, Record, SkipRefusal, Verdict, judge},
    processor::{PartitionHandle, ProposeError, Worker},
};
use bytes::Bytes;
use partition_log::memory::AppendFault;
use snapshot_store::{ChainHash, Leadership, Lsn, RecordHash, ReplicaRole};
use std::sync::Arc;

async fn until_poisoned(handle: &PartitionHandle) -> PoisonRecord {
    until(handle, |status| status.state.is_blocked_by_record()).await;
    handle.replica().poison().unwrap()
}

fn order(poison: &PoisonRecord) -> SkipOrder {
    SkipOrder {
        lsn: poison.lsn,
        hash: poison.hash,
        reason: "written by a broken client".to_owned(),
    }
}

/// Has `handle` order the record it is blocked at to be passed over; returns where the order stands.
async fn skip(handle: &PartitionHandle) -> Lsn {
    let poison = until_poisoned(handle).await;
    handle.replica().skip(order(&poison)).await.unwrap()
}

/// Returns the chain hash at the tail as somebody computes it who reads the whole log and knows that the records at
/// `skipped` were passed over.
async fn chain_of_log(bed: &Bed, skipped: &[Lsn]) -> ChainHash {
    let mut chain = Chain::starting_at(ChainHash::origin(&bed.cluster.fingerprint, &bed.incarnation));
    let mut leader: Option<Leadership> = None;
    for (index, bytes) in bed.records(Lsn::FIRST).await.iter().enumerate() {
        let lsn = Lsn::FIRST.plus(index as u64);
        if skipped.contains(&lsn) {
            chain.extend(lsn, Outcome::Skipped, bytes);
            continue;
        }
        let decoded = Record::decode(bytes).unwrap();
        let verdict = judge(leader.as_ref(), &decoded);
        chain.extend(lsn, verdict.outcome(), bytes);
        if let Verdict::TakeLead { leadership, .. } = verdict {
            leader = Some(leadership.clone());
        }
    }
    chain.hash
}

async fn two_blocked(bed: &Bed) -> (Worker, PartitionHandle, Worker, PartitionHandle) {
    let (w1, leader) = bed.leader("w1").await;
    let (w2, follower) = bed.active("w2").await;
    write(&leader, 20).await;
    let answer = leader.propose(commands(&["a=1", "poison", "a=2"])).await;
    // Whoever waits is told which record is in the way.
    let Err(ProposeError::Unknown { detail }) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        detail.contains("poison-record") && detail.contains("at 23"),
        "{detail}"
    );
    (w1, leader, w2, follower)
}

#[tokio::test]
async fn a_skipped_record_is_passed_over_by_all_replicas_alike() {
    let bed = Bed::new().await;
    let (w1, one, _w2, two) = two_blocked(&bed).await;
    let poison = until_poisoned(&one).await;
    assert_eq!(until_poisoned(&two).await, poison);
    assert_eq!(
        (
            poison.lsn,
            poison.author.as_ref().map(|author| author.node.clone())
        ),
        (Lsn::new(23), Some(node("w1")))
    );
    let refused = one.propose(commands(&["a=3"])).await.unwrap_err();
    assert!(refused.to_string().contains("poison-record"), "{refused}");

    let ordered_at = skip(&two).await;
    for handle in [&one, &two] {
        until_active(handle).await;
        until_applied(handle, ordered_at).await;
        // What came after it in the same append counts; what it tried does not.
        assert_eq!(value(handle, "a").as_deref(), Some("2"));
        assert_eq!(value(handle, "trace"), None);
    }
    assert_eq!(
        two.digest().await.unwrap().chain_hash,
        chain_of_log(&bed, &[poison.lsn]).await
    );

    // Somebody leads again, and writes are acknowledged.
    two.lead().await.unwrap();
    let last = write(&two, 30).await;
    let expected = facts_at(&one, last).await;
    assert_eq!(facts_at(&two, last).await, expected);
    let (_w3, replayed) = bed.active("w3").await;
    assert_eq!(facts_at(&replayed, last).await, expected, "replayed from LSN 1");
    bed.snapshot(&w1).await;
    bed.trim(last).await;
    let (w4, restored) = bed.active("w4").await;
    assert_eq!(
        facts_at(&restored, last).await,
        expected,
        "restored from a snapshot"
    );
    assert_eq!(restored.status().chain, one.status().chain);
    assert!(w4.agent().replica(P0).unwrap().last_restore.is_some());
}

#[tokio::test]
async fn only_the_replica_that_is_blocked_there_orders_a_skip() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let asked = SkipOrder {
        lsn: Lsn::new(2),
        hash: RecordHash::of(b"x"),
        reason: "because".to_owned(),
    };
    let refused = leader.replica().skip(asked).await;
    assert!(matches!(
        refused,
        Err(SkipError::Refused(SkipRefusal::NotBlocked { .. }))
    ));
    let tail = bed
        .append(vec![record(1, "w1", 9, LedBody::Command("poison".into()))])
        .await
        .next();
    let poison = until_poisoned(&leader).await;
    let other = SkipOrder {
        lsn: poison.lsn.prev(),
        ..order(&poison)
    };
    let refused = leader.replica().skip(other).await;
    assert!(matches!(
        refused,
        Err(SkipError::Refused(SkipRefusal::OtherLsn { .. }))
    ));
    let other = SkipOrder {
        hash: RecordHash::of(b"x"),
        ..order(&poison)
    };
    let refused = leader.replica().skip(other).await;
    assert!(matches!(
        refused,
        Err(SkipError::Refused(SkipRefusal::OtherHash { .. }))
    ));
    assert_eq!(bed.records(tail).await, Vec::<Bytes>::new());
}

#[tokio::test]
async fn orders_that_name_another_record_are_passed_by() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let at = bed.append(vec![Bytes::from_static(b"\xff\xff")]).await;
    let poison = until_poisoned(&leader).await;
    assert_eq!((poison.lsn, &poison.author, poison.bytes), (at, &None, 2));
    let wrong = |lsn, hash| {
        Record::Skip {
            lsn,
            hash,
            reason: String::new(),
        }
        .encode()
    };
    bed.append(vec![
        wrong(at.next(), poison.hash),
        wrong(at, RecordHash::of(b"other")),
        Bytes::from_static(b"\xff\xfe"),
    ])
    .await;
    // The senseless record behind it is in the way next, and the wrong orders are no more than records.
    skip(&leader).await;
    let next = until(&leader, |status| {
        status.state.is_blocked_by_record() && status.applied_lsn == Some(at.plus(2))
    });
    next.await;
    skip(&leader).await;
    until_active(&leader).await;
    let tail = until_applied(&leader, at.plus(5)).await.applied_lsn.unwrap();
    assert_eq!(tail, at.plus(5));
    assert_eq!(
        leader.digest().await.unwrap().chain_hash,
        chain_of_log(&bed, &[at, at.plus(3)]).await
    );
}

#[tokio::test]
async fn an_order_with_unclear_outcome_stands_in_the_log_once() {
    for fault in [
        AppendFault::UnknownLanded,
        AppendFault::UnknownNotLanded,
        AppendFault::UnknownDelayed,
    ] {
        let bed = Bed::new().await;
        let (_w1, leader) = bed.leader("w1").await;
        let at = bed.append(vec![Bytes::from_static(b"\xff\xff")]).await;
        let poison = until_poisoned(&leader).await;
        bed.log.fail_next_append(P0, fault);
        let ordered_at = leader.replica().skip(order(&poison)).await.unwrap();
        bed.log.release_delayed(P0);
        assert_eq!(
            (at.next(), bed.records(at.next()).await.len()),
            (ordered_at, 1),
            "{fault:?}"
        );
        until_active(&leader).await;
    }
}

#[tokio::test]
async fn a_log_that_takes_no_appends_is_said_and_nothing_is_skipped() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    bed.append(vec![Bytes::from_static(b"\xff\xff")]).await;
    let poison = until_poisoned(&leader).await;
    bed.log.fail_next_append(P0, AppendFault::Unavailable);
    let refused = leader.replica().skip(order(&poison)).await;
    assert!(matches!(refused, Err(SkipError::Unavailable(_))), "{refused:?}");
    assert!(leader.status().state.is_blocked_by_record());
    skip(&leader).await;
    until_active(&leader).await;
}

#[tokio::test]
async fn a_leader_whose_record_was_skipped_meanwhile_says_so_and_goes_on_leading() {
    let bed = Bed::new().await;
    let log = Arc::new(StallingLog::new(bed.log.clone()));
    let w1 = bed.start_with(bed.options("w1"), Arc::clone(&log) as _, Machine { version: 1 });
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    let (_w2, follower) = bed.active("w2").await;
    log.freeze(true);
    let ((), answer) = tokio::join!(
        async {
            skip(&follower).await;
            log.freeze(false);
        },
        leader.propose(commands(&["poison"])),
    );
    assert_eq!(answer, Err(ProposeError::Skipped { lsn: Lsn::new(2) }));
    let last = write(&leader, 5).await;
    let status = leader.status();
    assert_eq!(
        (status.role, status.leader.unwrap().0.epoch.get()),
        (ReplicaRole::Leader, 1)
    );
    assert_eq!(facts_at(&follower, last).await, facts_at(&leader, last).await);
}

#[tokio::test]
async fn a_replica_that_could_apply_what_others_skipped_differs_in_its_chain() {
    let bed = Bed::new().await;
    let (_w1, old) = bed.leader("w1").await;
    // A version that understands more: what it applied is not taken back by the order.
    let able = bed.start_with(bed.options("w2"), Arc::new(bed.log.clone()), Tolerant);
    let able = able.partition(P0).unwrap();
    until_active(&able).await;
    bed.append(vec![record(1, "w1", 9, LedBody::Command("poison".into()))])
        .await;
    let ordered_at = skip(&old).await;
    until_applied(&old, ordered_at).await;
    until_applied(&able, ordered_at).await;
    assert_eq!(able.status().state, PartitionState::Active);
    let (old, able) = (old.digest().await.unwrap(), able.digest().await.unwrap());
    assert_eq!(old.digest, able.digest);
    assert_ne!(
        old.chain_hash, able.chain_hash,
        "the admin holds on this: chain-mismatch"
    );
}

/// Like [`Machine`], and passes over what that one cannot apply.
struct Tolerant;

impl crate::processor::StateMachine for Tolerant {
    fn name(&self) -> &'static str {
        "test"
    }

    fn version(&self) -> u32 {
        1
    }

    fn keyspaces(&self) -> &'static [crate::processor::Keyspace] {
        Machine { version: 1 }.keyspaces()
    }

    fn apply(
        &self,
        lsn: Lsn,
        command: &Bytes,
        state: &mut crate::processor::Transaction<'_>,
    ) -> Result<Bytes, crate::processor::ApplyError> {
        match &command[..] {
            b"poison" => Ok(Bytes::new()),
            _ => Machine { version: 1 }.apply(lsn, command, state),
        }
    }
}
