//! Files that an earlier snapshot holds are copied inside the store.

use super::*;
use snapshot_store::{
    Incremental, StoreOptions,
    format::{Keys, Manifest, ManifestFile},
};

/// Large enough that a copy is worth a request.
const BYTES: usize = 100_000;

/// A world whose uploads are incremental.
async fn incremental_world(files: &[(&str, usize)]) -> World {
    let mut world = World::new().await;
    let options = StoreOptions {
        incremental: Incremental::On,
        ..StoreOptions::default()
    };
    world.repository = Repository::with_store_and(
        Arc::new(world.store.clone()),
        Path::from("base"),
        &options,
        seams(5),
    );
    world.checkpoint = checkpoint(files);
    world
}

impl World {
    async fn manifest_of(&self, published: &Published) -> Manifest {
        self.repository.manifest(P0, &published.entry).await.unwrap()
    }

    fn write(&self, name: &str, content: Vec<u8>) {
        std::fs::write(self.checkpoint.path().join(name), content).unwrap();
    }

    async fn assert_sound(&self, published: &Published) {
        let checked = self
            .other(7)
            .check_content(P0, &published.entry, &NoProgress)
            .await
            .unwrap();
        assert_eq!(checked.anomalies, []);
    }
}

fn file<'a>(manifest: &'a Manifest, name: &str) -> &'a ManifestFile {
    manifest.files.iter().find(|file| file.name == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_uploaded() {
    let world = incremental_world(&[("a.sst", BYTES), ("bb.sst", BYTES + 1), ("CURRENT", 16)]).await;
    let first = world.publish(100, 1).await.unwrap();
    assert_eq!(first.entry.bytes_copied, 0);
    assert_eq!(first.entry.bytes_uploaded, first.entry.bytes_total);

    world.write("a.sst", vec![7; BYTES]);
    let second = world.publish(200, 2).await.unwrap();
    assert_eq!(second.entry.bytes_copied, BYTES as u64 + 1);
    assert_eq!(
        second.entry.bytes_uploaded,
        BYTES as u64 + 16,
        "a small file costs a request either way"
    );
    assert_eq!(
        second.entry.bytes_uploaded + second.entry.bytes_copied,
        second.entry.bytes_total
    );
    let manifest = world.manifest_of(&second).await;
    assert_eq!(
        (file(&manifest, "a.sst").copies, file(&manifest, "bb.sst").copies),
        (0, 1)
    );
    assert_eq!(manifest.bytes_copied, second.entry.bytes_copied);
    assert_eq!(world.store.copies(""), 1);
    world.assert_sound(&second).await;
}

#[tokio::test(start_paused = true)]
async fn equal_names_and_sizes_are_not_enough() {
    let world = incremental_world(&[("a.sst", BYTES)]).await;
    world.publish(100, 1).await.unwrap();
    world.write("a.sst", vec![1; BYTES]);
    let second = world.publish(200, 2).await.unwrap();
    assert_eq!((second.entry.bytes_copied, world.store.copies("")), (0, 0));
    world.assert_sound(&second).await;
}

#[tokio::test(start_paused = true)]
async fn another_name_for_the_same_bytes_is() {
    let world = incremental_world(&[("a.sst", BYTES)]).await;
    world.publish(100, 1).await.unwrap();
    std::fs::rename(
        world.checkpoint.path().join("a.sst"),
        world.checkpoint.path().join("b.sst"),
    )
    .unwrap();
    let second = world.publish(200, 2).await.unwrap();
    assert_eq!(second.entry.bytes_uploaded, 0);
    world.assert_sound(&second).await;
}

#[tokio::test(start_paused = true)]
async fn after_eight_copies_in_a_row_a_file_is_uploaded_anew() {
    let world = incremental_world(&[("a.sst", BYTES)]).await;
    let mut copies = Vec::new();
    for number in 1..=19 {
        let mut upload = world.upload(number * 10, u128::from(number));
        // Only the one before is retained, so that each copy is made from it.
        upload.restorable_snapshots_min = Some(1);
        let published = publish(&world.repository, &upload).await.unwrap();
        let manifest = world.manifest_of(&published).await;
        copies.push(file(&manifest, "a.sst").copies);
        world.assert_sound(&published).await;
    }
    assert_eq!(copies, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
}

#[tokio::test(start_paused = true)]
async fn of_several_sources_the_one_copied_least_is_taken() {
    let world = incremental_world(&[("a.sst", BYTES)]).await;
    for number in 1..=2 {
        world.publish(number * 10, u128::from(number)).await.unwrap();
    }
    let third = world.publish(30, 3).await.unwrap();
    let manifest = world.manifest_of(&third).await;
    assert_eq!(
        file(&manifest, "a.sst").copies,
        1,
        "from the first, which was uploaded"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_from_a_distrusted_snapshot() {
    let world = incremental_world(&[("a.sst", BYTES)]).await;
    let first = world.publish(100, 1).await.unwrap();
    // Its bytes were changed in the store: a copy would carry the damage on.
    world
        .put(&Keys::file(P0, &first.entry.path, "a.sst"), vec![9; BYTES])
        .await;
    let mut upload = world.upload(200, 2);
    upload.distrusted = vec![snapshot_id(1)];
    let second = publish(&world.repository, &upload).await.unwrap();
    assert_eq!(second.entry.bytes_copied, 0);
    world.assert_sound(&second).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_is_uploaded() {
    let world = incremental_world(&[("a.sst", BYTES), ("bb.sst", BYTES)]).await;
    let first = world.publish(100, 1).await.unwrap();
    world.delete(&Keys::file(P0, &first.entry.path, "a.sst")).await;
    let second = world.publish(200, 2).await.unwrap();
    assert_eq!(second.entry.bytes_copied, BYTES as u64);
    world.assert_sound(&second).await;

    // Without its manifest, nothing of it can be named.
    let first = world.publish(300, 3).await.unwrap();
    world.delete(&Keys::manifest(P0, &first.entry.path)).await;
    world.delete(&Keys::manifest(P0, &second.entry.path)).await;
    let last = world.publish(400, 4).await.unwrap();
    assert_eq!(last.entry.bytes_copied, 0);
    world.assert_sound(&last).await;
}

#[tokio::test]
async fn a_copy_in_a_folder_shares_no_storage() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let options = StoreOptions {
        incremental: Incremental::On,
        ..StoreOptions::default()
    };
    let repository = Repository::open_with(&url, &options, seams(1)).unwrap();
    let record = repository.init(&spec()).await.unwrap();
    let files = checkpoint(&[("a.sst", 3_000_000)]);
    let mut paths = Vec::new();
    for number in 1..=2_u64 {
        let incarnation = record.incarnations[&P0];
        let upload = upload(
            &record.cluster,
            incarnation,
            &files,
            number * 10,
            u128::from(number),
        );
        let published = publish(&repository, &upload).await.unwrap();
        assert_eq!(published.entry.bytes_copied > 0, number == 2);
        paths.push(folder.path().join(Keys::file(P0, &published.entry.path, "a.sst")));
    }
    let metadata = |path: &std::path::Path| std::fs::metadata(path).unwrap();
    assert_ne!(metadata(&paths[0]).ino(), metadata(&paths[1]).ino());
    assert_eq!(metadata(&paths[1]).nlink(), 1);
    assert_eq!(
        std::fs::read(&paths[0]).unwrap(),
        std::fs::read(&paths[1]).unwrap()
    );
    let beside = std::fs::read_dir(paths[1].parent().unwrap()).unwrap().count();
    assert_eq!(beside, 2, "the file and the manifest, nothing temporary");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_write_of_an_incremental_publish_leaves_the_pointer_sound() {
    for writes in 0.. {
        let world = incremental_world(&[("a.sst", BYTES), ("bb.sst", BYTES)]).await;
        world.publish(100, 1).await.unwrap();
        world.write("a.sst", vec![3; BYTES]);
        world.store.crash_after(writes);
        let survived = world.publish(200, 2).await.is_ok();
        let pointer = world.other(3).pointer(P0).await.unwrap().unwrap().value;
        for entry in &pointer.snapshots {
            let checked = world
                .other(3)
                .check_content(P0, entry, &NoProgress)
                .await
                .unwrap();
            assert_eq!(checked.anomalies, [], "after {writes} writes");
        }
        if survived {
            assert!(
                writes > 3,
                "a copy, an upload, the manifest and the swap are writes"
            );
            return;
        }
        // The next process finishes, whatever is left.
        publish(&world.other(4), &world.upload(300, 3)).await.unwrap();
    }
}
