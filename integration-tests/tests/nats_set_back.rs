//! A log on three NATS servers loses its newest acknowledged records: the data folders of all of them are set back to an
//! earlier copy. The whole partition notices it and stands still, nothing of the old evidence is evicted, and the log put
//! back as it was ends it.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use integration_tests::{
    TestCluster, copy_folder,
    on_nats::{self, settled_on},
    replicas::content,
    scrape,
};
use partition_log::{
    Log as _, LogInfo,
    conformance::{NatsServers, NatsUser},
    nats::NatsLog,
};
use serde_json::Value;
use snapshot_proto::v1::{PartitionState, ReplicaRole};
use snapshot_store::PartitionId;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::{
    cluster::{ClusterError, Node, Settings, wait_for},
    kv::KvClient,
};

const PARTITIONS: u32 = 2;
const WORKERS: u32 = 3;
const WITHIN: Duration = Duration::from_secs(90);
const HELD: &str = "log-regressed";
/// Writes at a time.
const AT_ONCE: usize = 50;
/// So often the admin hears each worker before anybody looks whether something was evicted.
const POLLS: u64 = 10;

async fn write(client: &KvClient, prefix: &str, count: usize) -> anyhow::Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(AT_ONCE) {
        let puts = some
            .iter()
            .map(|number| client.put(format!("{prefix}-{number}"), format!("{prefix} {number}")));
        try_join_all(puts).await?;
    }
    Ok(())
}

/// Asks NATS for all logs. After a start of all servers, each log elects its leader in its own time.
async fn infos(log: &NatsLog) -> anyhow::Result<Vec<LogInfo>> {
    let mut infos = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let info = wait_for("every log to answer", WITHIN, async || {
            log.info(partition).await.map_err(|error| error.to_string())
        });
        infos.push(info.await?);
    }
    Ok(infos)
}

/// Waits until NATS says of all logs what it said before. A leader that has only just been elected may not have applied yet
/// what its own disk holds, and answers with less; what was appended or trimmed since would never go away.
async fn until_infos(log: &NatsLog, before: &[LogInfo]) -> anyhow::Result<()> {
    wait_for("the logs to be as they were", WITHIN, async || {
        let now = infos(log).await.map_err(|error| format!("{error:#}"))?;
        match now == before {
            true => Ok(()),
            false => Err(format!("{now:?}, not {before:?}")),
        }
    })
    .await?;
    Ok(())
}

/// What the bucket holds beside the snapshots: pointer and certificate of each partition, as they stand.
fn evidence(cluster: &TestCluster) -> anyhow::Result<Vec<(Value, Value)>> {
    let read = |partition: u32, name: &str| -> anyhow::Result<Value> {
        let path = cluster.bucket_dir().join(partition.to_string()).join(name);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    (0..PARTITIONS)
        .map(|partition| -> anyhow::Result<_> {
            Ok((read(partition, "latest.json")?, read(partition, "trim.json")?))
        })
        .collect()
}

/// Writes until every partition has a certified trim, and a newest snapshot above the tail in `than`.
async fn write_until_published(
    cluster: &TestCluster,
    client: &KvClient,
    prefix: &str,
    than: &[u64],
) -> anyhow::Result<()> {
    wait_for("snapshots and trims of every partition", WITHIN, async || {
        let written = write(client, prefix, 100).await;
        written.map_err(|error| format!("{error:#}"))?;
        let found = evidence(cluster).map_err(|error| format!("{error:#}"))?;
        let newest = found
            .iter()
            .map(|(pointer, _)| pointer["snapshots"][0]["lsn"].as_u64());
        let newest: Vec<u64> = newest.flatten().collect();
        match newest.iter().zip(than).filter(|(lsn, than)| lsn > than).count() {
            count if count == PARTITIONS as usize => Ok(()),
            _ => Err(format!("snapshots at {newest:?}, wanted above {than:?}")),
        }
    })
    .await?;
    Ok(())
}

async fn stop_nodes(cluster: &mut TestCluster) -> anyhow::Result<()> {
    cluster.stop(Node::Admin).await?;
    for worker in 1..=WORKERS {
        cluster.stop(Node::Worker(worker)).await?;
    }
    Ok(())
}

fn kill_servers(servers: &mut NatsServers) {
    (0..servers.count()).for_each(|index| servers.kill(index));
}

async fn start_servers(servers: &mut NatsServers) {
    (0..servers.count()).for_each(|index| servers.start_again(index));
    servers.until_ready().await;
}

/// A folder beside that of a server.
fn beside(data: &Path, name: &str) -> PathBuf {
    data.with_extension(name)
}

/// Puts `name` in the place of every server's data, which is kept as `kept`.
fn swap_data(servers: &NatsServers, name: &str, kept: &str) -> anyhow::Result<()> {
    for index in 0..servers.count() {
        let data = servers.data(index);
        std::fs::rename(&data, beside(&data, kept))?;
        std::fs::rename(beside(&data, name), &data)?;
    }
    Ok(())
}

/// Waits until every replica of every partition is blocked, and the admin holds snapshots, trims and leaders.
async fn until_held(cluster: &TestCluster) -> anyhow::Result<()> {
    wait_for("everything to be held", WITHIN, async || {
        for worker in 1..=WORKERS {
            let status = cluster.endpoints().worker_status(worker).await;
            let status = status.map_err(|error| error.to_string())?;
            let blocked = status.partitions.iter().filter(|replica| {
                replica.state() == PartitionState::Blocked
                    && replica.blocked_reason == HELD
                    && replica.role() != ReplicaRole::Leader
            });
            if blocked.count() != PARTITIONS as usize {
                return Err(format!("{:?}", status.partitions));
            }
        }
        let status = cluster.endpoints().cluster_status().await;
        let status = status.map_err(|error| error.to_string())?;
        for partition in &status.partitions {
            let codes = [&partition.trim, &partition.snapshot, &partition.leadership]
                .map(|reason| reason.as_ref().map_or("", |reason| reason.code.as_str()));
            if codes != [HELD, "held", "held"] {
                return Err(format!("partition {}: {codes:?}", partition.partition));
            }
        }
        match status.partitions.len() {
            count if count == PARTITIONS as usize => Ok(()),
            count => Err(format!("{count} partitions")),
        }
    })
    .await?;
    Ok(())
}

/// Waits until the admin has heard every worker some more times.
async fn until_polled(cluster: &TestCluster) -> anyhow::Result<()> {
    let answered = || -> anyhow::Result<u64> {
        let page = scrape(cluster.endpoints().metrics_address(Node::Admin))?;
        let lines = page.lines().filter(|line| {
            line.starts_with("tidemark_admin_polls_total{") && line.contains("outcome=\"answered\"")
        });
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    };
    let wanted = answered()? + POLLS * u64::from(WORKERS);
    wait_for("the admin to poll", WITHIN, async || {
        match answered().map_err(|error| format!("{error:#}"))? {
            count if count >= wanted => Ok(()),
            count => Err(format!("{count} of {wanted} polls")),
        }
    })
    .await?;
    Ok(())
}

/// Nobody gets anything done: neither a client nor an operator.
async fn check_refusals(cluster: &TestCluster, client: &KvClient) -> anyhow::Result<()> {
    let client = client.clone().with_patience(Duration::from_secs(5));
    let written = client.put("late", "x").await;
    ensure!(written.is_err(), "a log that lost records took one");
    let said = cluster.run(&["trim", "run", "0", "--force"], WITHIN).await?;
    ensure!(said.contains(HELD), "{said}");
    let made = cluster.run(&["snapshots", "create", "0"], WITHIN).await;
    ensure!(matches!(made, Err(ClusterError::Command { .. })), "{made:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_nats_that_lost_its_newest_records_is_held_and_loses_no_evidence() -> anyhow::Result<()> {
    let settings = Settings {
        snapshot_after_records: 60,
        lag_records_max: 40,
        ..Settings::default()
    };
    let mut servers = NatsServers::start(3).await;
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = on_nats::launch(&servers, base, "nats-set-back", WORKERS, PARTITIONS, settings).await?;
    let log = servers.connect(NatsUser::Admin).await;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    write_until_published(&cluster, &client, "kept", &[0; PARTITIONS as usize]).await?;

    stop_nodes(&mut cluster).await?;
    let copied = infos(&log).await?;
    kill_servers(&mut servers);
    for index in 0..servers.count() {
        let data = servers.data(index);
        copy_folder(&data, &beside(&data, "earlier"))?;
    }
    start_servers(&mut servers).await;
    on_nats::start_nodes(&mut cluster).await?;
    cluster.until_healthy(WITHIN).await?;
    let tails: Vec<u64> = copied.iter().map(|info| info.tail.get()).collect();
    write_until_published(&cluster, &client, "lost", &tails).await?;
    let whole = settled_on(&log, cluster.endpoints(), PARTITIONS, WITHIN).await?;
    stop_nodes(&mut cluster).await?;
    let before = evidence(&cluster)?;

    kill_servers(&mut servers);
    swap_data(&servers, "earlier", "whole")?;
    start_servers(&mut servers).await;
    until_infos(&log, &copied).await?;
    on_nats::start_nodes(&mut cluster).await?;
    until_held(&cluster).await?;
    check_refusals(&cluster, &client).await?;
    until_polled(&cluster).await?;
    until_held(&cluster).await?;
    until_infos(&log, &copied).await?;
    ensure!(
        evidence(&cluster)? == before,
        "pointer or certificate were changed"
    );

    // The newest records were kept elsewhere.
    stop_nodes(&mut cluster).await?;
    kill_servers(&mut servers);
    swap_data(&servers, "whole", "earlier")?;
    start_servers(&mut servers).await;
    on_nats::start_nodes(&mut cluster).await?;
    let found = settled_on(&log, cluster.endpoints(), PARTITIONS, WITHIN).await?;
    ensure!(found == whole, "{found:?}, not {whole:?}");
    for partition in 0..PARTITIONS {
        cluster
            .run(&["resume", "--partition", &partition.to_string()], WITHIN)
            .await?;
    }
    cluster.until_healthy(WITHIN).await?;
    write(&client, "after", 60).await?;
    settled_on(&log, cluster.endpoints(), PARTITIONS, WITHIN).await?;
    for worker in 1..=WORKERS {
        let pairs = content(cluster.endpoints(), worker, PARTITIONS).await?;
        for key in ["kept-99", "lost-99", "after-59"] {
            ensure!(
                pairs.contains_key(key.as_bytes()),
                "{key} is missing on worker {worker}"
            );
        }
    }
    cluster.finish()
}
