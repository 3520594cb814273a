//! Checking published snapshots at each level.

use crate::fixture::{Cluster, P, flip, staged};
use snapshot_store::{PartitionId, SnapshotId, format::VerifyLevel};
use snapshot_worker::agent::VerifyError;
use std::sync::atomic::Ordering;

const LEVELS: [VerifyLevel; 3] = [VerifyLevel::Presence, VerifyLevel::Content, VerifyLevel::Restore];

#[tokio::test]
async fn a_good_snapshot_passes_at_each_level() {
    let cluster = Cluster::in_memory().await;
    let published = cluster.node("a").publish(&cluster, 10).await;
    let node = cluster.node("b");
    for level in LEVELS {
        let report = node.agent.verify(P, published.snapshot_id, level).await.unwrap();
        assert!(report.ok(), "{report:?}");
        assert_eq!(report.level, level);
        assert_eq!(
            report.bytes_read >= published.bytes_total,
            level > VerifyLevel::Presence,
            "{report:?}"
        );
    }
    assert_eq!(node.host.lsn(), None, "looking installs nothing");
    assert_eq!(staged(&cluster, "b"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_flipped_bit_fails_content_and_not_presence() {
    let cluster = Cluster::on_disk().await;
    let node = cluster.node("a");
    let id = node.publish(&cluster, 10).await.snapshot_id;
    let file = cluster.file_of(&cluster.pointer().await.snapshots[0]).await;
    flip(&file);
    assert!(
        node.agent
            .verify(P, id, VerifyLevel::Presence)
            .await
            .unwrap()
            .ok()
    );
    for level in [VerifyLevel::Content, VerifyLevel::Restore] {
        let report = node.agent.verify(P, id, level).await.unwrap();
        assert_eq!(report.anomalies[0].kind.as_str(), "wrong-hash", "{report:?}");
    }
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![id]);

    flip(&file);
    assert!(
        node.agent
            .verify(P, id, VerifyLevel::Presence)
            .await
            .unwrap()
            .ok()
    );
    assert_eq!(
        node.agent.replica(P).unwrap().damaged,
        vec![id],
        "presence proves no content"
    );
    assert!(node.agent.verify(P, id, VerifyLevel::Content).await.unwrap().ok());
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

#[tokio::test]
async fn a_missing_file_fails_at_each_level() {
    let cluster = Cluster::on_disk().await;
    let node = cluster.node("a");
    let id = node.publish(&cluster, 10).await.snapshot_id;
    std::fs::remove_file(cluster.file_of(&cluster.pointer().await.snapshots[0]).await).unwrap();
    for level in LEVELS {
        let report = node.agent.verify(P, id, level).await.unwrap();
        assert_eq!(report.anomalies[0].kind.as_str(), "missing-file", "{report:?}");
    }
}

#[tokio::test]
async fn a_state_that_is_not_the_described_one_fails_the_restore_level() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    let id = node.publish(&cluster, 10).await.snapshot_id;
    node.host.lies.store(true, Ordering::SeqCst);
    let report = node.agent.verify(P, id, VerifyLevel::Restore).await.unwrap();
    assert_eq!(report.anomalies[0].kind.as_str(), "wrong-state", "{report:?}");
}

#[tokio::test]
async fn what_cannot_be_checked_is_an_error_and_no_damage() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    let unknown = SnapshotId::new(cluster.seams.ulid());
    for published in [false, true] {
        if published {
            node.publish(&cluster, 10).await;
        }
        let error = node
            .agent
            .verify(P, unknown, VerifyLevel::Content)
            .await
            .unwrap_err();
        assert!(matches!(error, VerifyError::NotPublished { .. }), "{error}");
    }
    let error = node
        .agent
        .verify(PartitionId::new(3), unknown, VerifyLevel::Content)
        .await
        .unwrap_err();
    assert!(matches!(error, VerifyError::UnknownPartition { .. }), "{error}");
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}
