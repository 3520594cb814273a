//! Which appends of a group land together, and where.

use snapshot_store::Lsn;

/// What is to be known of one append: how many records, and at which tail it wants to land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) records: usize,
    pub(crate) expected_tail: Option<Lsn>,
}

/// What becomes of one append if the group lands at its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It lands, and this is the LSN of its last record.
    Lands(Lsn),
    /// The tail it finds is this one, and not the expected one.
    Mismatch(Lsn),
}

/// Decides each append on the tail that the ones before it leave. Pure: `tail` is where the log is believed to end.
pub(crate) fn decide(tail: Lsn, wishes: impl IntoIterator<Item = Wish>) -> Vec<Verdict> {
    let mut tail = tail;
    let verdicts = wishes.into_iter().map(|wish| match wish.expected_tail {
        Some(expected) if expected != tail => Verdict::Mismatch(tail),
        _ => {
            tail = tail.plus(wish.records as u64);
            Verdict::Lands(tail.prev())
        }
    });
    verdicts.collect()
}

/// How a server's refusal of an append counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The log does not end where the batch wanted to land; this is its last sequence where the text names it.
    WrongTail(Option<u64>),
    /// The stream takes no message of this length: it is sealed.
    Sealed,
    /// The stream is gone.
    NoStream,
    /// Something else. Nothing landed.
    Other,
}

impl Refusal {
    /// Classifies an error code of JetStream with its text.
    pub(crate) fn of(code: u64, text: &str) -> Self {
        match code {
            // The last two say it without the number, of a batch and of a message that overtook another.
            10071 | 10164 => Refusal::WrongTail(last_sequence(text)),
            10054 | 10109 => Refusal::Sealed,
            10059 => Refusal::NoStream,
            _ => Refusal::Other,
        }
    }
}

fn last_sequence(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("wrong last sequence: ")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(records: usize, expected: Option<u64>) -> Wish {
        Wish {
            records,
            expected_tail: expected.map(Lsn::new),
        }
    }

    #[test]
    fn each_append_finds_the_tail_that_the_ones_before_it_leave() {
        let lands = |lsn| Verdict::Lands(Lsn::new(lsn));
        let mismatch = |tail| Verdict::Mismatch(Lsn::new(tail));
        let wishes = [
            wish(2, Some(5)),
            wish(1, Some(5)),
            wish(3, None),
            wish(1, Some(10)),
            wish(1, Some(11)),
        ];
        assert_eq!(
            decide(Lsn::new(5), wishes),
            [lands(6), mismatch(7), lands(9), lands(10), lands(11)]
        );
        assert_eq!(decide(Lsn::new(5), []), []);
    }

    #[test]
    fn a_refusal_is_told_by_its_code() {
        for (code, text, refusal) in [
            (10071, "wrong last sequence: 41", Refusal::WrongTail(Some(41))),
            (
                10071,
                "wrong last sequence: 0 (code 400)",
                Refusal::WrongTail(Some(0)),
            ),
            (10164, "wrong last sequence", Refusal::WrongTail(None)),
            (10054, "message size exceeds maximum allowed", Refusal::Sealed),
            (10109, "invalid operation on sealed stream", Refusal::Sealed),
            (10059, "stream not found", Refusal::NoStream),
            (10008, "JetStream system temporarily unavailable", Refusal::Other),
        ] {
            assert_eq!(Refusal::of(code, text), refusal, "{code}");
        }
    }
}
