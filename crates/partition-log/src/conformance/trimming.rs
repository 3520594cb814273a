//! Trims.

use super::Fixture;
use super::subject::{Subject, record};
use crate::ReadError;
use bytes::Bytes;
use snapshot_store::Lsn;

/// The record at the trim point is gone, the one after it is there.
pub async fn trim_is_inclusive(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 10).await;
    assert_eq!(log.trim(4).await, 4);
    assert_eq!(log.bounds().await, (4, 11));
    assert_eq!(
        log.first(4).await,
        Err(ReadError::Trimmed {
            trim_point: Lsn::new(4)
        })
    );
    assert_eq!(log.all().await, (5..=10).map(record).collect::<Vec<_>>());
}

/// A trim beyond the tail removes what is there and does not move the tail.
pub async fn trim_is_clamped_to_the_tail(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    assert_eq!(log.trim(7).await, 0, "an empty log has nothing to trim");
    assert_eq!(log.bounds().await, (0, 1));
    log.append(1, 3).await;
    assert_eq!(log.trim(u64::MAX).await, 3);
    assert_eq!(log.bounds().await, (3, 4));
    log.append(4, 4).await;
    assert_eq!(log.trim(5).await, 4);
}

/// A lower or repeated trim does nothing and says what is in force.
pub async fn trim_is_monotone_and_idempotent(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 10).await;
    assert_eq!(log.trim(6).await, 6);
    for lower in [0, 1, 5, 6] {
        assert_eq!(log.trim(lower).await, 6);
    }
    assert_eq!(log.bounds().await, (6, 11));
    assert_eq!(log.trim(8).await, 8);
    assert_eq!(log.all().await, [record(9), record(10)]);
}

/// The tail outlives its records.
pub async fn an_emptied_log_goes_on_with_the_next_lsn_also_after_a_restart(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 5).await;
    assert_eq!(log.trim(5).await, 5);
    log.append(6, 6).await;
    assert_eq!(log.trim(6).await, 6);
    let log = log.restarted(fixture).await;
    assert_eq!(log.bounds().await, (6, 7));
    assert_eq!(log.try_append(vec![record(7)], Some(7)).await, Ok(Lsn::new(7)));
    let log = log.restarted(fixture).await;
    assert_eq!(log.all().await, [record(7)]);
}

/// An engine that counts bytes counts those of the records that are there, however they came and went.
pub async fn held_bytes_are_those_of_the_records_still_there(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    if log.info().await.held_bytes.is_none() {
        return;
    }
    let sizes = [3, 0, 1000, 7, 50_000, 1];
    let batch: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect();
    log.try_append(batch[..2].to_vec(), None)
        .await
        .expect("an append lands");
    log.try_append(batch[2..].to_vec(), None)
        .await
        .expect("an append lands");
    for up_to in [0, 2, 3, 5, 6] {
        assert_eq!(log.trim(up_to as u64).await, up_to as u64);
        let held: usize = sizes[up_to..].iter().sum();
        assert_eq!(
            log.info().await.held_bytes,
            Some(held as u64),
            "after a trim to {up_to}"
        );
    }
    let log = log.restarted(fixture).await;
    assert_eq!(log.info().await.held_bytes, Some(0));
    log.append(7, 7).await;
    assert_eq!(log.info().await.held_bytes, Some(record(7).len() as u64));
}
