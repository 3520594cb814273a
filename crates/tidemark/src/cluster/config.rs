//! The configuration files of a local cluster.

use super::{
    ClusterError, Engine, Node,
    engine::{self, User},
    layout::Layout,
};
use crate::wire_security::{ClientSecurity, CredentialFiles};
use std::path::PathBuf;
use toml::{Table, Value};

/// What differs between local clusters; the rest has the defaults of the configuration or values that suit a
/// small cluster on one machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `policy.snapshot_after_records` of the admin.
    pub snapshot_after_records: u64,
    /// `policy.lag_records_max` of the admin; below `snapshot_after_records`.
    pub lag_records_max: u64,
    /// `policy.held_records_max` of the admin.
    pub held_records_max: u64,
    /// `policy.restorable_snapshots_min` of the admin.
    pub restorable_snapshots_min: u32,
    /// `policy.leader_fallback_after_ms` of the admin.
    pub leader_fallback_after_ms: u64,
    /// `scheduler.poll_interval_ms` and `scheduler.tick_interval_ms` of the admin.
    pub tick_interval_ms: u64,
    /// `scheduler.suspect_after_ms` of the admin.
    pub suspect_after_ms: u64,
    /// `scheduler.gone_after_ms` of the admin.
    pub gone_after_ms: u64,
    /// `worker.flush_interval_ms` of the workers.
    pub flush_interval_ms: u64,
    /// What keeps the logs.
    pub engine: Engine,
    /// Whether there is another admin, which takes over when the first one is gone.
    pub second_admin: bool,
    /// Certificates and tokens; without them the nodes speak plain gRPC.
    pub credentials: Option<Credentials>,
    /// Sections and keys written over the rest, per role: `log`, `worker` or `admin`.
    pub overrides: Vec<(&'static str, String)>,
}

/// Certificates and tokens of a local cluster, in files that whoever starts it has made. All nodes and clients have the
/// same certificate, for 127.0.0.1, and show it to each other.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The CA that certifies nodes and clients.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What all servers accept.
    pub accepted_tokens: PathBuf,
    /// The token of the workers.
    pub worker_token: PathBuf,
    /// The token of the admin, of commands and of the clients of [`super::Endpoints`].
    pub admin_token: PathBuf,
}

impl Credentials {
    /// Returns what a client of the cluster takes its credentials from.
    pub fn of_client(&self) -> CredentialFiles {
        CredentialFiles {
            cert: Some(self.cert.clone()),
            key: Some(self.key.clone()),
            ca: Some(self.ca.clone()),
            token: Some(self.admin_token.clone()),
            ..CredentialFiles::default()
        }
    }

    /// Returns what a command of the cluster takes its credentials from.
    pub(super) fn environment(&self) -> [(&'static str, &PathBuf); 4] {
        [
            ("TIDEMARK_TLS_CA", &self.ca),
            ("TIDEMARK_TLS_CERT", &self.cert),
            ("TIDEMARK_TLS_KEY", &self.key),
            ("TIDEMARK_TOKEN_FILE", &self.admin_token),
        ]
    }

    /// Returns the sections of a node's configuration.
    fn sections(&self, node: Node) -> Table {
        let file = |file: &PathBuf| path(file.clone());
        let tls = table([
            ("cert", file(&self.cert)),
            ("key", file(&self.key)),
            ("client_ca", file(&self.ca)),
            ("ca", file(&self.ca)),
        ]);
        let mut auth = table([("accepted_tokens", file(&self.accepted_tokens))]);
        let token = match node {
            Node::Log | Node::Nats(_) => None,
            Node::Worker(_) => Some(&self.worker_token),
            Node::Admin | Node::SecondAdmin => Some(&self.admin_token),
        };
        if let Some(token) = token {
            auth.insert("token_file".to_owned(), file(token));
        }
        table([("tls", Value::Table(tls)), ("auth", Value::Table(auth))])
    }
}

impl Default for Settings {
    /// Returns settings under which things happen within seconds.
    fn default() -> Self {
        Settings {
            snapshot_after_records: 200,
            lag_records_max: 100,
            held_records_max: 400,
            restorable_snapshots_min: 2,
            leader_fallback_after_ms: 20_000,
            tick_interval_ms: 200,
            suspect_after_ms: 1_000,
            gone_after_ms: 2_500,
            flush_interval_ms: 300,
            engine: Engine::Embedded,
            second_admin: false,
            credentials: None,
            overrides: Vec::new(),
        }
    }
}

impl Settings {
    /// Returns the credentials of this process as a client of the cluster.
    pub(super) fn client_security(&self) -> Result<ClientSecurity, ClusterError> {
        let Some(credentials) = &self.credentials else {
            return Ok(ClientSecurity::open());
        };
        credentials
            .of_client()
            .client()
            .map_err(|faults| ClusterError::Credentials {
                detail: faults.into_iter().map(|fault| fault.problem).collect(),
            })
    }
}

/// Writes numbers as TOML integers; they are far below the limit.
fn number(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

fn path(value: PathBuf) -> Value {
    Value::String(value.to_string_lossy().into_owned())
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Returns the configuration file of `node`.
pub(super) fn render(node: Node, layout: &Layout, settings: &Settings) -> String {
    let (role, mut config) = match node {
        // The shipped file, as it is.
        Node::Nats(_) => return engine::SERVER_CONF.to_owned(),
        Node::Log => ("log", log(node, layout)),
        Node::Admin | Node::SecondAdmin => ("admin", admin(node, layout, settings)),
        Node::Worker(_) => ("worker", worker(node, layout, settings)),
    };
    if let Some(credentials) = &settings.credentials {
        merge(&mut config, credentials.sections(node));
    }
    for (for_role, fragment) in &settings.overrides {
        let fragment = fragment.parse::<Table>();
        if let (true, Ok(fragment)) = (*for_role == role, fragment) {
            merge(&mut config, fragment);
        }
    }
    format!("# Written by `tidemark demo` or a test for {node}.\n{config}")
}

/// Lays `over` over `base`, section by section.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn log(node: Node, layout: &Layout) -> Table {
    table([
        ("node_id", text(node)),
        ("listen", text(layout.listen(node))),
        ("admin_listen", text(layout.log_admin_listen())),
        ("metrics_listen", text(layout.metrics_listen(node))),
        ("data_dir", path(layout.data_dir(node))),
    ])
}

/// Returns the section of a node that reaches the logs as `user`.
fn log_section(user: User, layout: &Layout, settings: &Settings) -> Table {
    match &settings.engine {
        Engine::Embedded => {
            let mut section = table([("url", text(layout.url(Node::Log)))]);
            if user == User::Admin {
                section.insert("admin_url".to_owned(), text(layout.log_admin_url()));
            }
            section
        }
        Engine::Nats { .. } => {
            let section = engine::section(layout, user);
            let servers = section.servers.iter().map(text).collect();
            let nats = table([("servers", Value::Array(servers)), ("login", path(section.login))]);
            table([("engine", text("nats")), ("nats", Value::Table(nats))])
        }
    }
}

fn store(layout: &Layout) -> Table {
    let options = layout.store.options.iter();
    let options: Table = options.map(|(key, value)| (key.clone(), text(value))).collect();
    let mut store = table([("url", text(&layout.store.url))]);
    if !options.is_empty() {
        store.insert("options".to_owned(), Value::Table(options));
    }
    store
}

fn worker(node: Node, layout: &Layout, settings: &Settings) -> Table {
    table([
        ("node_id", text(node)),
        ("listen", text(layout.listen(node))),
        ("metrics_listen", text(layout.metrics_listen(node))),
        ("data_dir", path(layout.data_dir(node))),
        ("partitions", text("all")),
        ("store", Value::Table(store(layout))),
        ("log", Value::Table(log_section(User::Worker, layout, settings))),
        (
            "limits",
            Value::Table(table([("disk_reserve_bytes", number(16 << 20))])),
        ),
        (
            "worker",
            Value::Table(table([("flush_interval_ms", number(settings.flush_interval_ms))])),
        ),
    ])
}

fn admin(node: Node, layout: &Layout, settings: &Settings) -> Table {
    let workers = (1..=layout.workers).map(Node::Worker).map(|worker| {
        Value::Table(table([
            ("node_id", text(worker)),
            ("address", text(layout.url(worker))),
            ("partitions", text("all")),
        ]))
    });
    let policy = table([
        ("snapshot_after_records", number(settings.snapshot_after_records)),
        ("lag_records_max", number(settings.lag_records_max)),
        ("held_records_max", number(settings.held_records_max)),
        (
            "restorable_snapshots_min",
            number(settings.restorable_snapshots_min.into()),
        ),
        (
            "leader_fallback_after_ms",
            number(settings.leader_fallback_after_ms),
        ),
    ]);
    let scheduler = table([
        ("poll_interval_ms", number(settings.tick_interval_ms)),
        ("tick_interval_ms", number(settings.tick_interval_ms)),
        ("suspect_after_ms", number(settings.suspect_after_ms)),
        ("gone_after_ms", number(settings.gone_after_ms)),
        ("assign_leaders", Value::Boolean(true)),
    ]);
    table([
        ("node_id", text(node)),
        ("listen", text(layout.listen(node))),
        ("metrics_listen", text(layout.metrics_listen(node))),
        ("store", Value::Table(store(layout))),
        ("log", Value::Table(log_section(User::Admin, layout, settings))),
        ("policy", Value::Table(policy)),
        ("scheduler", Value::Table(scheduler)),
        ("workers", Value::Array(workers.collect())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{ClusterStore, PortBlock},
        config::{AdminConfig, WorkerConfig, parse},
    };
    use snapshot_store::Entropy;

    #[test]
    fn every_file_is_toml_and_overrides_reach_only_their_role() {
        let ports = PortBlock::take().unwrap();
        let layout = Layout::new("/tmp/a folder".into(), 3, &ClusterStore::Folder, &ports, false);
        let settings = Settings {
            overrides: vec![("admin", "[policy]\nprune = false\n".to_owned())],
            ..Settings::default()
        };
        for node in Node::all(3, &settings) {
            let config: Table = render(node, &layout, &settings).parse().unwrap();
            assert_eq!(config["node_id"].as_str(), Some(node.to_string().as_str()));
            let policy = config.get("policy").and_then(Value::as_table);
            assert_eq!(
                policy.and_then(|policy| policy.get("prune")).is_some(),
                node == Node::Admin
            );
            if let Some(policy) = policy {
                assert_eq!(policy["lag_records_max"].as_integer(), Some(100));
            }
        }
    }

    #[test]
    fn on_nats_both_admins_have_the_login_that_may_trim_and_no_worker_has_it() {
        let ports = PortBlock::take().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().to_owned(), 2, &ClusterStore::Folder, &ports, false);
        std::fs::create_dir(folder.path().join("config")).unwrap();
        let program = PathBuf::from("nats-server");
        // The files with the logins, which are read with the configuration.
        engine::NatsServers::create(&program, &layout, &Entropy::seeded(1)).unwrap();
        let settings = Settings {
            engine: Engine::Nats { program },
            second_admin: true,
            ..Settings::default()
        };
        let nodes = Node::all(2, &settings);
        assert_eq!(nodes.iter().filter(|node| node.keeps_logs()).count(), 3);
        for node in nodes.into_iter().filter(|node| !node.keeps_logs()) {
            let rendered = render(node, &layout, &settings);
            let nats = match node {
                Node::Worker(_) => parse::<WorkerConfig>("worker", &rendered, []).unwrap().log.nats,
                _ => parse::<AdminConfig>("admin", &rendered, []).unwrap().log.nats,
            };
            let may_trim = nats.login == layout.nats_login(User::Admin);
            assert_eq!(may_trim, !matches!(node, Node::Worker(_)), "{node}");
            assert_eq!(nats.servers.len(), 3);
        }
    }

    #[test]
    fn nodes_reach_a_server_of_the_cluster_through_their_files_and_find_no_credentials_in_them() {
        let ports = PortBlock::take().unwrap();
        let server = ClusterStore::Server {
            program: "s3-server".into(),
        };
        let layout = Layout::new("/tmp/a folder".into(), 1, &server, &ports, false);
        let settings = Settings::default();
        let rendered = |node| render(node, &layout, &settings);
        let (admin, worker) = (rendered(Node::Admin), rendered(Node::Worker(1)));
        for text in [&admin, &worker] {
            assert!(!text.contains("secret") && !text.contains("access_key"), "{text}");
        }
        let admin: AdminConfig = parse("admin", &admin, []).unwrap();
        let worker: WorkerConfig = parse("worker", &worker, []).unwrap();
        assert_eq!(admin.store, worker.store);
        assert_eq!(worker.store.url, "s3://tidemark");
        let endpoint = format!("http://{}", layout.store_listen());
        assert_eq!(worker.store.options.0["endpoint"], endpoint);
    }
}
