//! Words that stand in status, metrics, JSON and folder names: people and dashboards look for them, so none changes by
//! accident.

use super::P;
use snapshot_store::{Entropy, Lsn, RecordHash, RequestId, SnapshotId, Timestamp};
use snapshot_worker::core::{
    BlockedReason, Decline, LeaveReason, Outcome, PartitionState, PassReason, RebuildCounts, RebuildReason,
    RestoreKind, RestorePhase, RunningRestore, SkipRefusal,
};

#[test]
fn the_state_of_a_replica_has_a_word_and_while_it_is_blocked_that_of_the_reason() {
    let blocked = |reason| PartitionState::Blocked {
        reason,
        detail: "seen".to_owned(),
    };
    let poison = blocked(BlockedReason::PoisonRecord);
    let table = [
        (PartitionState::Opening, "opening", "opening", "opening"),
        (PartitionState::Restoring, "restoring", "restoring", "restoring"),
        (
            PartitionState::CatchingUp,
            "catching-up",
            "catching-up",
            "catching-up",
        ),
        (PartitionState::Active, "active", "active", "active"),
        (
            poison,
            "blocked",
            "poison-record",
            "blocked (poison-record): seen",
        ),
        (
            blocked(BlockedReason::LogHole),
            "blocked",
            "log-hole",
            "blocked (log-hole): seen",
        ),
    ];
    for (state, word, reason, shown) in table {
        assert_eq!((state.as_str(), state.reason()), (word, reason));
        assert_eq!(state.to_string(), shown);
        assert_eq!(state.is_blocked_by_record(), reason == "poison-record");
    }
}

#[test]
fn every_step_of_a_restore_has_a_word() {
    use RestorePhase::*;
    let phases = [Queued, Choosing, Reusing, Downloading, Checking, Installing];
    assert_eq!(
        phases.map(RestorePhase::as_str),
        [
            "queued",
            "choosing",
            "reusing",
            "downloading",
            "checking",
            "installing"
        ]
    );
    let kinds: Vec<&str> = RestoreKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, ["bootstrap", "trim-gap", "rebuild"]);
    let passed_over = [
        PassReason::OtherIncarnation,
        PassReason::BelowTrimPoint,
        PassReason::NothingNew,
    ];
    assert_eq!(
        passed_over.map(PassReason::as_str),
        [
            "of another incarnation of the log",
            "below the trim point",
            "not above what is applied"
        ]
    );
}

#[test]
fn a_restore_has_what_was_downloaded_linked_and_resumed_and_misses_the_rest() {
    let mut restore = RunningRestore {
        bytes_total: 1_000,
        bytes_downloaded: 100,
        bytes_linked: 20,
        bytes_resumed: 3,
        ..RunningRestore::default()
    };
    assert_eq!((restore.bytes_done(), restore.bytes_left()), (123, 877));
    restore.bytes_total = 0;
    assert_eq!(restore.bytes_left(), 0, "how much it is in all is not known yet");
}

#[test]
fn rebuilds_are_counted_by_their_reason() {
    let words: Vec<&str> = RebuildReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words, ["corruption", "ordered"]);
    let mut counts = RebuildCounts::default();
    for reason in [
        RebuildReason::Ordered,
        RebuildReason::Corruption,
        RebuildReason::Ordered,
    ] {
        counts.add(reason);
    }
    let counted = |reason| counts.of(reason);
    assert_eq!(
        (
            counted(RebuildReason::Corruption),
            counted(RebuildReason::Ordered)
        ),
        (1, 2)
    );
}

#[test]
fn what_is_not_done_has_a_word_for_why() {
    use LeaveReason::*;
    let left = [
        NeverPolled,
        Polled,
        Paused,
        NotLeader,
        NotActive,
        Running,
        NotDue,
        StoreUnknown,
    ];
    assert_eq!(
        left.map(LeaveReason::as_str),
        [
            "never-polled",
            "polled",
            "paused",
            "not-leader",
            "not-active",
            "running",
            "not-due",
            "store-unknown"
        ]
    );
    let hash = RecordHash::of(b"record");
    let (lsn, asked) = (Lsn::new(7), Lsn::new(8));
    let refusals = [
        SkipRefusal::NotBlocked { state: "active" },
        SkipRefusal::OtherLsn {
            blocked_at: lsn,
            asked,
        },
        SkipRefusal::OtherHash {
            lsn,
            found: hash,
            asked: hash,
        },
    ];
    let words: Vec<&str> = refusals.iter().map(SkipRefusal::as_str).collect();
    assert_eq!(
        words,
        [
            "not-blocked-by-record",
            "blocked-at-other-record",
            "record-hash-differs"
        ]
    );
}

/// In the order of the list that the operator guide explains.
#[test]
fn every_decline_has_its_word() {
    let id = Entropy::seeded(1).ulid(Timestamp::default());
    let declines = [
        Decline::UnknownPartition { partition: P },
        Decline::Behind {
            partition: P,
            applied: None,
            min_lsn: Lsn::FIRST,
        },
        Decline::Running {
            partition: P,
            request_id: RequestId::new(id),
        },
        Decline::NotActive {
            partition: P,
            state: "opening",
            applied: None,
        },
        Decline::Covered {
            partition: P,
            applied: Lsn::FIRST,
            snapshot_id: SnapshotId::new(id),
            archived: Lsn::FIRST,
        },
        Decline::Busy {
            partition: P,
            running: 1,
            max: 1,
            queued: 1,
            queue_max: 1,
        },
        Decline::Stopping { partition: P },
    ];
    let words: Vec<&str> = declines.iter().map(Decline::reason).collect();
    assert_eq!(words, Decline::REASONS);
    assert!(declines[1].to_string().contains("has applied nothing"));
}

#[test]
fn outcomes_of_records_have_words() {
    let words: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
    assert_eq!(words, ["accepted", "ignored", "skipped", "control"]);
}
