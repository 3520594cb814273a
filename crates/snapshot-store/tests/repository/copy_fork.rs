//! Forking a repository: another cluster with copies of the newest sound snapshots.

use super::{
    copy::{P1, Target, fork_it, move_it, source, words},
    *,
};
use object_store::ObjectStore;
use snapshot_store::{
    AnomalyKind, CopyError, DirectoryState, ForkRequest,
    format::{Keys, Manifest},
};

#[tokio::test(start_paused = true)]
async fn a_fork_is_another_cluster_with_the_newest_sound_snapshot() {
    let (world, target) = (source().await, Target::empty());
    let before = world.keys().await;
    let report = fork_it(&world.repository, &target.repository, None)
        .await
        .unwrap();
    assert_eq!(words(&report), ["copied", "copied"]);
    let record = target.other().cluster().await.unwrap().unwrap();
    assert_eq!(report.cluster, record.cluster);
    assert_eq!(record.cluster.name, "shop-test");
    assert_ne!(record.cluster.fingerprint, world.record.cluster.fingerprint);
    assert_eq!(record.forked_from.as_ref(), Some(&world.record.cluster));
    assert_eq!((record.partitions, record.key_hash), (2, KeyHash::Blake3Mod));
    for (partition, lsn) in [(P0, 400), (P1, 50)] {
        let pointer = target.pointer(partition).await.unwrap();
        let [entry] = pointer.snapshots.as_slice() else {
            panic!("{pointer:?}")
        };
        assert_eq!(
            (entry.lsn.get(), entry.incarnation),
            (lsn, record.incarnations[&partition])
        );
        assert_eq!(
            (entry.incarnation.generation, pointer.restorable_snapshots_min),
            (2, 2)
        );
        target.assert_sound(partition).await;
        let manifest = target.other().manifest(partition, entry).await.unwrap();
        let origin = manifest.origin.unwrap();
        assert_eq!(manifest.cluster, record.cluster);
        assert_eq!(origin.cluster, world.record.cluster);
        assert_eq!(origin.incarnation, world.record.incarnations[&partition]);
        assert_eq!(origin.snapshot_id, snapshot_id(u128::from(lsn)));
        assert_ne!(manifest.snapshot_id, origin.snapshot_id);
        assert!(target.other().certificate(partition).await.unwrap().is_none());
    }
    let control = target.other().control().await.unwrap().unwrap().value;
    assert!(control.pauses.is_empty() && control.holds.is_empty());
    assert_eq!(world.keys().await, before, "the source is only read");

    // The source goes on; what was forked does not.
    world.publish(500, 500).await.unwrap();
    let puts = target.store.puts("");
    let again = fork_it(&world.repository, &target.repository, None)
        .await
        .unwrap();
    assert!(again.nothing_to_do());
    assert_eq!(target.store.puts(""), puts);

    // A fork of the fork: the files still hold the state of the first cluster.
    let second = Target::at("elsewhere");
    fork_it(&target.other(), &second.repository, None).await.unwrap();
    let entry = second.pointer(P0).await.unwrap().snapshots[0].clone();
    let manifest: Manifest = second.other().manifest(P0, &entry).await.unwrap();
    assert_eq!(entry.incarnation.generation, 3);
    assert_eq!(manifest.origin.unwrap().cluster, world.record.cluster);
}

#[tokio::test(start_paused = true)]
async fn a_fork_at_an_lsn_takes_the_newest_at_or_below_it() {
    for (at, expected, words_expected) in [
        (399, Some(300), ["copied", "copied"]),
        (300, Some(300), ["copied", "copied"]),
        (199, None, ["no-snapshot", "copied"]),
        (10, None, ["no-snapshot", "no-snapshot"]),
    ] {
        let (world, target) = (source().await, Target::empty());
        let report = fork_it(&world.repository, &target.repository, Some(at))
            .await
            .unwrap();
        assert_eq!(words(&report), words_expected, "{at}");
        let there = target
            .pointer(P0)
            .await
            .map(|pointer| pointer.snapshots[0].lsn.get());
        assert_eq!(there, expected, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fork_passes_over_what_is_damaged_and_says_so() {
    let (world, target) = (source().await, Target::empty());
    let entries = world.other(3).pointer(P0).await.unwrap().unwrap().value.snapshots;
    world
        .put(&Keys::file(P0, &entries[0].path, "000007.sst"), vec![1; 5_000])
        .await;
    let report = fork_it(&world.repository, &target.repository, None)
        .await
        .unwrap();
    assert_eq!(words(&report), ["copied", "copied"]);
    let passed = &report.partitions[0].passed_over;
    assert_eq!(
        (passed[0].lsn.get(), passed[0].anomalies[0].kind),
        (400, AnomalyKind::WrongHash)
    );
    assert_eq!(target.pointer(P0).await.unwrap().snapshots[0].lsn, Lsn::new(300));
    // What the damaged one left has a name, and no reader takes it for a snapshot.
    let survey = target.other().survey(P0).await.unwrap();
    assert!(
        survey.size_of(DirectoryState::Unfinished).objects <= 1,
        "the file beside the damaged one"
    );
    assert_eq!(survey.size_of(DirectoryState::Retained).objects, 3);
    assert!(survey.unknown.is_empty());

    for entry in &entries {
        world.delete(&Keys::file(P0, &entry.path, "CURRENT")).await;
    }
    let target = Target::empty();
    let report = fork_it(&world.repository, &target.repository, None)
        .await
        .unwrap();
    assert_eq!(words(&report), ["failed", "copied"]);
    assert_eq!(report.partitions[0].passed_over.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_fork_needs_a_place_of_its_own() {
    let world = source().await;
    let own = Target::empty();
    own.repository.init(&spec()).await.unwrap();
    let refused = fork_it(&world.repository, &own.repository, None).await;
    assert!(matches!(refused, Err(CopyError::Occupied { .. })), "{refused:?}");
    let moved = Target::empty();
    move_it(&world.repository, &moved.repository).await.unwrap();
    let refused = fork_it(&world.repository, &moved.repository, None).await;
    assert!(
        matches!(refused, Err(CopyError::SameCluster { .. })),
        "{refused:?}"
    );
    let empty = Target::empty();
    let nameless = ForkRequest::default();
    let cancel = CancellationToken::new();
    let refused = world
        .repository
        .fork_to(&empty.repository, &nameless, &NoProgress, &cancel)
        .await;
    assert!(matches!(refused, Err(CopyError::Nameless)), "{refused:?}");
    // A fork of one cluster never takes in another one's.
    let forked = Target::empty();
    fork_it(&world.repository, &forked.repository, None)
        .await
        .unwrap();
    let stranger = Target::empty();
    stranger.repository.init(&spec()).await.unwrap();
    let refused = fork_it(&stranger.repository, &forked.repository, None).await;
    assert!(matches!(refused, Err(CopyError::Occupied { .. })), "{refused:?}");
    let listed = ObjectStore::list(&*empty.memory, None);
    assert_eq!(futures::StreamExt::count(listed).await, 0);
}
