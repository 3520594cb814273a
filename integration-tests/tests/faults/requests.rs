//! Requests that cannot be granted.

use crate::shared::{Lease, PARTITIONS, SNAPSHOT_AFTER, lease, says};
use anyhow::{Context, ensure};
use snapshot_proto::{
    kv::DigestRequest,
    v1::{
        CreateSnapshotRequest, DeclineReason, ExplainRequest, PauseRequest, PreviewPlanRequest,
        ResumeRequest, SnapshotDeclined, TrimRequest, create_snapshot_event::Event,
    },
};
use std::time::Duration;
use tidemark::cluster::wait_for;

/// Asks worker 2 for a snapshot and returns why it declines.
async fn declined(lease: &Lease, partition: u32, min_lsn: u64) -> anyhow::Result<SnapshotDeclined> {
    let request = CreateSnapshotRequest {
        partition,
        min_lsn,
        request_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
        restorable_snapshots_min: 2,
        ..CreateSnapshotRequest::default()
    };
    let mut events = lease
        .endpoints()
        .worker(2)
        .await?
        .create_snapshot(request)
        .await?
        .into_inner();
    let event = events
        .message()
        .await?
        .and_then(|event| event.event)
        .context("no answer")?;
    match event {
        Event::Declined(declined) => Ok(declined),
        other => anyhow::bail!("not declined: {other:?}"),
    }
}

#[tokio::test]
async fn a_stale_replica_declines_and_names_both_lsns() -> anyhow::Result<()> {
    let lease = lease().await?;
    let far = 1_000_000_000;
    let answer = declined(&lease, 1, far).await?;
    ensure!(answer.reason() == DeclineReason::Behind, "{answer:?}");
    ensure!(answer.min_lsn == Some(far), "{answer:?}");
    let applied = answer.applied_lsn.context("the applied LSN is missing")?;
    says(&answer.message, &[&applied.to_string(), &far.to_string()])?;
    lease.give_back().await
}

#[tokio::test]
async fn an_unknown_partition_is_named() -> anyhow::Result<()> {
    let lease = lease().await?;
    let answer = declined(&lease, 99, 1).await?;
    ensure!(answer.reason() == DeclineReason::UnknownPartition, "{answer:?}");
    says(&answer.message, &["99"])?;

    let explained = lease
        .endpoints()
        .admin()
        .await?
        .explain(ExplainRequest { partition: 99 })
        .await;
    let status = explained.err().context("an unknown partition was explained")?;
    says(status.message(), &["99"])?;
    let digested = lease
        .endpoints()
        .kv(1)
        .await?
        .digest(DigestRequest { partition: 99 })
        .await;
    says(
        digested
            .err()
            .context("an unknown partition has a digest")?
            .message(),
        &["99"],
    )?;

    let admin = lease.endpoints().url(tidemark::cluster::Node::Admin).to_owned();
    let ran = lease
        .run(&["explain", "99", "--admin", &admin], Duration::from_secs(20))
        .await;
    says(&ran.err().context("the command succeeded")?.to_string(), &["99"])?;
    lease.give_back().await
}

#[tokio::test]
async fn a_paused_cluster_makes_no_snapshot_and_trims_nothing() -> anyhow::Result<()> {
    let lease = lease().await?;
    let mut admin = lease.endpoints().admin().await?;
    let pause = PauseRequest {
        partition: None,
        by: "a test".to_owned(),
        reason: "to see it".to_owned(),
    };
    admin.pause(pause).await?;
    for partition in 0..PARTITIONS {
        let held = lease.until_held(partition, &["paused"]).await?;
        says(
            &format!("{} {}", held.detail, held.remedy),
            &["a test", "to see it", "resume"],
        )?;
    }
    // What was on its way when the pause came ends first.
    let settled = wait_for(
        "no snapshot to be in the making",
        Duration::from_secs(30),
        async || {
            for worker in 1..=lease.endpoints().workers() {
                let status = lease
                    .endpoints()
                    .worker_status(worker)
                    .await
                    .map_err(|error| error.to_string())?;
                if status.exports_running > 0 {
                    return Err(status.node);
                }
            }
            lease.view(0).await.map_err(|error| error.to_string())
        },
    );
    let before = settled.await?;
    lease.write_to(0, 3 * SNAPSHOT_AFTER).await?;
    let plan = admin.preview_plan(PreviewPlanRequest {}).await?.into_inner();
    let acts: Vec<_> = plan
        .commands
        .iter()
        .filter(|command| command.action != "lead")
        .collect();
    ensure!(acts.is_empty(), "a paused cluster would act: {acts:?}");
    let trimmed = admin
        .trim(TrimRequest {
            force: true,
            ..TrimRequest::default()
        })
        .await?
        .into_inner();
    ensure!(
        trimmed.partitions.iter().all(|outcome| outcome.code == "paused"),
        "{trimmed:?}"
    );

    let ticks = lease.endpoints().cluster_status().await?.tick + 5;
    wait_for("five looks of the admin", Duration::from_secs(30), async || {
        let tick = lease
            .endpoints()
            .cluster_status()
            .await
            .map_err(|error| error.to_string())?
            .tick;
        if tick >= ticks {
            Ok(())
        } else {
            Err(tick.to_string())
        }
    })
    .await?;
    let after = lease.view(0).await?;
    ensure!(
        after.archived_lsn == before.archived_lsn,
        "{:?} was archived",
        after.archived_lsn
    );
    ensure!(
        after.trim_point == before.trim_point,
        "trimmed up to {:?}",
        after.trim_point
    );

    admin.resume(ResumeRequest { partition: None }).await?;
    lease.give_back().await
}
