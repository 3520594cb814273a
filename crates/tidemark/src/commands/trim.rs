//! `trim plan` and `trim run`.

use super::{AdminArgs, exit, render};
use crate::output::{OutputFormat, or_dash, table};
use clap::{Args, Subcommand};
use snapshot_proto::v1::{TrimOutcome, TrimRequest};
use snapshot_store::PartitionId;
use std::{process::ExitCode, time::Duration};

/// How long the admin may take: each trim may read whole snapshots first.
const TRIM_TIMEOUT: Duration = Duration::from_secs(600);
/// The word for a trim that was tried and did not succeed.
const FAILED: &str = "failed";

/// What to do about trims.
#[derive(Debug, Subcommand)]
pub enum TrimCommand {
    /// Show how far each log would be trimmed now, what that frees and which replicas would have to restore; change nothing.
    #[command(after_help = "\
Bytes with ≈ assume records of equal size. A replica that is not live restores when it comes back.

Examples:
  tidemark trim plan
  tidemark trim plan 0 3 --force     what --force would cost")]
    Plan(TrimArgs),
    /// Trim now, by the same rule as the policy does.
    #[command(after_help = "\
A trim never goes above the guard: the oldest of the restorable snapshots, all of them verified.

Examples:
  tidemark trim run
  tidemark trim run 3
  tidemark trim run 3 --force     replicas that are behind will have to restore a snapshot")]
    Run(TrimArgs),
}

/// Arguments of both.
#[derive(Debug, Args)]
pub struct TrimArgs {
    /// The partitions; all when none is named.
    partitions: Vec<PartitionId>,
    /// Skip the protection of replicas and `retain_records`; the guard holds in any case.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

impl TrimCommand {
    /// Runs it. The exit code is not 0 when a trim failed; a hold is an answer, not a failure.
    ///
    /// # Errors
    /// When the admin does not answer.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        let (args, dry_run) = match self {
            TrimCommand::Plan(args) => (args, true),
            TrimCommand::Run(args) => (args, false),
        };
        let mut client = args.admin.client()?;
        let partitions = args.partitions.iter().map(|partition| partition.get()).collect();
        let request = TrimRequest {
            partitions,
            force: args.force,
            dry_run,
        };
        let reply = args.admin.ask_within(TRIM_TIMEOUT, client.trim(request)).await?;
        let all_well = reply.partitions.iter().all(|outcome| outcome.code != FAILED);
        let answer = serde_json::json!({
            "ok": all_well,
            "partitions": reply.partitions.iter().map(render::trim_json).collect::<Vec<_>>(),
        });
        output.print(&answer, || outcomes(&reply.partitions))?;
        Ok(exit(all_well))
    }
}

fn outcomes(outcomes: &[TrimOutcome]) -> String {
    let rows = outcomes.iter().map(|outcome| {
        [
            outcome.partition.to_string(),
            outcome.code.clone(),
            or_dash(outcome.trim_point_before),
            or_dash(outcome.price.as_ref().map(|price| price.up_to)),
            or_dash(outcome.trim_point_after),
            or_dash(outcome.guard_lsn),
            or_dash(outcome.price.as_ref().map(|price| price.records)),
            or_dash(outcome.price.as_ref().and_then(render::freed_bytes)),
            outcome
                .price
                .as_ref()
                .map(render::must_restore)
                .unwrap_or_default(),
            outcome.detail.clone(),
        ]
    });
    table(
        [
            "partition",
            "result",
            "before",
            "up to",
            "after",
            "guard",
            "records",
            "bytes",
            "must restore",
            "detail",
        ],
        rows,
    )
}
