//! What the benchmarks stand on: replicas of one partition in this process, their log and their store, with the
//! key-value state machine and the RocksDB options of a worker.

use bytes::Bytes;
use futures::StreamExt as _;
use partition_log::{
    Log, LogAdmin, Registration,
    embedded::{EmbeddedLog, EmbeddedOptions},
    memory::MemoryLog,
};
use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{SliceRandom as _, index},
};
use snapshot_proto::kv::{Operation, operation::Change};
use snapshot_store::{
    ClusterSpec, Lsn, NodeId, PartitionId, Repository, RequestId, Seams,
    format::{ClusterRecord, KeyHash, Manifest},
};
use snapshot_worker::{
    agent::{CreateSnapshot, ExportEvent, LocalIdentity, PublishedExport},
    core::{PartitionState, ReplicaStatus},
    processor::{PartitionHandle, Worker, WorkerOptions},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tidemark::kv::{
    machine::{KvMachine, PAIRS, encode},
    rules::{WRITE_BYTES_MAX, WRITE_OPERATIONS_MAX},
};

pub(super) const PARTITION: PartitionId = PartitionId::new(0);
/// The replica that leads; the others are followers.
pub(super) const LEADER: usize = 0;
/// Waiting longer than this for replicas or for a snapshot means that something is broken.
const PATIENCE: Duration = Duration::from_secs(600);
/// After a load, files must stay as they are for this long: then the compactions it caused are over.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Replicas of one partition, their log and their store.
pub(super) struct Bed {
    pub(super) rng: StdRng,
    pub(super) repository: Repository,
    pub(super) log: Arc<dyn Log>,
    record: ClusterRecord,
    admin: Arc<dyn LogAdmin>,
    embedded: Option<EmbeddedLog>,
    workers: BTreeMap<usize, Worker>,
    seams: Seams,
    folder: PathBuf,
    /// Removes the folder in the end, where it is the bed's own.
    temporary: Option<TempDir>,
}

impl Bed {
    /// A cluster without replicas whose log lies in memory.
    #[allow(dead_code, reason = "not every benchmark needs both logs")]
    pub(super) async fn in_memory(seed: u64, repository: Repository) -> Self {
        let (log, own) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let bed = Self::with_log(seed, repository, Arc::new(log.clone()), Arc::new(log), own.path()).await;
        Bed {
            temporary: Some(own),
            ..bed
        }
    }

    /// A cluster without replicas whose log is the embedded one.
    pub(super) async fn on_disk(seed: u64, repository: Repository) -> Self {
        let own = tempfile::tempdir().unwrap();
        let bed = Self::in_folder(seed, repository, own.path()).await;
        Bed {
            temporary: Some(own),
            ..bed
        }
    }

    /// The same with all it has in `folder`, which stays; goes on with what is there.
    pub(super) async fn in_folder(seed: u64, repository: Repository, folder: &Path) -> Self {
        let log = EmbeddedLog::open(&folder.join("log"), EmbeddedOptions::default()).unwrap();
        let bed = Self::with_log(
            seed,
            repository,
            Arc::new(log.clone()),
            Arc::new(log.clone()),
            folder,
        );
        Bed {
            embedded: Some(log),
            ..bed.await
        }
    }

    async fn with_log(
        seed: u64,
        repository: Repository,
        log: Arc<dyn Log>,
        admin: Arc<dyn LogAdmin>,
        folder: &Path,
    ) -> Self {
        let spec = ClusterSpec {
            name: "bench".to_owned(),
            partitions: 1,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await.unwrap();
        let registration = Registration {
            partition: PARTITION,
            incarnation: record.incarnations[&PARTITION],
            fingerprint: record.cluster.fingerprint,
            base: None,
            sealed: false,
            passage: None,
        };
        admin.provision(registration).await.unwrap();
        Bed {
            rng: StdRng::seed_from_u64(seed),
            repository,
            log,
            record,
            admin,
            embedded: None,
            workers: BTreeMap::new(),
            seams: Seams::real(),
            folder: folder.to_owned(),
            temporary: None,
        }
    }

    /// Starts a replica on what its folder holds, and waits until it is active.
    pub(super) async fn start(&mut self, number: usize) {
        self.launch(number).await;
        self.until(number, |status| status.state == PartitionState::Active)
            .await;
    }

    /// Returns how a replica is started.
    pub(super) async fn options(&self, number: usize) -> WorkerOptions {
        let node = NodeId::new(format!("worker-{number}")).unwrap();
        let data_dir = self.data_dir(number);
        std::fs::create_dir_all(&data_dir).unwrap();
        let identity = LocalIdentity::adopt(&data_dir, &node, &self.repository)
            .await
            .unwrap();
        WorkerOptions {
            partitions: vec![PARTITION],
            ..WorkerOptions::new(node, "http://127.0.0.1:1".to_owned(), data_dir, identity)
        }
    }

    /// Starts a replica on what its folder holds.
    pub(super) async fn launch(&mut self, number: usize) {
        let options = self.options(number).await;
        let log = Arc::clone(&self.log);
        let (repository, seams) = (self.repository.clone(), self.seams.clone());
        let worker = Worker::start(options, Arc::new(KvMachine), log, repository, seams).unwrap();
        self.workers.insert(number, worker);
    }

    /// Stops a replica; its folder stays.
    #[allow(dead_code, reason = "not every benchmark stops replicas")]
    pub(super) async fn stop(&mut self, number: usize) {
        self.workers.remove(&number).unwrap().shutdown().await;
    }

    /// Takes the state from a replica whose node goes on, and waits until it is active again.
    #[allow(dead_code, reason = "not every benchmark looks at restores")]
    pub(super) async fn lose_partition(&self, number: usize) {
        let worker = &self.workers[&number];
        assert!(worker.close_partition(PARTITION).await);
        std::fs::remove_dir_all(self.state_dir(number)).unwrap();
        worker.open_partition(PARTITION).unwrap();
        self.until(number, |status| status.state == PartitionState::Active)
            .await;
    }

    /// The folder of a replica.
    pub(super) fn data_dir(&self, number: usize) -> PathBuf {
        self.folder.join(format!("worker-{number}"))
    }

    /// The folder of a replica's state.
    #[allow(dead_code, reason = "not every benchmark looks at states")]
    pub(super) fn state_dir(&self, number: usize) -> PathBuf {
        state_below(&self.data_dir(number))
    }

    pub(super) fn handle(&self, number: usize) -> PartitionHandle {
        self.workers[&number].partition(PARTITION).unwrap()
    }

    /// What a replica says of itself, with what its agent knows.
    #[allow(dead_code, reason = "not every benchmark looks at restores")]
    pub(super) fn status(&self, number: usize) -> ReplicaStatus {
        self.workers[&number].agent().replica(PARTITION).unwrap()
    }

    pub(super) async fn until(&self, number: usize, wanted: impl Fn(&ReplicaStatus) -> bool) {
        let mut status = self.handle(number).watch();
        let reached = status.wait_for(|status| wanted(status));
        tokio::time::timeout(PATIENCE, reached).await.unwrap().unwrap();
    }

    /// Writes `keys` keys in random order, and waits until all replicas have them and have put them in order.
    pub(super) async fn load(&mut self, keys: usize, value_bytes: usize) {
        let mut keys: Vec<usize> = (0..keys).collect();
        keys.shuffle(&mut self.rng);
        self.write(&keys, value_bytes).await;
        self.settle().await;
    }

    /// Waits until no replica compacts any more.
    pub(super) async fn settle(&self) {
        let tables = || -> BTreeSet<PathBuf> {
            let folders = self.workers.keys().map(|number| self.data_dir(*number));
            folders.flat_map(|folder| tables_below(&folder)).collect()
        };
        let (mut seen, mut since) = (tables(), tokio::time::Instant::now());
        let deadline = since + PATIENCE;
        while since.elapsed() < SETTLED_AFTER {
            assert!(tokio::time::Instant::now() < deadline, "compactions never end");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = tables();
            if now != seen {
                (seen, since) = (now, tokio::time::Instant::now());
            }
        }
    }

    /// Writes new values for `percent` of 100 of the keys, drawn evenly, and waits until all replicas have applied them.
    pub(super) async fn change(&mut self, keys: usize, percent: f64, value_bytes: usize) {
        let changed = (keys as f64 * percent / 100.0).round() as usize;
        let drawn = index::sample(&mut self.rng, keys, changed.clamp(1, keys)).into_vec();
        self.write(&drawn, value_bytes).await;
    }

    /// Writes a new value for each of `keys`, and waits until all replicas have applied them. Returns the last LSN.
    pub(super) async fn write(&mut self, keys: &[usize], value_bytes: usize) -> Lsn {
        let leader = self.handle(LEADER);
        let mut last = Lsn::new(0);
        let batch = WRITE_OPERATIONS_MAX
            .min(WRITE_BYTES_MAX / (value_bytes + 100))
            .max(1);
        for keys in keys.chunks(batch) {
            let commands = keys.iter().map(|key| self.put(*key, value_bytes)).collect();
            let applied = leader.propose(commands).await.unwrap();
            last = applied.last().map_or(last, |applied| applied.lsn);
        }
        for number in self.workers.keys() {
            self.until(*number, |status| status.applied_lsn >= Some(last))
                .await;
        }
        last
    }

    /// Makes the command that gives `key` a new value of random bytes.
    pub(super) fn put(&mut self, key: usize, value_bytes: usize) -> Bytes {
        let (key, value) = pair(&mut self.rng, key, value_bytes);
        encode(Operation {
            key: key.into(),
            change: Some(Change::Put(value.into())),
        })
    }

    /// Reads `times` keys, drawn evenly: then the blocks that a replica keeps in memory are those of a service that is read.
    #[allow(dead_code, reason = "not every benchmark reads")]
    pub(super) fn read(&mut self, number: usize, keys: usize, times: usize) {
        let view = self.handle(number).view().unwrap();
        for _ in 0..times {
            let key = key(self.rng.random_range(0..keys));
            view.get(&PAIRS, key.as_bytes()).unwrap().unwrap();
        }
    }

    /// Makes a snapshot on a replica and returns it.
    pub(super) async fn publish(&self, number: usize) -> PublishedExport {
        let request = CreateSnapshot {
            partition: PARTITION,
            min_lsn: Lsn::new(1),
            request_id: RequestId::new(self.seams.ulid()),
            distrusted: Vec::new(),
            restorable_snapshots_min: None,
        };
        let events = self.workers[&number].agent().create_snapshot(request);
        let last = tokio::time::timeout(PATIENCE, events.fold(None, async |_, event| Some(event)));
        match last.await.unwrap() {
            Some(ExportEvent::Published(published)) => published,
            other => panic!("worker-{number} made no snapshot: {other:?}"),
        }
    }

    /// The manifests of all retained snapshots.
    pub(super) async fn manifests(&self) -> Vec<Manifest> {
        let pointer = self.repository.pointer(PARTITION).await.unwrap();
        let mut manifests = Vec::new();
        for entry in pointer.iter().flat_map(|pointer| &pointer.value.snapshots) {
            manifests.push(self.repository.manifest(PARTITION, entry).await.unwrap());
        }
        manifests
    }

    /// Trims the log up to `lsn`, as far as the log is concerned: nothing here asks whether that is safe.
    #[allow(dead_code, reason = "not every benchmark trims")]
    pub(super) async fn trim(&self, lsn: Lsn) {
        let incarnation = self.record.incarnations[&PARTITION];
        self.admin.trim(PARTITION, incarnation, lsn).await.unwrap();
    }

    /// Ends everything before the folder goes; a database whose folder is gone waits in vain to flush.
    pub(super) async fn end(self) {
        for worker in self.workers.values() {
            worker.shutdown().await;
        }
        drop(self.workers);
        if let Some(log) = self.embedded {
            log.close().await;
        }
        drop(self.temporary);
    }
}

/// Returns a key by its number, and the value that `rng` gives it next.
pub(super) fn pair(rng: &mut StdRng, key: usize, value_bytes: usize) -> (String, Vec<u8>) {
    let mut value = vec![0; value_bytes];
    rng.fill(&mut value[..]);
    (self::key(key), value)
}

fn key(number: usize) -> String {
    format!("key-{number:010}")
}

fn state_below(data_dir: &Path) -> PathBuf {
    data_dir
        .join("partitions")
        .join(PARTITION.to_string())
        .join("state")
}

/// The tables of a worker's states.
fn tables_below(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state_below(data_dir)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect()
}
