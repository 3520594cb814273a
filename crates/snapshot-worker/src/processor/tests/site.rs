//! One worker over an embedded log and an object store on the disk, all in one folder that outlives the process.

use super::bed::{Machine, P0, commands, node, until_active};
use crate::{
    Blocking,
    agent::{CreateSnapshot, ExportEvent, LocalIdentity},
    core::Chain,
    processor::{
        PartitionHandle, RocksEngine, RocksOptions, StateEngine, StateMachine, StateMetadata, Worker,
        WorkerOptions,
        apply::apply_runs,
        store::{digest, read_metadata},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use partition_log::{
    AppendError, Log, LogAdmin, LogError, LogInfo, ReadError, RecordStream, Registration,
    embedded::{EmbeddedLog, EmbeddedOptions},
};
use snapshot_store::{
    ChainHash, ClusterSpec, ContentHash, Incarnation, Lsn, PartitionId, Repository, RequestId, Seams,
    StateDigest,
    format::{ClusterRecord, KeyHash, KeyRange, Pointer, StateMachineVersion, VerifyLevel},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const MACHINE: Machine = Machine { version: 1 };
const KEYS: u64 = 400;
/// Bytes of a value, as hexadecimal digits that do not compress.
const VALUE_BYTES: usize = 1024;
/// What is removed after the partition became active is gone by then.
const TIDY_WITHIN: Duration = Duration::from_secs(20);

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    /// The state as the last run left it.
    GoOn,
    /// No state: a restore is needed.
    NoState,
    /// A state below the trim point: a restore is needed, and replaces it.
    StaleState,
}

/// The folder.
pub(super) struct Site {
    pub(super) dir: PathBuf,
}

/// A worker that runs there.
pub(super) struct Running {
    log: EmbeddedLog,
    worker: Worker,
    pub(super) handle: PartitionHandle,
}

impl Running {
    pub(super) async fn write(&self, count: u64) {
        let from = self.handle.status().applied_lsn.unwrap_or_default().get();
        let texts: Vec<String> = (from..from + count).map(command).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.handle.propose(commands(&texts)).await.unwrap();
    }

    /// Makes a snapshot, unless there is nothing new.
    pub(super) async fn snapshot(&self) -> Option<Lsn> {
        let request = CreateSnapshot {
            partition: P0,
            min_lsn: Lsn::ZERO,
            request_id: RequestId::new(Seams::real().ulid()),
            distrusted: Vec::new(),
            restorable_snapshots_min: None,
        };
        let events: Vec<_> = self.worker.agent().create_snapshot(request).collect().await;
        match events.last() {
            Some(ExportEvent::Published(published)) => Some(published.lsn),
            Some(ExportEvent::Declined(_)) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn stop(self) {
        self.worker.shutdown().await;
        self.log.close().await;
    }
}

/// A command whose value no compression makes smaller.
fn command(number: u64) -> String {
    let mut value = String::new();
    let mut block = 0u64;
    while value.len() < VALUE_BYTES {
        value += &ContentHash::of(&[number.to_be_bytes(), block.to_be_bytes()].concat()).to_string();
        block += 1;
    }
    format!("key-{}={value}", number * 7919 % KEYS)
}

impl Site {
    pub(super) fn at(dir: PathBuf) -> Self {
        Site { dir }
    }

    /// Founds a cluster in `dir`, with two snapshots, and keeps a copy of a state below both.
    pub(super) async fn found(dir: &Path) -> Self {
        let site = Site::at(dir.to_owned());
        let spec = ClusterSpec {
            name: "test".to_owned(),
            partitions: 1,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = site.repository().init(&spec).await.unwrap();
        let log = site.log();
        let registration = Registration {
            partition: P0,
            incarnation: record.incarnations[&P0],
            fingerprint: record.cluster.fingerprint,
            base: None,
            sealed: false,
            passage: None,
        };
        log.provision(registration).await.unwrap();
        log.close().await;
        for snapshots in [0, 2] {
            let running = site.start(Lsn::ZERO).await;
            until_active(&running.handle).await;
            running.handle.lead().await.unwrap();
            running.write(KEYS / 2).await;
            for _ in 0..snapshots {
                running.write(KEYS / 2).await;
                running.snapshot().await.unwrap();
            }
            running.write(10).await;
            running.stop().await;
            if snapshots == 0 {
                copy(&site.state(), &site.stale());
            }
        }
        site
    }

    /// Makes it as `scene` says; returns the trim point of the log.
    pub(super) async fn prepare(&self, scene: Scene) -> Lsn {
        if scene != Scene::GoOn {
            fs::remove_dir_all(self.partition()).unwrap();
        }
        if scene == Scene::StaleState {
            fs::create_dir_all(self.partition()).unwrap();
            copy(&self.stale(), &self.state());
        }
        // All that the snapshots allow.
        self.pointer()
            .await
            .snapshots
            .iter()
            .map(|entry| entry.lsn)
            .min()
            .unwrap()
    }

    pub(super) async fn start(&self, trim_point: Lsn) -> Running {
        let record = self.record().await;
        let identity = LocalIdentity {
            cluster: record.cluster,
            partitions: record.partitions,
            key_hash: KeyHash::Blake3Mod,
            node: node("w1"),
        };
        let mut options = WorkerOptions::new(
            node("w1"),
            "http://w1".to_owned(),
            self.dir.join("node"),
            identity,
        );
        options.partitions = vec![P0];
        options.flush_interval = Duration::from_millis(30);
        options.retry_min = Duration::from_millis(20);
        options.disk_reserve_bytes = 0;
        let log = self.log();
        let trimmed = TrimmedLog {
            log: log.clone(),
            trim_point,
        };
        let worker = Worker::start(
            options,
            Arc::new(MACHINE),
            Arc::new(trimmed),
            self.repository(),
            Seams::real(),
        );
        let worker = worker.unwrap();
        let handle = worker.partition(P0).unwrap();
        Running { log, worker, handle }
    }

    /// Checks what a kill left, starts again, and checks what that leaves. Returns how many bytes a restore took from what
    /// the one before it had completed.
    pub(super) async fn check(&self, trim_point: Lsn, name: &str) -> u64 {
        let records = self.records().await;
        for folder in names(&self.partition()) {
            self.check_state(&self.partition().join(folder), &records, name)
                .await;
        }
        let (complete, pointer) = (self.complete_in_staging().await, self.pointer().await);

        let running = self.start(trim_point).await;
        until_active(&running.handle).await;
        let restored = running.worker.agent().replica(P0).unwrap().last_restore;
        let resumed = restored.map_or(0, |restored| {
            assert_eq!(restored.snapshot_id, pointer.snapshots[0].snapshot_id, "{name}");
            assert!(
                restored.bytes_resumed >= complete,
                "{name}: {complete} were complete, {restored:?}"
            );
            assert!(
                restored.bytes_downloaded <= restored.bytes - complete,
                "{name}: {restored:?}"
            );
            restored.bytes_resumed
        });
        self.until_tidy(name).await;
        let applied = running.handle.status().applied_lsn.unwrap();
        assert_eq!(
            applied.next().get(),
            records.len() as u64 + 1,
            "{name}: nothing in the log is lost"
        );
        running.stop().await;
        self.check_state(&self.state(), &records, name).await;
        resumed
    }

    /// Checks that the state in `folder` is what applying the log from its first record gives.
    async fn check_state(&self, folder: &Path, records: &[Bytes], name: &str) {
        let snapshot = engine().open_read_only(folder).unwrap();
        let metadata = read_metadata(&*snapshot)
            .unwrap()
            .expect("states say what they are");
        let (found, _) = digest(&*snapshot, MACHINE.keyspaces()).unwrap();
        let applied = usize::try_from(metadata.applied_lsn.get()).unwrap();
        assert!(
            applied <= records.len(),
            "{name}: {} is ahead of the log",
            folder.display()
        );
        let expected = self.recompute(&records[..applied]).await;
        assert_eq!((metadata, found), expected, "{name}: {}", folder.display());
    }

    async fn recompute(&self, records: &[Bytes]) -> (StateMetadata, StateDigest) {
        let record = self.record().await;
        let (fingerprint, incarnation) = (record.cluster.fingerprint, record.incarnations[&P0]);
        let empty = StateMetadata {
            applied_lsn: Lsn::ZERO,
            incarnation,
            fingerprint,
            key_range: KeyRange { partition: 0, of: 1 },
            chain: Chain::starting_at(ChainHash::origin(&fingerprint, &incarnation)),
            last_record: None,
            leader: None,
            state_machine: StateMachineVersion {
                name: MACHINE.name().to_owned(),
                version: 1,
            },
            log_bytes: 0,
        };
        let dir = tempfile::tempdir().unwrap();
        let store = engine().open(&dir.path().join("state")).unwrap();
        let run = apply_runs(&*store, &MACHINE, empty, &[records], None, Blocking::Threads);
        assert_eq!(run.stop, None);
        let (digest, _) = digest(&*store.snapshot(), MACHINE.keyspaces()).unwrap();
        (run.metadata, digest)
    }

    /// Returns all records of the log.
    async fn records(&self) -> Vec<Bytes> {
        let (log, record) = (self.log(), self.record().await);
        let tail = log.info(P0).await.unwrap().tail;
        let mut stream = log.read(P0, record.incarnations[&P0], Lsn::FIRST).await.unwrap();
        let mut records = Vec::new();
        while Lsn::FIRST.plus(records.len() as u64) < tail {
            records.extend(stream.next().await.unwrap().unwrap().records);
        }
        drop(stream);
        log.close().await;
        records
    }

    /// Returns how many bytes of the newest snapshot lie in staging as whole and right files.
    async fn complete_in_staging(&self) -> u64 {
        let entry = self.pointer().await.snapshots.remove(0);
        let manifest = self.repository().manifest(P0, &entry).await.unwrap();
        let folder = self
            .dir
            .join("node/staging/downloads/0")
            .join(entry.snapshot_id.to_string());
        let is_right = |name: &str, hash: ContentHash| {
            fs::read(folder.join(name)).is_ok_and(|bytes| ContentHash::of(&bytes) == hash)
        };
        let right = manifest
            .files
            .iter()
            .filter(|file| is_right(&file.name, file.hash));
        right.map(|file| file.bytes).sum()
    }

    /// Waits until nothing but the state is left of the partition and of the jobs for it.
    async fn until_tidy(&self, name: &str) {
        let began = Instant::now();
        loop {
            let staging = self.dir.join("node/staging");
            let mut left: Vec<String> = ["exports", "downloads", "verifications"]
                .iter()
                .flat_map(|kind| names(&staging.join(kind)))
                .collect();
            left.extend(
                names(&self.partition())
                    .into_iter()
                    .filter(|name| name != "state"),
            );
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < TIDY_WITHIN, "{name}: {left:?} stay");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks that all published snapshots can be restored.
    pub(super) async fn check_snapshots(&self) {
        let running = self.start(Lsn::ZERO).await;
        for entry in self.pointer().await.snapshots {
            let report = running
                .worker
                .agent()
                .verify(P0, entry.snapshot_id, VerifyLevel::Restore)
                .await
                .unwrap();
            assert!(report.ok(), "{report:?}");
        }
        running.stop().await;
    }

    async fn pointer(&self) -> Pointer {
        self.repository().pointer(P0).await.unwrap().unwrap().value
    }

    async fn record(&self) -> ClusterRecord {
        self.repository().cluster().await.unwrap().unwrap()
    }

    fn repository(&self) -> Repository {
        let url = format!("file://{}", self.dir.join("store").display());
        Repository::open(&url, Seams::real()).unwrap()
    }

    fn log(&self) -> EmbeddedLog {
        EmbeddedLog::open(&self.dir.join("log"), EmbeddedOptions::default()).unwrap()
    }

    fn partition(&self) -> PathBuf {
        self.dir.join("node/partitions/0")
    }

    fn state(&self) -> PathBuf {
        self.partition().join("state")
    }

    fn stale(&self) -> PathBuf {
        self.dir.join("stale")
    }
}

fn engine() -> RocksEngine {
    RocksEngine::new(&RocksOptions::default()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// A log that shows itself trimmed and still has every record, so that what a state should be can be computed.
struct TrimmedLog {
    log: EmbeddedLog,
    trim_point: Lsn,
}

#[async_trait]
impl Log for TrimmedLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.log.registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let info = self.log.info(partition).await?;
        Ok(LogInfo {
            trim_point: self.trim_point,
            ..info
        })
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        self.log
            .append(partition, incarnation, batch, expected_tail)
            .await
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        if from <= self.trim_point {
            return Err(ReadError::Trimmed {
                trim_point: self.trim_point,
            });
        }
        self.log.read(partition, incarnation, from).await
    }
}
