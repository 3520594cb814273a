//! The processes of a run, and what stands between them.
//!
//! ```text
//! workers, admins ── Passage ──────────────────── log server
//!                └── Passage ── FaultProxy ────── S3 server
//! ```
//!
//! A `Passage` cuts or silences all connections at once; the `FaultProxy` breaks single requests.

use crate::{
    passage::{Passage, Way},
    small_disk::Filler,
    storm::{Disturbance, Network, Process},
};
use anyhow::{Context, ensure};
use integration_tests::{
    SingleNode, TestCluster,
    bucket::until_covered,
    fault_proxy::{FaultPlan, FaultProxy},
    replicas::log_info,
    s3_server::S3Server,
};
use rustix::process::{Pid, Signal, kill_process};
use snapshot_store::{Repository, Seams, StoreOptions};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tidemark::cluster::{ClusterStore, Node, PortBlock, Settings};

pub(crate) const PARTITIONS: u32 = 4;
pub(crate) const WORKERS: u32 = 3;
pub(crate) const WITHIN: Duration = Duration::from_secs(90);
/// The worker whose disk is filled.
const ON_SMALL_DISK: Node = Node::Worker(WORKERS);
const BUCKET: &str = "bucket";
const S3_SERVER: &str = env!("CARGO_BIN_EXE_s3-server");
/// How long the clients of the store wait for an answer; late requests land after it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
const LATE_BY: Duration = Duration::from_secs(5);
/// Requests of one node under way at once: a busy machine would not get to more before their clients ask again.
const REQUESTS_MAX: i64 = 4;

/// All processes, and what looks at them.
pub(crate) struct Everything {
    pub(crate) cluster: TestCluster,
    pub(crate) faults: FaultProxy,
    store: StoreProcess,
    networks: Networks,
    disk: Option<PathBuf>,
    filler: Option<Filler>,
    /// The trim point of each partition when it was looked at last.
    trim_points: BTreeMap<u32, u64>,
    /// How often a partition was found trimmed further than before.
    pub(crate) trims_seen: u64,
}

impl Everything {
    /// Starts everything, with the data of one worker on `disk`.
    pub(crate) async fn launch(seed: u64, disk: Option<PathBuf>) -> anyhow::Result<Self> {
        let ports = PortBlock::take()?;
        let store_address = SocketAddr::from(([127, 0, 0, 1], ports.port(0)));
        let plan = FaultPlan {
            seed,
            per_mille: 60,
            outages_per_mille: 10,
        };
        let faults = FaultProxy::start(store_address, plan, LATE_BY).await?;
        let faults_address: SocketAddr = faults.endpoint()["http://".len()..].parse()?;
        let to_store = Passage::to(faults_address).await;
        let settings = Settings {
            snapshot_after_records: 60,
            lag_records_max: 30,
            second_admin: true,
            ..Settings::default()
        };
        let at = ClusterStore::At {
            url: format!("s3://{BUCKET}"),
            options: options(to_store.address()),
        };
        let base = env!("CARGO_TARGET_TMPDIR");
        let mut cluster = TestCluster::prepare_on(at, base, "chaos", WORKERS, PARTITIONS, settings)?;
        let networks = Networks {
            to_store,
            to_log: Passage::to(address(cluster.endpoints().url(Node::Log))?).await,
            to_log_admin: Passage::to(address(cluster.endpoints().log_admin_url())?).await,
        };
        configure(&cluster, &networks, disk.as_deref())?;
        let folder = cluster.spec().dir.join("s3");
        let store = StoreProcess::start(store_address, folder, ports).await?;
        cluster.start(Node::Log).await?;
        cluster.init().await?;
        cluster.start_rest().await?;
        cluster.until_healthy(WITHIN).await?;
        Ok(Everything {
            cluster,
            faults,
            store,
            networks,
            disk,
            filler: None,
            trim_points: BTreeMap::new(),
            trims_seen: 0,
        })
    }

    /// Begins a disturbance.
    pub(crate) fn begin(&mut self, disturbance: Disturbance) -> anyhow::Result<()> {
        match disturbance {
            Disturbance::Kill(Process::Store) => self.store.kill()?,
            Disturbance::Kill(Process::Node(node)) => self.cluster.kill(node)?,
            Disturbance::Stop(process) => self.signal(process, Signal::STOP)?,
            Disturbance::Break(network) => self.networks.set(network, Way::Closed),
            Disturbance::Silence(network) => self.networks.set(network, Way::Silent),
            Disturbance::FillDisk(left) => {
                let disk = self.disk.as_deref().context("no disk can be filled")?;
                self.filler = Some(Filler::leaving(disk, left));
            }
        }
        Ok(())
    }

    /// Ends a disturbance; a process that was killed serves again afterwards.
    pub(crate) async fn end(&mut self, disturbance: Disturbance) -> anyhow::Result<()> {
        match disturbance {
            Disturbance::Kill(Process::Store) => self.store.start_again().await?,
            Disturbance::Kill(Process::Node(node)) => self.cluster.start(node).await?,
            Disturbance::Stop(process) => self.signal(process, Signal::CONT)?,
            Disturbance::Break(network) | Disturbance::Silence(network) => {
                self.networks.set(network, Way::Open);
            }
            Disturbance::FillDisk(_) => self.filler.take().context("no disk is full")?.remove(),
        }
        Ok(())
    }

    fn signal(&self, process: Process, signal: Signal) -> anyhow::Result<()> {
        let id = match process {
            Process::Store => self.store.process.as_ref().map(SingleNode::id),
            Process::Node(node) => self.cluster.process_id(node),
        };
        let id = i32::try_from(id.with_context(|| format!("{process} does not run"))?)?;
        Ok(kill_process(
            Pid::from_raw(id).context("an id is positive")?,
            signal,
        )?)
    }

    /// Asks the log how far each partition is trimmed, then the bucket whether it covers that.
    pub(crate) async fn check_trims(&mut self) -> anyhow::Result<()> {
        for partition in 0..PARTITIONS {
            let trim_point = log_info(self.cluster.endpoints(), partition).await?.trim_point;
            until_covered(&self.bucket_dir(), partition, trim_point).await?;
            let before = self.trim_points.insert(partition, trim_point).unwrap_or(0);
            ensure!(
                trim_point >= before,
                "the trim point of partition {partition} went from {before} to {trim_point}"
            );
            self.trims_seen += u64::from(trim_point > before);
        }
        Ok(())
    }

    /// Returns the folder in which the S3 server keeps the bucket.
    fn bucket_dir(&self) -> PathBuf {
        self.store.folder.join(BUCKET)
    }

    /// Returns where a worker keeps its data.
    pub(crate) fn data_dir(&self, node: Node) -> PathBuf {
        match &self.disk {
            Some(disk) if node == ON_SMALL_DISK => folder_on(disk),
            _ => self.cluster.data_dir(node),
        }
    }

    /// Opens the repository past everything that breaks requests.
    pub(crate) fn repository(&self) -> anyhow::Result<Repository> {
        let options = StoreOptions::for_client(options(self.store.address));
        Ok(Repository::open_with(
            &format!("s3://{BUCKET}"),
            &options,
            Seams::real(),
        )?)
    }

    /// Returns the arguments with which a command opens the same.
    pub(crate) fn store_arguments(&self) -> Vec<String> {
        let options = options(self.store.address).into_iter();
        let options =
            options.flat_map(|(key, value)| ["--store-option".to_owned(), format!("{key}={value}")]);
        let url = ["--store".to_owned(), format!("s3://{BUCKET}")];
        url.into_iter().chain(options).collect()
    }

    /// Returns how many connections were tried while a network was broken.
    pub(crate) fn refused(&self) -> usize {
        self.networks.all().iter().map(|passage| passage.refused()).sum()
    }

    /// Ends everything: no process has panicked.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.store.kill()?;
        self.cluster.finish()
    }
}

fn folder_on(disk: &Path) -> PathBuf {
    disk.join(ON_SMALL_DISK.to_string())
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let address = url.strip_prefix("http://").with_context(|| url.to_owned())?;
    address.parse().with_context(|| url.to_owned())
}

/// Returns what a client of the store has to know.
fn options(address: SocketAddr) -> BTreeMap<String, String> {
    let options = S3Server::options_at(address);
    options.into_iter().collect()
}

/// Leads all nodes over the networks, and the data of one to the small disk.
fn configure(cluster: &TestCluster, networks: &Networks, disk: Option<&Path>) -> anyhow::Result<()> {
    let timeout = i64::try_from(REQUEST_TIMEOUT.as_millis())?;
    for node in cluster.nodes() {
        let admin = matches!(node, Node::Admin | Node::SecondAdmin);
        if !admin && !matches!(node, Node::Worker(_)) {
            continue;
        }
        let path = cluster.config_path(node);
        let mut config: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let section = config.entry(section).or_insert(toml::Table::new().into());
            let section = section
                .as_table_mut()
                .map(|section| section.insert(key.to_owned(), value));
            section.map(drop).context("no section")
        };
        set(
            "log",
            "url",
            format!("http://{}", networks.to_log.address()).into(),
        )?;
        set("store", "request_timeout_ms", timeout.into())?;
        set("store", "connect_timeout_ms", timeout.into())?;
        set("store", "requests_max", REQUESTS_MAX.into())?;
        if admin {
            set(
                "log",
                "admin_url",
                format!("http://{}", networks.to_log_admin.address()).into(),
            )?;
            set("scheduler", "lease_term_ms", 1_500.into())?;
        }
        if let Some(disk) = disk
            && node == ON_SMALL_DISK
        {
            config.insert(
                "data_dir".to_owned(),
                folder_on(disk).display().to_string().into(),
            );
        }
        std::fs::write(&path, config.to_string())?;
    }
    Ok(())
}

/// What can be cut or silenced.
struct Networks {
    to_store: Passage,
    to_log: Passage,
    to_log_admin: Passage,
}

impl Networks {
    fn set(&self, network: Network, way: Way) {
        match network {
            Network::Store => self.to_store.set(way),
            Network::Log => {
                self.to_log.set(way);
                self.to_log_admin.set(way);
            }
        }
    }

    fn all(&self) -> [&Passage; 3] {
        [&self.to_store, &self.to_log, &self.to_log_admin]
    }
}

/// The S3 server, which comes back to its address and its folder.
struct StoreProcess {
    process: Option<SingleNode>,
    address: SocketAddr,
    folder: PathBuf,
    _ports: PortBlock,
}

impl StoreProcess {
    async fn start(address: SocketAddr, folder: PathBuf, ports: PortBlock) -> anyhow::Result<Self> {
        std::fs::create_dir(&folder)?;
        let mut store = StoreProcess {
            process: None,
            address,
            folder,
            _ports: ports,
        };
        store.start_again().await?;
        Ok(store)
    }

    async fn start_again(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(S3_SERVER);
        command
            .arg(self.address.to_string())
            .arg(&self.folder)
            .arg(BUCKET);
        // It accepts the credentials of the tests when it is given no others.
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY");
        let process = SingleNode::spawn_command(command, &self.folder.join("server.log"))?;
        process.until_said(&["http://"], WITHIN).await?;
        self.process = Some(process);
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let said = self.process.take().context("the S3 server runs")?.said()?;
        ensure!(!said.contains("panicked at"), "the S3 server: {said}");
        Ok(())
    }
}
