//! What the view says about replicas, snapshots and itself, as tables.

use crate::views::{NOW, P, heard_before, incarnation, node, partition, policy, view};
use snapshot_scheduler::core::{
    ClusterView, Command, LeadershipCode, Looked, ManifestFacts, Moment, ReplicaState, SnapshotCode,
    chain_mismatch, highest_claim, plan, reported_regression, version_hold, view_hold,
};
use snapshot_store::{
    ChainHash, Entropy, Lsn, SnapshotId,
    core::{HoldReason, SnapshotTrust},
    format::{ChainPoint, ChainTrail, StateMachineVersion, StickyReason},
};
use std::time::Duration;

fn chain(points: &[(u64, &str)]) -> ChainTrail {
    let point = |(lsn, hash): &(u64, &str)| ChainPoint {
        lsn: Lsn::new(*lsn),
        hash: ChainHash::of(hash.as_bytes()),
    };
    ChainTrail(points.iter().map(point).collect())
}

fn newest(view: &mut ClusterView) -> SnapshotId {
    partition(view).entries().next().unwrap().snapshot_id
}

#[test]
fn chains_are_compared_at_equal_lsns_of_one_incarnation_and_a_plan_finds_what_a_trim_finds() {
    type Points<'a> = &'a [(u64, &'a str)];
    // Two replicas and a manifest; where they differ.
    let cases: [(Points<'_>, Points<'_>, Points<'_>, Option<u64>); 8] = [
        (
            &[(1024, "a"), (2048, "b")],
            &[(1024, "a"), (2048, "b")],
            &[],
            None,
        ),
        (
            &[(1024, "a"), (2048, "b")],
            &[(1024, "a"), (2048, "x")],
            &[],
            Some(2048),
        ),
        (
            &[(1024, "a"), (2048, "b")],
            &[(1024, "y"), (2048, "x")],
            &[],
            Some(1024),
        ),
        (&[(2048, "b")], &[(1024, "x")], &[], None),
        (
            &[(1024, "a"), (2048, "b"), (2100, "c")],
            &[(1024, "x"), (3072, "z")],
            &[],
            Some(1024),
        ),
        (&[(1024, "a")], &[], &[(1024, "a")], None),
        (&[(1024, "a"), (2048, "b")], &[], &[(1024, "x")], Some(1024)),
        (&[], &[(4096, "d")], &[(4096, "x")], Some(4096)),
    ];
    for (first, second, stored, expected) in cases {
        let mut view = view(&[5000, 5000], &[4900]);
        let snapshot = newest(&mut view);
        let facts = ManifestFacts {
            incarnation: incarnation(),
            chain: Some(chain(stored)),
            state_machine: StateMachineVersion {
                name: "kv".to_owned(),
                version: 1,
            },
        };
        let one = partition(&mut view);
        one.replicas.get_mut(&node(0)).unwrap().chain = chain(first);
        one.replicas.get_mut(&node(1)).unwrap().chain = chain(second);
        one.manifests.insert(snapshot, facts);
        let found = chain_mismatch(&view, &view.partitions[&P], NOW);
        let lsn = found
            .as_ref()
            .map(|said| said.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        assert_eq!(lsn, expected, "{first:?} {second:?} {stored:?}");
        let plan = plan(&view, &crate::views::policy(), NOW, &Entropy::seeded(1));
        let new_hold = plan.partitions[&P].new_hold.clone();
        assert_eq!(new_hold, found.map(|said| (StickyReason::ChainMismatch, said)));

        // Another log is another chain, and what is damaged says nothing.
        let one = partition(&mut view);
        for replica in one.replicas.values_mut().skip(1) {
            replica.incarnation = None;
        }
        one.trust.insert(snapshot, SnapshotTrust::Damaged);
        assert_eq!(chain_mismatch(&view, &view.partitions[&P], NOW), None);
    }
}

#[test]
fn the_highest_claim_is_that_of_a_live_replica_or_a_snapshot_of_this_log() {
    let claim = |view: &ClusterView| highest_claim(view, &view.partitions[&P], NOW).map(|(lsn, _)| lsn.get());
    let mut view = view(&[500, 700], &[600]);
    assert_eq!(claim(&view), Some(700));
    heard_before(&mut view, 1, Duration::from_secs(20));
    assert_eq!(claim(&view), Some(600), "the replica is gone");
    let mut other = incarnation();
    other.generation = 2;
    partition(&mut view).log.as_mut().unwrap().facts.incarnation = other;
    assert_eq!(claim(&view), None, "all of it is of another log");
    partition(&mut view).log = None;
    assert_eq!(claim(&view), None);
}

#[test]
fn what_a_replica_says_of_lost_records_holds_all_though_the_log_has_grown_again() {
    let found = |view: &ClusterView| {
        let plan = plan(view, &policy(), NOW, &Entropy::seeded(1));
        let decided = &plan.partitions[&P];
        let leads = plan
            .commands
            .iter()
            .any(|command| matches!(command, Command::Lead { .. }));
        let hold = decided.trim_hold.as_ref().map(|(reason, _)| *reason);
        (decided.leadership.code, leads, decided.snapshot.code, hold)
    };
    // The leader is gone; one replica stands where the log lost a record; the other has gone on.
    let mut view = view(&[0, 5000, 4990], &[1000, 500]);
    heard_before(&mut view, 0, Duration::from_secs(20));
    let (code, leads, _, hold) = found(&view);
    assert_eq!((code, leads, hold), (LeadershipCode::Assigned, true, None));

    let blocked = partition(&mut view).replicas.get_mut(&node(2)).unwrap();
    blocked.state = ReplicaState::Blocked;
    blocked.log_regressed = Some("the log holds another record at 4990".to_owned());
    let held = (
        LeadershipCode::Held,
        false,
        SnapshotCode::Held,
        Some(HoldReason::LogRegressed),
    );
    assert_eq!(found(&view), held);
    let said = reported_regression(&view, &view.partitions[&P], NOW).unwrap();
    assert!(said.contains("another record at 4990"), "{said}");
    assert!(said.contains(node(2).as_str()), "{said}");

    let blocked = partition(&mut view).replicas.get_mut(&node(2)).unwrap();
    blocked.incarnation.as_mut().unwrap().generation = 0;
    assert_eq!(found(&view).3, None, "it speaks of an earlier log");
    let blocked = partition(&mut view).replicas.get_mut(&node(2)).unwrap();
    blocked.incarnation = Some(incarnation());
    assert_eq!(found(&view), held);
    heard_before(&mut view, 2, Duration::from_secs(20));
    assert_eq!(found(&view).3, None, "it is gone");
}

#[test]
fn a_view_holds_while_it_warms_up_and_when_a_report_is_old() {
    let hold = |view: &ClusterView, now| {
        let looked = Looked::at(view, &view.partitions[&P], now);
        view_hold(&looked).map(|(reason, _)| reason)
    };
    let mut view = view(&[500, 500], &[]);
    assert_eq!(hold(&view, NOW), None);
    view.timing.view_age_max = Duration::from_secs(8);
    for (silence, expected) in [(8, None), (9, Some(HoldReason::StaleView)), (15, None)] {
        heard_before(&mut view, 1, Duration::from_secs(silence));
        assert_eq!(hold(&view, NOW), expected, "silent for {silence} s");
    }
    // Never heard: it may still answer, until it has had as long as a silent one.
    view.nodes.get_mut(&node(1)).unwrap().heard_at = None;
    for (known_for, expected) in [(14, Some(HoldReason::ViewWarming)), (15, None)] {
        let since = Moment(NOW.0 - Duration::from_secs(known_for));
        view.nodes.get_mut(&node(1)).unwrap().known_since = since;
        assert_eq!(hold(&view, NOW), expected, "known for {known_for} s");
    }
    // Expected, and no node is known by that name: a plan waits as long after the start.
    let mut view = self::view(&[500, 500], &[]);
    partition(&mut view).expected.insert(node(9));
    for (started_before, warming) in [(14, true), (15, false)] {
        let now = Moment(Duration::from_secs(started_before));
        let plan = plan(&view, &crate::views::policy(), now, &Entropy::seeded(1));
        let hold = plan.partitions[&P].trim_hold.clone();
        let held = hold.is_some_and(|(reason, _)| reason == HoldReason::ViewWarming);
        assert_eq!(held, warming, "{started_before} s after the start");
    }
}

#[test]
fn a_version_holds_when_a_live_replica_cannot_open_one_of_the_restorable_snapshots() {
    let machine = |name: &str, version| StateMachineVersion {
        name: name.to_owned(),
        version,
    };
    let cases = [
        (machine("kv", 1), machine("kv", 1), false),
        (machine("kv", 2), machine("kv", 1), true),
        (machine("kv", 1), machine("kv", 2), true),
        (machine("kv", 2), machine("kv", 2), true),
        (machine("other", 1), machine("other", 1), true),
    ];
    for (newer, older, expected) in cases {
        let mut view = view(&[500, 500], &[400, 300]);
        let one = partition(&mut view);
        let ids: Vec<SnapshotId> = one.entries().map(|entry| entry.snapshot_id).collect();
        for (id, state_machine) in ids.into_iter().zip([newer.clone(), older.clone()]) {
            let facts = ManifestFacts {
                incarnation: incarnation(),
                chain: None,
                state_machine,
            };
            one.manifests.insert(id, facts);
        }
        let held = version_hold(&view, &view.partitions[&P], NOW, 2).is_some();
        assert_eq!(held, expected, "{newer:?} over {older:?}");
    }
}
