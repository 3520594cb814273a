//! `pause` and `resume`.

use super::{AdminArgs, render};
use crate::output::OutputFormat;
use clap::Args;
use snapshot_proto::v1::{PauseEntry, PauseRequest, ResumeRequest};
use snapshot_store::PartitionId;
use std::process::ExitCode;

/// Arguments of `pause`.
#[derive(Debug, Args)]
#[command(after_help = "\
A pause stops snapshots, trims and deletions until it is taken back; replicas go on applying.
It outlives restarts of the admin.

Examples:
  tidemark pause --reason 'bucket maintenance'
  tidemark pause --partition 3 --reason 'looking at a damaged snapshot'")]
pub struct PauseArgs {
    /// Pause only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    /// Why; others will read it.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who orders it.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator")]
    by: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --partition it takes back the pause of the whole cluster; pauses of single partitions stay.

Examples:
  tidemark resume
  tidemark resume --partition 3")]
pub struct ResumeArgs {
    /// Take back the pause of this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Pauses a partition or the cluster.
///
/// # Errors
/// When the admin does not answer, or cannot store the pause.
pub async fn pause(args: PauseArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let mut client = args.admin.client()?;
    let partition = args.partition.map(PartitionId::get);
    let request = PauseRequest {
        partition,
        by: args.by,
        reason: args.reason,
    };
    let reply = args.admin.ask(client.pause(request)).await?;
    print(&reply.pauses, output)
}

/// Takes a pause back.
///
/// # Errors
/// When the admin does not answer, or cannot store it.
pub async fn resume(args: ResumeArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let mut client = args.admin.client()?;
    let request = ResumeRequest {
        partition: args.partition.map(PartitionId::get),
    };
    let reply = args.admin.ask(client.resume(request)).await?;
    print(&reply.pauses, output)
}

fn print(pauses: &[PauseEntry], output: OutputFormat) -> anyhow::Result<ExitCode> {
    let answer = serde_json::json!({ "pauses": pauses.iter().map(render::pause_json).collect::<Vec<_>>() });
    output.print(&answer, || match pauses {
        [] => "nothing is paused".to_owned(),
        pauses => pauses
            .iter()
            .map(render::pause_text)
            .collect::<Vec<_>>()
            .join("\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
