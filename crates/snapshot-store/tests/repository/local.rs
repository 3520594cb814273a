//! The store in a folder: conditional updates across threads, crashes, and what listings show.

use super::*;
use snapshot_store::{
    PartitionId, StoreError,
    format::{Keys, StickyHold, StickyReason, Unknown},
};
use std::path::PathBuf;

struct Folder {
    dir: TempDir,
    record: ClusterRecord,
}

impl Folder {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = open(&dir, 1).init(&spec()).await.unwrap();
        Folder { dir, record }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("store").join(key)
    }
}

fn open(dir: &TempDir, seed: u64) -> Repository {
    let url = format!("file://{}/store", dir.path().display());
    Repository::open(&url, seams(seed)).unwrap()
}

fn hold(number: u32) -> StickyHold {
    StickyHold {
        partition: PartitionId::new(number),
        reason: StickyReason::LogRegressed,
        since: at(1),
        detail: String::new(),
        unknown: Unknown::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_update_is_lost_between_threads_and_store_objects() {
    const WRITERS: u32 = 4;
    const UPDATES: u32 = 6;
    let folder = Folder::new().await;
    let writers = (0..WRITERS).map(|writer| {
        // Each has its own store object, as another process would: nothing is shared but the folder.
        let (repository, cluster) = (
            open(&folder.dir, 10 + u64::from(writer)),
            folder.record.cluster.clone(),
        );
        tokio::spawn(async move {
            for update in 0..UPDATES {
                let hold = hold(writer * UPDATES + update);
                let add = |control: &mut snapshot_store::format::Control| {
                    if !control.holds.contains(&hold) {
                        control.holds.push(hold.clone());
                    }
                };
                while let Err(error) = repository.update_control(&cluster, add).await {
                    assert!(matches!(error, StoreError::Contended { .. }), "{error:?}");
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let control = open(&folder.dir, 99).control().await.unwrap().unwrap().value;
    assert_eq!(control.holds.len() as u32, WRITERS * UPDATES);
}

#[tokio::test]
async fn a_folder_behaves_like_a_bucket_from_init_to_prune() {
    let folder = Folder::new().await;
    let repository = open(&folder.dir, 2);
    let files = checkpoint(&[("CURRENT", 16), ("000007.sst", 5_000), ("big.sst", 9_000_000)]);
    let incarnation = folder.record.incarnations[&P0];
    for lsn in [100, 200, 300] {
        let upload = upload(&folder.record.cluster, incarnation, &files, lsn, lsn.into());
        let published = publish(&repository, &upload).await.unwrap();
        let content = repository
            .check_content(P0, &published.entry, &NoProgress)
            .await
            .unwrap();
        assert_eq!(content.anomalies, []);
    }
    let pointer = repository.pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(pointer.snapshots.len(), 2);
    let target = folder.dir.path().join("restored");
    repository
        .download(P0, &pointer.snapshots[0], &target, &NoProgress)
        .await
        .unwrap();
    for file in ["CURRENT", "000007.sst", "big.sst"] {
        assert!(std::fs::read(target.join(file)).unwrap() == std::fs::read(files.path().join(file)).unwrap());
    }

    assert_eq!(
        repository.prune(P0).await.unwrap().deleted,
        [],
        "no certificate: nothing is deleted"
    );
    let draft = snapshot_store::CertificateDraft {
        cluster: folder.record.cluster.clone(),
        partition: P0,
        incarnation,
        up_to: Lsn::new(200),
        snapshots: pointer.snapshots.iter().map(certified).collect(),
        issued_by: node("admin-1"),
    };
    repository.write_certificate(draft).await.unwrap();
    let pruned = repository.prune(P0).await.unwrap();
    assert_eq!(
        pruned
            .deleted
            .iter()
            .map(|directory| directory.lsn.get())
            .collect::<Vec<_>>(),
        [100]
    );
    assert!(
        !folder.path(&format!("0/{}", pruned.deleted[0])).exists(),
        "the empty folder is gone, too"
    );
    assert_eq!(repository.prune(P0).await.unwrap().deleted, []);
}

#[tokio::test]
async fn a_crash_between_temporary_file_and_rename_changes_nothing() {
    let folder = Folder::new().await;
    let before = std::fs::read(folder.path(Keys::CONTROL)).unwrap();
    std::fs::write(folder.path("admin/control.json#0"), b"half a docum").unwrap();
    let repository = open(&folder.dir, 3);
    assert_eq!(std::fs::read(folder.path(Keys::CONTROL)).unwrap(), before);
    assert!(
        repository
            .control()
            .await
            .unwrap()
            .unwrap()
            .value
            .holds
            .is_empty()
    );
    let changed = repository
        .update_control(&folder.record.cluster, |control| control.holds.push(hold(1)))
        .await;
    assert_eq!(changed.unwrap().holds, [hold(1)]);
    assert!(!folder.path("admin/control.json#0").exists());
    assert!(folder.path(".lock").exists(), "the lock file is never deleted");
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_empty_and_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let repository = open(&dir, 1);
    assert!(repository.cluster().await.unwrap().is_none());
    assert!(repository.pointer(P0).await.unwrap().is_none());
    let upload = upload(
        &cluster(),
        incarnation(1),
        &checkpoint(&[("CURRENT", 16)]),
        100,
        1,
    );
    let refused = publish(&repository, &upload).await.unwrap_err();
    assert!(
        matches!(refused, PublishError::Store(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(
        !dir.path().join("store").exists(),
        "it may be a mount that is missing"
    );
    repository.init(&spec()).await.unwrap();
    assert!(repository.cluster().await.unwrap().is_some());
}
