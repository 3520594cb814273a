//! What every store must do.

use crate::{
    subject::Subject,
    world::{P0, World, checkpoint, publish, spec},
};
use futures::future::join_all;
use snapshot_store::{
    CertificateError, CheckLevel, InitError, PublishError,
    format::{Keys, PointerEntry},
};

fn small() -> tempfile::TempDir {
    checkpoint(&[("CURRENT", 16), ("000007.sst", 5_000)])
}

pub(crate) async fn the_check_accepts_it_and_leaves_nothing(subject: &Subject) {
    let world = World::new(subject, "check").await;
    let before = world.raw.keys().await;
    let other = world.other();
    other.ensure_capable().await.unwrap();
    other.try_conditional_writes(10).await.unwrap();
    other.ensure_deletable().await.unwrap();
    assert_eq!(world.raw.keys().await, before);
}

pub(crate) async fn whoever_initialises_gets_the_same_identity(subject: &Subject) {
    let processes: Vec<_> = (0..8).map(|_| subject.repository("init")).collect();
    let spec = spec(3);
    let records = join_all(processes.iter().map(|process| process.init(&spec))).await;
    let records: Vec<_> = records.into_iter().map(Result::unwrap).collect();
    assert!(records.iter().all(|record| *record == records[0]));
    assert_eq!(records[0].incarnations.len(), 3);
    let other = snapshot_store::ClusterSpec {
        name: "another".to_owned(),
        ..spec
    };
    let refused = subject.repository("init").init(&other).await.unwrap_err();
    assert!(matches!(refused, InitError::Occupied { .. }), "{refused}");
}

pub(crate) async fn a_published_snapshot_comes_back_as_it_was(subject: &Subject) {
    let world = World::new(subject, "publish").await;
    let files = checkpoint(&[("CURRENT", 16), ("000007.sst", 100_000), ("empty", 0)]);
    let published = world.publish(files.path(), 100).await.unwrap();
    let pointer = world.other().pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(pointer, published.pointer);
    assert_eq!(pointer.latest(), Some(&published.entry));
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check(&published.entry, level).await, [""; 0]);
    }
    world.assert_comes_back(&published.entry, files.path()).await;
}

pub(crate) async fn the_pointer_only_grows(subject: &Subject) {
    let world = World::new(subject, "pointer").await;
    let files = small();
    world.publish(files.path(), 100).await.unwrap();
    let another = world.other();
    publish(&another, &world.record, P0, files.path(), 200)
        .await
        .unwrap();
    for lsn in [50, 100, 150, 200] {
        let refused = world.publish(files.path(), lsn).await;
        let Err(PublishError::Superseded { current, .. }) = refused else {
            panic!("{lsn}: {refused:?}")
        };
        assert_eq!(current.lsn.get(), 200, "what covers {lsn}");
    }
    world.publish(files.path(), 300).await.unwrap();
    assert_eq!(world.retained().await, [300, 200]);
    let history: Vec<u64> = world
        .pointer()
        .await
        .history
        .iter()
        .map(|past| past.lsn.get())
        .collect();
    assert_eq!(history, [300, 200, 100]);
}

pub(crate) async fn the_certificate_only_grows(subject: &Subject) {
    let world = World::new(subject, "certificate").await;
    let files = small();
    for lsn in [100, 200] {
        world.publish(files.path(), lsn).await.unwrap();
    }
    world.certify(100).await.unwrap();
    for up_to in [50, 100] {
        let refused = world.certify(up_to).await.unwrap_err();
        assert!(matches!(refused, CertificateError::LostRace { .. }), "{refused}");
    }
    for lsn in [300, 400, 500] {
        world.publish(files.path(), lsn).await.unwrap();
    }
    assert_eq!(
        world.retained().await,
        [500, 400, 200, 100],
        "what it names is retained"
    );
    world.certify(400).await.unwrap();
    world.publish(files.path(), 600).await.unwrap();
    assert_eq!(world.retained().await, [600, 500, 400]);
}

pub(crate) async fn unchanged_files_are_copied_inside_the_store(subject: &Subject) {
    const BIG: usize = 200_000;
    let world = World::new(subject, "incremental").await;
    let first = checkpoint(&[("CURRENT", 16), ("000007.sst", BIG)]);
    world.publish(first.path(), 100).await.unwrap();
    let second = checkpoint(&[("CURRENT", 17), ("000007.sst", BIG), ("000009.sst", 70_000)]);
    let published = world.publish(second.path(), 200).await.unwrap();
    let bytes = |entry: &PointerEntry| (entry.bytes_copied, entry.bytes_uploaded);
    assert_eq!(bytes(&published.entry), (BIG as u64, 70_017));
    world.assert_comes_back(&published.entry, second.path()).await;

    // What it would copy from is gone: it is uploaded.
    for entry in &world.pointer().await.snapshots {
        world.raw.delete(&Keys::file(P0, &entry.path, "000007.sst")).await;
    }
    let published = world.publish(second.path(), 300).await.unwrap();
    assert_eq!(bytes(&published.entry), (70_000, BIG as u64 + 17));
    world.assert_comes_back(&published.entry, second.path()).await;
}

pub(crate) async fn big_files_travel_in_parts(subject: &Subject) {
    let world = World::new(subject, "parts").await;
    let files = checkpoint(&[
        ("000001.sst", 8 << 20),
        ("000002.sst", (8 << 20) + 1),
        ("000003.sst", 17_000_000),
    ]);
    let published = world.publish(files.path(), 100).await.unwrap();
    assert_eq!(world.check(&published.entry, CheckLevel::Content).await, [""; 0]);
    world.assert_comes_back(&published.entry, files.path()).await;
}

pub(crate) async fn damage_is_found(subject: &Subject) {
    let world = World::new(subject, "damage").await;
    let published = world.publish(small().path(), 100).await.unwrap().entry;
    let file = Keys::file(P0, &published.path, "000007.sst");
    let good = world.raw.get(&file).await;
    let mut other = good.clone();
    other[4_000] ^= 1;
    let (presence, content) = (CheckLevel::Presence, CheckLevel::Content);

    world.raw.put(&file, other).await;
    assert_eq!(world.check(&published, presence).await, [""; 0]);
    assert_eq!(world.check(&published, content).await, ["wrong-hash"]);
    world.raw.put(&file, &good[1..]).await;
    assert_eq!(world.check(&published, presence).await, ["wrong-size"]);
    world.raw.delete(&file).await;
    assert_eq!(world.check(&published, presence).await, ["missing-file"]);
    world.raw.put(&file, good).await;
    assert_eq!(world.check(&published, content).await, [""; 0]);
    world.raw.delete(&Keys::manifest(P0, &published.path)).await;
    assert_eq!(world.check(&published, presence).await, ["missing-manifest"]);
}

pub(crate) async fn any_prefix_and_any_foreign_name_will_do(subject: &Subject) {
    let world = World::new(subject, "a prefix/with ü & 100%+#?/[in] it").await;
    let files = checkpoint(&[("A-b_c.1.sst", 100), ("CURRENT", 16)]);
    let published = world.publish(files.path(), 100).await.unwrap();
    world.assert_comes_back(&published.entry, files.path()).await;

    let strange = ["0/a file & 100%+#ü.txt", "0/0000000001-1_x/CURRENT"];
    for key in strange {
        world.raw.put(key, "somebody's").await;
    }
    let survey = world.other().survey(P0).await.unwrap();
    let mut unknown: Vec<_> = survey.unknown.iter().map(|found| found.key.as_str()).collect();
    unknown.sort_unstable();
    assert_eq!(unknown, [strange[1], strange[0]]);
    assert_eq!(survey.directories.len(), 1);
}
