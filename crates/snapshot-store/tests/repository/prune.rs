//! Prune deletes what `may_delete` allows, and nothing else.

use super::*;
use snapshot_store::{
    CertificateDraft,
    core::KeepReason,
    format::{Keys, Stored},
};

impl World {
    async fn certify(&self, up_to: u64) {
        let pointer = self.other(5).pointer(P0).await.unwrap().unwrap().value;
        let draft = CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: pointer.snapshots.iter().map(certified).collect(),
            issued_by: node("admin-1"),
        };
        self.repository.write_certificate(draft).await.unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = object_store::ObjectStore::list(&self.memory, None)
            .try_collect()
            .await
            .unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
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
    let lsns = |directories: &[snapshot_store::format::SnapshotDirectory]| -> Vec<u64> {
        directories.iter().map(|directory| directory.lsn.get()).collect()
    };
    assert_eq!(lsns(&report.deleted), [100, 150, 200]);
    let kept: Vec<_> = report
        .kept
        .iter()
        .map(|(directory, reason)| (directory.lsn.get(), *reason))
        .collect();
    assert_eq!(
        kept,
        [
            (300, KeepReason::Retained),
            (400, KeepReason::Retained),
            (500, KeepReason::NotBelowPointer),
            (10, KeepReason::OtherGeneration),
        ]
    );
    assert!(report.bytes > 10_000);
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
        report
            .kept
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
    let one = snapshot_store::PartitionId::new(1);
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
    assert_eq!(report.kept[0].1, KeepReason::Inconsistent);
}
