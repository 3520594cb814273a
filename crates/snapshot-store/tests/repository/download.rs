//! Bringing a snapshot back, and finding damage.

use super::*;
use snapshot_store::{
    Anomaly, AnomalyKind, ContentHash, DownloadError, StoreError,
    format::{Keys, PointerEntry},
};

impl World {
    async fn anomalies_of(&self, entry: &PointerEntry) -> [Vec<AnomalyKind>; 3] {
        let kinds = |anomalies: &[Anomaly]| anomalies.iter().map(|anomaly| anomaly.kind).collect::<Vec<_>>();
        let presence = self.repository.check_presence(P0, entry).await.unwrap();
        let content = self
            .repository
            .check_content(P0, entry, &NoProgress)
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let download = match self
            .repository
            .download(P0, entry, &dir.path().join("new"), &NoProgress)
            .await
        {
            Ok(_) => Vec::new(),
            Err(DownloadError::Damaged(anomalies)) => anomalies,
            Err(error) => panic!("{error:?}"),
        };
        [kinds(&presence), kinds(&content.anomalies), kinds(&download)]
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_equals_the_checkpoint() {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("big.sst", 20_000_000), ("CURRENT", 16), ("empty", 0)]);
    let entry = world.publish(100, 1).await.unwrap().entry;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("staging/one");
    let manifest = world
        .repository
        .download(P0, &entry, &target, &NoProgress)
        .await
        .unwrap();
    assert_eq!(manifest.files.len(), 3);
    for name in ["big.sst", "CURRENT", "empty"] {
        let original = std::fs::read(world.checkpoint.path().join(name)).unwrap();
        assert!(std::fs::read(target.join(name)).unwrap() == original, "{name}");
    }
    assert_eq!(
        std::fs::read_dir(&target).unwrap().count(),
        3,
        "nothing else is there"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_is_found_by_content_and_download_only() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    let key = Keys::file(P0, &entry.path, "000007.sst");
    let mut bytes = world.get(&key).await;
    bytes[2_500] ^= 1;
    world.put(&key, bytes).await;
    let wrong = vec![AnomalyKind::WrongHash];
    assert_eq!(world.anomalies_of(&entry).await, [vec![], wrong.clone(), wrong]);
}

#[tokio::test(start_paused = true)]
async fn missing_and_truncated_files_are_found_by_every_check() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    let key = Keys::file(P0, &entry.path, "000007.sst");
    let bytes = world.get(&key).await;
    for (kind, changed) in [
        (AnomalyKind::WrongSize, Some(bytes[..4_000].to_vec())),
        (AnomalyKind::WrongSize, Some([bytes.as_slice(), b"x"].concat())),
        (AnomalyKind::MissingFile, None),
    ] {
        match changed {
            Some(changed) => world.put(&key, changed).await,
            None => world.delete(&key).await,
        }
        assert_eq!(
            world.anomalies_of(&entry).await,
            [vec![kind], vec![kind], vec![kind]]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_manifests_are_told_apart() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    let key = Keys::manifest(P0, &entry.path);
    let text = String::from_utf8(world.get(&key).await).unwrap();
    let check = async |text: String, rehash: bool, expected: AnomalyKind| {
        let mut named = entry.clone();
        if rehash {
            named.manifest_hash = ContentHash::of(text.as_bytes());
        }
        world.put(&key, text).await;
        let found = world.anomalies_of(&named).await;
        assert_eq!(found, [vec![expected], vec![expected], vec![expected]]);
    };
    check(
        text.replacen("CURRENT", "CURRENX", 1),
        false,
        AnomalyKind::WrongHash,
    )
    .await;
    check(
        text.replacen("CURRENT", "../../x", 1),
        true,
        AnomalyKind::UnreadableManifest,
    )
    .await;
    check(
        text.replacen("\"format\": 1", "\"format\": 2", 1),
        true,
        AnomalyKind::NewerFormat,
    )
    .await;
    check("{".to_owned(), true, AnomalyKind::UnreadableManifest).await;
    check(
        text.replacen("\"partition\": 0", "\"partition\": 1", 1),
        true,
        AnomalyKind::WrongSnapshot,
    )
    .await;
    check(
        text.replacen("\"generation\": 1", "\"generation\": 2", 1),
        true,
        AnomalyKind::WrongIncarnation,
    )
    .await;
    world.delete(&key).await;
    let missing = vec![AnomalyKind::MissingManifest];
    assert_eq!(
        world.anomalies_of(&entry).await,
        [missing.clone(), missing.clone(), missing]
    );
    let dir = tempfile::tempdir().unwrap();
    let error = world
        .repository
        .download(P0, &entry, dir.path(), &NoProgress)
        .await
        .unwrap_err();
    assert!(error.is_missing());
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_never_taken_for_damage() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    world.store.fail_reads("000007.sst", 100);
    let content = world.repository.check_content(P0, &entry, &NoProgress).await;
    assert!(
        matches!(content, Err(StoreError::Unavailable { .. })),
        "{content:?}"
    );
    let dir = tempfile::tempdir().unwrap();
    let error = world
        .repository
        .download(P0, &entry, dir.path(), &NoProgress)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Store(StoreError::Unavailable { .. })),
        "{error:?}"
    );
    let silent = tempfile::tempdir().unwrap();
    let target = silent.path().join("x");
    world.store.crash_after(0);
    assert!(
        world.publish(200, 2).await.is_err(),
        "this write kills the process"
    );
    let presence = world.repository.check_presence(P0, &entry).await;
    assert!(
        matches!(presence, Err(StoreError::Unavailable { .. })),
        "{presence:?}"
    );
    let error = world
        .repository
        .download(P0, &entry, &target, &NoProgress)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DownloadError::Store(StoreError::Unavailable { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_ridden_out() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    world.store.fail_reads("000007.sst", 2);
    let content = world
        .repository
        .check_content(P0, &entry, &NoProgress)
        .await
        .unwrap();
    assert_eq!(content.anomalies, []);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_written_is_a_local_error() {
    let world = World::new().await;
    let entry = world.publish(100, 1).await.unwrap().entry;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"in the way").unwrap();
    let error = world
        .repository
        .download(P0, &entry, &dir.path().join("file"), &NoProgress)
        .await
        .unwrap_err();
    assert!(matches!(error, DownloadError::Local(_)), "{error:?}");
}
