//! A disk that is full while a replica applies, makes a snapshot, or restores: it says so, and goes on by itself once
//! there is room. Replicas on another disk do not notice.

#[path = "../../../../partition-log/tests/common/small_disk.rs"]
mod small_disk;

use super::bed::{Bed, P0, commands, facts_at, until, until_active, until_applied};
use crate::{
    core::{BlockedReason, PartitionState, ReplicaStatus},
    processor::{PartitionHandle, Worker},
};
use small_disk::Filler;
use snapshot_store::{ContentHash, Lsn};
use std::path::Path;

const DISK_MIB: u32 = 24;

/// Runs `test` with a small disk, in the process that has one.
fn on_small_disk<F: Future<Output = ()>>(name: &str, test: impl FnOnce(std::path::PathBuf) -> F) {
    let name = format!("processor::tests::full_disk::{name}");
    let disk = small_disk::inside(&name, DISK_MIB).unwrap_or_else(|reason| panic!("{reason}"));
    if let Some(disk) = disk {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all().build().unwrap().block_on(test(disk));
    }
}

/// Starts a worker whose folder is on `disk`.
fn start_on(bed: &Bed, disk: &Path) -> (Worker, PartitionHandle) {
    let mut options = bed.options("small");
    options.data_dir = disk.join("small");
    let worker = bed.start(options);
    let handle = worker.partition(P0).unwrap();
    (worker, handle)
}

/// Writes about `bytes` bytes that no compression makes smaller; returns the last LSN.
async fn write_bytes(leader: &PartitionHandle, bytes: usize) -> Lsn {
    const VALUE_BYTES: usize = 64 << 10;
    let mut last = Lsn::ZERO;
    for number in 0..bytes.div_ceil(VALUE_BYTES) {
        let seed = leader.status().applied_lsn.unwrap_or_default().get();
        let mut value = String::new();
        while value.len() < VALUE_BYTES {
            let block = [seed.to_be_bytes(), (value.len() as u64).to_be_bytes()].concat();
            value += &ContentHash::of(&block).to_string();
        }
        let command = format!("key-{number}={value}");
        let applied = leader.propose(commands(&[&command])).await.unwrap();
        last = applied.last().unwrap().lsn;
    }
    last
}

fn is_full(status: &ReplicaStatus) -> bool {
    matches!(
        &status.state,
        PartitionState::Blocked {
            reason: BlockedReason::DiskFull,
            ..
        }
    )
}

#[test]
fn a_replica_that_cannot_write_says_so_and_catches_up_once_there_is_room() {
    on_small_disk(
        "a_replica_that_cannot_write_says_so_and_catches_up_once_there_is_room",
        |disk| async move {
            let bed = Bed::new().await;
            let (_elsewhere, leader) = bed.leader("elsewhere").await;
            let (_small, small) = start_on(&bed, &disk);
            let last = write_bytes(&leader, 1 << 20).await;
            until(&small, |status| status.durable_lsn == Some(last)).await;

            let filler = Filler::leaving(&disk, 256 << 10);
            write_bytes(&leader, 2 << 20).await;
            until(&small, is_full).await;
            // The other one goes on, and is durable.
            let last = write_bytes(&leader, 1 << 20).await;
            until(&leader, |status| status.durable_lsn == Some(last)).await;
            assert_eq!(leader.status().state, PartitionState::Active);
            assert_ne!(small.status().state, PartitionState::Active);
            until(&small, is_full).await;

            filler.remove();
            until_active(&small).await;
            assert_eq!(facts_at(&small, last).await, facts_at(&leader, last).await);
            until(&small, |status| status.durable_lsn == Some(last)).await;
        },
    );
}

#[test]
fn a_snapshot_that_finds_the_disk_full_fails_by_name_and_the_next_one_is_published() {
    on_small_disk(
        "a_snapshot_that_finds_the_disk_full_fails_by_name_and_the_next_one_is_published",
        |disk| async move {
            let bed = Bed::new().await;
            let (_elsewhere, leader) = bed.leader("elsewhere").await;
            let (worker, small) = start_on(&bed, &disk);
            let last = write_bytes(&leader, 1 << 20).await;
            until(&small, |status| status.durable_lsn == Some(last)).await;

            let filler = Filler::leaving(&disk, 0);
            let seen = bed.try_snapshot(&worker).await.unwrap_err();
            let outcome = seen.last().unwrap();
            assert!(outcome.contains("DiskFull"), "{outcome}");
            let exports = disk.join("small/staging/exports");
            assert_eq!(std::fs::read_dir(&exports).unwrap().count(), 0);
            filler.remove();
            until_active(&small).await;
            until_applied(&small, last).await;
            assert_eq!(bed.snapshot(&worker).await.lsn, last);
            assert_eq!(std::fs::read_dir(&exports).unwrap().count(), 0);
        },
    );
}

#[test]
fn a_restore_waits_for_room_and_then_goes_on() {
    on_small_disk("a_restore_waits_for_room_and_then_goes_on", |disk| async move {
        let bed = Bed::new().await;
        let (elsewhere, leader) = bed.leader("elsewhere").await;
        let last = write_bytes(&leader, 4 << 20).await;
        bed.snapshot(&elsewhere).await;
        bed.trim(last).await;

        let filler = Filler::leaving(&disk, 1 << 20);
        let (worker, small) = start_on(&bed, &disk);
        until(&small, is_full).await;
        let last = write_bytes(&leader, 1 << 20).await;
        assert_eq!(leader.status().state, PartitionState::Active);
        filler.remove();
        until_active(&small).await;
        assert_eq!(facts_at(&small, last).await, facts_at(&leader, last).await);
        assert!(worker.agent().replica(P0).unwrap().last_restore.is_some());
    });
}
