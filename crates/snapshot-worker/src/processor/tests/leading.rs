//! Leading, and appends that go wrong.

use super::{
    bed::{Bed, P0, commands, facts_at, node, until, until_active, until_applied, value, write},
    stalling::StallingLog,
};
use crate::processor::{LeadError, ProposeError, propose::COMMAND_BYTES_MAX};
use bytes::Bytes;
use futures::future::join_all;
use partition_log::{Log, LogAdmin, memory::AppendFault};
use snapshot_store::{Lsn, ReplicaRole};
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn of_two_candidates_for_a_term_one_leads_and_both_know_it() {
    let bed = Bed::new().await;
    let (_w1, one) = bed.active("w1").await;
    let log = Arc::new(StallingLog::new(bed.log.clone()));
    let w2 = bed.start_with(
        bed.options("w2"),
        Arc::clone(&log) as _,
        super::bed::Machine { version: 1 },
    );
    let two = w2.partition(P0).unwrap();
    until_active(&two).await;
    // The second one does not see the announcement of the first before it has tried its own.
    log.stall(true);
    assert_eq!(one.lead().await.unwrap().get(), 1);
    let (second, ()) = tokio::join!(two.lead(), async {
        while log.appends() == 0 {
            tokio::task::yield_now().await;
        }
        log.stall(false);
    });
    assert!(matches!(second, Err(LeadError::LostRace { winner }) if winner.node == node("w1")));
    one.propose(commands(&["a=1"])).await.unwrap();
    assert!(matches!(
        two.propose(commands(&["a=2"])).await,
        Err(ProposeError::NotLeader { .. })
    ));
    assert_eq!(bed.log.info(P0).await.unwrap().tail, Lsn::new(3));
}

#[tokio::test]
async fn candidates_at_the_same_time_never_share_a_term() {
    let bed = Bed::new().await;
    let (_w1, one) = bed.active("w1").await;
    let (_w2, two) = bed.active("w2").await;
    for _ in 0..5 {
        let (first, second) = tokio::join!(one.lead(), two.lead());
        assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
        assert_ne!(first.ok(), second.ok());
        let last = bed.log.info(P0).await.unwrap().tail.prev();
        let (one, two) = (until_applied(&one, last).await, until_applied(&two, last).await);
        assert_eq!(one.leader, two.leader);
        assert!(one.role == ReplicaRole::Follower || two.role == ReplicaRole::Follower);
    }
}

#[tokio::test]
async fn a_new_leader_ends_the_term_of_the_old_one() {
    let bed = Bed::new().await;
    let (_w1, old) = bed.leader("w1").await;
    let (_w2, new) = bed.leader("w2").await;
    until(&old, |status| status.role == ReplicaRole::Follower).await;
    assert!(matches!(
        old.propose(commands(&["a=1"])).await,
        Err(ProposeError::NotLeader { .. })
    ));
    assert_eq!(new.status().leader.unwrap().0.epoch.get(), 2);
    assert_eq!(
        new.lead().await.unwrap().get(),
        2,
        "a leader is told its own term"
    );
}

#[tokio::test]
async fn an_append_with_unclear_outcome_lands_once() {
    for fault in [
        AppendFault::UnknownLanded,
        AppendFault::UnknownNotLanded,
        AppendFault::UnknownDelayed,
    ] {
        let bed = Bed::new().await;
        let (_w1, leader) = bed.leader("w1").await;
        let (_w2, follower) = bed.active("w2").await;
        bed.log.fail_next_append(P0, fault);
        let applied = leader.propose(commands(&["n+", "n+"])).await.unwrap();
        // The delayed request finds another tail than it expects.
        bed.log.release_delayed(P0);
        let last = write(&leader, 5).await;
        assert_eq!(applied.len(), 2);
        assert_eq!(value(&leader, "n").as_deref(), Some("2"), "{fault:?}");
        assert_eq!(facts_at(&follower, last).await, facts_at(&leader, last).await);
    }
}

#[tokio::test]
async fn a_delayed_append_that_lands_before_its_repetition_counts() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    for _ in 0..3 {
        bed.log.fail_next_append(P0, AppendFault::UnknownDelayed);
    }
    let (applied, released) = tokio::join!(leader.propose(commands(&["n+"])), async {
        while bed.log.release_delayed(P0) == 0 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!((applied.unwrap().len(), released), (1, ()));
    bed.log.release_delayed(P0);
    write(&leader, 3).await;
    assert_eq!(value(&leader, "n").as_deref(), Some("1"));
}

#[tokio::test]
async fn an_announcement_with_unclear_outcome_takes_effect_once() {
    for fault in [
        AppendFault::UnknownLanded,
        AppendFault::UnknownNotLanded,
        AppendFault::UnknownDelayed,
    ] {
        let bed = Bed::new().await;
        let (_w1, replica) = bed.active("w1").await;
        bed.log.fail_next_append(P0, fault);
        assert_eq!(replica.lead().await.unwrap().get(), 1);
        bed.log.release_delayed(P0);
        assert_eq!(write(&replica, 1).await, Lsn::new(2), "{fault:?}");
    }
}

#[tokio::test]
async fn somebody_elses_record_in_between_costs_a_repetition_only() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    for round in 0..5 {
        let strange = super::bed::record(0, "other", 1, crate::core::LedBody::NoOp);
        let (proposed, _) = tokio::join!(leader.propose(commands(&["n+"])), bed.append(vec![strange]));
        proposed.unwrap();
        assert_eq!(value(&leader, "n"), Some((round + 1).to_string()));
    }
}

#[tokio::test]
async fn writes_under_way_when_another_takes_the_lead_are_applied_or_refused() {
    let bed = Bed::new().await;
    let (_w1, old) = bed.leader("w1").await;
    let (_w2, new) = bed.active("w2").await;
    let writes = join_all((0..40).map(|_| async {
        tokio::task::yield_now().await;
        old.propose(commands(&["n+"])).await
    }));
    let (results, led) = tokio::join!(writes, new.lead());
    led.unwrap();
    let last = write(&new, 1).await;
    until_applied(&old, last).await;
    let acknowledged = results.iter().filter(|result| result.is_ok()).count();
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Ok(_) | Err(ProposeError::NotLeader { .. })))
    );
    let counted = value(&new, "n").map_or(0, |n| n.parse().unwrap());
    assert_eq!(counted, acknowledged);
}

#[tokio::test]
async fn many_writers_share_appends_and_all_are_answered() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let writes = join_all((0..300).map(|_| leader.propose(commands(&["n+"])))).await;
    let mut lsns: Vec<u64> = writes
        .into_iter()
        .map(|result| result.unwrap()[0].lsn.get())
        .collect();
    lsns.sort_unstable();
    assert_eq!(lsns, (2..302).collect::<Vec<u64>>());
    assert_eq!(value(&leader, "n").as_deref(), Some("300"));
}

#[tokio::test]
async fn what_does_not_fit_one_append_is_refused() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    let cases = [
        vec![Bytes::from(vec![b'x'; COMMAND_BYTES_MAX + 1])],
        vec![Bytes::from_static(b"a=1"); 1001],
        vec![Bytes::from(vec![b'x'; 1 << 20]); 4],
    ];
    for case in cases {
        assert!(matches!(
            leader.propose(case).await,
            Err(ProposeError::TooLarge { .. })
        ));
    }
    assert_eq!(leader.propose(Vec::new()).await.unwrap(), []);
    let mut longest = b"a=".to_vec();
    longest.resize(COMMAND_BYTES_MAX, b'x');
    leader.propose(vec![longest.into()]).await.unwrap();
}

#[tokio::test]
async fn a_sealed_log_refuses_writes_for_certain() {
    let bed = Bed::new().await;
    let (_w1, leader) = bed.leader("w1").await;
    bed.log.set_sealed(P0, bed.incarnation, true).await.unwrap();
    assert!(matches!(
        leader.propose(commands(&["a=1"])).await,
        Err(ProposeError::Unavailable { .. })
    ));
    bed.log.set_sealed(P0, bed.incarnation, false).await.unwrap();
    leader.propose(commands(&["a=1"])).await.unwrap();
}

#[tokio::test]
async fn a_short_outage_of_the_log_delays_writes() {
    let bed = Bed::new().await;
    let mut options = bed.options("w1");
    options.log_patience = Duration::from_secs(30);
    let w1 = bed.start(options);
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    bed.log.set_unavailable(P0, true);
    let (written, ()) = tokio::join!(leader.propose(commands(&["n+"])), async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        bed.log.set_unavailable(P0, false);
    });
    written.unwrap();
    assert_eq!(value(&leader, "n").as_deref(), Some("1"));
    assert_eq!(bed.log.info(P0).await.unwrap().tail, Lsn::new(3));
}

#[tokio::test]
async fn a_write_whose_fate_stays_unclear_is_answered_so() {
    let bed = Bed::new().await;
    let mut options = bed.options("w1");
    options.propose_timeout = Duration::from_millis(200);
    let w1 = bed.start(options);
    let leader = w1.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    for _ in 0..100 {
        bed.log.fail_next_append(P0, AppendFault::UnknownNotLanded);
    }
    assert!(matches!(
        leader.propose(commands(&["n+"])).await,
        Err(ProposeError::Unknown { .. })
    ));
}
