//! The switches of the memory log do what they say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::{FutureExt, StreamExt};
use partition_log::conformance::{incarnation, registration};
use partition_log::memory::{AppendFault, MemoryLog};
use partition_log::{AppendError, Log, LogAdmin, LogError, ReadError, RecordStream};
use snapshot_store::{Lsn, PartitionId};

const PARTITION: PartitionId = PartitionId::new(0);

async fn provisioned() -> MemoryLog {
    let log = MemoryLog::new();
    log.provision(registration(0)).await.unwrap();
    log
}

async fn append(log: &MemoryLog, text: &'static str, expected: Option<u64>) -> Result<u64, AppendError> {
    let batch = vec![text.as_bytes().into()];
    log.append(PARTITION, incarnation(1), batch, expected.map(Lsn::new))
        .await
        .map(Lsn::get)
}

async fn read(log: &MemoryLog, from: u64) -> RecordStream {
    log.read(PARTITION, incarnation(1), Lsn::new(from)).await.unwrap()
}

async fn tail(log: &MemoryLog) -> u64 {
    log.info(PARTITION).await.unwrap().tail.get()
}

fn mismatch(tail: u64) -> Result<u64, AppendError> {
    Err(AppendError::TailMismatch { tail: Lsn::new(tail) })
}

#[tokio::test]
async fn an_append_whose_reply_is_lost_landed_and_its_repetition_does_not_duplicate() {
    let log = provisioned().await;
    log.fail_next_append(PARTITION, AppendFault::UnknownLanded);
    assert!(matches!(
        append(&log, "a", Some(1)).await,
        Err(AppendError::Unknown { .. })
    ));
    assert_eq!(append(&log, "a", Some(1)).await, mismatch(2));
    assert_eq!(read(&log, 1).await.next().await.unwrap().unwrap().records, ["a"]);
}

#[tokio::test]
async fn an_append_whose_request_is_lost_did_not_land_and_its_repetition_does() {
    let log = provisioned().await;
    log.fail_next_append(PARTITION, AppendFault::UnknownNotLanded);
    assert!(matches!(
        append(&log, "a", Some(1)).await,
        Err(AppendError::Unknown { .. })
    ));
    assert_eq!(tail(&log).await, 1);
    assert_eq!(append(&log, "a", Some(1)).await, Ok(1));
}

#[tokio::test]
async fn a_delayed_append_lands_later_unless_its_tail_was_taken() {
    let log = provisioned().await;
    log.fail_next_append(PARTITION, AppendFault::UnknownDelayed);
    log.fail_next_append(PARTITION, AppendFault::UnknownDelayed);
    for _ in 0..2 {
        assert!(matches!(
            append(&log, "late", Some(1)).await,
            Err(AppendError::Unknown { .. })
        ));
    }
    assert_eq!(tail(&log).await, 1);
    assert_eq!(log.release_delayed(PARTITION), 2);
    assert_eq!(
        tail(&log).await,
        2,
        "the first one lands, the second finds the tail taken"
    );
    assert_eq!(log.release_delayed(PARTITION), 0);
}

#[tokio::test]
async fn a_delayed_trim_answers_unavailable_and_happens_later() {
    let log = provisioned().await;
    append(&log, "a", None).await.unwrap();
    log.set_trims_delayed(PARTITION, true);
    let answer = log.trim(PARTITION, incarnation(1), Lsn::new(1)).await;
    assert!(matches!(answer, Err(LogError::Unavailable { .. })));
    assert_eq!(log.info(PARTITION).await.unwrap().trim_point, Lsn::ZERO);
    log.set_trims_delayed(PARTITION, false);
    assert_eq!(log.release_delayed(PARTITION), 1);
    assert_eq!(log.info(PARTITION).await.unwrap().trim_point, Lsn::new(1));
}

#[tokio::test]
async fn a_log_switched_off_ends_its_readers_and_comes_back_as_it_was() {
    let log = provisioned().await;
    append(&log, "a", None).await.unwrap();
    let mut waiting = read(&log, 2).await;
    assert!(waiting.next().now_or_never().is_none());
    log.set_unavailable(PARTITION, true);
    assert!(matches!(
        waiting.next().await,
        Some(Err(ReadError::Log(LogError::Unavailable { .. })))
    ));
    assert!(waiting.next().await.is_none());
    assert!(matches!(
        append(&log, "b", None).await,
        Err(AppendError::Unavailable { .. })
    ));
    assert!(matches!(
        log.info(PARTITION).await,
        Err(LogError::Unavailable { .. })
    ));
    log.set_unavailable(PARTITION, false);
    assert_eq!(append(&log, "b", Some(2)).await, Ok(2));
}

#[tokio::test]
async fn information_and_reading_are_switched_off_by_themselves() {
    let log = provisioned().await;
    log.set_info_unavailable(PARTITION, true);
    assert!(log.info(PARTITION).await.is_err());
    assert!(log.registration(PARTITION).await.is_err());
    assert_eq!(append(&log, "a", None).await, Ok(1));
    log.set_info_unavailable(PARTITION, false);
    log.set_reads_unavailable(PARTITION, true);
    assert!(log.read(PARTITION, incarnation(1), Lsn::FIRST).await.is_err());
    assert!(log.info(PARTITION).await.is_ok());
    log.set_reads_unavailable(PARTITION, false);
    log.fail_next_append(PARTITION, AppendFault::Unavailable);
    assert!(matches!(
        append(&log, "b", None).await,
        Err(AppendError::Unavailable { .. })
    ));
    assert_eq!(tail(&log).await, 2);
}

#[tokio::test]
async fn a_lost_tail_is_a_regression_and_a_lost_record_a_hole() {
    let log = provisioned().await;
    for text in ["a", "b", "c", "d"] {
        append(&log, text, None).await.unwrap();
    }
    let mut waiting = read(&log, 5).await;
    assert!(waiting.next().now_or_never().is_none());
    log.lose_tail(PARTITION, 1);
    assert_eq!(
        waiting.next().await,
        Some(Err(ReadError::Regressed { tail: Lsn::new(4) }))
    );
    log.lose_record(PARTITION, Lsn::new(2));
    let mut stream = read(&log, 1).await;
    assert_eq!(stream.next().await.unwrap().unwrap().records, ["a"]);
    assert_eq!(
        stream.next().await,
        Some(Err(ReadError::Hole { at: Lsn::new(2) }))
    );
    log.forget(PARTITION);
    assert_eq!(
        log.info(PARTITION).await,
        Err(LogError::Missing { partition: PARTITION })
    );
}
