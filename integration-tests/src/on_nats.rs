//! A cluster whose logs are on NATS servers.

use crate::{TestCluster, replicas::settled_by};
use partition_log::{
    Log as _,
    conformance::{NatsServers, NatsUser},
    nats::{NatsCredentials, NatsLog},
};
use snapshot_proto::kv::DigestReply;
use snapshot_store::PartitionId;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::cluster::{Endpoints, Node, Settings};

const WITHIN: Duration = Duration::from_secs(90);

/// Starts a cluster as [`TestCluster::launch`] does, on `servers` and without a log server.
///
/// # Errors
/// When a node does not start.
pub async fn launch(
    servers: &NatsServers,
    base: &str,
    name: &str,
    workers: u32,
    partitions: u32,
    settings: Settings,
) -> anyhow::Result<TestCluster> {
    let mut cluster = TestCluster::prepare(base, name, workers, partitions, settings)?;
    let folder = cluster.spec().dir.clone();
    let admin_login = login(servers, NatsUser::Admin, &folder)?;
    let worker_login = login(servers, NatsUser::Worker, &folder)?;
    for worker in 1..=workers {
        reconfigure(&cluster.config_path(Node::Worker(worker)), servers, &worker_login)?;
    }
    reconfigure(&cluster.config_path(Node::Admin), servers, &admin_login)?;
    let (count, store) = (partitions.to_string(), cluster.store_url());
    let (log, login) = (address(servers), admin_login.to_string_lossy());
    let named = ["cluster", "init", "--name", name, "--partitions", &count];
    let placed = ["--store", &store, "--log-admin", &log, "--nats-login", &login];
    cluster.run(&[&named[..], &placed].concat(), WITHIN).await?;
    start_nodes(&mut cluster).await?;
    cluster.until_healthy(WITHIN).await?;
    Ok(cluster)
}

/// Starts all workers and the admin.
///
/// # Errors
/// When one does not start.
pub async fn start_nodes(cluster: &mut TestCluster) -> anyhow::Result<()> {
    for node in cluster.nodes().into_iter().filter(|node| *node != Node::Log) {
        cluster.start(node).await?;
    }
    Ok(())
}

/// Returns the address of the servers, as commands take it.
pub fn address(servers: &NatsServers) -> String {
    let urls: Vec<String> = (0..servers.count()).map(|index| servers.url(index)).collect();
    urls.join(",")
}

/// Lets a node's configuration name NATS, with the credentials of its role.
///
/// # Errors
/// When the file cannot be read, understood or written.
pub fn reconfigure(path: &Path, servers: &NatsServers, login: &Path) -> anyhow::Result<()> {
    let mut config: toml::Table = std::fs::read_to_string(path)?.parse()?;
    let urls = (0..servers.count()).map(|index| toml::Value::String(servers.url(index)));
    let mut nats = toml::Table::new();
    nats.insert("servers".to_owned(), toml::Value::Array(urls.collect()));
    nats.insert("login".to_owned(), login.display().to_string().into());
    let mut log = toml::Table::new();
    log.insert("engine".to_owned(), "nats".into());
    log.insert("nats".to_owned(), toml::Value::Table(nats));
    config.insert("log".to_owned(), toml::Value::Table(log));
    std::fs::write(path, config.to_string())?;
    Ok(())
}

/// Writes the login of a user to a file in `folder`.
///
/// # Errors
/// When it cannot be written.
pub fn login(servers: &NatsServers, user: NatsUser, folder: &Path) -> anyhow::Result<PathBuf> {
    let NatsCredentials::Password { user, password } = servers.options(user).credentials else {
        anyhow::bail!("the servers of tests have passwords");
    };
    let path = folder.join(format!("{user}.login"));
    std::fs::write(&path, format!("{user}:{password}\n"))?;
    Ok(path)
}

/// Waits until every replica has applied what NATS has, and returns what they are then.
///
/// # Errors
/// When they do not get there in time, or differ.
pub async fn settled_on(
    log: &NatsLog,
    endpoints: &Endpoints,
    partitions: u32,
    within: Duration,
) -> anyhow::Result<BTreeMap<u32, DigestReply>> {
    settled_by(endpoints, partitions, within, async |partition| {
        Ok(log.info(PartitionId::new(partition)).await?.tail.get())
    })
    .await
}
