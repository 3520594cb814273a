//! Survey, sweep and prune: what is there is named, and what `may_delete` allows is deleted, and nothing else.

use super::*;
use faults::Fault;
use snapshot_store::{
    DirectoryState, PartitionId, StoredSize, SweepMode, SweepReport, UnknownObject,
    core::{DeleteScope, KeepReason},
    format::{Keys, SnapshotDirectory, Stored},
};

pub(super) async fn sweep(repository: &Repository, mode: SweepMode) -> SweepReport {
    let scope = DeleteScope::CurrentGeneration;
    repository.sweep(P0, scope, mode, &NoProgress).await.unwrap()
}

/// Returns LSN and verdict of every directory that was not deleted.
fn kept(report: &SweepReport) -> Vec<(u64, KeepReason)> {
    report
        .left()
        .map(|found| (found.directory.lsn.get(), found.verdict.unwrap_err()))
        .collect()
}

impl World {
    /// Four snapshots of which two are retained, what an upload left that died, and one that still runs. The log is
    /// certified up to the older retained one.
    async fn with_remains() -> Self {
        let world = World::new().await;
        for lsn in [100, 200, 300, 400] {
            world.publish(lsn, u128::from(lsn)).await.unwrap();
        }
        for (lsn, id) in [(150, 1_500), (500, 5_000)] {
            let directory = entry_of(world.incarnation(), lsn, id).path;
            world
                .put(&format!("0/{directory}/000001.sst"), b"bytes".to_vec())
                .await;
        }
        world.certify(300).await;
        // The probe is no part of what a crash interrupts.
        world.repository.ensure_deletable().await.unwrap();
        world
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_may_go_goes_and_unknown_names_stay() {
    let world = World::new().await;
    for lsn in [100, 200, 300, 400] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    // Unfinished uploads below and above the pointer, another generation, and things that are nobody's business.
    let one = world.incarnation();
    let orphan = entry_of(one, 150, 1_500).path;
    let running = entry_of(one, 500, 5_000).path;
    let next_life = entry_of(incarnation(2), 10, 10).path;
    for key in [
        format!("0/{orphan}/000001.sst"),
        format!("0/{running}/000001.sst"),
        format!("0/{next_life}/000001.sst"),
        "0/notes/readme.txt".to_owned(),
        "0/1-100_old/data".to_owned(),
        "0/stray.txt".to_owned(),
        format!("1/{orphan}/000001.sst"),
    ] {
        world.put(&key, b"bytes".to_vec()).await;
    }
    world.certify(300).await;
    let before = world.keys().await;

    let report = world.repository.prune(P0).await.unwrap();
    let lsns = |directories: &[SnapshotDirectory]| -> Vec<u64> {
        directories.iter().map(|directory| directory.lsn.get()).collect()
    };
    assert_eq!(lsns(&report.deleted), [100, 150, 200]);
    assert_eq!(
        kept(&report),
        [
            (300, KeepReason::Retained),
            (400, KeepReason::Retained),
            (500, KeepReason::NotBelowPointer),
            (10, KeepReason::OtherGeneration),
        ]
    );
    assert!(report.freed.bytes > 10_000);
    let gone: Vec<String> = report
        .deleted
        .iter()
        .map(|directory| format!("base/0/{directory}/"))
        .collect();
    let expected: Vec<String> = before
        .into_iter()
        .filter(|key| !gone.iter().any(|prefix| key.starts_with(prefix)))
        .collect();
    assert_eq!(world.keys().await, expected);
    assert_eq!(world.retained().await, [400, 300]);
}

#[tokio::test(start_paused = true)]
async fn without_certificate_or_with_a_foreign_one_nothing_goes() {
    let world = World::new().await;
    for lsn in [100, 200, 300] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    let before = world.keys().await;
    let report = world.repository.prune(P0).await.unwrap();
    assert!(
        kept(&report)
            .iter()
            .all(|(_, reason)| *reason == KeepReason::NoCertificate)
    );
    assert_eq!(world.keys().await, before);

    let mut foreign = certificate(250, &[entry(300)]);
    foreign.incarnation = world.incarnation();
    world.put(&Keys::certificate(P0), foreign.encode()).await;
    assert_eq!(world.repository.prune(P0).await.unwrap().deleted, []);
    world.put(&Keys::certificate(P0), b"{".to_vec()).await;
    assert!(world.repository.prune(P0).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_pointer_of_another_partition_deletes_nothing() {
    let world = World::new().await;
    for lsn in [100, 200, 300] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    world.certify(200).await;
    let one = PartitionId::new(1);
    for name in ["latest.json", "trim.json"] {
        let bytes = world.get(&format!("0/{name}")).await;
        world.put(&format!("1/{name}"), bytes).await;
    }
    world
        .put(
            &format!("1/{}/CURRENT", entry_of(world.incarnation(), 100, 7).path),
            b"x".to_vec(),
        )
        .await;
    let report = world.repository.prune(one).await.unwrap();
    assert_eq!(report.deleted, []);
    assert_eq!(kept(&report)[0].1, KeepReason::Inconsistent);
}

#[tokio::test(start_paused = true)]
async fn a_survey_names_everything_and_changes_nothing() {
    let world = World::with_remains().await;
    let mut doomed = entry_of(world.incarnation(), 150, 1_500).path.to_string();
    doomed.insert_str(0, "0/");
    for key in [
        "0/notes/readme.txt",
        "0/stray.txt",
        &format!("{doomed}/sub/file"),
        "readme.txt",
        "notes/a/b",
        "2/x",
        "01/x",
    ] {
        world.put(key, b"12345".to_vec()).await;
    }
    let before = world.keys().await;
    let survey = world.other(7).survey(P0).await.unwrap();
    let states: Vec<_> = survey
        .directories
        .iter()
        .map(|found| (found.directory.lsn.get(), found.state, found.verdict.is_ok()))
        .collect();
    assert_eq!(
        states,
        [
            (100, DirectoryState::Evicted, true),
            (150, DirectoryState::Unfinished, true),
            (200, DirectoryState::Evicted, true),
            (300, DirectoryState::Retained, false),
            (400, DirectoryState::Retained, false),
            (500, DirectoryState::Unfinished, false),
        ]
    );
    assert_eq!(
        survey.size_of(DirectoryState::Unfinished),
        StoredSize {
            objects: 2,
            bytes: 10
        }
    );
    let retained = survey.size_of(DirectoryState::Retained);
    assert_eq!(retained.objects, 6, "two files and a manifest each");
    assert!(retained.bytes > 2 * 5_016);
    assert_eq!(survey.documents.objects, 2);
    let unknown: Vec<_> = survey.unknown.iter().map(|found| found.key.as_str()).collect();
    assert_eq!(
        unknown,
        [
            format!("{doomed}/sub/file").as_str(),
            "0/notes/readme.txt",
            "0/stray.txt"
        ]
    );

    let base = world.other(7).survey_base(world.record.partitions).await.unwrap();
    assert_eq!(base.partitions, [P0]);
    let folder = |key: &str| UnknownObject {
        key: key.to_owned(),
        bytes: None,
    };
    let readme = UnknownObject {
        key: "readme.txt".to_owned(),
        bytes: Some(5),
    };
    assert_eq!(
        base.unknown,
        [folder("01/"), folder("2/"), folder("notes/"), readme]
    );

    let listed = sweep(&world.other(8), SweepMode::List).await;
    assert_eq!((listed.survey, listed.deleted), (survey, vec![]));
    assert_eq!(world.keys().await, before);

    // Deleting takes the directory's own objects and leaves the stranger in it.
    sweep(&world.repository, SweepMode::Delete).await;
    let keys = world.keys().await;
    assert!(keys.contains(&format!("base/{doomed}/sub/file")));
    assert!(!keys.contains(&format!("base/{doomed}/000001.sst")));
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_deletion_leaves_what_is_restorable_and_the_next_sweep_finishes() {
    let clean = World::with_remains().await;
    sweep(&clean.repository, SweepMode::Delete).await;
    let expected = clean.keys().await.len();
    for deletions in 0..40 {
        let world = World::with_remains().await;
        world.store.crash_after(deletions);
        let scope = DeleteScope::CurrentGeneration;
        let outcome = world
            .repository
            .sweep(P0, scope, SweepMode::Delete, &NoProgress)
            .await;

        let other = world.other(5);
        assert_eq!(world.retained().await, [400, 300]);
        for entry in other.pointer(P0).await.unwrap().unwrap().value.snapshots {
            let content = other.check_content(P0, &entry, &NoProgress).await.unwrap();
            assert_eq!(content.anomalies, []);
        }
        if let Ok(report) = outcome {
            assert_eq!(report.deleted.len(), 3);
            assert_eq!(deletions, 7, "two files and a manifest, twice, and one file");
            return;
        }
        // No directory with a manifest lacks a file: the manifest went first.
        let survey = other.survey(P0).await.unwrap();
        let evicted = survey
            .directories
            .iter()
            .filter(|found| found.state == DirectoryState::Evicted);
        assert!(evicted.clone().all(|found| found.size.objects == 3));
        sweep(&other, SweepMode::Delete).await;
        assert_eq!(world.keys().await.len(), expected, "after {deletions} deletions");
    }
    panic!("the crash always came first: raise the limit");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_of_a_publication_leaves_what_sweep_can_name() {
    for writes in 0..40 {
        let world = World::with_remains().await;
        world.store.crash_after(writes);
        let outcome = world.publish(450, 45).await;
        let other = world.other(5);
        let survey = other.survey(P0).await.unwrap();
        assert_eq!(survey.unknown, []);
        let left = survey
            .directories
            .iter()
            .find(|found| found.directory.lsn == Lsn::new(450));
        if outcome.is_ok() {
            assert_eq!(left.map(|found| found.state), Some(DirectoryState::Retained));
            return;
        }
        if let Some(left) = left {
            assert_eq!(left.state, DirectoryState::Unfinished);
            assert_eq!(left.verdict, Err(KeepReason::NotBelowPointer));
        }
        // Once the log is trimmed past it, it goes.
        publish(&other, &world.upload(600, 60)).await.unwrap();
        publish(&other, &world.upload(700, 70)).await.unwrap();
        let revived = Repository::with_store(world.memory.clone(), Path::from("base"), seams(6));
        let certifier = World {
            repository: revived,
            ..world
        };
        certifier.certify(600).await;
        let report = sweep(&other, SweepMode::Delete).await;
        let left: Vec<u64> = report.left().map(|found| found.directory.lsn.get()).collect();
        assert_eq!(
            left,
            [300, 400, 600, 700],
            "what the last swap retained, and nothing of the crash"
        );
    }
    panic!("the crash always came first: raise the limit");
}

#[tokio::test(start_paused = true)]
async fn a_running_upload_is_left_alone_and_is_published() {
    let world = World::with_remains().await;
    let (repository, upload) = (world.repository.clone(), world.upload(450, 45));
    world.store.fail_put("metadata.json", Fault::Late);
    let running = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.puts("metadata.json") < 5 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let report = sweep(&world.other(8), SweepMode::Delete).await;
    assert_eq!(report.deleted.len(), 3);
    assert!(kept(&report).contains(&(450, KeepReason::NotBelowPointer)));
    let published = running.await.unwrap().unwrap();
    let content = world
        .other(9)
        .check_content(P0, &published.entry, &NoProgress)
        .await;
    assert_eq!(content.unwrap().anomalies, []);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_overtaken_may_be_swept_away_and_is_never_published() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let (repository, upload) = (world.repository.clone(), world.upload(150, 15));
    for _ in 0..2 {
        world.store.fail_put("metadata.json", Fault::Late);
    }
    let overtaken = tokio::spawn(async move { publish(&repository, &upload).await });
    while world.store.puts("metadata.json") < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let other = world.other(8);
    for lsn in [200, 300] {
        publish(&other, &world.upload(lsn, u128::from(lsn)))
            .await
            .unwrap();
    }
    world.certify(200).await;
    let report = sweep(&other, SweepMode::Delete).await;
    let deleted: Vec<u64> = report
        .deleted
        .iter()
        .map(|directory| directory.lsn.get())
        .collect();
    assert_eq!(deleted, [100, 150]);
    assert!(overtaken.await.unwrap().is_err());
    world.store.land().await;
    assert_eq!(world.retained().await, [300, 200]);
    sweep(&other, SweepMode::Delete).await;
    let left = other.survey(P0).await.unwrap().directories;
    assert_eq!(
        left.iter()
            .map(|found| found.directory.lsn.get())
            .collect::<Vec<_>>(),
        [200, 300]
    );
}

#[tokio::test(start_paused = true)]
async fn an_older_generation_is_swept_only_by_name() {
    let world = World::with_remains().await;
    // The next life of the log, as after a recovery.
    let fork = incarnation(2);
    for lsn in [410, 420, 430] {
        let upload = upload(
            &world.record.cluster,
            fork,
            &world.checkpoint,
            lsn,
            u128::from(lsn),
        );
        publish(&world.repository, &upload).await.unwrap();
    }
    let pointer = world.other(5).pointer(P0).await.unwrap().unwrap().value;
    let draft = snapshot_store::CertificateDraft {
        cluster: world.record.cluster.clone(),
        partition: P0,
        incarnation: fork,
        up_to: Lsn::new(420),
        snapshots: pointer.snapshots[..2].iter().map(certified).collect(),
        issued_by: node("admin-1"),
    };
    world.repository.write_certificate(draft).await.unwrap();
    // The swap that follows evicts what only the old certificate had kept.
    let last = upload(&world.record.cluster, fork, &world.checkpoint, 440, 440);
    publish(&world.repository, &last).await.unwrap();
    let generations = |report: &SweepReport| -> Vec<u64> {
        report.left().map(|found| found.directory.generation).collect()
    };
    let report = sweep(&world.repository, SweepMode::Delete).await;
    assert_eq!(
        report
            .deleted
            .iter()
            .map(|gone| gone.generation)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(generations(&report), [1, 1, 1, 1, 1, 1, 2, 2, 2]);
    let scope = DeleteScope::OlderGeneration(1);
    let report = world
        .repository
        .sweep(P0, scope, SweepMode::Delete, &NoProgress)
        .await
        .unwrap();
    assert_eq!(report.deleted.len(), 6);
    assert_eq!(generations(&report), [2, 2, 2]);
    assert_eq!(world.retained().await, [440, 430, 420]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_belongs_to_nobody_is_not_swept() {
    let world = World::with_remains().await;
    world.delete(Keys::CLUSTER).await;
    let before = world.keys().await;
    assert!(world.other(3).prune(P0).await.is_err());
    let mut foreign = world.record.clone();
    foreign.cluster = other_cluster();
    world.put(Keys::CLUSTER, foreign.encode()).await;
    let report = world.other(4).prune(P0).await.unwrap();
    assert!(
        kept(&report)
            .iter()
            .all(|(_, reason)| *reason == KeepReason::Inconsistent)
    );
    assert_eq!(world.keys().await.len(), before.len() + 1);
}
