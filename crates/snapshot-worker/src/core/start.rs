//! How a replica goes on from what it has and what the log still has.

use super::status::{BlockedReason, RestoreKind};
use snapshot_store::{ChainHash, Incarnation, Lineage, Lsn, format::ChainPoint};

/// What a replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalFacts {
    /// The log its state belongs to.
    pub incarnation: Incarnation,
    /// The highest LSN applied.
    pub applied_lsn: Lsn,
    /// Whether the log was seen without the record applied there, or with another one.
    pub regressed: bool,
    /// Its chain hash at the log's base; `None` when it does not remember that LSN, or the log has no base.
    pub hash_at_base: Option<ChainHash>,
}

/// What the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// Which life of the log.
    pub incarnation: Incarnation,
    /// The first LSN the log ever had.
    pub first_lsn: Lsn,
    /// Whether it continues another log.
    pub has_base: bool,
    /// Where it does so, and the chain hash there; `None` without a base, or where the base has no hash.
    pub base: Option<ChainPoint>,
    /// The highest LSN removed.
    pub trim_point: Lsn,
}

/// What a replica does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// Read from the applied LSN, compare that record's hash with the remembered one, and go on after it.
    Compare {
        /// The applied LSN.
        applied: Lsn,
    },
    /// Read from here; the record before it is gone or never was, so there is nothing to compare.
    ReadFrom {
        /// The LSN after the applied one.
        from: Lsn,
    },
    /// Get a snapshot of the log's incarnation that covers the gap.
    Restore {
        /// Why.
        kind: RestoreKind,
    },
    /// Set the local state aside (it belongs to an older life of the log), and decide again without it.
    SetAside {
        /// The incarnation of the local state.
        incarnation: Incarnation,
    },
    /// Nothing can be done without help.
    Blocked {
        /// Why.
        reason: BlockedReason,
        /// What was seen.
        detail: String,
    },
}

/// Decides how a replica goes on. Asks for the object store only when local state and log do not suffice.
pub fn next_step(local: Option<&LocalFacts>, log: &LogFacts) -> StartStep {
    let Some(local) = local else {
        return StartStep::Restore {
            kind: RestoreKind::Bootstrap,
        };
    };
    match log.incarnation.compared_to(&local.incarnation) {
        Lineage::Same => {}
        Lineage::Newer => {
            return StartStep::SetAside {
                incarnation: local.incarnation,
            };
        }
        Lineage::Older | Lineage::Conflict => {
            return StartStep::Blocked {
                reason: BlockedReason::LogIncarnation,
                detail: format!(
                    "the log is of incarnation {}, the local state of {}",
                    log.incarnation, local.incarnation
                ),
            };
        }
    }
    if let (Some(base), Some(found)) = (log.base, local.hash_at_base)
        && base.hash != found
    {
        return StartStep::Blocked {
            reason: BlockedReason::LogIncarnation,
            detail: format!(
                "the log continues a state with the chain hash {} at {}, the local state has {found} there",
                base.hash, base.lsn
            ),
        };
    }
    let applied = local.applied_lsn;
    match applied.cmp(&log.trim_point) {
        std::cmp::Ordering::Greater => StartStep::Compare { applied },
        // What is gone cannot be compared again: a state that was found not to be the log's is not continued.
        std::cmp::Ordering::Equal if local.regressed => StartStep::Restore {
            kind: RestoreKind::TrimGap,
        },
        std::cmp::Ordering::Equal => StartStep::ReadFrom { from: applied.next() },
        std::cmp::Ordering::Less if applied == Lsn::ZERO => StartStep::Restore {
            kind: RestoreKind::Bootstrap,
        },
        std::cmp::Ordering::Less => StartStep::Restore {
            kind: RestoreKind::TrimGap,
        },
    }
}

/// Decides whether a replica for which the store has no usable snapshot may replay the whole log.
///
/// # Errors
/// Why not: the state before the log's first record is nowhere to be had.
pub fn may_replay_from_first(log: &LogFacts) -> Result<(), String> {
    if log.has_base || log.first_lsn != Lsn::FIRST {
        return Err(format!(
            "the log begins at {} and continues another one",
            log.first_lsn
        ));
    }
    if log.trim_point != Lsn::ZERO {
        return Err(format!("the log is trimmed up to {}", log.trim_point));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::IncarnationId;

    fn incarnation(generation: u64, id: u8) -> Incarnation {
        Incarnation {
            generation,
            id: IncarnationId::from_bytes([id; 16]),
        }
    }

    fn local(applied: u64, incarnation: Incarnation) -> Option<LocalFacts> {
        Some(LocalFacts {
            incarnation,
            applied_lsn: Lsn::new(applied),
            regressed: false,
            hash_at_base: None,
        })
    }

    fn log(trim_point: u64) -> LogFacts {
        LogFacts {
            incarnation: incarnation(2, 1),
            first_lsn: Lsn::FIRST,
            has_base: false,
            base: None,
            trim_point: Lsn::new(trim_point),
        }
    }

    #[test]
    fn the_store_is_asked_only_when_state_and_log_do_not_suffice() {
        let same = incarnation(2, 1);
        let cases = [
            (
                None,
                0,
                StartStep::Restore {
                    kind: RestoreKind::Bootstrap,
                },
            ),
            (
                None,
                9,
                StartStep::Restore {
                    kind: RestoreKind::Bootstrap,
                },
            ),
            (local(0, same), 0, StartStep::ReadFrom { from: Lsn::new(1) }),
            (
                local(0, same),
                3,
                StartStep::Restore {
                    kind: RestoreKind::Bootstrap,
                },
            ),
            (local(5, same), 0, StartStep::Compare { applied: Lsn::new(5) }),
            (local(5, same), 4, StartStep::Compare { applied: Lsn::new(5) }),
            (local(5, same), 5, StartStep::ReadFrom { from: Lsn::new(6) }),
            (
                local(5, same),
                6,
                StartStep::Restore {
                    kind: RestoreKind::TrimGap,
                },
            ),
            (
                local(5, incarnation(1, 1)),
                0,
                StartStep::SetAside {
                    incarnation: incarnation(1, 1),
                },
            ),
        ];
        for (local, trim_point, expected) in cases {
            assert_eq!(
                next_step(local.as_ref(), &log(trim_point)),
                expected,
                "{local:?} {trim_point}"
            );
        }
    }

    #[test]
    fn an_older_or_conflicting_log_blocks() {
        for other in [incarnation(3, 1), incarnation(2, 9)] {
            let step = next_step(local(5, other).as_ref(), &log(0));
            assert!(matches!(
                step,
                StartStep::Blocked {
                    reason: BlockedReason::LogIncarnation,
                    ..
                }
            ));
        }
    }

    /// A log that was forked off at LSN 7.
    fn fork() -> LogFacts {
        let base = ChainPoint {
            lsn: Lsn::new(7),
            hash: ChainHash::of(b"base"),
        };
        LogFacts {
            has_base: true,
            base: Some(base),
            first_lsn: Lsn::new(8),
            ..log(7)
        }
    }

    #[test]
    fn a_fork_is_entered_through_its_snapshot_alone() {
        let same = incarnation(2, 1);
        let bootstrap = StartStep::Restore {
            kind: RestoreKind::Bootstrap,
        };
        assert_eq!(next_step(None, &fork()), bootstrap);
        assert!(may_replay_from_first(&fork()).is_err());
        // Also when the log forgot for a moment how far it is trimmed.
        let forgetful = LogFacts {
            trim_point: Lsn::ZERO,
            ..fork()
        };
        assert!(may_replay_from_first(&forgetful).is_err());
        let restored = next_step(local(7, same).as_ref(), &fork());
        assert_eq!(restored, StartStep::ReadFrom { from: Lsn::new(8) });
    }

    #[test]
    fn a_state_that_the_fork_does_not_continue_blocks() {
        let with = |hash: Option<&[u8]>, log: &LogFacts| {
            let local = LocalFacts {
                hash_at_base: hash.map(ChainHash::of),
                ..local(7, incarnation(2, 1)).expect("a state")
            };
            next_step(Some(&local), log)
        };
        let go_on = StartStep::ReadFrom { from: Lsn::new(8) };
        assert_eq!(with(Some(b"base"), &fork()), go_on);
        assert_eq!(with(None, &fork()), go_on);
        let unknown = LogFacts { base: None, ..fork() };
        assert_eq!(with(Some(b"other"), &unknown), go_on);
        let step = with(Some(b"other"), &fork());
        let StartStep::Blocked { reason, detail } = step else {
            panic!("{step:?}")
        };
        assert_eq!(reason, BlockedReason::LogIncarnation);
        assert!(detail.contains("at 7"), "{detail}");
    }

    #[test]
    fn a_state_that_the_log_contradicted_is_not_continued_once_the_record_is_trimmed() {
        let regressed = LocalFacts {
            regressed: true,
            ..local(5, incarnation(2, 1)).expect("a state")
        };
        let step = |trim_point| next_step(Some(&regressed), &log(trim_point));
        let restore = StartStep::Restore {
            kind: RestoreKind::TrimGap,
        };
        assert_eq!(step(4), StartStep::Compare { applied: Lsn::new(5) });
        assert_eq!([step(5), step(6)], [restore.clone(), restore]);
    }

    #[test]
    fn only_a_whole_log_is_replayed() {
        assert_eq!(may_replay_from_first(&log(0)), Ok(()));
        assert!(may_replay_from_first(&log(1)).is_err());
        let based = LogFacts {
            has_base: true,
            first_lsn: Lsn::new(8),
            ..log(7)
        };
        assert!(may_replay_from_first(&based).is_err());
    }
}
