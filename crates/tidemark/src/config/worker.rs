//! Configuration of a worker.

use super::{AuthSection, Faults, LogEngine, NatsSection, Role, RoleConfig, StoreSection, TlsSection, wire};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An admin polls every second, and is silent for some seconds while it is started anew.
const AUTONOMOUS_AFTER_MS_MIN: u64 = 10_000;

/// `worker.toml`: one node with replicas of partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Name of this node, unique in the cluster and tied to its data folder. Required. Since 0.1.
    pub node_id: String,
    /// Where the node serves gRPC. Default: "127.0.0.1:7310". Takes effect at start. Since 0.1.
    pub listen: String,
    /// Where others reach the node, when that differs from `listen`: `http://host:port`, or `https://` with TLS. Default:
    /// "", which means `listen` with the scheme that fits. Takes effect at start. Since 0.1.
    pub advertise: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served. Default: "127.0.0.1:7311". Takes effect at start. Since 0.1.
    pub metrics_listen: String,
    /// Folder of the replicas on a local disk that this node alone uses. Required. It may be lost: replicas come
    /// back from the store. Since 0.1.
    pub data_dir: PathBuf,
    /// The partitions this node keeps replicas of: "all", or a list of numbers. Default: "all". Takes effect at
    /// start. Since 0.1.
    pub partitions: PartitionChoice,
    /// The object store.
    pub store: StoreSection,
    /// The log.
    pub log: LogSection,
    /// Bounds on what the node does at once.
    pub limits: LimitsSection,
    /// The partition processors.
    pub worker: WorkerSection,
    /// TLS.
    pub tls: TlsSection,
    /// Tokens.
    pub auth: AuthSection,
}

/// Which partitions a worker keeps replicas of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PartitionChoice {
    /// All of the cluster.
    All(AllWord),
    /// These.
    Only(Vec<u32>),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllWord {
    /// `all`.
    All,
}

impl PartitionChoice {
    /// All partitions of the cluster.
    pub const ALL: PartitionChoice = PartitionChoice::All(AllWord::All);

    pub(super) fn check(&self, key: &str, faults: &mut Faults) {
        let PartitionChoice::Only(numbers) = self else {
            return;
        };
        if numbers.is_empty() {
            faults.add(key, "the list is empty", "write \"all\" or at least one number");
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = numbers.iter().find(|number| !seen.insert(**number)) {
            faults.add(
                key,
                format!("partition {twice} stands in it twice"),
                "name each partition once",
            );
        }
    }
}

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// What keeps the logs: "embedded" for a log server, "nats" for NATS JetStream. Default: "embedded". Takes effect at
    /// start. Since 0.1.
    pub engine: LogEngine,
    /// Address of the log server. Required with the engine "embedded", unused with others. Takes effect at start. Since 0.1.
    pub url: String,
    /// The engine "nats".
    pub nats: NatsSection,
}

/// Bounds on what one node does at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Snapshots made at once. More finish sooner in sum and slow down everything else. Default: 2. Takes effect
    /// at start. Since 0.1.
    pub exports_max: u32,
    /// Snapshots that wait while as many are made as may be; a request beyond that is declined as `busy`. 0: none waits.
    /// Default: 8. Takes effect at start. Since 0.1.
    pub exports_queue_max: u32,
    /// Restores at once; they come before snapshots. Default: 4. Takes effect at start. Since 0.1.
    pub restores_max: u32,
    /// Disk space in bytes that snapshots and restores leave free. Default: 1073741824. Takes effect at start. Since 0.1.
    pub disk_reserve_bytes: u64,
    /// Processors that making and checking snapshots has for itself, so that writes do not wait behind it; all else of the
    /// node keeps off them. 0: it has half of the processors at low priority, and shares them. Default: 0. Takes effect at
    /// start. Since 0.1.
    pub background_processors: u32,
}

/// The partition processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerSection {
    /// Longest time in milliseconds before applied records are flushed to disk; trims wait for it. Default: 5000.
    /// Takes effect at start. Since 0.1.
    pub flush_interval_ms: u64,
    /// Records applied after which a flush follows at once. Default: 100000. Takes effect at start. Since 0.1.
    pub flush_records: u64,
    /// Silence in milliseconds after which leaders make snapshots of their own accord: no admin has polled for so long, and
    /// the last poll did not say that cluster or partition are paused. The thresholds are those of the last poll, so only
    /// records or bytes make one due. Nothing is trimmed without an admin. At least 10000; 0 switches it off. Default: 0.
    /// Takes effect at start. Since 0.1.
    pub autonomous_after_ms: u64,
    /// Block cache in bytes, shared by all partitions of the node. Default: 268435456. Takes effect at start. Since 0.1.
    pub block_cache_bytes: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig {
            node_id: "worker-1".into(),
            listen: "127.0.0.1:7310".into(),
            advertise: String::new(),
            metrics_listen: "127.0.0.1:7311".into(),
            data_dir: "/var/lib/tidemark/worker-1".into(),
            partitions: PartitionChoice::ALL,
            store: StoreSection::default(),
            log: LogSection::default(),
            limits: LimitsSection::default(),
            worker: WorkerSection::default(),
            tls: TlsSection::default(),
            auth: AuthSection::default(),
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection {
            engine: LogEngine::default(),
            url: "http://127.0.0.1:7300".into(),
            nats: NatsSection::default(),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        LimitsSection {
            exports_max: 2,
            exports_queue_max: 8,
            restores_max: 4,
            disk_reserve_bytes: 1 << 30,
            background_processors: 0,
        }
    }
}

impl Default for WorkerSection {
    fn default() -> Self {
        WorkerSection {
            flush_interval_ms: 5000,
            flush_records: 100_000,
            autonomous_after_ms: 0,
            block_cache_bytes: 256 << 20,
        }
    }
}

impl RoleConfig for WorkerConfig {
    const ROLE: Role = Role::Worker;
    const REQUIRED: &'static [&'static str] = &["node_id", "data_dir", "store.url", "log.url"];
    const REQUIRED_WITH_NATS: &'static [&'static str] =
        &["node_id", "data_dir", "store.url", "log.nats.servers"];

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
        } else if self.listen.starts_with("0.0.0.0:") || self.listen.starts_with("[::]:") {
            faults.add(
                "advertise",
                format!(
                    "is empty while `listen` is {:?}, which others cannot connect to",
                    self.listen
                ),
                "set it to the address others reach this node at, \"https://host:port\"",
            );
        }
        faults.data_dir("data_dir", &self.data_dir.to_string_lossy());
        self.partitions.check("partitions", faults);
        self.store.check(faults);
        let urls = match self.log.engine {
            LogEngine::Embedded => vec![("log.url".to_owned(), self.log.url.as_str())],
            LogEngine::Nats => Vec::new(),
        };
        urls.iter().for_each(|(key, url)| faults.http_url(key, url));
        if self.log.engine == LogEngine::Nats {
            self.log.nats.check(faults);
        }
        let speaks_tls = wire::check(&self.tls, &self.auth, &listens[..1], &urls, faults);
        self.check_advertised_scheme(speaks_tls, faults);
        faults.at_least_one("limits.exports_max", self.limits.exports_max.into());
        faults.at_least_one("limits.restores_max", self.limits.restores_max.into());
        faults.at_least_one("worker.flush_interval_ms", self.worker.flush_interval_ms);
        faults.at_least_one("worker.flush_records", self.worker.flush_records);
        let silence = self.worker.autonomous_after_ms;
        if (1..AUTONOMOUS_AFTER_MS_MIN).contains(&silence) {
            faults.add(
                "worker.autonomous_after_ms",
                format!("is {silence}, which an admin may take to start anew"),
                format!("set it to 0 (off), or to at least {AUTONOMOUS_AFTER_MS_MIN}"),
            );
        }
    }
}

impl WorkerConfig {
    /// Returns where others reach the node, which listens on `address`.
    pub(crate) fn advertised(&self, address: std::net::SocketAddr, speaks_tls: bool) -> String {
        match self.advertise.is_empty() {
            true => format!("{}://{address}", scheme(speaks_tls)),
            false => self.advertise.clone(),
        }
    }

    fn check_advertised_scheme(&self, speaks_tls: Option<bool>, faults: &mut Faults) {
        let Some(scheme) = speaks_tls.map(scheme) else {
            return;
        };
        if !self.advertise.is_empty() && !self.advertise.starts_with(&format!("{scheme}:")) {
            faults.add(
                "advertise",
                format!("{:?} does not say how the node is spoken to", self.advertise),
                format!("write it as \"{scheme}://host:port\", as `tls.cert` has it"),
            );
        }
    }
}

const fn scheme(speaks_tls: bool) -> &'static str {
    match speaks_tls {
        true => "https",
        false => "http",
    }
}
