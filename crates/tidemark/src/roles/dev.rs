//! `dev`: log, admin and workers in one process, to play with. Parts and protocols are the real ones; only the
//! processes between them are missing, so nothing here says how a cluster copes with losing one.

use super::{
    admin, identity,
    log::open,
    metrics,
    serve::{Bound, Servers, bind, bind_service, data_dir},
    stop, worker,
};
use crate::{
    commands::cluster_init,
    config::{PartitionChoice, StoreSection, WorkerConfig},
    kv::service::KvServer,
    output::OutputFormat,
    wire_security::ServerSecurity,
};
use anyhow::Context as _;
use clap::Args;
use futures::future::join_all;
use partition_log::Log;
use snapshot_scheduler::{Policy, Scheduler, SchedulerOptions, WorkerSpec};
use snapshot_store::{
    ClusterSpec, NodeId, Repository, Seams,
    format::{ClusterRecord, KeyHash},
};
use snapshot_worker::{agent::LocalIdentity, processor::Worker};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

/// Name of the cluster and of the node that stands for all.
const NAME: &str = "dev";

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
On an empty folder it creates a cluster; on a folder it used before it goes on where it stopped.

Examples:
  tidemark dev
  tidemark dev --dir /tmp/play --partitions 2 --snapshot-after-records 100

Then, in another terminal:
  tidemark kv put greeting hello
  tidemark status
  curl http://127.0.0.1:7401/metrics")]
pub struct DevArgs {
    /// Folder of log, replicas and snapshots.
    #[arg(long, value_name = "DIR", default_value = "tidemark-dev")]
    dir: PathBuf,
    /// Number of workers, on ports 7310, 7320, …
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=8))]
    workers: u16,
    /// Number of partitions of a new cluster.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: u32,
    /// Records after which a snapshot is due; low, so that there is something to see.
    #[arg(long, value_name = "RECORDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..))]
    snapshot_after_records: u64,
    /// Where the admin listens; the metrics of all parts are one port further on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Where the first worker listens; the others follow in steps of 10.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7310")]
    worker_listen: SocketAddr,
    /// End when the standard input is closed.
    #[arg(long, hide = true)]
    exit_on_stdin_close: bool,
}

/// Runs everything in this process until it is told to end.
///
/// # Errors
/// When a port or the folder cannot be used.
pub async fn run(args: DevArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let stop = stop::requested(args.exit_on_stdin_close)?;
    // To play with: whoever is on this machine may do anything.
    let security = ServerSecurity::open();
    let admin_port = bind_service("--listen", &args.listen.to_string(), &security).await?;
    let metrics_port = bind("--listen", &next_port(args.listen, 1).to_string()).await?;
    let mut worker_ports = Vec::new();
    for number in 0..args.workers {
        let address = next_port(args.worker_listen, 10 * number);
        worker_ports.push(bind_service("--worker-listen", &address.to_string(), &security).await?);
    }
    data_dir(&args.dir)?;
    let folder = args
        .dir
        .canonicalize()
        .with_context(|| format!("{} cannot be used", args.dir.display()))?;
    let mut servers = Servers::start(metrics_port, metrics::install()?, security);
    snapshot_worker::metrics::describe();
    snapshot_scheduler::metrics::describe();

    let seams = Seams::real();
    let log = open(&folder.join("log")).await?;
    let shared_log: Arc<dyn Log> = Arc::new(log.clone());
    let url = url::Url::from_directory_path(folder.join("bucket"))
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URL", folder.display()))?;
    let repository = Repository::open(url.as_str().trim_end_matches('/'), seams.clone())?;
    let record = match repository.cluster().await? {
        Some(record) => record,
        None => {
            let spec = ClusterSpec {
                name: NAME.to_owned(),
                partitions: args.partitions,
                key_hash: KeyHash::Blake3Mod,
            };
            cluster_init::init(&repository, &log, &log, spec).await?
        }
    };

    let mut workers = Vec::new();
    let mut specs = Vec::new();
    for (number, port) in (1..).zip(worker_ports) {
        let parts = Parts {
            folder: &folder,
            record: &record,
            repository: &repository,
            log: &shared_log,
        };
        let (worker, spec) = parts.start_worker(number, port, &mut servers).await?;
        workers.push(worker);
        specs.push(spec);
    }
    let policy = Policy {
        snapshot_after_records: args.snapshot_after_records,
        lag_records_max: args.snapshot_after_records / 2,
        ..Policy::default()
    };
    let scheduler = Scheduler::builder(policy)
        .options(SchedulerOptions::default())
        .admin(NodeId::new(NAME)?)
        .address(format!("http://{}", admin_port.address))
        .cluster(&record)
        .log(Arc::new(log.clone()))
        .store(repository)
        .workers(specs.clone())
        .seams(seams)
        .build()?;
    let (handle, address) = (scheduler.handle(), admin_port.address);
    servers
        .serve(admin_port, |routes| {
            routes.add_service(handle.service());
        })
        .await?;
    let running = admin::Running::start(scheduler);
    servers.readiness().ready();
    announce(&record, address, &specs, &folder.display().to_string(), output)?;

    let served = servers.run_until(&stop).await;
    servers.announce_stop().await;
    let tidying = async {
        running.stop().await;
        join_all(workers.iter().map(|worker| worker.shutdown())).await;
        log.close().await;
    };
    stop::tidy("putting the parts in order", tidying).await;
    servers.drain().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

fn next_port(address: SocketAddr, further: u16) -> SocketAddr {
    // Port 0 lets the system choose each time.
    let port = if address.port() == 0 {
        0
    } else {
        address.port().saturating_add(further)
    };
    SocketAddr::new(address.ip(), port)
}

/// What every worker of the process shares.
struct Parts<'a> {
    folder: &'a std::path::Path,
    record: &'a ClusterRecord,
    repository: &'a Repository,
    log: &'a Arc<dyn Log>,
}

impl Parts<'_> {
    async fn start_worker(
        &self,
        number: u16,
        port: Bound,
        servers: &mut Servers,
    ) -> anyhow::Result<(Arc<Worker>, WorkerSpec)> {
        let node = NodeId::new(format!("worker-{number}"))?;
        let config = WorkerConfig {
            node_id: node.to_string(),
            data_dir: self.folder.join(node.as_str()),
            store: StoreSection {
                url: self.repository.url().to_owned(),
                ..StoreSection::default()
            },
            ..WorkerConfig::default()
        };
        data_dir(&config.data_dir)?;
        let identity = LocalIdentity::adopt(&config.data_dir, &node, self.repository).await?;
        anyhow::ensure!(
            identity.cluster == self.record.cluster,
            "{} belongs to cluster {}, the folder's bucket to {}: use another --dir; nothing was changed",
            config.data_dir.display(),
            identity.cluster,
            self.record.cluster
        );
        let partitions = identity::chosen("partitions", &PartitionChoice::ALL, identity.partitions)?;
        let address = format!("http://{}", port.address);
        let options = worker::options(&config, identity.clone(), partitions.clone(), address.clone());
        let seams = self.repository.seams().clone();
        let worker = worker::start(options, Arc::clone(self.log), self.repository.clone(), seams)?;
        servers
            .serve(port, |routes| {
                routes.add_service(worker.service());
                routes.add_service(KvServer::new(Arc::clone(&worker), identity).into_service());
            })
            .await?;
        Ok((worker, WorkerSpec::grpc(node, address, partitions)?))
    }
}

fn announce(
    record: &ClusterRecord,
    address: SocketAddr,
    workers: &[WorkerSpec],
    folder: &str,
    output: OutputFormat,
) -> std::io::Result<()> {
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address.as_str()).collect();
    let metrics = format!("http://{}/metrics", next_port(address, 1));
    let answer = serde_json::json!({
        "cluster": record.cluster,
        "partitions": record.partitions,
        "admin": format!("http://{address}"),
        "workers": addresses,
        "metrics": metrics,
        "folder": folder,
    });
    output.print(&answer, || {
        format!(
            "ready dev {NAME} {address}\ncluster {} with {} partitions in {folder}\nadmin http://{address}, workers {}, metrics {metrics}\ntry: tidemark kv put greeting hello && tidemark status",
            record.cluster,
            record.partitions,
            addresses.join(" "),
        )
    })
}
