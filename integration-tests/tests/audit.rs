//! What goes wrong behind the system's back, with real processes: snapshots that vanish from the bucket or change in it,
//! and replicas that have read different logs. Found without anybody asking, held under its name, and healed.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster,
    bucket::{BucketPartition, check_trim_point},
    copy_folder,
    replicas::{log_info, settled},
    scrape,
};
use snapshot_proto::{
    kv::{Operation, operation::Change},
    v1::{AppendRequest, ClusterStatus, PartitionState, ReplicaView, append_reply::Outcome},
};
use snapshot_store::{LeaderEpoch, Leadership, NodeId, PartitionId};
use snapshot_worker::core::{LedBody, Record};
use std::{path::PathBuf, time::Duration};
use tidemark::{
    cluster::{Node, Settings, wait_for},
    kv::KvClient,
};
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(60);
const BUSY: u32 = 0;
const IDLE: u32 = 1;

/// A pass twice a second, and everything is read again after two.
const QUICK_AUDIT: &str = "\
[policy.audit]
interval_ms = 500
requests_per_second = 200
content_interval_ms = 2000
content_max = 4
";

fn settings() -> Settings {
    Settings {
        snapshot_after_records: 60,
        lag_records_max: 30,
        overrides: vec![("admin", QUICK_AUDIT.to_owned())],
        ..Settings::default()
    }
}

/// Writes `count` pairs to `partition`, beginning with the one of this number.
async fn fill(client: &KvClient, partition: u32, from: usize, count: usize) -> anyhow::Result<()> {
    let keys = (0..).map(|number| format!("key-{number}"));
    let own = keys.filter(|key| client.partition_of(key.as_bytes()).get() == partition);
    let keys: Vec<String> = own.take(20).collect();
    for number in from..from + count {
        let operation = Operation {
            key: keys[number % keys.len()].clone().into(),
            change: Some(Change::Put(format!("{number} {}", "x".repeat(50)).into())),
        };
        client.write(PartitionId::new(partition), vec![operation]).await?;
    }
    Ok(())
}

/// Waits until the cluster, as its admin sees it, is as wanted.
async fn until<T>(
    cluster: &TestCluster,
    what: &str,
    wanted: impl Fn(&ClusterStatus) -> Option<T>,
) -> anyhow::Result<T> {
    let seen = wait_for(what, WITHIN, async || {
        let status = cluster.endpoints().cluster_status().await;
        let status = status.map_err(|error| error.to_string())?;
        wanted(&status).ok_or_else(|| {
            let trims: Vec<_> = status
                .partitions
                .iter()
                .map(|view| (view.partition, view.trim_point, view.trim.clone()))
                .collect();
            format!("{:?} {trims:?}", status.audit)
        })
    });
    Ok(seen.await?)
}

fn trim_point(status: &ClusterStatus, partition: u32) -> u64 {
    status.partitions[partition as usize].trim_point.unwrap_or(0)
}

fn trim_code(status: &ClusterStatus, partition: u32) -> String {
    let trim = status.partitions[partition as usize].trim.clone();
    trim.unwrap_or_default().code
}

/// Returns the value of the series of `name` with all of `labels`.
fn metric(cluster: &TestCluster, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
    let page = scrape(cluster.endpoints().metrics_address(Node::Admin))?;
    let series = page.lines().find(|line| {
        let named = line
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']));
        named && labels.iter().all(|label| line.contains(label))
    });
    let series = series.with_context(|| format!("no series {name} {labels:?}"))?;
    let value = series.rsplit(' ').next().context("no value")?;
    Ok(value.parse()?)
}

/// What the admin has counted of damage so far.
#[derive(Clone, Copy, Debug)]
struct Counted {
    holds: f64,
    looks: f64,
    readings: f64,
}

impl Counted {
    fn now(cluster: &TestCluster) -> anyhow::Result<Self> {
        let audits = |level| {
            let labels = [level, "result=\"damaged\""];
            metric(cluster, "tidemark_admin_audits_total", &labels)
        };
        Ok(Counted {
            holds: metric(
                cluster,
                "tidemark_admin_holds_total",
                &["reason=\"damaged-snapshot\""],
            )?,
            looks: audits("level=\"presence\"")?,
            readings: audits("level=\"content\"")?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// The largest file is deleted.
    Vanished,
    /// One byte of it is another one.
    Flipped,
}

/// Does it to the newest snapshot of `partition`.
fn do_damage(cluster: &TestCluster, partition: u32, damage: Damage) -> anyhow::Result<()> {
    let read = BucketPartition::read(&cluster.bucket_dir(), partition)?.context("no pointer")?;
    let newest = read.snapshots.first().context("no snapshot")?;
    let mut largest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(&newest.folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let found = (path.metadata()?.len(), path);
            largest = largest.max(Some(found));
        }
    }
    let (_, file) = largest.context("there is no data file")?;
    match damage {
        Damage::Vanished => std::fs::remove_file(&file)?,
        Damage::Flipped => {
            // A file of its own: another snapshot may share the old one.
            let mut bytes = std::fs::read(&file)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            let beside = cluster.bucket_dir().with_extension("flipped");
            std::fs::write(&beside, bytes)?;
            std::fs::rename(&beside, &file)?;
        }
    }
    Ok(())
}

/// Damages the newest snapshot and waits until that was found, held and healed.
async fn found_and_healed(cluster: &TestCluster, partition: u32, damage: Damage) -> anyhow::Result<()> {
    let status = cluster.endpoints().cluster_status().await?;
    let (before, trimmed) = (Counted::now(cluster)?, trim_point(&status, partition));
    do_damage(cluster, partition, damage)?;
    let begun = tokio::time::Instant::now();
    wait_for("the damage to be found and held", WITHIN, async || {
        let now = Counted::now(cluster).map_err(|error| error.to_string())?;
        let found = match (damage, partition) {
            (Damage::Flipped, _) => now.readings > before.readings,
            // On a busy partition the look before a trim may come first.
            (Damage::Vanished, BUSY) => true,
            (Damage::Vanished, _) => now.looks > before.looks,
        };
        match found && now.holds > before.holds {
            true => Ok(()),
            false => Err(format!("{before:?}, then {now:?}")),
        }
    })
    .await?;
    let found = begun.elapsed();
    until(cluster, "the alarm to clear", |status| {
        let damaged = &status.audit.as_ref()?.damaged_partitions;
        let further = trim_point(status, partition) > trimmed;
        (damaged.is_empty() && further).then_some(())
    })
    .await?;
    // The next tick exports it.
    wait_for("the gauge to clear", WITHIN, async || {
        match metric(cluster, "tidemark_admin_damaged_partitions", &[]) {
            Ok(0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let after = log_info(cluster.endpoints(), partition).await?.trim_point;
    check_trim_point(&cluster.bucket_dir(), partition, after)?;
    eprintln!(
        "partition {partition}, {damage:?}: found and held after {found:?}, healed after {:?}",
        begun.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_vanish_or_change_are_found_held_and_healed_on_busy_and_idle_partitions()
-> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let cluster = TestCluster::launch(base, "audit", 3, 2, settings()).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    for partition in [BUSY, IDLE] {
        let mut written = 0;
        while trim_point(&cluster.endpoints().cluster_status().await?, partition) == 0 {
            ensure!(written < 5000, "partition {partition} is not trimmed");
            fill(&client, partition, written, 20).await?;
            written += 20;
        }
    }
    until(&cluster, "the idle partition to come to rest", |status| {
        let view = &status.partitions[IDLE as usize];
        (view.guard_lsn.is_some() && view.trim_point == view.guard_lsn).then_some(())
    })
    .await?;
    let at_rest = log_info(cluster.endpoints(), IDLE).await?.tail;
    found_and_healed(&cluster, IDLE, Damage::Vanished).await?;
    found_and_healed(&cluster, IDLE, Damage::Flipped).await?;
    let since = log_info(cluster.endpoints(), IDLE).await?.tail - at_rest;
    // One for each new snapshot, except where something was applied above the damaged one already.
    ensure!(
        (2..=20).contains(&since),
        "{since} records were appended to the idle partition"
    );

    let stop = CancellationToken::new();
    let writes = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut written = 0;
            while !stop.is_cancelled() {
                fill(&client, BUSY, written, 2).await?;
                written += 2;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(written)
        }
    });
    found_and_healed(&cluster, BUSY, Damage::Vanished).await?;
    found_and_healed(&cluster, BUSY, Damage::Flipped).await?;
    stop.cancel();
    let written = writes.await??;
    ensure!(written > 20, "it was not busy: {written} records");
    let said = cluster.run(&["status"], WITHIN).await?;
    ensure!(said.contains("Audit: every partition was looked at"), "{said}");
    settled(cluster.endpoints(), 2, WITHIN).await?;
    cluster.finish()
}

/// Appends records that no term counts, so that only hashes remember them; returns the LSN of the last one.
async fn append(cluster: &TestCluster, numbers: [u64; 2]) -> anyhow::Result<u64> {
    let leadership = Leadership {
        epoch: LeaderEpoch::NONE,
        node: NodeId::new("nobody")?,
    };
    let record = |sequence| {
        let record = Record::Led {
            leadership: leadership.clone(),
            sequence,
            body: LedBody::NoOp,
        };
        record.encode()
    };
    let request = AppendRequest {
        partition: 0,
        incarnation: log_info(cluster.endpoints(), 0).await?.incarnation,
        records: numbers.map(record).into(),
        expected_tail: None,
    };
    let reply = cluster.endpoints().log().await?.append(request).await?;
    match reply.into_inner().outcome {
        Some(Outcome::LastLsn(lsn)) => Ok(lsn),
        other => anyhow::bail!("the records were not appended: {other:?}"),
    }
}

async fn until_durable(cluster: &TestCluster, worker: u32, lsn: u64) -> anyhow::Result<()> {
    let what = format!("worker {worker} to have {lsn} on its disk");
    wait_for(&what, WITHIN, async || {
        let status = cluster.endpoints().worker_status(worker).await;
        let status = status.map_err(|error| error.to_string())?;
        let replica = status.partitions.first().ok_or("no partition")?;
        match replica.durable_lsn >= Some(lsn) && replica.state() == PartitionState::Active {
            true => Ok(()),
            false => Err(format!("{replica:?}")),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_read_different_logs_hold_the_trim_until_one_is_rebuilt() -> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "differ", 2, 1, settings()).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let mut written = 0;
    while trim_point(&cluster.endpoints().cluster_status().await?, 0) == 0 {
        ensure!(written < 5000, "the partition is not trimmed");
        fill(&client, 0, written, 20).await?;
        written += 20;
    }
    settled(cluster.endpoints(), 1, WITHIN).await?;

    // Each worker reads its own continuation of the log. They end with the same record, which is all that a restart compares.
    for node in [Node::Admin, Node::Worker(1), Node::Worker(2), Node::Log] {
        cluster.stop(node).await?;
    }
    let (log, other) = (
        cluster.data_dir(Node::Log),
        cluster.data_dir(Node::Log).with_extension("other"),
    );
    copy_folder(&log, &other)?;
    cluster.start(Node::Log).await?;
    cluster.start(Node::Worker(1)).await?;
    let first = append(&cluster, [1, 3]).await?;
    until_durable(&cluster, 1, first).await?;
    cluster.stop(Node::Worker(1)).await?;
    cluster.stop(Node::Log).await?;
    let aside = log.with_extension("aside");
    std::fs::rename(&log, &aside)?;
    std::fs::rename(&other, &log)?;
    cluster.start(Node::Log).await?;
    cluster.start(Node::Worker(2)).await?;
    let second = append(&cluster, [2, 3]).await?;
    ensure!(first == second, "{first} and {second}");
    until_durable(&cluster, 2, second).await?;
    cluster.stop(Node::Worker(2)).await?;
    cluster.stop(Node::Log).await?;
    std::fs::remove_dir_all(&log)?;
    std::fs::rename(&aside, &log)?;
    for node in [Node::Log, Node::Worker(1), Node::Worker(2), Node::Admin] {
        cluster.start(node).await?;
    }

    let held = until(&cluster, "the mismatch to be found", |status| {
        (trim_code(status, 0) == "chain-mismatch").then(|| status.partitions[0].clone())
    })
    .await?;
    let detail = held.trim.context("no reason")?.detail;
    ensure!(
        detail.contains("worker-1") && detail.contains("worker-2"),
        "{detail}"
    );
    let trimmed = log_info(cluster.endpoints(), 0).await?.trim_point;
    until(&cluster, "a leader", |status| {
        status.partitions[0].leader.is_some().then_some(())
    })
    .await?;
    fill(&client, 0, written, 300).await?;
    // Chain hashes are compared at equal LSNs: the admin has to have heard from both replicas at the end of the log.
    let tail = log_info(cluster.endpoints(), 0).await?.tail;
    until(&cluster, "both replicas to be seen at the end", |status| {
        let at_end = |view: &ReplicaView| {
            let status = view.status.as_ref();
            status.is_some_and(|status| status.applied_lsn.is_some_and(|applied| applied + 1 == tail))
        };
        let replicas = &status.partitions[0].replicas;
        (replicas.len() == 2 && replicas.iter().all(at_end)).then_some(())
    })
    .await?;
    // The evidence is still there: whoever takes the hold away without a remedy gets it back.
    cluster.run(&["resume", "--partition", "0"], WITHIN).await?;
    until(&cluster, "the hold to be back", |status| {
        (trim_code(status, 0) == "chain-mismatch").then_some(())
    })
    .await?;
    ensure!(log_info(cluster.endpoints(), 0).await?.trim_point == trimmed);

    let rebuild = ["partitions", "rebuild", "0", "--node", "worker-2", "--yes"];
    cluster.run(&rebuild, WITHIN).await?;
    until_durable(&cluster, 2, second).await?;
    settled(cluster.endpoints(), 1, WITHIN).await?;
    // The admin may still go by an answer of before the rebuild, and hold again.
    wait_for("trimming to go on", WITHIN, async || {
        let resumed = cluster.run(&["resume", "--partition", "0"], WITHIN).await;
        resumed.map_err(|error| error.to_string())?;
        let status = cluster.endpoints().cluster_status().await;
        match trim_point(&status.map_err(|error| error.to_string())?, 0) {
            point if point > trimmed => Ok(()),
            point => Err(format!("trimmed up to {point}")),
        }
    })
    .await?;
    let after = log_info(cluster.endpoints(), 0).await?.trim_point;
    check_trim_point(&cluster.bucket_dir(), 0, after)?;
    cluster.finish()
}
