//! `cluster init`: the only way a cluster and its logs come to be.
//!
//! 1. Look at the log: one that already holds partitions of another cluster is refused, before anything is written.
//! 2. Write identity and control state to the store ([`Repository::init`]), which draws all incarnations. A crash
//!    leaves a store without logs; workers wait for them.
//! 3. Beside an identity that was there already: refuse, before any log is created, when a log is missing whose
//!    partition has snapshots.
//! 4. Provision the logs one by one. A crash leaves some missing.
//!
//! A rerun with the same name and number of partitions finds the identity of the first run and completes it, with
//! the same ids; logs that a recovery began anew stay as they are. With `--from-fork`: `cluster_fork`. Not here: recovering
//! lost logs (`log_recover`).

use super::{
    ConnectionArgs, StoreOptionArgs, cluster_fork,
    log_address::{self, NatsArgs},
};
use crate::output::{OutputFormat, table};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use partition_log::{Log, LogAdmin, LogError, ProvisionError, Registration};
use snapshot_store::{
    ClusterSpec, Lineage, PartitionId, Repository,
    format::{ClusterRecord, KeyHash},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

/// The most partitions of a cluster; more than any single log server serves well.
const PARTITIONS_MAX: i64 = 10_000;
/// How often a log that does not answer is asked, and the pause in between.
const ATTEMPTS: (u32, Duration) = (10, Duration::from_millis(500));
/// How many partitions are looked at together.
const LOOKS_AT_ONCE: usize = 16;

/// What to do about clusters.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Create a cluster: its identity in the store, and its logs. Run it again to complete a run that broke off.
    #[command(after_help = "\
The log server runs already; workers and admin may wait for the cluster or be started afterwards.
It refuses a store that already holds snapshots, and a log that belongs to another cluster.

With --from-fork it starts a cloned cluster instead: the store was filled by `tidemark snapshots copy --fork`, and the
log of each partition begins right after the copied snapshot. Name and partitions are those of the store.

Examples:
  tidemark log serve --config log.toml &
  tidemark cluster init --name prod --partitions 8 \\
      --store file:///mnt/bucket --log-admin http://127.0.0.1:7301
  tidemark cluster init --name prod --partitions 8 --store s3://bucket/prod \\
      --log-admin nats://10.0.0.4:4222,10.0.0.5:4222,10.0.0.6:4222 --nats-login admin.login
  tidemark cluster init --from-fork \\
      --store file:///mnt/clone --log-admin http://127.0.0.1:7301")]
    Init(InitArgs),
}

/// Arguments of `cluster init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the cluster, for people. With --from-fork the store has one already; given, it must be the same.
    #[arg(long, required_unless_present = "from_fork")]
    name: Option<String>,
    /// Number of partitions; fixed for the life of the cluster. With --from-fork it is that of the store.
    #[arg(
        long,
        required_unless_present = "from_fork",
        conflicts_with = "from_fork",
        value_parser = clap::value_parser!(u32).range(1..=PARTITIONS_MAX)
    )]
    partitions: Option<u32>,
    /// Start the clone that `tidemark snapshots copy --fork` put into the store: create its logs, each beginning after
    /// the copied snapshot of its partition.
    #[arg(long)]
    from_fork: bool,
    /// URL of the snapshot repository: file:///absolute/folder.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Address at which the log server accepts provisioning (`admin_listen`), or of NATS servers.
    #[arg(long, value_name = "URL")]
    log_admin: String,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

impl ClusterCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When store or log refuse, contradict each other, or do not answer.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        let ClusterCommand::Init(args) = self;
        let repository = args.options.open(&args.store)?;
        let ends = log_address::open("--log-admin", &args.log_admin, &args.connection, &args.nats).await?;
        let (log, admin) = (ends.log, ends.admin);
        if args.from_fork {
            let name = args.name.as_deref();
            let clone = cluster_fork::init(&repository, log.as_ref(), admin.as_ref(), name).await?;
            return cluster_fork::print(&clone, repository.url(), output);
        }
        let (Some(name), Some(partitions)) = (args.name, args.partitions) else {
            anyhow::bail!("a new cluster needs --name and --partitions");
        };
        let spec = ClusterSpec {
            name,
            partitions,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = init(&repository, log.as_ref(), admin.as_ref(), spec).await?;
        print(&record, repository.url(), output)
    }
}

fn print(record: &ClusterRecord, store: &str, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let logs = record.incarnations.iter().map(
        |(partition, incarnation)| serde_json::json!({ "partition": partition, "incarnation": incarnation }),
    );
    let answer = serde_json::json!({
        "ok": true,
        "cluster": record.cluster,
        "partitions": record.partitions,
        "store": store,
        "logs": logs.collect::<Vec<_>>(),
    });
    output.print(&answer, || {
        let rows = record
            .incarnations
            .iter()
            .map(|(partition, incarnation)| [partition.to_string(), incarnation.to_string()]);
        let table = table(["partition", "incarnation of its log"], rows);
        format!("{table}\ncluster {} is ready in {store}", record.cluster)
    })?;
    Ok(ExitCode::SUCCESS)
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
    let recovered = match known {
        Some(_) => refuse_archived(repository, log, &record).await?,
        None => BTreeSet::new(),
    };
    let first_lives = Registration::of_new_cluster(&record);
    for registration in first_lives.filter(|first| !recovered.contains(&first.partition)) {
        let partition = registration.partition;
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

/// Refuses to create empty logs beside snapshots: where a log is missing, and where the one that is there continues
/// a snapshot. Returns the partitions whose log lives a later life by now, after a recovery: they have theirs.
async fn refuse_archived(
    repository: &Repository,
    log: &dyn Log,
    record: &ClusterRecord,
) -> anyhow::Result<BTreeSet<PartitionId>> {
    let found = registrations(log, record).await?;
    let continues = |(partition, log): &(&PartitionId, &Registration)| {
        log.base.is_some() && record.incarnations.get(partition) == Some(&log.incarnation)
    };
    if let Some((partition, _)) = found.iter().find(continues) {
        anyhow::bail!(
            "the log of partition {partition} continues a snapshot, so {} is a fork: use `tidemark cluster init --from-fork`; no log was created",
            record.cluster
        );
    }
    let missing = record
        .incarnations
        .keys()
        .filter(|partition| !found.contains_key(partition));
    stream::iter(missing.copied())
        .map(|partition| repository.may_begin_empty(partition))
        .buffered(LOOKS_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .context("no log was created")?;
    let later = found.iter().filter(|(partition, log)| {
        let first = record.incarnations.get(partition);
        log.fingerprint == record.cluster.fingerprint
            && first.is_some_and(|first| log.incarnation.compared_to(first) == Lineage::Newer)
    });
    Ok(later.map(|(partition, _)| *partition).collect())
}

/// Returns what the registry knows of each partition that has a log.
pub(super) async fn registrations(
    log: &dyn Log,
    record: &ClusterRecord,
) -> anyhow::Result<BTreeMap<PartitionId, Registration>> {
    let found: Vec<_> = stream::iter(record.incarnations.keys().copied())
        .map(|partition| registration(log, partition))
        .buffered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found
        .into_iter()
        .flatten()
        .map(|found| (found.partition, found))
        .collect())
}

/// Returns what the registry knows of a partition; `None` when it has no log. Asks a log that does not answer again.
async fn registration(log: &dyn Log, partition: PartitionId) -> anyhow::Result<Option<Registration>> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match log.registration(partition).await {
            Ok(registration) => return Ok(Some(registration)),
            Err(LogError::Missing { .. }) => return Ok(None),
            Err(error) if attempts >= ATTEMPTS.0 => {
                return Err(error)
                    .context("the log cannot be reached; start it first, or correct --log-admin");
            }
            Err(_) => tokio::time::sleep(ATTEMPTS.1).await,
        }
    }
}

/// Looks at the log of the first partition, which is provisioned first.
async fn refuse_foreign_log(log: &dyn Log, known: Option<&ClusterRecord>, store: &str) -> anyhow::Result<()> {
    let Some(found) = registration(log, PartitionId::new(0)).await? else {
        return Ok(());
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

/// Creates one log. Asks a log that does not answer again: repeating it changes nothing.
pub(super) async fn provision(
    admin: &dyn LogAdmin,
    registration: Registration,
) -> Result<(), ProvisionError> {
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
