//! Moving a log to another engine, as both ends have to keep it.

use super::Fixture;
use super::subject::{Subject, incarnation, next, record, registration};
use crate::{AppendError, LogError, LogMove, Passage, ProvisionError, ReadError, Registration};
use bytes::Bytes;
use snapshot_store::{Lsn, WriteId};
use std::sync::Arc;

/// An engine that logs can be moved to and from.
pub trait MoveFixture: Fixture {
    /// Returns the log as those see it who move it.
    fn mover(&self) -> Arc<dyn LogMove>;
}

fn id(number: u64) -> WriteId {
    format!("{number:026}").parse().expect("digits are a ULID")
}

fn leaving(number: u64) -> Option<Passage> {
    let (id, to) = (id(number), "elsewhere".to_owned());
    Some(Passage::Leaving { id, to })
}

fn left(number: u64) -> Option<Passage> {
    let (id, to) = (id(number), "elsewhere".to_owned());
    Some(Passage::Left { id, to })
}

fn arriving(trim_point: u64) -> Registration {
    let passage = Passage::Arriving {
        id: id(1),
        from: "elsewhere".to_owned(),
        trim_point: Lsn::new(trim_point),
    };
    Registration {
        passage: Some(passage),
        ..registration(0)
    }
}

/// Changes the passage of a log, which must be in force then.
async fn pass(log: &Subject, mover: &dyn LogMove, from: Option<Passage>, to: Option<Passage>) {
    let changed = mover.change_passage(log.partition, log.incarnation, from, to.clone());
    assert_eq!(changed.await, Ok(to));
}

fn moved(log: &Subject) -> LogError {
    LogError::Moved {
        partition: log.partition,
        to: "elsewhere".to_owned(),
    }
}

/// A log that leaves refuses appends and trims, also after a restart; until it left that can be taken back.
pub async fn a_leaving_log_is_read_and_takes_neither_appends_nor_trims(fixture: &mut impl MoveFixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    pass(&log, fixture.mover().as_ref(), None, leaving(1)).await;
    let log = log.restarted(fixture).await;
    assert_eq!(
        log.try_append(vec![record(4)], Some(4)).await,
        Err(AppendError::Sealed)
    );
    let trimmed = log.admin.trim(log.partition, log.incarnation, Lsn::new(2)).await;
    assert!(
        matches!(trimmed, Err(LogError::Unavailable { .. })),
        "{trimmed:?}"
    );
    assert_eq!(log.bounds().await, (0, 4));
    assert_eq!(log.all().await.len(), 3);
    let found = log.log.registration(log.partition).await;
    assert_eq!(found.map(|found| found.passage), Ok(leaving(1)));
    pass(&log, fixture.mover().as_ref(), leaving(1), None).await;
    log.append(4, 4).await;
    assert_eq!(log.trim(2).await, 2);
}

/// A log that left refuses everything and names the new place, also to readers that were there before and after a
/// restart; there is no way back.
pub async fn a_log_that_left_refuses_everything_for_good(fixture: &mut impl MoveFixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    let mut reader = log.read(4).await;
    let mover = fixture.mover();
    pass(&log, mover.as_ref(), None, leaving(1)).await;
    pass(&log, mover.as_ref(), leaving(1), left(1)).await;
    drop(mover);
    assert_eq!(next(&mut reader).await, Err(ReadError::Log(moved(&log))));
    drop(reader);
    let log = log.restarted(fixture).await;
    assert_eq!(log.log.info(log.partition).await, Err(moved(&log)));
    assert_eq!(log.first(1).await, Err(ReadError::Log(moved(&log))));
    let appended = log.try_append(vec![record(4)], None).await;
    assert_eq!(appended, Err(AppendError::Log(moved(&log))));
    let trimmed = log.admin.trim(log.partition, log.incarnation, Lsn::new(2)).await;
    assert_eq!(trimmed, Err(moved(&log)));
    let provisioned = log.admin.provision(registration(0)).await;
    assert_eq!(provisioned, Err(ProvisionError::Log(moved(&log))));
    let mover = fixture.mover();
    for to in [None, leaving(1), leaving(2)] {
        let changed = mover.change_passage(log.partition, log.incarnation, left(1), to);
        assert_eq!(changed.await, Ok(left(1)), "it stays where it went");
    }
    let position = mover.position(log.partition, log.incarnation).await;
    assert_eq!(
        position.map(|at| (at.trim_point.get(), at.tail.get())),
        Ok((0, 4))
    );
}

/// A passage changes only from the one that is expected: an attempt that was taken back does not complete later.
pub async fn a_passage_is_changed_by_compare_and_set(fixture: &mut impl MoveFixture) {
    let log = Subject::new(fixture).await;
    let mover = fixture.mover();
    let change = |from, to| mover.change_passage(log.partition, log.incarnation, from, to);
    assert_eq!(change(leaving(1), left(1)).await, Ok(None));
    pass(&log, mover.as_ref(), None, leaving(1)).await;
    assert_eq!(change(None, leaving(2)).await, Ok(leaving(1)));
    pass(&log, mover.as_ref(), leaving(1), None).await;
    pass(&log, mover.as_ref(), None, leaving(2)).await;
    assert_eq!(
        change(leaving(1), left(1)).await,
        Ok(leaving(2)),
        "it was taken back"
    );
    let other = incarnation(2);
    let refused = mover
        .change_passage(log.partition, other, leaving(2), left(2))
        .await;
    let expected = LogError::OtherIncarnation {
        partition: log.partition,
        found: log.incarnation,
        expected: other,
    };
    assert_eq!(refused, Err(expected));
}

/// A log that arrives begins at the trim point of its source and is nobody's until the switch; then it goes on with the
/// same LSNs, also after a restart.
pub async fn an_arriving_log_is_nobodys_until_it_is_switched(fixture: &mut impl MoveFixture) {
    let log = Subject::with(fixture, arriving(7)).await;
    let mover = fixture.mover();
    let import = |lsn: u64| mover.import(log.partition, log.incarnation, vec![record(lsn)], Lsn::new(lsn));
    assert_eq!(import(8).await, Ok(Lsn::new(8)));
    assert_eq!(import(9).await, Ok(Lsn::new(9)));
    assert_eq!(
        import(9).await,
        Err(AppendError::TailMismatch { tail: Lsn::new(10) })
    );
    let refused = log.try_append(vec![record(10)], Some(10)).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    let hidden = log.log.info(log.partition).await;
    assert!(matches!(hidden, Err(LogError::Unavailable { .. })), "{hidden:?}");
    let hidden = log.first(8).await;
    assert!(
        matches!(hidden, Err(ReadError::Log(LogError::Unavailable { .. }))),
        "{hidden:?}"
    );
    let trimmed = log.admin.trim(log.partition, log.incarnation, Lsn::new(8)).await;
    assert!(
        matches!(trimmed, Err(LogError::Unavailable { .. })),
        "{trimmed:?}"
    );
    assert_eq!(
        log.admin.provision(arriving(7)).await,
        Ok(()),
        "a repeated request finds it"
    );
    let begun = log.admin.provision(registration(0)).await;
    assert!(
        matches!(begun, Err(ProvisionError::Log(LogError::Unavailable { .. }))),
        "{begun:?}"
    );
    drop(mover);

    let log = log.restarted(fixture).await;
    let mover = fixture.mover();
    let position = mover.position(log.partition, log.incarnation).await;
    assert_eq!(
        position.map(|at| (at.trim_point.get(), at.tail.get())),
        Ok((7, 10))
    );
    let stream = mover
        .read_moving(log.partition, log.incarnation, Lsn::new(8))
        .await;
    let mut stream = stream.expect("what arrived can be compared");
    assert_eq!(next(&mut stream).await.map(|batch| batch.first), Ok(Lsn::new(8)));
    pass(&log, mover.as_ref(), arriving(7).passage, None).await;
    let late = mover
        .import(log.partition, log.incarnation, vec![record(10)], Lsn::new(10))
        .await;
    assert_eq!(
        late,
        Err(AppendError::Sealed),
        "what is in use is appended to, not imported"
    );
    drop((mover, stream));
    assert_eq!(log.log.registration(log.partition).await, Ok(registration(0)));
    assert_eq!(log.bounds().await, (7, 10));
    log.append(10, 11).await;
    let log = log.restarted(fixture).await;
    assert_eq!(log.all().await, (8..=11).map(record).collect::<Vec<Bytes>>());
}

/// What arrived can be deleted by its own attempt, until it is in use; then the partition has no log, and can get one.
pub async fn an_arriving_log_can_be_discarded_and_no_other(fixture: &mut impl MoveFixture) {
    let log = Subject::with(fixture, arriving(7)).await;
    let mover = fixture.mover();
    let imported = mover
        .import(log.partition, log.incarnation, vec![record(8)], Lsn::new(8))
        .await;
    assert_eq!(imported, Ok(Lsn::new(8)));
    let discard = |attempt| mover.discard(log.partition, log.incarnation, id(attempt));
    let refused = discard(2).await;
    assert!(
        matches!(refused, Err(LogError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(discard(1).await, Ok(()));
    let partition = log.partition;
    assert_eq!(
        log.log.registration(partition).await,
        Err(LogError::Missing { partition })
    );
    drop(mover);
    let log = log.restarted(fixture).await;
    assert_eq!(
        log.log.registration(partition).await,
        Err(LogError::Missing { partition })
    );
    assert_eq!(log.admin.provision(registration(0)).await, Ok(()));
    assert_eq!(log.bounds().await, (0, 1));
    log.append(1, 2).await;
    let refused = fixture.mover().discard(partition, log.incarnation, id(1)).await;
    assert!(
        matches!(refused, Err(LogError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(log.all().await, [record(1), record(2)]);
}

/// A log that arrives cannot begin before the first LSN it can have; nothing is created.
pub async fn an_arriving_log_below_its_base_is_refused(fixture: &mut impl MoveFixture) {
    let base = Some(crate::Base {
        lsn: Lsn::new(9),
        chain_hash: None,
        log_bytes: 0,
    });
    let below = Registration { base, ..arriving(7) };
    let partition = below.partition;
    let refused = fixture.admin().provision(below).await;
    assert!(
        matches!(refused, Err(ProvisionError::Log(LogError::Unavailable { .. }))),
        "{refused:?}"
    );
    let found = fixture.log().registration(partition).await;
    assert_eq!(found, Err(LogError::Missing { partition }));
}
