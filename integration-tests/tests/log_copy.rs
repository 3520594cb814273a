//! A cluster with data moves from its log server to three NATS servers. `log copy` is killed half-way, goes on, and afterwards
//! LSNs, chain hashes, digests and snapshots are what they were, while the old log refuses everything.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use integration_tests::{
    TestCluster, binary,
    on_nats::{login, reconfigure, settled_on},
    replicas::{content, settled},
};
use partition_log::{
    AppendError, Log, LogAdmin, LogError, LogInfo,
    conformance::{NatsServers, NatsUser},
    remote::{RemoteLog, RemoteLogAdmin},
};
use serde_json::Value;
use snapshot_store::{Lsn, PartitionId};
use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tidemark::{
    cluster::{ClusterError, Node, Settings, wait_for},
    kv::KvClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PARTITIONS: u32 = 2;
const WORKERS: u32 = 2;
const WITHIN: Duration = Duration::from_secs(90);
/// Writes at a time.
const AT_ONCE: usize = 50;
/// Of what the log server sends, so much reaches the first copy: more than one item of a read stream, less than all.
const GATE_BYTES: u64 = 5 << 19;

fn settings() -> Settings {
    Settings {
        snapshot_after_records: 60,
        lag_records_max: 40,
        ..Settings::default()
    }
}

async fn write(client: &KvClient, prefix: &str, count: usize, bytes: usize) -> anyhow::Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(AT_ONCE) {
        let puts = some.iter().map(|number| {
            let value = format!("{prefix} {number} {}", "x".repeat(bytes));
            client.put(format!("{prefix}-{number}"), value)
        });
        try_join_all(puts).await?;
    }
    Ok(())
}

async fn write_until_trimmed(cluster: &TestCluster, client: &KvClient) -> anyhow::Result<()> {
    wait_for("every log to be trimmed", WITHIN, async || {
        let written = write(client, "kept", 100, 10).await;
        written.map_err(|error| format!("{error:#}"))?;
        let status = cluster.endpoints().cluster_status().await;
        let status = status.map_err(|error| error.to_string())?;
        let trimmed = status.partitions.iter().filter(|view| view.trim_point > Some(0));
        match trimmed.count() {
            count if count == PARTITIONS as usize => Ok(()),
            count => Err(format!("{count} trimmed")),
        }
    })
    .await?;
    Ok(())
}

/// Runs a command to its end; its answer, whether or not it went well.
async fn json(cluster: &TestCluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let arguments = [arguments, &["--output", "json"]].concat();
    Ok(serde_json::from_str(&cluster.run(&arguments, WITHIN).await?)?)
}

/// What is to be refused, and has to say why.
async fn refused(cluster: &TestCluster, arguments: &[&str], why: &str) -> anyhow::Result<()> {
    match cluster.run(arguments, WITHIN).await {
        Err(ClusterError::Command { output, .. }) if output.contains(why) => Ok(()),
        other => anyhow::bail!("{arguments:?}: {other:?}"),
    }
}

/// Passes everything on to the log server, and back from it until `GATE_BYTES` went through.
async fn gate(upstream: &str) -> anyhow::Result<(String, Arc<AtomicU64>)> {
    let upstream: SocketAddr = upstream.trim_start_matches("http://").parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let passed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&passed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(upstream).await else {
                return;
            };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if counter.fetch_add(read as u64, Ordering::Relaxed) > GATE_BYTES {
                        std::future::pending::<()>().await;
                    }
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((format!("http://{address}"), passed))
}

/// Starts `log copy` through the gate, and kills it when nothing comes through any more.
async fn kill_half_way(from: &str, to: &[&str]) -> anyhow::Result<()> {
    let (gate, passed) = gate(from).await?;
    let mut process = std::process::Command::new(binary()?)
        .args(["log", "copy", "--from", &gate])
        .args(to)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let stuck = wait_for("the copy to be half-way", WITHIN, async || {
        match passed.load(Ordering::Relaxed) {
            bytes if bytes > GATE_BYTES => Ok(()),
            bytes => Err(format!("{bytes} bytes")),
        }
    });
    let stuck = stuck.await;
    process.kill()?;
    process.wait()?;
    Ok(stuck?)
}

/// The old log refuses everything, and says where to go.
async fn check_left(from: &str, infos: &[LogInfo], to: &str) -> anyhow::Result<()> {
    let (log, admin) = (
        RemoteLog::connect_lazy(from)?,
        RemoteLogAdmin::connect_lazy(from)?,
    );
    for (partition, info) in (0..).map(PartitionId::new).zip(infos) {
        let moved = |error: &LogError| matches!(error, LogError::Moved { to: found, .. } if found == to);
        let appended = log
            .append(partition, info.incarnation, vec!["late".into()], Some(info.tail))
            .await;
        ensure!(
            matches!(&appended, Err(AppendError::Log(error)) if moved(error)),
            "{appended:?}"
        );
        let trimmed = admin.trim(partition, info.incarnation, info.tail).await;
        ensure!(matches!(&trimmed, Err(error) if moved(error)), "{trimmed:?}");
        let found = log.info(partition).await;
        ensure!(matches!(&found, Err(error) if moved(error)), "{found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_data_moves_to_nats_and_is_what_it_was() -> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let (cluster, servers) = tokio::join!(
        TestCluster::launch(base, "log-copy", WORKERS, PARTITIONS, settings()),
        NatsServers::start(3)
    );
    let mut cluster = cluster?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    write_until_trimmed(&cluster, &client).await?;
    // From here on nothing is trimmed any more: what follows has to be copied.
    cluster.run(&["pause", "--reason", "moving"], WITHIN).await?;
    write(&client, "large", 800, 4 << 10).await?;
    // Without an admin nobody is made leader, and nothing is appended by itself.
    cluster.stop(Node::Admin).await?;
    let before = settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;

    let folder = cluster.spec().dir.clone();
    let (admin_login, worker_login) = (
        login(&servers, NatsUser::Admin, &folder)?,
        login(&servers, NatsUser::Worker, &folder)?,
    );
    let from = cluster.endpoints().log_admin_url().to_owned();
    let old = RemoteLog::connect_lazy(&from)?;
    let mut infos = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        infos.push(old.info(partition).await?);
    }
    ensure!(infos.iter().all(|info| info.trim_point > Lsn::ZERO), "{infos:?}");
    let urls: Vec<String> = (0..servers.count()).map(|index| servers.url(index)).collect();
    let (to, admin_login_text) = (urls.join(","), admin_login.display().to_string());
    let target = ["--to", &to, "--nats-login", &admin_login_text];

    kill_half_way(&from, &target).await?;
    let state = json(&cluster, &["log", "info", "--log", &from]).await?;
    for partition in state["partitions"].as_array().context("partitions")? {
        ensure!(partition["passage"]["leaving"]["to"] == to, "{partition}");
    }
    let written = tokio::time::timeout(Duration::from_secs(20), client.put("refused", "x")).await;
    ensure!(!matches!(written, Ok(Ok(_))), "a sealed log took a record");

    let copied = json(
        &cluster,
        &[&["log", "copy", "--from", &from], &target[..]].concat(),
    )
    .await?;
    for (partition, info) in copied["partitions"]
        .as_array()
        .context("partitions")?
        .iter()
        .zip(&infos)
    {
        ensure!(
            partition["trim_point"] == info.trim_point.get(),
            "{partition}, {info:?}"
        );
        ensure!(partition["tail"] == info.tail.get(), "{partition}, {info:?}");
        let records = info.tail.get() - 1 - info.trim_point.get();
        ensure!(partition["records"] == records && records >= 300, "{partition}");
    }
    check_left(&from, &infos, &to).await?;
    let again = json(
        &cluster,
        &[&["log", "copy", "--from", &from], &target[..]].concat(),
    )
    .await?;
    ensure!(again["ok"] == true, "{again}");
    let unseal = [&["log", "copy", "--from", &from], &target[..], &["--unseal"]].concat();
    refused(&cluster, &unseal, "cannot be taken back").await?;

    // A node that was not told of the new place says so and does not start.
    cluster.stop(Node::Worker(1)).await?;
    let start = cluster.start(Node::Worker(1)).await;
    ensure!(
        start.is_err() && cluster.log_tail(Node::Worker(1)).contains(&to),
        "{start:?}"
    );
    cluster.stop(Node::Worker(2)).await?;
    cluster.stop(Node::Log).await?;
    for worker in 1..=WORKERS {
        reconfigure(
            &cluster.config_path(Node::Worker(worker)),
            &servers,
            &worker_login,
        )?;
    }
    reconfigure(&cluster.config_path(Node::Admin), &servers, &admin_login)?;
    for worker in 1..=WORKERS {
        cluster.start(Node::Worker(worker)).await?;
    }
    let log = servers.connect(NatsUser::Admin).await;
    ensure!(
        settled_on(&log, cluster.endpoints(), PARTITIONS, WITHIN).await? == before,
        "a replica is not what it was"
    );

    cluster.start(Node::Admin).await?;
    cluster.until_healthy(WITHIN).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    write(&client, "after", 60, 10).await?;
    // The snapshots of before are valid: a new replica comes from them.
    cluster.stop(Node::Worker(1)).await?;
    cluster.wipe(Node::Worker(1))?;
    cluster.start(Node::Worker(1)).await?;
    settled_on(&log, cluster.endpoints(), PARTITIONS, WITHIN).await?;
    let pairs = content(cluster.endpoints(), 1, PARTITIONS).await?;
    for key in ["kept-99", "large-799", "after-59"] {
        ensure!(pairs.contains_key(key.as_bytes()), "{key} is missing");
    }
    cluster.run(&["resume"], WITHIN).await?;
    wait_for("the admin to trim the log on NATS", WITHIN, async || {
        let written = write(&client, "more", 100, 10).await;
        written.map_err(|error| format!("{error:#}"))?;
        for (partition, info) in (0..).map(PartitionId::new).zip(&infos) {
            let now = log.info(partition).await.map_err(|error| error.to_string())?;
            if now.trim_point <= info.tail {
                return Err(format!("{now:?}"));
            }
        }
        Ok(())
    })
    .await?;
    let check = ["log", "check", "--log", &to, "--nats-login", &admin_login_text];
    // A server may be behind for a moment.
    wait_for("nothing to be lacking", WITHIN, async || {
        let checked = json(&cluster, &check).await;
        checked.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await?;
    cluster.finish()
}
