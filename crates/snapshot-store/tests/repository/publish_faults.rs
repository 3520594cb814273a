//! Publishing with faults: unclear answers, writes that land late, and a crash at every single write.

use super::*;
use faults::Fault;
use snapshot_store::{StoreError, format::Keys};

const POINTER: &str = "0/latest.json";

#[tokio::test(start_paused = true)]
async fn an_answer_lost_after_the_effect_is_found_in_the_pointer() {
    for fault in [Fault::After, Fault::FalseLoser] {
        let world = World::new().await;
        for lsn in [100, 200] {
            world.store.fail_put(POINTER, fault);
            let published = world.publish(lsn, u128::from(lsn)).await.unwrap();
            assert_eq!(published.entry.lsn, Lsn::new(lsn));
        }
        assert_eq!(world.store.puts(POINTER), 2, "it was not swapped a second time");
        assert_eq!(world.retained().await, [200, 100]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_effect_is_tried_again() {
    let world = World::new().await;
    world.store.fail_put(POINTER, Fault::Before);
    world.store.fail_put(POINTER, Fault::Before);
    world.publish(100, 1).await.unwrap();
    assert_eq!(world.retained().await, [100]);
    assert_eq!(world.store.puts(POINTER), 3);
}

#[tokio::test(start_paused = true)]
async fn errors_of_data_and_manifest_are_tried_again() {
    let world = World::new().await;
    for suffix in ["000007.sst", "CURRENT", "metadata.json"] {
        for fault in [Fault::Before, Fault::After] {
            world.store.fail_put(suffix, fault);
        }
    }
    let published = world.publish(100, 1).await.unwrap();
    assert_eq!(
        world
            .repository
            .check_content(P0, &published.entry, &NoProgress)
            .await
            .unwrap()
            .anomalies,
        []
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_silent_is_indeterminate_and_the_upload_stays() {
    let world = World::new().await;
    for _ in 0..20 {
        world.store.fail_put(POINTER, Fault::Late);
    }
    let unclear = world.publish(100, 1).await.unwrap_err();
    assert!(
        matches!(unclear, PublishError::Indeterminate { .. }),
        "{unclear:?}"
    );
    assert!(unclear.is_retryable());
    assert!(world.store.puts(POINTER) <= 8, "bounded");

    // The delayed writes land after all: exactly one takes effect, and what it names is complete.
    assert_eq!(world.store.land().await, 1);
    let pointer = world.other(2).pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(pointer.latest().unwrap().snapshot_id, snapshot_id(1));
    assert_eq!(
        world
            .other(2)
            .check_presence(P0, &pointer.snapshots[0])
            .await
            .unwrap(),
        []
    );
}

#[tokio::test(start_paused = true)]
async fn a_delayed_write_never_takes_a_newer_pointer_back() {
    let world = World::new().await;
    world.publish(50, 50).await.unwrap();
    world.store.fail_put(POINTER, Fault::Late);
    // The second try lands at once; the first one, delayed, finds another version.
    world.publish(100, 1).await.unwrap();
    publish(&world.other(3), &world.upload(200, 2)).await.unwrap();
    assert_eq!(world.store.land().await, 0);
    assert_eq!(world.retained().await, [200, 100]);
}

#[tokio::test(start_paused = true)]
async fn an_unclear_answer_followed_by_a_newer_pointer_means_superseded() {
    let world = World::new().await;
    world.publish(50, 50).await.unwrap();
    let (repository, mut upload) = (world.repository.clone(), world.upload(100, 1));
    upload.restorable_snapshots_min = Some(2);
    for _ in 0..8 {
        world.store.fail_put(POINTER, Fault::Late);
    }
    let slow = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.puts(POINTER) < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    publish(&world.other(3), &world.upload(200, 2)).await.unwrap();
    let outcome = slow.await.unwrap();
    assert!(
        matches!(outcome, Err(PublishError::Superseded { .. })),
        "{outcome:?}"
    );
    assert_eq!(world.store.land().await, 0);
    assert_eq!(world.retained().await, [200, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_after_an_unclear_answer_stays_unclear() {
    let world = World::new().await;
    world.store.fail_put(POINTER, Fault::Late);
    // The pointer is read before the upload, and again for the swap; then the store goes silent.
    let (repository, upload) = (world.repository.clone(), world.upload(100, 1));
    let running = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.puts(POINTER) < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    world.store.fail_reads("0/trim.json", 50);
    let unclear = running.await.unwrap();
    assert!(
        matches!(unclear, Err(PublishError::Indeterminate { .. })),
        "{unclear:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_store_is_certainly_not_published_and_retryable() {
    let world = World::new().await;
    world.store.fail_reads(POINTER, 50);
    let failed = world.publish(100, 1).await.unwrap_err();
    assert!(
        matches!(failed, PublishError::Store(StoreError::Unavailable { .. })),
        "{failed:?}"
    );
    assert!(failed.is_retryable());
    assert_eq!(world.store.puts(".sst"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_leaves_a_pointer_that_is_true() {
    let mut published_somewhere = false;
    for writes in 0..40 {
        let world = World::new().await;
        world.publish(100, 1).await.unwrap();
        world.store.crash_after(writes);
        let outcome = world.publish(200, 2).await;

        // Another process looks, publishes its own, and cleans up by the rules.
        let other = world.other(5);
        let pointer = other.pointer(P0).await.unwrap().unwrap().value;
        for entry in &pointer.snapshots {
            assert_eq!(
                other
                    .check_content(P0, entry, &NoProgress)
                    .await
                    .unwrap()
                    .anomalies,
                []
            );
        }
        assert_eq!(outcome.is_ok(), pointer.has_published(snapshot_id(2)));
        published_somewhere |= outcome.is_ok();
        publish(&other, &world.upload(200, 3))
            .await
            .map(drop)
            .or_else(|error| match error {
                PublishError::Superseded { .. } if outcome.is_ok() => Ok(()),
                error => Err(error),
            })
            .unwrap();
        publish(&other, &world.upload(300, 4)).await.unwrap();
        assert_eq!(world.retained().await, [300, 200]);
        if outcome.is_ok() {
            return;
        }
        assert!(!outcome.unwrap_err().to_string().is_empty());
    }
    assert!(
        published_somewhere,
        "the crash always came first: raise the limit"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_store_lost_is_noticed_before_the_swap() {
    let world = World::new().await;
    // Two tries of every put of this file are answered and not kept.
    let (repository, upload) = (world.repository.clone(), world.upload(100, 1));
    let key = Keys::file(P0, &upload.directory(), "CURRENT");
    let manifest = Keys::manifest(P0, &upload.directory());
    world.store.fail_put("metadata.json", Fault::Late);
    let running = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.puts("metadata.json") < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    world.delete(&key).await;
    let incomplete = running.await.unwrap();
    assert!(
        matches!(incomplete, Err(PublishError::Incomplete { .. })),
        "{incomplete:?}"
    );
    assert_eq!(world.retained().await, [0; 0]);
    assert!(
        !world.get(&manifest).await.is_empty(),
        "the upload stays for the sweep"
    );
}
