//! The log server's folder is deleted. Nothing begins on an empty log by itself; `log recover` says what is lost, is killed
//! half-way, goes on under the same ids, and the cluster lives on from its newest verified snapshots.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster, binary,
    bucket::check_trim_point,
    replicas::{content, digests, log_info, settled},
};
use serde_json::Value;
use snapshot_proto::v1::{PartitionState, WorkerStatus};
use snapshot_store::{
    PartitionId, Repository, Seams,
    format::{Manifest, Pointer},
};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};
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
const WITHIN: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    Settings {
        snapshot_after_records: 60,
        lag_records_max: 40,
        ..Settings::default()
    }
}

async fn write(client: &KvClient, prefix: &str, count: u32) -> anyhow::Result<()> {
    for number in 0..count {
        client
            .put(format!("{prefix}-{number}"), format!("{prefix} {number}"))
            .await?;
    }
    Ok(())
}

/// Writes, a snapshot's worth after the other, until every log was trimmed.
async fn write_until_trimmed(cluster: &TestCluster, client: &KvClient) -> anyhow::Result<()> {
    wait_for("every log to be trimmed", WITHIN, async || {
        write(client, "kept", 70)
            .await
            .map_err(|error| format!("{error:#}"))?;
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

/// Reads what the bucket says: the pointer of each partition.
async fn pointers(cluster: &TestCluster) -> anyhow::Result<Vec<Pointer>> {
    let repository = Repository::open(&cluster.store_url(), Seams::real())?;
    let mut pointers = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let found = repository.pointer(partition).await?;
        pointers.push(found.context("a pointer")?.value);
    }
    Ok(pointers)
}

async fn manifests(cluster: &TestCluster) -> anyhow::Result<Vec<Manifest>> {
    let repository = Repository::open(&cluster.store_url(), Seams::real())?;
    let mut manifests = Vec::new();
    for pointer in pointers(cluster).await? {
        let latest = repository.manifest(pointer.partition, &pointer.snapshots[0]);
        manifests.push(latest.await?);
    }
    Ok(manifests)
}

fn generation(pointer: &Pointer) -> u64 {
    pointer.snapshots[0].incarnation.generation
}

/// Every object of the partitions, with its bytes.
fn objects(cluster: &TestCluster) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<_> = (0..PARTITIONS)
        .map(|partition| cluster.bucket_dir().join(partition.to_string()))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path)?;
                found.insert(path, bytes);
            }
        }
    }
    Ok(found)
}

fn arguments(cluster: &TestCluster, log_admin: &str, more: &[&str]) -> Vec<String> {
    let store = cluster.store_url();
    let place = [
        "log",
        "recover",
        "--store",
        &store,
        "--log-admin",
        log_admin,
        "--output",
        "json",
    ];
    let mut arguments: Vec<String> = place.map(str::to_owned).into();
    arguments.extend(more.iter().map(|&one| one.to_owned()));
    for worker in cluster.endpoints().worker_urls() {
        arguments.extend(["--worker".to_owned(), worker]);
    }
    arguments
}

/// Runs `log recover` to its end; a failure is its output.
async fn recover(cluster: &TestCluster, more: &[&str]) -> anyhow::Result<Value> {
    let arguments = arguments(cluster, cluster.endpoints().log_admin_url(), more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(serde_json::from_str(&cluster.run(&arguments, WITHIN).await?)?)
}

async fn until_blocked(cluster: &TestCluster, worker: u32) -> anyhow::Result<WorkerStatus> {
    let what = format!("worker {worker} to be blocked without a log, and to say what it has");
    let status = wait_for(&what, WITHIN, async || {
        let status = cluster.endpoints().worker_status(worker).await;
        let status = status.map_err(|error| error.to_string())?;
        let blocked = |replica: &&snapshot_proto::v1::ReplicaStatus| {
            replica.state() == PartitionState::Blocked
                && replica.blocked_reason == "log-missing"
                && replica.applied_lsn.is_some()
        };
        match status.partitions.iter().filter(blocked).count() {
            count if count == PARTITIONS as usize => Ok(status),
            _ => Err(format!("{:?}", status.partitions)),
        }
    });
    Ok(status.await?)
}

/// Waits until every replica reads the log of `generation`. A replica that was killed with its newest records only in
/// memory may stand exactly where the new log begins, long before it has heard of it.
async fn until_in_generation(cluster: &TestCluster, generation: u64) -> anyhow::Result<()> {
    for worker in 1..=WORKERS {
        let what = format!("worker {worker} to read the logs of generation {generation}");
        wait_for(&what, WITHIN, async || {
            let status = cluster.endpoints().worker_status(worker).await;
            let status = status.map_err(|error| error.to_string())?;
            let there = |replica: &&snapshot_proto::v1::ReplicaStatus| {
                let reads = replica
                    .incarnation
                    .as_ref()
                    .map(|incarnation| incarnation.generation);
                replica.state() == PartitionState::Active && reads == Some(generation)
            };
            match status.partitions.iter().filter(there).count() {
                count if count == PARTITIONS as usize => Ok(()),
                _ => Err(format!("{:?}", status.partitions)),
            }
        })
        .await?;
    }
    Ok(())
}

/// Passes everything on to the log until `latest.json` of the first partition is of the next generation, and nothing more
/// after that: what was published then waits for a log that is not created.
async fn until_published(cluster: &TestCluster) -> anyhow::Result<String> {
    let upstream: SocketAddr = cluster
        .endpoints()
        .log_admin_url()
        .trim_start_matches("http://")
        .parse()?;
    let (bucket, listener) = (cluster.bucket_dir(), TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    let published = move || {
        (0..PARTITIONS).any(|partition| {
            let pointer = std::fs::read(bucket.join(format!("{partition}/latest.json"))).unwrap_or_default();
            let pointer: Value = serde_json::from_slice(&pointer).unwrap_or_default();
            pointer["snapshots"][0]["incarnation"]["generation"] == 2
        })
    };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let published = published.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(upstream).await else {
                    return;
                };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    if published() {
                        std::future::pending::<()>().await;
                    }
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(format!("http://{address}"))
}

/// Runs `log recover`, and kills it when all snapshots are published and no log can be created.
async fn kill_half_way(cluster: &TestCluster) -> anyhow::Result<()> {
    let gate = until_published(cluster).await?;
    let mut process = std::process::Command::new(binary()?)
        .args(arguments(cluster, &gate, &["--yes"]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let published = wait_for("every copy to be published", WITHIN, async || {
        let pointers = pointers(cluster).await.map_err(|error| format!("{error:#}"))?;
        match pointers.iter().map(generation).collect::<Vec<_>>() {
            generations if generations.iter().all(|generation| *generation == 2) => Ok(()),
            generations => Err(format!("{generations:?}")),
        }
    });
    let published = published.await;
    process.kill()?;
    process.wait()?;
    published?;
    for partition in 0..PARTITIONS {
        ensure!(
            log_info(cluster.endpoints(), partition).await.is_err(),
            "a log was created"
        );
    }
    Ok(())
}

/// Asks for what must be refused without a log, and gives the nodes time to do something wrong.
async fn nothing_begins_by_itself(cluster: &TestCluster) -> anyhow::Result<()> {
    let before = objects(cluster)?;
    let (store, log) = (
        cluster.store_url(),
        cluster.endpoints().log_admin_url().to_owned(),
    );
    let (name, partitions) = (cluster.spec().name.clone(), PARTITIONS.to_string());
    let init = ["cluster", "init", "--name", &name, "--partitions", &partitions];
    let init = [&init[..], &["--store", &store, "--log-admin", &log]].concat();
    match cluster.run(&init, WITHIN).await {
        Err(ClusterError::Command { output, .. }) => {
            ensure!(output.contains("tidemark log recover"), "{output}");
        }
        other => anyhow::bail!("an empty log was created beside snapshots: {other:?}"),
    }
    wait_for("the admin to hold for want of a log", WITHIN, async || {
        let status = cluster.endpoints().cluster_status().await;
        let status = status.map_err(|error| error.to_string())?;
        let codes: Vec<_> = status
            .partitions
            .iter()
            .filter_map(|view| Some(view.trim.as_ref()?.code.clone()))
            .collect();
        match codes.iter().filter(|code| *code == "log-unavailable").count() {
            count if count == PARTITIONS as usize => Ok(()),
            _ => Err(format!("{codes:?}")),
        }
    })
    .await?;
    for partition in 0..PARTITIONS {
        ensure!(
            log_info(cluster.endpoints(), partition).await.is_err(),
            "a log was created"
        );
    }
    ensure!(objects(cluster)? == before, "the bucket changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_recovered_from_the_newest_verified_snapshots() -> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "recover", WORKERS, PARTITIONS, settings()).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    write_until_trimmed(&cluster, &client).await?;
    // From here on nothing is snapshotted any more: what follows is in the log alone.
    cluster.run(&["pause", "--reason", "test"], WITHIN).await?;
    write(&client, "lost", 40).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    cluster.kill(Node::Log)?;
    cluster.wipe(Node::Log)?;
    cluster.start(Node::Log).await?;
    cluster.run(&["resume"], WITHIN).await?;

    // One worker is restarted meanwhile, and still says what it has.
    cluster.kill(Node::Worker(1))?;
    cluster.start(Node::Worker(1)).await?;
    let mut reached = BTreeMap::new();
    for worker in 1..=WORKERS {
        for replica in until_blocked(&cluster, worker).await?.partitions {
            reached.insert(replica.partition, replica.applied_lsn);
        }
    }
    nothing_begins_by_itself(&cluster).await?;

    let before = pointers(&cluster).await?;
    let untouched = objects(&cluster)?;
    let plan = recover(&cluster, &["--dry-run"]).await?;
    for (partition, pointer) in (0u32..).zip(&before) {
        let planned = &plan["partitions"][partition as usize];
        let (kept, lost) = (pointer.snapshots[0].lsn.get(), &planned["lost"]);
        ensure!(
            planned["step"] == "fork" && planned["kept_lsn"] == kept,
            "{planned}"
        );
        ensure!(
            lost["from"] == kept + 1 && planned["generation"] == 2,
            "{planned}"
        );
        ensure!(
            lost["seen_to"].as_u64() == reached[&partition],
            "{planned}, {reached:?}"
        );
    }
    ensure!(objects(&cluster)? == untouched, "a dry run changed the bucket");

    // Without an admin nobody leads, so that the replicas can be compared with the snapshots.
    cluster.stop(Node::Admin).await?;
    kill_half_way(&cluster).await?;
    let published = pointers(&cluster).await?;
    let report = recover(&cluster, &["--yes"]).await?;
    ensure!(
        pointers(&cluster).await? == published,
        "the rerun published again"
    );
    for (planned, pointer) in report["partitions"]
        .as_array()
        .context("partitions")?
        .iter()
        .zip(&published)
    {
        let latest = &pointer.snapshots[0];
        ensure!(
            planned["step"] == "provision" && planned["outcome"] == "recovered",
            "{planned}"
        );
        ensure!(
            planned["incarnation"]["id"] == latest.incarnation.id.to_string(),
            "{planned}"
        );
        ensure!(planned["first_lsn"] == latest.lsn.get() + 1, "{planned}");
    }

    until_in_generation(&cluster, 2).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    let recovered = manifests(&cluster).await?;
    for (partition, manifest) in (0..).zip(&recovered) {
        let digest = manifest.state_digest.context("a digest")?;
        let hash = manifest.chain_hash().context("a chain")?;
        for reply in digests(cluster.endpoints(), partition).await? {
            ensure!(reply.lsn == manifest.lsn.get(), "{reply:?}");
            ensure!(reply.digest[..] == digest.as_bytes()[..], "{reply:?}");
            ensure!(reply.chain_hash[..] == hash.as_bytes()[..], "{reply:?}");
        }
        for worker in 1..=WORKERS {
            let folder = cluster
                .data_dir(Node::Worker(worker))
                .join(format!("partitions/{partition}"));
            let aside = std::fs::read_dir(folder)?.filter_map(Result::ok);
            let aside = aside.filter(|entry| entry.file_name().to_string_lossy().starts_with("set-aside-1-"));
            ensure!(aside.count() == 1, "the state of the lost log is kept aside");
        }
    }

    cluster.start(Node::Admin).await?;
    cluster.until_healthy(WITHIN).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    write(&client, "after", 400).await?;
    for (partition, manifest) in (0..).zip(&recovered) {
        let what = format!(
            "the log of partition {partition} to be trimmed above {}",
            manifest.lsn
        );
        let trim_point = wait_for(&what, WITHIN, async || {
            // One snapshot more each time: the copy is among the restorable ones until two of the new life exist.
            write(&client, "after", 70)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let info = log_info(cluster.endpoints(), partition).await;
            let info = info.map_err(|error| error.to_string())?;
            (info.trim_point > manifest.lsn.get())
                .then_some(info.trim_point)
                .ok_or_else(|| format!("{info:?}"))
        })
        .await?;
        let bucket = cluster.bucket_dir();
        wait_for("the bucket to be read", WITHIN, async || {
            check_trim_point(&bucket, partition, trim_point).map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    // A replica that comes late finds snapshots of the new life alone.
    cluster.stop(Node::Worker(1)).await?;
    cluster.wipe(Node::Worker(1))?;
    cluster.start(Node::Worker(1)).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    let pairs = content(cluster.endpoints(), 1, PARTITIONS).await?;
    ensure!(pairs.contains_key(&b"after-399"[..]), "the last write is there");

    let nothing = recover(&cluster, &["--yes"]).await?;
    ensure!(nothing["partitions"][0]["outcome"] == "kept", "{nothing}");
    let verify = ["snapshots", "verify", "--store", &cluster.store_url()];
    cluster.run(&verify, WITHIN).await?;
    cluster.finish()
}
