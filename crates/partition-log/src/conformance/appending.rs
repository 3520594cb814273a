//! Appends, one at a time.

use super::Fixture;
use super::subject::{Subject, record};
use crate::{AppendError, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use bytes::Bytes;
use snapshot_store::Lsn;

/// The first record is 1, and a batch takes consecutive LSNs.
pub async fn records_land_densely_from_the_first_lsn(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    assert_eq!(log.bounds().await, (0, 1));
    assert_eq!(log.try_append(vec![record(1)], Some(1)).await, Ok(Lsn::new(1)));
    let batch: Vec<_> = (2..=5).map(record).collect();
    assert_eq!(log.try_append(batch, None).await, Ok(Lsn::new(5)));
    // An empty record is a record.
    assert_eq!(log.try_append(vec![Bytes::new()], Some(6)).await, Ok(Lsn::new(6)));
    assert_eq!(log.bounds().await, (0, 7));
    let mut expected: Vec<_> = (1..=5).map(record).collect();
    expected.push(Bytes::new());
    assert_eq!(log.all().await, expected);
}

/// Nothing of an append that does not fit lands; the largest ones do.
pub async fn an_append_that_does_not_fit_is_refused(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    for batch in [
        vec![],
        vec![Bytes::from(vec![1; RECORD_BYTES_MAX + 1])],
        vec![Bytes::new(); BATCH_RECORDS_MAX + 1],
        vec![Bytes::from(vec![1; 1 << 20]); 5],
    ] {
        let (records, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum());
        assert_eq!(
            log.try_append(batch, None).await,
            Err(AppendError::TooLarge { bytes, records })
        );
    }
    assert_eq!(log.bounds().await, (0, 1));
    let largest = Bytes::from(vec![1; RECORD_BYTES_MAX]);
    assert_eq!(log.try_append(vec![largest.clone()], None).await, Ok(Lsn::new(1)));
    assert_eq!(
        log.try_append(vec![Bytes::from(vec![2; 1 << 20]); 4], None).await,
        Ok(Lsn::new(5))
    );
    let most = vec![Bytes::from_static(b"x"); BATCH_RECORDS_MAX];
    assert_eq!(
        log.try_append(most, None).await,
        Ok(Lsn::new(5 + BATCH_RECORDS_MAX as u64))
    );
    let all = log.all().await;
    assert_eq!(all.len(), 5 + BATCH_RECORDS_MAX);
    assert_eq!(all[0], largest);
}

/// A conditional append lands at the expected tail or not at all.
pub async fn a_wrong_expected_tail_is_refused_with_the_present_one(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    let refused = Err(AppendError::TailMismatch { tail: Lsn::new(4) });
    for wrong in [0, 1, 3, 5, u64::MAX] {
        assert_eq!(log.try_append(vec![record(4)], Some(wrong)).await, refused);
    }
    assert_eq!(log.try_append(vec![record(4)], Some(4)).await, Ok(Lsn::new(4)));
    assert_eq!(log.all().await.len(), 4);
}

/// An append landed and its reply was lost: the same append again is refused, and one copy is there.
pub async fn an_append_repeated_after_a_lost_reply_does_not_duplicate(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 2).await;
    let batch = vec![record(3), record(4)];
    let _lost = log.try_append(batch.clone(), Some(3)).await;
    let again = log.try_append(batch, Some(3)).await;
    assert_eq!(again, Err(AppendError::TailMismatch { tail: Lsn::new(5) }));
    assert_eq!(log.all().await, (1..=4).map(record).collect::<Vec<_>>());
}

/// A caller gave up waiting, as after a time-out, and appends the same again at the same tail: whichever of the two
/// lands, it is one.
pub async fn an_abandoned_append_lands_once_at_most(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    for lsn in 1..=40 {
        let abandoned = tokio::spawn({
            let log = log.clone();
            async move { log.try_append(vec![record(lsn)], Some(lsn)).await }
        });
        // Sometimes before it began, sometimes on its way, sometimes after it landed.
        for _ in 0..lsn % 8 {
            tokio::task::yield_now().await;
        }
        abandoned.abort();
        let again = log.try_append(vec![record(lsn)], Some(lsn)).await;
        let mismatch = Err(AppendError::TailMismatch {
            tail: Lsn::new(lsn + 1),
        });
        assert!(
            again == Ok(Lsn::new(lsn)) || again == mismatch,
            "append {lsn} again: {again:?}"
        );
    }
    assert_eq!(log.all().await, (1..=40).map(record).collect::<Vec<_>>());
}

/// What was acknowledged is there after a restart, and the next append follows it.
pub async fn a_restart_keeps_the_records(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 20).await;
    assert_eq!(log.trim(5).await, 5);
    let log = log.restarted(fixture).await;
    assert_eq!(log.bounds().await, (5, 21));
    assert_eq!(log.all().await, (6..=20).map(record).collect::<Vec<_>>());
    log.append(21, 22).await;
}
