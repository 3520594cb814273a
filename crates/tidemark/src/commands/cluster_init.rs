//! `cluster init`: the only way a cluster and its logs come to be.
//!
//! 1. Look at the log: one that already holds partitions of another cluster is refused, before anything is written.
//! 2. Write identity and control state to the store ([`Repository::init`]), which draws all incarnations. A crash
//!    leaves a store without logs; workers wait for them.
//! 3. Provision the logs one by one. A crash leaves some missing.
//!
//! A rerun with the same name and number of partitions finds the identity of the first run and completes it, with
//! the same ids. Not here: forks and disaster recovery.

use super::{ConnectionArgs, StoreOptionArgs};
use crate::output::{OutputFormat, table};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use partition_log::{Log, LogAdmin, LogError, ProvisionError, Registration};
use snapshot_store::{
    ClusterSpec, PartitionId, Repository,
    format::{ClusterRecord, KeyHash},
};
use std::{process::ExitCode, time::Duration};

/// The most partitions of a cluster; more than any single log server serves well.
const PARTITIONS_MAX: i64 = 10_000;
/// How often a log that does not answer is asked, and the pause in between.
const ATTEMPTS: (u32, Duration) = (10, Duration::from_millis(500));

/// What to do about clusters.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Create a cluster: its identity in the store, and its logs. Run it again to complete a run that broke off.
    #[command(after_help = "\
The log server runs already; workers and admin may wait for the cluster or be started afterwards.
It refuses a store that already holds snapshots, and a log that belongs to another cluster.

Example:
  tidemark log serve --config log.toml &
  tidemark cluster init --name prod --partitions 8 \\
      --store file:///mnt/bucket --log-admin http://127.0.0.1:7301")]
    Init(InitArgs),
}

/// Arguments of `cluster init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the cluster, for people.
    #[arg(long)]
    name: String,
    /// Number of partitions; fixed for the life of the cluster.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=PARTITIONS_MAX))]
    partitions: u32,
    /// URL of the snapshot repository: file:///absolute/folder.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Address at which the log server accepts provisioning (`admin_listen`).
    #[arg(long, value_name = "URL")]
    log_admin: String,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl ClusterCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When store or log refuse, contradict each other, or do not answer.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        let ClusterCommand::Init(args) = self;
        let repository = args.options.open(&args.store)?;
        // The address is checked here, so that the message names the flag.
        let security = args.connection.security()?;
        security.check(&args.log_admin).context("--log-admin")?;
        let log = crate::roles::log::connect(&args.log_admin, &security)?;
        let admin = crate::roles::log::connect_admin(&args.log_admin, &security)?;
        let spec = ClusterSpec {
            name: args.name,
            partitions: args.partitions,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = init(&repository, log.as_ref(), admin.as_ref(), spec).await?;
        let logs = record.incarnations.iter().map(|(partition, incarnation)| {
            serde_json::json!({ "partition": partition, "incarnation": incarnation })
        });
        let answer = serde_json::json!({
            "ok": true,
            "cluster": record.cluster,
            "partitions": record.partitions,
            "store": repository.url(),
            "logs": logs.collect::<Vec<_>>(),
        });
        output.print(&answer, || {
            let rows = record
                .incarnations
                .iter()
                .map(|(partition, incarnation)| [partition.to_string(), incarnation.to_string()]);
            let table = table(["partition", "incarnation of its log"], rows);
            format!(
                "{table}\ncluster {} is ready in {}",
                record.cluster,
                repository.url()
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Creates a cluster, or completes one whose creation broke off.
///
/// # Errors
/// When store or log refuse, contradict each other, or do not answer.
pub(crate) async fn init(
    repository: &Repository,
    log: &dyn Log,
    admin: &dyn LogAdmin,
    spec: ClusterSpec,
) -> anyhow::Result<ClusterRecord> {
    let known = repository
        .cluster()
        .await
        .context("the store cannot be read; check its URL")?;
    refuse_foreign_log(log, known.as_ref(), repository.url()).await?;
    let record = repository.init(&spec).await?;
    for (partition, incarnation) in &record.incarnations {
        let registration = Registration {
            partition: *partition,
            incarnation: *incarnation,
            fingerprint: record.cluster.fingerprint,
            base: None,
            sealed: false,
        };
        provision(admin, registration).await.with_context(|| {
            format!(
                "cluster {} was created in {}, but the log of partition {partition} was not; run the same command again to complete it",
                record.cluster,
                repository.url()
            )
        })?;
    }
    Ok(record)
}

/// Looks at the log of the first partition, which is provisioned first.
async fn refuse_foreign_log(log: &dyn Log, known: Option<&ClusterRecord>, store: &str) -> anyhow::Result<()> {
    let mut attempts = 0;
    let found = loop {
        attempts += 1;
        match log.registration(PartitionId::new(0)).await {
            Ok(registration) => break registration,
            Err(LogError::Missing { .. }) => return Ok(()),
            Err(error) if attempts >= ATTEMPTS.0 => {
                return Err(error)
                    .context("the log cannot be reached; start it first, or correct --log-admin");
            }
            Err(_) => tokio::time::sleep(ATTEMPTS.1).await,
        }
    };
    match known {
        Some(record) if record.cluster.fingerprint == found.fingerprint => Ok(()),
        Some(record) => anyhow::bail!(
            "the log belongs to cluster {}, but {store} to {}: correct --log-admin or --store; nothing was changed",
            found.fingerprint,
            record.cluster
        ),
        None => anyhow::bail!(
            "the log already belongs to cluster {}, and {store} holds none: correct --store if it is the wrong folder, or use an empty data folder for the log of a new cluster; nothing was changed",
            found.fingerprint
        ),
    }
}

async fn provision(admin: &dyn LogAdmin, registration: Registration) -> Result<(), ProvisionError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match admin.provision(registration.clone()).await {
            Err(ProvisionError::Log(LogError::Unavailable { .. })) if attempts < ATTEMPTS.0 => {
                tokio::time::sleep(ATTEMPTS.1).await;
            }
            result => return result,
        }
    }
}
