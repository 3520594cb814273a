//! `log info`: where each log stands.

use super::{registrations, state};
use crate::{
    commands::{
        ConnectionArgs,
        log_address::{self, NatsArgs},
    },
    output::{OutputFormat, bytes, or_dash, table},
};
use clap::Args;
use partition_log::{LogError, LogInfo, Registration};
use std::process::ExitCode;

pub(in crate::commands) const HELP: &str = "\
Of a log that is being moved, or was, the positions are shown where the address is that of the server's admin_listen.

Examples:
  tidemark log info
  tidemark log info --log http://10.0.0.4:7300 --output json
  tidemark log info --log nats://10.0.0.4:4222,10.0.0.5:4222 --nats-login worker.login";

/// Arguments of `log info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Address of the log server, or of NATS servers.
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEMARK_LOG_URL",
        default_value = "http://127.0.0.1:7300"
    )]
    log: String,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Shows the logs.
///
/// # Errors
/// When the log does not answer.
pub(in crate::commands) async fn run(args: InfoArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let ends = log_address::open("--log", &args.log, &args.connection, &args.nats).await?;
    let mut logs: Vec<(Registration, Option<LogInfo>)> = Vec::new();
    for registration in registrations(&ends, "--log").await? {
        let info = match &registration.passage {
            None => Some(ends.log.info(registration.partition).await?),
            Some(_) => position(&ends, &registration).await?,
        };
        logs.push((registration, info));
    }
    let engine = engine(&ends);
    let objects = logs.iter().map(|(registration, info)| {
        serde_json::json!({
            "partition": registration.partition,
            "fingerprint": registration.fingerprint,
            "incarnation": registration.incarnation,
            "first_lsn": registration.first_lsn(),
            "base": registration.base,
            "sealed": registration.sealed,
            "passage": registration.passage,
            "trim_point": info.map(|info| info.trim_point),
            "tail": info.map(|info| info.tail),
            "held_bytes": info.and_then(|info| info.held_bytes),
        })
    });
    let objects: Vec<_> = objects.collect();
    let answer = serde_json::json!({ "log": ends.name, "engine": engine, "partitions": objects });
    output.print(&answer, || text(&ends.name, engine, &logs))?;
    Ok(ExitCode::SUCCESS)
}

fn engine(ends: &crate::roles::LogEnds) -> &'static str {
    match ends.nats {
        Some(_) => "nats",
        None => "embedded",
    }
}

/// Asks how a log stands that is being moved; nobody but admins is told.
async fn position(
    ends: &crate::roles::LogEnds,
    registration: &Registration,
) -> anyhow::Result<Option<LogInfo>> {
    let (partition, incarnation) = (registration.partition, registration.incarnation);
    match ends.mover.position(partition, incarnation).await {
        Ok(info) => Ok(Some(info)),
        Err(LogError::Unavailable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn text(name: &str, engine: &str, logs: &[(Registration, Option<LogInfo>)]) -> String {
    if logs.is_empty() {
        return format!("the log {name} holds no partitions yet; `tidemark cluster init` creates them");
    }
    let rows = logs.iter().map(|(registration, info)| {
        [
            registration.partition.to_string(),
            registration.incarnation.to_string(),
            registration.first_lsn().to_string(),
            or_dash(info.map(|info| info.trim_point)),
            or_dash(info.map(|info| info.tail)),
            or_dash(info.and_then(|info| info.held_bytes).map(bytes)),
            state(registration),
        ]
    });
    let columns = [
        "partition",
        "incarnation",
        "first LSN",
        "trim point",
        "tail",
        "held",
        "state",
    ];
    format!("{}\nkept by {engine} at {name}", table(columns, rows))
}
