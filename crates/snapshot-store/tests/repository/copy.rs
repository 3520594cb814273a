//! Moving a repository: what arrives, what is refused, and that a second run has nothing to do.

use super::*;
use snapshot_store::{
    AnomalyKind, CopiedPartition, CopyError, CopyFault, CopyOutcome, CopyReport, ForkRequest, InitError,
    MoveRequest, PartitionId, Progress,
    core::ReplaceRefusal,
    format::{Keys, Pause, PauseScope, Pointer, StickyHold, StickyReason, Stored, Unknown},
};

pub(crate) const P1: PartitionId = PartitionId::new(1);

/// An empty store that something is copied to.
pub(crate) struct Target {
    pub(crate) store: FaultyStore,
    pub(crate) memory: Arc<InMemory>,
    pub(crate) repository: Repository,
    base: &'static str,
}

impl Target {
    pub(crate) fn empty() -> Self {
        Self::at("there")
    }

    pub(crate) fn at(base: &'static str) -> Self {
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::around(memory.clone());
        let repository = Repository::with_store(
            Arc::new(store.clone()),
            Path::from(base),
            seams(base.len() as u64),
        );
        Target {
            store,
            memory,
            repository,
            base,
        }
    }

    /// Another process, without faults.
    pub(crate) fn other(&self) -> Repository {
        let store = FaultyStore::around(self.memory.clone());
        Repository::with_store(Arc::new(store), Path::from(self.base), seams(21))
    }

    pub(crate) async fn pointer(&self, partition: PartitionId) -> Option<Pointer> {
        let found = self.other().pointer(partition).await.unwrap();
        found.map(|found| found.value)
    }

    pub(crate) async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let found = self
            .memory
            .get(&Path::from(format!("{}/{key}", self.base)))
            .await
            .ok()?;
        Some(found.bytes().await.unwrap().to_vec())
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let path = Path::from(format!("{}/{key}", self.base));
        self.memory.put(&path, bytes.into()).await.unwrap();
    }

    /// Asserts that everything the pointer names is there, byte for byte.
    pub(crate) async fn assert_sound(&self, partition: PartitionId) {
        for entry in self
            .pointer(partition)
            .await
            .iter()
            .flat_map(|pointer| &pointer.snapshots)
        {
            let checked = self.other().check_content(partition, entry, &NoProgress).await;
            assert_eq!(checked.unwrap().anomalies, [], "snapshot at {}", entry.lsn);
        }
    }
}

/// A cluster whose first partition retains snapshots at 400, 300 and 200 and is certified up to 200, and whose second one
/// has one at 50.
pub(crate) async fn source() -> World {
    let world = World::new().await;
    for lsn in [100, 200, 300] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    world.certify(200).await;
    world.publish(400, 400).await.unwrap();
    let mut second = world.upload(50, 50);
    second.partition = P1;
    second.incarnation = world.record.incarnations[&P1];
    publish(&world.repository, &second).await.unwrap();
    assert_eq!(world.retained().await, [400, 300, 200]);
    world
}

pub(crate) fn by_ann() -> MoveRequest {
    MoveRequest {
        partitions: None,
        by: "ann".to_owned(),
    }
}

pub(crate) fn as_copy_of_shop(at: Option<u64>) -> ForkRequest {
    ForkRequest {
        partitions: None,
        at: at.map(Lsn::new),
        name: Some("shop-test".to_owned()),
    }
}

pub(crate) async fn move_it(from: &Repository, to: &Repository) -> Result<CopyReport, CopyError> {
    from.move_to(to, &by_ann(), &NoProgress, &CancellationToken::new())
        .await
}

pub(crate) async fn fork_it(
    from: &Repository,
    to: &Repository,
    at: Option<u64>,
) -> Result<CopyReport, CopyError> {
    from.fork_to(to, &as_copy_of_shop(at), &NoProgress, &CancellationToken::new())
        .await
}

pub(crate) fn words(report: &CopyReport) -> Vec<&'static str> {
    report.partitions.iter().map(|one| one.outcome.as_str()).collect()
}

fn fault(one: &CopiedPartition) -> &CopyFault {
    match &one.outcome {
        CopyOutcome::Failed(fault) => fault,
        other => panic!("{other:?}"),
    }
}

/// Asserts that the destination holds what the source retains, byte for byte.
pub(crate) async fn assert_moved(world: &World, target: &Target) {
    for partition in [P0, P1] {
        let here = world.other(30).pointer(partition).await.unwrap().unwrap().value;
        let there = target.pointer(partition).await.unwrap();
        assert_ne!(here.write_id, there.write_id);
        assert_eq!(here.snapshots, there.snapshots);
        assert_eq!(here.history, there.history);
        assert_eq!(here.restorable_snapshots_min, there.restorable_snapshots_min);
        target.assert_sound(partition).await;
        for entry in &here.snapshots {
            let key = Keys::manifest(partition, &entry.path);
            assert_eq!(Some(world.get(&key).await), target.object(&key).await);
        }
        let here = world.other(30).certificate(partition).await.unwrap();
        let there = target.other().certificate(partition).await.unwrap();
        let essence = |found: snapshot_store::Versioned<snapshot_store::format::Certificate>| {
            (found.value.up_to, found.value.snapshots, found.value.issued_at)
        };
        assert_eq!(here.map(essence), there.map(essence));
    }
    assert_eq!(
        target.object(Keys::CLUSTER).await,
        Some(world.get(Keys::CLUSTER).await)
    );
}

#[tokio::test(start_paused = true)]
async fn a_move_brings_everything_and_a_second_one_has_nothing_to_do() {
    let (world, target) = (source().await, Target::empty());
    let paused = Pause {
        scope: PauseScope::Partition(P1),
        by: "bob".to_owned(),
        at: at(3),
        reason: "a look".to_owned(),
        moved_to: None,
        unknown: Unknown::default(),
    };
    let held = StickyHold {
        partition: P0,
        reason: StickyReason::ChainMismatch,
        since: at(4),
        detail: "seen".to_owned(),
        unknown: Unknown::default(),
    };
    let change = |control: &mut snapshot_store::format::Control| {
        control.pauses = vec![paused.clone()];
        control.holds = vec![held.clone()];
    };
    world
        .repository
        .update_control(&world.record.cluster, change)
        .await
        .unwrap();
    let (from, to) = (world.repository.clone(), target.repository.clone());
    // In a task, as an embedding program does.
    let report = tokio::spawn(async move { move_it(&from, &to).await });
    let report = report.await.unwrap().unwrap();
    assert_eq!(words(&report), ["copied", "copied"]);
    assert!(report.all_well() && !report.nothing_to_do());
    let sent: Vec<_> = report.partitions[0]
        .snapshots
        .iter()
        .map(|one| (one.lsn.get(), one.bytes_sent))
        .collect();
    assert_eq!(sent, [(200, 5_016), (300, 5_016), (400, 5_016)], "oldest first");
    assert_moved(&world, &target).await;

    let here = world.other(7).control().await.unwrap().unwrap().value;
    let seal = here.seal().unwrap();
    assert_eq!(seal.moved_to.as_deref(), Some(target.repository.url()));
    assert_eq!((seal.by.as_str(), seal.scope), ("ann", PauseScope::Cluster));
    let there = target.other().control().await.unwrap().unwrap().value;
    assert_eq!((there.pauses, there.holds), (vec![paused], vec![held]));

    let (keys, puts) = (world.keys().await, target.store.puts("json"));
    let again = move_it(&world.repository, &target.repository).await.unwrap();
    assert!(again.nothing_to_do(), "{again:?}");
    assert_eq!(words(&again), ["already-there", "already-there"]);
    assert_eq!(again.seal, report.seal, "the first seal stands");
    assert_eq!((world.keys().await, target.store.puts("json")), (keys, puts));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_grows_meanwhile_is_copied_again() {
    let (world, target) = (source().await, Target::empty());
    let before = world.get(&Keys::pointer(P0)).await;
    world.publish(500, 500).await.unwrap();
    world.certify(300).await;
    let after = world.get(&Keys::pointer(P0)).await;
    world.put(&Keys::pointer(P0), before).await;
    let hook = OnProgress::once(&world, after);
    let cancel = CancellationToken::new();
    let report = world
        .repository
        .move_to(&target.repository, &by_ann(), &hook, &cancel)
        .await;
    assert_eq!(words(&report.unwrap()), ["copied", "copied"]);
    assert_eq!(target.pointer(P0).await.unwrap().snapshots[0].lsn, Lsn::new(500));
    assert_moved(&world, &target).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_rests_is_given_up() {
    let (world, target) = (source().await, Target::empty());
    let hook = OnProgress::always(&world);
    let cancel = CancellationToken::new();
    let report = world
        .repository
        .move_to(&target.repository, &by_ann(), &hook, &cancel)
        .await;
    let report = report.unwrap();
    assert!(
        matches!(fault(&report.partitions[0]), CopyFault::Unstable { .. }),
        "{report:?}"
    );
    assert_eq!(words(&report), ["failed", "copied"]);
    // What was copied is sound all the same.
    assert_moved(&world, &target).await;
}

/// Changes the source's first pointer while it is being copied.
struct OnProgress {
    memory: Arc<InMemory>,
    next: std::sync::Mutex<Option<Vec<u8>>>,
    original: Option<Pointer>,
    draw: Seams,
}

impl OnProgress {
    /// Puts this pointer there, once.
    fn once(world: &World, bytes: Vec<u8>) -> Self {
        OnProgress {
            memory: world.memory.clone(),
            next: std::sync::Mutex::new(Some(bytes)),
            original: None,
            draw: seams(40),
        }
    }

    /// Writes the same pointer anew each time.
    fn always(world: &World) -> Self {
        let path = Path::from("base/0/latest.json");
        let read = async { world.memory.get(&path).await.unwrap().bytes().await.unwrap() };
        let bytes = futures::executor::block_on(read);
        OnProgress {
            original: Some(Pointer::decode("0/latest.json", &bytes).unwrap()),
            ..OnProgress::once(world, Vec::new())
        }
    }
}

impl Progress for OnProgress {
    fn advanced(&self, _: u64) {
        let bytes = match &self.original {
            None => self.next.lock().unwrap().take(),
            Some(pointer) => {
                let mut pointer = pointer.clone();
                pointer.write_id = snapshot_store::WriteId::new(self.draw.ulid());
                Some(pointer.encode())
            }
        };
        if let Some(bytes) = bytes {
            let path = Path::from("base/0/latest.json");
            futures::executor::block_on(self.memory.put(&path, bytes.into())).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_ahead_is_left_alone() {
    let (world, target) = (source().await, Target::empty());
    move_it(&world.repository, &target.repository).await.unwrap();
    // The cluster lives there now.
    for lsn in [600, 700, 800] {
        publish(&target.repository, &world.upload(lsn, u128::from(lsn)))
            .await
            .unwrap();
    }
    let before = target.object(&Keys::pointer(P0)).await;
    let again = move_it(&world.repository, &target.repository).await.unwrap();
    assert!(again.nothing_to_do());
    assert_eq!(target.object(&Keys::pointer(P0)).await, before);

    // And back: its own seal stays until somebody takes it back.
    let back = move_it(&target.repository, &world.repository).await.unwrap();
    assert_eq!(words(&back), ["copied", "already-there"]);
    assert_eq!(back.destination_seal.unwrap().by, "ann");
    assert_eq!(
        world.retained().await,
        [800, 700, 300, 200],
        "the certificate here names the last two"
    );
    let elsewhere = Target::at("elsewhere");
    let refused = move_it(&world.repository, &elsewhere.repository).await;
    assert!(
        matches!(refused, Err(CopyError::MovedElsewhere { .. })),
        "{refused:?}"
    );
    assert_eq!(elsewhere.object(Keys::CLUSTER).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_this_cluster_is_refused_before_the_seal() {
    let world = source().await;
    let other = Target::empty();
    other.repository.init(&spec()).await.unwrap();
    let stray = Target::empty();
    stray.put(&Keys::pointer(P1), b"{}".to_vec()).await;
    let refused = move_it(&world.repository, &other.repository).await;
    assert!(matches!(refused, Err(CopyError::Occupied { .. })), "{refused:?}");
    let refused = move_it(&world.repository, &stray.repository).await;
    assert!(
        matches!(refused, Err(CopyError::Destination(InitError::InUse { .. }))),
        "{refused:?}"
    );
    let refused = move_it(&world.repository, &world.repository.clone()).await;
    assert!(matches!(refused, Err(CopyError::Overlap { .. })), "{refused:?}");
    // The same objects through another client.
    let refused = move_it(&world.repository, &world.other(5)).await;
    assert!(matches!(refused, Err(CopyError::Overlap { .. })), "{refused:?}");
    let request = MoveRequest {
        partitions: Some([PartitionId::new(2)].into()),
        ..by_ann()
    };
    let target = Target::empty();
    let refused = world
        .repository
        .move_to(
            &target.repository,
            &request,
            &NoProgress,
            &CancellationToken::new(),
        )
        .await;
    assert!(
        matches!(refused, Err(CopyError::NoSuchPartition { .. })),
        "{refused:?}"
    );
    let nothing = Target::empty();
    let refused = move_it(&nothing.repository, &target.repository).await;
    assert!(matches!(refused, Err(CopyError::NoCluster { .. })), "{refused:?}");
    assert!(
        world
            .other(6)
            .control()
            .await
            .unwrap()
            .unwrap()
            .value
            .seal()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_pointer_of_another_life_at_the_destination_stands_and_the_other_partition_moves() {
    let (world, target) = (source().await, Target::empty());
    target.put(Keys::CLUSTER, world.get(Keys::CLUSTER).await).await;
    let mut rival = pointer(vec![entry_of(incarnation(2), 10, 10)]);
    rival.cluster = world.record.cluster.clone();
    target.put(&Keys::pointer(P0), rival.encode()).await;
    let control = world.other(3).control().await.unwrap().unwrap().value;
    let mut copy = control.clone();
    copy.write_id = write_id(77);
    target.put(Keys::CONTROL, copy.encode()).await;
    let report = move_it(&world.repository, &target.repository).await.unwrap();
    assert_eq!(words(&report), ["failed", "copied"]);
    let newer = matches!(
        fault(&report.partitions[0]),
        CopyFault::Pointer(PublishError::Refused {
            reason: ReplaceRefusal::NewerIncarnation { .. },
            ..
        })
    );
    assert!(newer, "{report:?}");
    assert_eq!(target.object(&Keys::pointer(P0)).await, Some(rival.encode()));
}

#[tokio::test(start_paused = true)]
async fn damage_at_the_source_is_named_and_stops_that_partition_alone() {
    for (suffix, kind) in [
        ("000007.sst", AnomalyKind::WrongHash),
        ("CURRENT", AnomalyKind::MissingFile),
    ] {
        let (world, target) = (source().await, Target::empty());
        let entry = world.other(3).pointer(P0).await.unwrap().unwrap().value.snapshots[1].clone();
        let key = Keys::file(P0, &entry.path, suffix);
        match kind {
            AnomalyKind::WrongHash => world.put(&key, vec![1; 5_000]).await,
            _ => world.delete(&key).await,
        }
        let report = move_it(&world.repository, &target.repository).await.unwrap();
        assert_eq!(words(&report), ["failed", "copied"]);
        match fault(&report.partitions[0]) {
            CopyFault::Damaged(anomalies) => {
                assert_eq!(
                    (anomalies[0].kind, anomalies[0].key.as_str()),
                    (kind, key.as_str())
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(target.pointer(P0).await, None);
        assert_eq!(target.object(&Keys::manifest(P0, &entry.path)).await, None);
    }
}
