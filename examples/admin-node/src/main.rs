//! An admin node of one's own: the scheduler runs in a process that a host has anyway, behind the port it serves anyway.
//!
//! The host brings its own gRPC service ([`FleetService`], see `proto/fleet.proto`), its own discovery of workers (nodes
//! join, nothing is configured) and its own log ([`HostLog`]: two methods are all that the admin needs of it). What it
//! gets: snapshots are ordered and verified, logs are trimmed, partitions are led, operators can ask why. The nodes that
//! join here are Tidemark's own workers; `examples/existing-service` shows how others do it.
//! `cargo run -p admin-node` ends with the line `ok`, or with an error and exit code 1.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use partition_log::{
    LogError, LogInfo,
    embedded::{EmbeddedLog, EmbeddedOptions},
};
use snapshot_proto::v1::{Liveness, create_snapshot_event::Event};
use snapshot_scheduler::{ClusterLog, OrderError, Policy, Scheduler, SchedulerHandle, SchedulerOptions, WorkerSpec};
use snapshot_store::format::PauseScope;
use snapshot_worker::prelude::*;
use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle, time::sleep, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};

/// The generated code of the host's service.
#[allow(missing_docs, unreachable_pub)]
mod fleet {
    tonic::include_proto!("fleet");
}
use fleet::{JoinRequest, OverviewRequest, fleet_client::FleetClient, fleet_server};

/// The host's log. Workers append and read; the admin looks at where it ends, and trims. A log that has neither Tidemark's
/// traits nor its wire API would do the same over whatever it speaks.
struct HostLog(EmbeddedLog);

#[async_trait::async_trait]
impl ClusterLog for HostLog {
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        Log::info(&self.0, partition).await
    }

    async fn trim(&self, partition: PartitionId, incarnation: Incarnation, up_to: Lsn) -> Result<Lsn, LogError> {
        LogAdmin::trim(&self.0, partition, incarnation, up_to).await
    }
}

/// The host's own service. It knows its nodes, and asks the scheduler for what it shows of their partitions.
struct FleetService {
    scheduler: SchedulerHandle,
    partitions: Vec<PartitionId>,
    members: Mutex<BTreeMap<NodeId, WorkerSpec>>,
}

#[tonic::async_trait]
impl fleet_server::Fleet for FleetService {
    /// The discovery: whoever joins belongs to the cluster from then on, also while it does not answer. A node that was
    /// taken out of service for good would be left out of the list, and its logs no longer be kept for it.
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<fleet::JoinReply>, Status> {
        let JoinRequest { node, address } = request.into_inner();
        let node = NodeId::new(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let worker = WorkerSpec::grpc(node.clone(), address, self.partitions.clone())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut members = self.members.lock().await;
        members.insert(node, worker);
        let change = self.scheduler.set_workers(members.values().cloned().collect());
        let change = change.map_err(|fault| Status::invalid_argument(fault.to_string()))?;
        change.added.iter().for_each(|node| eprintln!("{node} joined"));
        Ok(Response::new(fleet::JoinReply { nodes: members.len() as u32 }))
    }

    /// The same values that `tidemark status` shows, by a call that asks nobody else.
    async fn overview(&self, _: Request<OverviewRequest>) -> Result<Response<fleet::OverviewReply>, Status> {
        let partitions = self.scheduler.status().partitions.into_iter().map(|partition| fleet::Partition {
            partition: partition.partition,
            trim_point: partition.trim_point.unwrap_or_default(),
            leader: partition.leader.map(|leader| leader.node).unwrap_or_default(),
            live_replicas: partition.replicas.iter().filter(|one| one.liveness() == Liveness::Live).count() as u32,
            trim: partition.trim.map(|reason| reason.code).unwrap_or_default(),
        });
        Ok(Response::new(fleet::OverviewReply { partitions: partitions.collect() }))
    }
}

/// Keeps every record under its LSN. What is replicated is beside the point here.
struct Journal;

const RECORDS: Keyspace = Keyspace { name: "records", prefix: 1 };

impl StateMachine for Journal {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn version(&self) -> u32 {
        1
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        &[RECORDS]
    }

    fn apply(&self, lsn: Lsn, record: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
        state.put(&RECORDS, &lsn.get().to_be_bytes(), record.clone());
        Ok(Bytes::new())
    }
}

struct Site {
    log: EmbeddedLog,
    store: Repository,
}

/// The admin node: one port, with the host's service and the one that Tidemark's operators use.
struct Admin {
    scheduler: SchedulerHandle,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

async fn start_admin(site: &Site) -> Result<Admin> {
    let cluster = site.store.cluster().await?.context("the store has no cluster")?;
    let policy = Policy { snapshot_after_records: 200, lag_records_max: 100, ..Policy::default() };
    // No lease: the host sees to it that one admin runs. Leaders are assigned, because these nodes do not elect any.
    let options = SchedulerOptions { assign_leaders: true, lease_term_ms: 0, ..SchedulerOptions::default() };
    let scheduler = Scheduler::builder(policy)
        .options(options)
        .admin(NodeId::new("admin")?)
        .cluster(&cluster)
        .log(Arc::new(HostLog(site.log.clone())))
        .store(site.store.clone())
        .build()?;
    let (handle, partitions) = (scheduler.handle(), cluster.incarnations.keys().copied().collect());
    let fleet = FleetService { scheduler: handle.clone(), partitions, members: Mutex::default() };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (address, stop) = (listener.local_addr()?, CancellationToken::new());
    let router = Server::builder().add_service(fleet_server::FleetServer::new(fleet)).add_service(handle.service());
    let stopped = stop.clone().cancelled_owned();
    let server = async { drop(router.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped).await) };
    let tasks = [tokio::spawn(scheduler.run(stop.clone())), tokio::spawn(server)];
    Ok(Admin { scheduler: handle, address, stop, tasks })
}

/// A node that hosts all partitions. All it knows of the admin is where to join.
async fn start_node(name: &str, folder: &Path, site: &Site, fleet: &mut FleetClient<Channel>) -> Result<Worker> {
    let (node, folder) = (NodeId::new(name)?, folder.join(name));
    fs::create_dir_all(&folder)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let identity = LocalIdentity::adopt(&folder, &node, &site.store).await?;
    let partitions = (0..identity.partitions).map(PartitionId::new);
    let mut options = WorkerOptions::new(node, address.clone(), folder, identity);
    options.flush_interval = Duration::from_millis(200);
    let worker =
        Worker::start(options, Arc::new(Journal), Arc::new(site.log.clone()), site.store.clone(), Seams::real())?;
    let router = Server::builder().add_service(worker.service());
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    for partition in partitions {
        worker.open_partition(partition)?;
    }
    fleet.join(JoinRequest { node: name.to_owned(), address }).await?;
    Ok(worker)
}

/// Writes some records through whoever leads.
async fn write(nodes: &[Worker], partition: PartitionId) {
    loop {
        for replica in nodes.iter().filter_map(|node| node.partition(partition)) {
            if replica.propose(vec![Bytes::from_static(b"visit"); 20]).await.is_ok() {
                return;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    timeout(Duration::from_secs(120), run()).await.context("it took too long")?
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let store = Repository::open(&format!("file://{}", at("store").display()), Seams::real())?;
    let cluster = store.init(&ClusterSpec::new("visits", 2)).await?;
    let log = EmbeddedLog::open(&at("log"), EmbeddedOptions::default())?;
    for registration in Registration::of_new_cluster(&cluster) {
        log.provision(registration).await?;
    }
    let site = Site { log, store };
    let admin = start_admin(&site).await?;
    let mut fleet = FleetClient::connect(format!("http://{}", admin.address)).await?;
    let mut nodes = vec![start_node("a", folder.path(), &site, &mut fleet).await?];
    nodes.push(start_node("b", folder.path(), &site, &mut fleet).await?);
    // Records, until two snapshots of each partition were made and verified, and the logs were trimmed.
    while fleet.overview(OverviewRequest {}).await?.into_inner().partitions.iter().any(|p| p.trim_point == 0) {
        for partition in cluster.incarnations.keys() {
            write(&nodes, *partition).await;
        }
    }

    // While an operator pauses the cluster, nothing is made or trimmed, whoever asks. The handle is as good as the CLI.
    let (scheduler, first) = (&admin.scheduler, PartitionId::new(0));
    scheduler.pause(PauseScope::Cluster, "example", "maintenance").await?;
    let refused = scheduler.create_snapshot(first, Lsn::ZERO, None);
    let Err(OrderError::NotNow { code, .. }) = refused else { bail!("a paused cluster makes no snapshot") };
    println!("a snapshot now: {code}");
    scheduler.resume(PauseScope::Cluster).await?;
    // And now one is made on demand, by a worker that is not the leader; the last message is the outcome.
    let outcome = loop {
        write(&nodes, first).await;
        let Ok(mut events) = scheduler.create_snapshot(first, Lsn::ZERO, None) else { continue };
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = event.event;
        }
        break last;
    };
    let Some(Event::Published(published)) = outcome else { bail!("no snapshot was made: {outcome:?}") };
    println!("a snapshot on demand: at {}", published.lsn);

    // A third node joins, with nothing. The records it lacks are gone: it restores, and from then on it counts.
    let third = start_node("c", folder.path(), &site, &mut fleet).await?;
    for partition in cluster.incarnations.keys() {
        let replica = third.partition(*partition).context("c hosts all partitions")?;
        replica.watch().wait_for(|status| status.state == PartitionState::Active).await?;
        let restored = third.agent().replica(*partition).and_then(|status| status.last_restore);
        ensure!(restored.is_some(), "c came up without a snapshot");
    }
    let overview = loop {
        let overview = fleet.overview(OverviewRequest {}).await?.into_inner().partitions;
        if overview.iter().all(|partition| partition.live_replicas == 3) {
            break overview;
        }
        sleep(Duration::from_millis(100)).await;
    };
    for fleet::Partition { partition, trim_point, leader, live_replicas, trim } in overview {
        println!("partition {partition}: trimmed up to {trim_point}, led by {leader}, {live_replicas} live, {trim}");
    }
    admin.stop.cancel();
    for task in admin.tasks {
        task.await?;
    }
    println!("ok");
    Ok(())
}
