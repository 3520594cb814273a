//! Configuration of the admin.

use super::{
    AuthSection, Faults, LogEngine, NatsSection, PartitionChoice, Role, RoleConfig, StoreSection, TlsSection,
    wire,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_scheduler::{Policy, PolicyFault, SchedulerOptions};

/// `admin.toml`: the node that orders snapshots and trims logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Name of this node, unique in the cluster. Required. Since 0.1.
    pub node_id: String,
    /// Where operators reach the admin. Default: "127.0.0.1:7400". Takes effect at start. Since 0.1.
    pub listen: String,
    /// Where operators reach the admin, when that differs from `listen`: other admins name it while this one acts. Default:
    /// "", which means `listen` with the scheme that fits. Takes effect at start. Since 0.1.
    pub advertise: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served. Default: "127.0.0.1:7401". Takes effect at start. Since 0.1.
    pub metrics_listen: String,
    /// The object store.
    pub store: StoreSection,
    /// The log.
    pub log: AdminLogSection,
    /// The workers of the cluster. At least one is required.
    pub workers: Vec<WorkerEntry>,
    /// When to snapshot, whom to ask, how far to trim.
    pub policy: Policy,
    /// How often the admin looks, and when it stops believing what it saw.
    pub scheduler: SchedulerOptions,
    /// TLS.
    pub tls: TlsSection,
    /// Tokens.
    pub auth: AuthSection,
}

/// Where the admin reaches the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminLogSection {
    /// What keeps the logs: "embedded" for a log server, "nats" for NATS JetStream. Default: "embedded". Takes effect at
    /// start. Since 0.1.
    pub engine: LogEngine,
    /// Address of the log server. Required with the engine "embedded", unused with others. Takes effect at start. Since 0.1.
    pub url: String,
    /// Address at which the log server accepts trims. Required with the engine "embedded", unused with others. Takes effect
    /// at start. Since 0.1.
    pub admin_url: String,
    /// The engine "nats". Its credentials are those that may trim.
    pub nats: NatsSection,
}

/// A worker of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerEntry {
    /// Its node id; a worker that calls itself otherwise is not believed. Required. Since 0.1.
    pub node_id: String,
    /// Where it is reached. Required. Since 0.1.
    pub address: String,
    /// The partitions it is expected to keep replicas of: "all", or a list of numbers. Default: "all". Since 0.1.
    #[serde(default = "all")]
    pub partitions: PartitionChoice,
}

fn all() -> PartitionChoice {
    PartitionChoice::ALL
}

impl Default for AdminConfig {
    fn default() -> Self {
        let entry = |number: u32| WorkerEntry {
            node_id: format!("worker-{number}"),
            address: format!("http://127.0.0.1:73{number}0"),
            partitions: PartitionChoice::ALL,
        };
        AdminConfig {
            node_id: "admin-1".into(),
            listen: "127.0.0.1:7400".into(),
            advertise: String::new(),
            metrics_listen: "127.0.0.1:7401".into(),
            store: StoreSection::default(),
            log: AdminLogSection::default(),
            workers: (1..=3).map(entry).collect(),
            policy: Policy::default(),
            scheduler: SchedulerOptions::default(),
            tls: TlsSection::default(),
            auth: AuthSection::default(),
        }
    }
}

impl Default for AdminLogSection {
    fn default() -> Self {
        AdminLogSection {
            engine: LogEngine::default(),
            url: "http://127.0.0.1:7300".into(),
            admin_url: "http://127.0.0.1:7301".into(),
            nats: NatsSection::default(),
        }
    }
}

impl RoleConfig for AdminConfig {
    const ROLE: Role = Role::Admin;
    const REQUIRED: &'static [&'static str] =
        &["node_id", "store.url", "log.url", "log.admin_url", "workers"];
    const REQUIRED_WITH_NATS: &'static [&'static str] =
        &["node_id", "store.url", "log.nats.servers", "workers"];

    fn check(&self, faults: &mut Faults) {
        faults.node_id("node_id", &self.node_id);
        let listens = [
            ("listen", self.listen.as_str()),
            ("metrics_listen", &self.metrics_listen),
        ];
        listens.iter().for_each(|(key, text)| faults.listen(key, text));
        faults.distinct_listens(&listens);
        if !self.advertise.is_empty() {
            faults.http_url("advertise", &self.advertise);
        }
        self.store.check(faults);
        let mut urls = match self.log.engine {
            LogEngine::Embedded => vec![
                ("log.url".to_owned(), self.log.url.as_str()),
                ("log.admin_url".to_owned(), &self.log.admin_url),
            ],
            LogEngine::Nats => Vec::new(),
        };
        urls.iter().for_each(|(key, url)| faults.http_url(key, url));
        if self.log.engine == LogEngine::Nats {
            self.log.nats.check(faults);
        }
        self.check_workers(faults);
        let workers = self.workers.iter().enumerate();
        urls.extend(workers.map(|(at, worker)| (format!("workers[{at}].address"), worker.address.as_str())));
        wire::check(&self.tls, &self.auth, &listens[..1], &urls, faults);
        let policy = self.policy.validate().err().into_iter().flatten();
        let scheduler = self.scheduler.validate().err().into_iter().flatten();
        for PolicyFault { key, fault } in policy.chain(scheduler) {
            faults.add(
                key,
                fault,
                "`tidemark config schema --role admin` says what each key means",
            );
        }
    }
}

impl AdminConfig {
    /// Returns where operators reach the node, which listens on `address`.
    pub(crate) fn advertised(&self, address: std::net::SocketAddr, speaks_tls: bool) -> String {
        match (self.advertise.is_empty(), speaks_tls) {
            (true, true) => format!("https://{address}"),
            (true, false) => format!("http://{address}"),
            (false, _) => self.advertise.clone(),
        }
    }

    fn check_workers(&self, faults: &mut Faults) {
        if self.workers.is_empty() {
            faults.add(
                "workers",
                "no worker is named",
                "add a [[workers]] section for each worker",
            );
        }
        for (at, worker) in self.workers.iter().enumerate() {
            let key = |name: &str| format!("workers[{at}].{name}");
            faults.node_id(&key("node_id"), &worker.node_id);
            faults.http_url(&key("address"), &worker.address);
            worker.partitions.check(&key("partitions"), faults);
            let earlier = &self.workers[..at];
            if earlier.iter().any(|other| other.node_id == worker.node_id) {
                faults.add(
                    key("node_id"),
                    format!("{:?} stands there twice", worker.node_id),
                    "name each worker once",
                );
            }
            if earlier.iter().any(|other| other.address == worker.address) {
                faults.add(
                    key("address"),
                    format!("{:?} stands there twice", worker.address),
                    "give each worker its own address",
                );
            }
        }
    }
}
