//! Transfers under limits, and what an interrupted one leaves.

use super::*;
use snapshot_store::{Progress, StoreOptions, TransferOptions};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

const BIG: usize = 30 << 20;

/// Cancels once so many bytes were transferred.
struct CancelAfter {
    left: AtomicU64,
    cancel: CancellationToken,
}

impl Progress for CancelAfter {
    fn advanced(&self, bytes: u64) {
        let left = self.left.load(Ordering::SeqCst).saturating_sub(bytes);
        self.left.store(left, Ordering::SeqCst);
        if left == 0 {
            self.cancel.cancel();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_upload_leaves_no_open_multipart_upload() {
    for megabytes in [0, 1, 10, 20] {
        let mut world = World::new().await;
        world.checkpoint = checkpoint(&[("a.sst", BIG), ("b.sst", BIG), ("small", 10)]);
        let cancel = CancellationToken::new();
        let progress = CancelAfter {
            left: AtomicU64::new(megabytes << 20),
            cancel: cancel.clone(),
        };
        let outcome = world
            .repository
            .publish(&world.upload(100, 1), &progress, &cancel)
            .await;
        assert!(matches!(outcome, Err(PublishError::Cancelled)), "{outcome:?}");
        settle(&world).await;
        assert!(world.retained().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_upload_leaves_no_open_multipart_upload() {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("a.sst", BIG), ("b.sst", BIG)]);
    let (repository, upload) = (world.repository.clone(), world.upload(100, 1));
    let task = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.open_multiparts() == 0 {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    settle(&world).await;
}

/// Waits, for a bounded time, until the uploads that were begun have ended.
async fn settle(world: &World) {
    for _ in 0..1_000 {
        if world.store.open_multiparts() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!(
        "{} multipart uploads are still open",
        world.store.open_multiparts()
    );
}

fn limited(world: &World, bytes_per_second: u64, requests_max: usize) -> Repository {
    let options = StoreOptions {
        transfer: TransferOptions {
            requests_max,
            bytes_per_second: Some(bytes_per_second),
            ..TransferOptions::default()
        },
        ..StoreOptions::default()
    };
    Repository::with_store_and(
        Arc::new(world.store.clone()),
        Path::from("base"),
        &options,
        seams(8),
    )
}

#[tokio::test(start_paused = true)]
async fn the_byte_budget_holds_for_uploads_and_downloads_together() {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("a.sst", BIG)]);
    let repository = limited(&world, 1 << 20, 4);
    let began = Instant::now();
    let published = publish(&repository, &world.upload(100, 1)).await.unwrap();
    let uploading = began.elapsed();
    let into = tempfile::tempdir().unwrap();
    let target = into.path().join("restored");
    repository
        .download(P0, &published.entry, &target, &NoProgress)
        .await
        .unwrap();
    // 8 MiB may go at once after a pause; the rest at 1 MiB/s.
    assert!(uploading >= Duration::from_secs(21), "{uploading:?}");
    assert!(
        began.elapsed() >= Duration::from_secs(50),
        "{:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(70), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restore_goes_before_an_upload() {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("a.sst", BIG)]);
    let first = world.publish(100, 1).await.unwrap();
    let repository = limited(&world, 1 << 20, 2);
    let (uploader, upload) = (repository.clone(), world.upload(200, 2));
    let began = Instant::now();
    let uploading = tokio::spawn(async move {
        publish(&uploader, &upload).await.unwrap();
        began.elapsed()
    });
    // The upload has had what may go at once, and waits.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let into = tempfile::tempdir().unwrap();
    let target = into.path().join("restored");
    repository
        .download(P0, &first.entry, &target, &NoProgress)
        .await
        .unwrap();
    let restored = began.elapsed();
    let uploaded = uploading.await.unwrap();
    assert!(
        restored < Duration::from_secs(42),
        "a restore of 30 s took {restored:?}"
    );
    assert!(
        uploaded > restored + Duration::from_secs(10),
        "{uploaded:?} after {restored:?}"
    );
}
