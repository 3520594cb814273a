//! `log recover`: the log is gone, and the cluster begins anew from its newest verified snapshots.
//!
//! 1. Look: which logs the server has, what the workers have, what the store has. Nothing is written.
//! 2. Show what would be lost, and ask. A partition of which nothing was ever archived is asked for by its number.
//! 3. For each partition: publish a copy of the snapshot in the next generation, and only then create the log after it
//!    ([`Repository::recover`]). A crash leaves some of it; a rerun looks again and completes it under the same ids.
//!
//! Workers and admin may run meanwhile: without a log they do nothing, and afterwards they go on by themselves.

pub(super) mod look;
mod report;

use super::{
    AdminArgs, StoreOptionArgs,
    cluster_fork::registration_after,
    cluster_init::{provision, registrations},
    copy::PartitionList,
    log_address::{self, NatsArgs},
    verify::BarProgress,
};
use crate::{
    output::{OutputFormat, confirmed, progress_bar},
    roles,
};
use anyhow::Context as _;
use clap::Args;
use futures::{StreamExt as _, stream};
use partition_log::{Log, LogAdmin, Registration};
use report::{Outcome, Report};
use snapshot_store::{
    PartitionId, PlannedRecovery, RecoveredLog, RecoveryPlan, RecoveryRequest, Repository,
    core::{RecoveryStep, RegisteredLog},
    format::ClusterRecord,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal as _},
    num::NonZeroU64,
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;

pub(super) const HELP: &str = "\
For the day on which the log is gone: its disk is lost, its folder was deleted. What was written after the snapshots that
this begins from is lost for good, so first look for the old folder or a copy of it; `tidemark log serve` on it brings
everything back.

Start the log server on an empty folder and leave workers and admin as they are; they are `blocked` (log-missing). Then run
this with --dry-run: it reads the chosen snapshots through and says which LSNs are lost, and which of those some worker had
applied. Without --dry-run it asks, publishes a copy of each snapshot in the next generation, and creates the log after it.
Workers set aside what they have of the lost log (it is not deleted) and restore the copy. Partitions whose log is there are
left alone. It can be interrupted and run again: it goes on under the same ids.

A partition that never had a snapshot begins empty, at LSN 1, and only if it is named: with --begin-empty, or when asked.

Exit code: 0 all logs are there; 1 some are not, or --dry-run found a partition it could not recover.

Examples:
  tidemark log recover --store s3://bucket/prod --log-admin http://127.0.0.1:7301 --dry-run
  tidemark log recover --store s3://bucket/prod --log-admin http://127.0.0.1:7301 --worker http://10.0.0.5:7310
  tidemark log recover --store file:///mnt/bucket --log-admin http://127.0.0.1:7301 --yes --begin-empty 3,7
  tidemark log recover --store file:///mnt/bucket --log-admin http://127.0.0.1:7301 --without-workers --yes --output json";

/// How many partitions are under way at once.
const PARTITIONS_AT_ONCE: usize = 4;

/// Arguments of `log recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// URL of the snapshot repository: file:///absolute/folder, s3://bucket/prefix and so on.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Address at which the new log server accepts provisioning (`admin_listen`), or of NATS servers.
    #[arg(long, value_name = "URL")]
    log_admin: String,
    /// Only these partitions, such as 0,3-5.
    #[arg(long, value_name = "LIST")]
    partitions: Option<PartitionList>,
    /// Begin these partitions empty, at LSN 1, if nothing of them was ever archived.
    #[arg(long, value_name = "LIST")]
    begin_empty: Option<PartitionList>,
    #[command(flatten)]
    workers: look::WorkersArgs,
    /// Say what would be lost and done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking; needed where nobody can be asked.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Read and send no more than this many bytes per second.
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<NonZeroU64>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

/// The ends that a recovery works with.
struct Ends {
    repository: Repository,
    log: std::sync::Arc<dyn Log>,
    log_admin: std::sync::Arc<dyn LogAdmin>,
}

/// Recovers. Partitions that fail do not keep the others from being recovered.
///
/// # Errors
/// When nothing could be done at all.
pub(super) async fn recover(args: RecoverArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let log = log_address::open("--log-admin", &args.log_admin, &args.admin.connection, &args.nats).await?;
    let ends = Ends {
        repository: args.options.open_within(&args.store, args.bytes_per_second)?,
        log: log.log,
        log_admin: log.admin,
    };
    let cancel = roles::stop::requested(false)?;
    let workers = look::Workers::ask(&args.workers, &args.admin).await?;
    let plan = plan(&args, &ends, &workers, output, &cancel).await?;
    let mut report = Report::of(&plan, workers, &args.store, args.dry_run);
    if args.dry_run {
        output.print(&report.json(), || report.text())?;
        return Ok(report.exit_code());
    }
    if report.has_work() {
        if output == OutputFormat::Text {
            eprintln!("{}", report.text());
        }
        let empty = allowed_empty(&args, &plan)?;
        let question = "What is listed as lost is lost for good. Recover the others?";
        if !confirmed(args.yes, question)? {
            anyhow::bail!("nothing was recovered");
        }
        let done = execute(&ends, &plan, &empty, output, &cancel).await;
        report.take(done);
    }
    output.print(&report.json(), || report.text())?;
    Ok(report.exit_code())
}

async fn plan(
    args: &RecoverArgs,
    ends: &Ends,
    workers: &look::Workers,
    output: OutputFormat,
    cancel: &CancellationToken,
) -> anyhow::Result<RecoveryPlan> {
    let url = ends.repository.url();
    let record = ends.repository.cluster().await;
    let record = record
        .context("the store cannot be read; check --store")?
        .with_context(|| format!("{url} holds no cluster (cluster.json is missing): correct --store, or see the runbook for a lost bucket"))?;
    workers.check_cluster(&record.cluster)?;
    let request = RecoveryRequest {
        partitions: args.partitions.as_ref().map(PartitionList::partitions),
        logs: logs(ends.log.as_ref(), &record).await?,
        replicas: workers.claims(),
    };
    let bar = BarProgress(progress_bar(output, "verifying", Some(0)));
    let plan = ends.repository.plan_recovery(&request, &bar, cancel).await;
    bar.0.finish_and_clear();
    plan.context("nothing was recovered")
}

/// Returns the logs that are there.
async fn logs(log: &dyn Log, record: &ClusterRecord) -> anyhow::Result<BTreeMap<PartitionId, RegisteredLog>> {
    let mut logs = BTreeMap::new();
    for (partition, registration) in registrations(log, record).await? {
        let info = log.info(partition).await;
        let info = info.with_context(|| format!("the log of partition {partition} cannot be read"))?;
        let registered = RegisteredLog {
            fingerprint: registration.fingerprint,
            incarnation: registration.incarnation,
            tail: info.tail,
        };
        logs.insert(partition, registered);
    }
    Ok(logs)
}

/// Returns the partitions that may begin empty: those that were named, on the command line or now.
fn allowed_empty(args: &RecoverArgs, plan: &RecoveryPlan) -> anyhow::Result<BTreeSet<PartitionId>> {
    let mut allowed = args
        .begin_empty
        .as_ref()
        .map(PartitionList::partitions)
        .unwrap_or_default();
    let empty = plan.partitions.iter().filter(|planned| begins_empty(planned));
    for planned in empty {
        let partition = planned.partition;
        if allowed.contains(&partition) || args.yes || !io::stdin().is_terminal() {
            continue;
        }
        eprint!(
            "Nothing of partition {partition} was ever archived: its log would begin empty, and all it held is lost. \
             To do that type its number, anything else leaves it out: "
        );
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() == partition.to_string() {
            allowed.insert(partition);
        }
    }
    Ok(allowed)
}

fn begins_empty(planned: &PlannedRecovery) -> bool {
    let step = planned.plan.as_ref().map(|plan| &plan.step);
    matches!(step, Ok(RecoveryStep::BeginEmpty { .. }))
}

/// Step 3 for every partition with a plan.
async fn execute(
    ends: &Ends,
    plan: &RecoveryPlan,
    empty: &BTreeSet<PartitionId>,
    output: OutputFormat,
    cancel: &CancellationToken,
) -> BTreeMap<PartitionId, Outcome> {
    let bar = BarProgress(progress_bar(output, "copying", Some(0)));
    let planned: Vec<_> = plan
        .partitions
        .iter()
        .filter(|planned| planned.plan.is_ok())
        .map(|planned| async {
            let outcome = match begins_empty(planned) && !empty.contains(&planned.partition) {
                true => Outcome::LeftOut,
                false => one(ends, &plan.record, planned, &bar, cancel).await,
            };
            (planned.partition, outcome)
        })
        .collect();
    let done = stream::iter(planned).buffered(PARTITIONS_AT_ONCE).collect().await;
    bar.0.finish_and_clear();
    done
}

async fn one(
    ends: &Ends,
    record: &ClusterRecord,
    planned: &PlannedRecovery,
    bar: &BarProgress,
    cancel: &CancellationToken,
) -> Outcome {
    let recovered = ends.repository.recover(record, planned, bar, cancel).await;
    let registration = match recovered {
        Ok(None) => return Outcome::Kept,
        Ok(Some(RecoveredLog::After(point))) => registration_after(record, &point),
        Ok(Some(RecoveredLog::Empty(incarnation))) => Registration {
            partition: planned.partition,
            incarnation,
            fingerprint: record.cluster.fingerprint,
            base: None,
            sealed: false,
            passage: None,
        },
        Err(fault) => return Outcome::Failed(format!("{:#}", anyhow::Error::new(fault))),
    };
    match provision(ends.log_admin.as_ref(), registration.clone()).await {
        Ok(()) => Outcome::Recovered(Box::new(registration)),
        Err(error) => Outcome::Failed(format!(
            "its snapshot is published, and its log was not created: {:#}",
            anyhow::Error::new(error)
        )),
    }
}
