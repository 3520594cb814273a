//! What a reader makes of objects that break their form, and of those that the store does not give out.

use super::*;
use faults::Archive;
use snapshot_store::{
    AnomalyKind, ContentHash, ManifestError, StoreError,
    format::{FormatError, Keys, ManifestFile, Pointer, Stored},
};

#[tokio::test(start_paused = true)]
async fn a_pointer_that_breaks_its_form_is_not_believed() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    world.publish(200, 2).await.unwrap();
    let sound = world.other(5).pointer(P0).await.unwrap().unwrap().value;
    type Change = fn(&mut Pointer);
    let cases: [(&str, Change); 4] = [
        ("it names no snapshot", |pointer| pointer.snapshots.clear()),
        ("not sorted newest first", |pointer| pointer.snapshots.reverse()),
        // Two snapshots of one state, each in its own directory: which of them is the newest is not said.
        ("not sorted newest first", |pointer| {
            let incarnation = pointer.snapshots[0].incarnation;
            pointer.snapshots[1] = entry_of(incarnation, 200, 3);
        }),
        ("lives in", |pointer| {
            pointer.snapshots[1].path = pointer.snapshots[0].path;
        }),
    ];
    for (said, change) in cases {
        let mut broken = sound.clone();
        change(&mut broken);
        world.put(&Keys::pointer(P0), broken.encode()).await;
        match world.other(6).pointer(P0).await {
            Err(StoreError::Unusable(FormatError::Unparsable { detail, .. })) => {
                assert!(detail.contains(said), "{said}: {detail}");
            }
            other => panic!("{said}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_certified_snapshot_that_the_store_has_archived_is_damaged_and_one_it_says_nothing_of_is_unknown() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    world.publish(200, 2).await.unwrap();
    world.certify(100).await;
    let certificate = world.other(5).certificate(P0).await.unwrap().unwrap().value;
    let snapshot = &certificate.snapshots[0];
    let read = || world.repository.certified_entry(&certificate, snapshot);

    let pointer = world.other(5).pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(read().await.unwrap(), pointer.snapshots[0], "the very entry");

    world.store.fail_reads("metadata.json", 1_000);
    let silent = read().await;
    assert!(matches!(silent, Err(ManifestError::Store(_))), "{silent:?}");

    world.store.archive("metadata.json", Archive::S3);
    match read().await {
        Err(ManifestError::Damaged(anomaly)) => assert_eq!(anomaly.kind, AnomalyKind::NotReadable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_names_a_file_twice_or_out_of_order_is_not_believed() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let mut entry = world.other(5).pointer(P0).await.unwrap().unwrap().value.snapshots[0].clone();
    let sound = world.other(5).manifest(P0, &entry).await.unwrap();
    type Change = fn(&mut Vec<ManifestFile>);
    let changes: [Change; 2] = [|files| files.push(files[1].clone()), |files| files.reverse()];
    for change in changes {
        let mut broken = sound.clone();
        change(&mut broken.files);
        let bytes = broken.encode();
        // Even where its hash is the one that the pointer names.
        entry.manifest_hash = ContentHash::of(&bytes);
        world.put(&Keys::manifest(P0, &entry.path), bytes).await;
        match world.other(6).manifest(P0, &entry).await {
            Err(ManifestError::Damaged(anomaly)) => {
                assert_eq!(anomaly.kind, AnomalyKind::UnreadableManifest);
                assert!(anomaly.detail.contains("stands twice"), "{anomaly:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
