//! kill -9 at random moments of any of the five processes, during a steady load of acknowledged writes.
//!
//! Afterwards every acknowledged write is there on every replica, replicas are equal, and the log was never trimmed
//! above what an independent reader of the bucket can restore. `TIDEMARK_CHAOS_ROUNDS` sets the number of kills,
//! `TIDEMARK_CHAOS_SEED` repeats a run's choices.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster,
    bucket::check_trim_point,
    replicas::{Pairs, content, log_info, settled},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tidemark::{
    cluster::{Settings, wait_for},
    kv::KvClient,
};

const PARTITIONS: u32 = 4;
const WORKERS: u32 = 3;
const WRITERS: u64 = 4;

/// What one writer did: the keys it wrote once, and the last value of the key it keeps overwriting.
#[derive(Debug, Default)]
struct Written {
    once: Pairs,
    counter: u64,
}

/// Writes until told to stop, one write after the other; only what was acknowledged is counted.
async fn write(
    client: KvClient,
    writer: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> anyhow::Result<Written> {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (key, value) = (
            format!("writer-{writer}-{number:08}"),
            format!("{writer}/{number}/{}", "x".repeat(100)),
        );
        client.put(key.clone(), value.clone()).await?;
        written.once.insert(key.into_bytes(), value.into_bytes());
        client
            .put(format!("counter-{writer}"), number.to_string())
            .await?;
        written.counter = number;
        acknowledged.fetch_add(2, Ordering::Relaxed);
    }
    Ok(written)
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_process_at_any_moment_loses_no_acknowledged_write() -> anyhow::Result<()> {
    let rounds = setting("TIDEMARK_CHAOS_ROUNDS", 10);
    let seed = setting("TIDEMARK_CHAOS_SEED", u64::from(std::process::id()));
    eprintln!("{rounds} rounds; TIDEMARK_CHAOS_SEED={seed} repeats the choices");
    let mut random = StdRng::seed_from_u64(seed);
    let settings = Settings {
        snapshot_after_records: 150,
        lag_records_max: 70,
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "chaos", WORKERS, PARTITIONS, settings).await?;

    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let client = client.with_patience(Duration::from_secs(90));
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(client.clone(), writer, stop.clone(), acknowledged.clone())))
        .collect();

    let nodes = cluster.nodes();
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let node = nodes[random.random_range(0..nodes.len())];
        let away = Duration::from_millis(random.random_range(0..1_500));
        eprintln!(
            "round {round}: killing {node}, away for {away:?}, {} acknowledged",
            acknowledged.load(Ordering::Relaxed)
        );
        cluster.kill(node)?;
        tokio::time::sleep(away).await;
        cluster
            .start(node)
            .await
            .with_context(|| format!("round {round}, seed {seed}"))?;
        let before = acknowledged.load(Ordering::Relaxed);
        wait_for(
            &format!("writes to go on after the kill of {node}"),
            Duration::from_secs(60),
            async || {
                let now = acknowledged.load(Ordering::Relaxed);
                if now >= before + 20 {
                    Ok(())
                } else {
                    Err(format!("{} acknowledged since", now - before))
                }
            },
        )
        .await?;
        check_trims(&cluster)
            .await
            .with_context(|| format!("after round {round}, seed {seed}"))?;
    }

    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await??);
    }
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

/// Everything acknowledged is there, and nothing is there that was never written.
fn check_content(held: &Pairs, written: &[Written]) -> anyhow::Result<()> {
    let mut expected = Pairs::new();
    for (writer, written) in written.iter().enumerate() {
        expected.extend(written.once.clone());
        expected.insert(
            format!("counter-{writer}").into_bytes(),
            written.counter.to_string().into_bytes(),
        );
    }
    for (key, value) in &expected {
        let found = held.get(key).map(|value| String::from_utf8_lossy(value));
        ensure!(
            held.get(key) == Some(value),
            "acknowledged {} is {found:?}, not {:?}",
            String::from_utf8_lossy(key),
            String::from_utf8_lossy(value)
        );
    }
    // Writers stop only after an acknowledgement, so that nothing else can be there.
    let stray: Vec<_> = held.keys().filter(|key| !expected.contains_key(*key)).collect();
    ensure!(
        stray.is_empty(),
        "{} pairs were never acknowledged: {:?}",
        stray.len(),
        stray.first()
    );
    Ok(())
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
