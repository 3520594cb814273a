//! When a plan looks at a log again for trimming, as tables over plain values.

use crate::views::{NOW, P, node, partition, policy, view};
use snapshot_scheduler::core::{
    ClusterView, Looked, Moment, TRIM_RECHECK, TRIM_SPACING, TrimHint, plan, trim_hint,
};
use snapshot_store::{Entropy, Lsn};
use std::time::Duration;

type Change = fn(&mut TrimHint);

fn hint(view: &ClusterView) -> TrimHint {
    trim_hint(&Looked::at(view, &view.partitions[&P], NOW), &policy())
}

/// Two snapshots at 200 and 100, and a log that is trimmed so far.
fn trimmed(trim_point: u64) -> ClusterView {
    let mut view = view(&[300, 300], &[200, 100]);
    let log = partition(&mut view).log.as_mut().unwrap();
    log.facts.trim_point = Lsn::new(trim_point);
    view
}

/// Whether a plan looks again, when the last look was so long ago and saw what is there now, but for `change`.
fn looks_again(mut view: ClusterView, silence: Duration, change: Change) -> bool {
    let mut last = hint(&view);
    change(&mut last);
    let memory = &mut partition(&mut view).trim;
    memory.looked = Some((Moment(NOW.0 - silence), last));
    looks(&view)
}

fn looks(view: &ClusterView) -> bool {
    let commands = plan(view, &policy(), NOW, &Entropy::seeded(1)).commands;
    commands.iter().any(|command| command.action() == "trim")
}

#[test]
fn a_trim_can_reach_the_guard_once_there_are_enough_snapshots() {
    let enough = hint(&trimmed(0));
    assert_eq!(
        (enough.guard_lsn, enough.up_to),
        (Some(Lsn::new(100)), Lsn::new(100))
    );
    let one = hint(&view(&[300, 300], &[200]));
    assert_eq!((one.guard_lsn, one.up_to), (None, Lsn::ZERO));
}

#[test]
fn a_log_is_looked_at_again_when_the_trim_reaches_a_new_guard_or_some_time_has_passed() {
    let (moment, tick) = (Duration::from_secs(1), Duration::from_millis(1));
    let cases: [(&str, u64, Duration, Change, bool); 8] = [
        ("nothing to trim", 100, TRIM_RECHECK - tick, |_| {}, false),
        ("nothing to trim, for long", 100, TRIM_RECHECK, |_| {}, true),
        ("a new guard", 50, moment, |last| last.up_to = Lsn::new(90), true),
        (
            "trimmed to the new guard already",
            100,
            moment,
            |last| last.up_to = Lsn::new(90),
            false,
        ),
        ("more to trim, seen a moment ago", 50, moment, |_| {}, false),
        (
            "more to trim, seen shortly ago",
            50,
            TRIM_SPACING - tick,
            |_| {},
            false,
        ),
        ("more to trim, seen a while ago", 50, TRIM_SPACING, |_| {}, true),
        ("another hold", 100, moment, |last| last.holds += 1, true),
    ];
    for (what, trim_point, silence, change, expected) in cases {
        let found = looks_again(trimmed(trim_point), silence, change);
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn a_replica_that_advances_below_the_guard_does_not_cause_a_look_with_every_tick() {
    let mut slow = trimmed(50);
    partition(&mut slow)
        .replicas
        .get_mut(&node(1))
        .unwrap()
        .needed_lsn = Some(Lsn::new(80));
    let before: Change = |last| last.up_to = Lsn::new(70);
    assert!(!looks_again(slow.clone(), Duration::from_secs(1), before));
    assert!(looks_again(slow, TRIM_SPACING, before));
}

#[test]
fn after_a_failure_a_log_is_looked_at_as_soon_as_its_pause_is_over() {
    let mut failed = trimmed(50);
    partition(&mut failed).trim.not_before = NOW.plus(Duration::from_millis(1));
    assert!(!looks(&failed));
    partition(&mut failed).trim.not_before = NOW;
    assert!(looks(&failed));
}
