//! Which partition is served first, and which node is asked, as tables over plain values.

use crate::views::{NOW, P, node, partition, policy, view};
use snapshot_scheduler::core::{
    Budget, ClusterView, Command, Demand, LEAD_TIMEOUT, Moment, NOOP_SPACING, Policy, SnapshotCode,
    SnapshotStep, TrimHint, VerifyCause, decide_snapshot, note_begun, plan,
};
use snapshot_store::{
    Entropy, Lsn, NodeId, PartitionId, ReplicaRole, RequestId, Timestamp, format::VerifyLevel,
};
use std::{collections::BTreeSet, time::Duration};

const OTHER: PartitionId = PartitionId::new(1);

/// Partitions 0 and 1 on two nodes, each replica at the LSN given for its partition, without any snapshot.
fn two_partitions(first: u64, second: u64) -> ClusterView {
    let mut view = view(&[first, first], &[]);
    let other = self::view(&[second, second], &[]).partitions.remove(&P).unwrap();
    view.partitions.insert(OTHER, other);
    view
}

fn without_leader(view: &mut ClusterView, id: PartitionId) {
    for replica in view.partitions.get_mut(&id).unwrap().replicas.values_mut() {
        replica.leader = None;
        replica.role = ReplicaRole::Follower;
    }
}

/// What `choose` makes of the commands of many plans of one view.
fn chosen<T: Ord>(
    view: &ClusterView,
    policy: &Policy,
    choose: impl Fn(&Command) -> Option<T>,
) -> BTreeSet<T> {
    let plans = (0..30).map(|seed| plan(view, policy, NOW, &Entropy::seeded(seed)));
    plans
        .flat_map(|plan| plan.commands)
        .filter_map(|command| choose(&command))
        .collect()
}

fn asked_to_lead(view: &ClusterView) -> BTreeSet<NodeId> {
    chosen(view, &policy(), |command| match command {
        Command::Lead { node, .. } => Some(node.clone()),
        _ => None,
    })
}

fn asked_to_verify(view: &ClusterView) -> BTreeSet<NodeId> {
    chosen(view, &policy(), |command| match command {
        Command::Verify { node, .. } => Some(node.clone()),
        _ => None,
    })
}

#[test]
fn the_partition_with_the_most_records_is_served_first() {
    let one_at_a_time = Policy {
        snapshots_max: 1,
        ..policy()
    };
    for (first, second, expected) in [(150, 300, OTHER), (300, 150, P), (150, 150, P)] {
        let view = two_partitions(first, second);
        let served = chosen(&view, &one_at_a_time, |command| match command {
            Command::CreateSnapshot(order) => Some(order.partition),
            _ => None,
        });
        assert_eq!(served, [expected].into(), "{first} and {second}");
    }
}

#[test]
fn whoever_leads_fewest_partitions_is_asked_to_lead() {
    let mut view = two_partitions(10, 10);
    without_leader(&mut view, OTHER);
    assert_eq!(
        asked_to_lead(&view),
        [node(1)].into(),
        "node 0 leads the other one"
    );
    without_leader(&mut view, P);
    assert_eq!(asked_to_lead(&view), [node(0), node(1)].into());
}

#[test]
fn who_failed_is_asked_again_when_the_pause_is_over_and_somebody_else_until_then() {
    let pauses = [(Duration::from_millis(1), false), (Duration::ZERO, true)];
    for (pause, again) in pauses {
        let until = NOW.plus(pause);
        let all = |all: [NodeId; 2]| all.into_iter().filter(|one| again || *one != node(0)).collect();
        let mut leaderless = view(&[10, 10], &[]);
        without_leader(&mut leaderless, P);
        partition(&mut leaderless).lead_backoff.insert(node(0), until);
        let expected: BTreeSet<NodeId> = all([node(0), node(1)]);
        assert_eq!(asked_to_lead(&leaderless), expected, "lead after {pause:?}");

        // Node 1 made the snapshots.
        let mut unverified = view(&[150, 150, 150], &[100, 50]);
        partition(&mut unverified).verify_backoff.insert(node(0), until);
        let expected: BTreeSet<NodeId> = all([node(0), node(2)]);
        assert_eq!(asked_to_verify(&unverified), expected, "verify after {pause:?}");
    }
    let mut asked = view(&[10, 10], &[]);
    without_leader(&mut asked, P);
    partition(&mut asked).lead_not_before = NOW;
    assert!(!asked_to_lead(&asked).is_empty());
}

#[test]
fn an_operator_who_names_a_node_gets_that_one_or_hears_why_not() {
    let decide = |view: &ClusterView, index: usize| {
        let demand = Demand {
            min_lsn: Lsn::ZERO,
            node: Some(node(index)),
        };
        let mut budget = Budget::new(view, &policy());
        let entropy = Entropy::seeded(1);
        decide_snapshot(view, P, &policy(), NOW, &mut budget, &entropy, Some(&demand))
    };
    let fresh = view(&[200, 200, 200], &[]);
    for index in 0..3 {
        match decide(&fresh, index).step {
            SnapshotStep::Order(order) => {
                assert_eq!((order.node, order.from_leader), (node(index), index == 0));
            }
            other => panic!("{other:?}"),
        }
    }
    let behind = view(&[200, 200, 50], &[]);
    assert_eq!(decide(&behind, 2).code, SnapshotCode::FollowersBehind);
    assert_eq!(decide(&behind, 7).code, SnapshotCode::NoCandidate);
}

#[test]
fn only_a_snapshot_that_waits_for_others_than_the_leader_says_so() {
    let planned = |view: &ClusterView| {
        let plan = plan(view, &policy(), NOW, &Entropy::seeded(1));
        plan.partitions[&P].followers_unavailable()
    };
    assert!(planned(&view(&[200, 100], &[])));
    assert!(!planned(&view(&[200, 200], &[])));
    assert!(!planned(&view(&[10, 10], &[])));
}

#[test]
fn what_is_under_way_is_remembered_so_that_it_is_not_planned_again() {
    let request = RequestId::new(Entropy::seeded(1).ulid(Timestamp::default()));
    let begun = |command: &Command| {
        let mut view = view(&[150, 150], &[100, 50]);
        note_begun(&mut view, command, request, NOW);
        view.partitions.remove(&P).unwrap()
    };
    let at = |after: Duration| Moment(NOW.0 + after);
    let lead = begun(&Command::Lead {
        partition: P,
        node: node(1),
    });
    // The answer, and a round of reports that tells of it.
    let settle = Duration::from_secs(3);
    assert_eq!(lead.lead_not_before, at(LEAD_TIMEOUT + settle));
    let noop = begun(&Command::AppendNoop {
        partition: P,
        node: node(0),
    });
    assert_eq!(noop.noop_not_before, at(NOOP_SPACING));
    let trim = begun(&Command::Trim {
        partition: P,
        hint: TrimHint::default(),
    });
    assert!(trim.trim.running);
    let snapshot_id = trim.pointer().unwrap().snapshots[0].snapshot_id;
    for (cause, reading) in [
        (VerifyCause::Audit, true),
        (VerifyCause::Trim, false),
        (VerifyCause::Report, false),
    ] {
        let verify = begun(&Command::Verify {
            partition: P,
            snapshot_id,
            node: node(0),
            level: VerifyLevel::Content,
            cause,
        });
        assert_eq!(
            (verify.verifying, verify.audit.reading),
            (Some(snapshot_id), reading),
            "{cause:?}"
        );
    }
}
