//! A hundred partitions on one node: the trouble of one is nobody else's.

use super::{
    bed::{Bed, P0, commands, facts_at, until, until_active, write},
    rebuilding::{flip_byte, largest_sst},
};
use crate::{
    core::{PartitionState, RebuildReason},
    processor::PartitionHandle,
};
use futures::future::join_all;
use snapshot_store::{PartitionId, ReplicaRole};
use std::time::Duration;

const PARTITIONS: u32 = 100;

/// Writes once to each, and returns how far each has come.
async fn write_to_all(handles: &[PartitionHandle]) -> Vec<u64> {
    let writes = handles.iter().map(|handle| handle.propose(commands(&["n+"])));
    let written = join_all(writes).await;
    written
        .into_iter()
        .map(|applied| applied.unwrap()[0].lsn.get())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_partitions_the_damaged_one_is_rebuilt_and_the_others_never_stop() {
    let bed = Bed::of(PARTITIONS).await;
    let mut options = bed.options("w1");
    options.partitions = (0..PARTITIONS).map(PartitionId::new).collect();
    options.flush_interval = Duration::from_secs(3600);
    let worker = bed.start(options);
    let all: Vec<PartitionHandle> = worker
        .partitions()
        .into_iter()
        .map(|partition| worker.partition(partition).unwrap())
        .collect();
    join_all(all.iter().map(async |handle| {
        until_active(handle).await;
        handle.lead().await.unwrap();
    }))
    .await;
    let (damaged, others) = (&all[0], &all[1..]);
    assert_eq!((damaged.partition(), others.len()), (P0, 99));
    let last = write(damaged, 600).await;
    let before = facts_at(damaged, last).await;
    bed.snapshot(&worker).await;
    bed.trim(last).await;
    let mut reached = write_to_all(others).await;

    flip_byte(&largest_sst(&bed.data_dir("w1").join("partitions/0/state")));
    assert!(damaged.digest().await.is_err());
    // All others take a write in every round until the damaged one is back, and one more after that.
    let rebuilt = |handle: &PartitionHandle| {
        let status = handle.status();
        status.rebuilds.of(RebuildReason::Corruption) == 1 && status.state == PartitionState::Active
    };
    let mut rounds = 0;
    while !rebuilt(damaged) {
        let now = write_to_all(others).await;
        assert!(
            now.iter().zip(&reached).all(|(now, before)| *now == before + 1),
            "{now:?}"
        );
        (reached, rounds) = (now, rounds + 1);
        assert!(rounds < 10_000, "never rebuilt: {:?}", damaged.status());
    }
    assert!(rounds > 0, "nothing was written meanwhile");
    write_to_all(others).await;
    for other in others {
        let status = other.status();
        let epoch = status.leader.as_ref().unwrap().0.epoch.get();
        // A partition that stops gives up the lead: nobody did.
        assert_eq!((status.role, epoch), (ReplicaRole::Leader, 1), "{status:?}");
        assert_eq!(status.rebuilds, Default::default());
    }
    assert_eq!(facts_at(damaged, last).await, before);
    until(damaged, |status| status.role == ReplicaRole::Follower).await;
    damaged.lead().await.unwrap();
    write(damaged, 1).await;
    worker.shutdown().await;
}
