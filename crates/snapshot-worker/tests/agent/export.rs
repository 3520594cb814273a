//! Making snapshots: what is published, what is declined, and that each ends in an answer.

use crate::{
    fixture::{Cluster, P, seams, staged},
    store::CountingStore,
};
use futures::StreamExt as _;
use object_store::path::Path;
use snapshot_store::{Lsn, PartitionId, Repository, RequestId};
use snapshot_worker::{
    agent::{ExportEvent, ExportFailure, SnapshotAgent},
    core::{BlockedReason, Decline, PartitionState},
};
use std::sync::Arc;

fn declined(events: &[ExportEvent]) -> &Decline {
    match events.last() {
        Some(ExportEvent::Declined(decline)) => decline,
        other => panic!("not declined: {other:?}"),
    }
}

fn failed(events: &[ExportEvent]) -> (ExportFailure, &str) {
    match events.last() {
        Some(ExportEvent::Failed { reason, message }) => (*reason, message),
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test]
async fn a_snapshot_is_published_with_facts_from_the_checkpoint() {
    for cluster in [Cluster::in_memory().await, Cluster::on_disk().await] {
        let node = cluster.node("a");
        node.host.apply(100);
        let request = node.request(&cluster, 90);
        let events = node.create(request.clone()).await;
        let Some(ExportEvent::Accepted { snapshot_id, lsn }) = events.first() else {
            panic!("not accepted: {events:?}");
        };
        assert_eq!(*lsn, Lsn::new(100));
        let Some(ExportEvent::Published(published)) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(
            (published.snapshot_id, published.lsn),
            (*snapshot_id, Lsn::new(100))
        );
        assert!(published.bytes_total > 0);

        let pointer = cluster.pointer().await;
        let entry = pointer.latest().unwrap();
        assert_eq!(
            (entry.snapshot_id, entry.lsn, entry.log_bytes),
            (*snapshot_id, Lsn::new(100), 1000)
        );
        let manifest = cluster.repository.manifest(P, entry).await.unwrap();
        assert_eq!(manifest.request_id, Some(request.request_id));
        assert_eq!(manifest.producer.node.as_str(), "a");
        assert!(manifest.state_digest.is_some() && manifest.chain.is_some());

        let status = node.agent.replica(P).unwrap();
        assert_eq!(status.archived.unwrap().lsn, Lsn::new(100));
        assert_eq!(status.export, None);
        assert_eq!(
            staged(&cluster, "a"),
            Vec::<std::path::PathBuf>::new(),
            "staging is left empty"
        );
        let last = events.iter().rev().find_map(|event| match event {
            ExportEvent::Progress {
                bytes_done,
                bytes_total,
            } => Some((*bytes_done, *bytes_total)),
            _ => None,
        });
        assert_eq!(
            last,
            Some((published.bytes_total, published.bytes_total)),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn a_start_makes_no_store_request_and_remembers_the_archived_lsn() {
    let store = Arc::new(CountingStore::default());
    let repository = Repository::with_store(store.clone(), Path::default(), seams());
    let cluster = Cluster::on(repository, tempfile::tempdir().unwrap()).await;
    cluster.node("a").publish(&cluster, 7).await;

    let before = store.requests();
    assert!(before > 0, "publishing makes requests");
    let node = cluster.node("a");
    assert_eq!(node.agent.replica(P).unwrap().archived.unwrap().lsn, Lsn::new(7));
    assert_eq!(store.requests(), before, "a start makes none");
}

#[tokio::test]
async fn a_request_that_cannot_be_met_is_declined_with_its_reason() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(50);

    let events = node.create(node.request(&cluster, 60)).await;
    assert_eq!(
        *declined(&events),
        Decline::Behind {
            partition: P,
            applied: Some(Lsn::new(50)),
            min_lsn: Lsn::new(60)
        }
    );

    let mut elsewhere = node.request(&cluster, 1);
    elsewhere.partition = PartitionId::new(3);
    assert_eq!(
        declined(&node.create(elsewhere).await).reason(),
        "unknown-partition"
    );

    *node.host.replica_state.lock().unwrap() = PartitionState::Blocked {
        reason: BlockedReason::LogMissing,
        detail: String::new(),
    };
    assert_eq!(
        declined(&node.create(node.request(&cluster, 1)).await).reason(),
        "not-active"
    );
    *node.host.replica_state.lock().unwrap() = PartitionState::Active;

    let published = node.publish(&cluster, 50).await;
    let events = node.create(node.request(&cluster, 50)).await;
    let Decline::Covered {
        applied,
        archived,
        snapshot_id,
        ..
    } = declined(&events)
    else {
        panic!("{events:?}");
    };
    assert_eq!(
        (*applied, *archived, *snapshot_id),
        (Lsn::new(50), Lsn::new(50), published.snapshot_id)
    );
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, ExportEvent::Accepted { .. })),
        "nothing was begun"
    );

    node.agent.shutdown().await;
    assert_eq!(
        declined(&node.create(node.request(&cluster, 1)).await).reason(),
        "stopping"
    );
}

#[tokio::test]
async fn a_distrusted_snapshot_does_not_cover_but_the_pointer_still_only_moves_up() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    let first = node.publish(&cluster, 10).await;
    let mut request = node.request(&cluster, 10);
    request.distrusted = vec![first.snapshot_id];
    let events = node.create(request.clone()).await;
    assert_eq!(failed(&events).0, ExportFailure::NeedsNewerLsn);

    node.host.apply(11);
    request.request_id = RequestId::new(cluster.seams.ulid());
    let events = node.create(request).await;
    assert!(
        matches!(events.last(), Some(ExportEvent::Published(_))),
        "{events:?}"
    );
}

#[tokio::test]
async fn the_same_request_joins_and_another_one_is_declined() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.gate.forget_permits(1000);
    node.host.apply(5);
    let request = node.request(&cluster, 1);
    let mut first = node.agent.create_snapshot(request.clone());
    assert!(matches!(first.next().await, Some(ExportEvent::Accepted { .. })));

    let second = node.agent.create_snapshot(request.clone());
    let other = node.create(node.request(&cluster, 1)).await;
    assert_eq!(
        *declined(&other),
        Decline::Running {
            partition: P,
            request_id: request.request_id
        }
    );
    let running = node.agent.replica(P).unwrap().export.unwrap();
    assert_eq!(
        (running.request_id, running.lsn),
        (request.request_id, Lsn::new(5))
    );

    // The first caller goes away; the export goes on.
    drop(first);
    node.host.gate.add_permits(1);
    let events: Vec<_> = second.collect().await;
    let Some(ExportEvent::Published(published)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(running.snapshot_id, published.snapshot_id);

    let again = node.create(request).await;
    assert_eq!(
        again,
        vec![ExportEvent::Published(published.clone())],
        "a repetition gives the same answer"
    );
}

#[tokio::test]
async fn a_node_at_its_limit_declines_as_busy() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    let neighbour = cluster.host("a", PartitionId::new(2));
    neighbour.apply(5);
    node.agent.attach(PartitionId::new(2), neighbour);
    node.host.gate.forget_permits(1000);
    node.host.apply(5);
    let running = node.agent.create_snapshot(node.request(&cluster, 1));

    let mut request = node.request(&cluster, 1);
    request.partition = PartitionId::new(2);
    let expected = Decline::Busy {
        partition: PartitionId::new(2),
        running: 1,
        max: 1,
        queued: 0,
        queue_max: 0,
    };
    assert_eq!(*declined(&node.create(request.clone()).await), expected);

    node.host.gate.add_permits(1);
    assert!(matches!(
        running.collect::<Vec<_>>().await.last(),
        Some(ExportEvent::Published(_))
    ));
    assert!(matches!(
        node.create(request).await.last(),
        Some(ExportEvent::Published(_))
    ));
}

#[tokio::test]
async fn a_cancelled_export_publishes_nothing_and_frees_its_place() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.gate.forget_permits(1000);
    node.host.apply(5);
    let request = node.request(&cluster, 1);
    let events = node.agent.create_snapshot(request.clone());
    assert!(
        !node.agent.cancel(P, RequestId::new(cluster.seams.ulid())),
        "another request is not ours"
    );
    assert!(node.agent.cancel(P, request.request_id));
    node.host.gate.add_permits(1000);
    let events: Vec<_> = events.collect().await;
    assert_eq!(failed(&events).0, ExportFailure::Cancelled);
    assert!(cluster.repository.pointer(P).await.unwrap().is_none());
    assert_eq!(staged(&cluster, "a"), Vec::<std::path::PathBuf>::new());
    assert!(!node.agent.cancel(P, request.request_id), "nothing runs any more");
    // The same request may be tried again: it never published.
    assert!(matches!(
        node.create(request).await.last(),
        Some(ExportEvent::Published(_))
    ));
}

#[tokio::test]
async fn a_host_that_panics_frees_its_place_and_answers() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(5);
    // A closed gate makes the fake host panic in the middle of the checkpoint.
    node.host.gate.close();
    let events = node.create(node.request(&cluster, 1)).await;
    assert_eq!(failed(&events).0, ExportFailure::Internal);
    assert_eq!(node.agent.replica(P).unwrap().export, None);
}

#[tokio::test]
async fn a_corrupt_or_foreign_pointer_is_named_and_never_overwritten() {
    let cluster = Cluster::on_disk().await;
    let node = cluster.node("a");
    node.publish(&cluster, 5).await;
    let path = cluster
        .dir
        .path()
        .join("bucket")
        .join(P.to_string())
        .join("latest.json");
    let good = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let foreign = good.replace(&cluster.record.cluster.fingerprint.to_string(), &"ab".repeat(16));
    let newer = good.replace("\"format\": 1", "\"format\": 99");
    assert!(foreign != good && newer != good);
    for bad in ["not json", &foreign, &newer] {
        std::fs::write(&path, bad).unwrap();
        node.host.apply(node.host.lsn().unwrap() + 1);
        let events = node.create(node.request(&cluster, 1)).await;
        let (reason, message) = failed(&events);
        assert_eq!(reason, ExportFailure::StoreUnusable, "{message}");
        assert!(message.contains("1/latest.json"), "{message}");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            bad,
            "it is left as it is"
        );
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_not_what_was_applied_is_not_published() {
    let cluster = Cluster::in_memory().await;
    let mut config = cluster.config("a");
    config.cluster.fingerprint = snapshot_store::Fingerprint::from_bytes([9; 16]);
    let node = cluster.node_with(config);
    node.host.apply(5);
    let events = node.create(node.request(&cluster, 1)).await;
    assert_eq!(failed(&events).0, ExportFailure::Mismatch);
    assert!(cluster.repository.pointer(P).await.unwrap().is_none());
}

#[tokio::test]
async fn a_start_empties_staging_and_nothing_else() {
    let cluster = Cluster::in_memory().await;
    let data_dir = cluster.dir.path().join("a");
    for folder in [
        "staging/exports/x",
        "staging/downloads/y",
        "staging/verifications/z",
        "partitions/1",
    ] {
        std::fs::create_dir_all(data_dir.join(folder)).unwrap();
        std::fs::write(data_dir.join(folder).join("file"), b"left by a crash").unwrap();
    }
    SnapshotAgent::new(
        cluster.config("a"),
        cluster.repository.clone(),
        cluster.seams.clone(),
    )
    .unwrap();
    assert_eq!(staged(&cluster, "a"), Vec::<std::path::PathBuf>::new());
    assert!(data_dir.join("partitions/1/file").exists());
}

#[tokio::test]
async fn staging_leaves_the_disk_reserve_free() {
    let cluster = Cluster::in_memory().await;
    let mut config = cluster.config("a");
    config.disk_reserve_bytes = u64::MAX;
    let node = cluster.node_with(config);
    node.host.apply(5);
    let events = node.create(node.request(&cluster, 1)).await;
    let (_, message) = failed(&events);
    assert!(message.contains("disk_reserve_bytes"), "{message}");
}
