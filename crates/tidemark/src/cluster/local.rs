//! A running local cluster.

use super::{
    ClusterError, ClusterStore, Endpoints, Engine, Node, PortBlock, Settings, StorePlace, config,
    engine::{NatsServers, SERVER_IS_READY, log_arguments},
    error::{file_error, process_error},
    layout::Layout,
    process::{LOG_LINES, Manner, NodeProcess, last_lines},
    wait_for,
};
use snapshot_store::Entropy;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const STOP_WITHIN: Duration = Duration::from_secs(30);
const INIT_WITHIN: Duration = Duration::from_secs(60);

const NODE: Manner = Manner {
    is_ready: |line| line.starts_with("ready "),
    watches_stdin: true,
};
const STORE: Manner = Manner {
    is_ready: |line| line.starts_with("http://"),
    watches_stdin: true,
};
const NATS_SERVER: Manner = Manner {
    is_ready: |line| line.ends_with(SERVER_IS_READY),
    watches_stdin: false,
};

/// What a local cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Name given to `cluster init`.
    pub name: String,
    /// Folder for configuration, data, bucket and logs; created.
    pub dir: PathBuf,
    /// The `tidemark` binary.
    pub binary: PathBuf,
    /// How many workers.
    pub workers: u32,
    /// How many partitions.
    pub partitions: u32,
    /// Where snapshots are kept.
    pub store: ClusterStore,
    /// What the configuration files say.
    pub settings: Settings,
}

/// What keeps the logs, one admin or two, and some workers, each a process of its own, and the store's server where it has
/// one. All of them end when this is dropped.
#[derive(Debug)]
pub struct LocalCluster {
    spec: ClusterSpec,
    layout: Layout,
    endpoints: Endpoints,
    processes: BTreeMap<Node, NodeProcess>,
    store_server: Option<NodeProcess>,
    nats: Option<NatsServers>,
    _ports: PortBlock,
}

impl LocalCluster {
    /// Most workers that one block of ports is enough for.
    pub const WORKERS_MAX: u32 = 8;

    /// Takes ports and writes the configuration files; starts nothing.
    ///
    /// # Errors
    /// When the folder holds something, files cannot be written or no ports are free.
    pub fn create(mut spec: ClusterSpec) -> Result<Self, ClusterError> {
        spec.workers = spec.workers.clamp(1, Self::WORKERS_MAX);
        make_folder(&spec.dir)?;
        spec.dir = spec.dir.canonicalize().map_err(file_error("find", &spec.dir))?;
        let holds_something = std::fs::read_dir(&spec.dir)
            .map_err(file_error("read", &spec.dir))?
            .next()
            .is_some();
        if holds_something {
            return Err(ClusterError::NotEmpty { path: spec.dir });
        }
        let ports = PortBlock::take()?;
        let layout = Layout::new(
            spec.dir.clone(),
            spec.workers,
            &spec.store,
            &ports,
            spec.settings.credentials.is_some(),
        );
        for folder in ["config", "logs", "data"] {
            make_folder(&spec.dir.join(folder))?;
        }
        if spec.store.is_own() {
            make_folder(&layout.bucket())?;
        }
        let nodes = Node::all(spec.workers, &spec.settings);
        for &node in &nodes {
            let path = layout.config(node);
            std::fs::write(&path, config::render(node, &layout, &spec.settings))
                .map_err(file_error("write", &path))?;
        }
        let nats = match &spec.settings.engine {
            Engine::Embedded => None,
            Engine::Nats { program } => Some(NatsServers::create(program, &layout, &Entropy::from_os())?),
        };
        let endpoints = Endpoints {
            urls: nodes.iter().map(|node| (*node, layout.url(*node))).collect(),
            metrics: nodes
                .iter()
                .filter(|node| !matches!(node, Node::Nats(_)))
                .map(|node| (*node, layout.metrics_listen(*node)))
                .collect(),
            log_admin: layout.log_admin_url(),
            workers: spec.workers,
            security: spec.settings.client_security()?,
        };
        Ok(LocalCluster {
            spec,
            layout,
            endpoints,
            processes: BTreeMap::new(),
            store_server: None,
            nats,
            _ports: ports,
        })
    }

    /// Creates a cluster, initialises it and starts all nodes.
    ///
    /// # Errors
    /// When a step fails; nothing is left running.
    pub async fn launch(spec: ClusterSpec) -> Result<Self, ClusterError> {
        let mut cluster = Self::create(spec)?;
        cluster.start_store().await?;
        cluster.start_logs().await?;
        cluster.init().await?;
        cluster.start_rest().await?;
        Ok(cluster)
    }

    /// Starts what keeps the logs, and waits until logs can be created there.
    ///
    /// # Errors
    /// As for [`LocalCluster::start`], and when NATS servers do not work together in time.
    pub async fn start_logs(&mut self) -> Result<(), ClusterError> {
        for node in self.spec.settings.engine.nodes() {
            self.start(node).await?;
        }
        self.until_logs_serve().await
    }

    /// Starts all nodes that do not run, one after the other.
    ///
    /// # Errors
    /// As for [`LocalCluster::start`].
    pub async fn start_rest(&mut self) -> Result<(), ClusterError> {
        for node in self.nodes() {
            if !self.is_running(node) {
                self.start(node).await?;
            }
        }
        Ok(())
    }

    /// Starts the server of the store, where the cluster has one, and waits until it listens.
    ///
    /// # Errors
    /// When it ends, or does not listen in time; it is not left running then.
    pub async fn start_store(&mut self) -> Result<(), ClusterError> {
        if let Some(command) = self.store_command() {
            let log = self.layout.store_log();
            let server = NodeProcess::spawn_ready("the store's server", command, &log, STORE).await?;
            self.store_server = Some(server);
        }
        Ok(())
    }

    /// Runs `cluster init`; log and store must be running.
    ///
    /// # Errors
    /// When the command fails; the error says what it said.
    pub async fn init(&self) -> Result<(), ClusterError> {
        let partitions = self.spec.partitions.to_string();
        let store = self.store();
        let logs = log_arguments(&self.spec.settings.engine, &self.layout);
        let options = store.options.iter().map(|(key, value)| format!("{key}={value}"));
        let options: Vec<String> = options.collect();
        let arguments = [
            "cluster",
            "init",
            "--name",
            &self.spec.name,
            "--partitions",
            &partitions,
        ];
        let mut arguments = [&arguments[..], &["--store", &store.url]].concat();
        arguments.extend(logs.iter().map(String::as_str));
        for option in &options {
            arguments.extend(["--store-option", option]);
        }
        self.run(&arguments, INIT_WITHIN).await.map(drop)
    }

    /// Runs a command of the binary to its end and returns what it printed on its standard output. It asks this cluster's
    /// admin, unless it is told another.
    ///
    /// # Errors
    /// When it cannot be run, does not end in time or fails; the error has its whole output.
    pub async fn run(&self, arguments: &[&str], within: Duration) -> Result<String, ClusterError> {
        let line = format!("tidemark {}", arguments.join(" "));
        let mut command = self.command();
        command.env("TIDEMARK_ADMIN", self.layout.url(Node::Admin));
        if let Some(credentials) = &self.spec.settings.credentials {
            command.envs(credentials.environment());
        }
        let mut command = tokio::process::Command::from(command);
        command
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(within, command.output()).await;
        let Ok(output) = output else {
            return Err(ClusterError::Timeout {
                what: line,
                within,
                seen: "still running".to_owned(),
            });
        };
        let output = output.map_err(process_error("run", &line))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let said = format!("{}{printed}", String::from_utf8_lossy(&output.stderr));
        Err(ClusterError::Command {
            command: line,
            status: output.status,
            output: said.trim().to_owned(),
        })
    }

    /// Starts a node and waits until it serves.
    ///
    /// # Errors
    /// When it runs already, ends, or does not serve in time; it is not left running then.
    pub async fn start(&mut self, node: Node) -> Result<(), ClusterError> {
        if self.is_running(node) {
            return Err(ClusterError::WrongState {
                node,
                state: "running",
            });
        }
        let (command, manner) = match (node, &self.nats) {
            (Node::Nats(_), Some(servers)) => (servers.command(&self.layout, node), NATS_SERVER),
            _ => {
                let mut command = self.command();
                command
                    .args(role(node))
                    .arg("--config")
                    .arg(self.layout.config(node))
                    .arg("--exit-on-stdin-close");
                (command, NODE)
            }
        };
        let log = self.layout.log(node);
        let process = NodeProcess::spawn_ready(&node.to_string(), command, &log, manner).await?;
        self.processes.insert(node, process);
        Ok(())
    }

    /// Ends a node with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: Node) -> Result<(), ClusterError> {
        let mut process = self.take(node)?;
        process
            .kill()
            .map(drop)
            .map_err(process_error("kill", &node.to_string()))
    }

    /// Ends a node with SIGTERM and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run, or does not end in time; it is killed then.
    pub async fn stop(&mut self, node: Node) -> Result<(), ClusterError> {
        let mut process = self.take(node)?;
        let name = node.to_string();
        process.terminate().map_err(process_error("stop", &name))?;
        wait_for(&format!("{node} to end after SIGTERM"), STOP_WITHIN, async || {
            let ended = process.ended().map_err(|error| error.to_string())?;
            ended.map(drop).ok_or_else(|| "still running".to_owned())
        })
        .await
    }

    /// Removes everything a node has stored; it must not run.
    ///
    /// # Errors
    /// When it runs, or the folder cannot be removed.
    pub fn wipe(&mut self, node: Node) -> Result<(), ClusterError> {
        if self.is_running(node) {
            return Err(ClusterError::WrongState {
                node,
                state: "running",
            });
        }
        let path = self.layout.data_dir(node);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Ends all nodes: politely, all at once, then by force.
    pub async fn shutdown(&mut self) {
        // Workers and admin first, so that none complains about a log that has gone.
        for log_too in [false, true] {
            let mut ending: Vec<NodeProcess> = Vec::new();
            for node in self.nodes() {
                if node.keeps_logs() == log_too
                    && let Some(process) = self.processes.remove(&node)
                {
                    ending.push(process);
                }
            }
            ending.retain(|process| process.terminate().is_ok());
            let gone = wait_for("all nodes to end", STOP_WITHIN, async || {
                ending.retain_mut(|process| !matches!(process.ended(), Ok(Some(_)) | Err(_)));
                if ending.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{} left", ending.len()))
                }
            });
            // Whatever is left is killed by dropping it.
            let _ = gone.await;
        }
        // Nobody asks it any more, and what it has answered is in its files.
        self.store_server = None;
    }

    /// Ends all nodes, and the store's server, with SIGKILL.
    pub fn kill_all(&mut self) {
        self.processes.clear();
        self.store_server = None;
    }

    /// Returns whether the process of a node runs.
    pub fn is_running(&mut self, node: Node) -> bool {
        self.processes
            .get_mut(&node)
            .is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Returns the id of a node's process.
    pub fn process_id(&self, node: Node) -> Option<u32> {
        self.processes.get(&node).map(NodeProcess::id)
    }

    /// Returns all nodes, in the order in which they are started.
    pub fn nodes(&self) -> Vec<Node> {
        Node::all(self.spec.workers, &self.spec.settings)
    }

    /// Returns where the nodes are reached.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns what the cluster was made from.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// Returns the configuration file of a node.
    pub fn config_path(&self, node: Node) -> PathBuf {
        self.layout.config(node)
    }

    /// Returns the data folder of a node.
    pub fn data_dir(&self, node: Node) -> PathBuf {
        self.layout.data_dir(node)
    }

    /// Returns the file with the output of a node.
    pub fn log_path(&self, node: Node) -> PathBuf {
        self.layout.log(node)
    }

    /// Returns the last lines of a node's output.
    pub fn log_tail(&self, node: Node) -> String {
        last_lines(&self.layout.log(node), LOG_LINES)
    }

    /// Returns the last lines of what the store's server said; `None` where there is none.
    pub fn store_log_tail(&self) -> Option<String> {
        self.store_command()
            .map(|_| last_lines(&self.layout.store_log(), LOG_LINES))
    }

    /// Returns the folder of the object store. Where the store is not a folder, a server of the cluster has its buckets there,
    /// or there is no such folder.
    pub fn bucket_dir(&self) -> PathBuf {
        self.layout.bucket()
    }

    /// Returns how the object store is reached.
    pub fn store(&self) -> &StorePlace {
        &self.layout.store
    }

    /// Returns the URL of the object store.
    pub fn store_url(&self) -> String {
        self.store().url.clone()
    }

    /// Returns the command lines that start this cluster again, in order, each to be run in the background.
    pub fn start_commands(&self) -> Vec<String> {
        let server = self.store_command().map(|command| {
            let words: Vec<_> = [command.get_program()]
                .into_iter()
                .chain(command.get_args())
                .collect();
            let words = words.join(std::ffi::OsStr::new(" "));
            // It ends with its standard input, which a job in the background does not have.
            format!("tail -f /dev/null | {}", words.display())
        });
        let command = |node: Node| match (node, &self.nats) {
            (Node::Nats(_), Some(servers)) => servers.line(&self.layout, node),
            _ => format!(
                "{} {} --config {}",
                self.spec.binary.display(),
                role(node).join(" "),
                self.config_path(node).display()
            ),
        };
        server
            .into_iter()
            .chain(self.nodes().into_iter().map(command))
            .collect()
    }

    fn take(&mut self, node: Node) -> Result<NodeProcess, ClusterError> {
        self.processes.remove(&node).ok_or(ClusterError::WrongState {
            node,
            state: "not running",
        })
    }

    /// What serves the store; `None` when nothing has to be started for it.
    fn store_command(&self) -> Option<Command> {
        let (bucket, address) = (self.layout.bucket(), self.layout.store_listen());
        self.spec.store.server(&bucket, &address)
    }

    /// The binary, without settings from the environment that would change what the configuration files say.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.spec.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMARK") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Returns the command of the binary that serves as `node`.
fn role(node: Node) -> &'static [&'static str] {
    match node {
        Node::Log => &["log", "serve"],
        Node::Admin | Node::SecondAdmin => &["admin"],
        Node::Worker(_) => &["worker"],
        // Another program serves as that.
        Node::Nats(_) => &[],
    }
}

fn make_folder(path: &Path) -> Result<(), ClusterError> {
    std::fs::create_dir_all(path).map_err(file_error("create", path))
}
