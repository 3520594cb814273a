//! Exports that wait for their turn.

use crate::{
    fixture::{Cluster, Node, P},
    host::FakeHost,
};
use futures::{StreamExt as _, stream::BoxStream};
use snapshot_store::PartitionId;
use snapshot_worker::{
    agent::{CreateSnapshot, ExportEvent, ExportFailure},
    core::{BlockedReason, Decline, PartitionState},
};
use std::{sync::Arc, time::Duration};

/// A node that makes one snapshot at once and lets `queue` wait, with all four partitions, whose checkpoints are held
/// back.
async fn node(queue: usize) -> (Cluster, Node, Vec<Arc<FakeHost>>) {
    let cluster = Cluster::in_memory().await;
    let mut config = cluster.config("a");
    config.exports_queue_max = queue;
    let node = cluster.node_with(config);
    let hosts = (0..4).map(PartitionId::new).map(|partition| {
        let host = match partition == P {
            true => Arc::clone(&node.host),
            false => cluster.host("a", partition),
        };
        node.agent.attach(partition, host.clone());
        host.apply(5);
        host.gate.forget_permits(1000);
        host
    });
    let hosts = hosts.collect();
    (cluster, node, hosts)
}

fn request(cluster: &Cluster, node: &Node, partition: u32) -> CreateSnapshot {
    CreateSnapshot {
        partition: PartitionId::new(partition),
        ..node.request(cluster, 1)
    }
}

type Events = BoxStream<'static, ExportEvent>;

async fn next(events: &mut Events) -> ExportEvent {
    let next = tokio::time::timeout(Duration::from_secs(600), events.next());
    next.await.unwrap().expect("the outcome is still to come")
}

async fn accepted(events: &mut Events) -> u64 {
    match next(events).await {
        ExportEvent::Accepted { lsn, .. } => lsn.get(),
        other => panic!("{other:?}"),
    }
}

async fn outcome(events: Events) -> ExportEvent {
    events.collect::<Vec<_>>().await.pop().unwrap()
}

fn queued(ahead: u32) -> ExportEvent {
    ExportEvent::Queued { ahead }
}

/// What the status says of each partition: `None` without an export, else how many wait before it.
fn waiting(node: &Node) -> Vec<Option<Option<u32>>> {
    let status = node.agent.status();
    status
        .iter()
        .map(|replica| replica.export.map(|export| export.ahead))
        .collect()
}

#[tokio::test]
async fn exports_have_their_turns_in_the_order_of_the_requests() {
    let (cluster, node, hosts) = node(2).await;
    let mut events = Vec::new();
    for partition in [2, 0, 3] {
        events.push(node.agent.create_snapshot(request(&cluster, &node, partition)));
    }
    let [first, second, third] = &mut events[..] else {
        unreachable!()
    };
    assert_eq!(next(second).await, queued(0));
    assert_eq!(next(third).await, queued(1));
    assert_eq!(accepted(first).await, 5);
    assert_eq!(waiting(&node), [Some(Some(0)), None, Some(None), Some(Some(1))]);

    let refused = outcome(node.agent.create_snapshot(request(&cluster, &node, 1))).await;
    let ExportEvent::Declined(decline) = refused else {
        panic!("{refused:?}")
    };
    let expected = Decline::Busy {
        partition: P,
        running: 1,
        max: 1,
        queued: 2,
        queue_max: 2,
    };
    assert_eq!(decline, expected);
    assert!(decline.to_string().contains("2 of at most 2 wait"), "{decline}");

    hosts[2].gate.add_permits(1);
    assert_eq!(accepted(second).await, 5);
    assert_eq!(next(third).await, queued(0));
    assert_eq!(waiting(&node), [Some(None), None, None, Some(Some(0))]);
    // A place is free again.
    let mut fourth = node.agent.create_snapshot(request(&cluster, &node, 1));
    assert_eq!(next(&mut fourth).await, queued(1));
    hosts.iter().for_each(|host| host.gate.add_permits(1));
    for events in events.into_iter().chain([fourth]) {
        assert!(matches!(outcome(events).await, ExportEvent::Published(_)));
    }
    assert_eq!(waiting(&node), [None; 4]);
}

#[tokio::test]
async fn an_export_that_waits_can_be_cancelled_and_the_others_move_up() {
    let (cluster, node, hosts) = node(3).await;
    let mut running = node.agent.create_snapshot(request(&cluster, &node, 0));
    let cancelled = request(&cluster, &node, 1);
    let second = node.agent.create_snapshot(cancelled.clone());
    let third = node.agent.create_snapshot(request(&cluster, &node, 2));
    let mut fourth = node.agent.create_snapshot(request(&cluster, &node, 3));
    assert_eq!(next(&mut fourth).await, queued(2));

    assert!(node.agent.cancel(P, cancelled.request_id));
    assert!(matches!(
        outcome(second).await,
        ExportEvent::Failed {
            reason: ExportFailure::Cancelled,
            ..
        }
    ));
    assert_eq!(next(&mut fourth).await, queued(1));
    // So does one whose partition leaves the node.
    node.agent.detach(PartitionId::new(2));
    assert!(matches!(
        outcome(third).await,
        ExportEvent::Failed {
            reason: ExportFailure::Cancelled,
            ..
        }
    ));
    assert_eq!(next(&mut fourth).await, queued(0));
    assert_eq!(accepted(&mut running).await, 5);

    hosts.iter().for_each(|host| host.gate.add_permits(1));
    assert!(matches!(outcome(running).await, ExportEvent::Published(_)));
    assert!(matches!(outcome(fourth).await, ExportEvent::Published(_)));
    assert!(cluster.repository.pointer(P).await.unwrap().is_none());
}

#[tokio::test]
async fn what_waited_is_decided_again_when_its_turn_comes() {
    let (cluster, node, hosts) = node(3).await;
    let running = node.agent.create_snapshot(request(&cluster, &node, 0));
    let mut moved = node.agent.create_snapshot(request(&cluster, &node, 1));
    let blocked = node.agent.create_snapshot(request(&cluster, &node, 2));
    assert_eq!(next(&mut moved).await, queued(0));
    hosts[1].apply(9);
    *hosts[2].replica_state.lock().unwrap() = PartitionState::Blocked {
        reason: BlockedReason::LogMissing,
        detail: String::new(),
    };
    hosts.iter().for_each(|host| host.gate.add_permits(1));
    assert!(matches!(outcome(running).await, ExportEvent::Published(_)));
    assert_eq!(accepted(&mut moved).await, 9);
    match outcome(moved).await {
        ExportEvent::Published(published) => assert_eq!(published.lsn.get(), 9),
        other => panic!("{other:?}"),
    }
    match outcome(blocked).await {
        ExportEvent::Declined(decline) => assert_eq!(decline.reason(), "not-active"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_repeated_request_joins_the_one_that_waits_and_a_stop_ends_it() {
    let (cluster, node, _) = node(1).await;
    let _running = node.agent.create_snapshot(request(&cluster, &node, 0));
    let waits = request(&cluster, &node, 1);
    let first = node.agent.create_snapshot(waits.clone());
    let mut again = node.agent.create_snapshot(waits);
    assert_eq!(next(&mut again).await, queued(0));
    match outcome(node.agent.create_snapshot(request(&cluster, &node, 1))).await {
        ExportEvent::Declined(decline) => assert_eq!(decline.reason(), "running"),
        other => panic!("{other:?}"),
    }
    let agent = node.agent.clone();
    let stopping = tokio::spawn(async move { agent.shutdown().await });
    for events in [first, again] {
        assert!(matches!(
            outcome(events).await,
            ExportEvent::Failed {
                reason: ExportFailure::Cancelled,
                ..
            }
        ));
    }
    stopping.abort();
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_hears_of_it_now_and_then() {
    let (cluster, node, hosts) = node(1).await;
    let _running = node.agent.create_snapshot(request(&cluster, &node, 0));
    let mut waits = node.agent.create_snapshot(request(&cluster, &node, 1));
    let began = tokio::time::Instant::now();
    for _ in 0..11 {
        assert_eq!(next(&mut waits).await, queued(0));
    }
    let each = began.elapsed() / 10;
    assert!(
        each > Duration::from_secs(5) && each < Duration::from_secs(100),
        "{each:?}"
    );
    hosts.iter().for_each(|host| host.gate.add_permits(1));
    assert!(matches!(outcome(waits).await, ExportEvent::Published(_)));
}
