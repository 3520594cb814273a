//! Requests that a worker takes on or refuses, and snapshots it makes unasked.

use super::{P, incarnations, logs, lsns, pointers, snapshot_id};
use proptest::prelude::*;
use snapshot_store::{
    Entropy, Lsn, RecordHash, ReplicaRole, RequestId, Timestamp,
    format::{PointerEntry, StateMachineVersion},
};
use snapshot_worker::core::{
    ArchivedSnapshot, Autonomous, BlockedReason, Coverage, Decline, DiskFacts, DueCause, ExportFacts,
    HandleFacts, LastPoll, LeaveReason, LogFacts, NODE_FILES, PARTITION_FILES, PartitionState, PoisonRecord,
    RebuildSource, ReplicaStatus, RunningExport, SkipRefusal, TABLES_MIN, coverage, decide_autonomous,
    decide_export, may_replay_from_first, may_skip, plan_handles, rebuild_source, room_for,
};
use std::time::Duration;

fn states() -> impl Strategy<Value = PartitionState> {
    let blocked = prop::sample::select(BlockedReason::ALL).prop_map(|reason| PartitionState::Blocked {
        reason,
        detail: String::new(),
    });
    prop_oneof![
        4 => Just(PartitionState::Active),
        1 => Just(PartitionState::Opening),
        1 => Just(PartitionState::Restoring),
        1 => Just(PartitionState::CatchingUp),
        2 => blocked,
    ]
}

fn few() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..4, 1 => Just(usize::MAX)]
}

fn request_id() -> RequestId {
    RequestId::new(Entropy::seeded(1).ulid(Timestamp::default()))
}

fn hashes() -> impl Strategy<Value = RecordHash> {
    (0u8..3).prop_map(|byte| RecordHash::from_bytes([byte; 32]))
}

/// Few numbers, so that thresholds are met exactly; some at the end of the range.
fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..12, 1 => Just(u64::MAX)]
}

fn replicas() -> impl Strategy<Value = ReplicaStatus> {
    let archived = prop::option::of((lsns(), amounts()));
    let done = (prop::option::of(lsns()), prop::option::of(amounts()), archived);
    (states(), any::<bool>(), any::<bool>(), done).prop_map(|(state, leads, exporting, done)| {
        let (applied_lsn, log_bytes, archived) = done;
        let machine = StateMachineVersion {
            name: "m".to_owned(),
            version: 1,
        };
        let mut replica = ReplicaStatus::new(P, machine);
        replica.state = state;
        replica.role = match leads {
            true => ReplicaRole::Leader,
            false => ReplicaRole::Follower,
        };
        replica.export = exporting.then(|| RunningExport {
            request_id: request_id(),
            snapshot_id: snapshot_id(2),
            lsn: Lsn::FIRST,
            bytes_done: 0,
            bytes_total: 0,
            ahead: None,
        });
        (replica.applied_lsn, replica.log_bytes) = (applied_lsn, log_bytes);
        replica.archived = archived.map(|(lsn, log_bytes)| ArchivedSnapshot {
            snapshot_id: snapshot_id(1),
            lsn,
            log_bytes,
        });
        replica
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A snapshot is begun exactly when the replica is active and fresh enough, the node goes on and has a place, and none
    /// is being made; a refusal names something that is so.
    #[test]
    fn a_snapshot_is_begun_only_by_a_fresh_active_replica_in_a_free_place(
        min_lsn in lsns(), replica in prop::option::of((states(), prop::option::of(lsns()))),
        running in any::<bool>(), stopping in any::<bool>(),
        counts in (few(), few(), few(), few()),
    ) {
        let (exports_running, exports_queued, exports_max, exports_queue_max) = counts;
        let facts = ExportFacts {
            partition: P,
            min_lsn,
            replica: replica.as_ref().map(|(state, applied)| (state, *applied)),
            running: running.then(request_id),
            exports_running,
            exports_queued,
            exports_max,
            exports_queue_max,
            stopping,
        };
        let applied = replica.as_ref().and_then(|(_, applied)| *applied);
        let active = replica.as_ref().is_some_and(|(state, _)| *state == PartitionState::Active);
        let fresh = applied.is_some_and(|applied| applied >= min_lsn && applied >= Lsn::FIRST);
        let free = exports_running.saturating_add(exports_queued) < exports_max.saturating_add(exports_queue_max);
        let decided = decide_export(&facts);
        prop_assert_eq!(decided.is_ok(), !stopping && !running && active && fresh && free);
        match decided {
            Ok(lsn) => prop_assert_eq!(Some(lsn), applied),
            Err(Decline::Stopping { .. }) => prop_assert!(stopping),
            Err(Decline::UnknownPartition { .. }) => prop_assert!(replica.is_none()),
            Err(Decline::Running { .. }) => prop_assert!(running),
            Err(Decline::NotActive { .. }) => prop_assert!(!active),
            Err(Decline::Behind { min_lsn: demanded, .. }) => {
                prop_assert!(!fresh && demanded >= min_lsn && demanded >= Lsn::FIRST);
            }
            Err(Decline::Busy { .. }) => prop_assert!(!free),
            Err(Decline::Covered { .. }) => prop_assert!(false, "the store was not among the facts"),
        }
    }

    /// What covers is of the log's incarnation, and at the LSN or above; a distrusted one counts only where no other does.
    #[test]
    fn a_trusted_snapshot_covers_before_a_distrusted_one(
        pointer in pointers(), incarnation in incarnations(), lsn in lsns(),
        distrusted in prop::collection::vec(1u64..6, 0..4),
    ) {
        let distrusted: Vec<_> = distrusted.into_iter().map(snapshot_id).collect();
        let covers = |entry: &PointerEntry| entry.incarnation == incarnation && entry.lsn >= lsn;
        let covering = |trusted: bool| {
            let covering = pointer.snapshots.iter().filter(|entry| covers(entry));
            covering.filter(|entry| distrusted.contains(&entry.snapshot_id) != trusted).count()
        };
        match coverage(&pointer, incarnation, lsn, &distrusted) {
            Coverage::Trusted(entry) => {
                prop_assert!(covers(entry) && !distrusted.contains(&entry.snapshot_id));
            }
            Coverage::Distrusted(entry) => {
                prop_assert!(covers(entry) && distrusted.contains(&entry.snapshot_id));
                prop_assert_eq!(covering(true), 0);
            }
            Coverage::Uncovered => prop_assert_eq!(covering(true) + covering(false), 0),
        }
    }

    /// Nothing is passed over but the very record before which the replica stands still.
    #[test]
    fn only_the_record_that_blocks_is_passed_over(
        lsn in lsns(), asked in prop::option::of(hashes()), state in states(),
        poison in prop::option::of((lsns(), hashes())),
    ) {
        let poison = poison.map(|(lsn, hash)| PoisonRecord { lsn, bytes: 1, hash, author: None, detail: String::new() });
        let blocked = state.is_blocked_by_record() && poison.is_some();
        let there = poison.as_ref().is_some_and(|poison| poison.lsn == lsn);
        let same = poison.as_ref().is_some_and(|poison| asked.is_none_or(|asked| asked == poison.hash));
        match may_skip(lsn, asked.as_ref(), &state, poison.as_ref()) {
            Ok(skipped) => prop_assert!(blocked && there && same && Some(skipped) == poison.as_ref()),
            Err(SkipRefusal::NotBlocked { .. }) => prop_assert!(!blocked),
            Err(SkipRefusal::OtherLsn { .. }) => prop_assert!(blocked && !there),
            Err(SkipRefusal::OtherHash { .. }) => prop_assert!(blocked && there && !same),
        }
    }

    /// A state goes only when another one can be had.
    #[test]
    fn a_rebuild_has_a_source(snapshot in prop::option::of((1u64..6, lsns())), log in logs()) {
        let snapshot = snapshot.map(|(id, lsn)| (snapshot_id(id), lsn));
        let whole = |log: &LogFacts| may_replay_from_first(log).is_ok();
        match rebuild_source(snapshot, &log) {
            Ok(RebuildSource::Snapshot { snapshot_id, lsn }) => prop_assert_eq!(snapshot, Some((snapshot_id, lsn))),
            Ok(RebuildSource::Replay) => prop_assert!(snapshot.is_none() && whole(&log)),
            Err(_) => prop_assert!(snapshot.is_none() && !whole(&log)),
        }
    }

    /// After everything that was promised is written, the reserve is still free.
    #[test]
    fn the_reserve_stays_free(wanted in amounts(), free in amounts(), promised in amounts(), reserve in amounts()) {
        let disk = DiskFacts { free, promised, reserve };
        let left = free.checked_sub(promised).and_then(|left| left.checked_sub(wanted));
        prop_assert_eq!(room_for(wanted, disk).is_ok(), left.is_some_and(|left| left >= reserve));
    }

    /// A plan never asks for more files than the hard limit, never lowers the limit, and says so when what is left is too
    /// little for the tables it promises.
    #[test]
    fn handles_stay_within_their_limits(
        partitions in 0u64..3_000, tables_max in 0u64..2_000,
        soft in prop::option::of(0u64..100_000), more in prop::option::of(0u64..1_000_000),
    ) {
        let hard = soft.zip(more).map(|(soft, more)| soft + more);
        let plan = plan_handles(&HandleFacts { partitions, tables_max, soft, hard });
        if let Some(raise_to) = plan.raise_to {
            prop_assert!(soft.is_some_and(|soft| raise_to > soft), "{plan:?}");
            prop_assert!(hard.is_none_or(|hard| raise_to <= hard), "{plan:?}");
        }
        prop_assert!(plan.tables >= TABLES_MIN && plan.tables <= tables_max.max(TABLES_MIN), "{plan:?}");
        let limit = plan.raise_to.or(soft);
        let needed = NODE_FILES + partitions.max(1) * (PARTITION_FILES + plan.tables);
        let short = limit.is_some_and(|limit| limit < needed);
        prop_assert!(!short || plan.shortage.is_some(), "{plan:?} needs {needed}");
        prop_assert!(soft.is_some() || plan.shortage.is_none(), "{plan:?}");
    }

    /// A snapshot is made unasked only by an active leader that no admin has asked for long enough, and only when a
    /// threshold is reached; and it demands more than what is archived.
    #[test]
    fn silence_alone_makes_no_snapshot(
        poll in prop::option::of((0u64..4, amounts(), amounts(), any::<bool>())), replica in replicas(), silence in 0u64..4,
    ) {
        let poll = poll.map(|(age, snapshot_after_records, snapshot_after_bytes, paused)| LastPoll {
            age: Duration::from_secs(age),
            snapshot_after_records,
            snapshot_after_bytes,
            paused,
        });
        let silence = Duration::from_secs(silence);
        let silent = poll.is_some_and(|poll| poll.age >= silence && !poll.paused);
        let ready = replica.role == ReplicaRole::Leader
            && replica.state == PartitionState::Active
            && replica.export.is_none();
        let archived = replica.archived.map_or(Lsn::ZERO, |archived| archived.lsn);
        let records = replica.applied_lsn.map_or(0, |applied| applied.records_since(archived));
        let bytes = replica.log_bytes.unwrap_or(0);
        let bytes = bytes.saturating_sub(replica.archived.map_or(0, |archived| archived.log_bytes));
        let reached = |value: u64, threshold: Option<u64>| threshold.is_some_and(|threshold| threshold > 0 && value >= threshold);
        let by_records = reached(records, poll.map(|poll| poll.snapshot_after_records));
        let by_bytes = records > 0 && reached(bytes, poll.map(|poll| poll.snapshot_after_bytes));
        match decide_autonomous(poll.as_ref(), &replica, silence) {
            Autonomous::Make { min_lsn, cause } => {
                prop_assert!(silent && ready);
                let reason = match cause {
                    DueCause::Records => by_records,
                    DueCause::Bytes => by_bytes,
                };
                prop_assert!(reason);
                prop_assert_eq!(min_lsn, archived.next());
                prop_assert!(replica.applied_lsn >= Some(min_lsn), "it can be made");
            }
            Autonomous::Leave(LeaveReason::NotDue) => prop_assert!(silent && ready && !by_records && !by_bytes),
            Autonomous::Leave(_) => prop_assert!(!silent || !ready),
        }
    }
}
