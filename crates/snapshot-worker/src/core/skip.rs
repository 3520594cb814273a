//! Passing over a record that no replica can apply.
//!
//! A replica that is blocked at such a record looks for a [`Record::Skip`] further on in the log that names exactly
//! this record, by LSN and hash. The word is in the log, so every replica comes to the same decision, also one that is
//! restored later or replays from the start. A replica that *can* apply the record never looks for it: if some
//! can and some cannot, their chain hashes differ from here on, and that is meant to show.

use super::{record::Record, status::PartitionState};
use bytes::Bytes;
use snapshot_store::{Leadership, Lsn, RecordHash};

/// The longest reason of a skip, in bytes.
pub const SKIP_REASON_BYTES_MAX: usize = 1000;

/// A record that a replica cannot apply, and before which it stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoisonRecord {
    /// Where it stands.
    pub lsn: Lsn,
    /// Its length in the log, in bytes.
    pub bytes: u64,
    /// Hash of its bytes.
    pub hash: RecordHash,
    /// The leader that wrote it; `None` when the bytes cannot be parsed.
    pub author: Option<Leadership>,
    /// Why it cannot be applied.
    pub detail: String,
}

impl PoisonRecord {
    /// Returns whether `record`, which stands behind this one in the log, orders to pass over it.
    pub fn is_skipped_by(&self, record: &Bytes) -> bool {
        match Record::decode(record) {
            Ok(Record::Skip { lsn, hash, .. }) => self.is(lsn, &hash),
            Ok(Record::Led { .. }) | Err(_) => false,
        }
    }

    /// Returns whether this is the record at `lsn` with `hash`.
    pub fn is(&self, lsn: Lsn, hash: &RecordHash) -> bool {
        self.lsn == lsn && self.hash == *hash
    }
}

/// Why a replica does not order a record to be passed over. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipRefusal {
    /// The replica is not blocked by a record.
    #[error("the replica is {state}, not blocked by a record it cannot apply: nothing is to be skipped")]
    NotBlocked {
        /// The word for its state, or for the reason it is blocked.
        state: &'static str,
    },
    /// It is blocked at another record.
    #[error("the replica is blocked at the record at {blocked_at}, not at {asked}")]
    OtherLsn {
        /// Where it stands still.
        blocked_at: Lsn,
        /// What was asked to be skipped.
        asked: Lsn,
    },
    /// The record there has other bytes than the operator was shown.
    #[error("the record at {lsn} has the hash {found}, not {asked}")]
    OtherHash {
        /// The record.
        lsn: Lsn,
        /// Its hash.
        found: RecordHash,
        /// What was asked to be skipped.
        asked: RecordHash,
    },
}

impl SkipRefusal {
    /// Returns the stable word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            SkipRefusal::NotBlocked { .. } => "not-blocked-by-record",
            SkipRefusal::OtherLsn { .. } => "blocked-at-other-record",
            SkipRefusal::OtherHash { .. } => "record-hash-differs",
        }
    }
}

/// Decides whether a replica may order the record at `lsn` to be passed over: only the one before which it stands
/// still, so that nothing is ever skipped that somebody can apply. `hash` is that of the record the operator was
/// shown; `None` asks what there is to be shown.
///
/// # Errors
/// Why not.
pub fn may_skip<'a>(
    lsn: Lsn,
    hash: Option<&RecordHash>,
    state: &PartitionState,
    poison: Option<&'a PoisonRecord>,
) -> Result<&'a PoisonRecord, SkipRefusal> {
    let poison = poison
        .filter(|_| state.is_blocked_by_record())
        .ok_or(SkipRefusal::NotBlocked {
            state: state.reason(),
        })?;
    if poison.lsn != lsn {
        return Err(SkipRefusal::OtherLsn {
            blocked_at: poison.lsn,
            asked: lsn,
        });
    }
    match hash {
        Some(asked) if poison.hash != *asked => Err(SkipRefusal::OtherHash {
            lsn,
            found: poison.hash,
            asked: *asked,
        }),
        _ => Ok(poison),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::BlockedReason;

    fn poison() -> PoisonRecord {
        PoisonRecord {
            lsn: Lsn::new(7),
            bytes: 3,
            hash: RecordHash::of(b"bad"),
            author: None,
            detail: "no command".to_owned(),
        }
    }

    fn blocked(reason: BlockedReason) -> PartitionState {
        PartitionState::Blocked {
            reason,
            detail: String::new(),
        }
    }

    #[test]
    fn only_the_record_that_blocks_may_be_skipped() {
        let at_record = blocked(BlockedReason::PoisonRecord);
        let (bad, good) = (RecordHash::of(b"bad"), RecordHash::of(b"good"));
        let cases = [
            (7, Some(bad), &at_record, Ok(())),
            (7, None, &at_record, Ok(())),
            (6, Some(bad), &at_record, Err("blocked-at-other-record")),
            (8, None, &at_record, Err("blocked-at-other-record")),
            (7, Some(good), &at_record, Err("record-hash-differs")),
            (
                7,
                Some(bad),
                &PartitionState::Active,
                Err("not-blocked-by-record"),
            ),
            (
                7,
                Some(bad),
                &blocked(BlockedReason::LogHole),
                Err("not-blocked-by-record"),
            ),
        ];
        for (lsn, hash, state, expected) in cases {
            let poison = poison();
            let decided = may_skip(Lsn::new(lsn), hash.as_ref(), state, Some(&poison));
            let decided = decided.map(drop).map_err(|refusal| refusal.as_str());
            assert_eq!(decided, expected, "{lsn} {state:?}");
        }
        assert!(may_skip(Lsn::new(7), None, &at_record, None).is_err());
    }

    #[test]
    fn a_skip_counts_only_for_the_very_record() {
        let skip = |lsn, bytes: &[u8]| {
            Record::Skip {
                lsn: Lsn::new(lsn),
                hash: RecordHash::of(bytes),
                reason: "broken client".to_owned(),
            }
            .encode()
        };
        assert!(poison().is_skipped_by(&skip(7, b"bad")));
        assert!(!poison().is_skipped_by(&skip(7, b"good")));
        assert!(!poison().is_skipped_by(&skip(8, b"bad")));
        assert!(!poison().is_skipped_by(&Bytes::from_static(b"\xff")));
    }
}
