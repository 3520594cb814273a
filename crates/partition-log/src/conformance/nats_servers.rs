//! NATS servers for tests: real ones, on loopback, with the configuration of `examples/nats`.
//!
//! The program is the one that `scripts/nats-server.sh` installs: the environment says where (`TIDEMARK_NATS_SERVER`), or it
//! is in the cache. A test that needs one fails where it is missing.

use crate::nats::{NatsCredentials, NatsLog, NatsOptions, NatsTls};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long servers may take until they work together. Electing a leader takes them 5 to 10 s; where other programs leave them
/// a few hundredths of the processors, no election may succeed within a minute.
const READY_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// How long they may take to say that they have a leader: before that, they drop what they are asked, and say nothing.
const QUESTION_MAX: Duration = Duration::from_secs(1);
/// How long they may take to make a stream, or to delete one.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// Below the ports that systems give to outgoing connections, and apart from those that local clusters of tests take.
const PORTS: std::ops::Range<u16> = 10_000..17_000;

const SERVER_CONF: &str = include_str!("../../../../examples/nats/server.conf");
const USERS_CONF: &str = include_str!("../../../../examples/nats/users.conf");

/// The users of `examples/nats/users.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatsUser {
    /// May do everything.
    Admin,
    /// May append and read.
    Worker,
}

struct Node {
    client_port: Port,
    cluster_port: Port,
    child: Option<Child>,
}

/// One server, or three that work together; killed when dropped, and their folder removed. Panics where something does
/// not work: it is for tests.
pub struct NatsServers {
    program: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
    passwords: [String; 2],
    tls: NatsTls,
}

impl NatsServers {
    /// Starts `count` servers, and waits until they take streams with as many replicas.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, "", NatsTls::default()).await
    }

    /// Does the same with more lines of configuration, and with what clients then need for TLS.
    pub async fn start_with(count: usize, lines: &str, tls: NatsTls) -> Self {
        let folder = std::env::temp_dir().join(format!("tidemark-nats-{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let conf = match count {
            // A server alone must not wait for others.
            1 => without_cluster(SERVER_CONF),
            _ => SERVER_CONF.to_owned(),
        };
        fs::write(folder.join("server.conf"), format!("{conf}\n{lines}\n"))
            .expect("the configuration is written");
        fs::write(folder.join("users.conf"), USERS_CONF).expect("the configuration is written");
        let node = |_| Node {
            client_port: Port::take(),
            cluster_port: Port::take(),
            child: None,
        };
        let mut servers = NatsServers {
            program: nats_server_program(),
            folder,
            nodes: (0..count).map(node).collect(),
            passwords: [(); 2].map(|()| format!("{:032x}", rand::random::<u128>())),
            tls,
        };
        for index in 0..count {
            servers.start_again(index);
        }
        servers.until_ready().await;
        servers
    }

    /// Returns how many there are, running or not.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the address of a server.
    pub fn url(&self, index: usize) -> String {
        format!("nats://127.0.0.1:{}", self.nodes[index].client_port.number)
    }

    /// Returns the name of a server, as the servers themselves use it.
    pub fn name(&self, index: usize) -> String {
        format!("log-{}", index + 1)
    }

    /// Returns options to connect with; as many replicas as there are servers.
    pub fn options(&self, user: NatsUser) -> NatsOptions {
        let (user, password) = match user {
            NatsUser::Admin => ("admin", &self.passwords[0]),
            NatsUser::Worker => ("worker", &self.passwords[1]),
        };
        NatsOptions {
            servers: (0..self.count()).map(|index| self.url(index)).collect(),
            replicas: u8::try_from(self.count()).expect("a few servers"),
            credentials: NatsCredentials::Password {
                user: user.to_owned(),
                password: password.clone(),
            },
            tls: self.tls.clone(),
            ..NatsOptions::default()
        }
    }

    /// Connects to them, in any order.
    pub async fn connect(&self, user: NatsUser) -> NatsLog {
        NatsLog::connect(self.options(user))
            .await
            .expect("the options are good")
    }

    /// Kills a server, as `kill -9` does. Does nothing when it does not run.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            child.kill().expect("a server is killed");
            child.wait().expect("a killed server ends");
        }
    }

    /// Starts a server over what it has on disk. Does not wait until it works.
    pub fn start_again(&mut self, index: usize) {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output(index))
            .expect("the output file");
        let routes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("\"nats://127.0.0.1:{}\"", node.cluster_port.number))
            .collect();
        let node = &self.nodes[index];
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(self.folder.join("server.conf"))
            .env("NATS_NAME", self.name(index))
            .env(
                "NATS_LISTEN",
                format!("\"127.0.0.1:{}\"", node.client_port.number),
            )
            .env(
                "NATS_CLUSTER",
                format!("\"127.0.0.1:{}\"", node.cluster_port.number),
            )
            .env("NATS_ROUTES", format!("[{}]", routes.join(",")))
            .env("NATS_DATA", format!("\"{}\"", self.data(index).display()))
            .env("NATS_ADMIN", format!("\"{}\"", self.passwords[0]))
            .env("NATS_WORKER", format!("\"{}\"", self.passwords[1]))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the output file"))
            .stderr(output)
            .spawn()
            .expect("the NATS server can be started");
        self.nodes[index].child = Some(child);
    }

    /// Returns the folder of a server's logs.
    pub fn data(&self, index: usize) -> PathBuf {
        self.folder.join(self.name(index))
    }

    /// Returns the process of a server that runs.
    pub fn process_id(&self, index: usize) -> Option<u32> {
        self.nodes[index].child.as_ref().map(Child::id)
    }

    fn output(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{}.output", self.name(index)))
    }

    /// Returns the last lines that a server printed, for a test that fails.
    pub fn said(&self, index: usize) -> String {
        let text = fs::read_to_string(self.output(index)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Waits until the servers that run take new streams.
    ///
    /// No step undoes what an earlier one has done, perhaps without an answer in time: on a machine that is busy enough for
    /// that, it would go on for ever.
    pub async fn until_ready(&self) {
        let deadline = tokio::time::Instant::now() + READY_MAX;
        let quick = self.connect_within(QUESTION_MAX).await;
        let patient = self.connect_within(CHANGE_MAX).await;
        // Deleting what is not there costs nothing, and is answered as soon as somebody leads.
        while let Err(error) = quick.delete_probe().await {
            self.wait("have no leader", &error, deadline).await;
        }
        while let Err(error) = patient.create_probe(self.count()).await {
            self.wait("take no stream", &error, deadline).await;
        }
        while let Err(error) = quick.check_probe(self.count()).await {
            self.wait("do not follow each other", &error, deadline).await;
        }
        while let Err(error) = patient.delete_probe().await {
            self.wait("delete no stream", &error, deadline).await;
        }
    }

    async fn connect_within(&self, request_timeout: Duration) -> NatsLog {
        let options = NatsOptions {
            request_timeout,
            ..self.options(NatsUser::Admin)
        };
        NatsLog::connect(options).await.expect("the options are good")
    }

    /// Waits before the next try; panics where there is no time for one.
    async fn wait(&self, fault: &str, error: &str, deadline: tokio::time::Instant) {
        if tokio::time::Instant::now() >= deadline {
            let said: Vec<String> = (0..self.count()).map(|index| self.said(index)).collect();
            panic!(
                "the NATS servers {fault} within {READY_MAX:?}: {error}\n{}",
                said.join("\n---\n")
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        for index in 0..self.count() {
            self.kill(index);
        }
        // Left over at worst.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Returns the program that the servers of tests are started from. Panics where it is missing.
pub fn nats_server_program() -> PathBuf {
    let named = std::env::var_os("TIDEMARK_NATS_SERVER").map(PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let installed = cache.map(|cache| cache.join("tidemark/tools/nats-server/bin/nats-server"));
    let program = named.or(installed).filter(|program| program.exists());
    program.expect("the NATS server is missing: run scripts/nats-server.sh")
}

/// A loopback port that no other servers of tests take while this value lives, also while nothing listens there: servers
/// that are stopped for a while find their ports free.
struct Port {
    number: u16,
    /// Held as long as the port; never deleted, so that all lock the same file.
    _lock: File,
}

impl Port {
    fn take() -> Self {
        let folder = std::env::temp_dir().join("tidemark-nats-ports");
        fs::create_dir_all(&folder).expect("a folder for lock files");
        let mut tries = 0;
        loop {
            let number = rand::random_range(PORTS);
            let lock = File::create(folder.join(number.to_string())).expect("a lock file");
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _lock: lock };
            }
            tries += 1;
            assert!(tries < 1000, "loopback has free ports");
        }
    }
}

/// Takes the block of the cluster out of a configuration.
fn without_cluster(conf: &str) -> String {
    let (before, rest) = conf.split_once("\ncluster {").expect("the file has a cluster");
    let (_, after) = rest.split_once("\n}\n").expect("the block ends");
    format!("{before}\n{after}")
}
