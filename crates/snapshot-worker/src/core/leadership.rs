//! Who leads a partition, decided from its log alone.
//!
//! A record is *accepted* iff its term `(epoch, node)` equals the one in force; anything else, higher epochs too,
//! is *ignored*. An announcement takes effect iff its epoch is greater than the one in force.

use super::record::{LedBody, Record};
use bytes::Bytes;
use snapshot_store::{LeaderEpoch, Leadership};

/// What a replica made of a record; part of the chain hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A command or no-op of the leader in force.
    Accepted,
    /// Of another term than the one in force.
    Ignored,
    /// Passed over because an operator said so.
    Skipped,
    /// An announcement that took effect, or an operator's record.
    Control,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &[Outcome] = &[
        Outcome::Accepted,
        Outcome::Ignored,
        Outcome::Skipped,
        Outcome::Control,
    ];

    /// Returns the byte that enters the chain hash. Never changes: stored hashes depend on it.
    pub const fn byte(self) -> u8 {
        match self {
            Outcome::Accepted => 0,
            Outcome::Ignored => 1,
            Outcome::Skipped => 2,
            Outcome::Control => 3,
        }
    }

    /// Returns the word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Ignored => "ignored",
            Outcome::Skipped => "skipped",
            Outcome::Control => "control",
        }
    }
}

/// What is to be done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Hand the command to the state machine; accepted.
    Apply(&'a Bytes),
    /// Accepted, and there is nothing to apply.
    Pass,
    /// Its term is in force from here on; control.
    TakeLead {
        /// The new term.
        leadership: &'a Leadership,
        /// Where clients reach the leader.
        address: &'a str,
    },
    /// Its term is not the one in force; ignored.
    Ignore,
    /// An operator's record, which the replicas that are blocked at the record it names look for; control.
    Note,
}

impl Verdict<'_> {
    /// Returns the outcome that enters the chain hash.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Verdict::Apply(_) | Verdict::Pass => Outcome::Accepted,
            Verdict::TakeLead { .. } | Verdict::Note => Outcome::Control,
            Verdict::Ignore => Outcome::Ignored,
        }
    }
}

/// Decides what is to be done with `record` while `leader` leads; `None` before the first announcement.
pub fn judge<'a>(leader: Option<&Leadership>, record: &'a Record) -> Verdict<'a> {
    let (leadership, body) = match record {
        Record::Skip { .. } => return Verdict::Note,
        Record::Led { leadership, body, .. } => (leadership, body),
    };
    if let LedBody::Announce { address } = body {
        let epoch = leader.map_or(LeaderEpoch::NONE, |leader| leader.epoch);
        return if leadership.epoch > epoch {
            Verdict::TakeLead { leadership, address }
        } else {
            Verdict::Ignore
        };
    }
    if leader != Some(leadership) {
        return Verdict::Ignore;
    }
    match body {
        LedBody::Command(command) => Verdict::Apply(command),
        LedBody::NoOp | LedBody::Announce { .. } => Verdict::Pass,
    }
}

/// Returns the term that a candidate announces after having applied `leader`.
pub fn next_epoch(leader: Option<&Leadership>) -> LeaderEpoch {
    leader.map_or(LeaderEpoch::NONE, |leader| leader.epoch).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use snapshot_store::{Lsn, NodeId, RecordHash};

    fn term(epoch: u64, node: u8) -> Leadership {
        Leadership {
            epoch: LeaderEpoch::new(epoch),
            node: NodeId::new(format!("n{node}")).unwrap(),
        }
    }

    fn led(epoch: u64, node: u8, body: LedBody) -> Record {
        Record::Led {
            leadership: term(epoch, node),
            sequence: 1,
            body,
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (0u64..5, 0u8..3, 0u8..4).prop_map(|(epoch, node, kind)| match kind {
            0 => led(
                epoch,
                node,
                LedBody::Announce {
                    address: String::new(),
                },
            ),
            1 => led(epoch, node, LedBody::NoOp),
            2 => Record::Skip {
                lsn: Lsn::new(epoch),
                hash: RecordHash::of(b"x"),
                reason: String::new(),
            },
            _ => led(epoch, node, LedBody::Command(Bytes::from_static(b"c"))),
        })
    }

    #[test]
    fn a_record_counts_only_in_the_very_term_in_force() {
        let noop = |epoch, node| led(epoch, node, LedBody::NoOp);
        let cases = [
            (None, noop(0, 1), Outcome::Ignored),
            (None, noop(1, 1), Outcome::Ignored),
            (Some(term(2, 1)), noop(2, 1), Outcome::Accepted),
            (Some(term(2, 1)), noop(1, 1), Outcome::Ignored),
            (Some(term(2, 1)), noop(3, 1), Outcome::Ignored),
            (Some(term(2, 1)), noop(2, 2), Outcome::Ignored),
        ];
        for (leader, record, expected) in cases {
            assert_eq!(
                judge(leader.as_ref(), &record).outcome(),
                expected,
                "{leader:?} {record:?}"
            );
        }
    }

    #[test]
    fn an_announcement_needs_a_greater_epoch() {
        let announce = |epoch, node| {
            led(
                epoch,
                node,
                LedBody::Announce {
                    address: "a".to_owned(),
                },
            )
        };
        let cases = [
            (None, announce(1, 1), true),
            (None, announce(0, 1), false),
            (Some(term(1, 1)), announce(1, 2), false),
            (Some(term(1, 1)), announce(1, 1), false),
            (Some(term(1, 1)), announce(2, 2), true),
            (Some(term(1, 1)), announce(9, 2), true),
        ];
        for (leader, record, effective) in cases {
            let verdict = judge(leader.as_ref(), &record);
            assert_eq!(
                matches!(verdict, Verdict::TakeLead { .. }),
                effective,
                "{leader:?} {record:?}"
            );
        }
    }

    #[test]
    fn a_candidate_announces_the_term_after_the_one_it_has_applied() {
        let next = |leader: Option<Leadership>| next_epoch(leader.as_ref()).get();
        assert_eq!((next(None), next(Some(term(4, 1)))), (1, 5));
    }

    #[test]
    fn the_outcome_bytes_never_change() {
        let bytes: Vec<u8> = Outcome::ALL.iter().map(|outcome| outcome.byte()).collect();
        assert_eq!(bytes, [0, 1, 2, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is written: epochs only grow, each has one leader, and every accepted record is of the term
        /// that was announced last with effect.
        #[test]
        fn epochs_grow_and_each_has_one_leader(records in prop::collection::vec(any_record(), 0..60)) {
            let mut leader: Option<Leadership> = None;
            let mut leaders = std::collections::BTreeMap::new();
            for record in &records {
                match judge(leader.as_ref(), record) {
                    Verdict::TakeLead { leadership, .. } => {
                        prop_assert!(leader.as_ref().is_none_or(|old| old.epoch < leadership.epoch));
                        prop_assert!(leaders.insert(leadership.epoch, leadership.node.clone()).is_none());
                        leader = Some(leadership.clone());
                    }
                    Verdict::Apply(_) | Verdict::Pass => {
                        let Record::Led { leadership, .. } = record else { panic!("a skip was accepted") };
                        prop_assert_eq!(Some(leadership), leader.as_ref());
                        prop_assert_eq!(leaders.get(&leadership.epoch), Some(&leadership.node));
                    }
                    Verdict::Ignore => {
                        let Record::Led { leadership, body, .. } = record else { panic!("a skip was ignored") };
                        let counts = leader.as_ref() == Some(leadership) && !matches!(body, LedBody::Announce { .. });
                        prop_assert!(!counts);
                    }
                    Verdict::Note => {
                        let is_skip = matches!(record, Record::Skip { .. });
                        prop_assert!(is_skip);
                    }
                }
            }
        }
    }
}
