//! The embedded log on a disk that is full.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

#[path = "common/small_disk.rs"]
mod small_disk;

use bytes::Bytes;
use futures::StreamExt;
use partition_log::{
    AppendError, Log, LogAdmin,
    conformance::{incarnation, registration},
    embedded::{EmbeddedLog, EmbeddedOptions},
};
use small_disk::Filler;
use snapshot_store::{Lsn, PartitionId};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

const P0: PartitionId = PartitionId::new(0);
const DISK_MIB: u32 = 32;
const RECORD_BYTES: usize = 64 << 10;
/// Longer than anything here takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn on_small_disk<F: Future<Output = ()>>(name: &str, test: impl FnOnce(PathBuf) -> F) {
    let disk = small_disk::inside(name, DISK_MIB).unwrap_or_else(|reason| panic!("{reason}"));
    if let Some(disk) = disk {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all().build().unwrap().block_on(test(disk));
    }
}

fn open(disk: &Path) -> EmbeddedLog {
    let options = EmbeddedOptions {
        write_buffer_bytes: 1 << 20,
        wal_bytes_max: 4 << 20,
        disk_reserve_bytes: 6 << 20,
    };
    EmbeddedLog::open(&disk.join("log"), options).unwrap()
}

/// The record at `lsn`: no compression makes it smaller.
fn record(lsn: Lsn) -> Bytes {
    let mut state = lsn.get() * 2 + 1;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(RECORD_BYTES).collect()
}

/// Appends records until one is refused; returns the tail and the refusal.
async fn append_until_refused(log: &EmbeddedLog, mut tail: Lsn) -> (Lsn, AppendError) {
    for _ in 0..10_000 {
        match log
            .append(P0, incarnation(1), vec![record(tail)], Some(tail))
            .await
        {
            Ok(last) => tail = last.next(),
            Err(error) => return (tail, error),
        }
    }
    panic!("the disk is larger than the test knows");
}

/// Appends one record, as soon as one is taken.
async fn append_again(log: &EmbeddedLog) -> Lsn {
    let began = Instant::now();
    loop {
        let tail = log.info(P0).await.unwrap().tail;
        match log
            .append(P0, incarnation(1), vec![record(tail)], Some(tail))
            .await
        {
            Ok(last) => return last,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks that the log holds exactly the records that belong above its trim point.
async fn check(log: &EmbeddedLog) {
    let info = log.info(P0).await.unwrap();
    let mut next = info.trim_point.next();
    let mut stream = log.read(P0, incarnation(1), next).await.unwrap();
    while next < info.tail {
        let batch = stream.next().await.unwrap().unwrap();
        assert_eq!(batch.first, next);
        for found in batch.records {
            assert!(found == record(next), "another record at {next}");
            next = next.next();
        }
    }
}

fn assert_full(error: &AppendError) {
    assert!(
        matches!(error, AppendError::Unavailable { detail } if detail.contains("is full")),
        "{error}"
    );
}

#[test]
fn a_log_that_filled_its_disk_is_trimmed_and_takes_records_again() {
    on_small_disk(
        "a_log_that_filled_its_disk_is_trimmed_and_takes_records_again",
        |disk| async move {
            let log = open(&disk);
            log.provision(registration(0)).await.unwrap();
            let (tail, refusal) = append_until_refused(&log, Lsn::FIRST).await;
            assert_full(&refusal);
            assert!(tail > Lsn::new(50), "{tail}");
            assert_eq!(log.failure(), None, "nothing failed: it refused in time");
            let up_to = Lsn::new(tail.get() - 5);
            assert_eq!(log.trim(P0, incarnation(1), up_to).await.unwrap(), up_to);
            let last = append_again(&log).await;
            assert_eq!(last, tail);
            check(&log).await;
            log.close().await;
            let log = open(&disk);
            check(&log).await;
            assert_eq!(log.info(P0).await.unwrap().trim_point, up_to);
            log.close().await;
        },
    );
}

#[test]
fn a_log_whose_disk_others_filled_is_trimmed_with_the_room_of_its_reserve() {
    on_small_disk(
        "a_log_whose_disk_others_filled_is_trimmed_with_the_room_of_its_reserve",
        |disk| async move {
            let log = open(&disk);
            log.provision(registration(0)).await.unwrap();
            let mut tail = Lsn::FIRST;
            for _ in 0..100 {
                tail = log
                    .append(P0, incarnation(1), vec![record(tail)], Some(tail))
                    .await
                    .unwrap()
                    .next();
            }
            let filler = Filler::leaving(&disk, 0);
            let (after, refusal) = append_until_refused(&log, tail).await;
            assert_full(&refusal);
            assert_eq!(after, tail);
            let up_to = Lsn::new(90);
            assert_eq!(log.trim(P0, incarnation(1), up_to).await.unwrap(), up_to);
            check(&log).await;
            filler.remove();
            assert_eq!(append_again(&log).await, tail);
            check(&log).await;
            log.close().await;
        },
    );
}

#[test]
fn a_log_without_a_reserve_fails_on_a_full_disk_and_comes_back_by_itself() {
    on_small_disk(
        "a_log_without_a_reserve_fails_on_a_full_disk_and_comes_back_by_itself",
        |disk| async move {
            let options = EmbeddedOptions {
                write_buffer_bytes: 1 << 20,
                wal_bytes_max: 4 << 20,
                disk_reserve_bytes: 0,
            };
            let log = EmbeddedLog::open(&disk.join("log"), options).unwrap();
            log.provision(registration(0)).await.unwrap();
            let filler = Filler::leaving(&disk, 2 << 20);
            let (tail, refusal) = append_until_refused(&log, Lsn::FIRST).await;
            assert!(
                matches!(refusal, AppendError::Unknown { .. }),
                "nobody knows what landed: {refusal}"
            );
            filler.remove();
            let last = append_again(&log).await;
            assert!(last >= tail, "{last} is below what was acknowledged, {tail}");
            assert_eq!(log.failure(), None);
            check(&log).await;
            log.close().await;
        },
    );
}
