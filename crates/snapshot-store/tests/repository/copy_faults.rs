//! Copies that end early: at every write, by a cancellation, by a dropped future. The next run finishes, and until then the
//! destination's pointers tell the truth.

use super::{
    copy::{P1, Target, as_copy_of_shop, assert_moved, by_ann, fork_it, move_it, source, words},
    *,
};
use faults::Fault;
use snapshot_store::{
    CopyFault, CopyOutcome, CopyReport, DirectoryState, Progress, StoreOptions, TransferOptions,
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const BIG: usize = 20 << 20;

/// Asserts what holds after any end: both sides are sound, and the source retains what it did.
async fn assert_nothing_lost(world: &World, target: &Target) {
    assert_eq!(world.retained().await, [400, 300, 200]);
    for partition in [P0, P1] {
        target.assert_sound(partition).await;
        if target.other().cluster().await.unwrap().is_some() {
            let survey = target.other().survey(partition).await.unwrap();
            assert!(survey.unknown.is_empty(), "{survey:?}");
        }
    }
}

fn went_well(report: &Result<CopyReport, snapshot_store::CopyError>) -> bool {
    report.as_ref().is_ok_and(CopyReport::all_well)
}

#[tokio::test(start_paused = true)]
async fn a_move_that_dies_at_any_write_at_the_destination_is_finished_by_the_next() {
    for writes in 0.. {
        let (world, target) = (source().await, Target::empty());
        target.store.crash_after(writes);
        let ended = went_well(&move_it(&world.repository, &target.repository).await);
        assert_nothing_lost(&world, &target).await;
        let report = move_it(&world.other(8), &target.other()).await.unwrap();
        assert!(report.all_well(), "after {writes} writes: {report:?}");
        assert_moved(&world, &target).await;
        assert_nothing_lost(&world, &target).await;
        if ended {
            assert!(
                writes > 20,
                "the check of the store and 4 snapshots with 3 objects each are writes"
            );
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_dies_at_any_write_at_the_source_is_finished_by_the_next() {
    for writes in 0.. {
        let (world, target) = (source().await, Target::empty());
        world.store.crash_after(writes);
        let ended = went_well(&move_it(&world.repository, &target.repository).await);
        assert_nothing_lost(&world, &target).await;
        assert!(
            move_it(&world.other(8), &target.other())
                .await
                .unwrap()
                .all_well()
        );
        assert_moved(&world, &target).await;
        if ended {
            assert!(writes > 0, "the seal is a write");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fork_that_dies_at_any_write_is_finished_by_the_next_under_the_same_ids() {
    for writes in 0.. {
        let (world, target) = (source().await, Target::empty());
        target.store.crash_after(writes);
        let ended = went_well(&fork_it(&world.repository, &target.repository, None).await);
        assert_nothing_lost(&world, &target).await;
        let began = target.other().cluster().await.unwrap();
        let report = fork_it(&world.repository, &target.other(), None).await.unwrap();
        assert!(report.all_well(), "after {writes} writes: {report:?}");
        let record = target.other().cluster().await.unwrap().unwrap();
        assert!(began.is_none_or(|began| began == record));
        for partition in [P0, P1] {
            target.assert_sound(partition).await;
            // One directory each: what was begun was completed, not begun anew.
            let survey = target.other().survey(partition).await.unwrap();
            assert_eq!(survey.directories.len(), 1, "{survey:?}");
            assert_eq!(survey.directories[0].state, DirectoryState::Retained);
        }
        if ended {
            assert!(
                writes > 8,
                "2 snapshots with 3 objects each, 2 pointers and the identity are writes"
            );
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unclear_answers_are_resolved_by_reading() {
    for fault in [Fault::Before, Fault::After, Fault::FalseLoser, Fault::Late] {
        for suffix in [
            "cluster.json",
            "control.json",
            "0/trim.json",
            "0/latest.json",
            "metadata.json",
        ] {
            let (world, target) = (source().await, Target::empty());
            target.store.fail_put(suffix, fault);
            // The first run may give up; it says so, and leaves nothing wrong.
            let _ = move_it(&world.repository, &target.repository).await;
            target.store.land().await;
            assert_nothing_lost(&world, &target).await;
            let report = move_it(&world.repository, &target.repository).await.unwrap();
            assert!(report.all_well(), "{fault:?} {suffix}: {report:?}");
            assert_moved(&world, &target).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_at_the_destination_is_not_taken_for_the_copy() {
    let (world, target) = (source().await, Target::empty());
    target.repository.ensure_capable().await.unwrap();
    target.store.crash_after(8);
    assert!(!went_well(&move_it(&world.repository, &target.repository).await));
    // Of the right size, and other bytes.
    let listed =
        futures::TryStreamExt::try_collect::<Vec<_>>(object_store::ObjectStore::list(&*target.memory, None));
    let listed = listed.await.unwrap();
    let found = listed
        .iter()
        .find(|meta| meta.location.as_ref().ends_with("000007.sst"))
        .unwrap();
    target
        .memory
        .put(&found.location, vec![9; 5_000].into())
        .await
        .unwrap();
    assert!(
        move_it(&world.repository, &target.other())
            .await
            .unwrap()
            .all_well()
    );
    assert_moved(&world, &target).await;
}

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

/// Waits, for a bounded time, until the uploads that were begun have ended.
async fn settle(target: &Target) {
    for _ in 0..1_000 {
        if target.store.open_multiparts() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!(
        "{} multipart uploads are still open",
        target.store.open_multiparts()
    );
}

async fn big_source() -> World {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("a.sst", BIG), ("b.sst", BIG), ("small", 10)]);
    for lsn in [100, 200] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_copy_leaves_no_open_upload_and_the_next_sends_only_the_rest() {
    let world = big_source().await;
    for fork in [false, true] {
        let target = Target::empty();
        for megabytes in [0, 30] {
            let cancel = CancellationToken::new();
            let progress = CancelAfter {
                left: AtomicU64::new(megabytes << 20),
                cancel: cancel.clone(),
            };
            let report = match fork {
                true => {
                    world
                        .repository
                        .fork_to(&target.repository, &as_copy_of_shop(None), &progress, &cancel)
                        .await
                }
                false => {
                    world
                        .repository
                        .move_to(&target.repository, &by_ann(), &progress, &cancel)
                        .await
                }
            };
            let report = report.unwrap();
            let outcome = &report.partitions[0].outcome;
            assert!(
                matches!(outcome, CopyOutcome::Failed(CopyFault::Cancelled)),
                "{report:?}"
            );
            settle(&target).await;
            assert_eq!(target.pointer(P0).await, None);
        }
        let report = match fork {
            true => fork_it(&world.repository, &target.repository, None).await,
            false => move_it(&world.repository, &target.repository).await,
        };
        let report = report.unwrap();
        assert_eq!(words(&report), ["copied", "no-snapshot"]);
        assert!(report.partitions[0].bytes_read_back() >= 10, "{report:?}");
        target.assert_sound(P0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_copy_leaves_no_open_upload() {
    let world = big_source().await;
    let target = Target::empty();
    let (from, to) = (world.repository.clone(), target.repository.clone());
    let task = tokio::spawn(async move { fork_it(&from, &to, None).await.map(drop) });
    while target.store.open_multiparts() == 0 {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    settle(&target).await;
    assert!(
        fork_it(&world.repository, &target.repository, None)
            .await
            .unwrap()
            .all_well()
    );
}

#[tokio::test(start_paused = true)]
async fn the_narrower_of_both_budgets_holds() {
    let world = big_source().await;
    let transfer = |bytes_per_second| StoreOptions {
        transfer: TransferOptions {
            requests_max: 2,
            bytes_per_second,
            ..TransferOptions::default()
        },
        ..StoreOptions::default()
    };
    for (from, to) in [(Some(1 << 20), None), (None, Some(1 << 20))] {
        let target = Target::empty();
        let (from, to) = (transfer(from), transfer(to));
        let from =
            Repository::with_store_and(Arc::new(world.store.clone()), Path::from("base"), &from, seams(8));
        let to = Repository::with_store_and(target.memory.clone(), Path::from("there"), &to, seams(9));
        let began = tokio::time::Instant::now();
        assert!(fork_it(&from, &to, None).await.unwrap().all_well());
        // 40 MiB, of which 8 may go at once.
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(31) && took < Duration::from_secs(50),
            "{took:?}"
        );
    }
}

#[tokio::test]
async fn a_folder_moves_to_another_kind_of_store() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/one", folder.path().display());
    let repository = Repository::open(&url, seams(1)).unwrap();
    let record = repository.init(&spec()).await.unwrap();
    let files = checkpoint(&[("CURRENT", 16), ("empty", 0), ("000007.sst", 100_000)]);
    let first = upload(&record.cluster, record.incarnations[&P0], &files, 10, 1);
    publish(&repository, &first).await.unwrap();
    let inside = Repository::open(&format!("{url}/two"), seams(2)).unwrap();
    let refused = move_it(&repository, &inside).await;
    assert!(
        matches!(refused, Err(snapshot_store::CopyError::Overlap { .. })),
        "{refused:?}"
    );
    let memory = Repository::open("memory://", seams(3)).unwrap();
    assert!(move_it(&repository, &memory).await.unwrap().all_well());
    let back = Repository::open(&format!("file://{}/new/place", folder.path().display()), seams(4)).unwrap();
    assert!(move_it(&memory, &back).await.unwrap().all_well());
    let entry = back.pointer(P0).await.unwrap().unwrap().value.snapshots.remove(0);
    let into = folder.path().join("restored");
    back.download(P0, &entry, &into, &NoProgress).await.unwrap();
    for name in ["CURRENT", "empty", "000007.sst"] {
        let restored = std::fs::read(into.join(name)).unwrap();
        assert_eq!(restored, std::fs::read(files.path().join(name)).unwrap());
    }
}
