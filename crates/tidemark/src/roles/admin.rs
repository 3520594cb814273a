//! The admin: orders snapshots, has them verified, trims logs, answers operators. Of several the one with the lease.

use super::{
    RoleArgs,
    identity::{self, NamedLog},
    log_ends::LogEnds,
    metrics,
    reload::{self, ConfiguredPolicy},
    serve::{Servers, announce_ready, bind, bind_service, credentials},
    stop,
};
use crate::{
    config::{self, AdminConfig, WorkerEntry},
    wire_security::ClientSecurity,
};
use anyhow::Context as _;
use snapshot_scheduler::{GrpcWorker, LogParts, Scheduler, WorkerSpec};
use snapshot_store::{NodeId, Seams};
use std::{process::ExitCode, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Runs an admin node.
///
/// # Errors
/// When configuration or ports cannot be used, or when store and log belong to different clusters. A store or log
/// that does not answer is waited for.
pub async fn run(args: RoleArgs) -> anyhow::Result<ExitCode> {
    let config: AdminConfig = config::load(&args.config)?;
    let stop = stop::requested(args.exit_on_stdin_close)?;
    let hangups = reload::hangups()?;
    let seams = Seams::real();
    let wire = credentials(&config.tls, &config.auth, seams.clock.clone())?;
    let service = bind_service("listen", &config.listen, &wire.server).await?;
    let metrics_port = bind("metrics_listen", &config.metrics_listen).await?;
    let speaks_tls = wire.server.speaks_tls();
    let mut servers = Servers::start(metrics_port, metrics::install()?, wire.server);
    snapshot_scheduler::metrics::describe();

    let repository = config.store.open(seams.clone())?;
    let ends = LogEnds::of_admin(&config.log, &wire.client).await?;
    let log = ends.log;
    let node = NodeId::new(config.node_id.clone())?;
    let named = NamedLog {
        log: log.as_ref(),
        url: &ends.name,
    };
    let readiness = servers.readiness().clone();
    let record = identity::of_store(&repository, &named, &readiness, &stop).await?;
    let Some(record) = record else {
        return Ok(ExitCode::SUCCESS);
    };

    let scheduler = Scheduler::builder(config.policy.clone())
        .policy_source(Arc::new(ConfiguredPolicy::new(
            args.config.clone(),
            config.clone(),
        )))
        .options(config.scheduler.clone())
        .admin(node.clone())
        .address(config.advertised(service.address, speaks_tls))
        .cluster(&record)
        .log(Arc::new(LogParts {
            log,
            admin: ends.admin,
        }))
        .store(repository)
        .workers(workers(&config.workers, record.partitions, &wire.client)?)
        .seams(seams)
        .build()?;
    let handle = scheduler.handle();
    reload::on_change(handle.clone(), args.config.clone(), hangups, stop.clone());
    let address = service.address;
    servers
        .serve(service, |routes| {
            routes.add_service(handle.service());
        })
        .await?;
    let running = Running::start(scheduler);
    servers.readiness().ready();
    tracing::info!(%node, cluster = %record.cluster, %address, "the admin serves");
    announce_ready("admin", node.as_str(), address)?;

    let served = servers.run_until(&stop).await;
    servers.announce_stop().await;
    stop::tidy("stopping the scheduler", running.stop()).await;
    servers.drain().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// A scheduler that runs.
pub(super) struct Running {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(super) fn start(scheduler: Scheduler) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(scheduler.run(shutdown.clone()));
        Running { shutdown, task }
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the scheduler ended with an error");
        }
    }
}

/// Turns the configured workers into what the scheduler takes.
fn workers(
    entries: &[WorkerEntry],
    partitions: u32,
    security: &ClientSecurity,
) -> anyhow::Result<Vec<WorkerSpec>> {
    let spec = |(at, entry): (usize, &WorkerEntry)| {
        let key = || format!("workers[{at}].address");
        let endpoint = GrpcWorker::endpoint(&entry.address).with_context(key)?;
        let client = GrpcWorker::intercepted(security.channel(endpoint).with_context(key)?);
        Ok(WorkerSpec {
            node: NodeId::new(entry.node_id.clone())?,
            address: entry.address.clone(),
            partitions: identity::chosen(
                &format!("workers[{at}].partitions"),
                &entry.partitions,
                partitions,
            )?,
            client: Arc::new(client),
        })
    };
    entries.iter().enumerate().map(spec).collect()
}
