//! What the tests stand on: a cluster's log and store, workers, and a state machine that shows what happened to it.

use crate::{
    agent::{CreateSnapshot, ExportEvent, LocalIdentity, PublishedExport},
    core::{LedBody, PartitionState, Record, ReplicaStatus},
    processor::{
        ApplyError, Keyspace, PartitionHandle, StateEngine, StateFacts, StateMachine, Transaction, Worker,
        WorkerOptions,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use partition_log::{Base, Log, LogAdmin, Registration, memory::MemoryLog};
use snapshot_store::{
    ClusterIdentity, ClusterSpec, Entropy, Incarnation, IncarnationId, LeaderEpoch, Leadership, Lsn,
    ManualClock, NodeId, PartitionId, Repository, RequestId, Seams, SnapshotId, Timestamp, format::KeyHash,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

pub(super) const P0: PartitionId = PartitionId::new(0);
pub(super) const P1: PartitionId = PartitionId::new(1);
pub(super) const PAIRS: Keyspace = Keyspace {
    name: "pairs",
    prefix: 1,
};
const LENGTHS: Keyspace = Keyspace {
    name: "lengths",
    prefix: 2,
};
/// Waiting longer than this means that a test has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// `key=value` sets, `key+` counts up, `poison` cannot be applied, `panic` panics.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    pub(super) version: u32,
}

impl StateMachine for Machine {
    fn name(&self) -> &'static str {
        "test"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        &[PAIRS, LENGTHS]
    }

    fn apply(
        &self,
        _: Lsn,
        command: &Bytes,
        state: &mut Transaction<'_>,
    ) -> std::result::Result<Bytes, ApplyError> {
        let text = std::str::from_utf8(command).map_err(|error| ApplyError::Poison(error.to_string()))?;
        assert!(text != "panic", "the test wants this");
        let (key, value) = match (text.split_once('='), text.strip_suffix('+')) {
            (Some((key, value)), _) => (key, value.to_owned()),
            (None, Some(key)) => (key, (number(state.get(&PAIRS, key.as_bytes())?) + 1).to_string()),
            // What was changed before the poison showed must not be kept.
            (None, None) => {
                state.put(&PAIRS, b"trace", "of poison");
                return Err(ApplyError::Poison(format!("{text} is no command")));
            }
        };
        let before = state.get(&PAIRS, key.as_bytes())?.unwrap_or_default();
        if value.is_empty() {
            state.delete(&PAIRS, key.as_bytes());
            state.delete(&LENGTHS, key.as_bytes());
        } else {
            state.put(&LENGTHS, key.as_bytes(), value.len().to_string());
            state.put(&PAIRS, key.as_bytes(), value);
        }
        Ok(before.into())
    }
}

fn number(value: Option<Vec<u8>>) -> u64 {
    value
        .and_then(|value| String::from_utf8(value).ok()?.parse().ok())
        .unwrap_or(0)
}

/// An object store in memory that counts its requests and can be switched off.
#[derive(Debug, Default)]
pub(super) struct CountingStore {
    inner: InMemory,
    requests: AtomicUsize,
    off: AtomicBool,
    held: watch::Sender<bool>,
}

impl CountingStore {
    /// Lets reads of RocksDB's tables wait, or go on.
    pub(super) fn hold_tables(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn switch_off(&self, off: bool) {
        self.off.store(off, Ordering::SeqCst);
    }

    fn request(&self) -> Result<()> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.off.load(Ordering::SeqCst) {
            return Err(object_store::Error::Generic {
                store: "test",
                source: "switched off".into(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.request()?;
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.request()?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.request()?;
        if at.as_ref().ends_with(".sst") {
            drop(self.held.subscribe().wait_for(|held| !held).await);
        }
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.request()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request()?;
        self.inner.copy_opts(from, to, options).await
    }
}

pub(super) fn incarnation(generation: u64, id: u8) -> Incarnation {
    Incarnation {
        generation,
        id: IncarnationId::from_bytes([id; 16]),
    }
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(super) fn commands(texts: &[&str]) -> Vec<Bytes> {
    texts
        .iter()
        .map(|text| Bytes::copy_from_slice(text.as_bytes()))
        .collect()
}

/// Bytes of a record as some leader would have written it.
pub(super) fn record(epoch: u64, by: &str, sequence: u64, body: LedBody) -> Bytes {
    let leadership = Leadership {
        epoch: LeaderEpoch::new(epoch),
        node: node(by),
    };
    Record::Led {
        leadership,
        sequence,
        body,
    }
    .encode()
}

/// A cluster without workers, of two partitions unless a test wants more.
pub(super) struct Bed {
    pub(super) log: MemoryLog,
    pub(super) store: Arc<CountingStore>,
    pub(super) dir: tempfile::TempDir,
    pub(super) cluster: ClusterIdentity,
    pub(super) incarnation: Incarnation,
    pub(super) repository: Repository,
    partitions: u32,
    seams: Seams,
}

impl Bed {
    pub(super) async fn new() -> Self {
        Self::of(2).await
    }

    pub(super) async fn of(partitions: u32) -> Self {
        let bed = Self::without_logs(1, partitions, incarnation(2, 7)).await;
        for partition in 0..partitions {
            bed.provision(PartitionId::new(partition), bed.incarnation).await;
        }
        bed
    }

    /// A store with an identity that follows from `seed`; its logs are to be of `incarnation`.
    pub(super) async fn without_logs(seed: u64, partitions: u32, incarnation: Incarnation) -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let seams = Seams {
            clock: Arc::new(clock),
            entropy: Entropy::seeded(seed),
        };
        let store = Arc::new(CountingStore::default());
        let repository = Repository::with_store(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            Path::default(),
            seams.clone(),
        );
        let spec = ClusterSpec {
            name: "test".to_owned(),
            partitions,
            key_hash: KeyHash::Blake3Mod,
        };
        let cluster = repository.init(&spec).await.unwrap().cluster;
        Bed {
            log: MemoryLog::new(),
            store,
            dir: tempfile::tempdir().unwrap(),
            cluster,
            incarnation,
            repository,
            partitions,
            seams,
        }
    }

    pub(super) async fn provision(&self, partition: PartitionId, incarnation: Incarnation) {
        self.provision_after(partition, incarnation, None).await;
    }

    /// Creates a log that continues from `base`.
    pub(super) async fn provision_after(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        base: Option<Base>,
    ) {
        let registration = Registration {
            partition,
            incarnation,
            fingerprint: self.cluster.fingerprint,
            base,
            sealed: false,
            passage: None,
        };
        self.log.provision(registration).await.unwrap();
    }

    pub(super) fn data_dir(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn options(&self, name: &str) -> WorkerOptions {
        let identity = LocalIdentity {
            cluster: self.cluster.clone(),
            partitions: self.partitions,
            key_hash: KeyHash::Blake3Mod,
            node: node(name),
        };
        let mut options = WorkerOptions::new(
            node(name),
            format!("http://{name}"),
            self.data_dir(name),
            identity,
        );
        options.partitions = vec![P0];
        options.flush_interval = Duration::from_millis(50);
        options.retry_min = Duration::from_millis(20);
        options.retry_max = Duration::from_millis(100);
        options.log_patience = Duration::from_millis(200);
        options.disk_reserve_bytes = 0;
        options
    }

    pub(super) fn start(&self, options: WorkerOptions) -> Worker {
        self.start_with(options, Arc::new(self.log.clone()), Machine { version: 1 })
    }

    pub(super) fn start_over(&self, options: WorkerOptions, engine: Arc<dyn StateEngine>) -> Worker {
        Worker::start_with_engine(
            options,
            Arc::new(Machine { version: 1 }),
            engine,
            Arc::new(self.log.clone()),
            self.repository.clone(),
            self.seams.clone(),
        )
        .unwrap()
    }

    pub(super) fn start_with(
        &self,
        options: WorkerOptions,
        log: Arc<dyn Log>,
        machine: impl StateMachine,
    ) -> Worker {
        Worker::start(
            options,
            Arc::new(machine),
            log,
            self.repository.clone(),
            self.seams.clone(),
        )
        .unwrap()
    }

    /// Starts a worker and waits until its partition is active.
    pub(super) async fn active(&self, name: &str) -> (Worker, PartitionHandle) {
        let worker = self.start(self.options(name));
        let handle = worker.partition(P0).unwrap();
        until_active(&handle).await;
        (worker, handle)
    }

    /// Starts a worker that leads its partition.
    pub(super) async fn leader(&self, name: &str) -> (Worker, PartitionHandle) {
        let (worker, handle) = self.active(name).await;
        handle.lead().await.unwrap();
        (worker, handle)
    }

    pub(super) async fn append(&self, records: Vec<Bytes>) -> Lsn {
        self.log
            .append(P0, self.incarnation, records, None)
            .await
            .unwrap()
    }

    pub(super) async fn trim(&self, up_to: Lsn) {
        self.log.trim(P0, self.incarnation, up_to).await.unwrap();
    }

    /// Has `worker` make a snapshot.
    pub(super) async fn snapshot(&self, worker: &Worker) -> PublishedExport {
        self.try_snapshot(worker)
            .await
            .unwrap_or_else(|seen| panic!("no snapshot was published: {seen:?}"))
    }

    /// Asks `worker` for a snapshot; returns what else happened when none was published.
    pub(super) async fn try_snapshot(
        &self,
        worker: &Worker,
    ) -> std::result::Result<PublishedExport, Vec<String>> {
        let request = CreateSnapshot {
            partition: P0,
            min_lsn: Lsn::ZERO,
            request_id: RequestId::new(self.seams.ulid()),
            distrusted: Vec::new(),
            restorable_snapshots_min: None,
        };
        let mut events = worker.agent().create_snapshot(request);
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            if let ExportEvent::Published(published) = event {
                return Ok(published);
            }
            seen.push(format!("{event:?}"));
        }
        Err(seen)
    }

    /// Changes a byte in every data file of a published snapshot.
    pub(super) async fn spoil(&self, snapshot: SnapshotId) {
        let objects: Vec<ObjectMeta> = self.store.inner.list(None).try_collect().await.unwrap();
        let name = snapshot.to_string();
        for at in objects.into_iter().map(|object| object.location) {
            if at.as_ref().contains(&name) && at.as_ref().ends_with(".sst") {
                let mut bytes = self
                    .store
                    .inner
                    .get(&at)
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap()
                    .to_vec();
                bytes[40] ^= 1;
                self.store.inner.put(&at, bytes.into()).await.unwrap();
            }
        }
    }

    /// Returns the records of the first partition, from `from` to the tail.
    pub(super) async fn records(&self, from: Lsn) -> Vec<Bytes> {
        let tail = self.log.info(P0).await.unwrap().tail;
        let mut stream = self.log.read(P0, self.incarnation, from).await.unwrap();
        let mut records = Vec::new();
        while from.plus(records.len() as u64) < tail {
            records.extend(stream.next().await.unwrap().unwrap().records);
        }
        records
    }
}

/// Waits until the status is as wanted.
#[track_caller]
pub(super) fn until(
    handle: &PartitionHandle,
    wanted: impl FnMut(&ReplicaStatus) -> bool,
) -> impl Future<Output = ReplicaStatus> {
    let mut status = handle.watch();
    async move {
        let waiting = tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await;
        let reached = waiting.map(|status| status.unwrap().clone());
        reached.unwrap_or_else(|_| panic!("never reached, the status is {:#?}", status.borrow().clone()))
    }
}

pub(super) async fn until_active(handle: &PartitionHandle) -> ReplicaStatus {
    until(handle, |status| status.state == PartitionState::Active).await
}

pub(super) async fn until_applied(handle: &PartitionHandle, lsn: Lsn) -> ReplicaStatus {
    until(handle, |status| status.applied_lsn >= Some(lsn)).await
}

pub(super) async fn facts_at(handle: &PartitionHandle, lsn: Lsn) -> StateFacts {
    until_applied(handle, lsn).await;
    handle.digest().await.unwrap()
}

pub(super) fn value(handle: &PartitionHandle, key: &str) -> Option<String> {
    let value = handle.view().unwrap().get(&PAIRS, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

/// Writes `count` pairs through `leader`, in proposals of ten, and returns the last LSN.
pub(super) async fn write(leader: &PartitionHandle, count: usize) -> Lsn {
    let mut last = Lsn::ZERO;
    let texts: Vec<String> = (0..count)
        .map(|n| format!("key-{}={n}", n * 7919 % 501))
        .collect();
    for chunk in texts.chunks(10) {
        let texts: Vec<&str> = chunk.iter().map(String::as_str).collect();
        last = leader
            .propose(commands(&texts))
            .await
            .unwrap()
            .last()
            .unwrap()
            .lsn;
    }
    last
}
