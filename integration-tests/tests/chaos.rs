//! kill -9 at random moments of any of the five processes, during a steady load of acknowledged writes.
//!
//! Afterwards every acknowledged write is there on every replica, replicas are equal, and the log was never trimmed
//! above what an independent reader of the bucket can restore. `TIDEMARK_CHAOS_ROUNDS` sets the number of kills,
//! `TIDEMARK_CHAOS_SEED` repeats a run's choices.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster,
    acknowledged::{Load, Rounds, check_content},
    bucket::check_trim_point,
    replicas::{content, log_info, settled},
};
use rand::RngExt;
use std::{collections::BTreeMap, time::Duration};
use tidemark::{
    cluster::{Settings, wait_for},
    kv::KvClient,
};

const PARTITIONS: u32 = 4;
const WORKERS: u32 = 3;
const WRITERS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_process_at_any_moment_loses_no_acknowledged_write() -> anyhow::Result<()> {
    let Rounds {
        rounds,
        seed,
        mut random,
    } = Rounds::from_environment(10);
    let settings = Settings {
        snapshot_after_records: 150,
        lag_records_max: 70,
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "chaos", WORKERS, PARTITIONS, settings).await?;

    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let client = client.with_patience(Duration::from_secs(90));
    let load = Load::start(&client, WRITERS);

    let nodes = cluster.nodes();
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let node = nodes[random.random_range(0..nodes.len())];
        let away = Duration::from_millis(random.random_range(0..1_500));
        eprintln!(
            "round {round}: killing {node}, away for {away:?}, {} acknowledged",
            load.acknowledged()
        );
        cluster.kill(node)?;
        tokio::time::sleep(away).await;
        cluster
            .start(node)
            .await
            .with_context(|| format!("round {round}, seed {seed}"))?;
        load.until_it_goes_on(&format!("the kill of {node}")).await?;
        check_trims(&cluster)
            .await
            .with_context(|| format!("after round {round}, seed {seed}"))?;
    }

    let written = load.finish().await?;
    cluster.until_healthy(Duration::from_secs(60)).await?;
    settled(cluster.endpoints(), PARTITIONS, Duration::from_secs(60)).await?;
    for worker in 1..=WORKERS {
        let held = content(cluster.endpoints(), worker, PARTITIONS).await?;
        check_content(&held, &written).with_context(|| format!("on worker {worker}, seed {seed}"))?;
    }
    let trimmed = check_trims(&cluster).await?;
    ensure!(
        trimmed.values().any(|trim_point| *trim_point > 0),
        "no log was trimmed, so nothing was shown"
    );
    cluster.finish()
}

/// Asks the log how far it is trimmed, then the bucket whether it covers that.
async fn check_trims(cluster: &TestCluster) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut trimmed = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let trim_point = log_info(cluster.endpoints(), partition).await?.trim_point;
        trimmed.insert(partition, trim_point);
        let bucket = cluster.bucket_dir();
        // A snapshot may be evicted while it is read; what counts is that some reading finds the trim covered.
        let covered = wait_for("the bucket to be read", Duration::from_secs(20), async || {
            check_trim_point(&bucket, partition, trim_point).map_err(|error| format!("{error:#}"))
        });
        covered.await?;
    }
    Ok(trimmed)
}
