//! Coming back from the store: what is chosen, what damage does, and that nothing local is lost meanwhile.

use crate::{
    fixture::{Cluster, Node, P, flip, seams, staged},
    store::{CountingStore, Surprise},
};
use object_store::{ObjectStoreExt as _, path::Path};
use snapshot_store::{
    CertificateDraft, Lsn, NodeId, Repository, Timestamp,
    format::{CertifiedSnapshot, Keys, PointerEntry, Stored as _, Unknown, VerifyLevel},
};
use snapshot_worker::{
    agent::{Covering, RestoreError, RestoreOutcome, RestoreRequest},
    core::RestoreKind,
};
use std::sync::{Arc, atomic::Ordering};

/// A node that has published snapshots at 10 and 20.
async fn published_twice(cluster: &Cluster) -> Node {
    let node = cluster.node("a");
    node.publish(cluster, 10).await;
    node.publish(cluster, 20).await;
    node
}

fn nothing_usable(outcome: Result<RestoreOutcome, RestoreError>) -> (String, bool) {
    match outcome {
        Ok(RestoreOutcome::NothingUsable { detail, any_damaged }) => (detail, any_damaged),
        other => panic!("something was usable: {other:?}"),
    }
}

#[tokio::test]
async fn a_new_replica_gets_the_newest_snapshot() {
    for cluster in [Cluster::in_memory().await, Cluster::on_disk().await] {
        published_twice(&cluster).await;
        let node = cluster.node("b");
        let restored = node.restored(&cluster, 15).await;
        assert_eq!(
            (restored.lsn, restored.kind),
            (Lsn::new(20), RestoreKind::Bootstrap)
        );
        assert!(restored.damaged.is_empty() && restored.bytes > 0);
        assert_eq!(node.host.lsn(), Some(20));
        let status = node.agent.replica(P).unwrap();
        assert_eq!(status.restore, None);
        assert_eq!(status.archived.unwrap().lsn, Lsn::new(20));
        assert_eq!(status.last_restore, Some(restored));
        assert_eq!(staged(&cluster, "b"), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn a_replica_below_the_trim_point_is_brought_over_the_gap() {
    let cluster = Cluster::in_memory().await;
    published_twice(&cluster).await;
    let node = cluster.node("b");
    node.host.apply(5);
    let restored = node.restored(&cluster, 15).await;
    assert_eq!(
        (restored.lsn, restored.kind),
        (Lsn::new(20), RestoreKind::TrimGap)
    );
}

#[tokio::test]
async fn damage_makes_it_fall_back_to_the_next_older_one() {
    for missing in [false, true] {
        let cluster = Cluster::on_disk().await;
        published_twice(&cluster).await;
        let newest = cluster.pointer().await.snapshots[0].clone();
        let file = cluster.file_of(&newest).await;
        if missing {
            std::fs::remove_file(&file).unwrap()
        } else {
            flip(&file)
        }

        let node = cluster.node("b");
        let restored = node.restored(&cluster, 10).await;
        assert_eq!(restored.lsn, Lsn::new(10), "missing: {missing}");
        assert_eq!(restored.damaged, vec![newest.snapshot_id]);
        assert_eq!(node.host.lsn(), Some(10));
        let status = node.agent.replica(P).unwrap();
        assert_eq!(status.damaged, vec![newest.snapshot_id], "the admin learns of it");
        assert_eq!(
            status.archived.unwrap().lsn,
            Lsn::new(10),
            "only what was seen in order counts"
        );
    }
}

#[tokio::test]
async fn a_damaged_snapshot_that_was_repaired_is_used_again() {
    let cluster = Cluster::on_disk().await;
    published_twice(&cluster).await;
    let newest = cluster.pointer().await.snapshots[0].clone();
    let file = cluster.file_of(&newest).await;
    flip(&file);
    let node = cluster.node("b");
    let (detail, any_damaged) = nothing_usable(node.restore(&cluster, 15).await);
    assert!(
        any_damaged && detail.contains(&newest.snapshot_id.to_string()),
        "{detail}"
    );
    assert_eq!(node.host.lsn(), None, "nothing was installed");

    flip(&file);
    assert_eq!(node.restored(&cluster, 15).await.lsn, Lsn::new(20));
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

#[tokio::test]
async fn a_manifest_that_was_changed_is_damage() {
    let cluster = Cluster::on_disk().await;
    published_twice(&cluster).await;
    let newest = cluster.pointer().await.snapshots[0].clone();
    flip(&cluster.file_of(&newest).await.with_file_name("metadata.json"));
    assert_eq!(cluster.node("b").restored(&cluster, 10).await.lsn, Lsn::new(10));
}

#[tokio::test]
async fn a_state_that_differs_from_its_manifest_is_damage() {
    let cluster = Cluster::in_memory().await;
    published_twice(&cluster).await;
    let node = cluster.node("b");
    node.host.lies.store(true, Ordering::SeqCst);
    let (detail, any_damaged) = nothing_usable(node.restore(&cluster, 0).await);
    assert!(
        any_damaged && detail.contains("the LSN is 21 in the state and 20 in the manifest"),
        "{detail}"
    );
    assert_eq!(node.host.lsn(), None);
}

#[tokio::test]
async fn nothing_usable_says_why() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("b");
    let (detail, any_damaged) = nothing_usable(node.restore(&cluster, 0).await);
    assert!(!any_damaged && detail.contains("1/latest.json"), "{detail}");

    published_twice(&cluster).await;
    let (detail, any_damaged) = nothing_usable(node.restore(&cluster, 30).await);
    assert!(
        !any_damaged && detail.contains("below the trim point"),
        "{detail}"
    );
    assert!(detail.contains("30") && detail.contains("20"), "{detail}");
}

#[tokio::test]
async fn a_newer_state_machine_is_no_damage() {
    let cluster = Cluster::in_memory().await;
    published_twice(&cluster).await;
    let node = cluster.node("b");
    node.host.version.store(0, Ordering::SeqCst);
    let error = node.restore(&cluster, 0).await.unwrap_err();
    assert!(matches!(error, RestoreError::Unfit { .. }), "{error}");
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

#[tokio::test]
async fn a_store_that_is_not_the_clusters_is_named() {
    let cluster = Cluster::on_disk().await;
    published_twice(&cluster).await;
    let bucket = cluster.dir.path().join("bucket");
    let pointer = bucket.join(P.to_string()).join("latest.json");
    let good = std::fs::read_to_string(&pointer).unwrap();
    let fingerprint = cluster.record.cluster.fingerprint.to_string();
    let node = cluster.node("b");

    for bad in ["{", &good.replace(&fingerprint, &"cd".repeat(16))] {
        std::fs::write(&pointer, bad).unwrap();
        let error = node.restore(&cluster, 0).await.unwrap_err();
        assert!(matches!(error, RestoreError::StoreUnusable { .. }), "{error}");
        assert!(error.to_string().contains("1/latest.json"), "{error}");
        assert_eq!(std::fs::read_to_string(&pointer).unwrap(), bad);
    }

    // An empty folder in place of the bucket, as after a missing mount.
    std::fs::rename(&bucket, cluster.dir.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&bucket).unwrap();
    let error = node.restore(&cluster, 0).await.unwrap_err();
    assert!(error.to_string().contains("cluster.json"), "{error}");
    assert_eq!(node.host.lsn(), None);
}

#[tokio::test]
async fn a_full_disk_is_local_trouble_and_no_damage() {
    let cluster = Cluster::in_memory().await;
    published_twice(&cluster).await;
    let mut config = cluster.config("b");
    config.disk_reserve_bytes = u64::MAX;
    let node = cluster.node_with(config);
    let error = node.restore(&cluster, 0).await.unwrap_err();
    assert!(matches!(error, RestoreError::Local { .. }), "{error}");
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

#[tokio::test]
async fn a_partition_that_is_not_hosted_is_refused() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("b");
    node.agent.detach(P);
    assert!(matches!(
        node.restore(&cluster, 0).await,
        Err(RestoreError::Local { .. })
    ));
    assert_eq!(node.agent.status(), vec![]);
}

#[tokio::test]
async fn a_snapshot_that_was_evicted_meanwhile_is_not_called_damaged() {
    let store = Arc::new(CountingStore::default());
    let repository = Repository::with_store(store.clone(), Path::default(), seams());
    let cluster = Cluster::on(repository, tempfile::tempdir().unwrap()).await;
    let producer = cluster.node("a");
    let mut pointers = Vec::new();
    for lsn in [20, 30] {
        producer.host.apply(lsn);
        let mut request = producer.request(&cluster, lsn);
        request.restorable_snapshots_min = Some(1);
        producer.create(request).await;
        pointers.push(cluster.pointer().await);
    }
    let [old, new] = pointers.try_into().unwrap();
    assert_eq!(
        (old.snapshots.len(), new.snapshots.len()),
        (1, 1),
        "one restorable snapshot is kept"
    );

    // The pointer still names the one at 20; while its manifest is asked for, the one at 30 takes its place.
    let pointer = Path::from(Keys::pointer(P));
    let manifest = Path::from(Keys::manifest(P, &old.snapshots[0].path));
    store.put(&pointer, old.encode().into()).await.unwrap();
    store.arm(Surprise {
        before_reading: manifest,
        put: (pointer, new.encode()),
    });

    let node = cluster.node("b");
    let restored = node.restored(&cluster, 10).await;
    assert_eq!((restored.lsn, restored.damaged), (Lsn::new(30), vec![]));
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

/// Has an admin certify a trim up to the older of two snapshots, and leaves a pointer that was decided before: it names
/// neither. Returns the two, newest first.
async fn certified_and_evicted(cluster: &Cluster, store: &CountingStore) -> [PointerEntry; 2] {
    let node = published_twice(cluster).await;
    let snapshots: [PointerEntry; 2] = cluster.pointer().await.snapshots.try_into().unwrap();
    node.publish(cluster, 30).await;
    let mut pointer = cluster.pointer().await;
    pointer.snapshots.truncate(1);
    let admin = NodeId::new("admin").unwrap();
    let certified = |entry: &PointerEntry| CertifiedSnapshot {
        snapshot_id: entry.snapshot_id,
        lsn: entry.lsn,
        path: entry.path,
        manifest_hash: entry.manifest_hash,
        verified: VerifyLevel::Content,
        verified_by: admin.clone(),
        verified_at: Timestamp::default(),
        unknown: Unknown::default(),
    };
    let draft = CertificateDraft {
        cluster: cluster.record.cluster.clone(),
        partition: P,
        incarnation: cluster.incarnation(),
        up_to: Lsn::new(10),
        snapshots: snapshots.iter().map(certified).collect(),
        issued_by: admin.clone(),
    };
    cluster.repository.write_certificate(draft).await.unwrap();
    let key = Path::from(Keys::pointer(P));
    store.put(&key, pointer.encode().into()).await.unwrap();
    snapshots
}

async fn lose(store: &CountingStore, entry: &PointerEntry) {
    let manifest = Path::from(Keys::manifest(P, &entry.path));
    store.delete(&manifest).await.unwrap();
}

#[tokio::test]
async fn what_only_the_certificate_names_is_restored_when_the_pointers_snapshots_are_damaged() {
    let (store, cluster) = Cluster::counted(4).await;
    let [newer, older] = certified_and_evicted(&cluster, &store).await;
    let newest = cluster.pointer().await.snapshots.remove(0);
    let asked = store.reads("trim.json").len();
    assert_eq!(cluster.node("b").restored(&cluster, 10).await.lsn, Lsn::new(30));
    assert_eq!(store.reads("trim.json").len(), asked, "the pointer was enough");

    lose(&store, &newest).await;
    let node = cluster.node("c");
    let restored = node.restored(&cluster, 10).await;
    assert_eq!(
        (restored.lsn, restored.damaged),
        (Lsn::new(20), vec![newest.snapshot_id])
    );
    let status = node.agent.replica(P).unwrap();
    assert_eq!(status.archived.unwrap().log_bytes, newer.log_bytes);
    assert_eq!(status.damaged, vec![newest.snapshot_id]);

    lose(&store, &newer).await;
    let node = cluster.node("d");
    let covering = RestoreRequest::new(cluster.incarnation(), Lsn::new(10), None);
    let found = node.agent.covering(P, &covering).await.unwrap();
    let expected = Covering::Snapshot {
        snapshot_id: older.snapshot_id,
        lsn: older.lsn,
    };
    assert_eq!(found, expected, "a rebuild relies on it as well");
    assert_eq!(node.restored(&cluster, 10).await.lsn, Lsn::new(10));
    let status = node.agent.replica(P).unwrap();
    assert_eq!(status.damaged.len(), 2, "{:?}", status.damaged);

    let (detail, any_damaged) = nothing_usable(cluster.node("e").restore(&cluster, 15).await);
    assert!(any_damaged, "{detail}");
    for said in [
        format!("{} at 10 is below the trim point", older.snapshot_id),
        format!("{} at 20 is damaged", newer.snapshot_id),
        format!("{} at 30 is damaged", newest.snapshot_id),
    ] {
        assert!(detail.contains(&said), "{said:?} is missing in {detail}");
    }
}

#[tokio::test]
async fn a_deleted_pointer_does_not_keep_a_replica_from_what_the_certificate_names() {
    let (store, cluster) = Cluster::counted(4).await;
    let snapshots = certified_and_evicted(&cluster, &store).await;
    store.delete(&Path::from(Keys::pointer(P))).await.unwrap();
    assert_eq!(cluster.node("b").restored(&cluster, 10).await.lsn, Lsn::new(20));
    for entry in &snapshots {
        lose(&store, entry).await;
    }
    let (detail, any_damaged) = nothing_usable(cluster.node("c").restore(&cluster, 10).await);
    assert!(any_damaged, "{detail}");
}

#[tokio::test]
async fn a_certified_snapshot_that_is_superseded_meanwhile_is_not_called_damaged() {
    let (store, cluster) = Cluster::counted(4).await;
    let [newer, _] = certified_and_evicted(&cluster, &store).await;
    let certificate = cluster.repository.certificate(P).await.unwrap().unwrap().value;
    let mut later = certificate.clone();
    later.snapshots.retain(|named| named.lsn < newer.lsn);
    // Nothing is retained until the manifest of the one at 20 is asked for: then it goes, as after a later trim.
    store.delete(&Path::from(Keys::pointer(P))).await.unwrap();
    store.arm(Surprise {
        before_reading: Path::from(Keys::manifest(P, &newer.path)),
        put: (Path::from(Keys::certificate(P)), later.encode()),
    });
    let node = cluster.node("b");
    let restored = node.restored(&cluster, 10).await;
    assert_eq!((restored.lsn, restored.damaged), (Lsn::new(10), vec![]));
    assert_eq!(node.agent.replica(P).unwrap().damaged, vec![]);
}

#[tokio::test]
async fn an_unreadable_certificate_is_named_where_nothing_else_helps() {
    let (store, cluster) = Cluster::counted(4).await;
    certified_and_evicted(&cluster, &store).await;
    let key = Path::from(Keys::certificate(P));
    store.put(&key, "{".into()).await.unwrap();
    assert_eq!(cluster.node("b").restored(&cluster, 10).await.lsn, Lsn::new(30));
    let error = cluster.node("c").restore(&cluster, 31).await.unwrap_err();
    assert!(matches!(error, RestoreError::StoreUnusable { .. }), "{error}");
    assert!(error.to_string().contains("1/trim.json"), "{error}");
}
