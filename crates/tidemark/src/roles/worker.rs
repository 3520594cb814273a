//! A worker: replicas of partitions with the key-value state machine.

use super::{
    RoleArgs,
    identity::{self, NamedLog},
    log_ends::LogEnds,
    metrics,
    serve::{Servers, announce_ready, bind, bind_service, credentials, data_dir},
    stop,
};
use crate::{
    config::{self, WorkerConfig},
    kv::{machine::KvMachine, service::KvServer},
};
use anyhow::Context as _;
use partition_log::Log;
use snapshot_store::{NodeId, PartitionId, Repository, Seams, reserve_processors};
use snapshot_worker::{
    agent::LocalIdentity,
    processor::{RocksOptions, Worker, WorkerOptions},
};
use std::{process::ExitCode, sync::Arc, time::Duration};

/// Runs a worker node.
///
/// # Errors
/// When configuration, ports or data folder cannot be used, or when store, log and data folder belong to different
/// clusters. A store or log that does not answer is waited for.
pub async fn run(args: RoleArgs) -> anyhow::Result<ExitCode> {
    let config: WorkerConfig = config::load(&args.config)?;
    let reserved = config.limits.background_processors as usize;
    if reserved > 0 {
        reserve_processors(reserved).context("limits.background_processors")?;
    }
    let stop = stop::requested(args.exit_on_stdin_close)?;
    let seams = Seams::real();
    let wire = credentials(&config.tls, &config.auth, seams.clock.clone())?;
    let service = bind_service("listen", &config.listen, &wire.server).await?;
    let metrics_port = bind("metrics_listen", &config.metrics_listen).await?;
    data_dir(&config.data_dir)?;
    let mut servers = Servers::start(metrics_port, metrics::install()?, wire.server.clone());
    snapshot_worker::metrics::describe();

    let repository = config.store.open(seams.clone())?;
    let ends = LogEnds::of_worker(&config.log, &wire.client).await?;
    let log = ends.log;
    let node = NodeId::new(config.node_id.clone())?;
    let named = NamedLog {
        log: log.as_ref(),
        url: &ends.name,
    };
    let readiness = servers.readiness().clone();
    let identity =
        identity::of_worker(&config.data_dir, &node, &repository, &named, &readiness, &stop).await?;
    let Some(identity) = identity else {
        return Ok(ExitCode::SUCCESS);
    };
    let partitions = identity::chosen("partitions", &config.partitions, identity.partitions)?;

    let address = service.address;
    let advertise = config.advertised(address, wire.server.speaks_tls());
    let options = options(&config, identity.clone(), partitions, advertise);
    let worker = start(options, log, repository, seams)?;
    servers
        .serve(service, |routes| {
            routes.add_service(worker.service());
            routes.add_service(KvServer::new(Arc::clone(&worker), identity).into_service());
        })
        .await?;
    servers.readiness().ready();
    tracing::info!(%node, %address, "the worker serves");
    announce_ready("worker", node.as_str(), address)?;

    let served = servers.run_until(&stop).await;
    servers.announce_stop().await;
    stop::tidy("putting the replicas in order", worker.shutdown()).await;
    servers.drain().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a worker with the key-value state machine.
pub(super) fn start(
    options: WorkerOptions,
    log: Arc<dyn Log>,
    repository: Repository,
    seams: Seams,
) -> anyhow::Result<Arc<Worker>> {
    Ok(Arc::new(Worker::start(
        options,
        Arc::new(KvMachine),
        log,
        repository,
        seams,
    )?))
}

/// Turns the configuration into what the worker takes.
pub(super) fn options(
    config: &WorkerConfig,
    identity: LocalIdentity,
    partitions: Vec<PartitionId>,
    advertise: String,
) -> WorkerOptions {
    WorkerOptions {
        flush_interval: Duration::from_millis(config.worker.flush_interval_ms),
        flush_records: config.worker.flush_records,
        autonomous_after: match config.worker.autonomous_after_ms {
            0 => None,
            silence => Some(Duration::from_millis(silence)),
        },
        exports_max: config.limits.exports_max as usize,
        exports_queue_max: config.limits.exports_queue_max as usize,
        restores_max: config.limits.restores_max as usize,
        disk_reserve_bytes: config.limits.disk_reserve_bytes,
        partitions,
        rocks: RocksOptions {
            block_cache_bytes: usize::try_from(config.worker.block_cache_bytes).unwrap_or(usize::MAX),
            ..RocksOptions::default()
        },
        ..WorkerOptions::new(
            identity.node.clone(),
            advertise,
            config.data_dir.clone(),
            identity,
        )
    }
}
