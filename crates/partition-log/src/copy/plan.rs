//! What comes next when a log is copied. Pure: decides on what both registries say, so that a run that broke off at any
//! point is continued by looking again.

use crate::{Passage, Registration};
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};

/// What one place says of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) registration: Registration,
    /// Highest LSN removed, inclusive.
    pub(super) trim_point: Lsn,
    /// First unwritten LSN, exclusive.
    pub(super) tail: Lsn,
}

/// What both ends are called; the registries keep these names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
}

/// The next step of one partition's log. Each can be repeated; a crash within one is found by the next look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Let the source take neither appends nor trims any more.
    Seal,
    /// Delete what an earlier attempt left at the destination.
    Discard { leftover: Passage },
    /// Create the log at the destination.
    Provision(Box<Registration>),
    /// Copy the records from `from` on, below `end`.
    Import { from: Lsn, end: Lsn },
    /// Compare all records from `from` on, below `end`.
    Verify { from: Lsn, end: Lsn },
    /// Let the source go: the point of no return.
    Leave { leaving: Passage },
    /// Let the destination be used.
    Arrive { arriving: Passage },
    /// The destination is in use.
    Done,
}

/// What was compared: all records below `end`, in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verified {
    id: WriteId,
    end: Lsn,
}

impl Verified {
    /// Returns what has to be compared before `source` may be left; `None` when it is not leaving.
    pub(super) fn of(source: &Sighting) -> Option<Self> {
        match source.registration.passage {
            Some(Passage::Leaving { id, .. }) => Some(Verified { id, end: source.tail }),
            _ => None,
        }
    }
}

/// A log that is not copied, and why. Nothing was changed at the destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyRefusal {
    /// There is nothing to copy.
    #[error("{place} holds no logs: check the address given with --from")]
    NoSource {
        /// The source.
        place: String,
    },
    /// The destination has a log of its own.
    #[error(
        "{place} already has a log of partition {partition}, of incarnation {found}: copy to a place that holds no logs; nothing was changed there"
    )]
    Occupied {
        /// The destination.
        place: String,
        /// The partition.
        partition: PartitionId,
        /// What is there.
        found: Incarnation,
    },
    /// The log went to another place, or is on its way there.
    #[error(
        "the log of partition {partition} goes to {to}, not to {asked}: run this again with --to {to}{}",
        if *.left { "" } else { ", or take it back first (--unseal)" }
    )]
    OtherDestination {
        /// The partition.
        partition: PartitionId,
        /// Where it goes.
        to: String,
        /// The destination of this run.
        asked: String,
        /// Whether it lives there by now.
        left: bool,
    },
    /// The source is the destination of another copy.
    #[error(
        "the log of partition {partition} is itself being copied here from {from}: let that be completed first, or name another source"
    )]
    SourceArrives {
        /// The partition.
        partition: PartitionId,
        /// Where it comes from.
        from: String,
    },
    /// What the two places say cannot be.
    #[error("partition {partition}: {detail}; nothing was changed, and both logs are kept")]
    Contradiction {
        /// The partition.
        partition: PartitionId,
        /// What does not fit.
        detail: String,
    },
    /// A record is not what it is at the source.
    #[error(
        "partition {partition}: the record at {at} is another one at the destination; nothing was switched, take the copy back with --unseal"
    )]
    Different {
        /// The partition.
        partition: PartitionId,
        /// The first one that differs.
        at: Lsn,
    },
    /// Taking back comes too late.
    #[error(
        "the log of partition {partition} lives at {to} by now and cannot be taken back: run this without --unseal to complete the others"
    )]
    TooLate {
        /// The partition.
        partition: PartitionId,
        /// Where it lives.
        to: String,
    },
}

/// Decides the next step. `verified` is what was compared in this run.
///
/// # Errors
/// When the log must not, or need not, be copied to this destination.
pub(super) fn next_step(
    source: &Sighting,
    destination: Option<&Sighting>,
    names: Names<'_>,
    verified: Option<Verified>,
) -> Result<Step, CopyRefusal> {
    let partition = source.registration.partition;
    if let Some(found) = destination {
        refuse_other_log(source, found, names)?;
    }
    let arriving = destination.and_then(|found| found.registration.passage.as_ref());
    match &source.registration.passage {
        None => Ok(Step::Seal),
        Some(Passage::Arriving { from, .. }) => Err(CopyRefusal::SourceArrives {
            partition,
            from: from.clone(),
        }),
        Some(Passage::Leaving { to, .. } | Passage::Left { to, .. }) if to != names.to => {
            Err(CopyRefusal::OtherDestination {
                partition,
                to: to.clone(),
                asked: names.to.to_owned(),
                left: matches!(source.registration.passage, Some(Passage::Left { .. })),
            })
        }
        Some(leaving @ Passage::Leaving { id, .. }) => match (destination, arriving) {
            (None, _) => Ok(Step::Provision(Box::new(arriving_registration(
                source, *id, names,
            )))),
            (Some(found), Some(passage)) if passage.id() == *id => copying(source, found, leaving, verified),
            (Some(_), Some(leftover)) => Ok(Step::Discard {
                leftover: leftover.clone(),
            }),
            (Some(found), None) => Err(occupied(found, names)),
        },
        Some(Passage::Left { id, .. }) => match (destination, arriving) {
            (None, _) => Err(contradiction(
                partition,
                format!(
                    "the source says that the log lives at {}, which has none",
                    names.to
                ),
            )),
            (Some(found), _) if found.tail < source.tail => Err(contradiction(
                partition,
                format!(
                    "the source was left at tail {}, and the destination ends at {}",
                    source.tail, found.tail
                ),
            )),
            (Some(_), None) => Ok(Step::Done),
            (Some(_), Some(passage)) if passage.id() == *id => Ok(Step::Arrive {
                arriving: passage.clone(),
            }),
            (Some(_), Some(_)) => Err(contradiction(
                partition,
                "the destination holds the copy of another attempt".to_owned(),
            )),
        },
    }
}

/// Decides while the records are being copied.
fn copying(
    source: &Sighting,
    found: &Sighting,
    leaving: &Passage,
    verified: Option<Verified>,
) -> Result<Step, CopyRefusal> {
    let partition = source.registration.partition;
    if found.trim_point != source.trim_point || found.tail > source.tail {
        let detail = format!(
            "the source holds the LSNs above {} and below {}, the copy those above {} and below {}",
            source.trim_point, source.tail, found.trim_point, found.tail
        );
        return Err(contradiction(partition, detail));
    }
    let (from, end) = (source.trim_point.next(), source.tail);
    Ok(if found.tail < end {
        Step::Import {
            from: found.tail,
            end,
        }
    } else if verified.is_none() || verified != Verified::of(source) {
        Step::Verify { from, end }
    } else {
        Step::Leave {
            leaving: leaving.clone(),
        }
    })
}

/// Refuses a destination whose log is not a copy of this one.
fn refuse_other_log(source: &Sighting, found: &Sighting, names: Names<'_>) -> Result<(), CopyRefusal> {
    let identity = |sighting: &Sighting| {
        let Registration {
            incarnation,
            fingerprint,
            base,
            ..
        } = sighting.registration;
        (incarnation, fingerprint, base)
    };
    let moved_away = matches!(
        found.registration.passage,
        Some(Passage::Leaving { .. } | Passage::Left { .. })
    );
    let in_use = found.registration.passage.is_none();
    let left = matches!(source.registration.passage, Some(Passage::Left { .. }));
    if identity(source) != identity(found) || moved_away || (in_use && !left) {
        return Err(occupied(found, names));
    }
    Ok(())
}

fn occupied(found: &Sighting, names: Names<'_>) -> CopyRefusal {
    CopyRefusal::Occupied {
        place: names.to.to_owned(),
        partition: found.registration.partition,
        found: found.registration.incarnation,
    }
}

fn contradiction(partition: PartitionId, detail: String) -> CopyRefusal {
    CopyRefusal::Contradiction { partition, detail }
}

/// Returns how the log is registered at the destination: the same life, from the source's trim point on.
fn arriving_registration(source: &Sighting, id: WriteId, names: Names<'_>) -> Registration {
    Registration {
        passage: Some(Passage::Arriving {
            id,
            from: names.from.to_owned(),
            trim_point: source.trim_point,
        }),
        // The source may be sealed only because it leaves.
        sealed: false,
        ..source.registration.clone()
    }
}

/// What taking a copy back asks of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakeBack {
    /// What to delete at the destination.
    pub(super) leftover: Option<Passage>,
    /// What to end at the source.
    pub(super) leaving: Option<Passage>,
    /// Whether the source is sealed by an attempt that got no further.
    pub(super) sealed: bool,
}

/// Decides how a copy is taken back.
///
/// # Errors
/// When the log lives at the destination by now.
pub(super) fn take_back(source: &Sighting, destination: Option<&Sighting>) -> Result<TakeBack, CopyRefusal> {
    let leaving = match &source.registration.passage {
        Some(Passage::Left { to, .. }) => {
            return Err(CopyRefusal::TooLate {
                partition: source.registration.partition,
                to: to.clone(),
            });
        }
        Some(leaving @ Passage::Leaving { .. }) => Some(leaving.clone()),
        Some(Passage::Arriving { .. }) | None => None,
    };
    let same_log = |found: &&Sighting| found.registration.incarnation == source.registration.incarnation;
    let leftover = destination
        .filter(same_log)
        .and_then(|found| found.registration.passage.clone())
        .filter(|passage| matches!(passage, Passage::Arriving { .. }));
    Ok(TakeBack {
        leftover,
        sealed: leaving.is_none() && source.registration.sealed,
        leaving,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{Fingerprint, IncarnationId};

    const NAMES: Names<'_> = Names { from: "a", to: "b" };

    fn id(number: u64) -> WriteId {
        format!("{number:026}").parse().unwrap()
    }

    fn leaving(to: &str) -> Option<Passage> {
        let to = to.to_owned();
        Some(Passage::Leaving { id: id(1), to })
    }

    fn left(to: &str) -> Option<Passage> {
        let to = to.to_owned();
        Some(Passage::Left { id: id(1), to })
    }

    fn arriving(number: u64) -> Option<Passage> {
        Some(Passage::Arriving {
            id: id(number),
            from: "a".to_owned(),
            trim_point: Lsn::new(4),
        })
    }

    fn at(passage: Option<Passage>, tail: u64) -> Sighting {
        Sighting {
            registration: Registration {
                partition: PartitionId::new(0),
                incarnation: Incarnation {
                    generation: 1,
                    id: IncarnationId::from_bytes([1; 16]),
                },
                fingerprint: Fingerprint::from_bytes([2; 16]),
                base: None,
                sealed: false,
                passage,
            },
            trim_point: Lsn::new(4),
            tail: Lsn::new(tail),
        }
    }

    fn seen(attempt: u64, end: u64) -> Option<Verified> {
        let end = Lsn::new(end);
        Some(Verified { id: id(attempt), end })
    }

    fn word(step: &Result<Step, CopyRefusal>) -> &'static str {
        match step {
            Ok(Step::Seal) => "seal",
            Ok(Step::Discard { .. }) => "discard",
            Ok(Step::Provision(_)) => "provision",
            Ok(Step::Import { .. }) => "import",
            Ok(Step::Verify { .. }) => "verify",
            Ok(Step::Leave { .. }) => "leave",
            Ok(Step::Arrive { .. }) => "arrive",
            Ok(Step::Done) => "done",
            Err(CopyRefusal::Occupied { .. }) => "occupied",
            Err(CopyRefusal::OtherDestination { .. }) => "other destination",
            Err(CopyRefusal::SourceArrives { .. }) => "source arrives",
            Err(CopyRefusal::Contradiction { .. }) => "contradiction",
            Err(_) => "other",
        }
    }

    #[test]
    fn each_look_at_the_two_registries_names_the_next_step() {
        let none = || None;
        let cases = [
            (at(None, 9), none(), None, "seal"),
            (at(None, 9), Some(at(arriving(1), 7)), None, "seal"),
            (at(None, 9), Some(at(None, 9)), None, "occupied"),
            (at(None, 9), Some(at(left("c"), 9)), None, "occupied"),
            (at(arriving(1), 9), none(), None, "source arrives"),
            (at(leaving("b"), 9), none(), None, "provision"),
            (at(leaving("c"), 9), none(), None, "other destination"),
            (at(leaving("b"), 9), Some(at(arriving(1), 5)), None, "import"),
            (at(leaving("b"), 9), Some(at(arriving(2), 5)), None, "discard"),
            (at(leaving("b"), 9), Some(at(arriving(1), 9)), None, "verify"),
            (
                at(leaving("b"), 9),
                Some(at(arriving(1), 9)),
                seen(1, 8),
                "verify",
            ),
            (
                at(leaving("b"), 9),
                Some(at(arriving(1), 9)),
                seen(2, 9),
                "verify",
            ),
            (at(leaving("b"), 9), Some(at(arriving(1), 9)), seen(1, 9), "leave"),
            (
                at(leaving("b"), 9),
                Some(at(arriving(1), 10)),
                seen(1, 9),
                "contradiction",
            ),
            (at(leaving("b"), 9), Some(at(None, 9)), seen(1, 9), "occupied"),
            (at(left("b"), 9), none(), None, "contradiction"),
            (at(left("c"), 9), none(), None, "other destination"),
            (at(left("b"), 9), Some(at(arriving(1), 9)), None, "arrive"),
            (at(left("b"), 9), Some(at(arriving(2), 9)), None, "contradiction"),
            (at(left("b"), 9), Some(at(arriving(1), 8)), None, "contradiction"),
            (at(left("b"), 9), Some(at(None, 12)), None, "done"),
            (at(left("b"), 9), Some(at(None, 8)), None, "contradiction"),
        ];
        for (source, destination, verified, expected) in cases {
            let step = next_step(&source, destination.as_ref(), NAMES, verified);
            assert_eq!(
                word(&step),
                expected,
                "{source:?} {destination:?} {verified:?}: {step:?}"
            );
        }
    }

    #[test]
    fn a_log_of_another_life_or_cluster_is_never_touched() {
        let source = at(leaving("b"), 9);
        let mut other = at(arriving(1), 9);
        other.registration.incarnation.generation = 2;
        assert_eq!(word(&next_step(&source, Some(&other), NAMES, None)), "occupied");
        let mut foreign = at(arriving(1), 9);
        foreign.registration.fingerprint = Fingerprint::from_bytes([9; 16]);
        assert_eq!(word(&next_step(&source, Some(&foreign), NAMES, None)), "occupied");
        assert_eq!(take_back(&source, Some(&other)).unwrap().leftover, None);
    }

    #[test]
    fn the_copy_begins_at_the_trim_point_under_the_same_name() {
        let source = at(leaving("b"), 9);
        let Ok(Step::Provision(registration)) = next_step(&source, None, NAMES, None) else {
            panic!("it is provisioned");
        };
        let expected = Registration {
            passage: arriving(1),
            ..source.registration
        };
        assert_eq!(*registration, expected);
    }

    #[test]
    fn a_copy_is_taken_back_until_the_source_was_left() {
        let back = take_back(&at(leaving("b"), 9), Some(&at(arriving(1), 7))).unwrap();
        assert_eq!((back.leaving, back.leftover), (leaving("b"), arriving(1)));
        let back = take_back(&at(None, 9), None).unwrap();
        assert_eq!((back.leaving, back.leftover), (None, None));
        let late = take_back(&at(left("b"), 9), Some(&at(arriving(1), 9)));
        assert!(matches!(late, Err(CopyRefusal::TooLate { .. })), "{late:?}");
    }
}
