//! A repository in a folder with snapshots of real states, and the binary that looks at it.

use anyhow::{Context, ensure};
use integration_tests::binary;
use serde_json::Value;
use snapshot_store::{
    CertificateDraft, ChainHash, ClusterSpec, ContentHash, Incarnation, Lsn, NoProgress, NodeId, PartitionId,
    ReplicaRole, Repository, Seams, SnapshotId, SnapshotUpload,
    format::{
        CertifiedSnapshot, ClusterRecord, KeyHash, KeyRange, Keys, Manifest, Pointer, PointerEntry, Producer,
        SnapshotDirectory, StateMachineVersion, Stored, Unknown, VerifyLevel,
    },
};
use snapshot_worker::{
    core::Chain,
    processor::{Changes, RocksEngine, RocksOptions, StateEngine, StateMetadata, inspect_state},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use tidemark::kv::machine::KvMachine;
use tokio_util::sync::CancellationToken;

pub(crate) const P0: PartitionId = PartitionId::new(0);
/// Partitions of the cluster; only the first one has snapshots.
const PARTITIONS: u32 = 2;
/// Key of the metadata in a state.
const METADATA_KEY: &[u8] = &[0];

/// What the binary answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
}

/// A cluster's repository in a folder, with two retained snapshots at 100 and 200 and a certificate up to 100.
pub(crate) struct Bucket {
    pub(crate) dir: TempDir,
    pub(crate) repository: Repository,
    pub(crate) record: ClusterRecord,
}

impl Bucket {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let url = format!("file://{}", dir.path().join("store").display());
        let repository = Repository::open(&url, Seams::real())?;
        let spec = ClusterSpec {
            name: "shop".to_owned(),
            partitions: PARTITIONS,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await?;
        let bucket = Bucket {
            dir,
            repository,
            record,
        };
        for lsn in [100, 200] {
            bucket.publish(lsn).await?;
        }
        bucket.certify(100).await?;
        Ok(bucket)
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.record.incarnations[&P0]
    }

    /// Publishes a snapshot of a state that was applied up to `lsn`.
    pub(crate) async fn publish(&self, lsn: u64) -> anyhow::Result<PointerEntry> {
        self.publish_as(lsn, lsn).await
    }

    /// Publishes a state that was applied up to `applied` as if it were that at `lsn`.
    pub(crate) async fn publish_as(&self, lsn: u64, applied: u64) -> anyhow::Result<PointerEntry> {
        let states = tempfile::tempdir()?;
        let checkpoint = self.state(states.path(), applied)?;
        let engine = RocksEngine::new(&RocksOptions::default())?;
        let facts = inspect_state(&engine, &KvMachine, &checkpoint)?;
        let upload = SnapshotUpload {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            snapshot_id: SnapshotId::new(Seams::real().ulid()),
            lsn: Lsn::new(lsn),
            chain: facts.chain,
            state_digest: facts.state_digest,
            leader: facts.leader,
            log_bytes: facts.log_bytes,
            state_machine: facts.state_machine,
            key_range: facts.key_range,
            producer: Producer {
                node: NodeId::new("worker-1")?,
                role: ReplicaRole::Follower,
            },
            request_id: None,
            created_at: Seams::real().clock.now(),
            dir: checkpoint,
            restorable_snapshots_min: None,
            lower_restorable_min: false,
            trimmed: None,
            distrusted: Vec::new(),
        };
        let cancel = CancellationToken::new();
        Ok(self
            .repository
            .publish(&upload, &NoProgress, &cancel)
            .await?
            .entry)
    }

    /// Makes a checkpoint of a small key-value state below `dir`.
    fn state(&self, dir: &Path, applied: u64) -> anyhow::Result<PathBuf> {
        let metadata = StateMetadata {
            applied_lsn: Lsn::new(applied),
            incarnation: self.incarnation(),
            fingerprint: self.record.cluster.fingerprint,
            key_range: KeyRange {
                partition: 0,
                of: PARTITIONS,
            },
            chain: Chain::starting_at(ChainHash::from_bytes([7; 32])),
            last_record: None,
            leader: None,
            state_machine: StateMachineVersion {
                name: KvMachine::NAME.to_owned(),
                version: KvMachine::VERSION,
            },
            log_bytes: applied * 10,
        };
        let engine = RocksEngine::new(&RocksOptions::default())?;
        let store = engine.open(&dir.join("live"))?;
        let changes = Changes::from([
            (METADATA_KEY.to_vec(), Some(metadata.encode().into())),
            (b"\x01key".to_vec(), Some(format!("value at {applied}").into())),
        ]);
        store.write(&changes)?;
        let checkpoint = dir.join("checkpoint");
        store.checkpoint(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Certifies a trim up to `up_to`, resting on the two newest snapshots.
    pub(crate) async fn certify(&self, up_to: u64) -> anyhow::Result<()> {
        let certified = |entry: PointerEntry| CertifiedSnapshot {
            snapshot_id: entry.snapshot_id,
            lsn: entry.lsn,
            path: entry.path,
            manifest_hash: entry.manifest_hash,
            verified: VerifyLevel::Content,
            verified_by: entry.node,
            verified_at: entry.created_at,
            unknown: Unknown::default(),
        };
        let draft = CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: self
                .pointer()
                .await?
                .snapshots
                .into_iter()
                .take(2)
                .map(certified)
                .collect(),
            issued_by: NodeId::new("admin-1")?,
        };
        self.repository.write_certificate(draft).await?;
        Ok(())
    }

    /// Returns a directory that no snapshot has.
    pub(crate) fn directory(&self, lsn: u64) -> SnapshotDirectory {
        SnapshotDirectory {
            generation: self.incarnation().generation,
            lsn: Lsn::new(lsn),
            snapshot_id: SnapshotId::new(Seams::real().ulid()),
        }
    }

    pub(crate) async fn pointer(&self) -> anyhow::Result<Pointer> {
        let pointer = self.repository.pointer(P0).await?;
        Ok(pointer.context("there is no pointer")?.value)
    }

    /// Returns the file that holds an object.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("store").join(key)
    }

    pub(crate) fn write(&self, key: &str, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().context("a key has a folder")?)?;
        Ok(std::fs::write(path, bytes)?)
    }

    pub(crate) fn remove(&self, key: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path(key))?)
    }

    /// Rewrites the pointer as a hand that meant no good.
    pub(crate) async fn change_pointer(&self, change: impl FnOnce(&mut Pointer)) -> anyhow::Result<()> {
        let mut pointer = self.pointer().await?;
        change(&mut pointer);
        self.write(&Keys::pointer(P0), pointer.encode())
    }

    /// Rewrites the newest snapshot's manifest, and has the pointer name what it became.
    pub(crate) async fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> anyhow::Result<()> {
        let entry = self.pointer().await?.snapshots.remove(0);
        let key = Keys::manifest(P0, &entry.path);
        let mut manifest = Manifest::decode(&key, &std::fs::read(self.path(&key))?)?;
        change(&mut manifest);
        self.put_manifest(&manifest.encode()).await
    }

    /// Replaces the newest snapshot's manifest, and has the pointer name what it became.
    pub(crate) async fn put_manifest(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let entry = self.pointer().await?.snapshots.remove(0);
        self.write(&Keys::manifest(P0, &entry.path), bytes)?;
        self.change_pointer(|pointer| pointer.snapshots[0].manifest_hash = ContentHash::of(bytes))
            .await
    }

    /// Runs `tidemark snapshots ARGS` on this repository.
    pub(crate) fn snapshots(&self, args: &[&str]) -> anyhow::Result<Answer> {
        Self::snapshots_at(self.repository.url(), &[], args)
    }

    /// Runs `tidemark snapshots ARGS` on the repository at `url`.
    pub(crate) fn snapshots_at(
        url: &str,
        options: &[(String, String)],
        args: &[&str],
    ) -> anyhow::Result<Answer> {
        let options = options
            .iter()
            .map(|(key, value)| format!("--store-option={key}={value}"));
        let output = Command::new(binary()?)
            .args(["--output", "json", "snapshots"])
            .args(args)
            .args(["--store", url])
            .args(options)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(text.lines().count() == 1, "{args:?}: {text}\n{errors}");
        Ok(Answer {
            code: output.status.code(),
            json: serde_json::from_str(&text)?,
        })
    }
}
