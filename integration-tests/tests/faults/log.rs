//! A log that is gone, or not the one it was.

use crate::shared::{Lease, PARTITIONS, WITHIN, WORKERS, lease, says, words};
use anyhow::{Context, ensure};
use std::time::Duration;
use tidemark::cluster::{Node, wait_for};

/// Tries to write, briefly; returns what the client says.
async fn refused_write(lease: &Lease) -> anyhow::Result<String> {
    let client = lease.client.clone().with_patience(Duration::from_secs(6));
    let answer = client.put("not-acknowledged", "value").await;
    Ok(answer
        .err()
        .context("a write was acknowledged without a log")?
        .to_string())
}

#[tokio::test]
async fn without_its_log_server_the_cluster_waits_and_loses_nothing() -> anyhow::Result<()> {
    let mut lease = lease().await?;
    lease.client.put("before", "the log went").await?;
    lease.kill(Node::Log)?;
    says(&refused_write(&lease).await?, &["partition"])?;
    let held = lease.until_held(0, &["log-unavailable", "stale-view"]).await?;
    ensure!(!held.remedy.is_empty(), "{held:?}");
    for worker in 1..=WORKERS {
        let status = lease.endpoints().worker_status(worker).await?;
        ensure!(
            status.partitions.len() == PARTITIONS as usize,
            "worker {worker} lost partitions: {status:?}"
        );
    }
    lease.start(Node::Log).await?;
    lease.until_healthy(WITHIN).await?;
    let value = lease.client.get("before").await?.value;
    ensure!(value.as_deref() == Some(b"the log went".as_slice()), "{value:?}");
    lease.give_back().await
}

#[tokio::test]
async fn an_empty_log_in_place_of_the_old_one_is_never_written() -> anyhow::Result<()> {
    let mut lease = lease().await?;
    lease.client.put("before", "the log was lost").await?;
    // Restarted workers look at the log anew, like those of a machine that lost its disk and came back.
    let nodes: Vec<Node> = lease
        .nodes()
        .into_iter()
        .filter(|node| *node != Node::Admin)
        .collect();
    for node in nodes.iter().rev() {
        lease.stop(*node).await?;
    }
    let pointers = pointers(&lease)?;
    let data = lease.data_dir(Node::Log);
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside)?;
    for node in &nodes {
        lease.start(*node).await?;
    }
    wait_for(
        "all replicas to be blocked by the missing log",
        WITHIN,
        async || {
            for worker in 1..=WORKERS {
                let status = lease
                    .endpoints()
                    .worker_status(worker)
                    .await
                    .map_err(|error| error.to_string())?;
                let blocked = status
                    .partitions
                    .iter()
                    .filter(|replica| replica.blocked_reason == "log-missing");
                if blocked.clone().count() != PARTITIONS as usize {
                    return Err(format!("{status:?}"));
                }
                for replica in blocked {
                    says(&replica.blocked_detail, &["log"]).map_err(|error| error.to_string())?;
                }
            }
            Ok(())
        },
    )
    .await?;
    says(&refused_write(&lease).await?, &["partition"])?;
    let held = lease.until_held(0, &["log-unavailable", "stale-view"]).await?;
    says(&words(Some(&held)), &["log"])?;
    ensure!(
        self::pointers(&lease)? == pointers,
        "an empty log displaced a pointer"
    );

    lease.stop(Node::Log).await?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&aside, &data)?;
    lease.start(Node::Log).await?;
    lease.until_healthy(WITHIN).await?;
    let value = lease.client.get("before").await?.value;
    ensure!(
        value.as_deref() == Some(b"the log was lost".as_slice()),
        "{value:?}"
    );
    lease.give_back().await
}

/// The pointers of all partitions, as they stand.
fn pointers(lease: &Lease) -> anyhow::Result<Vec<Vec<u8>>> {
    let path = |partition: u32| lease.bucket_dir().join(partition.to_string()).join("latest.json");
    (0..PARTITIONS)
        .map(|partition| Ok(std::fs::read(path(partition))?))
        .collect()
}
