//! Stopping in order, and starting again as if nothing had been.

use super::bed::{Bed, Machine, P0, facts_at, until, until_active, write};
use crate::{
    core::PartitionState,
    processor::{ApplyError, CLOSE_PARTITION_MAX, Keyspace, StateMachine, Transaction},
};
use bytes::Bytes;
use snapshot_store::{Lsn, ReplicaRole};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Counts what it applies.
#[derive(Default)]
struct Counting(Arc<AtomicUsize>);

impl StateMachine for Counting {
    fn name(&self) -> &'static str {
        "test"
    }

    fn version(&self) -> u32 {
        1
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        Machine { version: 1 }.keyspaces()
    }

    fn apply(&self, lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Machine { version: 1 }.apply(lsn, command, state)
    }
}

#[tokio::test]
async fn a_stop_makes_everything_durable_and_the_next_start_replays_nothing_also_without_store() {
    let bed = Bed::new().await;
    let mut options = bed.options("w1");
    // Nothing is flushed but by the stop.
    options.flush_interval = Duration::from_secs(3600);
    let worker = bed.start(options.clone());
    let leader = worker.partition(P0).unwrap();
    until_active(&leader).await;
    leader.lead().await.unwrap();
    let last = write(&leader, 300).await;
    let before = facts_at(&leader, last).await;
    assert!(leader.status().durable_lsn < Some(last));

    let began = tokio::time::Instant::now();
    worker.shutdown().await;
    assert!(began.elapsed() < CLOSE_PARTITION_MAX);
    let stopped = leader.status();
    assert_eq!(
        (stopped.applied_lsn, stopped.durable_lsn),
        (Some(last), Some(last))
    );
    assert_eq!(stopped.role, ReplicaRole::Follower, "it gave up the lead");

    bed.store.switch_off(true);
    let requests = bed.store.requests();
    let applied = Arc::new(AtomicUsize::new(0));
    let worker = bed.start_with(options, Arc::new(bed.log.clone()), Counting(Arc::clone(&applied)));
    let again = worker.partition(P0).unwrap();
    let active = until(&again, |status| status.state == PartitionState::Active).await;
    assert_eq!((active.applied_lsn, active.durable_lsn), (Some(last), Some(last)));
    assert_eq!(again.digest().await.unwrap(), before);
    assert_eq!(
        applied.load(Ordering::SeqCst),
        0,
        "records were applied a second time"
    );
    assert_eq!(bed.store.requests(), requests, "the store was asked");
    again.lead().await.unwrap();
    write(&again, 5).await;
    assert_eq!(applied.load(Ordering::SeqCst), 5);
}
