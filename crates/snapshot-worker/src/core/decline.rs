//! Whether a replica makes the snapshot it is asked for.

use super::PartitionState;
use snapshot_store::{
    Incarnation, Lsn, PartitionId, RequestId, SnapshotId,
    format::{Pointer, PointerEntry},
};

/// What is known when a request for a snapshot arrives.
#[derive(Clone, Copy, Debug)]
pub struct ExportFacts<'a> {
    /// The partition asked for.
    pub partition: PartitionId,
    /// The snapshot must hold at least this LSN.
    pub min_lsn: Lsn,
    /// State and applied LSN of the replica; `None` when the partition is not hosted here.
    pub replica: Option<(&'a PartitionState, Option<Lsn>)>,
    /// The request whose snapshot of this partition is being made.
    pub running: Option<RequestId>,
    /// Snapshots of all partitions that are being made on this node.
    pub exports_running: usize,
    /// Snapshots of all partitions that wait for their turn.
    pub exports_queued: usize,
    /// The most it makes at once.
    pub exports_max: usize,
    /// The most that wait.
    pub exports_queue_max: usize,
    /// Whether the node is stopping.
    pub stopping: bool,
}

/// Why a worker refused to make a snapshot. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Decline {
    /// The partition is not hosted here.
    #[error("partition {partition} is not hosted here: check the list of partitions of this node")]
    UnknownPartition {
        /// The partition.
        partition: PartitionId,
    },
    /// The replica has not applied the demanded LSN.
    #[error("partition {partition}: this replica has applied {}, the request demands at least {min_lsn}", shown(*.applied))]
    Behind {
        /// The partition.
        partition: PartitionId,
        /// What it has applied.
        applied: Option<Lsn>,
        /// What was demanded.
        min_lsn: Lsn,
    },
    /// A snapshot of the partition is being made for another request.
    #[error("partition {partition}: a snapshot is already being made for request {request_id}")]
    Running {
        /// The partition.
        partition: PartitionId,
        /// The request it answers.
        request_id: RequestId,
    },
    /// The replica is not active.
    #[error("partition {partition}: this replica is {state}, not active")]
    NotActive {
        /// The partition.
        partition: PartitionId,
        /// The word for its state.
        state: &'static str,
        /// What it has applied.
        applied: Option<Lsn>,
    },
    /// The store already has a trusted snapshot at the LSN this one would have, or above.
    #[error(
        "partition {partition}: the store has snapshot {snapshot_id} at {archived}, and this replica has applied {applied}"
    )]
    Covered {
        /// The partition.
        partition: PartitionId,
        /// What it has applied.
        applied: Lsn,
        /// The snapshot in the store.
        snapshot_id: SnapshotId,
        /// Its LSN.
        archived: Lsn,
    },
    /// The node makes as many snapshots as it may, and as many as may wait do.
    #[error(
        "partition {partition}: this node is making {running} snapshots of at most {max}, and {queued} of at most {queue_max} wait"
    )]
    Busy {
        /// The partition.
        partition: PartitionId,
        /// How many it is making.
        running: usize,
        /// The most it makes at once.
        max: usize,
        /// How many wait for their turn.
        queued: usize,
        /// The most that wait.
        queue_max: usize,
    },
    /// The node is stopping.
    #[error("partition {partition}: this node is stopping")]
    Stopping {
        /// The partition.
        partition: PartitionId,
    },
}

/// An LSN, or words for its absence.
fn shown(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string())
}

impl Decline {
    /// Every word [`Decline::reason`] returns, in the order of the operator guide.
    pub const REASONS: &[&str] = &[
        "unknown-partition",
        "behind",
        "running",
        "not-active",
        "covered",
        "busy",
        "stopping",
    ];

    /// What each word of [`Decline::REASONS`] means, and what to do about it.
    pub const EXPLAINED: &[(&str, &str)] = &[
        (
            "The node does not host the partition.",
            "the admin's list of workers and the worker's `partitions` disagree: correct one of them",
        ),
        (
            "The replica has not applied the LSN that the request demands.",
            "nothing to do: a fresher replica is asked",
        ),
        (
            "A snapshot of the partition is being made here already.",
            "nothing to do: wait for it",
        ),
        (
            "The replica is opening, restoring, catching up or blocked.",
            "nothing to do unless it is blocked: then see why",
        ),
        (
            "The store already has a trusted snapshot at the LSN this one would have, or above.",
            "nothing to do",
        ),
        (
            "The node makes and queues as many snapshots as it may.",
            "if it lasts, raise `exports_max` or `exports_queue_max` of the worker",
        ),
        (
            "The node is shutting down.",
            "nothing to do: another replica is asked",
        ),
    ];

    /// Returns the word used in metrics, status and JSON.
    pub const fn reason(&self) -> &'static str {
        match self {
            Decline::UnknownPartition { .. } => "unknown-partition",
            Decline::Behind { .. } => "behind",
            Decline::Running { .. } => "running",
            Decline::NotActive { .. } => "not-active",
            Decline::Covered { .. } => "covered",
            Decline::Busy { .. } => "busy",
            Decline::Stopping { .. } => "stopping",
        }
    }
}

/// Decides whether a request for a snapshot is taken on, and returns the applied LSN it holds at least.
///
/// What the store has is not among the facts: that costs a request, which is spent only on a request that passes
/// here; see [`coverage`].
///
/// # Errors
/// The precise reason why not.
pub fn decide_export(facts: &ExportFacts<'_>) -> Result<Lsn, Decline> {
    let partition = facts.partition;
    if facts.stopping {
        return Err(Decline::Stopping { partition });
    }
    let Some((state, applied)) = facts.replica else {
        return Err(Decline::UnknownPartition { partition });
    };
    if let Some(request_id) = facts.running {
        return Err(Decline::Running {
            partition,
            request_id,
        });
    }
    if *state != PartitionState::Active {
        return Err(Decline::NotActive {
            partition,
            state: state.as_str(),
            applied,
        });
    }
    // The state before the first record is not worth a snapshot, whatever the caller demands.
    let min_lsn = facts.min_lsn.max(Lsn::FIRST);
    let applied = match applied {
        Some(applied) if applied >= min_lsn => applied,
        behind => {
            return Err(Decline::Behind {
                partition,
                applied: behind,
                min_lsn,
            });
        }
    };
    let taken = facts.exports_running.saturating_add(facts.exports_queued);
    if taken >= facts.exports_max.saturating_add(facts.exports_queue_max) {
        return Err(Decline::Busy {
            partition,
            running: facts.exports_running,
            max: facts.exports_max,
            queued: facts.exports_queued,
            queue_max: facts.exports_queue_max,
        });
    }
    Ok(applied)
}

/// What the store says about a snapshot that could be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage<'a> {
    /// Nothing at its LSN or above: it is worth making.
    Uncovered,
    /// A trusted one is there: the new one would be superfluous.
    Trusted(&'a PointerEntry),
    /// One is there that the caller distrusts. A pointer only moves up, so the new one could not be published
    /// before a record is appended.
    Distrusted(&'a PointerEntry),
}

/// Says whether the store already has a snapshot of `incarnation` at `lsn` or above, and whether it is trusted.
pub fn coverage<'a>(
    pointer: &'a Pointer,
    incarnation: Incarnation,
    lsn: Lsn,
    distrusted: &[SnapshotId],
) -> Coverage<'a> {
    let covers = |entry: &&PointerEntry| entry.incarnation == incarnation && entry.lsn >= lsn;
    let trusted = |entry: &&PointerEntry| !distrusted.contains(&entry.snapshot_id);
    let mut covering = pointer.snapshots.iter().filter(covers);
    match (covering.clone().find(trusted), covering.next()) {
        (Some(entry), _) => Coverage::Trusted(entry),
        (None, Some(entry)) => Coverage::Distrusted(entry),
        (None, None) => Coverage::Uncovered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::BlockedReason;
    use snapshot_store::{Entropy, Timestamp};

    #[test]
    fn each_reason_to_decline_is_told_apart() {
        let request = RequestId::new(Entropy::seeded(1).ulid(Timestamp::default()));
        let active = PartitionState::Active;
        let blocked = PartitionState::Blocked {
            reason: BlockedReason::LogMissing,
            detail: String::new(),
        };
        let lsn = Lsn::new;
        let good = ExportFacts {
            partition: PartitionId::new(1),
            min_lsn: lsn(10),
            replica: Some((&active, Some(lsn(10)))),
            running: None,
            exports_running: 1,
            exports_queued: 0,
            exports_max: 2,
            exports_queue_max: 0,
            stopping: false,
        };
        let table: &[(&str, ExportFacts<'_>, Result<Lsn, &str>)] = &[
            ("fresh enough", good, Ok(lsn(10))),
            (
                "nothing demanded",
                ExportFacts {
                    min_lsn: Lsn::ZERO,
                    ..good
                },
                Ok(lsn(10)),
            ),
            (
                "one short",
                ExportFacts {
                    min_lsn: lsn(11),
                    ..good
                },
                Err("behind"),
            ),
            (
                "nothing applied",
                ExportFacts {
                    replica: Some((&active, None)),
                    ..good
                },
                Err("behind"),
            ),
            (
                "an empty state",
                ExportFacts {
                    min_lsn: Lsn::ZERO,
                    replica: Some((&active, Some(Lsn::ZERO))),
                    ..good
                },
                Err("behind"),
            ),
            (
                "not hosted",
                ExportFacts {
                    replica: None,
                    ..good
                },
                Err("unknown-partition"),
            ),
            (
                "one is running",
                ExportFacts {
                    running: Some(request),
                    ..good
                },
                Err("running"),
            ),
            (
                "blocked",
                ExportFacts {
                    replica: Some((&blocked, Some(lsn(10)))),
                    ..good
                },
                Err("not-active"),
            ),
            (
                "catching up",
                ExportFacts {
                    replica: Some((&PartitionState::CatchingUp, Some(lsn(10)))),
                    ..good
                },
                Err("not-active"),
            ),
            (
                "node full",
                ExportFacts {
                    exports_running: 2,
                    ..good
                },
                Err("busy"),
            ),
            (
                "node full, room in its queue",
                ExportFacts {
                    exports_running: 2,
                    exports_queued: 2,
                    exports_queue_max: 3,
                    ..good
                },
                Ok(lsn(10)),
            ),
            (
                "queue full",
                ExportFacts {
                    exports_running: 2,
                    exports_queued: 3,
                    exports_queue_max: 3,
                    ..good
                },
                Err("busy"),
            ),
            (
                "stopping",
                ExportFacts {
                    stopping: true,
                    replica: None,
                    ..good
                },
                Err("stopping"),
            ),
        ];
        for (name, facts, expected) in table {
            let decided = decide_export(facts);
            assert_eq!(
                decided.as_ref().map_err(Decline::reason),
                expected.as_ref().map_err(|r| *r),
                "{name}"
            );
            if let Err(decline) = decided {
                assert!(Decline::REASONS.contains(&decline.reason()), "{name}");
            }
        }
    }

    #[test]
    fn every_word_is_explained() {
        assert_eq!(Decline::REASONS.len(), Decline::EXPLAINED.len());
    }

    #[test]
    fn a_replica_that_is_behind_says_both_lsns() {
        let state = PartitionState::Active;
        let facts = ExportFacts {
            partition: PartitionId::new(7),
            min_lsn: Lsn::new(500),
            replica: Some((&state, Some(Lsn::new(123)))),
            running: None,
            exports_running: 0,
            exports_queued: 0,
            exports_max: 1,
            exports_queue_max: 0,
            stopping: false,
        };
        let message = decide_export(&facts).unwrap_err().to_string();
        assert!(
            message.contains("123") && message.contains("500") && message.contains('7'),
            "{message}"
        );
    }
}
