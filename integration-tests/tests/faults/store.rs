//! Stored objects that are missing, unreadable, newer or damaged.

use crate::shared::{Lease, SNAPSHOT_AFTER, lease, says, words};
use anyhow::{Context, ensure};
use integration_tests::{bucket::BucketPartition, scrape};
use snapshot_proto::v1::{
    PauseRequest, ResumeRequest, VerifyLevel, VerifySnapshotReply, VerifySnapshotRequest,
};
use std::{path::PathBuf, time::Duration};
use tidemark::cluster::{Node, wait_for};

/// Makes the admin leave a partition alone and waits until no snapshot of it is being made.
async fn pause(lease: &Lease, partition: u32) -> anyhow::Result<()> {
    let request = PauseRequest {
        partition: Some(partition),
        by: "a test".to_owned(),
        reason: "to spoil it".to_owned(),
    };
    lease.endpoints().admin().await?.pause(request).await?;
    lease.until_held(partition, &["paused"]).await?;
    let mut idle = 0;
    wait_for(
        "the partition to be at rest",
        Duration::from_secs(30),
        async || {
            for worker in 1..=lease.endpoints().workers() {
                let status = lease
                    .endpoints()
                    .worker_status(worker)
                    .await
                    .map_err(|error| error.to_string())?;
                let busy = status
                    .partitions
                    .iter()
                    .any(|replica| replica.partition == partition && replica.export.is_some());
                idle = if busy { 0 } else { idle + 1 };
            }
            if idle >= 15 {
                Ok(())
            } else {
                Err(format!("{idle} idle looks"))
            }
        },
    )
    .await?;
    Ok(())
}

async fn resume(lease: &Lease, partition: u32) -> anyhow::Result<()> {
    lease
        .endpoints()
        .admin()
        .await?
        .resume(ResumeRequest {
            partition: Some(partition),
        })
        .await?;
    Ok(())
}

/// A pointer that a test has overwritten, and what stood there.
pub(crate) struct Spoilt {
    partition: u32,
    path: PathBuf,
    original: String,
    spoilt: String,
}

impl Spoilt {
    /// Overwrites `latest.json` of `partition` with what `change` makes of it, while nobody else writes it.
    pub(crate) async fn pointer(
        lease: &Lease,
        partition: u32,
        change: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Self> {
        pause(lease, partition).await?;
        let path = lease.bucket_dir().join(partition.to_string()).join("latest.json");
        let original = std::fs::read_to_string(&path)?;
        let spoilt = change(&original);
        std::fs::write(&path, &spoilt)?;
        resume(lease, partition).await?;
        Ok(Spoilt {
            partition,
            path,
            original,
            spoilt,
        })
    }

    /// Writes enough that a snapshot would be due, shows that nobody has overwritten it, and puts the original back.
    pub(crate) async fn mend(self, lease: &Lease) -> anyhow::Result<()> {
        lease.write_to(self.partition, 2 * SNAPSHOT_AFTER).await?;
        let found = std::fs::read_to_string(&self.path)?;
        ensure!(
            found == self.spoilt,
            "an object that cannot be understood was overwritten"
        );
        std::fs::write(&self.path, &self.original)?;
        Ok(())
    }
}

#[tokio::test]
async fn a_corrupt_pointer_holds_its_partition_alone_and_is_never_overwritten() -> anyhow::Result<()> {
    let lease = lease().await?;
    let spoilt = Spoilt::pointer(&lease, 1, |_| "{ this is no pointer".to_owned()).await?;
    let held = lease.until_held(1, &["pointer-unreadable"]).await?;
    says(&words(Some(&held)), &["1/latest.json"])?;
    ensure!(!held.remedy.is_empty(), "{held:?}");
    lease.goes_on(&Lease::others(1)).await?;
    spoilt.mend(&lease).await?;
    lease.give_back().await
}

#[tokio::test]
async fn a_newer_pointer_asks_for_an_update() -> anyhow::Result<()> {
    let lease = lease().await?;
    let spoilt = Spoilt::pointer(&lease, 2, |text| {
        let mut pointer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        pointer["format"] = 999.into();
        pointer.to_string()
    })
    .await?;
    let held = lease.until_held(2, &["pointer-unreadable"]).await?;
    says(&words(Some(&held)), &["2/latest.json", "999", "update"])?;
    lease.goes_on(&Lease::others(2)).await?;
    spoilt.mend(&lease).await?;
    lease.give_back().await
}

/// The newest snapshot of `partition`, and its largest data file.
fn newest(lease: &Lease, partition: u32) -> anyhow::Result<(String, PathBuf)> {
    let read = BucketPartition::read(&lease.bucket_dir(), partition)?.context("no pointer")?;
    let snapshot = read.snapshots.first().context("no snapshot")?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&snapshot.folder)? {
        let entry = entry?;
        if entry.file_name() != "metadata.json" {
            files.push((entry.metadata()?.len(), entry.path()));
        }
    }
    let (_, file) = files.into_iter().max().context("no files")?;
    Ok((snapshot.id.clone(), file))
}

async fn verify(lease: &Lease, partition: u32, snapshot_id: &str) -> anyhow::Result<VerifySnapshotReply> {
    let request = VerifySnapshotRequest {
        partition,
        snapshot_id: snapshot_id.to_owned(),
        level: VerifyLevel::Content.into(),
    };
    Ok(lease
        .endpoints()
        .worker(1)
        .await?
        .verify_snapshot(request)
        .await?
        .into_inner())
}

/// How many anomalies of a kind the worker that verifies has counted.
fn counted(lease: &Lease, kind: &str) -> anyhow::Result<f64> {
    let metrics = scrape(lease.endpoints().metrics_address(Node::Worker(1)))?;
    let series = format!("tidemark_worker_anomalies_total{{kind=\"{kind}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    Ok(value.context("no such series")?.parse()?)
}

/// Spoils the newest snapshot of `partition`, and shows that verification names the file, that the partition is
/// not trimmed on it, and that new snapshots heal it.
async fn a_spoilt_file_is_found(
    partition: u32,
    kind: &str,
    spoil: impl FnOnce(&PathBuf) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let lease = lease().await?;
    pause(&lease, partition).await?;
    let (snapshot_id, file) = newest(&lease, partition)?;
    ensure!(
        verify(&lease, partition, &snapshot_id).await?.ok,
        "the snapshot is not sound to begin with"
    );
    spoil(&file)?;
    let name = file
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();

    let before = counted(&lease, kind)?;
    let reply = verify(&lease, partition, &snapshot_id).await?;
    ensure!(!reply.ok && reply.anomalies.len() == 1, "{reply:?}");
    ensure!(counted(&lease, kind)? > before, "{kind} was not counted");
    ensure!(reply.anomalies[0].kind == kind, "{reply:?}");
    says(
        &format!("{} {}", reply.anomalies[0].key, reply.anomalies[0].message),
        &[&name],
    )?;

    let admin = lease.endpoints().url(Node::Admin).to_owned();
    let number = partition.to_string();
    let arguments = [
        "snapshots",
        "verify",
        "--partition",
        &number,
        "--level",
        "content",
        "--admin",
        &admin,
    ];
    let ran = lease.run(&arguments, Duration::from_secs(30)).await;
    says(
        &ran.err().context("the command found nothing")?.to_string(),
        &[&name, kind],
    )?;

    resume(&lease, partition).await?;
    lease.goes_on(&Lease::others(partition)).await?;
    lease.give_back().await
}

#[tokio::test]
async fn a_missing_file_is_named_and_healed_by_new_snapshots() -> anyhow::Result<()> {
    a_spoilt_file_is_found(0, "missing-file", |file| std::fs::remove_file(file)).await
}

#[tokio::test]
async fn a_flipped_byte_is_named_and_healed_by_new_snapshots() -> anyhow::Result<()> {
    a_spoilt_file_is_found(1, "wrong-hash", |file| {
        let mut bytes = std::fs::read(file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes)
    })
    .await
}
