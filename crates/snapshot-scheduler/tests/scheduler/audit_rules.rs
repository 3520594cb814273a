//! What is audited next, as tables over plain values.

use crate::views::{NOW, P, heard_before, node, partition, policy, view};
use proptest::prelude::*;
use snapshot_scheduler::core::{
    AUDIT_TRIES, AuditPass, AuditPolicy, AuditStep, AuditWait, ClusterView, Command, ControlView, Instants,
    Moment, PartitionView, Policy, ReadAge, VerifyCause, audit_progress, decide_audit, plan,
};
use snapshot_store::{
    Entropy, PartitionId, Timestamp,
    core::SnapshotTrust,
    format::{Pause, PauseScope, Unknown, VerifyLevel},
};
use std::time::Duration;

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn p(number: u32) -> PartitionId {
    PartitionId::new(number)
}

/// Partitions looked at when said, in seconds.
fn looked_at(looks: &[Option<u64>]) -> ClusterView {
    let mut view = view(&[10, 10], &[]);
    view.partitions = (0..)
        .zip(looks)
        .map(|(number, look)| {
            let mut partition = PartitionView::new([node(0)].into());
            partition.audit.looked_at = look.map(at);
            (p(number), partition)
        })
        .collect();
    view
}

fn underway(begun: u64) -> Option<AuditPass> {
    Some(AuditPass {
        begun: at(begun),
        took: None,
    })
}

fn over(begun: u64) -> Option<AuditPass> {
    Some(AuditPass {
        begun: at(begun),
        took: Some(Duration::from_secs(1)),
    })
}

fn step(view: &ClusterView, pass: Option<AuditPass>) -> AuditStep {
    decide_audit(view, pass.as_ref(), &AuditPolicy::default(), NOW, 3)
}

#[test]
fn a_pass_takes_what_was_never_looked_at_first_then_what_waits_longest() {
    let look = |ids: &[u32]| AuditStep::Look(ids.iter().copied().map(p).collect());
    let cases: &[(&[Option<u64>], AuditStep)] = &[
        (&[Some(3), Some(1), None, Some(2)], look(&[2, 1, 3])),
        (&[None, None, None, None, None], look(&[0, 1, 2])),
        // Looked at in this pass already.
        (&[Some(950), Some(1), Some(900)], look(&[1])),
        (&[Some(950), Some(900)], AuditStep::End { complete: true }),
        (&[], AuditStep::End { complete: true }),
    ];
    for (looks, expected) in cases {
        assert_eq!(step(&looked_at(looks), underway(900)), *expected, "{looks:?}");
    }
}

#[test]
fn passes_begin_an_interval_apart_or_without_a_pause() {
    let view = looked_at(&[Some(500)]);
    let minutes = |minutes: u64| NOW.0.as_secs() - minutes * 60;
    assert_eq!(step(&view, None), AuditStep::Begin);
    assert_eq!(step(&view, over(minutes(9))), AuditStep::Wait(AuditWait::Resting));
    assert_eq!(step(&view, over(minutes(10))), AuditStep::Begin);
}

#[test]
fn what_keeps_the_audit_from_looking_is_named() {
    let mut other_acts = looked_at(&[None]);
    other_acts.standby = Some("standby: a2 has epoch 3".to_owned());
    assert_eq!(
        step(&other_acts, underway(900)),
        AuditStep::Wait(AuditWait::Standby)
    );

    let off = AuditPolicy {
        interval_ms: 0,
        ..AuditPolicy::default()
    };
    let view = looked_at(&[None]);
    assert_eq!(
        decide_audit(&view, None, &off, NOW, 3),
        AuditStep::Wait(AuditWait::Off)
    );

    let mut unanswered = looked_at(&[None, Some(950)]);
    let fail = |view: &mut ClusterView| {
        let audit = &mut view.partitions.get_mut(&p(0)).unwrap().audit;
        audit.failed(at(990), Duration::from_secs(11));
    };
    for _ in 1..AUDIT_TRIES {
        fail(&mut unanswered);
        assert_eq!(
            step(&unanswered, underway(900)),
            AuditStep::Wait(AuditWait::Retrying)
        );
    }
    // One that cannot be looked at does not keep the others from the next pass, and comes first there.
    fail(&mut unanswered);
    assert_eq!(
        step(&unanswered, underway(900)),
        AuditStep::End { complete: false }
    );
    let audit = &mut unanswered.partitions.get_mut(&p(0)).unwrap().audit;
    audit.not_before = NOW;
    assert_eq!(
        step(&unanswered, underway(995)),
        AuditStep::Look(vec![p(0), p(1)])
    );
}

/// Three replicas and two snapshots, both verified, read this many days ago.
fn read_before(days: [u64; 2]) -> ClusterView {
    let mut view = view(&[110, 110, 110], &[100, 50]);
    let entries: Vec<_> = partition(&mut view).pointer().unwrap().snapshots.clone();
    let clock = Timestamp::default().plus(Duration::from_secs(1000 * 86_400));
    for (entry, days) in entries.iter().zip(days) {
        let read_at = Timestamp::default().plus(Duration::from_secs((1000 - days) * 86_400));
        let read = ReadAge::new(read_at, Instants { now: NOW, clock });
        let partition = partition(&mut view);
        partition.audit.read.insert(entry.snapshot_id, read);
        let trust = SnapshotTrust::Verified(VerifyLevel::Content);
        partition.trust.insert(entry.snapshot_id, trust);
    }
    view
}

/// Returns which snapshots are to be read again, by their place in the pointer.
fn reread(view: &ClusterView, policy: &Policy) -> Vec<usize> {
    let place = |wanted| {
        let snapshots = &view.partitions[&P].pointer().unwrap().snapshots;
        snapshots.iter().position(|entry| entry.snapshot_id == wanted)
    };
    let commands = plan(view, policy, NOW, &Entropy::seeded(1)).commands;
    let audits = commands.iter().filter_map(|command| match command {
        Command::Verify {
            snapshot_id,
            node,
            level,
            cause: VerifyCause::Audit,
            ..
        } => {
            assert_eq!(*level, VerifyLevel::Content);
            assert_ne!(*node, self::node(1), "not by its producer");
            place(*snapshot_id)
        }
        _ => None,
    });
    audits.collect()
}

#[test]
fn a_snapshot_is_read_again_after_the_interval_the_longest_unread_first() {
    let cases: &[([u64; 2], &[usize])] = &[
        ([1, 6], &[]),
        ([1, 7], &[1]),
        ([8, 7], &[0]),
        ([8, 9], &[1]),
        // A clock that was ahead.
        ([0, 0], &[]),
    ];
    for (days, expected) in cases {
        assert_eq!(reread(&read_before(*days), &policy()), *expected, "{days:?}");
    }
    let never = AuditPolicy {
        content_interval_ms: 0,
        ..AuditPolicy::default()
    };
    let never = Policy {
        audit: never,
        ..policy()
    };
    assert_eq!(reread(&read_before([80, 90]), &never), [0_usize; 0]);
    // Where a trim wants no more than presence, nothing has to be verified first.
    let presence = Policy {
        verify_before_trim: VerifyLevel::Presence,
        ..policy()
    };
    let mut unverified = read_before([8, 9]);
    partition(&mut unverified).trust.clear();
    assert_eq!(reread(&unverified, &presence), [1]);
}

#[test]
fn a_reading_that_lies_ahead_counts_as_made_now() {
    let clock = Timestamp::default().plus(Duration::from_secs(100));
    let instants = Instants { now: at(50), clock };
    let ahead = ReadAge::new(clock.plus(Duration::from_secs(3600)), instants);
    assert_eq!(ahead.age(at(57)), Duration::from_secs(7));
    let behind = ReadAge::new(Timestamp::default(), instants);
    assert_eq!(behind.age(at(57)), Duration::from_secs(107));
}

#[test]
fn what_is_paused_damaged_busy_or_watched_by_another_admin_is_not_read_again() {
    type Change = fn(&mut ClusterView);
    let cases: &[(&str, Change)] = &[
        ("paused", |view| {
            if let ControlView::Known(control) = &mut view.control {
                control.pauses.push(Pause {
                    scope: PauseScope::Cluster,
                    by: "ops".to_owned(),
                    at: Timestamp::default(),
                    reason: "why".to_owned(),
                    moved_to: None,
                    unknown: Unknown::default(),
                });
            }
        }),
        ("damaged", |view| {
            for trust in partition(view).trust.values_mut() {
                *trust = SnapshotTrust::Damaged;
            }
        }),
        ("busy", |view| {
            let id = partition(view).pointer().unwrap().snapshots[0].snapshot_id;
            partition(view).verifying = Some(id);
        }),
        ("standby", |view| view.standby = Some("another".to_owned())),
        ("nobody live", |view| {
            (0..3).for_each(|index| heard_before(view, index, Duration::from_secs(20)));
        }),
    ];
    assert_eq!(reread(&read_before([8, 9]), &policy()), [1]);
    for (what, change) in cases {
        let mut view = read_before([8, 9]);
        change(&mut view);
        assert_eq!(reread(&view, &policy()), [0_usize; 0], "{what}");
    }
}

#[test]
fn only_so_many_snapshots_are_read_again_at_a_time_in_the_cluster() {
    let mut view = read_before([8, 9]);
    let ids: Vec<_> = (0..4).map(p).collect();
    let one = view.partitions[&P].clone();
    view.partitions = ids.iter().map(|id| (*id, one.clone())).collect();
    let count = |view: &ClusterView, content_max| {
        let audit = AuditPolicy {
            content_max,
            ..AuditPolicy::default()
        };
        reread(view, &Policy { audit, ..policy() }).len()
    };
    assert_eq!([1, 3, 9].map(|max| count(&view, max)), [1, 3, 4]);
    let first = view.partitions.get_mut(&p(0)).unwrap();
    first.audit.reading = true;
    first.verifying = first.pointer().map(|pointer| pointer.snapshots[0].snapshot_id);
    assert_eq!([1, 3].map(|max| count(&view, max)), [0, 2]);
}

#[test]
fn progress_is_that_of_whatever_waits_longest() {
    let view = looked_at(&[Some(990), Some(940)]);
    let seen = |view: &ClusterView| audit_progress(view, underway(950).as_ref(), &policy(), NOW);
    let progress = seen(&view);
    assert_eq!(progress.oldest_look, Duration::from_secs(60));
    assert_eq!((progress.looked_at, progress.oldest_read), (1, None));
    assert_eq!(seen(&looked_at(&[Some(990), None])).oldest_look, NOW.0);

    let mut view = read_before([3, 5]);
    assert_eq!(seen(&view).oldest_read, Some(Duration::from_secs(5 * 86_400)));
    partition(&mut view).audit.read.pop_first();
    assert_eq!(seen(&view).oldest_read, None, "one was not read yet");
}

/// Partitions in every stage of a pass that began at 500 s, and of earlier ones.
fn audited() -> impl Strategy<Value = ClusterView> {
    let seconds = || prop::option::of(prop::sample::select(vec![1u64, 499, 500, 501, 900]));
    let not_before = prop::sample::select(vec![0u64, 999, 1000, 1001, 2000]);
    let partition = (seconds(), seconds(), not_before, 0..2 * AUDIT_TRIES);
    prop::collection::vec(partition, 0..8).prop_map(|partitions| {
        let looks: Vec<_> = partitions.iter().map(|(look, ..)| *look).collect();
        let mut view = looked_at(&looks);
        for (partition, (_, given_up, not_before, failures)) in view.partitions.values_mut().zip(partitions) {
            partition.audit.given_up_at = given_up.map(at);
            partition.audit.not_before = at(not_before);
            partition.audit.failures = failures;
        }
        view
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_look_is_due_allowed_and_at_no_partition_twice(view in audited(), room in 0usize..5) {
        let now = at(1000);
        let pass = underway(500);
        let left = |partition: &PartitionView| {
            partition.audit.looked_at.max(partition.audit.given_up_at) < Some(at(500))
        };
        match decide_audit(&view, pass.as_ref(), &AuditPolicy::default(), now, room) {
            AuditStep::Look(ids) => {
                prop_assert!(ids.len() <= room);
                for (index, id) in ids.iter().enumerate() {
                    prop_assert!(!ids[..index].contains(id));
                    let partition = &view.partitions[id];
                    prop_assert!(left(partition) && partition.audit.not_before <= now);
                }
            }
            AuditStep::End { complete } => {
                prop_assert!(!view.partitions.values().any(left));
                let all = view.partitions.values().all(|partition| partition.audit.looked_at >= Some(at(500)));
                prop_assert_eq!(complete, all);
            }
            AuditStep::Wait(wait) => {
                prop_assert_eq!(wait, AuditWait::Retrying);
                let mut left = view.partitions.values().filter(|partition| left(partition));
                prop_assert!(left.all(|partition| partition.audit.not_before > now));
            }
            AuditStep::Begin => prop_assert!(false, "a pass is under way"),
        }
    }

    #[test]
    fn a_pass_ends_whatever_comes_of_its_looks(
        view in audited(),
        room in 1usize..4,
        results in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let (mut view, pass, mut now) = (view, underway(500), at(1000));
        let mut results = results.iter().cycle();
        let mut looks = 0;
        loop {
            match decide_audit(&view, pass.as_ref(), &AuditPolicy::default(), now, room) {
                AuditStep::End { .. } => break,
                AuditStep::Look(ids) => for id in ids {
                    looks += 1;
                    let audit = &mut view.partitions.get_mut(&id).unwrap().audit;
                    match results.next().unwrap() {
                        true => audit.looked(now),
                        false => audit.failed(now, Duration::from_secs(3)),
                    }
                },
                AuditStep::Wait(AuditWait::Retrying) => {}
                other => prop_assert!(false, "{other:?}"),
            }
            now = now.plus(Duration::from_secs(1));
            prop_assert!(looks <= view.partitions.len() * AUDIT_TRIES as usize, "{looks} looks");
            prop_assert!(now < at(3000), "the pass never ends");
        }
    }
}
