//! `tidemark demo`: a real cluster does the whole job on this machine, and says whether all is as it must be.
//!
//! One log, one admin and three workers run as processes of their own, or three NATS servers, two admins and three workers. An
//! import writes to them while nodes are killed, wiped and stopped and a stored snapshot is damaged:
//!
//! 1. `input`: the records, from a file or a generator. `expected`: what the cluster must hold at the end, by
//!    a reader of its own.
//! 2. `load`: acknowledged writes, one share of the records per scenario. `observer`: what is seen meanwhile.
//! 3. `scenario`: the recoveries; `losses`: those of admins and NATS servers; `damage`: the bit that is flipped for one of them.
//!    `logs`: the logs, asked directly. `verdict`: the comparison at the end. `report`: table and JSON.
//!
//! `engine`: what keeps the logs. `store`: where the snapshots go: a folder of the demo's own, an S3 server that it starts, or any store there is.
//!
//! Everything has a deadline. Interrupting it ends all processes and removes the temporary folder.

mod damage;
mod engine;
mod error;
mod expected;
mod input;
mod load;
mod logs;
mod losses;
mod observer;
mod progress;
mod report;
mod scenario;
mod store;
mod verdict;

pub use engine::EngineArgs;
pub use error::DemoError;
pub use report::{DemoReport, PartitionReport, Recovery, RecoveryKind, SnapshotReport};
pub use store::StoreArgs;

use crate::{
    cluster::{ClusterSpec, Engine, LocalCluster, Settings},
    output::OutputFormat,
};
use input::Input;
use progress::Progress;
use snapshot_store::Seams;
use std::{path::PathBuf, process::ExitCode};

/// Runs a cluster of separate processes on this machine through the whole job.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// JSON lines to import, plain or gzipped, each an object with `key` and `value`; generated when left out.
    pub file: Option<PathBuf>,
    /// Folder to work in; what the demo made there is removed at the end. A temporary one when left out.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Work in this folder, keep configuration, data and bucket, and print how to start the cluster again.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub keep: Option<PathBuf>,
    /// Updates to generate when there is no file.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub records: u32,
    /// Partitions of the cluster.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub partitions: u32,
    /// What keeps the logs.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Where the snapshots go.
    #[command(flatten)]
    pub store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  tidemark demo
  tidemark demo packages.jsonl.gz --output json
  tidemark demo --records 6000 --keep /tmp/tidemark-demo
  tidemark demo --engine nats --nats-server /usr/local/bin/nats-server
  tidemark demo --store s3://bucket/demos --store-option region=eu-central-1";

/// How many workers the demo runs.
const WORKERS: u32 = 3;
/// Into how many parts a partition's share of the import is cut by snapshots, if it were written evenly.
const SNAPSHOTS_PER_IMPORT: u64 = 8;
/// How long an admin that is gone keeps another one from acting.
const LEASE_TERM_MS: u32 = 3_000;
/// Below this a snapshot would be due at every look of the admin.
const SNAPSHOT_AFTER_RECORDS_MIN: u64 = 20;

/// Runs the demo and prints its result; the exit code says whether all was as it must be.
///
/// # Errors
/// When it could not be carried through: bad input, a step that did not happen in time, an interruption.
pub async fn run(args: DemoArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let report = play(args, output).await?;
    Ok(if report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(args: DemoArgs, output: OutputFormat) -> Result<DemoReport, DemoError> {
    let store = args.store.choose(&Seams::real())?;
    let input = tokio::task::spawn_blocking({
        let args = args.clone();
        move || Input::read(args.file.as_deref(), args.records)
    });
    let input = input.await.map_err(|_| DemoError::Interrupted)??;
    let folder = Folder::make(&args)?;
    let spec = ClusterSpec {
        name: "demo".to_owned(),
        dir: folder.path.clone(),
        binary: std::env::current_exe().map_err(DemoError::Binary)?,
        workers: WORKERS,
        partitions: args.partitions,
        store,
        settings: settings(input.records.len(), args.partitions, args.engine.choose()),
    };
    let progress = Progress::new(input.records.len());
    let mut cluster = LocalCluster::create(spec)?;
    let outcome = tokio::select! {
        outcome = scenario::play(&mut cluster, input, &progress) => outcome,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    progress.finish();
    if let Err(error) = &outcome
        && !matches!(error, DemoError::Interrupted)
    {
        show_logs(&cluster);
    }
    cluster.shutdown().await;
    if args.keep.is_some() {
        show_commands(&cluster);
    }
    if !cluster.spec().store.is_own() {
        eprintln!(
            "\nWhat the demo published stays at {}; nothing else there was touched.",
            cluster.store().url
        );
    }
    let report = outcome?;
    output
        .print(&report, || report.to_text())
        .map_err(DemoError::Print)?;
    if output == OutputFormat::Json {
        eprintln!("{}", report.summary());
    }
    Ok(report)
}

/// Returns thresholds under which every partition is snapshotted and trimmed several times during the import.
fn settings(records: usize, partitions: u32, engine: Engine) -> Settings {
    let share = records as u64 / u64::from(partitions).max(1);
    let snapshot_after_records = (share / SNAPSHOTS_PER_IMPORT).max(SNAPSHOT_AFTER_RECORDS_MIN);
    let second_admin = engine != Engine::Embedded;
    let lease = format!("[scheduler]\nlease_term_ms = {LEASE_TERM_MS}\n");
    Settings {
        engine,
        second_admin,
        overrides: second_admin.then_some(("admin", lease)).into_iter().collect(),
        snapshot_after_records,
        lag_records_max: snapshot_after_records / 2,
        // A worker that stays away does not hold the trim for longer than two snapshots.
        held_records_max: 2 * snapshot_after_records,
        ..Settings::default()
    }
}

/// Where the demo works.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Removes the folder when dropped; `None` when it is kept.
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    fn make(args: &DemoArgs) -> Result<Self, DemoError> {
        if let Some(path) = &args.keep {
            return Ok(Folder {
                path: path.clone(),
                _temporary: None,
            });
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("tidemark-demo-");
        let temporary = match &args.dir {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| builder.tempdir_in(dir)),
            None => builder.tempdir(),
        };
        let temporary = temporary.map_err(DemoError::Folder)?;
        Ok(Folder {
            path: temporary.path().to_owned(),
            _temporary: Some(temporary),
        })
    }
}

/// Returns when the demo is asked to end.
async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => drop(result),
        () = terminated => {}
    }
}

fn show_logs(cluster: &LocalCluster) {
    if let Some(said) = cluster.store_log_tail() {
        eprintln!("--- last lines of the store's server:\n{said}");
    }
    for node in cluster.nodes() {
        eprintln!("--- last lines of {node}:\n{}", cluster.log_tail(node));
    }
}

fn show_commands(cluster: &LocalCluster) {
    let endpoints = cluster.endpoints();
    eprintln!(
        "\nEverything is kept in {}. To start the same cluster again:",
        cluster.spec().dir.display()
    );
    if let Some(line) = store::credentials_line(&cluster.spec().store) {
        eprintln!("  {line}");
    }
    for command in cluster.start_commands() {
        eprintln!("  {command} &");
    }
    let admin = endpoints.url(crate::cluster::Node::Admin);
    eprintln!("and to look at it:");
    eprintln!(
        "  export TIDEMARK_ADMIN={admin} TIDEMARK_WORKERS={}",
        endpoints.worker_urls().join(",")
    );
    eprintln!("  {} status", cluster.spec().binary.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_follow_from_the_size_of_the_import() {
        for (records, partitions, expected) in [(60_000, 8, 937), (63_666, 8, 994), (100, 8, 20), (0, 1, 20)]
        {
            let settings = settings(records, partitions, Engine::Embedded);
            assert_eq!(settings.snapshot_after_records, expected);
            assert!(settings.lag_records_max < settings.snapshot_after_records);
        }
    }
}
