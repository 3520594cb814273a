//! A cluster is cloned: its snapshots are forked to another store, and a second cluster of real processes starts from
//! them, beside the first one.

use anyhow::{Context, ensure};
use integration_tests::{
    TestCluster,
    bucket::{BucketPartition, check_trim_point},
    replicas::{content, digests, log_info, settled},
};
use snapshot_store::{ContentHash, PartitionId, Repository, Seams, format::Manifest};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::{
    cluster::{Node, Settings, wait_for},
    kv::KvClient,
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

/// Every file of a folder with the hash of its content.
fn fingerprint(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, ContentHash>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = ContentHash::of(&std::fs::read(&path)?);
                found.insert(path, hash);
            }
        }
    }
    Ok(found)
}

/// Forks the newest snapshot of each partition, and returns the manifests of the copies.
async fn fork(source: &TestCluster, clone: &TestCluster) -> anyhow::Result<Vec<Manifest>> {
    let (from, to) = (source.store_url(), clone.store_url());
    let copy = ["snapshots", "copy", &from, &to, "--fork", "--name", "copy"];
    clone.run(&copy, WITHIN).await?;
    let repository = Repository::open(&to, Seams::real())?;
    let mut manifests = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let pointer = repository.pointer(partition).await?.context("a pointer")?.value;
        let manifest = repository.manifest(partition, &pointer.snapshots[0]).await?;
        ensure!(manifest.origin.is_some(), "{manifest:?}");
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// Runs `cluster init` in the clone with more arguments; a failure is its output.
async fn init(clone: &TestCluster, more: &[&str]) -> anyhow::Result<String> {
    let (store, log) = (clone.store_url(), clone.endpoints().log_admin_url().to_owned());
    let place = ["--store", &store, "--log-admin", &log];
    let arguments = [&["cluster", "init"], more, &place[..]].concat();
    Ok(clone.run(&arguments, WITHIN).await?)
}

async fn expect_refusal(clone: &TestCluster, more: &[&str], words: &str) -> anyhow::Result<()> {
    match init(clone, more).await {
        Ok(printed) => anyhow::bail!("{more:?} was accepted: {printed}"),
        Err(error) => ensure!(format!("{error:#}").contains(words), "{more:?}: {error:#}"),
    }
    for partition in 0..PARTITIONS {
        ensure!(
            log_info(clone.endpoints(), partition).await.is_err(),
            "{more:?} created a log"
        );
    }
    Ok(())
}

async fn until_archived(cluster: &TestCluster) -> anyhow::Result<()> {
    let bucket = cluster.bucket_dir();
    wait_for("a snapshot of every partition", WITHIN, async || {
        for partition in 0..PARTITIONS {
            match BucketPartition::read(&bucket, partition) {
                Ok(Some(read)) if !read.snapshots.is_empty() => {}
                other => return Err(format!("partition {partition}: {other:?}")),
            }
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// Writes until every log was trimmed above its base, and checks each trim against the bucket.
async fn until_trimmed(clone: &TestCluster, client: &KvClient, forked: &[Manifest]) -> anyhow::Result<()> {
    for (partition, manifest) in (0..).zip(forked) {
        let what = format!(
            "the log of partition {partition} to be trimmed above {}",
            manifest.lsn
        );
        let trim_point = wait_for(&what, WITHIN, async || {
            // One snapshot more each time: the forked one is among the restorable ones until two of the clone's own exist.
            write(client, "more", 70)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let info = log_info(clone.endpoints(), partition)
                .await
                .map_err(|error| error.to_string())?;
            (info.trim_point > manifest.lsn.get())
                .then_some(info.trim_point)
                .ok_or_else(|| format!("{info:?}"))
        })
        .await?;
        let bucket = clone.bucket_dir();
        wait_for("the bucket to be read", WITHIN, async || {
            check_trim_point(&bucket, partition, trim_point).map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_cluster_starts_from_the_snapshots_and_lives_on_beside_its_source() -> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut source = TestCluster::launch(base, "clone-source", WORKERS, PARTITIONS, settings()).await?;
    let client = KvClient::connect(source.endpoints().worker_urls()).await?;
    write(&client, "source", 200).await?;
    until_archived(&source).await?;
    // Without its admin the source stands still, so that its bucket can be compared.
    source.stop(Node::Admin).await?;
    let before = settled(source.endpoints(), PARTITIONS, WITHIN).await?;
    let bucket_before = fingerprint(&source.bucket_dir())?;

    let mut clone = TestCluster::prepare(base, "clone-copy", WORKERS, PARTITIONS, settings())?;
    clone.start(Node::Log).await?;
    expect_refusal(&clone, &["--from-fork"], "snapshots copy --fork").await?;
    let forked = fork(&source, &clone).await?;
    let shape = ["--name", "copy", "--partitions", "2"];
    expect_refusal(&clone, &shape, "--from-fork").await?;
    expect_refusal(&clone, &["--from-fork", "--name", "other"], "leave out --name").await?;
    let (pointer, aside) = (
        clone.bucket_dir().join("1/latest.json"),
        clone.bucket_dir().join("1/aside"),
    );
    std::fs::rename(&pointer, &aside)?;
    expect_refusal(&clone, &["--from-fork"], "partition 1 has no pointer").await?;
    std::fs::rename(&aside, &pointer)?;
    let verify = [
        "snapshots",
        "verify",
        "--level",
        "restore",
        "--store",
        &clone.store_url(),
    ];
    clone.run(&verify, WITHIN).await?;

    init(&clone, &["--from-fork"]).await?;
    init(&clone, &["--from-fork", "--name", "copy"]).await?;
    for (partition, manifest) in (0..).zip(&forked) {
        let info = log_info(clone.endpoints(), partition).await?;
        let lsn = manifest.lsn.get();
        ensure!((info.trim_point, info.tail) == (lsn, lsn + 1), "{info:?}");
    }
    for worker in 1..=WORKERS {
        clone.start(Node::Worker(worker)).await?;
    }
    settled(clone.endpoints(), PARTITIONS, WITHIN).await?;
    for (partition, manifest) in (0..).zip(&forked) {
        let digest = manifest.state_digest.context("the source has a digest")?;
        let hash = manifest.chain_hash().context("the source has a chain")?;
        for reply in digests(clone.endpoints(), partition).await? {
            ensure!(reply.lsn == manifest.lsn.get(), "{reply:?}");
            ensure!(reply.digest[..] == digest.as_bytes()[..], "{reply:?}");
            ensure!(reply.chain_hash[..] == hash.as_bytes()[..], "{reply:?}");
        }
    }

    clone.start(Node::Admin).await?;
    clone.until_healthy(WITHIN).await?;
    let client = KvClient::connect(clone.endpoints().worker_urls()).await?;
    write(&client, "clone", 400).await?;
    until_trimmed(&clone, &client, &forked).await?;
    // A replica that comes late has nothing but snapshots of the clone's own, or the forked one, and its log.
    clone.stop(Node::Worker(1)).await?;
    clone.wipe(Node::Worker(1))?;
    clone.start(Node::Worker(1)).await?;
    settled(clone.endpoints(), PARTITIONS, WITHIN).await?;
    let pairs = content(clone.endpoints(), 1, PARTITIONS).await?;
    ensure!(pairs.contains_key(&b"clone-399"[..]), "the last write is there");
    // A rerun finds the logs that were used meanwhile, and leaves them as they are.
    init(&clone, &["--from-fork"]).await?;

    ensure!(
        settled(source.endpoints(), PARTITIONS, WITHIN).await? == before,
        "the source moved"
    );
    ensure!(
        fingerprint(&source.bucket_dir())? == bucket_before,
        "the source's bucket changed"
    );
    clone.finish()?;
    source.finish()
}
