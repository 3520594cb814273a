//! How much of a snapshot is uploaded when 1 % of the keys have changed since the one before.
//!
//! ```text
//! cargo bench -p tidemark --bench incremental                          256 MiB of state, 9 repetitions: some minutes
//! cargo bench -p tidemark --bench incremental -- --keys 1000000 --value-bytes 100
//! cargo bench --profile dev -p tidemark --bench incremental            without a second build of everything
//! ```
//!
//! Three replicas of one partition apply the same log in this process, with the key-value state machine and the RocksDB
//! options of a worker. Keys are written in random order with values of random bytes. Then each repetition, with a seed of
//! its own, makes these snapshots, and changes 1 % of the keys, drawn evenly, before each but the first:
//!
//! - the first, by a follower that is drawn;
//! - `same node`: by the node that made the one before;
//! - `other node`: by one of the other two, drawn;
//! - `default choice`, some times: by one of the two followers, drawn anew each time, as the scheduler does.
//!
//! A file is new if no snapshot that is retained then (2 of them) has one with its hash; that is counted here, from the
//! manifests, and compared with what was uploaded. The store is this process's memory: which bytes are sent does not
//! depend on the store.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use bytes::Bytes;
use clap::Parser;
use futures::StreamExt as _;
use partition_log::{
    LogAdmin as _, Registration,
    embedded::{EmbeddedLog, EmbeddedOptions},
};
use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{SliceRandom as _, index},
};
use snapshot_proto::kv::{Operation, operation::Change};
use snapshot_store::{
    ClusterSpec, ContentHash, Incremental, Lsn, NodeId, PartitionId, Repository, RequestId, Seams,
    StoreOptions,
    format::{KeyHash, Manifest},
};
use snapshot_worker::{
    agent::{CreateSnapshot, ExportEvent, LocalIdentity, PublishedExport},
    core::{PartitionState, ReplicaStatus},
    processor::{PartitionHandle, Worker, WorkerOptions},
};
use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tidemark::kv::{
    machine::{KvMachine, encode},
    rules::{WRITE_BYTES_MAX, WRITE_OPERATIONS_MAX},
};

const PARTITION: PartitionId = PartitionId::new(0);
const REPLICAS: usize = 3;
/// The replica that leads; the others are followers.
const LEADER: usize = 0;
/// Waiting longer than this for replicas or for a snapshot means that something is broken.
const PATIENCE: Duration = Duration::from_secs(600);
/// After the load, files must stay as they are for this long: then the compactions it caused are over.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Args {
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// How many keys.
    #[arg(long, default_value_t = 262_144)]
    keys: usize,
    /// Size of every value.
    #[arg(long, default_value_t = 1_000)]
    value_bytes: usize,
    /// How much of 100 keys changes between two snapshots.
    #[arg(long, default_value_t = 1.0)]
    changed_percent: f64,
    /// How often all is repeated, each time from the start and with another seed.
    #[arg(long, default_value_t = 9)]
    repetitions: u64,
    /// Snapshots by the default choice in each repetition.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let (mut same, mut other, mut default) = (Vec::new(), Vec::new(), Vec::new());
    println!(
        "{} keys with values of {} bytes, {} % of them changed between two snapshots",
        args.keys, args.value_bytes, args.changed_percent
    );
    for seed in 0..args.repetitions {
        let mut bed = Bed::start(seed).await;
        bed.load(&args).await;
        let follower = bed.rng.random_range(LEADER + 1..REPLICAS);
        bed.snapshot(follower).await;

        same.push(bed.change_and_snapshot(&args, follower).await);
        let others: Vec<_> = (0..REPLICAS).filter(|node| *node != follower).collect();
        let drawn = others[bed.rng.random_range(0..others.len())];
        other.push(bed.change_and_snapshot(&args, drawn).await);
        let mut sum = Snapshot::default();
        for _ in 0..args.rounds {
            let drawn = bed.rng.random_range(LEADER + 1..REPLICAS);
            sum.add(&bed.change_and_snapshot(&args, drawn).await);
        }
        default.push(sum);
        println!(
            "seed {seed}: same node {}; other node {}; default choice {}",
            same[same.len() - 1],
            other[other.len() - 1],
            default[default.len() - 1]
        );
        bed.stop().await;
    }
    println!(
        "median of {} repetitions, and from least to most:",
        args.repetitions
    );
    report("same node", &same);
    report("other node", &other);
    report("default choice", &default);
}

/// What one snapshot, or several together, took.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    total: u64,
    /// Of files that no retained snapshot had.
    new: u64,
    uploaded: u64,
    copied: u64,
}

impl Snapshot {
    fn add(&mut self, other: &Snapshot) {
        self.total += other.total;
        self.new += other.new;
        self.uploaded += other.uploaded;
        self.copied += other.copied;
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let (total, new, uploaded, copied) = (
            mib(self.total),
            mib(self.new),
            mib(self.uploaded),
            mib(self.copied),
        );
        write!(
            f,
            "{total:.1} MiB, {new:.2} new, {uploaded:.2} uploaded, {copied:.1} copied"
        )
    }
}

fn report(what: &str, snapshots: &[Snapshot]) {
    let spread = |value: &dyn Fn(&Snapshot) -> f64| {
        let mut values: Vec<f64> = snapshots.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (median, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        format!("{median:.4} ({least:.4} to {most:.4})")
    };
    println!(
        "{what}: uploaded / new files {}, uploaded / total {}, MiB in all {}",
        spread(&|one| one.uploaded as f64 / one.new as f64),
        spread(&|one| one.uploaded as f64 / one.total as f64),
        spread(&|one| one.total as f64 / 1_048_576.0),
    );
}

/// Three replicas of one partition, their log and their store.
struct Bed {
    rng: StdRng,
    workers: Vec<Worker>,
    log: EmbeddedLog,
    repository: Repository,
    seams: Seams,
    folder: tempfile::TempDir,
}

impl Bed {
    async fn start(seed: u64) -> Self {
        let (folder, seams) = (tempfile::tempdir().unwrap(), Seams::real());
        let options = StoreOptions {
            incremental: Incremental::On,
            ..StoreOptions::default()
        };
        let repository = Repository::open_with("memory://", &options, seams.clone()).unwrap();
        let spec = ClusterSpec {
            name: "incremental".to_owned(),
            partitions: 1,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await.unwrap();
        let log = EmbeddedLog::open(&folder.path().join("log"), EmbeddedOptions::default()).unwrap();
        let registration = Registration {
            partition: PARTITION,
            incarnation: record.incarnations[&PARTITION],
            fingerprint: record.cluster.fingerprint,
            base: None,
            sealed: false,
        };
        log.provision(registration).await.unwrap();
        let mut bed = Bed {
            rng: StdRng::seed_from_u64(seed),
            workers: Vec::new(),
            log,
            repository,
            seams,
            folder,
        };
        for number in 0..REPLICAS {
            bed.start_worker(number).await;
        }
        bed.handle(LEADER).lead().await.unwrap();
        bed
    }

    async fn start_worker(&mut self, number: usize) {
        let node = NodeId::new(format!("worker-{number}")).unwrap();
        let data_dir = self.data_dir(number);
        std::fs::create_dir_all(&data_dir).unwrap();
        let identity = LocalIdentity::adopt(&data_dir, &node, &self.repository)
            .await
            .unwrap();
        let options = WorkerOptions {
            partitions: vec![PARTITION],
            ..WorkerOptions::new(node, "http://127.0.0.1:1".to_owned(), data_dir, identity)
        };
        let log = Arc::new(self.log.clone());
        let (repository, seams) = (self.repository.clone(), self.seams.clone());
        let worker = Worker::start(options, Arc::new(KvMachine), log, repository, seams).unwrap();
        self.workers.push(worker);
        self.until(number, |status| status.state == PartitionState::Active)
            .await;
    }

    fn data_dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("worker-{number}"))
    }

    fn handle(&self, number: usize) -> PartitionHandle {
        self.workers[number].partition(PARTITION).unwrap()
    }

    async fn until(&self, number: usize, wanted: impl Fn(&ReplicaStatus) -> bool) {
        let mut status = self.handle(number).watch();
        let reached = status.wait_for(|status| wanted(status));
        tokio::time::timeout(PATIENCE, reached).await.unwrap().unwrap();
    }

    /// Writes all keys in random order, and waits until all replicas have them and have put them in order.
    async fn load(&mut self, args: &Args) {
        let mut keys: Vec<usize> = (0..args.keys).collect();
        keys.shuffle(&mut self.rng);
        self.write(&keys, args.value_bytes).await;
        let tables = || -> BTreeSet<PathBuf> {
            let folders = (0..REPLICAS).map(|number| self.data_dir(number));
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

    /// Writes a new value for each of `keys`, and waits until all replicas have applied them.
    async fn write(&mut self, keys: &[usize], value_bytes: usize) {
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
        for number in 0..REPLICAS {
            self.until(number, |status| status.applied_lsn >= Some(last))
                .await;
        }
    }

    fn put(&mut self, key: usize, value_bytes: usize) -> Bytes {
        let mut value = vec![0; value_bytes];
        self.rng.fill(&mut value[..]);
        encode(Operation {
            key: format!("key-{key:010}").into(),
            change: Some(Change::Put(value.into())),
        })
    }

    async fn change_and_snapshot(&mut self, args: &Args, node: usize) -> Snapshot {
        let changed = (args.keys as f64 * args.changed_percent / 100.0).round() as usize;
        let keys = index::sample(&mut self.rng, args.keys, changed.clamp(1, args.keys)).into_vec();
        self.write(&keys, args.value_bytes).await;
        self.snapshot(node).await
    }

    /// Makes a snapshot on `node`.
    async fn snapshot(&self, node: usize) -> Snapshot {
        let before = self.manifests().await;
        let known: HashSet<ContentHash> = before
            .iter()
            .flat_map(|manifest| manifest.files.iter().map(|file| file.hash))
            .collect();
        let published = self.publish(node).await;
        let after = self.manifests().await;
        let made = after
            .iter()
            .find(|manifest| manifest.snapshot_id == published.snapshot_id);
        let new = made
            .unwrap()
            .files
            .iter()
            .filter(|file| !known.contains(&file.hash));
        Snapshot {
            total: published.bytes_total,
            new: new.map(|file| file.bytes).sum(),
            uploaded: published.bytes_uploaded,
            copied: published.bytes_copied,
        }
    }

    async fn publish(&self, node: usize) -> PublishedExport {
        let request = CreateSnapshot {
            partition: PARTITION,
            min_lsn: Lsn::new(1),
            request_id: RequestId::new(self.seams.ulid()),
            distrusted: Vec::new(),
            restorable_snapshots_min: None,
        };
        let events = self.workers[node].agent().create_snapshot(request);
        let last = tokio::time::timeout(PATIENCE, events.fold(None, async |_, event| Some(event)));
        match last.await.unwrap() {
            Some(ExportEvent::Published(published)) => published,
            other => panic!("worker-{node} made no snapshot: {other:?}"),
        }
    }

    /// The manifests of all retained snapshots.
    async fn manifests(&self) -> Vec<Manifest> {
        let pointer = self.repository.pointer(PARTITION).await.unwrap();
        let mut manifests = Vec::new();
        for entry in pointer.iter().flat_map(|pointer| &pointer.value.snapshots) {
            manifests.push(self.repository.manifest(PARTITION, entry).await.unwrap());
        }
        manifests
    }

    /// Ends everything before the folder goes; a database whose folder is gone waits in vain to flush.
    async fn stop(self) {
        for worker in &self.workers {
            worker.shutdown().await;
        }
        self.log.close().await;
        drop(self.folder);
    }
}

/// The tables of a worker's states.
fn tables_below(data_dir: &Path) -> Vec<PathBuf> {
    let state = data_dir
        .join("partitions")
        .join(PARTITION.to_string())
        .join("state");
    let entries = std::fs::read_dir(state).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect()
}
