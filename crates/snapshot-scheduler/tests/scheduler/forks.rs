//! The admin of a cluster that was forked from another one.

use crate::cluster::{Cluster, p, policy};
use snapshot_store::{Lsn, core::HoldReason};

const BASE: Lsn = Lsn::new(1000);

#[tokio::test(start_paused = true)]
async fn a_fork_is_trimmed_from_its_base_on_under_certificates_of_its_own_generation() {
    let cluster = Cluster::forked(1, BASE).await;
    let running = cluster.start(policy());
    running
        .until("the fork", |running| {
            let view = running.partition(0);
            (view.trim_point, view.archived_lsn) == (Some(1000), Some(1000))
        })
        .await;
    running.until_held(0, HoldReason::TooFewSnapshots).await;

    // The forked snapshot counts as restorable, so that the guard is the base: nothing to trim.
    assert_eq!(cluster.append(p(0), 100).await, Lsn::new(1100));
    running
        .until("first", |running| running.partition(0).archived_lsn == Some(1100))
        .await;
    running.until_held(0, HoldReason::NothingToTrim).await;
    assert_eq!(running.partition(0).guard_lsn, Some(1000));
    assert!(cluster.certificate(p(0)).await.is_none());
    assert_eq!(cluster.trim_point(p(0)).await, BASE);

    cluster.append(p(0), 100).await;
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(1100))
        .await;
    let certificate = cluster.certificate(p(0)).await.unwrap();
    assert_eq!(certificate.incarnation, cluster.shared.record.incarnations[&p(0)]);
    assert_eq!(
        (certificate.incarnation.generation, certificate.up_to),
        (2, Lsn::new(1100))
    );
    let lsns: Vec<u64> = certificate
        .snapshots
        .iter()
        .map(|entry| entry.lsn.get())
        .collect();
    assert_eq!(lsns, [1200, 1100]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fork_whose_pointer_is_gone_is_held_by_name() {
    let cluster = Cluster::forked(1, BASE).await;
    cluster.delete("0/latest.json").await;
    // A snapshot at the base, made anew, would mend it.
    for worker in &cluster.workers {
        worker.lock().fail_snapshots = true;
    }
    let running = cluster.start(policy());
    running.until_held(0, HoldReason::PointerMissing).await;
    running.stop().await;
}
