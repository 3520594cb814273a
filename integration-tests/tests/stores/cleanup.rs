//! What leaves the store, and what stays.

use crate::{
    subject::Subject,
    world::{P0, World, checkpoint},
};
use snapshot_store::{CheckLevel, DirectoryState, Lsn, format::SnapshotDirectory};

pub(crate) async fn only_what_may_go_goes(subject: &Subject) {
    let world = World::new(subject, "sweep").await;
    let files = checkpoint(&[("CURRENT", 16), ("000007.sst", 5_000)]);
    for lsn in [100, 200, 300, 400] {
        world.publish(files.path(), lsn).await.unwrap();
    }
    // An upload that ended early, one that still runs, and what is nobody's business here.
    let attempt = |lsn| SnapshotDirectory {
        generation: 1,
        lsn: Lsn::new(lsn),
        snapshot_id: snapshot_store::SnapshotId::new(world.repository.seams().ulid()),
    };
    let (ended, running) = (attempt(150), attempt(500));
    let stays = [
        format!("0/{running}/000001.sst"),
        "0/notes/readme.txt".to_owned(),
        "readme.txt".to_owned(),
    ];
    for key in stays.iter().chain([&format!("0/{ended}/000001.sst")]) {
        world.raw.put(key, "bytes").await;
    }
    let before = world.raw.keys().await;
    assert_eq!(
        world.other().prune(P0).await.unwrap().deleted,
        [],
        "no certificate, nothing goes"
    );
    assert_eq!(world.raw.keys().await, before);

    world.certify(300).await.unwrap();
    let report = world.other().prune(P0).await.unwrap();
    let deleted: Vec<u64> = report.deleted.iter().map(|found| found.lsn.get()).collect();
    assert_eq!(deleted, [100, 150, 200]);
    let keys = world.raw.keys().await;
    assert!(stays.iter().all(|key| keys.contains(key)), "{keys:?}");
    let survey = world.other().survey(P0).await.unwrap();
    assert_eq!(survey.size_of(DirectoryState::Retained).objects, 6);
    assert_eq!(survey.directories.len(), 3);
    for entry in &world.pointer().await.snapshots {
        assert_eq!(world.check(entry, CheckLevel::Content).await, [""; 0]);
    }
    assert_eq!(world.other().prune(P0).await.unwrap().deleted, []);
}

pub(crate) async fn more_than_a_thousand_objects_are_listed(subject: &Subject) {
    const FILES: usize = 1_010;
    let world = World::new(subject, "many").await;
    let names: Vec<String> = (0..FILES).map(|number| format!("{number:06}.sst")).collect();
    let sizes: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let many = checkpoint(&sizes);
    // Publishing lists what it uploaded.
    let published = world.publish(many.path(), 100).await.unwrap();
    assert_eq!(published.entry.files as usize, FILES);
    assert_eq!(world.check(&published.entry, CheckLevel::Presence).await, [""; 0]);
    let survey = world.other().survey(P0).await.unwrap();
    let retained = survey.size_of(DirectoryState::Retained);
    assert_eq!(retained.objects, FILES as u64 + 1);
}
