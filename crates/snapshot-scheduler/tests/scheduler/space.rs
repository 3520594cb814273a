//! What the admin deletes from the store after trims, and what it does not.

use crate::cluster::{Cluster, Running, p, policy};
use crate::holds::{snapshots, trimmed};
use snapshot_scheduler::Policy;
use snapshot_store::{DirectoryState, Survey};
use std::time::Duration;

/// Brings the cluster to snapshots at 100 to 400 and a trim point of 300.
async fn with_evicted(cluster: &Cluster, policy: Policy) -> Running {
    let running = trimmed(cluster, policy).await;
    for trim_point in [200, 300] {
        snapshots(cluster, &running, 1).await;
        running
            .until("trimmed", |running| {
                running.partition(0).trim_point == Some(trim_point)
            })
            .await;
    }
    // The clean-up comes after the trim.
    tokio::time::sleep(Duration::from_secs(5)).await;
    running
}

async fn survey(cluster: &Cluster) -> Survey {
    cluster.shared.repository.survey(p(0)).await.unwrap()
}

fn lsns(survey: &Survey, state: DirectoryState) -> Vec<u64> {
    let of_state = survey.directories.iter().filter(|found| found.state == state);
    of_state.map(|found| found.directory.lsn.get()).collect()
}

#[tokio::test(start_paused = true)]
async fn with_prune_what_nothing_depends_on_goes_after_a_trim() {
    let cluster = Cluster::new(1).await;
    let prune = Policy {
        prune: Some(true),
        ..policy()
    };
    let running = with_evicted(&cluster, prune).await;
    let survey = survey(&cluster).await;
    assert_eq!(lsns(&survey, DirectoryState::Evicted), [0; 0]);
    assert_eq!(lsns(&survey, DirectoryState::Retained), [200, 300, 400]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_prune_everything_stays() {
    let cluster = Cluster::new(1).await;
    let running = with_evicted(&cluster, policy()).await;
    let survey = survey(&cluster).await;
    assert_eq!(lsns(&survey, DirectoryState::Evicted), [100]);
    assert_eq!(survey.deletable().count(), 1, "an operator may sweep it");
    running.stop().await;
}
