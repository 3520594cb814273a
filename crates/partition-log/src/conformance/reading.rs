//! Read streams, and what a trim does to them.

use super::Fixture;
use super::subject::{Subject, next, read_on, record};
use crate::{ReadError, RecordStream};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use snapshot_store::Lsn;

/// More than any engine or connection has under way to a reader that stands still.
const LONG_RECORDS: u64 = 400;
const LONG_RECORD_BYTES: usize = 64 << 10;

async fn append_long(log: &Subject) {
    for first in (1..=LONG_RECORDS).step_by(50) {
        let batch: Vec<_> = (first..first + 50).map(long_record).collect();
        assert_eq!(log.try_append(batch, Some(first)).await, Ok(Lsn::new(first + 49)));
    }
}

fn long_record(lsn: u64) -> Bytes {
    Bytes::from(vec![lsn as u8; LONG_RECORD_BYTES])
}

/// Every place to begin at gives the record of that LSN first, also in the middle of what was one batch.
pub async fn a_read_begins_at_exactly_the_lsn_asked_for(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.try_append((1..=4).map(record).collect(), None)
        .await
        .expect("an append lands");
    log.append(5, 8).await;
    for from in 1..=8 {
        let batch = log.first(from).await.expect("the record is there");
        assert_eq!((batch.first, &batch.records[0]), (Lsn::new(from), &record(from)));
    }
}

/// A reader that has everything waits, and gets what comes, in order.
pub async fn a_reader_at_the_tail_gets_what_is_appended_later(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    let mut stream = log.read(1).await;
    assert!(
        stream.next().now_or_never().is_none(),
        "there is nothing to read yet"
    );
    log.append(1, 1).await;
    assert_eq!(
        read_on(&mut stream, Lsn::new(1), Lsn::new(2)).await,
        Ok(vec![record(1)])
    );
    assert!(
        stream.next().now_or_never().is_none(),
        "there is nothing more to read yet"
    );
    log.append(2, 30).await;
    let read = read_on(&mut stream, Lsn::new(2), Lsn::new(31)).await;
    assert_eq!(read, Ok((2..=30).map(record).collect()));
}

/// More than fits one item, in records and in bytes.
pub async fn a_long_log_is_read_completely_and_in_order(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    append_long(&log).await;
    for first in (LONG_RECORDS + 1..LONG_RECORDS + 2000).step_by(500) {
        log.try_append((first..first + 500).map(record).collect(), None)
            .await
            .expect("an append lands");
    }
    let end = LONG_RECORDS + 2000;
    let expected: Vec<_> = (1..=LONG_RECORDS)
        .map(long_record)
        .chain((LONG_RECORDS + 1..=end).map(record))
        .collect();
    let read = log.all().await;
    assert_eq!(read.len(), expected.len());
    assert!(read == expected, "every record is at its place");
}

/// A gap is never jumped over.
pub async fn a_read_at_or_below_the_trim_point_is_told_so(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 6).await;
    log.trim(4).await;
    for from in 1..=4 {
        assert_eq!(
            log.first(from).await,
            Err(ReadError::Trimmed {
                trim_point: Lsn::new(4)
            })
        );
    }
    assert_eq!(log.first(5).await.map(|batch| batch.first), Ok(Lsn::new(5)));
    // Also when nothing is left that could be delivered instead.
    log.trim(6).await;
    for from in [1, 4, 6] {
        assert_eq!(
            log.first(from).await,
            Err(ReadError::Trimmed {
                trim_point: Lsn::new(6)
            })
        );
    }
}

/// A reader above the tail has seen records that the log lost. The tail itself is a good place to wait.
pub async fn a_read_above_the_tail_is_told_that_the_log_regressed(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    assert_eq!(
        log.first(2).await,
        Err(ReadError::Regressed { tail: Lsn::new(1) })
    );
    log.append(1, 3).await;
    for from in [5, 6, 1000] {
        assert_eq!(
            log.first(from).await,
            Err(ReadError::Regressed { tail: Lsn::new(4) })
        );
    }
    log.trim(3).await;
    assert_eq!(
        log.first(5).await,
        Err(ReadError::Regressed { tail: Lsn::new(4) })
    );
}

/// Reads to the end of a stream: how far it came, and why it ended.
async fn read_to_error(stream: &mut RecordStream, from: Lsn) -> (Lsn, ReadError) {
    let mut expected = from;
    loop {
        match next(stream).await {
            Ok(batch) => {
                assert_eq!(batch.first, expected, "a reader never jumps");
                expected = batch.end();
            }
            Err(error) => return (expected, error),
        }
    }
}

/// A trim overtakes a reader that is in the middle of the log.
pub async fn a_trim_in_mid_stream_reaches_the_reader(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    append_long(&log).await;
    let mut stream = log.read(1).await;
    let first = next(&mut stream).await.expect("the first records are there");
    let trim_point = Lsn::new(LONG_RECORDS - 10);
    assert_eq!(log.trim(trim_point.get()).await, trim_point.get());
    let (reached, error) = read_to_error(&mut stream, first.end()).await;
    assert_eq!(error, ReadError::Trimmed { trim_point });
    assert!(
        reached <= trim_point,
        "what was under way may still come, and no more: {reached}"
    );
}

/// Everything is trimmed while a reader stands below, and nothing is appended that could wake it: it is told all the
/// same.
pub async fn a_trim_that_empties_the_log_reaches_a_reader_that_waits(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    append_long(&log).await;
    let mut stream = log.read(1).await;
    assert_eq!(log.trim(LONG_RECORDS).await, LONG_RECORDS);
    let (_, error) = read_to_error(&mut stream, Lsn::FIRST).await;
    assert_eq!(
        error,
        ReadError::Trimmed {
            trim_point: Lsn::new(LONG_RECORDS)
        }
    );
    // A reader that waits at the tail, and whose next records come and go while it does not look.
    let mut stream = log.read(LONG_RECORDS + 1).await;
    assert!(
        stream.next().now_or_never().is_none(),
        "there is nothing to read yet"
    );
    log.append(LONG_RECORDS + 1, LONG_RECORDS + 3).await;
    assert_eq!(log.trim(LONG_RECORDS + 3).await, LONG_RECORDS + 3);
    let from = Lsn::new(LONG_RECORDS + 1);
    let end = from.plus(3);
    match read_on(&mut stream, from, end).await {
        // The records were under way already; then it waits like everybody else.
        Ok(records) => assert_eq!(records, (from.get()..end.get()).map(record).collect::<Vec<_>>()),
        Err(error) => assert_eq!(
            error,
            ReadError::Trimmed {
                trim_point: end.prev()
            }
        ),
    }
}

/// The place after the last record that was trimmed is a good one to wait at.
pub async fn a_reader_at_an_emptied_log_waits_for_the_next_record(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 4).await;
    log.trim(4).await;
    let mut stream = log.read(5).await;
    assert!(
        stream.next().now_or_never().is_none(),
        "there is nothing to read yet"
    );
    // A trim that removes nothing of what the reader needs is none of its business.
    log.trim(4).await;
    log.append(5, 6).await;
    let read = read_on(&mut stream, Lsn::new(5), Lsn::new(7)).await;
    assert_eq!(read, Ok(vec![record(5), record(6)]));
}
