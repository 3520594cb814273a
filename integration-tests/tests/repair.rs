//! What is in a partition's way, and how it gets out of it: a record that no replica can apply, a damaged file, a
//! state that an operator does not trust, and a stop while the store is away.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster,
    replicas::{log_info, settled},
};
use snapshot_proto::{
    kv::{DigestRequest, Operation, operation::Change},
    v1::{AppendRequest, PartitionState, ReplicaStatus, append_reply::Outcome},
};
use snapshot_store::PartitionId;
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::{
    cluster::{Node, Settings, wait_for},
    kv::KvClient,
    roles::STOP_MAX,
};

const PARTITIONS: u32 = 2;
const WORKERS: u32 = 2;
const WITHIN: Duration = Duration::from_secs(60);

async fn cluster(name: &str) -> anyhow::Result<(TestCluster, KvClient)> {
    let settings = Settings {
        snapshot_after_records: 100,
        lag_records_max: 50,
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let cluster = TestCluster::launch(base, name, WORKERS, PARTITIONS, settings).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    Ok((cluster, client))
}

/// Writes `count` pairs to `partition`.
async fn fill(client: &KvClient, partition: u32, count: usize) -> anyhow::Result<()> {
    let keys = (0..).map(|number| format!("key-{number}"));
    let own = keys.filter(|key| client.partition_of(key.as_bytes()).get() == partition);
    let operations: Vec<Operation> = own
        .take(count)
        .map(|key| Operation {
            change: Some(Change::Put(format!("value of {key}, {}", "x".repeat(50)).into())),
            key: key.into(),
        })
        .collect();
    for some in operations.chunks(100) {
        client.write(PartitionId::new(partition), some.to_vec()).await?;
    }
    Ok(())
}

async fn replica(cluster: &TestCluster, worker: u32, partition: u32) -> anyhow::Result<ReplicaStatus> {
    let status = cluster.endpoints().worker_status(worker).await?;
    let replica = status
        .partitions
        .into_iter()
        .find(|replica| replica.partition == partition);
    replica.with_context(|| format!("worker {worker} does not host partition {partition}"))
}

async fn until(
    cluster: &TestCluster,
    worker: u32,
    what: &str,
    wanted: impl Fn(&ReplicaStatus) -> bool,
) -> anyhow::Result<ReplicaStatus> {
    let what = format!("partition 0 on worker {worker} to be {what}");
    let reached = wait_for(&what, WITHIN, async || {
        let status = replica(cluster, worker, 0)
            .await
            .map_err(|error| error.to_string())?;
        if wanted(&status) {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    Ok(reached.await?)
}

fn rebuilt(status: &ReplicaStatus, reason: &str) -> bool {
    let counted = status
        .rebuilds
        .iter()
        .any(|entry| entry.reason == reason && entry.count == 1);
    counted && status.state() == PartitionState::Active
}

/// Runs a command that must fail, and returns what it said.
async fn refused(cluster: &TestCluster, arguments: &[&str]) -> anyhow::Result<String> {
    let ran = cluster.run(arguments, WITHIN).await;
    Ok(ran
        .err()
        .with_context(|| format!("{arguments:?} was not refused"))?
        .to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_no_replica_can_apply_is_skipped_by_command() -> anyhow::Result<()> {
    let (mut cluster, client) = cluster("skip").await?;
    fill(&client, 0, 20).await?;
    let mut log = cluster.endpoints().log().await?;
    let poison = AppendRequest {
        partition: 0,
        incarnation: log_info(cluster.endpoints(), 0).await?.incarnation,
        records: vec![(&b"\xff\xff no record"[..]).into()],
        expected_tail: None,
    };
    let Some(Outcome::LastLsn(lsn)) = log.append(poison).await?.into_inner().outcome else {
        anyhow::bail!("the record was not appended")
    };
    for worker in 1..=WORKERS {
        let blocked = until(&cluster, worker, "blocked", |status| {
            status.blocked_reason == "poison-record"
        });
        let blocked = blocked.await?;
        ensure!(blocked.applied_lsn == Some(lsn - 1), "{blocked:?}");
        ensure!(blocked.blocked_detail.contains("partitions skip"), "{blocked:?}");
    }
    fill(&client, 1, 20).await.context("its neighbour must go on")?;

    let at: &str = &lsn.to_string();
    let skip = ["partitions", "skip", "0", "--reason", "a broken client", "--lsn"];
    let said = refused(&cluster, &[&skip[..], &["999999", "--yes"]].concat()).await?;
    ensure!(
        said.contains("blocked-at-other-record") && said.contains(at),
        "{said}"
    );
    let said = refused(&cluster, &[&skip[..], &[at]].concat()).await?;
    ensure!(said.contains("--yes") && said.contains("12 B"), "{said}");
    let printed = cluster
        .run(&[&skip[..], &[at, "--yes", "--output", "json"]].concat(), WITHIN)
        .await?;
    let answer: serde_json::Value = serde_json::from_str(&printed)?;
    ensure!(answer["skip_lsn"].as_u64() > Some(lsn), "{answer}");

    cluster.until_healthy(WITHIN).await?;
    fill(&client, 0, 20)
        .await
        .context("writes must be acknowledged again")?;
    let before = settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    // A replica that begins with nothing comes to the same chain hash.
    cluster.kill(Node::Worker(2))?;
    cluster.wipe(Node::Worker(2))?;
    cluster.start(Node::Worker(2)).await?;
    cluster.until_healthy(WITHIN).await?;
    let after = settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    ensure!(after[&0].pairs == before[&0].pairs, "{before:?} {after:?}");
    let said = refused(&cluster, &[&skip[..], &[at, "--yes"]].concat()).await?;
    ensure!(said.contains("gone past"), "{said}");
    cluster.finish()
}

/// Returns the largest data file of a replica's state.
fn largest_file(state: &Path) -> anyhow::Result<PathBuf> {
    let mut largest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(state)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let found = (path.metadata()?.len(), path);
            largest = largest.max(Some(found));
        }
    }
    Ok(largest.context("there is no data file")?.1)
}

fn flip_byte(path: &Path) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let (at, mut byte) = (file.metadata()?.len() / 3, [0]);
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x40], at)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_is_rebuilt_and_a_distrusted_one_on_order() -> anyhow::Result<()> {
    let (mut cluster, client) = cluster("rebuild").await?;
    fill(&client, 0, 600).await?;
    fill(&client, 1, 20).await?;
    until(&cluster, 1, "durable", |status| {
        status.durable_lsn >= Some(600) && status.durable_lsn == status.applied_lsn
    })
    .await?;
    let neighbour = replica(&cluster, 1, 1).await?;
    flip_byte(&largest_file(
        &cluster.data_dir(Node::Worker(1)).join("partitions/0/state"),
    )?)?;
    // Whoever reads it meets the damage; that has the state rebuilt.
    let mut reader = cluster.endpoints().kv(1).await?;
    drop(reader.digest(DigestRequest { partition: 0 }).await);
    until(&cluster, 1, "rebuilt", |status| rebuilt(status, "corruption")).await?;
    let after = replica(&cluster, 1, 1).await?;
    ensure!(
        after.state() == PartitionState::Active
            && after.rebuilds.is_empty()
            && after.applied_lsn >= neighbour.applied_lsn,
        "its neighbour did not go on: {after:?}"
    );
    cluster.until_healthy(WITHIN).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;

    let rebuild = ["partitions", "rebuild", "0", "--node", "worker-2"];
    let said = refused(&cluster, &rebuild).await?;
    ensure!(said.contains("--yes") && said.contains("set aside"), "{said}");
    let said = refused(
        &cluster,
        &["partitions", "rebuild", "0", "--node", "nobody", "--yes"],
    )
    .await?;
    ensure!(said.contains("nobody"), "{said}");
    let printed = cluster.run(&[&rebuild[..], &["--yes"]].concat(), WITHIN).await?;
    ensure!(printed.contains("set aside"), "{printed}");
    until(&cluster, 2, "rebuilt", |status| rebuilt(status, "ordered")).await?;
    cluster.until_healthy(WITHIN).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    // The admin lists what it heard with its last poll.
    wait_for("the admin to list both rebuilds", WITHIN, async || {
        let printed = cluster.run(&["partitions", "list"], WITHIN).await;
        let printed = printed.map_err(|error| error.to_string())?;
        match printed.contains("1 corruption") && printed.contains("1 ordered") {
            true => Ok(()),
            false => Err(printed),
        }
    })
    .await?;

    // Stopped in order it comes back with what it had, and needs no store for that.
    let began = tokio::time::Instant::now();
    cluster.stop(Node::Worker(2)).await?;
    ensure!(began.elapsed() < STOP_MAX, "it took {:?}", began.elapsed());
    let (bucket, away) = (cluster.bucket_dir(), cluster.bucket_dir().with_extension("away"));
    std::fs::rename(&bucket, &away)?;
    // A file in its place keeps anybody from creating it anew.
    File::create(&bucket)?;
    cluster.start(Node::Worker(2)).await?;
    let back = until(&cluster, 2, "active", |status| {
        status.state() == PartitionState::Active
    })
    .await?;
    ensure!(
        back.last_restore.is_none() && back.applied_lsn >= Some(600),
        "{back:?}"
    );
    std::fs::remove_file(&bucket)?;
    std::fs::rename(&away, &bucket)?;
    cluster.until_healthy(WITHIN).await?;
    settled(cluster.endpoints(), PARTITIONS, WITHIN).await?;
    cluster.finish()
}
