//! Replicas of a cluster that was forked from another one.

use super::bed::{Bed, P0, facts_at, incarnation, until, until_active, write};
use crate::{
    core::{BlockedReason, PartitionState},
    processor::{
        Changes, PartitionHandle, RocksEngine, RocksOptions, StateEngine, StateError, StateFacts,
        StateMetadata, StateSnapshot, StateStore, store::read_metadata,
    },
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as Key};
use partition_log::{Base, Log as _};
use snapshot_store::{
    ChainHash, ClusterIdentity, ContentHash, Fingerprint, Incarnation, Lsn, NodeId, ReplicaRole, SnapshotId,
    Timestamp, WriteId,
    format::{
        Keys, Manifest, Origin, Pointer, PointerEntry, Producer, PublishedSnapshot, Stored, Unknown,
        VerifyLevel,
    },
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

fn other_cluster() -> ClusterIdentity {
    ClusterIdentity {
        name: "other".to_owned(),
        fingerprint: Fingerprint::from_bytes([0xee; 16]),
    }
}

/// A manifest as a fork of a snapshot with this state has it.
pub(in crate::processor) fn forked_manifest(source: &StateMetadata) -> Manifest {
    let snapshot_id = "00000000000000000000000005".parse::<SnapshotId>().unwrap();
    Manifest {
        cluster: other_cluster(),
        partition: P0,
        incarnation: incarnation(3, 9),
        snapshot_id,
        lsn: source.applied_lsn,
        chain: Some(source.chain.trail(source.applied_lsn)),
        state_digest: None,
        leader: None,
        log_bytes: source.log_bytes,
        state_machine: source.state_machine.clone(),
        key_range: source.key_range,
        producer: Producer {
            node: NodeId::new("w1").unwrap(),
            role: ReplicaRole::Follower,
        },
        request_id: None,
        origin: Some(Origin {
            cluster: ClusterIdentity {
                name: "source".to_owned(),
                fingerprint: source.fingerprint,
            },
            incarnation: source.incarnation,
            snapshot_id,
        }),
        created_at: Timestamp::from_millis(0),
        bytes_total: 0,
        bytes_uploaded: 0,
        bytes_copied: 0,
        files: Vec::new(),
        unknown: Unknown::default(),
    }
}

/// A cluster of its own, whose store holds the newest snapshot of another one as a copy leaves it.
struct Fork {
    bed: Bed,
    manifest: Manifest,
    pointer: Pointer,
}

impl Fork {
    /// Copies the snapshot, and creates a log that continues it.
    async fn of(source: &Bed) -> Self {
        Self::with(source, |_| {}, |_| {}).await
    }

    /// The same with a changed manifest, and a log that continues something else.
    async fn with(source: &Bed, change: impl FnOnce(&mut Manifest), base: impl FnOnce(&mut Base)) -> Self {
        let bed = Bed::without_logs(2, 2, incarnation(3, 9)).await;
        let pointer = source.repository.pointer(P0).await.unwrap().unwrap().value;
        let entry = &pointer.snapshots[0];
        let mut manifest = source.repository.manifest(P0, entry).await.unwrap();
        manifest.origin = Some(Origin {
            cluster: source.cluster.clone(),
            incarnation: manifest.incarnation,
            snapshot_id: manifest.snapshot_id,
        });
        manifest.cluster = bed.cluster.clone();
        manifest.incarnation = bed.incarnation;
        manifest.snapshot_id = SnapshotId::new(bed.repository.seams().ulid());
        change(&mut manifest);
        for file in &manifest.files {
            let from = Key::from(Keys::file(P0, &entry.path, &file.name));
            let bytes = source.store.get(&from).await.unwrap().bytes().await.unwrap();
            let to = Keys::file(P0, &manifest.directory(), &file.name);
            bed.store.put(&Key::from(to), bytes.into()).await.unwrap();
        }
        let encoded = manifest.encode();
        let pointer = pointer_to(&bed, entry, &manifest, &encoded);
        put(&bed, &Keys::manifest(P0, &manifest.directory()), encoded).await;
        let fork = Fork {
            bed,
            manifest,
            pointer,
        };
        fork.publish().await;
        let mut continued = Base {
            lsn: fork.manifest.lsn,
            chain_hash: fork.manifest.chain_hash(),
            log_bytes: fork.manifest.log_bytes,
        };
        assert!(continued.chain_hash.is_some());
        base(&mut continued);
        fork.bed
            .provision_after(P0, fork.bed.incarnation, Some(continued))
            .await;
        fork
    }

    async fn publish(&self) {
        put(&self.bed, &Keys::pointer(P0), self.pointer.encode()).await;
    }
}

fn pointer_to(bed: &Bed, source: &PointerEntry, manifest: &Manifest, encoded: &[u8]) -> Pointer {
    let entry = PointerEntry {
        snapshot_id: manifest.snapshot_id,
        incarnation: manifest.incarnation,
        path: manifest.directory(),
        manifest_hash: ContentHash::of(encoded),
        ..source.clone()
    };
    Pointer {
        cluster: bed.cluster.clone(),
        partition: P0,
        write_id: WriteId::new(bed.repository.seams().ulid()),
        restorable_snapshots_min: 2,
        history: vec![PublishedSnapshot {
            snapshot_id: entry.snapshot_id,
            incarnation: entry.incarnation,
            lsn: entry.lsn,
            published_at: entry.created_at,
            unknown: Unknown::default(),
        }],
        snapshots: vec![entry],
        unknown: Unknown::default(),
    }
}

async fn put(bed: &Bed, key: &str, bytes: Vec<u8>) {
    let store: &dyn ObjectStore = &*bed.store;
    store.put(&Key::from(key), bytes.into()).await.unwrap();
}

/// A source with a snapshot, which goes on afterwards, and what its replicas are at the snapshot.
async fn source(records: usize) -> (Bed, StateFacts) {
    let bed = Bed::new().await;
    let (w1, leader) = bed.leader("w1").await;
    let last = write(&leader, records).await;
    let facts = facts_at(&leader, last).await;
    bed.snapshot(&w1).await;
    write(&leader, 20).await;
    w1.shutdown().await;
    (bed, facts)
}

fn blocked_for(handle: &PartitionHandle, reason: BlockedReason) -> impl Future<Output = String> {
    let is_it = move |status: &crate::core::ReplicaStatus| matches!(&status.state, PartitionState::Blocked { reason: found, .. } if *found == reason);
    let reached = until(handle, is_it);
    async move {
        match reached.await.state {
            PartitionState::Blocked { detail, .. } => detail,
            state => panic!("{state:?}"),
        }
    }
}

#[tokio::test]
async fn replicas_of_a_fork_begin_with_the_sources_state_and_go_on_by_themselves() {
    let (source, facts) = source(1500).await;
    let published = source.repository.pointer(P0).await.unwrap().unwrap().value;
    let tail = source.log.info(P0).await.unwrap().tail;
    let fork = Fork::of(&source).await;
    let bed = &fork.bed;

    let (w1, leader) = bed.active("w1").await;
    let (_w2, follower) = bed.active("w2").await;
    assert_eq!(facts_at(&leader, facts.lsn).await, facts);
    assert_eq!(facts_at(&follower, facts.lsn).await, facts);
    let status = leader.status();
    assert_eq!(status.applied_lsn, Some(facts.lsn));
    assert_eq!(status.incarnation, Some(bed.incarnation));
    let (term, address) = status.leader.expect("the source had a leader");
    assert_eq!(address, "", "nobody is sent to the source");

    let epoch = leader.lead().await.unwrap();
    assert_eq!(epoch, term.epoch.next(), "terms come after those of the source");
    let last = write(&leader, 1100).await;
    let expected = facts_at(&leader, last).await;
    assert_eq!(facts_at(&follower, last).await, expected);
    bed.snapshot(&w1).await;
    bed.trim(facts.lsn).await;
    let pointer = bed.repository.pointer(P0).await.unwrap().unwrap().value;
    let own = bed.repository.manifest(P0, &pointer.snapshots[0]).await.unwrap();
    assert_eq!((own.origin, own.lsn, pointer.snapshots.len()), (None, last, 2));
    let (_w3, late) = bed.active("w3").await;
    assert_eq!(facts_at(&late, last).await, expected);
    assert_eq!(late.status().chain, leader.status().chain);

    let untouched = source.repository.pointer(P0).await.unwrap().unwrap().value;
    assert_eq!(untouched, published);
    assert_eq!(source.log.info(P0).await.unwrap().tail, tail);
}

#[tokio::test]
async fn an_adopted_replica_starts_again_without_the_store() {
    let (source, facts) = source(50).await;
    let fork = Fork::of(&source).await;
    let (w1, leader) = fork.bed.leader("w1").await;
    let last = write(&leader, 30).await;
    w1.shutdown().await;
    let requests = fork.bed.store.requests();
    let (_w1, again) = fork.bed.active("w1").await;
    assert_eq!(again.status().applied_lsn, Some(last));
    assert!(last > facts.lsn);
    assert_eq!(fork.bed.store.requests(), requests);
}

#[tokio::test]
async fn without_the_snapshot_a_fork_waits_and_never_begins_at_one() {
    let (source, facts) = source(50).await;
    let fork = Fork::of(&source).await;
    fork.bed
        .store
        .delete(&Key::from(Keys::pointer(P0)))
        .await
        .unwrap();
    let w1 = fork.bed.start(fork.bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    let detail = blocked_for(&replica, BlockedReason::NoCoveringSnapshot).await;
    assert!(detail.contains("continues another one"), "{detail}");
    assert_eq!(replica.status().applied_lsn, None);
    fork.publish().await;
    until_active(&replica).await;
    assert_eq!(facts_at(&replica, facts.lsn).await, facts);
}

#[tokio::test]
async fn a_state_that_is_not_the_origins_is_wrong() {
    let (source, _) = source(50).await;
    let other_log = |manifest: &mut Manifest| {
        let origin = manifest.origin.as_mut().unwrap();
        origin.incarnation = Incarnation {
            generation: 1,
            ..origin.incarnation
        };
    };
    let other_cluster = |manifest: &mut Manifest| manifest.origin.as_mut().unwrap().cluster = other_cluster();
    let no_origin = |manifest: &mut Manifest| manifest.origin = None;
    let other_lsn = |manifest: &mut Manifest| manifest.log_bytes += 1;
    type Change<'a> = &'a dyn Fn(&mut Manifest);
    let wrongs: [(&str, Change<'_>); 4] = [
        ("incarnation", &other_log),
        ("cluster", &other_cluster),
        ("cluster", &no_origin),
        ("log's size", &other_lsn),
    ];
    for (what, wrong) in wrongs {
        let fork = Fork::with(&source, wrong, |_| {}).await;
        let w1 = fork.bed.start(fork.bed.options("w1"));
        let replica = w1.partition(P0).unwrap();
        let detail = blocked_for(&replica, BlockedReason::NoCoveringSnapshot).await;
        assert!(detail.contains(&format!("the {what} is")), "{detail}");
        let report = w1
            .agent()
            .verify(P0, fork.manifest.snapshot_id, VerifyLevel::Restore)
            .await
            .unwrap();
        assert_eq!(report.anomalies[0].kind.as_str(), "wrong-state", "{report:?}");
    }
}

#[tokio::test]
async fn a_forked_snapshot_passes_a_check_by_restoring_it() {
    let (source, _) = source(50).await;
    let fork = Fork::of(&source).await;
    let (w1, _) = fork.bed.active("w1").await;
    let report = w1
        .agent()
        .verify(P0, fork.manifest.snapshot_id, VerifyLevel::Restore)
        .await
        .unwrap();
    assert!(report.ok(), "{report:?}");
}

#[tokio::test]
async fn a_log_that_continues_another_state_blocks() {
    let (source, _) = source(50).await;
    let fork = Fork::with(
        &source,
        |_| {},
        |base| base.chain_hash = Some(ChainHash::of(b"other")),
    )
    .await;
    let w1 = fork.bed.start(fork.bed.options("w1"));
    let replica = w1.partition(P0).unwrap();
    let detail = blocked_for(&replica, BlockedReason::LogIncarnation).await;
    assert!(detail.contains("chain hash"), "{detail}");
}

/// RocksDB, and a copy of the data folder after each step: what a crash there would leave.
struct Crashing {
    inner: RocksEngine,
    copies: Arc<Copies>,
}

struct Copies {
    folder: PathBuf,
    into: PathBuf,
    taken: AtomicUsize,
}

/// Adopting and opening takes fewer steps than this.
const COPIES_MAX: usize = 10;

impl Copies {
    fn take(&self) {
        let number = self.taken.load(Ordering::SeqCst);
        if number < COPIES_MAX {
            copy_all(&self.folder, &self.into.join(format!("crash-{number}"))).unwrap();
            self.taken.store(number + 1, Ordering::SeqCst);
        }
    }
}

/// Copies a folder; what vanishes meanwhile would be gone after a crash as well.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let copied = match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &target),
            false => fs::copy(entry.path(), &target).map(drop),
        };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

impl StateEngine for Crashing {
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError> {
        let inner = self.inner.open(dir)?;
        self.copies.take();
        Ok(Arc::new(CrashingStore {
            inner,
            copies: Arc::clone(&self.copies),
        }))
    }

    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError> {
        self.copies.take();
        self.inner.open_read_only(dir)
    }
}

struct CrashingStore {
    inner: Arc<dyn StateStore>,
    copies: Arc<Copies>,
}

impl StateStore for CrashingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.inner.get(key)
    }

    fn write(&self, changes: &Changes) -> Result<(), StateError> {
        self.inner.write(changes)?;
        self.copies.take();
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        self.inner.flush()?;
        self.copies.take();
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        self.inner.checkpoint(dir)
    }

    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
        Arc::clone(&self.inner).snapshot()
    }

    fn has_snapshots(&self) -> bool {
        self.inner.has_snapshots()
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_adopting_leaves_nothing_or_all_of_it() {
    let (source, facts) = source(50).await;
    let fork = Fork::of(&source).await;
    let bed = &fork.bed;
    let copies = Arc::new(Copies {
        folder: bed.data_dir("w1"),
        into: bed.dir.path().to_owned(),
        taken: AtomicUsize::new(0),
    });
    let engine = Crashing {
        inner: RocksEngine::new(&RocksOptions::default()).unwrap(),
        copies: Arc::clone(&copies),
    };
    let w1 = bed.start_over(bed.options("w1"), Arc::new(engine));
    until_active(&w1.partition(P0).unwrap()).await;
    w1.shutdown().await;

    let plain = RocksEngine::new(&RocksOptions::default()).unwrap();
    let (mut staged, mut adopted) = (0, 0);
    for number in 0..copies.taken.load(Ordering::SeqCst) {
        let name = format!("crash-{number}");
        let state = bed.data_dir(&name).join("partitions/0/state");
        if state.exists() {
            let metadata = read_metadata(&*plain.open_read_only(&state).unwrap())
                .unwrap()
                .unwrap();
            assert_eq!(
                (metadata.fingerprint, metadata.incarnation, metadata.applied_lsn),
                (bed.cluster.fingerprint, bed.incarnation, facts.lsn),
                "{name}"
            );
            adopted += 1;
        } else {
            staged += 1;
        }
        let mut options = bed.options("w1");
        options.data_dir = bed.data_dir(&name);
        let again = bed.start(options);
        let replica = again.partition(P0).unwrap();
        until_active(&replica).await;
        assert_eq!(facts_at(&replica, facts.lsn).await, facts, "{name}");
        again.shutdown().await;
    }
    // Inspected, read, opened, written, flushed, read back; then opened in its place.
    assert!(staged >= 6 && adopted >= 1, "{staged} {adopted}");
    assert_eq!(
        bed.log.info(P0).await.unwrap().tail,
        Lsn::new(facts.lsn.get() + 1)
    );
}
