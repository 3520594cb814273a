//! What holds of trims for whatever facts.

use super::*;
use proptest::prelude::*;

fn facts() -> impl Strategy<Value = Case> {
    let snapshots = prop::collection::btree_set((1_u64..2, 1_u64..1_200), 0..5);
    let replicas = prop::collection::vec(
        (prop::option::of(0_u64..1_200), prop::option::of(0_u64..120_000)),
        0..4,
    );
    let log = (
        prop_oneof![9 => Just(1_u64), 1 => Just(2)],
        0_u64..500,
        600_u64..1_400,
        prop::bool::weighted(0.95),
    );
    let trust = prop::collection::vec(prop_oneof![1 => 0_u8..3, 4 => 3_u8..5], 5);
    let rule = (
        0_u32..4,
        0_u64..300,
        0_u64..1_000,
        0_u64..100_000,
        any::<bool>(),
        0_u64..3,
    );
    (
        snapshots,
        replicas,
        log,
        trust,
        rule,
        prop::option::of(0_u64..1_200),
    )
        .prop_map(
            |(snapshots, replicas, (generation, trim_point, tail, log_known), trust, rule, certified_to)| {
                let entries: Vec<_> = snapshots
                    .iter()
                    .rev()
                    .map(|(generation, lsn)| entry_of(incarnation(*generation), *lsn, u128::from(*lsn)))
                    .collect();
                let levels = [VerifyLevel::Presence, VerifyLevel::Content, VerifyLevel::Restore];
                let trust = entries.iter().zip(trust).filter_map(|(entry, trust)| {
                    let trust = match trust {
                        0 => return None,
                        1 => SnapshotTrust::Damaged,
                        level => SnapshotTrust::Verified(levels[usize::from(level) - 2]),
                    };
                    Some((entry.snapshot_id, trust))
                });
                let (restorable, retain_records, held_records_max, held_bytes_max, force, delay) = rule;
                Case {
                    log: log_known.then(|| LogFacts {
                        incarnation: incarnation(generation),
                        trim_point: Lsn::new(trim_point),
                        tail: Lsn::new(tail),
                    }),
                    trust: trust.collect(),
                    certificate: certified_to.map(|up_to| certificate(up_to, &entries)),
                    pointer: (!entries.is_empty()).then(|| pointer(entries)),
                    replicas: replicas
                        .into_iter()
                        .map(|(lsn, bytes)| need(lsn, bytes))
                        .collect(),
                    rule: TrimRule {
                        restorable_snapshots_min: restorable,
                        retain_records,
                        held_records_max,
                        held_bytes_max,
                        force,
                        trim_delay: Duration::from_millis(delay * 999_500),
                        ..Case::default().rule
                    },
                    ..Case::default()
                }
            },
        )
}

/// The restorable snapshots of a log, by another way than the rule takes.
fn restorable(case: &Case, log: Incarnation) -> Vec<(Lsn, SnapshotId)> {
    let mut found: Vec<_> = case
        .pointer
        .iter()
        .flat_map(|pointer| &pointer.snapshots)
        .collect();
    found.retain(|entry| entry.incarnation == log);
    found.sort_by_key(|entry| std::cmp::Reverse(entry.lsn));
    found.truncate(case.rule.restorable_snapshots_min.max(1) as usize);
    found.iter().map(|entry| (entry.lsn, entry.snapshot_id)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trim_never_passes_the_guard_or_the_tail(case in facts()) {
        if let TrimDecision::Trim(grant) = case.decide() {
            let log = case.log.unwrap();
            let restorable = restorable(&case, log.incarnation);
            prop_assert_eq!(restorable.len(), case.rule.restorable_snapshots_min.max(1) as usize);
            prop_assert!(restorable.iter().all(|(lsn, _)| grant.up_to <= *lsn));
            prop_assert!(grant.up_to < log.tail && grant.up_to > log.trim_point);
            prop_assert_eq!(grant.incarnation, log.incarnation);
        }
    }

    #[test]
    fn trim_rests_on_verified_snapshots_only(case in facts()) {
        if let TrimDecision::Trim(grant) = case.decide() {
            for (_, id) in restorable(&case, grant.incarnation) {
                let verified = matches!(
                    case.trust.get(&id),
                    Some(SnapshotTrust::Verified(level)) if *level >= VerifyLevel::Content
                );
                prop_assert!(verified);
            }
        }
    }

    #[test]
    fn trim_keeps_what_a_live_replica_needs(case in facts()) {
        if let TrimDecision::Trim(grant) = case.decide() && !case.rule.force {
            prop_assert!(!case.replicas.is_empty());
            for replica in &case.replicas {
                let Some(needed) = replica.needed_lsn else { continue };
                let behind = grant.left_behind.contains(&replica.node);
                prop_assert!(grant.up_to <= needed || behind);
                if grant.guard_lsn.records_since(needed) <= case.rule.held_records_max && replica.log_bytes.is_none() {
                    prop_assert!(grant.up_to <= needed);
                }
            }
            prop_assert!(grant.up_to.plus(case.rule.retain_records) < case.log.unwrap().tail);
        }
    }

    #[test]
    fn foreign_identity_always_holds(mut case in facts()) {
        case.cluster = other_cluster();
        let held = matches!(case.decide(), TrimDecision::Hold { .. });
        prop_assert!(held);
    }

    #[test]
    fn one_damaged_restorable_snapshot_always_holds(mut case in facts(), pick in any::<prop::sample::Index>()) {
        let Some(log) = case.log else { return Ok(()) };
        let restorable = restorable(&case, log.incarnation);
        if !restorable.is_empty() {
            case.trust.insert(restorable[pick.index(restorable.len())].1, SnapshotTrust::Damaged);
            let held = matches!(case.decide(), TrimDecision::Hold { .. });
            prop_assert!(held);
        }
    }

    /// Whatever one of the things it rests on is not known, it holds, and by a name of its own.
    #[test]
    fn nothing_unknown_ever_trims(case in facts(), pick in any::<prop::sample::Index>()) {
        let TrimDecision::Trim(grant) = case.decide() else { return Ok(()) };
        let unknown = grant.snapshots[pick.index(grant.snapshots.len())].snapshot_id;
        type Blank = Box<dyn Fn(&mut Case)>;
        let blanks: [(&str, HoldReason, Blank); 5] = [
            ("the log", HoldReason::LogUnavailable, Box::new(|case| case.log = None)),
            ("whether a snapshot is sound", HoldReason::UnverifiedSnapshot, Box::new(move |case| {
                case.trust.remove(&unknown);
            })),
            ("how thoroughly it was checked", HoldReason::UnverifiedSnapshot, Box::new(move |case| {
                case.rule.verify_before_trim = VerifyLevel::Restore;
                case.trust.insert(unknown, SnapshotTrust::Verified(VerifyLevel::Content));
            })),
            ("the newest snapshots", HoldReason::TooFewSnapshots, Box::new(|case| {
                let wanted = case.rule.restorable_snapshots_min.max(1) as usize;
                case.pointer().snapshots.truncate(wanted - 1);
            })),
            ("what replicas need", HoldReason::NoLiveReplica, Box::new(|case| {
                case.replicas.clear();
                case.rule.force = false;
            })),
        ];
        for (what, expected, blank) in blanks {
            let mut case = case.clone();
            blank(&mut case);
            let decision = case.decide();
            let held = matches!(&decision, TrimDecision::Hold { reason, .. } if *reason == expected);
            prop_assert!(held, "not knowing {what}: {decision:?}");
        }
    }

    #[test]
    fn a_delay_only_ever_lowers_the_answer(case in facts()) {
        if let TrimDecision::Trim(delayed) = case.decide() {
            let mut prompt = case;
            prompt.rule.trim_delay = Duration::ZERO;
            prop_assert!(prompt.grant().up_to >= delayed.up_to);
        }
    }
}
