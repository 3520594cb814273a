//! `snapshots verify`: by a worker, or by this process.

use super::{
    AdminArgs,
    admin_client::{status_text, worker_client},
    exit, render,
    snapshots::{admin_snapshots, open_store},
};
use crate::output::{OutputFormat, bytes, duration_ms, progress_bar, table};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::json;
use snapshot_proto::v1::{Liveness, NodeView, VerifySnapshotRequest};
use snapshot_store::{PartitionId, Progress, SnapshotId};
use std::{process::ExitCode, time::Duration};

/// How long one snapshot may take; a worker reads it at disk or network speed.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3600);

/// How thoroughly snapshots are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Manifest and all files are there with their sizes.
    Presence,
    /// All files have the hashes the manifest names.
    Content,
}

/// Arguments of `snapshots verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    /// Only this snapshot.
    #[arg(long, value_name = "ID")]
    snapshot: Option<SnapshotId>,
    /// How thoroughly.
    #[arg(long, value_enum, default_value = "content")]
    level: Level,
    /// Read the repository at this URL in this process.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What checking one snapshot came to.
struct Checked {
    partition: PartitionId,
    snapshot_id: String,
    lsn: u64,
    /// Where it was read.
    by: String,
    bytes_read: u64,
    duration_ms: u64,
    /// Kind, object and detail of everything that is wrong.
    anomalies: Vec<(String, String, String)>,
    /// Set when the check itself did not succeed: nothing is known then.
    error: Option<String>,
}

impl Checked {
    fn passed(&self) -> bool {
        self.anomalies.is_empty() && self.error.is_none()
    }

    fn result(&self) -> &'static str {
        match (&self.error, self.anomalies.is_empty()) {
            (Some(_), _) => "unknown",
            (None, true) => "ok",
            (None, false) => "damaged",
        }
    }
}

pub(super) async fn verify(args: VerifyArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let checked = match &args.store {
        Some(url) => in_this_process(&args, url, output).await?,
        None => by_workers(&args, output).await?,
    };
    if let (Some(snapshot), true) = (args.snapshot, checked.is_empty()) {
        anyhow::bail!("no retained snapshot {snapshot}; see `tidemark snapshots list`");
    }
    let all_well = checked.iter().all(Checked::passed);
    let objects = checked.iter().map(|one| {
        let anomalies = one
            .anomalies
            .iter()
            .map(|(kind, key, message)| json!({ "kind": kind, "key": key, "message": message }));
        json!({
            "partition": one.partition,
            "snapshot_id": one.snapshot_id,
            "lsn": one.lsn,
            "result": one.result(),
            "by": one.by,
            "bytes_read": one.bytes_read,
            "duration_ms": one.duration_ms,
            "anomalies": anomalies.collect::<Vec<_>>(),
            "error": one.error,
        })
    });
    output.print(
        &json!({ "ok": all_well, "snapshots": objects.collect::<Vec<_>>() }),
        || checked_text(&checked),
    )?;
    Ok(exit(all_well))
}

fn checked_text(checked: &[Checked]) -> String {
    if checked.is_empty() {
        return "no snapshots yet".to_owned();
    }
    let rows = checked.iter().map(|one| {
        [
            one.partition.to_string(),
            one.snapshot_id.clone(),
            one.lsn.to_string(),
            one.result().to_owned(),
            bytes(one.bytes_read),
            duration_ms(one.duration_ms),
            one.by.clone(),
        ]
    });
    let mut lines = vec![table(
        ["partition", "snapshot", "LSN", "result", "read", "time", "by"],
        rows,
    )];
    for one in checked {
        let anomalies = one
            .anomalies
            .iter()
            .map(|(kind, key, message)| format!("{key}: {kind}: {message}"));
        lines.extend(anomalies);
        lines.extend(
            one.error
                .iter()
                .map(|error| format!("snapshot {}: {error}", one.snapshot_id)),
        );
    }
    lines.join("\n")
}

/// Moves a progress bar.
struct BarProgress(indicatif::ProgressBar);

impl Progress for BarProgress {
    fn advanced(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
}

async fn in_this_process(args: &VerifyArgs, url: &str, output: OutputFormat) -> anyhow::Result<Vec<Checked>> {
    let (repository, partitions) = open_store(url, args.partition).await?;
    let mut checked = Vec::new();
    for partition in partitions {
        let Some(pointer) = repository.pointer(partition).await? else {
            continue;
        };
        for entry in pointer.value.snapshots {
            if args
                .snapshot
                .is_some_and(|snapshot| snapshot != entry.snapshot_id)
            {
                continue;
            }
            let started = tokio::time::Instant::now();
            let bar = BarProgress(progress_bar(output, "verifying", Some(0)));
            let result = match args.level {
                Level::Presence => repository
                    .check_presence(partition, &entry)
                    .await
                    .map(|found| (found, 0)),
                Level::Content => repository
                    .check_content(partition, &entry, &bar)
                    .await
                    .map(|check| (check.anomalies, check.bytes_read)),
            };
            bar.0.finish_and_clear();
            let (anomalies, bytes_read, error) = match result {
                Ok((anomalies, bytes_read)) => (anomalies, bytes_read, None),
                Err(error) => (Vec::new(), 0, Some(format!("{:#}", anyhow::Error::new(error)))),
            };
            checked.push(Checked {
                partition,
                snapshot_id: entry.snapshot_id.to_string(),
                lsn: entry.lsn.get(),
                by: "this process".to_owned(),
                bytes_read,
                duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                anomalies: anomalies
                    .into_iter()
                    .map(|anomaly| (anomaly.kind.as_str().to_owned(), anomaly.key, anomaly.detail))
                    .collect(),
                error,
            });
        }
    }
    Ok(checked)
}

async fn by_workers(args: &VerifyArgs, output: OutputFormat) -> anyhow::Result<Vec<Checked>> {
    let snapshots = admin_snapshots(&args.admin, args.partition).await?;
    let nodes = args.admin.cluster_status().await?.nodes;
    let wanted: Vec<_> = snapshots
        .into_iter()
        .filter(|(_, snapshot)| {
            args.snapshot
                .is_none_or(|id| id.to_string() == snapshot.snapshot_id)
        })
        .collect();
    let bar = progress_bar(output, "verifying", Some(wanted.len() as u64));
    let mut checked = Vec::new();
    for (partition, snapshot) in wanted {
        let node = reader_of(&nodes, &snapshot.node).context(
            "no worker is live that could read the snapshots; use --store to read them in this process",
        )?;
        let mut one = Checked {
            partition,
            snapshot_id: snapshot.snapshot_id.clone(),
            lsn: snapshot.lsn,
            by: node.node.clone(),
            bytes_read: 0,
            duration_ms: 0,
            anomalies: Vec::new(),
            error: None,
        };
        let level = match args.level {
            Level::Presence => snapshot_proto::v1::VerifyLevel::Presence,
            Level::Content => snapshot_proto::v1::VerifyLevel::Content,
        };
        let request = VerifySnapshotRequest {
            partition: partition.get(),
            snapshot_id: snapshot.snapshot_id,
            level: level.into(),
        };
        let mut worker = worker_client(&node.address)?;
        match tokio::time::timeout(VERIFY_TIMEOUT, worker.verify_snapshot(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                one.bytes_read = reply.bytes_read;
                one.duration_ms = reply.duration_ms;
                one.anomalies = reply
                    .anomalies
                    .into_iter()
                    .map(|found| (found.kind, found.key, found.message))
                    .collect();
                if !reply.ok && one.anomalies.is_empty() {
                    one.error = Some(format!("it passed only at level {}", render::level(reply.level)));
                }
            }
            Ok(Err(status)) => one.error = Some(format!("{}: {}", node.address, status_text(&status))),
            Err(_) => one.error = Some(format!("no answer within {} s", VERIFY_TIMEOUT.as_secs())),
        }
        bar.inc(1);
        checked.push(one);
    }
    bar.finish_and_clear();
    Ok(checked)
}

/// Chooses a live worker, one that did not make the snapshot where there is one.
fn reader_of<'a>(nodes: &'a [NodeView], producer: &str) -> Option<&'a NodeView> {
    let live = |node: &&NodeView| node.liveness() == Liveness::Live;
    let others = nodes.iter().filter(live).find(|node| node.node != producer);
    others.or_else(|| nodes.iter().find(live))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, liveness: Liveness) -> NodeView {
        NodeView {
            node: name.into(),
            liveness: liveness.into(),
            ..NodeView::default()
        }
    }

    #[test]
    fn a_snapshot_is_read_by_another_node_than_its_producer_where_there_is_one() {
        let nodes = [
            node("a", Liveness::Live),
            node("b", Liveness::Live),
            node("c", Liveness::Gone),
        ];
        assert_eq!(reader_of(&nodes, "a").map(|node| node.node.as_str()), Some("b"));
        assert_eq!(reader_of(&nodes, "b").map(|node| node.node.as_str()), Some("a"));
        assert_eq!(
            reader_of(&nodes[..1], "a").map(|node| node.node.as_str()),
            Some("a")
        );
        assert_eq!(reader_of(&nodes[2..], "a").map(|node| node.node.as_str()), None);
    }
}
