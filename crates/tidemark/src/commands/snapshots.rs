//! `snapshots list|show|create|verify|sweep|copy|restore`.

use super::{
    AdminArgs, StoreOptionArgs,
    copy::{self, CopyArgs},
    exit, render,
    restore::{self, RestoreArgs},
    sweep::{self, SweepArgs, sweep},
    verify::{VerifyArgs, verify},
};
use crate::output::{OutputFormat, bytes, duration_ms, progress_bar, table};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use snapshot_proto::v1::{
    AdminCreateSnapshotRequest, CreateSnapshotEvent, SnapshotView, create_snapshot_event::Event,
};
use snapshot_store::{
    PartitionId, Repository, SnapshotId,
    format::{Manifest, PointerEntry},
};
use std::{process::ExitCode, time::Duration};

/// The longest silence while a snapshot is being made; progress comes far more often.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(300);

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotsCommand {
    /// List what can be restored.
    #[command(after_help = "\
Asks the admin, or with --store reads the repository itself, which works without any node.

Examples:
  tidemark snapshots list
  tidemark snapshots list --partition 3 --store file:///mnt/bucket")]
    List(ListArgs),
    /// Show one snapshot; with --store all of its manifest.
    #[command(after_help = "\
Examples:
  tidemark snapshots show 3
  tidemark snapshots show 3 01JD3X5K4QZ2M0V8W6T1R9N7BC --store file:///mnt/bucket")]
    Show(ShowArgs),
    /// Have snapshots made now, by the replica that the policy would choose.
    #[command(after_help = "\
Examples:
  tidemark snapshots create 3
  tidemark snapshots create 0 1 2 --node worker-2")]
    Create(CreateArgs),
    /// Check published snapshots against their manifests.
    #[command(after_help = "\
Without --store a worker reads the snapshots, one that did not make them where there is one. With --store this
process reads them, and looks at everything else in the repository too: pointers, certificates, uploads that ended
early, objects that are not Tidemark's.

Exit code: 0 nothing is wrong; 1 something is damaged, or could not be checked; 3 nothing is damaged, and something
wants cleaning up.

Examples:
  tidemark snapshots verify
  tidemark snapshots verify --partition 3 --level presence
  tidemark snapshots verify --store file:///mnt/bucket
  tidemark snapshots verify --store s3://bucket/prefix --bytes-per-second 20000000
  tidemark snapshots verify --level restore --store file:///mnt/bucket --scratch /mnt/large")]
    Verify(VerifyArgs),
    /// Say what lies in the repository and nothing depends on any more; delete it.
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(SweepArgs),
    /// Copy all snapshots to another repository: move the cluster there, or fork another cluster.
    #[command(after_help = copy::EXAMPLES)]
    Copy(CopyArgs),
    /// Download a snapshot, verified, into a new folder to look into.
    #[command(after_help = restore::EXAMPLES)]
    Restore(RestoreArgs),
}

/// Which snapshots, and where to read about them.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    /// Read the repository at this URL instead of asking the admin.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    options: StoreOptionArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `snapshots show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The partition.
    partition: PartitionId,
    /// The snapshot; the latest when left out.
    snapshot: Option<SnapshotId>,
    /// Read the repository at this URL instead of asking the admin.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    options: StoreOptionArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `snapshots create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The partitions.
    #[arg(required = true)]
    partitions: Vec<PartitionId>,
    /// Lowest LSN the snapshots must hold; what the policy would ask for when left out.
    #[arg(long, value_name = "LSN", default_value_t = 0, hide_default_value = true)]
    min_lsn: u64,
    /// Ask this node instead of the policy's choice.
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    #[command(flatten)]
    admin: AdminArgs,
}

impl SnapshotsCommand {
    /// Runs it. The exit code is not 0 when any snapshot was not made or did not pass.
    ///
    /// # Errors
    /// When admin or store do not answer.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            SnapshotsCommand::List(args) => list(args, output).await,
            SnapshotsCommand::Show(args) => show(args, output).await,
            SnapshotsCommand::Create(args) => create(args, output).await,
            SnapshotsCommand::Verify(args) => verify(args, output).await,
            SnapshotsCommand::Sweep(args) => sweep(args, output).await,
            SnapshotsCommand::Copy(args) => copy::copy(args, output).await,
            SnapshotsCommand::Restore(args) => restore::restore(args, output).await,
        }
    }
}

/// Opens the repository and returns it with the partitions asked for.
pub(super) async fn open_store(
    url: &str,
    options: &StoreOptionArgs,
    only: Option<PartitionId>,
) -> anyhow::Result<(Repository, Vec<PartitionId>)> {
    with_partitions(options.open(url)?, only).await
}

/// Returns the repository with the partitions asked for; all of the cluster's when none is named.
pub(super) async fn with_partitions(
    repository: Repository,
    only: Option<PartitionId>,
) -> anyhow::Result<(Repository, Vec<PartitionId>)> {
    let url = repository.url();
    let record = repository
        .cluster()
        .await
        .with_context(|| format!("{url} cannot be read"))?
        .with_context(|| {
            format!("{url} holds no cluster: correct --store, or run `tidemark cluster init`")
        })?;
    if let Some(stray) = only.filter(|partition| partition.get() >= record.partitions) {
        let highest = record.partitions.saturating_sub(1);
        anyhow::bail!("the cluster has no partition {stray}: its partitions are 0 to {highest}");
    }
    let partitions = match only {
        Some(partition) => vec![partition],
        None => (0..record.partitions).map(PartitionId::new).collect(),
    };
    Ok((repository, partitions))
}

async fn list(args: ListArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    if let Some(url) = &args.store {
        let (repository, partitions) = open_store(url, &args.options, args.partition).await?;
        for partition in partitions {
            let pointer = repository.pointer(partition).await?;
            for entry in pointer.iter().flat_map(|pointer| &pointer.value.snapshots) {
                objects.push(entry_json(partition, entry));
                rows.push(entry_row(partition, entry));
            }
        }
    } else {
        for (partition, snapshot) in admin_snapshots(&args.admin, args.partition).await? {
            objects.push(render::snapshot_json(partition.get(), &snapshot));
            rows.push(view_row(partition, &snapshot));
        }
    }
    let header = [
        "partition",
        "snapshot",
        "LSN",
        "node",
        "role",
        "bytes",
        "uploaded",
        "made at",
        "verified",
    ];
    output.print(&json!({ "snapshots": objects }), || match rows.is_empty() {
        true => "no snapshots yet".to_owned(),
        false => table(header, rows),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the snapshots the admin knows, newest first in each partition.
pub(super) async fn admin_snapshots(
    admin: &AdminArgs,
    only: Option<PartitionId>,
) -> anyhow::Result<Vec<(PartitionId, SnapshotView)>> {
    let status = admin.cluster_status().await?;
    let views = status
        .partitions
        .into_iter()
        .filter(|view| only.is_none_or(|only| only.get() == view.partition));
    let found: Vec<_> = views.collect();
    if let (Some(partition), true) = (only, found.is_empty()) {
        anyhow::bail!("the admin knows no partition {partition}; see `tidemark partitions list`");
    }
    let pairs = found.into_iter().flat_map(|view| {
        let partition = PartitionId::new(view.partition);
        view.snapshots
            .into_iter()
            .map(move |snapshot| (partition, snapshot))
    });
    Ok(pairs.collect())
}

fn entry_json(partition: PartitionId, entry: &PointerEntry) -> Value {
    json!({
        "partition": partition,
        "snapshot_id": entry.snapshot_id,
        "lsn": entry.lsn,
        "node": entry.node,
        "role": entry.role.as_str(),
        "bytes_total": entry.bytes_total,
        "bytes_uploaded": entry.bytes_uploaded,
        "bytes_copied": entry.bytes_copied,
        "created_at": entry.created_at,
        "path": entry.path,
    })
}

fn entry_row(partition: PartitionId, entry: &PointerEntry) -> [String; 9] {
    [
        partition.to_string(),
        entry.snapshot_id.to_string(),
        entry.lsn.to_string(),
        entry.node.to_string(),
        entry.role.as_str().to_owned(),
        bytes(entry.bytes_total),
        bytes(entry.bytes_uploaded),
        entry.created_at.to_string(),
        "-".to_owned(),
    ]
}

fn view_row(partition: PartitionId, snapshot: &SnapshotView) -> [String; 9] {
    let verified = if snapshot.damaged {
        "damaged"
    } else {
        render::level(snapshot.verified)
    };
    [
        partition.to_string(),
        snapshot.snapshot_id.clone(),
        snapshot.lsn.to_string(),
        snapshot.node.clone(),
        render::role(snapshot.role).to_owned(),
        bytes(snapshot.bytes_total),
        bytes(snapshot.bytes_uploaded),
        render::time(snapshot.created_at_ms),
        verified.to_owned(),
    ]
}

async fn show(args: ShowArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let partition = args.partition;
    let wanted = |id: &str| args.snapshot.is_none_or(|snapshot| snapshot.to_string() == id);
    let none = || match args.snapshot {
        Some(snapshot) => format!(
            "partition {partition} has no retained snapshot {snapshot}; see `tidemark snapshots list`"
        ),
        None => format!(
            "partition {partition} has no snapshot yet; `tidemark snapshots create {partition}` makes one"
        ),
    };
    if let Some(url) = &args.store {
        let (repository, _) = open_store(url, &args.options, Some(partition)).await?;
        let pointer = repository.pointer(partition).await?.with_context(none)?.value;
        let entry = pointer
            .snapshots
            .iter()
            .find(|entry| wanted(&entry.snapshot_id.to_string()))
            .with_context(none)?;
        let manifest = repository.manifest(partition, entry).await?;
        output.print(&manifest, || manifest_text(&manifest))?;
    } else {
        let snapshots = admin_snapshots(&args.admin, Some(partition)).await?;
        let (_, snapshot) = snapshots
            .into_iter()
            .find(|(_, snapshot)| wanted(&snapshot.snapshot_id))
            .with_context(none)?;
        output.print(&render::snapshot_json(partition.get(), &snapshot), || {
            let [partition, id, lsn, node, role, total, uploaded, made, verified] = view_row(partition, &snapshot);
            format!(
                "snapshot {id} of partition {partition}\nLSN {lsn}, made by {node} ({role}) at {made}\n{total}, of which {uploaded} uploaded\nverified: {verified}\n--store URL shows its manifest"
            )
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn manifest_text(manifest: &Manifest) -> String {
    let files = manifest
        .files
        .iter()
        .map(|file| [file.name.clone(), bytes(file.bytes), file.hash.to_string()]);
    let leader = manifest
        .leader
        .as_ref()
        .map(|leader| format!("{} ({})", leader.node, leader.epoch));
    let digest = manifest.state_digest.map(|digest| digest.to_string());
    let request = manifest.request_id.map(|request| request.to_string());
    let none = || "-".to_owned();
    format!(
        "snapshot {} of partition {} in cluster {}\nLSN {} of incarnation {}, leader {}\nmade by {} ({}) at {}, request {}\nstate machine {} version {}, state digest {}\n{} in {} files, {} uploaded, {} copied\n{}",
        manifest.snapshot_id,
        manifest.partition,
        manifest.cluster,
        manifest.lsn,
        manifest.incarnation,
        leader.unwrap_or_else(none),
        manifest.producer.node,
        manifest.producer.role.as_str(),
        manifest.created_at,
        request.unwrap_or_else(none),
        manifest.state_machine.name,
        manifest.state_machine.version,
        digest.unwrap_or_else(none),
        bytes(manifest.bytes_total),
        manifest.files.len(),
        bytes(manifest.bytes_uploaded),
        bytes(manifest.bytes_copied),
        table(["file", "size", "BLAKE3"], files),
    )
}

/// How making one snapshot ended.
struct Outcome {
    ok: bool,
    text: String,
    object: Value,
}

async fn create(args: CreateArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let mut outcomes = Vec::new();
    for partition in &args.partitions {
        let outcome = match create_one(&args, *partition, output).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome {
                ok: false,
                text: format!("{error:#}"),
                object: json!({ "outcome": "failed", "message": format!("{error:#}") }),
            },
        };
        outcomes.push((*partition, outcome));
    }
    let all_well = outcomes.iter().all(|(_, outcome)| outcome.ok);
    let objects = outcomes.iter().map(|(partition, outcome)| {
        let mut object = outcome.object.clone();
        object["partition"] = json!(partition);
        object
    });
    output.print(
        &json!({ "ok": all_well, "snapshots": objects.collect::<Vec<_>>() }),
        || {
            let lines = outcomes.iter().map(|(partition, outcome)| {
                let prefix = format!("partition {partition}: ");
                // The admin's messages name the partition already.
                let text = outcome.text.strip_prefix(&prefix).unwrap_or(&outcome.text);
                format!("{prefix}{text}")
            });
            lines.collect::<Vec<_>>().join("\n")
        },
    )?;
    Ok(exit(all_well))
}

async fn create_one(
    args: &CreateArgs,
    partition: PartitionId,
    output: OutputFormat,
) -> anyhow::Result<Outcome> {
    let mut client = args.admin.client()?;
    let request = AdminCreateSnapshotRequest {
        partition: partition.get(),
        min_lsn: args.min_lsn,
        node: args.node.clone(),
    };
    let mut events = args.admin.ask(client.create_snapshot(request)).await?;
    let bar = progress_bar(output, "uploading", Some(0));
    loop {
        let event = tokio::time::timeout(PROGRESS_TIMEOUT, events.message())
            .await
            .with_context(|| {
                format!(
                    "nothing was heard for {} s; see `tidemark status`",
                    PROGRESS_TIMEOUT.as_secs()
                )
            })?
            .map_err(|status| args.admin.explain(&status))?;
        let Some(CreateSnapshotEvent { event }) = event else {
            anyhow::bail!(
                "the admin ended the answer early; see `tidemark snapshots list` for what became of it"
            );
        };
        match event {
            Some(Event::Queued(queued)) => bar.set_message(format!("waits, {} before it", queued.ahead)),
            Some(Event::Accepted(_)) => bar.set_message(""),
            Some(Event::Progress(progress)) => {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
            }
            Some(other) => {
                if let Some(outcome) = outcome(other) {
                    bar.finish_and_clear();
                    return Ok(outcome);
                }
            }
            None => {}
        }
    }
}

/// Returns the outcome when `event` is the last one.
fn outcome(event: Event) -> Option<Outcome> {
    match event {
        Event::Queued(_) | Event::Accepted(_) | Event::Progress(_) => None,
        Event::Published(done) => Some(Outcome {
            ok: true,
            text: format!(
                "snapshot {} at LSN {}, {} ({} uploaded, {} copied) in {}, by a {}",
                done.snapshot_id,
                done.lsn,
                bytes(done.bytes_total),
                bytes(done.bytes_uploaded),
                bytes(done.bytes_copied),
                duration_ms(done.duration_ms),
                render::role(done.role)
            ),
            object: json!({
                "outcome": "published",
                "snapshot_id": done.snapshot_id,
                "lsn": done.lsn,
                "bytes_total": done.bytes_total,
                "bytes_uploaded": done.bytes_uploaded,
                "bytes_copied": done.bytes_copied,
                "duration_ms": done.duration_ms,
                "role": render::role(done.role),
            }),
        }),
        Event::Declined(declined) => {
            let reason = declined
                .reason()
                .as_str_name()
                .trim_start_matches("DECLINE_REASON_");
            let reason = reason.to_lowercase().replace('_', "-");
            Some(Outcome {
                ok: false,
                text: format!("declined ({reason}): {}", declined.message),
                object: json!({
                    "outcome": "declined",
                    "reason": reason,
                    "message": declined.message,
                    "applied_lsn": declined.applied_lsn,
                    "min_lsn": declined.min_lsn,
                    "archived_lsn": declined.archived_lsn,
                }),
            })
        }
        Event::Failed(failed) => Some(Outcome {
            ok: false,
            text: format!("failed ({}): {}", failed.reason, failed.message),
            object: json!({ "outcome": "failed", "reason": failed.reason, "message": failed.message }),
        }),
    }
}
