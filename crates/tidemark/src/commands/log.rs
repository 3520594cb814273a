//! `log serve` and `log info`; `log recover` is in `log_recover`.

use crate::{
    output::{OutputFormat, bytes, or_dash, table},
    roles,
    wire_security::ClientSecurity,
};
use clap::{Args, Subcommand};
use partition_log::{LogError, LogInfo, Registration};
use snapshot_store::PartitionId;
use std::process::ExitCode;

/// The most partitions that are looked at; as many as a cluster may have.
const PARTITIONS_MAX: u32 = 10_000;

/// What to do about logs.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Run the server of the embedded log.
    Serve(roles::RoleArgs),
    /// Show trim point, tail and incarnation of every partition's log.
    #[command(
        after_help = "Examples:\n  tidemark log info\n  tidemark log info --log http://10.0.0.4:7300 --output json"
    )]
    Info(InfoArgs),
    /// Begin lost logs anew from the newest verified snapshots; says what is lost, and asks.
    #[command(after_help = super::log_recover::HELP)]
    Recover(Box<super::log_recover::RecoverArgs>),
}

/// Arguments of `log info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Address of the log server.
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEMARK_LOG_URL",
        default_value = "http://127.0.0.1:7300"
    )]
    log: String,
    #[command(flatten)]
    connection: super::ConnectionArgs,
}

impl LogCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the server cannot start, or does not answer.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            LogCommand::Serve(args) => roles::log::run(args).await,
            LogCommand::Recover(args) => super::log_recover::recover(*args, output).await,
            LogCommand::Info(args) => info(&args.log, &args.connection.security()?, output).await,
        }
    }
}

async fn info(url: &str, security: &ClientSecurity, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let log = roles::log::connect(url, security)?;
    let mut logs: Vec<(Registration, LogInfo)> = Vec::new();
    for number in 0..PARTITIONS_MAX {
        let partition = PartitionId::new(number);
        match log.registration(partition).await {
            Ok(registration) => logs.push((registration, log.info(partition).await?)),
            // Partitions are numbered without gaps.
            Err(LogError::Missing { .. }) => break,
            Err(error) => {
                anyhow::bail!("the log {url} cannot be read: {error}; start it, or name another with --log")
            }
        }
    }
    let objects = logs.iter().map(|(registration, info)| {
        serde_json::json!({
            "partition": registration.partition,
            "fingerprint": registration.fingerprint,
            "incarnation": info.incarnation,
            "sealed": registration.sealed,
            "trim_point": info.trim_point,
            "tail": info.tail,
            "held_bytes": info.held_bytes,
        })
    });
    let answer = serde_json::json!({ "log": url, "partitions": objects.collect::<Vec<_>>() });
    output.print(&answer, || {
        if logs.is_empty() {
            return format!("the log {url} holds no partitions yet; `tidemark cluster init` creates them");
        }
        let rows = logs.iter().map(|(registration, info)| {
            [
                registration.partition.to_string(),
                info.incarnation.to_string(),
                info.trim_point.to_string(),
                info.tail.to_string(),
                or_dash(info.held_bytes.map(bytes)),
            ]
        });
        table(["partition", "incarnation", "trim point", "tail", "held"], rows)
    })?;
    Ok(ExitCode::SUCCESS)
}
