//! What a plan may not exceed, and what it leaves alone, as properties over random clusters.

use crate::views::{NOW, P, heard_before, incarnation, node, partition, policy, view};
use proptest::prelude::*;
use snapshot_scheduler::core::{
    ArchiveView, ClusterView, Command, PartitionView, Policy, ReplicaReport, ReplicaState, RunningOrder,
    TRIMS_MAX, VERIFIES_MAX, note_begun, plan,
};
use snapshot_store::{
    Entropy, Incarnation, Lsn, NodeId, PartitionId, RequestId, Timestamp, core::SnapshotTrust,
};
use std::{collections::BTreeMap, time::Duration};

const NODES: usize = 4;

/// One partition of a random cluster.
#[derive(Clone, Debug)]
struct Shape {
    applied: [u64; NODES],
    archived: Vec<u64>,
    led: bool,
    damaged: bool,
    ordered_on: Option<usize>,
    verifying: bool,
    trimming: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        prop::array::uniform4(0u64..400),
        prop::sample::select(vec![vec![], vec![50], vec![150, 50], vec![300, 200]]),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, 0..NODES),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(applied, archived, led, damaged, ordered_on, verifying, trimming)| Shape {
                applied,
                archived,
                led,
                damaged,
                ordered_on,
                verifying,
                trimming,
            },
        )
}

fn cluster(shapes: &[Shape], running: &[u32], silent: Option<usize>) -> ClusterView {
    let request_id = RequestId::new(Entropy::seeded(5).ulid(Timestamp::default()));
    let mut cluster = view(&[0; NODES], &[]);
    cluster.partitions.clear();
    for (id, shape) in (0..).map(PartitionId::new).zip(shapes) {
        let mut one = view(&shape.applied, &shape.archived);
        let partition = partition(&mut one);
        if !shape.led {
            for replica in partition.replicas.values_mut() {
                replica.leader = None;
            }
        }
        let newest = partition.entries().next().map(|entry| entry.snapshot_id);
        let damaged = newest.filter(|_| shape.damaged);
        partition
            .trust
            .extend(damaged.map(|snapshot| (snapshot, SnapshotTrust::Damaged)));
        partition.order = shape.ordered_on.map(|on| RunningOrder {
            request_id,
            node: node(on),
        });
        partition.verifying = newest.filter(|_| shape.verifying);
        partition.trim.running = shape.trimming;
        // A pointer names its partition.
        let partition = one.partitions.remove(&P).unwrap();
        cluster.partitions.insert(id, renamed(partition, id));
    }
    for (index, running) in running.iter().enumerate() {
        cluster.nodes.get_mut(&node(index)).unwrap().exports_running = *running;
    }
    if let Some(index) = silent {
        heard_before(&mut cluster, index, Duration::from_secs(20));
    }
    cluster
}

fn renamed(mut partition: PartitionView, id: PartitionId) -> PartitionView {
    if let ArchiveView::Known(Some(pointer)) = &mut partition.archive {
        pointer.partition = id;
    }
    partition
}

fn count(view: &ClusterView, commands: &[Command], action: &str) -> usize {
    let running = view.partitions.values().filter(|partition| match action {
        "create-snapshot" => partition.order.is_some(),
        "verify" => partition.verifying.is_some(),
        _ => partition.trim.running,
    });
    let begun = commands.iter().filter(|command| command.action() == action);
    running.count() + begun.count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_what_runs_already_no_plan_exceeds_a_cap(
        shapes in prop::collection::vec(shape(), 1..24),
        running in prop::collection::vec(0u32..4, NODES),
        per_node in 1u32..4,
        total in 1u32..8,
        seed in any::<u64>(),
    ) {
        let view = cluster(&shapes, &running, None);
        let policy = Policy { snapshots_per_node_max: per_node, snapshots_max: total, ..policy() };
        let plan = plan(&view, &policy, NOW, &Entropy::seeded(seed));
        let limits = [("create-snapshot", total as usize), ("verify", VERIFIES_MAX), ("trim", TRIMS_MAX)];
        for (action, limit) in limits {
            let before = count(&view, &[], action);
            let after = count(&view, &plan.commands, action);
            prop_assert!(after <= limit.max(before), "{action}: {before} ran, {after} would, the cap is {limit}");
        }
        let mut by_node: BTreeMap<NodeId, u32> = BTreeMap::new();
        for command in &plan.commands {
            if let Command::CreateSnapshot(order) = command {
                *by_node.entry(order.node.clone()).or_default() += 1;
            }
        }
        for (name, new) in by_node {
            let ordered = view.partitions.values().filter(|p| p.order.as_ref().is_some_and(|o| o.node == name));
            let before = (ordered.count() as u32).max(view.nodes[&name].exports_running);
            prop_assert!(before + new <= per_node, "{name}: {before} ran, {new} more, the cap is {per_node}");
        }
    }

    #[test]
    fn planning_twice_plans_nothing_new(
        shapes in prop::collection::vec(shape(), 1..24),
        running in prop::collection::vec(0u32..4, NODES),
        silent in prop::option::weighted(0.3, 0..NODES),
        seed in any::<u64>(),
    ) {
        let mut view = cluster(&shapes, &running, silent);
        let entropy = Entropy::seeded(seed);
        let first = plan(&view, &policy(), NOW, &entropy);
        for command in &first.commands {
            note_begun(&mut view, command, RequestId::new(entropy.ulid(Timestamp::default())), NOW);
        }
        let second = plan(&view, &policy(), NOW, &entropy);
        prop_assert_eq!(second.commands, vec![], "after {:?}", first.commands);
    }

    /// A follower that the policy lets lag makes a snapshot above the latest one whenever one is due, whatever it and the
    /// view do meanwhile: `min_lsn` lies above it, and the freshest replica always reaches that.
    #[test]
    fn with_a_lag_below_the_threshold_a_due_snapshot_is_never_declined_as_covered_for_ever(
        after in 2u64..200,
        lag in 0u64..199,
        rounds in prop::collection::vec((0u64..300, 0u64..1000, 0u64..1000, any::<bool>()), 1..40),
        seed in any::<u64>(),
    ) {
        let policy = Policy {
            snapshot_after_records: after,
            lag_records_max: lag % after,
            leader_fallback_after_ms: 0,
            ..policy()
        };
        prop_assert_eq!(policy.validate(), Ok(()));
        let entropy = Entropy::seeded(seed);
        let (mut leader, mut published, mut known) = (0, 0, 0);
        let mut followers = [0u64; 2];
        for (appended, first, second, read) in rounds {
            leader += appended;
            for (follower, behind) in followers.iter_mut().zip([first, second]) {
                *follower = (*follower).max(leader.saturating_sub(behind));
            }
            // The admin reads the pointer now and then; a decline makes it.
            known = if read { published } else { known };
            let mut covered = 0;
            loop {
                let latest = [known];
                let mut view = view(&[leader, followers[0], followers[1]], if known == 0 { &[] } else { &latest });
                partition(&mut view).followers_unavailable_since = Some(Default::default());
                let plan = plan(&view, &policy, NOW, &entropy);
                let Some(Command::CreateSnapshot(order)) =
                    plan.commands.iter().find(|command| command.action() == "create-snapshot")
                else {
                    prop_assert!(leader - known < after, "due, and nobody is asked: {:?}", plan.partitions[&P]);
                    break;
                };
                let index = (0..3).find(|index| node(*index) == order.node).unwrap();
                let applied = [leader, followers[0], followers[1]][index];
                prop_assert!(order.min_lsn > Lsn::new(known) && applied >= order.min_lsn.get());
                if applied > published {
                    (published, known) = (applied, applied);
                    break;
                }
                // The worker declines: the store has one at that LSN. Then the admin knows of it.
                covered += 1;
                known = published;
                prop_assert!(covered <= 1, "declined as covered again");
            }
        }
    }
}

/// Upper bounds of chi squared that chance exceeds once in a thousand, by degrees of freedom.
const CHI_SQUARED_MAX: [f64; 6] = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52];
const PICKS: u32 = 10_000;

#[test]
fn over_ten_thousand_picks_all_qualifying_non_leaders_are_taken_evenly_and_the_leader_never() {
    for qualifying in 1..=6 {
        // The leader; those that qualify; one each that lags, does not answer, catches up, backs off, is busy, runs a
        // newer version, has another log.
        let mut lsns = vec![200; 1 + qualifying + 7];
        let odd: Vec<usize> = (1 + qualifying..lsns.len()).collect();
        lsns[odd[0]] = 100;
        let mut view = view(&lsns, &[]);
        heard_before(&mut view, odd[1], Duration::from_secs(6));
        view.nodes.get_mut(&node(odd[4])).unwrap().exports_running = 4;
        let partition = partition(&mut view);
        partition
            .backoff
            .insert(node(odd[3]), NOW.plus(Duration::from_secs(1)));
        let mut change = |index: usize, change: fn(&mut ReplicaReport)| {
            change(partition.replicas.get_mut(&node(index)).unwrap());
        };
        change(odd[2], |replica| replica.state = ReplicaState::CatchingUp);
        change(odd[5], |replica| replica.state_machine.version = 2);
        change(odd[6], |replica| {
            let generation = 2;
            replica.incarnation = Some(Incarnation {
                generation,
                ..incarnation()
            });
        });

        let entropy = Entropy::seeded(qualifying as u64);
        let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
        for _ in 0..PICKS {
            let plan = plan(&view, &policy(), NOW, &entropy);
            let order = plan.commands.iter().find_map(|command| match command {
                Command::CreateSnapshot(order) => Some(order),
                _ => None,
            });
            *counts
                .entry(order.expect("a snapshot is due").node.clone())
                .or_default() += 1;
        }
        let chosen: Vec<NodeId> = counts.keys().cloned().collect();
        let expected: Vec<NodeId> = (1..=qualifying).map(node).collect();
        assert_eq!(chosen, expected, "exactly those that qualify, never the leader");
        let mean = f64::from(PICKS) / qualifying as f64;
        let chi_squared: f64 = counts
            .values()
            .map(|count| (f64::from(*count) - mean).powi(2) / mean)
            .sum();
        assert!(
            chi_squared <= CHI_SQUARED_MAX[qualifying - 1],
            "{chi_squared}: {counts:?}"
        );
    }
}
