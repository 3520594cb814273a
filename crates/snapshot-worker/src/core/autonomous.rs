//! Whether a leader makes a snapshot of its own accord, because no admin is there to ask for one.

use super::{PartitionState, ReplicaStatus};
use snapshot_store::{Lsn, ReplicaRole};
use std::time::Duration;

/// What the last poll of an admin said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPoll {
    /// How long ago it was.
    pub age: Duration,
    /// Records after which a snapshot is due; 0 when none are.
    pub snapshot_after_records: u64,
    /// Log bytes after which a snapshot is due; 0 when none are.
    pub snapshot_after_bytes: u64,
    /// Whether the cluster or the partition was paused or held, or that was not known.
    pub paused: bool,
}

/// Which threshold was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueCause {
    /// The records since the newest snapshot that is known.
    Records,
    /// Their bytes.
    Bytes,
}

/// Why no snapshot is made without an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// No admin has polled since this node started, so no thresholds are known.
    NeverPolled,
    /// An admin polled a short time ago: it decides.
    Polled,
    /// The last poll said that the cluster or the partition is paused or held.
    Paused,
    /// Another replica leads.
    NotLeader,
    /// The replica is not active.
    NotActive,
    /// One is being made.
    Running,
    /// Too little was appended since the newest one.
    NotDue,
    /// The store did not say which is the newest one.
    StoreUnknown,
}

impl LeaveReason {
    /// Returns the word used in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            LeaveReason::NeverPolled => "never-polled",
            LeaveReason::Polled => "polled",
            LeaveReason::Paused => "paused",
            LeaveReason::NotLeader => "not-leader",
            LeaveReason::NotActive => "not-active",
            LeaveReason::Running => "running",
            LeaveReason::NotDue => "not-due",
            LeaveReason::StoreUnknown => "store-unknown",
        }
    }
}

/// What a replica does about snapshots while nobody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autonomous {
    /// It makes one that holds at least this LSN.
    Make {
        /// The LSN after that of the newest snapshot that is known.
        min_lsn: Lsn,
        /// Why it is due.
        cause: DueCause,
    },
    /// It makes none.
    Leave(LeaveReason),
}

/// Decides whether `replica` makes a snapshot of its own accord: silence of at least `silence_min` permits it, and only
/// records or bytes make it due, never time.
///
/// Due counts from `replica.archived`, which may be older than what others published: the caller looks into the store
/// before it acts, and decides again.
pub fn decide_autonomous(
    poll: Option<&LastPoll>,
    replica: &ReplicaStatus,
    silence_min: Duration,
) -> Autonomous {
    let Some(poll) = poll else {
        return Autonomous::Leave(LeaveReason::NeverPolled);
    };
    if poll.age < silence_min {
        return Autonomous::Leave(LeaveReason::Polled);
    }
    if poll.paused {
        return Autonomous::Leave(LeaveReason::Paused);
    }
    if replica.role != ReplicaRole::Leader {
        return Autonomous::Leave(LeaveReason::NotLeader);
    }
    if replica.state != PartitionState::Active {
        return Autonomous::Leave(LeaveReason::NotActive);
    }
    if replica.export.is_some() {
        return Autonomous::Leave(LeaveReason::Running);
    }
    let (since, bytes_then) = replica
        .archived
        .map_or((Lsn::ZERO, 0), |archived| (archived.lsn, archived.log_bytes));
    let records = replica.applied_lsn.unwrap_or(Lsn::ZERO).records_since(since);
    let bytes = replica.log_bytes.unwrap_or(0).saturating_sub(bytes_then);
    let reached = |value: u64, threshold: u64| threshold > 0 && value >= threshold;
    let cause = if reached(records, poll.snapshot_after_records) {
        DueCause::Records
    } else if records > 0 && reached(bytes, poll.snapshot_after_bytes) {
        DueCause::Bytes
    } else {
        return Autonomous::Leave(LeaveReason::NotDue);
    };
    Autonomous::Make {
        min_lsn: since.next(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ArchivedSnapshot, BlockedReason, RunningExport};
    use snapshot_store::{
        Entropy, PartitionId, RequestId, SnapshotId, Timestamp, format::StateMachineVersion,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn leader(applied: u64) -> ReplicaStatus {
        let machine = StateMachineVersion {
            name: "test".to_owned(),
            version: 1,
        };
        ReplicaStatus {
            role: ReplicaRole::Leader,
            state: PartitionState::Active,
            applied_lsn: Some(Lsn::new(applied)),
            log_bytes: Some(applied * 10),
            archived: Some(ArchivedSnapshot {
                snapshot_id: SnapshotId::new(Entropy::seeded(1).ulid(Timestamp::default())),
                lsn: Lsn::new(100),
                log_bytes: 1000,
            }),
            ..ReplicaStatus::new(PartitionId::new(0), machine)
        }
    }

    const POLL: LastPoll = LastPoll {
        age: MINUTE,
        snapshot_after_records: 50,
        snapshot_after_bytes: 0,
        paused: false,
    };
    const DUE: Autonomous = Autonomous::Make {
        min_lsn: Lsn::new(101),
        cause: DueCause::Records,
    };

    #[test]
    fn silence_permits_a_snapshot_and_only_records_or_bytes_make_it_due() {
        let by_bytes = LastPoll {
            snapshot_after_records: 0,
            snapshot_after_bytes: 500,
            ..POLL
        };
        let none = LastPoll {
            snapshot_after_records: 0,
            ..POLL
        };
        let long_ago = LastPoll {
            age: MINUTE * 60 * 24 * 365,
            ..POLL
        };
        let not_due = Autonomous::Leave(LeaveReason::NotDue);
        let bytes_due = Autonomous::Make {
            min_lsn: Lsn::new(101),
            cause: DueCause::Bytes,
        };
        let table = [
            ("enough records", POLL, 150, DUE),
            ("one record short", POLL, 149, not_due),
            ("enough bytes", by_bytes, 150, bytes_due),
            ("bytes short", by_bytes, 149, not_due),
            ("no threshold", none, 1_000_000, not_due),
            ("time alone", long_ago, 149, not_due),
            ("below what is archived", POLL, 90, not_due),
        ];
        for (name, poll, applied, expected) in table {
            let decided = decide_autonomous(Some(&poll), &leader(applied), MINUTE);
            assert_eq!(decided, expected, "{name}");
        }
        let mut idle = leader(100);
        idle.log_bytes = Some(9_000);
        let decided = decide_autonomous(Some(&by_bytes), &idle, MINUTE);
        assert_eq!(decided, not_due, "bytes without a record");
    }

    #[test]
    fn whatever_else_is_amiss_leaves_it() {
        let due = leader(150);
        assert_eq!(decide_autonomous(Some(&POLL), &due, MINUTE), DUE);
        let entropy = Entropy::seeded(2);
        let export = RunningExport {
            request_id: RequestId::new(entropy.ulid(Timestamp::default())),
            snapshot_id: SnapshotId::new(entropy.ulid(Timestamp::default())),
            lsn: Lsn::new(150),
            bytes_done: 0,
            bytes_total: 0,
            ahead: None,
        };
        let blocked = PartitionState::Blocked {
            reason: BlockedReason::LogRegressed,
            detail: String::new(),
        };
        let polled = LastPoll {
            age: MINUTE - Duration::from_millis(1),
            ..POLL
        };
        let paused = LastPoll { paused: true, ..POLL };
        let with = |change: &dyn Fn(&mut ReplicaStatus)| {
            let mut replica = due.clone();
            change(&mut replica);
            replica
        };
        let table = [
            (None, due.clone(), LeaveReason::NeverPolled),
            (Some(polled), due.clone(), LeaveReason::Polled),
            (Some(paused), due.clone(), LeaveReason::Paused),
            (
                Some(POLL),
                with(&|replica| replica.role = ReplicaRole::Follower),
                LeaveReason::NotLeader,
            ),
            (
                Some(POLL),
                with(&|replica| replica.state = blocked.clone()),
                LeaveReason::NotActive,
            ),
            (
                Some(POLL),
                with(&|replica| replica.export = Some(export)),
                LeaveReason::Running,
            ),
            (
                Some(POLL),
                with(&|replica| replica.applied_lsn = None),
                LeaveReason::NotDue,
            ),
        ];
        for (poll, replica, expected) in table {
            let decided = decide_autonomous(poll.as_ref(), &replica, MINUTE);
            assert_eq!(decided, Autonomous::Leave(expected), "{}", expected.as_str());
        }
    }
}
