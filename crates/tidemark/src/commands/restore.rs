//! `snapshots restore`: a snapshot as a folder, to look into.
//!
//! It is downloaded beside the folder it is to become, verified, and then renamed: what stands there is a whole snapshot.

use super::{StoreOptionArgs, copy::anomalies_json, snapshots::open_store, verify::BarProgress};
use crate::output::{OutputFormat, bytes, or_dash, progress_bar};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use snapshot_store::{
    Anomaly, DownloadError, Lsn, PartitionId, SnapshotId,
    format::{Manifest, PointerEntry},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(super) const EXAMPLES: &str = "\
The folder becomes a RocksDB, as the worker that made the snapshot had it. Nothing uses it by itself: a worker restores what it
needs without any help. Every file is compared with the hash in the manifest; a damaged snapshot is named, and no
other one is taken in its place.

Examples:
  tidemark snapshots restore 3 --store file:///mnt/bucket --to /tmp/partition-3
  tidemark snapshots restore 3 --store s3://bucket/prefix --to /tmp/partition-3 --at 120000
  tidemark snapshots restore 3 --store s3://bucket/prefix --to /tmp/partition-3 --snapshot 01JD3X5K4QZ2M0V8W6T1R9N7BC";

/// Arguments of `snapshots restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The partition.
    partition: PartitionId,
    /// URL of the repository.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// The folder to make; one that exists must be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Take the newest snapshot at or below this LSN.
    #[arg(long, value_name = "LSN", conflicts_with = "snapshot")]
    at: Option<u64>,
    /// Take this snapshot.
    #[arg(long, value_name = "ID")]
    snapshot: Option<SnapshotId>,
}

impl RestoreArgs {
    fn wants(&self, entry: &PointerEntry) -> bool {
        self.at.is_none_or(|at| entry.lsn <= Lsn::new(at))
            && self.snapshot.is_none_or(|wanted| wanted == entry.snapshot_id)
    }
}

/// Restores one snapshot.
///
/// # Errors
/// When there is no such snapshot, the folder cannot be used, or the store does not answer.
pub(super) async fn restore(args: RestoreArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let parent = usable(&args.to)?;
    let (repository, _) = open_store(&args.store, &args.options, Some(args.partition)).await?;
    let partition = args.partition;
    let pointer = repository.pointer(partition).await?.with_context(|| {
        format!("partition {partition} has no snapshot; `tidemark snapshots verify` says whether it had one")
    })?;
    let retained = pointer.value.snapshots;
    let position = retained
        .iter()
        .position(|entry| args.wants(entry))
        .with_context(|| {
            let lsns: Vec<_> = retained.iter().map(|entry| entry.lsn.to_string()).collect();
            format!(
                "partition {partition} has no such snapshot; those retained are at LSN {}",
                lsns.join(", ")
            )
        })?;
    let (entry, older) = (&retained[position], retained.get(position + 1));

    let staging = tempfile::Builder::new()
        .prefix(".tidemark-restore-")
        .tempdir_in(&parent)
        .with_context(|| format!("no folder can be made in {}", parent.display()))?;
    let dir = staging.path().join("state");
    let bar = BarProgress(progress_bar(output, "restoring", Some(0)));
    let downloaded = repository.download(partition, entry, &dir, &bar).await;
    bar.0.finish_and_clear();
    match downloaded {
        Ok(manifest) => {
            put_in_place(&dir, &args.to)?;
            output.print(&restored_json(&manifest, &args.to), || {
                restored_text(&manifest, &args.to)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(DownloadError::Damaged(anomalies)) => {
            let answer = damaged_json(partition, entry, &anomalies, older);
            output.print(&answer, || damaged_text(partition, entry, &anomalies, older))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks that `to` can become the snapshot, and returns the folder it lies in.
fn usable(to: &Path) -> anyhow::Result<PathBuf> {
    match fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                anyhow::bail!("{} is not empty: name another folder with --to", to.display());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be used as a folder", to.display()));
        }
    }
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => anyhow::bail!(
            "{} cannot become a snapshot: name another folder with --to",
            to.display()
        ),
    };
    fs::create_dir_all(&parent).with_context(|| format!("{} cannot be created", parent.display()))?;
    // Only within one disk a whole snapshot can appear at once.
    let disk = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    if to.exists() && disk(to) != disk(&parent) {
        anyhow::bail!(
            "{} is a disk of its own: name a folder on it with --to",
            to.display()
        );
    }
    Ok(parent)
}

/// Renames the finished folder; an empty one that stands there makes room, a full one does not.
fn put_in_place(dir: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(dir, to).with_context(|| format!("{} cannot be put in place", to.display()))
}

fn restored_json(manifest: &Manifest, to: &Path) -> Value {
    json!({
        "ok": true,
        "partition": manifest.partition,
        "snapshot_id": manifest.snapshot_id,
        "lsn": manifest.lsn,
        "incarnation": manifest.incarnation,
        "cluster": manifest.cluster,
        "state_machine": manifest.state_machine,
        "state_digest": manifest.state_digest,
        "bytes": manifest.bytes_total,
        "files": manifest.files.len(),
        "folder": to,
        "format": "rocksdb",
    })
}

fn restored_text(manifest: &Manifest, to: &Path) -> String {
    format!(
        "snapshot {} of partition {} at LSN {}\nstate digest {}\n{} in {} files, all verified\n{} is a RocksDB with the state of {} version {}; open a copy of it, or read it only",
        manifest.snapshot_id,
        manifest.partition,
        manifest.lsn,
        or_dash(manifest.state_digest),
        bytes(manifest.bytes_total),
        manifest.files.len(),
        to.display(),
        manifest.state_machine.name,
        manifest.state_machine.version,
    )
}

fn damaged_json(
    partition: PartitionId,
    entry: &PointerEntry,
    anomalies: &[Anomaly],
    older: Option<&PointerEntry>,
) -> Value {
    json!({
        "ok": false,
        "partition": partition,
        "snapshot_id": entry.snapshot_id,
        "lsn": entry.lsn,
        "anomalies": anomalies_json(anomalies),
        "older": older.map(|older| json!({ "snapshot_id": older.snapshot_id, "lsn": older.lsn })),
    })
}

fn damaged_text(
    partition: PartitionId,
    entry: &PointerEntry,
    anomalies: &[Anomaly],
    older: Option<&PointerEntry>,
) -> String {
    let mut lines = vec![format!(
        "snapshot {} of partition {partition} at LSN {} is damaged; nothing was restored",
        entry.snapshot_id, entry.lsn
    )];
    for anomaly in anomalies {
        lines.push(anomaly.to_string());
        lines.push(format!(
            "what to do about {}: {}",
            anomaly.kind,
            anomaly.kind.remedy()
        ));
    }
    lines.push(match older {
        Some(older) => format!(
            "an older one is retained at LSN {}: --snapshot {}",
            older.lsn, older.snapshot_id
        ),
        None => "no older one is retained".to_owned(),
    });
    lines.join("\n")
}
