//! A cluster in a store, and what publishes to it.

use crate::subject::{Raw, Subject};
use snapshot_store::{
    CheckLevel, Incarnation, Lsn, NoProgress, NodeId, PartitionId, PublishError, Published, ReplicaRole,
    Repository, SnapshotUpload, StoreError, Timestamp,
    format::{
        CertifiedSnapshot, ClusterRecord, KeyHash, KeyRange, Pointer, PointerEntry, Producer,
        StateMachineVersion, Unknown, VerifyLevel,
    },
};
use std::{collections::BTreeMap, path::Path};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const P0: PartitionId = PartitionId::new(0);

/// A cluster with one partition, in a prefix of its own.
pub(crate) struct World<'a> {
    subject: &'a Subject,
    prefix: String,
    pub(crate) repository: Repository,
    pub(crate) record: ClusterRecord,
    pub(crate) raw: Raw,
}

impl<'a> World<'a> {
    pub(crate) async fn new(subject: &'a Subject, prefix: &str) -> Self {
        let repository = subject.repository(prefix);
        let record = repository.init(&spec(1)).await.unwrap();
        World {
            subject,
            prefix: prefix.to_owned(),
            repository,
            record,
            raw: subject.raw(prefix),
        }
    }

    /// Opens it once more, as another process.
    pub(crate) fn other(&self) -> Repository {
        self.subject.repository(&self.prefix)
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.record.incarnations[&P0]
    }

    pub(crate) async fn publish(&self, files: &Path, lsn: u64) -> Result<Published, PublishError> {
        publish(&self.repository, &self.record, P0, files, lsn).await
    }

    pub(crate) async fn pointer(&self) -> Pointer {
        self.repository.pointer(P0).await.unwrap().unwrap().value
    }

    /// LSNs that the pointer retains, newest first.
    pub(crate) async fn retained(&self) -> Vec<u64> {
        let pointer = self.pointer().await;
        pointer.snapshots.iter().map(|entry| entry.lsn.get()).collect()
    }

    /// Checks a snapshot; returns the words for what is wrong.
    pub(crate) async fn check(&self, entry: &PointerEntry, level: CheckLevel) -> Vec<&'static str> {
        let check = self
            .repository
            .check_snapshot(&self.record.cluster, P0, entry, level, &NoProgress)
            .await
            .unwrap();
        check
            .anomalies
            .iter()
            .map(|anomaly| anomaly.kind.as_str())
            .collect()
    }

    /// Downloads a snapshot and compares it with the checkpoint it was made of.
    pub(crate) async fn assert_comes_back(&self, entry: &PointerEntry, files: &Path) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("restored");
        self.other()
            .download(P0, entry, &target, &NoProgress)
            .await
            .unwrap();
        assert!(content(&target) == content(files), "the files are not the same");
    }

    /// Says that the log may be trimmed up to `up_to`, resting on the two newest snapshots.
    pub(crate) async fn certify(&self, up_to: u64) -> Result<(), snapshot_store::CertificateError> {
        let draft = snapshot_store::CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: self
                .pointer()
                .await
                .snapshots
                .iter()
                .take(2)
                .map(certified)
                .collect(),
            issued_by: node(),
        };
        self.repository.write_certificate(draft).await.map(drop)
    }
}

pub(crate) fn spec(partitions: u32) -> snapshot_store::ClusterSpec {
    snapshot_store::ClusterSpec {
        name: "shop".to_owned(),
        partitions,
        key_hash: KeyHash::Blake3Mod,
    }
}

/// Names a snapshot in a certificate.
pub(crate) fn certified(entry: &PointerEntry) -> CertifiedSnapshot {
    CertifiedSnapshot {
        snapshot_id: entry.snapshot_id,
        lsn: entry.lsn,
        path: entry.path,
        manifest_hash: entry.manifest_hash,
        verified: VerifyLevel::Content,
        verified_by: node(),
        verified_at: entry.created_at,
        unknown: Unknown::default(),
    }
}

pub(crate) fn node() -> NodeId {
    NodeId::new("worker-1").unwrap()
}

/// Publishes the files of `dir` as the state at `lsn`, in a new attempt.
pub(crate) async fn publish(
    repository: &Repository,
    record: &ClusterRecord,
    partition: PartitionId,
    dir: &Path,
    lsn: u64,
) -> Result<Published, PublishError> {
    let upload = upload(repository, record, partition, dir, lsn);
    repository
        .publish(&upload, &NoProgress, &CancellationToken::new())
        .await
}

/// Describes a new attempt.
pub(crate) fn upload(
    repository: &Repository,
    record: &ClusterRecord,
    partition: PartitionId,
    dir: &Path,
    lsn: u64,
) -> SnapshotUpload {
    SnapshotUpload {
        cluster: record.cluster.clone(),
        partition,
        incarnation: record.incarnations[&partition],
        snapshot_id: snapshot_store::SnapshotId::new(repository.seams().ulid()),
        lsn: Lsn::new(lsn),
        chain: None,
        state_digest: None,
        leader: None,
        log_bytes: lsn * 100,
        state_machine: StateMachineVersion {
            name: "kv".to_owned(),
            version: 1,
        },
        key_range: KeyRange {
            partition: partition.get(),
            of: record.partitions,
        },
        producer: Producer {
            node: node(),
            role: ReplicaRole::Follower,
        },
        request_id: None,
        created_at: Timestamp::from_millis(lsn),
        dir: dir.to_owned(),
        restorable_snapshots_min: None,
        lower_restorable_min: false,
        trimmed: None,
        distrusted: Vec::new(),
    }
}

/// A folder with files of these sizes, whose content is reproducible and differs between files.
pub(crate) fn checkpoint(files: &[(&str, usize)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let mut content = vec![0; *bytes];
        let mut reader = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
        reader.fill(&mut content);
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Returns what a failed publish says of the store.
pub(crate) fn store_error(error: PublishError) -> StoreError {
    match error {
        PublishError::Store(error) => error,
        other => panic!("not an error of the store: {other:?}"),
    }
}
