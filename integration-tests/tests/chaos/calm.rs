//! What must be so when all disturbances have ended.

use crate::everything::{Everything, PARTITIONS, WITHIN, WORKERS};
use anyhow::{Context, ensure};
use integration_tests::{
    acknowledged::{Load, check_content},
    replicas::{content, log_info, settled},
};
use snapshot_store::PartitionId;
use std::{collections::BTreeMap, path::Path};
use tidemark::cluster::{ClusterError, Node, wait_for};

/// What `snapshots verify` says when nothing is damaged, and interrupted uploads are left.
const ONLY_LEFTOVERS: i32 = 3;

/// Lets everything come to rest under the load, ends that, and looks at all that there is.
pub(crate) async fn check(everything: &mut Everything, load: Load) -> anyhow::Result<()> {
    everything.faults.set_active(false);
    everything.cluster.until_healthy(WITHIN).await?;
    until_trimmed_further(everything, &load).await?;
    let written = load.finish().await?;
    everything.cluster.until_healthy(WITHIN).await?;
    settled(everything.cluster.endpoints(), PARTITIONS, WITHIN).await?;
    for worker in 1..=WORKERS {
        let held = content(everything.cluster.endpoints(), worker, PARTITIONS).await?;
        check_content(&held, &written).with_context(|| format!("on worker {worker}"))?;
    }
    everything.check_trims().await?;
    verify(everything).await?;
    everything_is_named(everything).await?;
    for worker in 1..=WORKERS {
        until_tidy(&everything.data_dir(Node::Worker(worker))).await?;
    }
    Ok(())
}

/// Every partition is trimmed beyond where it was, while the load goes on: a snapshot that comes after the last write moves
/// no guard.
async fn until_trimmed_further(everything: &Everything, load: &Load) -> anyhow::Result<()> {
    let mut before = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let info = log_info(everything.cluster.endpoints(), partition).await?;
        before.insert(partition, info.trim_point);
    }
    wait_for("every log to be trimmed further", WITHIN, async || {
        let mut waiting = Vec::new();
        for (partition, before) in &before {
            let info = log_info(everything.cluster.endpoints(), *partition).await;
            let now = info.map_err(|error| format!("{error:#}"))?.trim_point;
            if now <= *before {
                waiting.push(*partition);
            }
        }
        match waiting.is_empty() {
            true => Ok(()),
            false => Err(format!("not {waiting:?}, {} acknowledged", load.acknowledged())),
        }
    })
    .await?;
    Ok(())
}

/// All that is published can be restored, as `tidemark snapshots verify` finds.
async fn verify(everything: &Everything) -> anyhow::Result<()> {
    let store = everything.store_arguments();
    let mut arguments = vec!["snapshots", "verify", "--level", "restore"];
    arguments.extend(store.iter().map(String::as_str));
    match everything.cluster.run(&arguments, WITHIN).await {
        Err(ClusterError::Command { status, .. }) if status.code() == Some(ONLY_LEFTOVERS) => Ok(()),
        ran => Ok(ran.map(drop)?),
    }
}

/// Nothing lies in the bucket that Tidemark did not write.
async fn everything_is_named(everything: &Everything) -> anyhow::Result<()> {
    let repository = everything.repository()?;
    let base = repository.survey_base(PARTITIONS).await?;
    ensure!(base.unknown.is_empty(), "{:?}", base.unknown);
    for partition in 0..PARTITIONS {
        let survey = repository.survey(PartitionId::new(partition)).await?;
        ensure!(survey.unknown.is_empty(), "{:?}", survey.unknown);
    }
    Ok(())
}

/// Waits until a worker's folder holds what `docs/formats.md` names, and nothing that belongs to a job.
async fn until_tidy(data_dir: &Path) -> anyhow::Result<()> {
    let what = format!("{} to be tidy", data_dir.display());
    wait_for(&what, WITHIN, async || match leftovers(data_dir) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("left: {left:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await?;
    Ok(())
}

fn leftovers(data_dir: &Path) -> anyhow::Result<Vec<String>> {
    let partitions: Vec<String> = (0..PARTITIONS).map(|number| number.to_string()).collect();
    let archived = partitions.iter().map(|number| format!("archived/{number}.json"));
    let states = partitions
        .iter()
        .map(|number| format!("partitions/{number}/state"));
    let mut known: Vec<String> = archived.chain(states).collect();
    known.push("identity.json".to_owned());
    let mut left = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(data_dir.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = match folder.is_empty() {
                true => name,
                false => format!("{folder}/{name}"),
            };
            if known.contains(&path) {
                continue;
            }
            // Folders may be there, with nothing in them that is not known.
            match entry.file_type()?.is_dir() {
                true => folders.push(path),
                false => left.push(path),
            }
        }
    }
    Ok(left)
}
