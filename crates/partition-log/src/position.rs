//! Rules that all engines of this crate share: what a reader does next, and what fits one append. Pure.

use crate::{AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, LogError, ProvisionError, RECORD_BYTES_MAX};
use crate::{Passage, ReadError, Registration};
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn};

/// The most records of one item of a read stream.
pub(crate) const READ_RECORDS_MAX: usize = 512;
/// Bytes after which an item of a read stream is closed; its last record may go beyond.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;
/// No log reaches this LSN; a base above it is refused, so that positions never overflow.
const BASE_LSN_MAX: Lsn = Lsn::new(u64::MAX >> 2);

/// What a reader whose next record is `next` does at a log that stands at trim point and tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Records from `next` on are there, up to `end`, exclusive.
    Read { end: Lsn },
    /// The reader has everything; it waits for a change.
    Wait,
    /// The reader is overtaken by a trim.
    Trimmed(Lsn),
    /// The reader is above the tail.
    Regressed(Lsn),
}

impl Step {
    pub(crate) fn at(trim_point: Lsn, tail: Lsn, next: Lsn) -> Self {
        if next <= trim_point {
            Step::Trimmed(trim_point)
        } else if next > tail {
            Step::Regressed(tail)
        } else if next == tail {
            Step::Wait
        } else {
            Step::Read { end: tail }
        }
    }

    /// Returns the error that ends a reader here; `None` when it may go on.
    pub(crate) fn error(self) -> Option<ReadError> {
        match self {
            Step::Trimmed(trim_point) => Some(ReadError::Trimmed { trim_point }),
            Step::Regressed(tail) => Some(ReadError::Regressed { tail }),
            Step::Read { .. } | Step::Wait => None,
        }
    }
}

/// Checks that `batch` fits one append and returns its bytes.
pub(crate) fn check_batch(batch: &[Bytes]) -> Result<usize, AppendError> {
    let bytes = batch.iter().map(Bytes::len).sum();
    let fits = !batch.is_empty()
        && batch.len() <= BATCH_RECORDS_MAX
        && bytes <= BATCH_BYTES_MAX
        && batch.iter().all(|record| record.len() <= RECORD_BYTES_MAX);
    if fits {
        Ok(bytes)
    } else {
        Err(AppendError::TooLarge {
            bytes,
            records: batch.len(),
        })
    }
}

/// Checks that a log is of the incarnation that was asked for.
pub(crate) fn check_incarnation(registration: &Registration, expected: Incarnation) -> Result<(), LogError> {
    let found = registration.incarnation;
    if found == expected {
        return Ok(());
    }
    Err(LogError::OtherIncarnation {
        partition: registration.partition,
        found,
        expected,
    })
}

/// Checks that a new log may begin where `registration` says.
pub(crate) fn check_base(registration: &Registration) -> Result<(), ProvisionError> {
    match registration.base {
        Some(base) if base.lsn > BASE_LSN_MAX => Err(ProvisionError::Log(LogError::Unavailable {
            partition: registration.partition,
            detail: format!(
                "no log can begin after LSN {}: the highest base is {BASE_LSN_MAX}",
                base.lsn
            ),
        })),
        _ => check_birth(registration),
    }
}

/// Checks that a log which arrives begins where a log of its registration can stand.
fn check_birth(registration: &Registration) -> Result<(), ProvisionError> {
    let fault = match &registration.passage {
        None => return Ok(()),
        Some(Passage::Arriving { trim_point, .. })
            if (registration.first_lsn().prev()..=BASE_LSN_MAX).contains(trim_point) =>
        {
            return Ok(());
        }
        Some(Passage::Arriving { trim_point, .. }) => {
            format!(
                "no log that begins at LSN {} can be trimmed up to {trim_point}",
                registration.first_lsn()
            )
        }
        Some(Passage::Leaving { .. } | Passage::Left { .. }) => {
            "a log that leaves cannot be created".to_owned()
        }
    };
    Err(ProvisionError::Log(LogError::Unavailable {
        partition: registration.partition,
        detail: fault,
    }))
}

/// Checks a repeated registration against the one in place. Sealing and leaving come later in a log's life and are
/// not part of what identifies it; a log that arrives is another request than one that begins.
pub(crate) fn check_same(found: &Registration, asked: &Registration) -> Result<(), ProvisionError> {
    let same = Registration {
        sealed: found.sealed,
        passage: found.passage.clone(),
        ..asked.clone()
    } == *found;
    match &asked.passage {
        None if same => Ok(found.check_use()?),
        Some(_) if same && asked.passage == found.passage => Ok(()),
        _ => Err(ProvisionError::Exists {
            partition: found.partition,
            found: found.incarnation,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_reader_gets_only_what_is_in_the_log(trim in 0_u64..20, records in 0_u64..20, next in 0_u64..50) {
            let (trim_point, tail, next) = (Lsn::new(trim), Lsn::new(trim + records + 1), Lsn::new(next));
            match Step::at(trim_point, tail, next) {
                Step::Read { end } => prop_assert!(trim_point < next && next < end && end == tail),
                Step::Wait => prop_assert_eq!(next, tail),
                Step::Trimmed(at) => prop_assert!(next <= at && at == trim_point),
                Step::Regressed(at) => prop_assert!(next > at && at == tail),
            }
        }
    }

    #[test]
    fn a_reader_is_told_exactly_one_thing_wherever_it_stands() {
        let at = |next| Step::at(Lsn::new(3), Lsn::new(6), Lsn::new(next));
        assert_eq!(at(3), Step::Trimmed(Lsn::new(3)));
        assert_eq!(at(4), Step::Read { end: Lsn::new(6) });
        assert_eq!(at(5), Step::Read { end: Lsn::new(6) });
        assert_eq!(at(6), Step::Wait);
        assert_eq!(at(7), Step::Regressed(Lsn::new(6)));
    }

    #[test]
    fn a_batch_that_is_empty_or_too_large_does_not_fit() {
        assert_eq!(
            check_batch(&[]),
            Err(AppendError::TooLarge { bytes: 0, records: 0 })
        );
        assert_eq!(
            check_batch(&[Bytes::from(vec![0; RECORD_BYTES_MAX])]),
            Ok(RECORD_BYTES_MAX)
        );
        for batch in [
            vec![Bytes::from(vec![0; RECORD_BYTES_MAX + 1])],
            vec![Bytes::new(); BATCH_RECORDS_MAX + 1],
            vec![Bytes::from(vec![0; 1 << 20]); 5],
        ] {
            assert!(matches!(check_batch(&batch), Err(AppendError::TooLarge { .. })));
        }
    }
}
