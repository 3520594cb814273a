//! Identity, certificate and control state.

use super::*;
use faults::Fault;
use snapshot_store::{
    CertificateDraft, CertificateError, InitError, StoreError,
    format::{Certificate, Control, Keys, Pause, PauseScope, Stored, Unknown},
};

#[tokio::test(start_paused = true)]
async fn init_gives_every_partition_its_own_log_and_a_rerun_changes_nothing() {
    let world = World::new().await;
    assert_eq!(world.record.incarnations.len(), 2);
    let [first, second] = [P0, snapshot_store::PartitionId::new(1)].map(|p| world.record.incarnations[&p]);
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_ne!(first.id, second.id);
    let control = world.get(Keys::CONTROL).await;
    assert_eq!(world.other(7).init(&spec()).await.unwrap(), world.record);
    world.publish(100, 1).await.unwrap();
    assert_eq!(
        world.other(8).init(&spec()).await.unwrap(),
        world.record,
        "also when it is in use"
    );
    assert_eq!(world.get(Keys::CONTROL).await, control);
    assert_eq!(
        world.other(8).cluster().await.unwrap(),
        Some(world.record.clone())
    );
}

#[tokio::test(start_paused = true)]
async fn init_refuses_another_clusters_store() {
    let world = World::new().await;
    for other in [
        snapshot_store::ClusterSpec {
            name: "other".to_owned(),
            ..spec()
        },
        snapshot_store::ClusterSpec {
            partitions: 3,
            ..spec()
        },
    ] {
        assert!(matches!(
            world.repository.init(&other).await,
            Err(InitError::Occupied { .. })
        ));
    }
    for bad in [
        snapshot_store::ClusterSpec {
            name: " ".to_owned(),
            ..spec()
        },
        snapshot_store::ClusterSpec {
            name: "x".repeat(65),
            ..spec()
        },
        snapshot_store::ClusterSpec {
            partitions: 0,
            ..spec()
        },
        snapshot_store::ClusterSpec {
            partitions: 65_537,
            ..spec()
        },
    ] {
        let refused = world.repository.init(&bad).await;
        assert!(
            matches!(
                refused,
                Err(InitError::Name { .. } | InitError::Partitions { .. })
            ),
            "{refused:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn init_writes_nothing_next_to_snapshots_or_certificates() {
    for missing in [Keys::CLUSTER, Keys::CONTROL] {
        for (key, bytes) in [
            (Keys::pointer(P0), pointer(vec![entry(5)]).encode()),
            // Also for a partition that was not asked for, and for bytes nobody understands.
            ("7/trim.json".to_owned(), b"?".to_vec()),
        ] {
            let world = World::new().await;
            world.put(&key, bytes).await;
            world.delete(missing).await;
            let refused = world.repository.init(&spec()).await.unwrap_err();
            assert!(
                matches!(&refused, InitError::InUse { key: found, .. } if *found == key),
                "{refused:?}"
            );
            assert!(world.store.puts(missing) <= 1, "it was not written again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn init_survives_lost_answers_and_a_crash_in_between() {
    for fault in [Fault::After, Fault::FalseLoser] {
        let store = FaultyStore::around(Arc::new(InMemory::new()));
        let repository = Repository::with_store(Arc::new(store.clone()), Path::from("base"), seams(3));
        repository.ensure_capable().await.unwrap();
        store.fail_put("cluster.json", fault);
        store.fail_put("control.json", fault);
        let record = repository.init(&spec()).await.unwrap();
        assert_eq!(repository.cluster().await.unwrap(), Some(record));
    }
    // A crash after cluster.json: the rerun completes the same ids.
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::around(memory.clone());
    let repository = Repository::with_store(Arc::new(store.clone()), Path::from("base"), seams(3));
    repository.ensure_capable().await.unwrap();
    store.crash_after(1);
    assert!(repository.init(&spec()).await.is_err());
    let other = Repository::with_store(memory, Path::from("base"), seams(4));
    let record = other
        .cluster()
        .await
        .unwrap()
        .expect("it was written before the crash");
    assert!(other.control().await.unwrap().is_none());
    assert_eq!(other.init(&spec()).await.unwrap(), record);
    assert!(other.control().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn racing_inits_agree() {
    let memory = Arc::new(InMemory::new());
    let racers: Vec<_> = (0..4)
        .map(|seed| Repository::with_store(memory.clone(), Path::from("base"), seams(seed)))
        .collect();
    let spec = spec();
    let records = futures::future::join_all(racers.iter().map(|racer| racer.init(&spec))).await;
    let records: Vec<ClusterRecord> = records.into_iter().map(Result::unwrap).collect();
    assert!(records.iter().all(|record| *record == records[0]));
}

impl World {
    fn draft(&self, up_to: u64) -> CertificateDraft {
        CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: vec![certified(&entry(900)), certified(&entry(800))],
            issued_by: node("admin-1"),
        }
    }

    async fn certified_to(&self) -> Option<u64> {
        self.other(66)
            .certificate(P0)
            .await
            .unwrap()
            .map(|found| found.value.up_to.get())
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_only_grows() {
    let world = World::new().await;
    let written = world
        .repository
        .write_certificate(world.draft(100))
        .await
        .unwrap();
    let read = world.repository.certificate(P0).await.unwrap().unwrap();
    assert_eq!((written.value, written.version), (read.value, read.version));
    world
        .repository
        .write_certificate(world.draft(200))
        .await
        .unwrap();
    for up_to in [100, 200] {
        let refused = world.other(5).write_certificate(world.draft(up_to)).await;
        assert!(
            matches!(refused, Err(CertificateError::LostRace { in_force, .. }) if in_force == Lsn::new(200))
        );
    }
    // The next life of the log starts over; an older one and a rival are refused.
    let next = CertificateDraft {
        incarnation: incarnation(2),
        ..world.draft(50)
    };
    world.repository.write_certificate(next).await.unwrap();
    for stale in [
        world.incarnation(),
        Incarnation {
            generation: 2,
            ..rival_incarnation()
        },
    ] {
        let refused = world
            .repository
            .write_certificate(CertificateDraft {
                incarnation: stale,
                ..world.draft(300)
            })
            .await;
        assert!(
            matches!(refused, Err(CertificateError::Incarnation { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(world.certified_to().await, Some(50));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_without_snapshots_to_rest_on_is_refused() {
    let world = World::new().await;
    let bare = CertificateDraft {
        snapshots: Vec::new(),
        ..world.draft(100)
    };
    for draft in [bare, world.draft(801)] {
        let refused = world.repository.write_certificate(draft).await;
        assert!(matches!(refused, Err(CertificateError::Unfounded { .. })));
    }
    assert_eq!(world.certified_to().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_or_unreadable_certificate_is_never_overwritten() {
    let world = World::new().await;
    let foreign = Certificate {
        cluster: other_cluster(),
        ..certificate(10, &[entry(10)])
    };
    for bytes in [foreign.encode(), b"{}".to_vec()] {
        world.put("0/trim.json", bytes.clone()).await;
        let refused = world
            .repository
            .write_certificate(world.draft(100))
            .await
            .unwrap_err();
        let expected = matches!(
            &refused,
            CertificateError::Store(StoreError::Foreign { .. } | StoreError::Unusable(_))
        );
        assert!(expected, "{refused:?}");
        assert_eq!(world.get("0/trim.json").await, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn unclear_answers_of_a_certificate_are_settled_by_its_write_id() {
    for fault in [Fault::Before, Fault::After, Fault::FalseLoser, Fault::Late] {
        let world = World::new().await;
        for up_to in [100, 200] {
            world.store.fail_put("0/trim.json", fault);
            let written = world
                .repository
                .write_certificate(world.draft(up_to))
                .await
                .unwrap();
            assert_eq!(written.value.up_to, Lsn::new(up_to));
        }
        assert_eq!(world.store.land().await, 0);
        assert_eq!(world.certified_to().await, Some(200));
    }
    let world = World::new().await;
    for _ in 0..10 {
        world.store.fail_put("0/trim.json", Fault::Late);
    }
    let unclear = world.repository.write_certificate(world.draft(100)).await;
    assert!(
        matches!(
            unclear,
            Err(CertificateError::Store(StoreError::Indeterminate { .. }))
        ),
        "{unclear:?}"
    );
}

fn pause(name: &str) -> Pause {
    Pause {
        scope: PauseScope::Cluster,
        by: name.to_owned(),
        at: at(1),
        reason: "test".to_owned(),
        moved_to: None,
        unknown: Unknown::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn control_changes_survive_unclear_answers_and_rivals() {
    for fault in [Fault::Before, Fault::After, Fault::FalseLoser, Fault::Late] {
        let world = World::new().await;
        world.store.fail_put("control.json", fault);
        let cluster = &world.record.cluster;
        let changed = world
            .repository
            .update_control(cluster, |control| control.pauses.push(pause("a")))
            .await;
        assert_eq!(changed.unwrap().pauses, [pause("a")]);
        world
            .other(5)
            .update_control(cluster, |control| control.pauses.push(pause("b")))
            .await
            .unwrap();
        world.store.land().await;
        let found: Control = world.repository.control().await.unwrap().unwrap().value;
        assert_eq!(found.pauses, [pause("a"), pause("b")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_changes_nothing_writes_nothing() {
    let world = World::new().await;
    let puts = world.store.puts("control.json");
    world
        .repository
        .update_control(&world.record.cluster, |_| ())
        .await
        .unwrap();
    assert_eq!(world.store.puts("control.json"), puts);
}

#[tokio::test(start_paused = true)]
async fn missing_or_foreign_control_state_is_not_created_or_changed() {
    let world = World::new().await;
    let foreign = world
        .repository
        .update_control(&other_cluster(), |control| control.pauses.push(pause("a")))
        .await;
    assert!(matches!(foreign, Err(StoreError::Foreign { .. })), "{foreign:?}");
    world.delete(Keys::CONTROL).await;
    let missing = world
        .repository
        .update_control(&world.record.cluster, |control| control.pauses.push(pause("a")))
        .await;
    assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
    assert!(world.repository.control().await.unwrap().is_none());
}
