//! What each replica holds, read over gRPC.

use anyhow::ensure;
use snapshot_proto::{
    kv::{DigestReply, DigestRequest, ScanRequest},
    v1::{GetInfoRequest, LogInfo},
};
use std::{collections::BTreeMap, time::Duration};
use tidemark::cluster::{Endpoints, wait_for};

/// Content of one replica.
pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Returns trim point and tail of a partition's log, as the log itself says.
///
/// # Errors
/// When it does not answer.
pub async fn log_info(endpoints: &Endpoints, partition: u32) -> anyhow::Result<LogInfo> {
    Ok(endpoints
        .log()
        .await?
        .get_info(GetInfoRequest { partition })
        .await?
        .into_inner())
}

/// Waits until all replicas of all partitions have applied their whole log, compares digests and chain hashes, and
/// returns them.
///
/// # Errors
/// When they do not get there in time, or differ.
pub async fn settled(
    endpoints: &Endpoints,
    partitions: u32,
    within: Duration,
) -> anyhow::Result<BTreeMap<u32, DigestReply>> {
    settled_by(endpoints, partitions, within, async |partition| {
        Ok(log_info(endpoints, partition).await?.tail)
    })
    .await
}

/// The same for logs of any engine: `tail` tells where the log of a partition ends.
///
/// # Errors
/// When they do not get there in time, or differ.
pub async fn settled_by(
    endpoints: &Endpoints,
    partitions: u32,
    within: Duration,
    tail: impl AsyncFn(u32) -> anyhow::Result<u64>,
) -> anyhow::Result<BTreeMap<u32, DigestReply>> {
    let mut settled = BTreeMap::new();
    for partition in 0..partitions {
        let what = format!("all replicas of partition {partition} to be at the tail");
        let replies = wait_for(&what, within, async || {
            let tail = tail(partition).await.map_err(|error| format!("{error:#}"))?;
            let replies = digests(endpoints, partition).await;
            let replies = replies.map_err(|error| format!("{error:#}"))?;
            match replies.iter().all(|reply| reply.lsn + 1 == tail) {
                true => Ok(replies),
                false => Err(format!("tail {tail}, {replies:?}")),
            }
        })
        .await?;
        let first = replies[0].clone();
        ensure!(
            replies.iter().all(|reply| *reply == first),
            "the replicas of partition {partition} differ: {replies:?}"
        );
        settled.insert(partition, first);
    }
    Ok(settled)
}

/// Returns the digest of every replica of `partition`, by worker.
///
/// # Errors
/// When one does not answer.
pub async fn digests(endpoints: &Endpoints, partition: u32) -> anyhow::Result<Vec<DigestReply>> {
    let mut replies = Vec::new();
    for worker in 1..=endpoints.workers() {
        let mut service = endpoints.kv(worker).await?;
        replies.push(service.digest(DigestRequest { partition }).await?.into_inner());
    }
    Ok(replies)
}

/// Returns all pairs that a worker holds.
///
/// # Errors
/// When it does not answer.
pub async fn content(endpoints: &Endpoints, worker: u32, partitions: u32) -> anyhow::Result<Pairs> {
    let mut service = endpoints.kv(worker).await?;
    let mut pairs = BTreeMap::new();
    for partition in 0..partitions {
        let mut stream = service.scan(ScanRequest { partition }).await?.into_inner();
        while let Some(page) = stream.message().await? {
            pairs.extend(
                page.pairs
                    .into_iter()
                    .map(|pair| (pair.key.to_vec(), pair.value.to_vec())),
            );
        }
    }
    Ok(pairs)
}
