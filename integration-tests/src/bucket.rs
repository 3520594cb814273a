//! An independent reader of a `file://` repository: parses the JSON as it stands and hashes every file. Shares no
//! code with `snapshot-store` on purpose.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::cluster::wait_for;

/// How long a bucket that changes may take until it is read as it is.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// What the bucket holds of one partition.
#[derive(Clone, Debug)]
pub struct BucketPartition {
    /// Retained snapshots, newest first as in the pointer.
    pub snapshots: Vec<BucketSnapshot>,
    /// How many of the newest trimming relies on.
    pub restorable_min: usize,
    /// The certificate of the last trim.
    pub certificate: Option<BucketCertificate>,
}

/// One retained snapshot.
#[derive(Clone, Debug)]
pub struct BucketSnapshot {
    /// Its id.
    pub id: String,
    /// The LSN whose state it holds.
    pub lsn: u64,
    /// Its folder.
    pub folder: PathBuf,
    /// What is wrong with it; empty when every file is there with the right size and hash.
    pub faults: Vec<String>,
}

/// The certificate of the last trim.
#[derive(Clone, Debug)]
pub struct BucketCertificate {
    /// Highest LSN that may be trimmed.
    pub up_to: u64,
    /// Ids of the snapshots it rests on.
    pub snapshots: Vec<String>,
}

impl BucketPartition {
    /// Reads everything there is of `partition`; `None` when there is no pointer.
    ///
    /// # Errors
    /// When pointer or certificate cannot be understood.
    pub fn read(bucket: &Path, partition: u32) -> anyhow::Result<Option<Self>> {
        let folder = bucket.join(partition.to_string());
        let Some(pointer) = read_json(&folder.join("latest.json"))? else {
            return Ok(None);
        };
        let restorable_min = number(&pointer, "restorable_snapshots_min")?;
        let mut snapshots = Vec::new();
        for entry in pointer["snapshots"]
            .as_array()
            .context("the pointer has no list of snapshots")?
        {
            let path = text(entry, "path")?;
            let mut snapshot = BucketSnapshot {
                id: text(entry, "snapshot_id")?.to_owned(),
                lsn: number(entry, "lsn")?,
                folder: folder.join(path),
                faults: Vec::new(),
            };
            if let Err(fault) = check_snapshot(&snapshot, entry) {
                snapshot.faults.push(format!("{fault:#}"));
            }
            snapshots.push(snapshot);
        }
        let certificate = match read_json(&folder.join("trim.json"))? {
            None => None,
            Some(certificate) => {
                let named = certificate["snapshots"]
                    .as_array()
                    .context("the certificate names no snapshots")?;
                let ids = named
                    .iter()
                    .map(|entry| text(entry, "snapshot_id").map(str::to_owned));
                Some(BucketCertificate {
                    up_to: number(&certificate, "up_to")?,
                    snapshots: ids.collect::<Result<_, _>>()?,
                })
            }
        };
        let restorable_min = usize::try_from(restorable_min)?;
        Ok(Some(BucketPartition {
            snapshots,
            restorable_min,
            certificate,
        }))
    }

    /// Returns how far the log may be trimmed at most: the lowest LSN among the restorable snapshots, if there are
    /// enough of them and all are sound.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn guard(&self) -> anyhow::Result<u64> {
        let restorable: Vec<_> = self.snapshots.iter().take(self.restorable_min).collect();
        ensure!(
            restorable.len() == self.restorable_min,
            "{} snapshots, not {}",
            restorable.len(),
            self.restorable_min
        );
        for snapshot in &restorable {
            ensure!(
                snapshot.faults.is_empty(),
                "snapshot {} at {}: {:?}",
                snapshot.id,
                snapshot.lsn,
                snapshot.faults
            );
        }
        restorable
            .iter()
            .map(|snapshot| snapshot.lsn)
            .min()
            .context("no snapshot is restorable")
    }
}

/// Fails when the bucket could not replace what the log of `partition` has lost by trimming up to `trim_point`,
/// which must have been read before.
///
/// # Errors
/// With what is missing.
pub fn check_trim_point(bucket: &Path, partition: u32, trim_point: u64) -> anyhow::Result<()> {
    if trim_point == 0 {
        return Ok(());
    }
    let read = BucketPartition::read(bucket, partition)?;
    let read =
        read.with_context(|| format!("partition {partition}: trimmed up to {trim_point} without a pointer"))?;
    let guard = read.guard().with_context(|| format!("partition {partition}"))?;
    ensure!(
        trim_point <= guard,
        "partition {partition}: trimmed up to {trim_point}, restorable only from {guard}"
    );
    let certificate = read.certificate.as_ref();
    let certificate = certificate.with_context(|| {
        format!("partition {partition}: trimmed up to {trim_point} without a certificate")
    })?;
    ensure!(
        certificate.up_to >= trim_point,
        "partition {partition}: trimmed up to {trim_point}, certified up to {}",
        certificate.up_to
    );
    for id in &certificate.snapshots {
        let snapshot = read.snapshots.iter().find(|snapshot| snapshot.id == *id);
        let snapshot =
            snapshot.with_context(|| format!("partition {partition}: certified {id} is not retained"))?;
        ensure!(
            snapshot.faults.is_empty(),
            "partition {partition}: certified {id}: {:?}",
            snapshot.faults
        );
    }
    Ok(())
}

/// Waits until [`check_trim_point`] finds a trim covered: a snapshot may be evicted while it is read, so that what counts is
/// that some reading does.
///
/// # Errors
/// With what is missing.
pub async fn until_covered(bucket: &Path, partition: u32, trim_point: u64) -> anyhow::Result<()> {
    wait_for("the bucket to cover the trim", READ_WITHIN, async || {
        check_trim_point(bucket, partition, trim_point).map_err(|error| format!("{error:#}"))
    })
    .await?;
    Ok(())
}

/// Compares a snapshot's folder with its manifest, and the manifest with the pointer's entry.
fn check_snapshot(snapshot: &BucketSnapshot, entry: &Value) -> anyhow::Result<()> {
    let path = snapshot.folder.join("metadata.json");
    let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let hash = blake3::hash(&bytes).to_hex();
    ensure!(
        text(entry, "manifest_hash")? == hash.as_str(),
        "the manifest is not the one the pointer names"
    );
    let manifest: Value = serde_json::from_slice(&bytes)?;
    ensure!(
        text(&manifest, "snapshot_id")? == snapshot.id,
        "the manifest is of another snapshot"
    );
    ensure!(
        number(&manifest, "lsn")? == snapshot.lsn,
        "the manifest is of another LSN"
    );
    let files = manifest["files"]
        .as_array()
        .context("the manifest has no files")?;
    ensure!(!files.is_empty(), "the manifest has no files");
    for file in files {
        let name = text(file, "name")?;
        let content = std::fs::read(snapshot.folder.join(name)).with_context(|| format!("file {name}"))?;
        ensure!(
            content.len() as u64 == number(file, "bytes")?,
            "file {name} has another size"
        );
        ensure!(
            blake3::hash(&content).to_hex().as_str() == text(file, "hash")?,
            "file {name} has another content"
        );
    }
    Ok(())
}

fn read_json(path: &Path) -> anyhow::Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

fn text<'a>(object: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    object[field]
        .as_str()
        .with_context(|| format!("no text {field:?}"))
}

fn number(object: &Value, field: &str) -> anyhow::Result<u64> {
    object[field]
        .as_u64()
        .with_context(|| format!("no number {field:?}"))
}
