//! The plan, as properties over random views.

use crate::views::{NOW, P, heard_before, node, partition, policy, view};
use proptest::prelude::*;
use snapshot_scheduler::core::{ClusterView, Command, Moment, Policy, ReplicaState, SnapshotCode, plan};
use snapshot_store::{Entropy, NodeId, PartitionId};
use std::{collections::BTreeMap, time::Duration};

/// How one replica looks.
#[derive(Clone, Debug)]
struct Shape {
    applied: u64,
    active: bool,
    silence: u64,
    busy: bool,
    backing_off: bool,
    version: u32,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        0u64..400,
        prop::bool::weighted(0.8),
        0u64..20,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        1u32..3,
    )
        .prop_map(|(applied, active, silence, busy, backing_off, version)| Shape {
            applied,
            active,
            silence,
            busy,
            backing_off,
            version,
        })
}

fn build(shapes: &[Shape], archived: u64) -> ClusterView {
    let lsns: Vec<u64> = shapes.iter().map(|shape| shape.applied).collect();
    let mut view = view(
        &lsns,
        if archived == 0 {
            &[]
        } else {
            std::slice::from_ref(&archived)
        },
    );
    for (index, shape) in shapes.iter().enumerate() {
        heard_before(&mut view, index, Duration::from_secs(shape.silence));
        view.nodes.get_mut(&node(index)).unwrap().exports_running = if shape.busy { 4 } else { 0 };
        let partition = partition(&mut view);
        let replica = partition.replicas.get_mut(&node(index)).unwrap();
        replica.state = if shape.active {
            ReplicaState::Active
        } else {
            ReplicaState::CatchingUp
        };
        replica.state_machine.version = shape.version;
        if shape.backing_off {
            partition
                .backoff
                .insert(node(index), NOW.plus(Duration::from_secs(5)));
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn orders_obey_the_rule(
        shapes in prop::collection::vec(shape(), 1..6),
        archived in 0u64..200,
        waited in 0u64..120,
        seed in any::<u64>(),
    ) {
        let mut view = build(&shapes, archived);
        partition(&mut view).followers_unavailable_since = Some(Moment(NOW.0 - Duration::from_secs(waited)));
        let policy = policy();
        let plan = plan(&view, &policy, NOW, &Entropy::seeded(seed));
        let orders: Vec<_> = plan.commands.iter().filter_map(|command| match command {
            Command::CreateSnapshot(order) => Some(order),
            _ => None,
        }).collect();
        prop_assert!(orders.len() <= 1);
        prop_assert_eq!(orders.is_empty(), plan.partitions[&P].snapshot.code != SnapshotCode::Ordered);
        let Some(order) = orders.first() else { return Ok(()) };

        let chosen = (0..shapes.len()).find(|index| node(*index) == order.node).unwrap();
        let shape = &shapes[chosen];
        let counted = |shape: &Shape| shape.active && shape.silence < 15;
        let freshest = shapes.iter().filter(|shape| counted(shape)).map(|shape| shape.applied).max().unwrap();
        // The minimum, and never below it.
        prop_assert_eq!(order.min_lsn.get(), (freshest.saturating_sub(50)).max(archived + 1));
        prop_assert!(shape.applied >= order.min_lsn.get());
        // Due.
        prop_assert!(freshest - archived >= 100);
        // Live, active, free, not in backoff.
        prop_assert!(counted(shape) && shape.silence < 5 && !shape.busy && !shape.backing_off);
        // Never the leader while a fresh non-leader can be asked; otherwise the lowest version among them.
        let askable = |shape: &&Shape| {
            counted(shape) && shape.silence < 5 && !shape.busy && !shape.backing_off
                && shape.applied >= order.min_lsn.get()
        };
        let followers: Vec<_> = shapes.iter().skip(1).filter(askable).collect();
        prop_assert_eq!(chosen == 0, order.from_leader);
        if chosen == 0 {
            prop_assert!(followers.is_empty());
        } else {
            let lowest = followers.iter().map(|shape| shape.version).min().unwrap();
            prop_assert_eq!(shape.version, lowest);
        }
    }

    #[test]
    fn a_plan_is_a_function_of_its_arguments(
        shapes in prop::collection::vec(shape(), 1..6),
        archived in 0u64..200,
        seed in any::<u64>(),
    ) {
        let view = build(&shapes, archived);
        let once = plan(&view, &policy(), NOW, &Entropy::seeded(seed));
        let twice = plan(&view, &policy(), NOW, &Entropy::seeded(seed));
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn nobody_is_asked_to_lead_while_the_leader_lives(
        shapes in prop::collection::vec(shape(), 2..6),
        seed in any::<u64>(),
    ) {
        let view = build(&shapes, 0);
        let plan = plan(&view, &policy(), NOW, &Entropy::seeded(seed));
        let asked = plan.commands.iter().find_map(|command| match command {
            Command::Lead { node, .. } => Some(node.clone()),
            _ => None,
        });
        // The leader is known only through replicas that count.
        let known = shapes.iter().any(|shape| shape.silence < 15);
        let lives = shapes[0].silence < 15;
        if known && lives {
            prop_assert_eq!(asked, None);
        } else if let Some(asked) = asked {
            let chosen = (0..shapes.len()).find(|index| node(*index) == asked).unwrap();
            prop_assert!(shapes[chosen].active && shapes[chosen].silence < 5);
        }
    }

    #[test]
    fn limits_on_running_snapshots_hold(partitions in 1u32..20, per_node in 1u32..3, total in 1u32..6, seed in any::<u64>()) {
        let one = view(&[200, 200, 200], &[]);
        let mut many = one.clone();
        many.partitions = (0..partitions)
            .map(|id| (PartitionId::new(id), one.partitions[&P].clone()))
            .collect();
        let policy = Policy { snapshots_per_node_max: per_node, snapshots_max: total, ..policy() };
        let plan = plan(&many, &policy, NOW, &Entropy::seeded(seed));
        let mut by_node: BTreeMap<NodeId, u32> = BTreeMap::new();
        for command in &plan.commands {
            if let Command::CreateSnapshot(order) = command {
                *by_node.entry(order.node.clone()).or_default() += 1;
            }
        }
        prop_assert!(by_node.values().all(|count| *count <= per_node));
        prop_assert!(by_node.values().sum::<u32>() <= total);
        prop_assert_eq!(by_node.values().sum::<u32>(), total.min(per_node * 2).min(partitions));
    }
}
