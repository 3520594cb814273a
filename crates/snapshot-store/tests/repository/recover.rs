//! Recovering from a lost log in the store: the newest sound snapshot begins the next generation, whatever interrupts it.

use super::{
    copy::{P1, Target, move_it, source},
    *,
};
use snapshot_store::{
    CopyError, CopyFault, DirectoryState, PartitionId, PlannedRecovery, RecoveredLog, RecoveryPlan,
    RecoveryRequest, StoreOptions, TransferOptions,
    core::{RecoveryStep, RegisteredLog},
    format::{Keys, PointerEntry, Stored as _},
};
use std::collections::BTreeMap;

async fn plan(repository: &Repository, request: &RecoveryRequest) -> Result<RecoveryPlan, CopyError> {
    let cancel = CancellationToken::new();
    repository.plan_recovery(request, &NoProgress, &cancel).await
}

/// Plans and does it; a partition that fails does not keep the other one back.
async fn recover(repository: &Repository) -> Vec<Result<Option<RecoveredLog>, String>> {
    let plan = match plan(repository, &RecoveryRequest::default()).await {
        Ok(plan) => plan,
        Err(error) => return vec![Err(error.to_string())],
    };
    let cancel = CancellationToken::new();
    let mut done = Vec::new();
    for planned in &plan.partitions {
        let result = match &planned.plan {
            Ok(_) => {
                repository
                    .recover(&plan.record, planned, &NoProgress, &cancel)
                    .await
            }
            Err(fault) => {
                done.push(Err(fault.to_string()));
                continue;
            }
        };
        done.push(result.map_err(|fault| fault.to_string()));
    }
    done
}

fn begins_after(done: &Result<Option<RecoveredLog>, String>) -> (u64, Incarnation) {
    match done {
        Ok(Some(RecoveredLog::After(point))) => (point.lsn.get(), point.incarnation),
        other => panic!("{other:?}"),
    }
}

async fn entries(world: &World, partition: PartitionId) -> Vec<PointerEntry> {
    let pointer = world.other(31).pointer(partition).await.unwrap().unwrap();
    pointer.value.snapshots
}

async fn assert_sound(world: &World, partition: PartitionId) {
    for entry in entries(world, partition).await {
        let checked = world
            .other(32)
            .check_content(partition, &entry, &NoProgress)
            .await;
        assert_eq!(checked.unwrap().anomalies, [], "snapshot at {}", entry.lsn);
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_publishes_a_copy_in_the_next_generation_and_keeps_what_there_was() {
    let world = source().await;
    let before: BTreeMap<_, _> = {
        let mut found = BTreeMap::new();
        for key in world.keys().await {
            let short = key.strip_prefix("base/").unwrap().to_owned();
            found.insert(short.clone(), world.get(&short).await);
        }
        found
    };
    let done = recover(&world.repository).await;
    for (partition, done, lsn) in [(P0, &done[0], 400), (P1, &done[1], 50)] {
        let (after, incarnation) = begins_after(done);
        assert_eq!((after, incarnation.generation), (lsn, 2));
        let latest = entries(&world, partition).await[0].clone();
        assert_eq!((latest.lsn.get(), latest.incarnation), (lsn, incarnation));
        let manifest = world.other(33).manifest(partition, &latest).await.unwrap();
        let origin = manifest.origin.unwrap();
        assert_eq!(origin.cluster, world.record.cluster);
        assert_eq!(origin.incarnation, world.record.incarnations[&partition]);
        assert_sound(&world, partition).await;
    }
    // The certificate's snapshots stay, and so does every other object; only the pointers are others.
    assert_eq!(world.retained().await, [400, 400, 300, 200]);
    for (key, bytes) in before {
        let pointer = key.ends_with("latest.json");
        assert_eq!(world.get(&key).await == bytes, !pointer, "{key}");
    }
    let survey = world.other(34).survey(P0).await.unwrap();
    assert!(survey.unknown.is_empty(), "{survey:?}");
    let check = world.other(35).check_partition(&world.record, P0).await.unwrap();
    assert_eq!(check.anomalies, []);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_dies_at_any_write_is_finished_by_the_next_under_the_same_ids() {
    for writes in 0.. {
        let world = source().await;
        world.store.crash_after(writes);
        let first = recover(&world.repository).await;
        let ended = first.iter().all(Result::is_ok);
        for partition in [P0, P1] {
            assert_sound(&world, partition).await;
        }
        let again = recover(&world.other(8)).await;
        for (first, again) in first.iter().zip(&again) {
            let again = begins_after(again);
            assert!(
                first.is_err() || begins_after(first) == again,
                "after {writes} writes"
            );
        }
        for partition in [P0, P1] {
            // One directory of the new generation: what was begun was completed, not begun anew.
            let survey = world.other(9).survey(partition).await.unwrap();
            let new = survey.directories.iter();
            let new: Vec<_> = new.filter(|found| found.directory.generation == 2).collect();
            assert_eq!(new.len(), 1, "after {writes} writes: {survey:?}");
            assert_eq!(new[0].state, DirectoryState::Retained);
            assert_sound(&world, partition).await;
        }
        if ended {
            assert!(
                writes >= 8,
                "two copies with three objects each and two pointers are writes"
            );
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_makes_way_for_the_next_older_one_before_anybody_is_asked() {
    let world = source().await;
    let newest = entries(&world, P0).await[0].path;
    world
        .put(&Keys::file(P0, &newest, "000007.sst"), vec![1; 5_000])
        .await;
    let plan = plan(&world.repository, &RecoveryRequest::default())
        .await
        .unwrap();
    let PlannedRecovery {
        plan: planned,
        passed_over,
        ..
    } = &plan.partitions[0];
    let recovery = planned.as_ref().unwrap();
    assert!(matches!(&recovery.step, RecoveryStep::Fork { from, .. } if from.lsn == Lsn::new(300)));
    let loss = recovery.loss.as_ref().unwrap();
    assert_eq!((loss.kept.get(), loss.seen.as_ref().unwrap().0.get()), (300, 400));
    assert_eq!((passed_over.len(), passed_over[0].lsn.get()), (1, 400));
    assert_eq!(begins_after(&recover(&world.repository).await[0]).0, 300);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_only_the_certificate_names_is_copied_when_no_better_one_is_sound() {
    let world = source().await;
    let certificate = world.other(36).certificate(P0).await.unwrap().unwrap().value;
    let certified: Vec<u64> = certificate
        .snapshots
        .iter()
        .map(|named| named.lsn.get())
        .collect();
    let mut pointer = world.other(36).pointer(P0).await.unwrap().unwrap().value;
    let evicted = pointer.snapshots.split_off(1);
    assert!(
        evicted.iter().all(|entry| certificate.names(entry.snapshot_id)),
        "{certified:?}"
    );
    world.put(&Keys::pointer(P0), pointer.encode()).await;
    let newest = Keys::file(P0, &pointer.snapshots[0].path, "000007.sst");
    world.put(&newest, vec![1; 5_000]).await;
    assert_eq!(
        begins_after(&recover(&world.repository).await[0]).0,
        evicted[0].lsn.get()
    );
    assert_sound(&world, P1).await;

    // Neither is one whose manifest is gone.
    let world = source().await;
    world.put(&Keys::pointer(P0), pointer.encode()).await;
    world.put(&newest, vec![1; 5_000]).await;
    world
        .put(&Keys::manifest(P0, &evicted[0].path), b"{}".to_vec())
        .await;
    let planned = plan(&world.repository, &RecoveryRequest::default())
        .await
        .unwrap();
    let passed_over = &planned.partitions[0].passed_over;
    let passed_over: Vec<u64> = passed_over.iter().map(|found| found.lsn.get()).collect();
    assert_eq!(passed_over, [400, evicted[0].lsn.get()]);
    assert_eq!(
        begins_after(&recover(&world.repository).await[0]).0,
        evicted[1].lsn.get()
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_published_meanwhile_stops_the_swap() {
    let world = source().await;
    let planned = plan(&world.repository, &RecoveryRequest::default())
        .await
        .unwrap();
    world.publish(500, 500).await.unwrap();
    let cancel = CancellationToken::new();
    let refused = world
        .repository
        .recover(&planned.record, &planned.partitions[0], &NoProgress, &cancel);
    let refused = refused.await;
    assert!(
        matches!(refused, Err(CopyFault::Pointer(PublishError::Superseded { .. }))),
        "{refused:?}"
    );
    assert_eq!(world.retained().await[0], 500);
    assert_eq!(begins_after(&recover(&world.repository).await[0]).0, 500);
}

#[tokio::test(start_paused = true)]
async fn after_the_swap_a_publisher_of_the_lost_log_is_refused() {
    let world = source().await;
    recover(&world.repository).await;
    let late = world.publish(500, 500).await;
    assert!(matches!(late, Err(PublishError::Refused { .. })), "{late:?}");
    assert_eq!(world.retained().await, [400, 400, 300, 200]);
}

#[tokio::test(start_paused = true)]
async fn partitions_whose_log_is_there_or_that_nobody_asked_for_are_left_alone() {
    let world = source().await;
    let keys = world.keys().await;
    let there = RegisteredLog {
        fingerprint: world.record.cluster.fingerprint,
        incarnation: world.incarnation(),
        tail: Lsn::new(401),
    };
    let request = RecoveryRequest {
        partitions: Some([P0].into()),
        logs: [(P0, there)].into(),
        ..RecoveryRequest::default()
    };
    let plan = plan(&world.repository, &request).await.unwrap();
    assert_eq!(plan.partitions.len(), 1);
    let cancel = CancellationToken::new();
    let done = world
        .repository
        .recover(&plan.record, &plan.partitions[0], &NoProgress, &cancel);
    assert!(matches!(done.await, Ok(None)));
    assert_eq!(world.keys().await, keys);
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_anything_begins_empty_and_what_no_pointer_names_is_counted() {
    let world = World::new().await;
    let prepared = source().await;
    let manifest = Keys::manifest(P0, &entries(&prepared, P0).await[0].path);
    world.put(&manifest, prepared.get(&manifest).await).await;
    let plan = plan(&world.repository, &RecoveryRequest::default())
        .await
        .unwrap();
    let unnamed: Vec<usize> = plan.partitions.iter().map(|planned| planned.unnamed).collect();
    assert_eq!(unnamed, [1, 0]);
    for planned in &plan.partitions {
        let step = &planned.plan.as_ref().unwrap().step;
        assert_eq!(*step, RecoveryStep::BeginEmpty { generation: 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_was_moved_is_recovered_where_it_lives_now() {
    let (world, target) = (source().await, Target::empty());
    move_it(&world.repository, &target.repository).await.unwrap();
    let refused = plan(&world.repository, &RecoveryRequest::default()).await;
    assert!(
        matches!(refused, Err(CopyError::MovedElsewhere { .. })),
        "{refused:?}"
    );
    let there = plan(&target.other(), &RecoveryRequest::default()).await.unwrap();
    assert!(there.partitions.iter().all(|planned| planned.plan.is_ok()));
}

#[tokio::test]
async fn many_files_are_copied_inside_one_repository_within_the_smallest_budget() {
    let world = World::new().await;
    let names: Vec<String> = (0..40).map(|number| format!("{number:06}.sst")).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let folder = checkpoint(&files);
    let mut wide = world.upload(100, 100);
    wide.dir = folder.path().to_owned();
    publish(&world.repository, &wide).await.unwrap();
    let options = StoreOptions {
        transfer: TransferOptions {
            requests_max: 2,
            ..TransferOptions::default()
        },
        ..StoreOptions::default()
    };
    let store = Arc::new(world.store.clone());
    let narrow = Repository::with_store_and(store, Path::from("base"), &options, seams(3));
    let request = RecoveryRequest {
        partitions: Some([P0].into()),
        ..RecoveryRequest::default()
    };
    let plan = plan(&narrow, &request).await.unwrap();
    let cancel = CancellationToken::new();
    let recovering = narrow.recover(&plan.record, &plan.partitions[0], &NoProgress, &cancel);
    let done = tokio::time::timeout(std::time::Duration::from_secs(30), recovering).await;
    assert!(done.expect("parts wait for each other").is_ok());
    assert_sound(&world, P0).await;
}
