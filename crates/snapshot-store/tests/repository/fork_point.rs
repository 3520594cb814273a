//! Where the logs of a fork begin, and where no log may begin empty.

use super::*;
use snapshot_store::{
    ChainHash, ContentHash, Fork, ForkPoint, ForkRefusal, InitError, Lsn, PartitionId, StoreError,
    format::{ChainPoint, ChainTrail, Keys, Manifest, Origin, Stored},
};

const P1: PartitionId = PartitionId::new(1);

fn origin() -> Origin {
    Origin {
        cluster: other_cluster(),
        incarnation: incarnation(1),
        snapshot_id: snapshot_id(66),
    }
}

impl World {
    /// A store as a copy leaves it: logs of generation 2, and in each partition a snapshot at 100 of another cluster.
    async fn forked() -> Self {
        let mut world = World::new().await;
        for incarnation in world.record.incarnations.values_mut() {
            incarnation.generation = 2;
        }
        world.put(Keys::CLUSTER, world.record.encode()).await;
        for (partition, incarnation) in world.record.incarnations.clone() {
            let mut upload = world.upload(100, 1 + u128::from(partition.get()));
            upload.partition = partition;
            upload.incarnation = incarnation;
            upload.key_range.partition = partition.get();
            let hash = ChainHash::of(b"chain");
            let lsn = upload.lsn;
            upload.chain = Some(ChainTrail(vec![ChainPoint { lsn, hash }]));
            publish(&world.repository, &upload).await.unwrap();
            world
                .change_manifest(partition, |manifest| manifest.origin = Some(origin()))
                .await;
        }
        world
    }

    /// Changes the manifest of the latest snapshot, and the pointer so that it names the changed one.
    async fn change_manifest(&self, partition: PartitionId, change: impl FnOnce(&mut Manifest)) {
        let repository = self.other(50);
        let mut pointer = repository.pointer(partition).await.unwrap().unwrap().value;
        let latest = &mut pointer.snapshots[0];
        let mut manifest = repository.manifest(partition, latest).await.unwrap();
        change(&mut manifest);
        let bytes = manifest.encode();
        latest.manifest_hash = ContentHash::of(&bytes);
        self.put(&Keys::manifest(partition, &latest.path), bytes).await;
        self.put(&Keys::pointer(partition), pointer.encode()).await;
    }

    async fn fork(&self) -> Fork {
        self.other(51).fork().await.unwrap()
    }

    /// Expects that partition 0 is refused, and that partition 1 is none the worse for it.
    async fn refusal(&self) -> ForkRefusal {
        let fork = self.fork().await;
        assert!(fork.points[&P1].is_ok(), "{:?}", fork.points);
        fork.points[&P0].clone().unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_begins_after_the_forked_snapshot_and_continues_its_chain() {
    let world = World::forked().await;
    let before = world.keys().await;
    let fork = world.fork().await;
    assert_eq!(fork.record, world.record);
    assert_eq!(fork.points.len(), 2);
    assert_eq!(
        fork.points[&P0],
        Ok(ForkPoint {
            partition: P0,
            incarnation: world.incarnation(),
            snapshot_id: snapshot_id(1),
            lsn: Lsn::new(100),
            chain_hash: Some(ChainHash::of(b"chain")),
            log_bytes: 10_000,
            origin: origin(),
        })
    );
    assert_eq!(world.keys().await, before, "it is only read");
    world.change_manifest(P0, |manifest| manifest.chain = None).await;
    assert_eq!(world.fork().await.points[&P0].as_ref().unwrap().chain_hash, None);
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_a_fresh_fork_is_refused_by_name() {
    let world = World::forked().await;
    world.delete(&Keys::pointer(P0)).await;
    assert_eq!(world.refusal().await, ForkRefusal::NoPointer { partition: P0 });

    let world = World::forked().await;
    let mut record = world.record.clone();
    record.incarnations.insert(P0, incarnation(3));
    world.put(Keys::CLUSTER, record.encode()).await;
    let refusal = world.refusal().await;
    assert!(matches!(refusal, ForkRefusal::OtherIncarnation { expected, .. } if expected == incarnation(3)));

    let world = World::forked().await;
    world.change_manifest(P0, |manifest| manifest.origin = None).await;
    let refusal = world.refusal().await;
    assert!(matches!(refusal, ForkRefusal::NotForked { .. }) && refusal.has_lived_on());

    let world = World::forked().await;
    let origin = Origin {
        incarnation: incarnation(2),
        ..origin()
    };
    world
        .change_manifest(P0, |manifest| manifest.origin = Some(origin))
        .await;
    assert!(matches!(
        world.refusal().await,
        ForkRefusal::NotAbove { ours: 2, .. }
    ));

    let world = World::forked().await;
    world
        .change_manifest(P0, |manifest| manifest.key_range.of = 4)
        .await;
    let refusal = world.refusal().await;
    assert!(matches!(refusal, ForkRefusal::OtherShape { partitions: 2, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_was_trimmed_is_no_fresh_fork() {
    let world = World::forked().await;
    world.publish(200, 9).await.unwrap();
    world.certify(100).await;
    let refusal = world.refusal().await;
    assert_eq!(refusal, ForkRefusal::Trimmed { partition: P0 });
    assert!(refusal.has_lived_on());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_refused() {
    let world = World::forked().await;
    let latest = world
        .other(52)
        .pointer(P0)
        .await
        .unwrap()
        .unwrap()
        .value
        .snapshots[0]
        .clone();
    world.delete(&Keys::file(P0, &latest.path, "000007.sst")).await;
    let refusal = world.refusal().await;
    let text = refusal.to_string();
    assert!(
        matches!(refusal, ForkRefusal::Damaged { .. }) && text.contains("000007.sst"),
        "{text}"
    );
    world.delete(&Keys::manifest(P0, &latest.path)).await;
    assert!(matches!(world.refusal().await, ForkRefusal::Damaged { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_or_foreign_store_is_no_fork() {
    for key in [Keys::CLUSTER, Keys::CONTROL] {
        let world = World::forked().await;
        world.delete(key).await;
        let refused = world.other(53).fork().await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Missing { key: missing } if missing == key),
            "{refused:?}"
        );
    }
    let world = World::forked().await;
    let mut pointer = world.other(54).pointer(P0).await.unwrap().unwrap().value;
    pointer.cluster = other_cluster();
    world.put(&Keys::pointer(P0), pointer.encode()).await;
    let refused = world.other(55).fork().await.unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn no_log_begins_empty_where_something_was_archived() {
    let world = World::new().await;
    world.other(60).may_begin_empty(P0).await.unwrap();
    world.put(&Keys::certificate(P0), "?").await;
    let refused = world.other(61).may_begin_empty(P0).await.unwrap_err();
    assert!(
        matches!(&refused, InitError::Archived { forked: false, .. }),
        "{refused:?}"
    );
    world.delete(&Keys::certificate(P0)).await;
    world.publish(100, 1).await.unwrap();
    let refused = world.other(62).may_begin_empty(P0).await.unwrap_err();
    assert!(
        matches!(&refused, InitError::Archived { forked: false, .. }),
        "{refused:?}"
    );
    world.other(63).may_begin_empty(P1).await.unwrap();

    let refused = World::forked()
        .await
        .other(64)
        .may_begin_empty(P0)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, InitError::Archived { forked: true, .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("--from-fork"), "{refused}");
}
