//! What runs on each host: the shipped parts, put together as the binary does it.

use crate::{
    machine::VersionedMachine,
    net,
    node_disk::NodeDisk,
    node_log::NodeLog,
    plan::FaultClass,
    rpc::RpcFaults,
    sim_log::SimLog,
    sim_store::SimStore,
    world::{BLOCKING, World},
};
use object_store::path::Path;
use partition_log::remote::{
    RemoteLog, RemoteLogAdmin, endpoint, log_admin_service, log_service, server_builder,
};
use snapshot_scheduler::{GrpcWorker, LogParts, Policy, Scheduler, SchedulerOptions, WorkerSpec};
use snapshot_store::{
    Incremental, NodeId, PartitionId, Repository, StoreOptions,
    format::{ClusterRecord, VerifyLevel},
};
use snapshot_worker::{
    agent::LocalIdentity,
    processor::{Worker, WorkerOptions},
};
use std::{sync::Arc, time::Duration};
use tidemark::kv::service::KvServer;
use tokio_util::sync::CancellationToken;

/// The host of the log.
pub(crate) const LOG: &str = "log";

/// In how many of their lives admins only show what they would do.
const DRY_RUN_CHANCE: f64 = 0.5;

/// How long a node waits before it asks the store again who it is.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Opens the repository as `node` sees it.
pub(crate) fn repository(world: &World, node: &str) -> Repository {
    let options = StoreOptions {
        incremental: match world.plan().incremental {
            true => Incremental::On,
            false => Incremental::Off,
        },
        blocking: BLOCKING,
        ..StoreOptions::default()
    };
    let store = Arc::new(SimStore::new(world.clone(), node));
    Repository::with_store_and(store, Path::default(), &options, world.seams(node))
}

fn remote_log(world: &World, node: &str) -> anyhow::Result<NodeLog<RemoteLog>> {
    Ok(NodeLog {
        world: world.clone(),
        node: node.to_owned(),
        inner: RemoteLog::new(net::channel(endpoint(&net::url(LOG))?)),
    })
}

/// Serves the log.
pub(crate) async fn log(world: World) -> turmoil::Result {
    world.event("log starts");
    let engine = Arc::new(SimLog::new(world.clone()));
    server_builder()
        .layer(RpcFaults(world))
        .add_service(log_service(engine.clone()))
        .add_service(log_admin_service(engine))
        .serve_with_incoming(net::incoming().await?)
        .await?;
    Ok(())
}

/// Runs a worker.
pub(crate) async fn worker(world: World, name: String) -> turmoil::Result {
    world.event(format!("{name} starts"));
    let repository = repository(&world, &name);
    let (node, disk) = (NodeId::new(name.clone())?, world.disk(&name));
    std::fs::create_dir_all(&disk)?;
    let identity = loop {
        match LocalIdentity::adopt(&disk, &node, &repository).await {
            Ok(identity) => break identity,
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    };
    let options = WorkerOptions {
        partitions: (0..identity.partitions).map(PartitionId::new).collect(),
        flush_interval: Duration::from_millis(800),
        flush_records: 50,
        apply_records_max: 8,
        disk_reserve_bytes: 0,
        retry_max: Duration::from_secs(2),
        log_patience: Duration::from_secs(2),
        propose_timeout: Duration::from_secs(3),
        blocking: BLOCKING,
        ..WorkerOptions::new(node, net::url(&name), disk, identity.clone())
    };
    let seams = repository.seams().clone();
    let worker = Arc::new(Worker::start_with_engine(
        options,
        Arc::new(VersionedMachine {
            newer_by: u32::from(world.is_updated(&name)),
        }),
        Arc::new(NodeDisk {
            world: world.clone(),
            node: name.clone(),
        }),
        Arc::new(remote_log(&world, &name)?),
        repository,
        seams,
    )?);
    world.set_worker(&name, Some(worker.clone()));
    server_builder()
        .layer(RpcFaults(world))
        .add_service(worker.service())
        .add_service(KvServer::new(worker, identity).into_service())
        .serve_with_incoming(net::incoming().await?)
        .await?;
    Ok(())
}

/// The policy of an admin, for one life.
fn policy(world: &World) -> Policy {
    let plan = world.plan();
    Policy {
        snapshot_after_records: plan.snapshot_after_records,
        lag_records_max: plan.snapshot_after_records / 2,
        verify_before_trim: match plan.restore_checks {
            true => VerifyLevel::Restore,
            false => VerifyLevel::Content,
        },
        held_records_max: plan.held_records_max,
        leader_fallback_after_ms: 5000,
        snapshots_per_node_max: 2,
        prune: Some(plan.prune),
        trim_delay_ms: plan.trim_delay_ms,
        dry_run: world.strikes(FaultClass::DryRun, DRY_RUN_CHANCE),
        ..Policy::default()
    }
}

/// How all admins pace themselves: faster than by default, so that a storm of a minute sees many decisions.
fn pace(world: &World) -> SchedulerOptions {
    SchedulerOptions {
        poll_interval_ms: 800,
        poll_timeout_ms: 1000,
        suspect_after_ms: 2000,
        gone_after_ms: 5000,
        view_age_max_ms: 8000,
        tick_interval_ms: 500,
        assign_leaders: true,
        lease_term_ms: if world.plan().lease { 3000 } else { 0 },
        ..SchedulerOptions::default()
    }
}

/// Runs an admin.
pub(crate) async fn admin(world: World, name: String, cluster: ClusterRecord) -> turmoil::Result {
    world.event(format!("{name} starts"));
    let mut workers = Vec::new();
    for worker in world.plan().worker_names() {
        let address = net::url(&worker);
        let channel = net::channel(GrpcWorker::endpoint(&address)?);
        workers.push(WorkerSpec {
            node: NodeId::new(worker)?,
            address,
            partitions: (0..cluster.partitions).map(PartitionId::new).collect(),
            client: Arc::new(GrpcWorker::with_channel(channel)),
        });
    }
    let log_admin = NodeLog {
        world: world.clone(),
        node: name.clone(),
        inner: RemoteLogAdmin::new(net::channel(endpoint(&net::url(LOG))?)),
    };
    let scheduler = Scheduler::builder(policy(&world))
        .options(pace(&world))
        .admin(NodeId::new(name.clone())?)
        .address(net::url(&name))
        .cluster(&cluster)
        .log(Arc::new(LogParts {
            log: Arc::new(remote_log(&world, &name)?),
            admin: Arc::new(log_admin),
        }))
        .store(repository(&world, &name))
        .workers(workers)
        .build()?;
    let handle = scheduler.handle();
    let serving = server_builder()
        .layer(RpcFaults(world))
        .add_service(handle.service())
        .serve_with_incoming(net::incoming().await?);
    tokio::spawn(scheduler.run(CancellationToken::new()));
    serving.await?;
    Ok(())
}
