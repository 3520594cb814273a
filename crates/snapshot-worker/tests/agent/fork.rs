//! A service with a state of its own takes over a snapshot that was forked from another cluster.

use crate::fixture::{Cluster, P, seams};
use snapshot_store::{
    ContentHash, Entropy, Incarnation, Repository, Seams,
    format::{Keys, Manifest, Origin, Stored as _, VerifyLevel},
};
use snapshot_worker::agent::RestoreOutcome;

/// A cluster of its own, on disk.
async fn another() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("bucket").display());
    let seams = Seams {
        entropy: Entropy::seeded(8),
        ..seams()
    };
    Cluster::on(Repository::open(&url, seams).unwrap(), dir).await
}

/// Copies the latest snapshot of `source`, as a fork does; `change` is made to its manifest.
async fn fork(source: &Cluster, to: &Cluster, change: impl FnOnce(&mut Manifest)) -> Manifest {
    let mut pointer = source.pointer().await;
    pointer.snapshots.truncate(1);
    let entry = &mut pointer.snapshots[0];
    let mut manifest = source.repository.manifest(P, entry).await.unwrap();
    manifest.origin = Some(Origin {
        cluster: manifest.cluster,
        incarnation: manifest.incarnation,
        snapshot_id: manifest.snapshot_id,
    });
    manifest.cluster = to.record.cluster.clone();
    manifest.incarnation = to.incarnation();
    change(&mut manifest);
    let (from, bucket) = (source.dir.path().join("bucket"), to.dir.path().join("bucket"));
    std::fs::create_dir_all(bucket.join(format!("{P}/{}", manifest.directory()))).unwrap();
    for file in &manifest.files {
        let target = bucket.join(Keys::file(P, &manifest.directory(), &file.name));
        std::fs::copy(from.join(Keys::file(P, &entry.path, &file.name)), target).unwrap();
    }
    entry.incarnation = manifest.incarnation;
    entry.manifest_hash = ContentHash::of(&manifest.encode());
    let key = Keys::manifest(P, &manifest.directory());
    std::fs::write(bucket.join(key), manifest.encode()).unwrap();
    pointer.cluster = manifest.cluster.clone();
    pointer.history.clear();
    std::fs::write(bucket.join(Keys::pointer(P)), pointer.encode()).unwrap();
    manifest
}

#[tokio::test]
async fn a_host_makes_the_state_of_a_forked_snapshot_its_own() {
    let source = Cluster::on_disk().await;
    source.node("a").publish(&source, 10).await;
    let clone = another().await;
    let manifest = fork(&source, &clone, |_| {}).await;
    let node = clone.node("b");
    let verified = node
        .agent
        .verify(P, manifest.snapshot_id, VerifyLevel::Restore)
        .await;
    assert!(verified.as_ref().unwrap().ok(), "{verified:?}");
    let restored = node.restored(&clone, 10).await;
    assert_eq!(restored.snapshot_id, manifest.snapshot_id);
    assert_eq!(
        node.host.identity(),
        Some((clone.record.cluster.fingerprint, clone.incarnation()))
    );

    // What it publishes from now on is the fork's own.
    node.publish(&clone, 20).await;
    let pointer = clone.pointer().await;
    let own = clone.repository.manifest(P, &pointer.snapshots[0]).await.unwrap();
    assert_eq!((own.origin, own.lsn.get()), (None, 20));
    assert_eq!(clone.node("c").restored(&clone, 15).await.lsn.get(), 20);
}

#[tokio::test]
async fn a_host_is_not_given_a_state_that_is_not_the_origins() {
    let source = Cluster::on_disk().await;
    source.node("a").publish(&source, 10).await;
    let clone = another().await;
    let other_log = |manifest: &mut Manifest| {
        let origin = manifest.origin.as_mut().unwrap();
        origin.incarnation = Incarnation {
            generation: 9,
            ..origin.incarnation
        };
    };
    let manifest = fork(&source, &clone, other_log).await;
    let node = clone.node("b");
    let report = node
        .agent
        .verify(P, manifest.snapshot_id, VerifyLevel::Restore)
        .await
        .unwrap();
    let anomaly = &report.anomalies[0];
    assert_eq!(anomaly.kind.as_str(), "wrong-state");
    assert!(anomaly.detail.contains("the incarnation is"), "{anomaly}");
    let outcome = node.restore(&clone, 10).await.unwrap();
    assert!(
        matches!(
            outcome,
            RestoreOutcome::NothingUsable {
                any_damaged: true,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(node.host.identity(), None, "nothing was installed");
}
