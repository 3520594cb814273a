//! Publishing without faults: what becomes visible, what is kept, what is refused.

use super::*;
use snapshot_store::{
    AnomalyKind, Progress, StoreError,
    core::ReplaceRefusal,
    format::{Keys, Stored},
};
use std::sync::atomic::{AtomicU64, Ordering};

type Expected = dyn Fn(&PublishError) -> bool;

#[derive(Default)]
struct Counted {
    advanced: AtomicU64,
    total: AtomicU64,
}

impl Progress for Counted {
    fn advanced(&self, bytes: u64) {
        self.advanced.fetch_add(bytes, Ordering::SeqCst);
    }

    fn total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_published_snapshot_is_complete_and_described() {
    let world = World::new().await;
    let progress = Counted::default();
    let upload = world.upload(100, 1);
    let published = world
        .repository
        .publish(&upload, &progress, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(progress.advanced.load(Ordering::SeqCst), 5_016);
    assert_eq!(progress.total.load(Ordering::SeqCst), 5_016);

    let pointer = world.repository.pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(pointer, published.pointer);
    assert_eq!(pointer.latest(), Some(&published.entry));
    assert_eq!(pointer.restorable_snapshots_min, 2);
    assert!(pointer.has_published(snapshot_id(1)));
    assert_eq!(
        world
            .repository
            .check_presence(P0, &published.entry)
            .await
            .unwrap(),
        []
    );
    let content = world
        .repository
        .check_content(P0, &published.entry, &NoProgress)
        .await
        .unwrap();
    assert_eq!((content.anomalies, content.bytes_read), (vec![], 5_016));

    let manifest = content.manifest.unwrap();
    assert_eq!(manifest.directory(), published.entry.path);
    let names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["000007.sst", "CURRENT"]);
    let text = String::from_utf8(manifest.encode()).unwrap();
    assert!(
        !text.contains(world.checkpoint.path().to_str().unwrap()),
        "no path of the producer"
    );
}

#[tokio::test(start_paused = true)]
async fn big_files_go_up_in_parts_and_come_back_the_same() {
    let mut world = World::new().await;
    world.checkpoint = checkpoint(&[("big.sst", 20_000_000), ("empty", 0), ("part.sst", 8 << 20)]);
    let published = world.publish(100, 1).await.unwrap();
    assert_eq!(published.entry.bytes_total, 20_000_000 + (8 << 20));
    assert_eq!(world.store.puts("big.sst"), 0, "it went up in parts");
    let content = world
        .repository
        .check_content(P0, &published.entry, &NoProgress)
        .await
        .unwrap();
    assert_eq!(content.anomalies, []);
    let bytes = world.get(&Keys::file(P0, &published.entry.path, "big.sst")).await;
    assert_eq!(
        bytes,
        std::fs::read(world.checkpoint.path().join("big.sst")).unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_already_covered_is_not_uploaded() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let puts = world.store.puts("");
    for lsn in [50, 100] {
        let refused = world.publish(lsn, u128::from(lsn)).await;
        let Err(PublishError::Superseded { current, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(current.snapshot_id, snapshot_id(1));
    }
    assert_eq!(world.store.puts(""), puts, "not a single write");
}

#[tokio::test(start_paused = true)]
async fn retention_follows_the_number_and_the_certificate() {
    let world = World::new().await;
    for lsn in [100, 200, 300] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    assert_eq!(world.retained().await, [300, 200]);

    // A certificate keeps what it names.
    let pointer = world.repository.pointer(P0).await.unwrap().unwrap().value;
    let mut certificate = certificate(200, &pointer.snapshots);
    certificate.cluster = world.record.cluster.clone();
    certificate.incarnation = world.incarnation();
    world.put(&Keys::certificate(P0), certificate.encode()).await;
    for lsn in [400, 500] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    assert_eq!(world.retained().await, [500, 400, 300, 200]);

    // A publisher keeps the larger of what it was told and what the pointer says; only an order lowers it.
    let told = |lsn: u64, min: u32, lower: bool| SnapshotUpload {
        restorable_snapshots_min: Some(min),
        lower_restorable_min: lower,
        ..world.upload(lsn, u128::from(lsn))
    };
    for (upload, expected) in [
        (told(600, 5, false), 5),
        (told(700, 1, false), 5),
        (told(800, 3, true), 3),
    ] {
        let published = publish(&world.repository, &upload).await.unwrap();
        assert_eq!(published.pointer.restorable_snapshots_min, expected);
    }
    assert_eq!(world.retained().await, [800, 700, 600, 300, 200]);
}

#[tokio::test(start_paused = true)]
async fn the_history_is_bounded_and_newest_first() {
    let world = World::new().await;
    for lsn in 1..=70 {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    let history = world.repository.pointer(P0).await.unwrap().unwrap().value.history;
    assert_eq!(history.len(), 64);
    assert!(history.is_sorted_by(|newer, older| newer.lsn > older.lsn));
}

#[tokio::test(start_paused = true)]
async fn a_pointer_that_cannot_be_understood_is_never_overwritten() {
    let world = World::new().await;
    let key = Keys::pointer(P0);
    let published = world.publish(100, 1).await.unwrap();
    let good = world.get(&key).await;
    let text = String::from_utf8(good.clone()).unwrap();
    let mut foreign = published.pointer.clone();
    foreign.cluster = other_cluster();
    let mut empty = published.pointer.clone();
    empty.snapshots.clear();
    let mut misplaced = published.pointer.clone();
    misplaced.snapshots[0].path = entry(7).path;

    let unusable = |error: &PublishError| matches!(error, PublishError::Store(StoreError::Unusable(_)));
    let foreign_refused = |error: &PublishError| {
        matches!(
            error,
            PublishError::Refused {
                reason: ReplaceRefusal::Foreign { .. },
                ..
            }
        )
    };
    let cases: Vec<(Vec<u8>, &Expected)> = vec![
        (b"{".to_vec(), &unusable),
        (Vec::new(), &unusable),
        (
            text.replacen("\"format\": 1", "\"format\": 2", 1).into_bytes(),
            &unusable,
        ),
        (empty.encode(), &unusable),
        (misplaced.encode(), &unusable),
        (foreign.encode(), &foreign_refused),
    ];
    for (bytes, expected) in cases {
        world.put(&key, bytes.clone()).await;
        let error = world.publish(200, 2).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(
            error.to_string().contains(&key),
            "{error} does not name the object"
        );
        assert!(!error.is_retryable());
        assert_eq!(world.get(&key).await, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_of_another_cluster_or_none_is_refused_before_anything_is_written() {
    let world = World::new().await;
    let mut upload = world.upload(100, 1);
    upload.cluster = other_cluster();
    let puts = world.store.puts("");
    let refused = publish(&world.repository, &upload).await;
    assert!(
        matches!(refused, Err(PublishError::Store(StoreError::Foreign { .. }))),
        "{refused:?}"
    );
    world.delete(Keys::CLUSTER).await;
    let refused = world.publish(100, 1).await;
    assert!(
        matches!(refused, Err(PublishError::Store(StoreError::Missing { .. }))),
        "{refused:?}"
    );
    assert_eq!(world.store.puts(""), puts);
}

#[tokio::test(start_paused = true)]
async fn a_missing_pointer_is_not_replaced_below_the_trim_point() {
    let world = World::new().await;
    let mut upload = world.upload(100, 1);
    upload.trimmed = Some((world.incarnation(), Lsn::new(150)));
    let refused = publish(&world.repository, &upload).await;
    let floor = ReplaceRefusal::BelowFloor { floor: Lsn::new(150) };
    assert!(matches!(refused, Err(PublishError::Refused { reason, .. }) if reason == floor));
    upload.lsn = Lsn::new(150);
    publish(&world.repository, &upload).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cancelling_before_the_swap_leaves_the_pointer_alone() {
    let world = World::new().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let refused = world
        .repository
        .publish(&world.upload(100, 1), &NoProgress, &cancel)
        .await;
    assert!(matches!(refused, Err(PublishError::Cancelled)));
    assert_eq!(world.retained().await, [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_no_snapshot_is_refused() {
    let world = World::new().await;
    let bad = |name: &str| {
        let checkpoint = checkpoint(&[("CURRENT", 16)]);
        std::fs::write(checkpoint.path().join(name), b"x").unwrap();
        checkpoint
    };
    let with_folder = checkpoint(&[("CURRENT", 16)]);
    std::fs::create_dir(with_folder.path().join("folder")).unwrap();
    for checkpoint in [
        bad("metadata.json"),
        bad("a b"),
        bad(".hidden"),
        bad("x#1"),
        with_folder,
    ] {
        let upload = SnapshotUpload {
            dir: checkpoint.path().to_owned(),
            ..world.upload(100, 1)
        };
        let refused = publish(&world.repository, &upload).await;
        assert!(matches!(refused, Err(PublishError::Local(_))), "{refused:?}");
    }
    let upload = SnapshotUpload {
        dir: "/nonexistent/checkpoint".into(),
        ..world.upload(100, 1)
    };
    assert!(matches!(
        publish(&world.repository, &upload).await,
        Err(PublishError::Local(_))
    ));
    assert_eq!(world.retained().await, [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn racing_publishers_leave_one_winner_and_no_pointer_that_went_back() {
    for seed in 0..20 {
        let world = World::new().await;
        let racers: Vec<_> = (1..=5)
            .map(|racer| (world.other(100 * seed + racer), world.upload(racer, racer.into())))
            .collect();
        let outcomes = futures::future::join_all(
            racers
                .iter()
                .map(|(repository, upload)| publish(repository, upload)),
        )
        .await;
        assert_eq!(world.retained().await[0], 5, "the highest always gets there");
        let history = world.other(9).pointer(P0).await.unwrap().unwrap().value.history;
        assert!(history.is_sorted_by(|newer, older| newer.lsn > older.lsn));
        for (position, outcome) in outcomes.iter().enumerate() {
            let in_history = history
                .iter()
                .any(|published| published.snapshot_id == snapshot_id(position as u128 + 1));
            match outcome {
                Ok(_) => assert!(in_history),
                Err(PublishError::Superseded { .. }) => assert!(!in_history),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn every_kind_of_damage_has_a_word_and_a_remedy() {
    for kind in AnomalyKind::ALL {
        assert!(!kind.remedy().is_empty());
        assert!(
            kind.as_str()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        );
    }
}

#[test]
fn the_future_can_be_sent_to_another_thread() {
    fn check<T: Send>(_: T) {}
    let upload = upload(&cluster(), incarnation(1), &checkpoint(&[]), 1, 1);
    let repository = Repository::open("memory://", seams(1)).unwrap();
    check(repository.publish(&upload, &NoProgress, &CancellationToken::new()));
    check(repository.download(P0, &entry(1), std::path::Path::new("x"), &NoProgress));
    check(repository.check_content(P0, &entry(1), &NoProgress));
    check(repository.prune(P0));
}
