//! Downloads that take from the local disk what is right there, and nothing else.

use super::*;
use snapshot_store::{
    Progress, Reuse,
    format::{Manifest, PointerEntry},
};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

const FILES: &[(&str, usize)] = &[
    ("000007.sst", 9_000_000),
    ("000012.sst", 70_000),
    ("CURRENT", 16),
    ("MANIFEST-000005", 300),
];
const ALL_BYTES: u64 = 9_070_316;

/// Counts what came from where.
#[derive(Debug, Default)]
struct Counted {
    downloaded: AtomicU64,
    resumed: AtomicU64,
    linked: AtomicU64,
    files_done: AtomicU64,
}

impl Progress for Counted {
    fn advanced(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }

    fn resumed(&self, bytes: u64) {
        self.resumed.fetch_add(bytes, Ordering::Relaxed);
    }

    fn linked(&self, bytes: u64) {
        self.linked.fetch_add(bytes, Ordering::Relaxed);
    }

    fn file_done(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A published snapshot, a staging folder for it, and another local folder.
struct Scene {
    world: World,
    entry: PointerEntry,
    local: TempDir,
    staging: PathBuf,
    source: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let mut world = World::new().await;
        world.checkpoint = checkpoint(FILES);
        let entry = world.publish(100, 1).await.unwrap().entry;
        let local = tempfile::tempdir().unwrap();
        let (staging, source) = (local.path().join("staging"), local.path().join("state"));
        fs::create_dir(&staging).unwrap();
        fs::create_dir(&source).unwrap();
        Scene {
            world,
            entry,
            local,
            staging,
            source,
        }
    }

    fn original(&self, name: &str) -> PathBuf {
        self.world.checkpoint.path().join(name)
    }

    fn put(&self, name: &str, to: &std::path::Path) {
        fs::copy(self.original(name), to).unwrap();
    }

    /// Downloads and returns the bytes downloaded, resumed and linked.
    async fn bring(&self, reuse: &Reuse) -> (u64, u64, u64) {
        let counted = Counted::default();
        let download = self
            .world
            .repository
            .begin_download(P0, &self.entry, &self.staging, reuse, &counted)
            .await
            .unwrap();
        let missing = download.bytes_missing();
        let manifest: Manifest = download.finish(&counted).await.unwrap();
        assert_eq!(counted.files_done.into_inner(), manifest.files.len() as u64);
        for file in &manifest.files {
            let (found, expected) = (self.staging.join(&file.name), self.original(&file.name));
            assert!(
                fs::read(found).unwrap() == fs::read(expected).unwrap(),
                "{} is right",
                file.name
            );
        }
        let from = (
            counted.downloaded.into_inner(),
            counted.resumed.into_inner(),
            counted.linked.into_inner(),
        );
        assert_eq!(from.0 + from.1 + from.2, ALL_BYTES, "every byte is counted once");
        assert!(from.0 <= missing, "room for all that is written is asked for");
        from
    }

    fn source_allowed(&self) -> Reuse {
        Reuse::Allowed {
            sources: vec![self.source.clone(), self.local.path().join("gone")],
        }
    }
}

fn same_file(one: &std::path::Path, other: &std::path::Path) -> bool {
    fs::metadata(one).unwrap().ino() == fs::metadata(other).unwrap().ino()
}

fn flip(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_complete_and_right_in_staging_is_not_read_again() {
    let scene = Scene::new().await;
    for name in ["000007.sst", "CURRENT"] {
        scene.put(name, &scene.staging.join(name));
    }
    let nowhere = Reuse::Allowed { sources: vec![] };
    assert_eq!(scene.bring(&nowhere).await, (70_300, 9_000_016, 0));
    assert_eq!(
        scene.bring(&nowhere).await,
        (0, ALL_BYTES, 0),
        "a complete folder needs no file"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_short_or_foreign_in_staging_goes() {
    let scene = Scene::new().await;
    scene.put("000012.sst", &scene.staging.join("000012.sst"));
    flip(&scene.staging.join("000012.sst"));
    let half = fs::read(scene.original("000007.sst")).unwrap();
    fs::write(scene.staging.join("000007.sst"), &half[..8 << 20]).unwrap();
    fs::write(scene.staging.join("000099.sst"), b"of another snapshot").unwrap();
    let nowhere = Reuse::Allowed { sources: vec![] };
    assert_eq!(scene.bring(&nowhere).await, (ALL_BYTES, 0, 0));
    assert_eq!(
        fs::read_dir(&scene.staging).unwrap().count(),
        FILES.len(),
        "nothing else is left"
    );
}

#[tokio::test(start_paused = true)]
async fn tables_of_another_folder_are_linked_and_files_that_change_are_not() {
    let scene = Scene::new().await;
    scene.put("000007.sst", &scene.source.join("000031.sst"));
    scene.put("CURRENT", &scene.source.join("CURRENT"));
    scene.put("MANIFEST-000005", &scene.source.join("MANIFEST-000005"));
    assert_eq!(scene.bring(&scene.source_allowed()).await, (70_316, 0, 9_000_000));
    assert!(same_file(
        &scene.staging.join("000007.sst"),
        &scene.source.join("000031.sst")
    ));
    for name in ["CURRENT", "MANIFEST-000005"] {
        assert!(
            !same_file(&scene.staging.join(name), &scene.source.join(name)),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_with_other_bytes_is_not_linked_and_not_touched() {
    let scene = Scene::new().await;
    let source = scene.source.join("000012.sst");
    scene.put("000012.sst", &source);
    flip(&source);
    let damaged = fs::read(&source).unwrap();
    // As an attempt would leave it that linked the file before it was damaged.
    fs::hard_link(&source, scene.staging.join("000012.sst")).unwrap();
    assert_eq!(scene.bring(&scene.source_allowed()).await, (ALL_BYTES, 0, 0));
    assert!(
        fs::read(&source).unwrap() == damaged,
        "writing to the download changed the local state"
    );
    assert!(!same_file(&source, &scene.staging.join("000012.sst")));
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_file_system_is_copied() {
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        panic!("/dev/shm is a file system of its own on every Linux");
    };
    let scene = Scene::new().await;
    let source = elsewhere.path().join("000007.sst");
    scene.put("000007.sst", &source);
    let linked = fs::hard_link(&source, scene.local.path().join("probe")).is_ok();
    let reuse = Reuse::Allowed {
        sources: vec![elsewhere.path().to_owned()],
    };
    assert_eq!(scene.bring(&reuse).await, (70_316, 0, 9_000_000));
    assert_eq!(same_file(&source, &scene.staging.join("000007.sst")), linked);
}

#[tokio::test(start_paused = true)]
async fn reusing_nothing_reads_every_file_and_writes_into_none() {
    let scene = Scene::new().await;
    for (name, _) in FILES {
        let (source, staged) = (scene.source.join(name), scene.staging.join(name));
        scene.put(name, &source);
        flip(&source);
        fs::hard_link(&source, &staged).unwrap();
    }
    assert_eq!(scene.bring(&Reuse::Nothing).await, (ALL_BYTES, 0, 0));
    for (name, _) in FILES {
        let (damaged, original) = (fs::read(scene.source.join(name)), fs::read(scene.original(name)));
        assert!(
            damaged.unwrap() != original.unwrap(),
            "{name} of the local state was written to"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_that_failed_goes_on_where_it_was() {
    let scene = Scene::new().await;
    let nowhere = Reuse::Allowed { sources: vec![] };
    // As often as a part is asked for before it is given up.
    scene.world.store.fail_reads("000012.sst", 4);
    let counted = Counted::default();
    let download = scene
        .world
        .repository
        .begin_download(P0, &scene.entry, &scene.staging, &nowhere, &counted)
        .await
        .unwrap();
    assert_eq!(download.bytes_missing(), ALL_BYTES);
    assert!(download.finish(&counted).await.is_err());
    let (downloaded, resumed, _) = scene.bring(&nowhere).await;
    assert!(
        resumed >= 9_000_000,
        "the large file had arrived: {downloaded} downloaded, {resumed} resumed"
    );
}
