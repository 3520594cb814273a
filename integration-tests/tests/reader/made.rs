//! A repository in a folder with everything in it that a reader must tell apart, and the reader.

use anyhow::{Context, ensure};
use serde_json::Value;
use snapshot_store::{
    CertificateDraft, ClusterSpec, ContentHash, Incarnation, Incremental, Lsn, NoProgress, NodeId,
    PartitionId, ReplicaRole, Repository, Seams, SnapshotId, SnapshotUpload, StoreOptions,
    format::{
        CertifiedSnapshot, ClusterRecord, KeyHash, KeyRange, Keys, Pointer, Producer, SnapshotDirectory,
        StateMachineVersion, Unknown, VerifyLevel,
    },
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const P0: PartitionId = PartitionId::new(0);
pub(crate) const P1: PartitionId = PartitionId::new(1);
/// The third has no snapshot yet.
pub(crate) const PARTITIONS: u32 = 3;

/// The package the reader needs, with its version.
const REQUIREMENT: &str = include_str!("../../reader/requirements.txt");

/// What the reader answered.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
}

/// A cluster's repository in a folder.
///
/// The first partition has an evicted snapshot at 50, retained ones at 100, 200 and 300, a certificate that keeps the one at 100,
/// three uploads that are not complete, and strange objects; the second has one snapshot; the third a first upload in progress.
pub(crate) struct Made {
    pub(crate) dir: TempDir,
    pub(crate) repository: Repository,
    pub(crate) record: ClusterRecord,
}

impl Made {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let url = format!("file://{}", dir.path().join("store").display());
        let options = StoreOptions {
            incremental: Incremental::On,
            ..StoreOptions::default()
        };
        let repository = Repository::open_with(&url, &options, Seams::real())?;
        let spec = ClusterSpec {
            name: "shop".to_owned(),
            partitions: PARTITIONS,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await?;
        let made = Made {
            dir,
            repository,
            record,
        };
        for lsn in [50, 100, 200] {
            made.publish(P0, lsn).await?;
        }
        made.certify(100).await?;
        made.publish(P0, 300).await?;
        made.publish(P1, 1_000).await?;
        for (partition, lsn, file) in [
            (P0, 150, "000009.sst"),
            (P0, 160, "000009.sst#1"),
            (P0, 900, "CURRENT"),
            (PartitionId::new(2), 5, "CURRENT"),
        ] {
            let directory = made.directory(partition, lsn);
            made.write(&format!("{partition}/{directory}/{file}"), b"half a file")?;
        }
        let similar = made.directory(P0, 70).to_string().to_lowercase();
        for key in [
            "0/notes.txt",
            &format!("0/{similar}/CURRENT"),
            "007/latest.json",
            "notes/a.txt",
            "readme.txt",
        ] {
            made.write(key, b"a note")?;
        }
        Ok(made)
    }

    pub(crate) fn incarnation(&self, partition: PartitionId) -> Incarnation {
        self.record.incarnations[&partition]
    }

    /// Publishes a snapshot: one file that is the same in all of them, and one that is not.
    async fn publish(&self, partition: PartitionId, lsn: u64) -> anyhow::Result<()> {
        let checkpoint = tempfile::tempdir()?;
        std::fs::write(checkpoint.path().join("000007.sst"), [7_u8; 100 << 10])?;
        std::fs::write(checkpoint.path().join("CURRENT"), format!("state at {lsn}\n"))?;
        let upload = SnapshotUpload {
            cluster: self.record.cluster.clone(),
            partition,
            incarnation: self.incarnation(partition),
            snapshot_id: SnapshotId::new(Seams::real().ulid()),
            lsn: Lsn::new(lsn),
            chain: None,
            state_digest: None,
            leader: None,
            log_bytes: lsn * 10,
            state_machine: StateMachineVersion {
                name: "kv".to_owned(),
                version: 1,
            },
            key_range: KeyRange {
                partition: partition.get(),
                of: PARTITIONS,
            },
            producer: Producer {
                node: NodeId::new("worker-1")?,
                role: ReplicaRole::Follower,
            },
            request_id: None,
            created_at: Seams::real().clock.now(),
            dir: checkpoint.path().to_owned(),
            restorable_snapshots_min: None,
            lower_restorable_min: false,
            trimmed: None,
            distrusted: Vec::new(),
        };
        let cancel = CancellationToken::new();
        self.repository.publish(&upload, &NoProgress, &cancel).await?;
        Ok(())
    }

    /// Certifies a trim of the first partition up to `up_to`, resting on its two newest snapshots.
    async fn certify(&self, up_to: u64) -> anyhow::Result<()> {
        let snapshots = self.pointer(P0).await?.snapshots.into_iter().take(2);
        let snapshots = snapshots.map(|entry| CertifiedSnapshot {
            snapshot_id: entry.snapshot_id,
            lsn: entry.lsn,
            path: entry.path,
            manifest_hash: entry.manifest_hash,
            verified: VerifyLevel::Content,
            verified_by: entry.node,
            verified_at: entry.created_at,
            unknown: Unknown::default(),
        });
        let draft = CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(P0),
            up_to: Lsn::new(up_to),
            snapshots: snapshots.collect(),
            issued_by: NodeId::new("admin-1")?,
        };
        self.repository.write_certificate(draft).await?;
        Ok(())
    }

    /// Returns a directory that no snapshot has.
    fn directory(&self, partition: PartitionId, lsn: u64) -> SnapshotDirectory {
        SnapshotDirectory {
            generation: self.incarnation(partition).generation,
            lsn: Lsn::new(lsn),
            snapshot_id: SnapshotId::new(Seams::real().ulid()),
        }
    }

    pub(crate) async fn pointer(&self, partition: PartitionId) -> anyhow::Result<Pointer> {
        let pointer = self.repository.pointer(partition).await?;
        Ok(pointer.context("there is no pointer")?.value)
    }

    /// Returns the file that holds an object.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("store").join(key)
    }

    pub(crate) fn write(&self, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().context("a key has a folder")?)?;
        Ok(std::fs::write(path, bytes)?)
    }

    /// Rewrites a document by hand.
    pub(crate) fn edit(&self, key: &str, change: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.path(key))?;
        let changed = change(&text);
        ensure!(changed != text, "{key} was not changed: {text}");
        self.write(key, changed.as_bytes())
    }

    /// Rewrites the manifest of the first partition's newest snapshot, and has the pointer name what it became. Returns its key.
    pub(crate) async fn edit_manifest(&self, change: impl FnOnce(&str) -> String) -> anyhow::Result<String> {
        let entry = self.pointer(P0).await?.snapshots.remove(0);
        let key = Keys::manifest(P0, &entry.path);
        self.edit(&key, change)?;
        let hash = ContentHash::of(&std::fs::read(self.path(&key))?);
        let (old, new) = (entry.manifest_hash.to_string(), hash.to_string());
        self.edit(&Keys::pointer(P0), |text| text.replace(&old, &new))?;
        Ok(key)
    }

    pub(crate) fn restore_point(&self, partition: PartitionId, args: &[&str]) -> anyhow::Result<Reading> {
        let partition = partition.to_string();
        self.read(&[&["restore-point", "--partition", &partition][..], args].concat())
    }

    /// Runs the reader on this repository.
    pub(crate) fn read(&self, args: &[&str]) -> anyhow::Result<Reading> {
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/tidemark_reader.py");
        let (command, options) = args.split_first().context("no command")?;
        let output = Command::new(interpreter()?)
            // Compiled files would lie in the source tree.
            .arg("-B")
            .arg(reader)
            .arg(command)
            .arg(self.path(""))
            .args(options)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            text.lines().count() == 1 && errors.is_empty(),
            "the reader failed on {args:?}: {text}\n{errors}"
        );
        Ok(Reading {
            code: output.status.code(),
            json: serde_json::from_str(&text)?,
        })
    }
}

/// Returns the Python that has the reader's package: the one that `scripts/test.sh` exports, or where it puts it.
fn interpreter() -> anyhow::Result<PathBuf> {
    let requirement = REQUIREMENT.trim();
    let path = match std::env::var_os("TIDEMARK_READER_PYTHON") {
        Some(path) => path.into(),
        None => {
            let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
            let venv = format!("tidemark/tools/venv-reader-{}", requirement.replace("==", "-"));
            cache.context("HOME is not set")?.join(venv).join("bin/python")
        }
    };
    ensure!(
        path.is_file(),
        "there is no {}: run `scripts/test.sh`, which installs it, or set TIDEMARK_READER_PYTHON to a Python 3 that has {requirement}",
        path.display()
    );
    Ok(path)
}
