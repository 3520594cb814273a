//! Restores that were interrupted, and what they and later ones take from the local disk.

use crate::{
    fixture::{Cluster, Node, P, flip, staged},
    host::{TABLE, TABLE_BYTES},
    store::CountingStore,
};
use snapshot_store::{Lsn, SnapshotId};
use snapshot_worker::{
    agent::{RestoreError, RestoreOutcome, RestoreRequest, ReuseLocal},
    core::{FinishedRestore, RestoreKind, RestorePhase, RunningRestore},
};
use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

/// A node that published at 20, and one whose restore of that was interrupted when all but `data.bin` had arrived.
struct Interrupted {
    store: Arc<CountingStore>,
    cluster: Cluster,
    producer: Node,
    newest: SnapshotId,
}

impl Interrupted {
    async fn new() -> Self {
        let (store, cluster) = Cluster::counted(4).await;
        let producer = cluster.node("a");
        let newest = producer.publish(&cluster, 20).await.snapshot_id;
        store.fail_reads(Some("data.bin"));
        let error = cluster.node("b").restore(&cluster, 10).await.unwrap_err();
        assert!(
            matches!(error, RestoreError::StoreUnavailable { .. }),
            "{error:?}"
        );
        store.fail_reads(None);
        Interrupted {
            store,
            cluster,
            producer,
            newest,
        }
    }

    fn folder(&self) -> PathBuf {
        let staging = self.cluster.dir.path().join("b/staging/downloads");
        staging.join(P.to_string()).join(self.newest.to_string())
    }

    fn reads_of_the_table(&self) -> usize {
        self.store.reads(TABLE).len()
    }
}

fn check_counts(restored: &FinishedRestore) {
    let sum = restored.bytes_downloaded + restored.bytes_linked + restored.bytes_resumed;
    assert_eq!(sum, restored.bytes, "{restored:?}");
}

#[tokio::test]
async fn a_restore_after_a_restart_goes_on_where_the_last_one_was() {
    let scene = Interrupted::new().await;
    assert!(scene.folder().join(TABLE).exists());
    let reads = scene.reads_of_the_table();
    // A new agent over the same folder, as after a kill.
    let node = scene.cluster.node("b");
    let restored = node.restored(&scene.cluster, 10).await;
    check_counts(&restored);
    assert!(restored.bytes_resumed >= TABLE_BYTES, "{restored:?}");
    assert!(restored.bytes_downloaded < TABLE_BYTES, "{restored:?}");
    assert_eq!(
        scene.reads_of_the_table(),
        reads,
        "what had arrived is not asked for again"
    );
    assert_eq!(node.host.lsn(), Some(20));
    assert_eq!(staged(&scene.cluster, "b"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn staging_that_went_bad_is_downloaded_anew() {
    let scene = Interrupted::new().await;
    flip(&scene.folder().join(TABLE));
    let node = scene.cluster.node("b");
    let restored = node.restored(&scene.cluster, 10).await;
    check_counts(&restored);
    assert!(restored.bytes_downloaded >= TABLE_BYTES, "{restored:?}");
    let table = fs::read(node.host.dir.join(TABLE)).unwrap();
    assert!(
        table.iter().all(|byte| *byte == P.get() as u8),
        "the damage went nowhere"
    );
}

#[tokio::test]
async fn a_restore_that_is_cancelled_leaves_what_had_arrived() {
    let (store, cluster) = Cluster::counted(4).await;
    cluster.node("a").publish(&cluster, 20).await;
    let node = cluster.node("b");
    store.hold_reads(Some("data.bin"));
    let request = RestoreRequest {
        kind: RestoreKind::Bootstrap,
        incarnation: cluster.incarnation(),
        trim_point: Lsn::new(10),
        applied_lsn: None,
        reuse: ReuseLocal::Allowed,
    };
    let agent = node.agent.clone();
    let restore = tokio::spawn(async move { agent.restore(P, request).await });
    let running = until(&node, |running| running.files_done == 2).await;
    assert_eq!(
        (running.phase, running.files_total),
        (RestorePhase::Downloading, 3)
    );
    assert_eq!(running.bytes_done(), running.bytes_downloaded);
    assert!(running.bytes_done() >= TABLE_BYTES && running.bytes_left() > 0);
    let status = node.agent.replica(P).unwrap();
    assert_eq!(
        status.needed,
        Some((Lsn::new(20), 200)),
        "the log must keep what follows the snapshot"
    );

    restore.abort();
    assert!(restore.await.unwrap_err().is_cancelled());
    assert_eq!(node.agent.replica(P).unwrap().restore, None);
    store.hold_reads(None);
    let restored = node.restored(&cluster, 10).await;
    assert!(restored.bytes_resumed >= TABLE_BYTES, "{restored:?}");
}

/// Waits until the restore in progress is as wanted.
async fn until(node: &Node, wanted: impl Fn(&RunningRestore) -> bool) -> RunningRestore {
    let look = async {
        loop {
            if let Some(running) = node.agent.replica(P).unwrap().restore.filter(|r| wanted(r)) {
                return running;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
}

#[tokio::test]
async fn a_newer_snapshot_takes_over_what_the_interrupted_one_had() {
    let scene = Interrupted::new().await;
    scene.producer.publish(&scene.cluster, 30).await;
    let reads = scene.reads_of_the_table();
    let node = scene.cluster.node("b");
    let restored = node.restored(&scene.cluster, 10).await;
    check_counts(&restored);
    assert_eq!((restored.lsn, restored.bytes_linked), (Lsn::new(30), TABLE_BYTES));
    assert_eq!(scene.reads_of_the_table(), reads);
    assert_eq!(staged(&scene.cluster, "b"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_stale_replica_links_what_it_has_and_is_untouched_until_the_swap() {
    let (store, cluster) = Cluster::counted(4).await;
    cluster.node("a").publish(&cluster, 20).await;
    let node = cluster.node("b");
    node.host.apply(5);
    let table = node.host.dir.join(TABLE);
    let before = fs::metadata(&table).unwrap().ino();
    store.fail_reads(Some("data.bin"));
    assert!(node.restore(&cluster, 10).await.is_err());
    assert_eq!(fs::metadata(&table).unwrap().ino(), before);
    assert_eq!(node.host.lsn(), Some(5), "the old state is as it was");
    store.fail_reads(None);

    let restored = node.restored(&cluster, 10).await;
    check_counts(&restored);
    assert_eq!(store.reads(TABLE), Vec::<String>::new());
    assert_eq!(
        restored.bytes_resumed + restored.bytes_linked,
        TABLE_BYTES + facts_bytes(&node)
    );
    assert_eq!(fs::metadata(&table).unwrap().ino(), before, "it is the same file");
}

/// Size of the small file that the interrupted attempt had brought besides.
fn facts_bytes(node: &Node) -> u64 {
    fs::metadata(node.host.dir.join("facts.json")).unwrap().len()
}

#[tokio::test]
async fn a_damaged_table_of_the_stale_state_is_downloaded_instead() {
    let (_store, cluster) = Cluster::counted(4).await;
    cluster.node("a").publish(&cluster, 20).await;
    let node = cluster.node("b");
    node.host.apply(5);
    flip(&node.host.dir.join(TABLE));
    let restored = node.restored(&cluster, 10).await;
    assert_eq!(
        (restored.bytes_linked, restored.bytes_downloaded),
        (0, restored.bytes)
    );
}

#[tokio::test]
async fn a_rebuild_reuses_nothing() {
    let scene = Interrupted::new().await;
    let node = scene.cluster.node("b");
    node.host.apply(5);
    let outcome = node
        .restore_reusing(&scene.cluster, 10, ReuseLocal::Nothing)
        .await;
    let Ok(RestoreOutcome::Restored(restored)) = outcome else {
        panic!("not restored: {outcome:?}");
    };
    assert_eq!(
        (
            restored.bytes_downloaded,
            restored.bytes_linked,
            restored.bytes_resumed
        ),
        (restored.bytes, 0, 0)
    );
}

#[tokio::test]
async fn what_an_interrupted_restore_left_goes_when_it_is_not_needed() {
    let scene = Interrupted::new().await;
    let left = || staged(&scene.cluster, "b");
    let parent = scene.folder().parent().unwrap().to_owned();
    assert_eq!(left(), vec![parent.clone()]);

    let node = scene.cluster.node("b");
    node.agent.discard_downloads_of_others();
    assert_eq!(left(), vec![parent.clone()], "its partition is hosted here");
    node.agent.detach(P);
    node.agent.discard_downloads_of_others();
    assert!(!parent.exists());
    node.agent.shutdown().await;
    assert_eq!(left(), Vec::<PathBuf>::new());

    fs::create_dir_all(&parent).unwrap();
    let node = scene.cluster.node("b");
    node.publish(&scene.cluster, 40).await;
    node.agent.shutdown().await;
    assert_eq!(
        left(),
        Vec::<PathBuf>::new(),
        "an export means that the state is good"
    );
}

#[tokio::test]
async fn a_start_sweeps_what_no_restore_can_use() {
    let scene = Interrupted::new().await;
    let staging = scene.cluster.dir.path().join("b/staging");
    for rubbish in [
        "exports/x",
        "verifications/y",
        "downloads/.discarded-1-0",
        "downloads/old",
    ] {
        fs::create_dir_all(staging.join(rubbish)).unwrap();
    }
    let _node = scene.cluster.node("b");
    assert_eq!(
        staged(&scene.cluster, "b"),
        vec![scene.folder().parent().unwrap().to_owned()]
    );
}
