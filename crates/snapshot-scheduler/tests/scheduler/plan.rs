//! The plan, as tables over plain values.

use crate::views::{NOW, P, heard_before, incarnation, node, partition, policy, view};
use snapshot_scheduler::core::{
    ArchiveView, ClusterView, Command, ControlView, LeadershipCode, Looked, Moment, Policy, ReplicaState,
    SnapshotCause, SnapshotCode, SnapshotCommand, live_leader, plan, since_latest,
};
use snapshot_store::{
    ChainHash, Entropy, Incarnation, LeaderEpoch, Leadership, Lsn, NodeId, ReplicaRole,
    core::SnapshotTrust,
    format::{ChainPoint, ChainTrail, StickyReason, VerifyLevel},
};
use std::{collections::BTreeMap, time::Duration};

/// Plans once and returns the decision about a snapshot, and the order if there is one.
fn check(view: &ClusterView, policy: &Policy) -> (SnapshotCode, Option<SnapshotCommand>) {
    let plan = plan(view, policy, NOW, &Entropy::seeded(3));
    let order = plan.commands.iter().find_map(|command| match command {
        Command::CreateSnapshot(order) => Some(order.clone()),
        _ => None,
    });
    (plan.partitions[&P].snapshot.code, order)
}

fn code(view: &ClusterView) -> SnapshotCode {
    check(view, &policy()).0
}

#[test]
fn a_snapshot_is_due_by_records_or_bytes_since_the_latest_trusted_one() {
    let by_bytes = Policy {
        snapshot_after_records: 0,
        snapshot_after_bytes: 1000,
        ..policy()
    };
    let cases: &[(&[u64], &[u64], &Policy, SnapshotCode)] = &[
        (&[99, 99], &[], &policy(), SnapshotCode::NotDue),
        (&[100, 100], &[], &policy(), SnapshotCode::Ordered),
        (&[199, 199], &[100], &policy(), SnapshotCode::NotDue),
        (&[200, 200], &[100], &policy(), SnapshotCode::Ordered),
        (&[99, 99], &[], &by_bytes, SnapshotCode::NotDue),
        (&[100, 100], &[], &by_bytes, SnapshotCode::Ordered),
        (&[199, 199], &[100], &by_bytes, SnapshotCode::NotDue),
        (&[200, 200], &[100], &by_bytes, SnapshotCode::Ordered),
    ];
    for (applied, archived, policy, expected) in cases {
        assert_eq!(
            check(&view(applied, archived), policy).0,
            *expected,
            "{applied:?} over {archived:?}"
        );
    }
}

#[test]
fn without_a_pointer_a_snapshot_is_due_as_soon_as_the_log_is_trimmed() {
    let mut view = view(&[150, 150], &[]);
    partition(&mut view).log.as_mut().unwrap().facts.trim_point = Lsn::new(120);
    let order = check(&view, &policy()).1.unwrap();
    assert_eq!(order.cause, SnapshotCause::PointerMissing);
    let since = since_latest(&Looked::at(&view, &view.partitions[&P], NOW)).unwrap();
    let known = (since.lsn, since.records, since.bytes);
    assert_eq!(
        known,
        (Lsn::new(120), 30, None),
        "what the log has lost does not count"
    );
}

#[test]
fn bytes_without_a_record_make_no_snapshot_due() {
    let by_bytes = Policy {
        snapshot_after_records: 0,
        snapshot_after_bytes: 1000,
        ..policy()
    };
    let mut view = view(&[100, 100], &[100]);
    for replica in partition(&mut view).replicas.values_mut() {
        replica.log_bytes = Some(5000);
    }
    assert_eq!(check(&view, &by_bytes).0, SnapshotCode::NotDue);
}

#[test]
fn an_admin_that_watches_plans_nothing_and_one_in_a_dry_run_only_checks_snapshots() {
    // Due, two snapshots to be verified, nobody leads, and a trim to look at.
    let mut view = view(&[300, 300], &[200, 100]);
    for replica in partition(&mut view).replicas.values_mut() {
        replica.leader = None;
        replica.role = ReplicaRole::Follower;
    }
    let actions = |view: &ClusterView, dry_run| {
        let policy = Policy { dry_run, ..policy() };
        let plan = plan(view, &policy, NOW, &Entropy::seeded(3));
        let actions: Vec<_> = plan.commands.iter().map(Command::action).collect();
        (actions, plan.partitions[&P].leadership.code)
    };
    let (acting, _) = actions(&view, false);
    for action in ["create-snapshot", "lead", "verify", "trim"] {
        assert!(acting.contains(&action), "{acting:?}");
    }
    // The look before a trim is how a dry run finds out what it would do.
    assert_eq!(
        actions(&view, true),
        (vec!["verify", "trim"], LeadershipCode::DryRun)
    );
    view.standby = Some("standby: a2 has epoch 3".to_owned());
    assert_eq!(actions(&view, false), (vec![], LeadershipCode::Standby));
}

#[test]
fn time_alone_never_makes_a_snapshot_due() {
    let idle = view(&[150, 150], &[100]);
    let much_later = Moment(NOW.0 + Duration::from_secs(1));
    let plan = plan(&idle, &policy(), much_later, &Entropy::seeded(1));
    assert_eq!(plan.partitions[&P].snapshot.code, SnapshotCode::NotDue);
}

#[test]
fn what_keeps_a_due_snapshot_from_being_ordered_is_named() {
    type Change = fn(&mut ClusterView);
    let cases: &[(&str, Change, SnapshotCode)] = &[
        (
            "control unread",
            |view| view.control = ControlView::Unread,
            SnapshotCode::ControlUnreadable,
        ),
        (
            "another admin acts",
            |view| view.standby = Some("standby: a2 has epoch 3".to_owned()),
            SnapshotCode::Standby,
        ),
        (
            "archive unread",
            |view| partition(view).archive = ArchiveView::Unread,
            SnapshotCode::ArchiveUnknown,
        ),
        (
            "archive stale",
            |view| partition(view).archive_stale = true,
            SnapshotCode::ArchiveUnknown,
        ),
        (
            "no log",
            |view| partition(view).log = None,
            SnapshotCode::LogUnavailable,
        ),
        (
            "nobody live",
            |view| view.nodes.values_mut().for_each(|node| node.heard_at = None),
            SnapshotCode::NoLiveReplica,
        ),
        (
            "nobody active",
            |view| {
                partition(view)
                    .replicas
                    .values_mut()
                    .for_each(|r| r.state = ReplicaState::CatchingUp)
            },
            SnapshotCode::NoLiveReplica,
        ),
        (
            "other incarnation",
            |view| {
                partition(view).replicas.values_mut().for_each(|replica| {
                    replica.incarnation = Some(Incarnation {
                        generation: 2,
                        ..incarnation()
                    });
                });
            },
            SnapshotCode::NoLiveReplica,
        ),
        (
            "a worker makes one already",
            |view| partition(view).replicas.get_mut(&node(2)).unwrap().exporting = true,
            SnapshotCode::Running,
        ),
        (
            "followers full",
            |view| {
                for index in [1, 2] {
                    view.nodes.get_mut(&node(index)).unwrap().exports_running = 4;
                }
            },
            SnapshotCode::FollowersBusy,
        ),
        (
            "followers failing",
            |view| {
                for index in [1, 2] {
                    partition(view)
                        .backoff
                        .insert(node(index), NOW.plus(Duration::from_secs(1)));
                }
            },
            SnapshotCode::FollowersBusy,
        ),
    ];
    for (name, change, expected) in cases {
        let mut view = view(&[200, 200, 200], &[]);
        change(&mut view);
        assert_eq!(code(&view), *expected, "{name}");
    }
}

#[test]
fn the_leader_is_asked_only_when_nobody_else_can_be() {
    // No follower at all, or none live, or none active: at once.
    assert_eq!(check(&view(&[200], &[]), &policy()).1.unwrap().node, node(0));
    let mut gone = view(&[200, 200], &[]);
    heard_before(&mut gone, 1, Duration::from_secs(20));
    assert_eq!(check(&gone, &policy()).1.unwrap().node, node(0));

    // A follower that is behind gets a moment to report again.
    let mut behind = view(&[200, 100], &[]);
    assert_eq!(code(&behind), SnapshotCode::FollowersBehind);
    partition(&mut behind).followers_unavailable_since = Some(Moment(NOW.0 - Duration::from_secs(3)));
    let order = check(&behind, &policy()).1.unwrap();
    assert!(order.from_leader && order.node == node(0));

    // Busy ones are waited for as long as the policy says.
    let mut busy = view(&[200, 200], &[]);
    busy.nodes.get_mut(&node(1)).unwrap().exports_running = 4;
    for (waited, expected) in [(59, None), (60, Some(node(0)))] {
        partition(&mut busy).followers_unavailable_since = Some(Moment(NOW.0 - Duration::from_secs(waited)));
        assert_eq!(
            check(&busy, &policy()).1.map(|order| order.node),
            expected,
            "after {waited} s"
        );
    }
}

#[test]
fn the_choice_among_followers_is_uniform() {
    let view = view(&[200, 200, 200, 200, 200], &[]);
    let entropy = Entropy::seeded(11);
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    for _ in 0..4000 {
        let plan = plan(&view, &policy(), NOW, &entropy);
        let Some(Command::CreateSnapshot(order)) = plan
            .commands
            .into_iter()
            .find(|command| matches!(command, Command::CreateSnapshot(_)))
        else {
            panic!("a snapshot is due");
        };
        *counts.entry(order.node).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    // Three standard deviations of a binomial with 4000 draws at 1/4 are 82.
    assert!(
        counts.values().all(|count| (900..=1100).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn the_lowest_state_machine_version_is_asked_first() {
    let mut mixed = view(&[200, 200, 200], &[]);
    partition(&mut mixed)
        .replicas
        .get_mut(&node(1))
        .unwrap()
        .state_machine
        .version = 2;
    for seed in 0..20 {
        let plan = plan(&mixed, &policy(), NOW, &Entropy::seeded(seed));
        assert!(
            plan.commands.iter().any(|command| {
                matches!(command, Command::CreateSnapshot(order) if order.node == node(2))
            })
        );
    }
}

#[test]
fn replicas_that_differ_are_held_and_none_of_them_is_asked_for_its_state_in_the_same_moment() {
    let mut differing = view(&[300, 300], &[100, 50]);
    for (replica, byte) in partition(&mut differing).replicas.values_mut().zip(1..) {
        let hash = ChainHash::of(&[byte]);
        let lsn = Lsn::new(300);
        replica.chain = ChainTrail(vec![ChainPoint { lsn, hash }]);
    }
    let plan = plan(&differing, &policy(), NOW, &Entropy::seeded(1));
    let planned = &plan.partitions[&P];
    assert!(
        matches!(&planned.new_hold, Some((StickyReason::ChainMismatch, _))),
        "{planned:?}"
    );
    assert_eq!(planned.snapshot.code, SnapshotCode::Held);
    assert!(
        plan.commands
            .iter()
            .all(|command| command.action() != "create-snapshot")
    );
    let known = "seen before".to_owned();
    partition(&mut differing)
        .holds
        .insert(StickyReason::ChainMismatch, known);
    let again = self::plan(&differing, &policy(), NOW, &Entropy::seeded(1));
    assert_eq!(again.partitions[&P].new_hold, None, "it is held already");
}

#[test]
fn a_sticky_choice_prefers_the_last_producer() {
    let sticky = Policy {
        candidate: snapshot_scheduler::CandidateChoice::Sticky,
        ..policy()
    };
    let view = view(&[300, 300, 300], &[100]);
    for seed in 0..20 {
        let plan = plan(&view, &sticky, NOW, &Entropy::seeded(seed));
        assert!(
            plan.commands.iter().any(|command| {
                matches!(command, Command::CreateSnapshot(order) if order.node == node(1))
            })
        );
    }
}

#[test]
fn a_damaged_latest_snapshot_is_not_counted_and_orders_a_repair() {
    let mut view = view(&[150, 150], &[100, 50]);
    let newest = partition(&mut view).pointer().unwrap().snapshots[0].snapshot_id;
    assert_eq!(code(&view), SnapshotCode::NotDue);
    partition(&mut view).trust.insert(newest, SnapshotTrust::Damaged);
    let order = check(&view, &policy()).1.unwrap();
    assert_eq!(order.distrusted, [newest]);
    assert!(
        order.min_lsn > Lsn::new(100),
        "the pointer must grow over the damaged one too"
    );

    // Nothing was appended since: the leader has to append first.
    let mut idle = self::view(&[100, 100], &[100, 50]);
    let newest = partition(&mut idle).pointer().unwrap().snapshots[0].snapshot_id;
    partition(&mut idle).trust.insert(newest, SnapshotTrust::Damaged);
    let plan = plan(&idle, &policy(), NOW, &Entropy::seeded(1));
    assert!(plan.commands.contains(&Command::AppendNoop {
        partition: P,
        node: node(0)
    }));
    assert_eq!(plan.partitions[&P].snapshot.code, SnapshotCode::NeedsRecord);
    let dry = Policy {
        dry_run: true,
        ..policy()
    };
    let dry = self::plan(&idle, &dry, NOW, &Entropy::seeded(1));
    let appends = |command: &Command| matches!(command, Command::AppendNoop { .. });
    assert!(!dry.commands.iter().any(appends), "a dry run appends nothing");
}

#[test]
fn nothing_is_reused_of_a_snapshot_that_a_worker_reported_as_damaged() {
    let mut view = view(&[300, 300], &[100, 50]);
    assert!(check(&view, &policy()).1.unwrap().distrusted.is_empty());
    let newest = partition(&mut view).pointer().unwrap().snapshots[0].snapshot_id;
    partition(&mut view).suspected.insert(newest);
    assert_eq!(check(&view, &policy()).1.unwrap().distrusted, [newest]);
}

#[test]
fn snapshots_are_verified_by_somebody_else_and_by_the_producer_only_if_alone() {
    let verifier = |view: &ClusterView| {
        plan(view, &policy(), NOW, &Entropy::seeded(1))
            .commands
            .into_iter()
            .find_map(|command| match command {
                Command::Verify { node, level, .. } => {
                    assert_eq!(level, VerifyLevel::Content);
                    Some(node)
                }
                _ => None,
            })
    };
    let mut three = view(&[150, 150, 150], &[100, 50]);
    assert!(verifier(&three).is_some_and(|node| node != self::node(1)));
    for index in [0, 2] {
        heard_before(&mut three, index, Duration::from_secs(20));
    }
    assert_eq!(verifier(&three), Some(node(1)));
    heard_before(&mut three, 1, Duration::from_secs(20));
    assert_eq!(verifier(&three), None);
}

#[test]
fn a_leader_that_does_not_host_the_partition_is_no_leader() {
    // All that the replicas of a fork know at first is who led the source. That node may exist here, elsewhere.
    let mut forked = view(&[100, 100], &[]);
    let source = Leadership {
        epoch: LeaderEpoch::new(7),
        node: node(5),
    };
    for replica in partition(&mut forked).replicas.values_mut() {
        replica.leader = Some(source.clone());
        replica.role = ReplicaRole::Follower;
    }
    let heard = forked.nodes[&node(0)].clone();
    forked.nodes.insert(node(5), heard);
    assert_eq!(live_leader(&forked, &forked.partitions[&P], NOW), None);
    let leadership = &plan(&forked, &policy(), NOW, &Entropy::seeded(1)).partitions[&P].leadership;
    assert_eq!(leadership.code, LeadershipCode::Assigned);

    // One that is expected and was not heard yet may well lead.
    partition(&mut forked).expected.insert(node(5));
    assert_eq!(live_leader(&forked, &forked.partitions[&P], NOW), Some(node(5)));
}

#[test]
fn a_live_leader_is_left_alone_however_late_reports_come() {
    let leadership = |view: &ClusterView| {
        plan(view, &policy(), NOW, &Entropy::seeded(1)).partitions[&P]
            .leadership
            .clone()
    };
    let base = view(&[100, 100, 100], &[]);
    assert_eq!(leadership(&base).code, LeadershipCode::Led);

    // Node 1 was announced; its own report is older than that of node 2, which has applied it.
    let mut late = base.clone();
    let newer = Leadership {
        epoch: LeaderEpoch::new(2),
        node: node(1),
    };
    partition(&mut late).replicas.get_mut(&node(2)).unwrap().leader = Some(newer.clone());
    assert_eq!(leadership(&late).code, LeadershipCode::Led);
    assert_eq!(live_leader(&late, &late.partitions[&P], NOW), Some(node(1)));

    // Suspect is not gone.
    let mut suspect = base.clone();
    heard_before(&mut suspect, 0, Duration::from_secs(10));
    assert_eq!(leadership(&suspect).code, LeadershipCode::Led);

    // Gone, restarted and blocked leaders are replaced.
    let mut gone = base.clone();
    heard_before(&mut gone, 0, Duration::from_secs(15));
    let mut restarted = base.clone();
    partition(&mut restarted).replicas.get_mut(&node(0)).unwrap().role = ReplicaRole::Follower;
    let mut blocked = base.clone();
    partition(&mut blocked).replicas.get_mut(&node(0)).unwrap().state = ReplicaState::Blocked;
    for view in [gone, restarted, blocked] {
        assert_eq!(leadership(&view).code, LeadershipCode::Assigned);
        let mut asked = view.clone();
        partition(&mut asked).lead_not_before = NOW.plus(Duration::from_secs(1));
        assert_eq!(leadership(&asked).code, LeadershipCode::Waiting);
    }
}

#[test]
fn leadership_goes_to_a_fresh_replica_and_never_during_a_regression() {
    let mut view = view(&[0, 5000, 100], &[]);
    heard_before(&mut view, 0, Duration::from_secs(20));
    for seed in 0..20 {
        let plan = plan(&view, &policy(), NOW, &Entropy::seeded(seed));
        assert!(plan.commands.contains(&Command::Lead {
            partition: P,
            node: node(1)
        }));
    }
    let sticky = snapshot_store::format::StickyReason::LogRegressed;
    partition(&mut view).holds.insert(sticky, "in a test".to_owned());
    let plan = plan(&view, &policy(), NOW, &Entropy::seeded(1));
    assert_eq!(plan.partitions[&P].leadership.code, LeadershipCode::Held);
    assert!(
        !plan
            .commands
            .iter()
            .any(|command| matches!(command, Command::Lead { .. }))
    );
}
