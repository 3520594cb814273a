//! `log copy`: moves all logs of a cluster to another engine or another place; how that goes is in `partition_log::copy`.

use crate::{
    commands::{
        ConnectionArgs,
        log_address::{self, NatsArgs},
    },
    output::{OutputFormat, bytes, or_dash, progress_bar, table},
    roles,
};
use anyhow::Context as _;
use clap::Args;
use partition_log::copy::{self, Copied, CopyProgress};
use snapshot_store::Seams;
use std::process::ExitCode;

pub(in crate::commands) const HELP: &str = "\
Moves the logs of a cluster from one engine to another, with their lives, LSNs and records; snapshots and replicas stay valid.
First the source is sealed against appends and trims, so that writes are refused until the nodes use the destination. Then
the records are copied from each trim point to the tail, and both places are read through and compared. Last the registries
are switched: the source refuses everything and names the new place. When the command returns, let the section `log` of every
worker and admin name the destination and start them again.

It can be killed at any time and run again: it goes on. Until the first log is switched, --unseal takes everything back.
Addresses of log servers are those of their admin_listen. The destination must not hold logs. Nothing is deleted at the source:
remove its folder when the cluster runs on the new place.

Exit code: 0 all logs live at the destination (--unseal: at the source); 1 they do not yet, run it again.

Examples:
  tidemark log copy --from http://10.0.0.4:7301 --to nats://10.0.0.5:4222,10.0.0.6:4222,10.0.0.7:4222 --nats-login admin.login
  tidemark log copy --from http://10.0.0.4:7301 --to http://10.0.0.5:7301
  tidemark log copy --from http://10.0.0.4:7301 --to nats://10.0.0.5:4222 --nats-login admin.login --unseal
  tidemark log copy --from http://10.0.0.4:7301 --unseal";

/// Arguments of `log copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Where the logs are: address at which the log server accepts trims (`admin_listen`), or of NATS servers.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where they shall live.
    #[arg(long, value_name = "URL", required_unless_present = "unseal")]
    to: Option<String>,
    /// Take a copy back that was not switched: the source takes appends and trims again, and with --to what was copied is
    /// deleted.
    #[arg(long)]
    unseal: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Shows the progress on a bar.
struct Bar(indicatif::ProgressBar);

impl CopyProgress for Bar {
    fn planned(&self, records: u64) {
        self.0.inc_length(records);
    }

    fn advanced(&self, records: u64) {
        self.0.inc(records);
    }
}

/// Copies, or takes a copy back.
///
/// # Errors
/// When a log is not moved; nothing is lost, and a rerun goes on.
pub(in crate::commands) async fn run(args: CopyArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let open = async |flag, address: &str| {
        let ends = log_address::open(flag, address, &args.connection, &args.nats).await?;
        anyhow::Ok(ends.place())
    };
    let source = open("--from", &args.from).await?;
    let destination = match &args.to {
        Some(address) => Some(open("--to", address).await?),
        None => None,
    };
    let stop = roles::stop::requested(false)?;
    if args.unseal {
        let sealed = copy::take_back(&source, destination.as_ref()).await?;
        let answer = serde_json::json!({ "ok": true, "log": source.name, "unsealed": sealed });
        output.print(&answer, || match sealed.len() {
            0 => format!("no log at {} was sealed for a copy", source.name),
            count => format!("{count} logs at {} take appends and trims again", source.name),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let destination = destination.context("--to is missing")?;
    let bar = Bar(progress_bar(output, "copying and comparing records", Some(0)));
    let seams = Seams::real();
    let copied = tokio::select! {
        copied = copy::copy(&source, &destination, &seams, &bar) => copied,
        () = stop.cancelled() => {
            anyhow::bail!("interrupted: run it again to go on, or with --unseal to take it back")
        }
    };
    bar.0.finish_and_clear();
    let copied = copied?;
    output.print(&json(&source.name, &destination.name, &copied), || {
        text(&source.name, &destination.name, &copied)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn json(from: &str, to: &str, copied: &[Copied]) -> serde_json::Value {
    let logs = copied.iter().map(|log| {
        serde_json::json!({
            "partition": log.partition,
            "incarnation": log.incarnation,
            "trim_point": log.trim_point,
            "tail": log.tail,
            "records": log.compared.map(|compared| compared.records),
            "bytes": log.compared.map(|compared| compared.bytes),
            "digest": log.compared.map(|compared| compared.digest),
        })
    });
    serde_json::json!({ "ok": true, "from": from, "to": to, "partitions": logs.collect::<Vec<_>>() })
}

fn text(from: &str, to: &str, copied: &[Copied]) -> String {
    let rows = copied.iter().map(|log| {
        [
            log.partition.to_string(),
            log.incarnation.to_string(),
            log.trim_point.to_string(),
            log.tail.to_string(),
            or_dash(log.compared.map(|compared| compared.records)),
            or_dash(log.compared.map(|compared| bytes(compared.bytes))),
        ]
    });
    let columns = [
        "partition",
        "incarnation",
        "trim point",
        "tail",
        "records compared",
        "bytes",
    ];
    format!(
        "{}\nthe logs live at {to}; {from} refuses appends and trims from now on.\n\
         Let the section `log` of every worker and admin name {to}, and start them again.",
        table(columns, rows)
    )
}
