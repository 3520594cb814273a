//! Two admins on one cluster: one acts, the other takes over; and whatever they believe, nothing is trimmed too far.

use crate::{
    cluster::{Cluster, Running, node, p, policy},
    cut_store::CutStore,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString};
use object_store::path::Path;
use snapshot_scheduler::{SchedulerOptions, TrimMode, TrimResult};
use snapshot_store::{
    AdminSession, LeaseClaim, Lsn, Repository, Timestamp, WriteId,
    core::HoldReason,
    format::{Keys, LeaseEpoch, PauseScope, Stored},
};
use std::{collections::BTreeSet, sync::Mutex, time::Duration};

fn lease_code(running: &Running) -> String {
    running.handle.status().lease.unwrap().code
}

fn options() -> SchedulerOptions {
    SchedulerOptions::default()
}

/// One acts, the other watches; the view of both is warm.
async fn active_and_standby(cluster: &Cluster) -> (Running, Running) {
    let active = cluster.start_as("a1", policy(), options());
    active.until("active", |running| running.handle.acts()).await;
    let standby = cluster.start_as("a2", policy(), options());
    standby
        .until("standby", |running| lease_code(running) == "standby")
        .await;
    (active, standby)
}

/// Trims of `id` rest on the two newest snapshots and on a certificate.
async fn check_guard(cluster: &Cluster, id: u32) {
    let trim_point = cluster.trim_point(p(id)).await;
    if trim_point == Lsn::ZERO {
        return;
    }
    let pointer = cluster.pointer(p(id)).await.unwrap();
    let guard = pointer.snapshots.iter().take(2).map(|entry| entry.lsn).min();
    assert!(
        Some(trim_point) <= guard,
        "{trim_point} is above the guard {guard:?}"
    );
    assert!(trim_point <= cluster.certificate(p(id)).await.unwrap().up_to);
}

#[tokio::test(start_paused = true)]
async fn of_two_admins_one_acts_and_the_other_watches_and_says_so() {
    let cluster = Cluster::new(1).await;
    let (active, standby) = active_and_standby(&cluster).await;
    for _ in 0..2 {
        let lsn = cluster.append(p(0), 100).await.get();
        active
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
    }
    active
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    assert_eq!(cluster.orders().len(), 2, "the standby asked for none");
    let certificate = cluster.certificate(p(0)).await.unwrap();
    assert_eq!(certificate.issued_by.as_str(), "a1");

    // Its view is as warm as the other's, and every answer says why nothing is done.
    standby
        .until("a warm view", |running| {
            let seen = running.partition(0);
            (seen.trim_point, seen.archived_lsn, seen.guard_lsn) == (Some(100), Some(200), Some(100))
        })
        .await;
    let seen = standby.partition(0);
    let codes = [seen.snapshot, seen.trim].map(|reason| reason.unwrap().code);
    assert_eq!(codes, ["standby", "standby"]);
    let lease = standby.handle.status().lease.unwrap();
    assert_eq!(
        (lease.active, lease.holder.as_deref(), lease.epoch),
        (false, Some("a1"), 1)
    );
    assert!(
        lease.expires_at_ms > 0 && lease.detail.contains("a1"),
        "{lease:?}"
    );
    let lines = standby.handle.explain(p(0)).unwrap().lines;
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("this admin: standby: a1")),
        "{lines:?}"
    );
    assert!(active.handle.status().lease.unwrap().active);

    active.stop().await;
    standby.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_leaves_operators_requests_to_the_active_admin_and_still_pauses() {
    let cluster = Cluster::new(1).await;
    let (active, standby) = active_and_standby(&cluster).await;
    cluster.append(p(0), 10).await;
    standby
        .until("view", |running| running.partition(0).tail == Some(11))
        .await;
    let refused = standby.handle.create_snapshot(p(0), Lsn::ZERO, None).unwrap_err();
    assert!(refused.to_string().contains("standby: a1"), "{refused}");
    let reports = standby
        .handle
        .trim(
            &[],
            TrimMode {
                force: true,
                dry_run: false,
            },
        )
        .await;
    assert_eq!(reports[0].result, TrimResult::Held(HoldReason::Standby));
    let reports = standby
        .handle
        .trim(
            &[],
            TrimMode {
                force: false,
                dry_run: true,
            },
        )
        .await;
    assert_eq!(
        reports[0].result,
        TrimResult::Held(HoldReason::TooFewSnapshots),
        "looking is everybody's"
    );

    let scope = PauseScope::Partition(p(0));
    standby.handle.pause(scope, "ops", "maintenance").await.unwrap();
    active.until_held(0, HoldReason::Paused).await;
    active.stop().await;
    standby.stop().await;

    // Both are gone; the pause is not.
    let third = cluster.start_as("a3", policy(), options());
    third.until_held(0, HoldReason::Paused).await;
    third.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_up_is_taken_at_the_next_look() {
    let cluster = Cluster::new(1).await;
    let (active, standby) = active_and_standby(&cluster).await;
    let begun = tokio::time::Instant::now();
    active.stop().await;
    standby.until("takeover", |running| running.handle.acts()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(standby.handle.status().lease.unwrap().epoch, 2);
    let lsn = cluster.append(p(0), 100).await.get();
    standby
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(lsn)
        })
        .await;
    standby.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_admin_that_loses_the_store_is_relieved_and_comes_back_as_standby() {
    let cluster = Cluster::new(2).await;
    let store = CutStore::around(cluster.shared.store.clone());
    let repository = Repository::with_store(
        std::sync::Arc::new(store.clone()),
        Path::default(),
        cluster.shared.seams.clone(),
    );
    let first = cluster.start_on("a1", policy(), options(), repository);
    first.until("active", |running| running.handle.acts()).await;
    let second = cluster.start_as("a2", policy(), options());
    second
        .until("standby", |running| lease_code(running) == "standby")
        .await;

    store.set_cut(true);
    let begun = tokio::time::Instant::now();
    second.until("takeover", |running| running.handle.acts()).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    // Nobody can tell the first one. It goes on, and what it cannot read it does not touch: both act, and it is safe.
    first
        .until("unconfirmed", |running| lease_code(running) == "unconfirmed")
        .await;
    for _ in 0..6 {
        for id in 0..2 {
            cluster.append(p(id), 70).await;
        }
        tokio::time::sleep(Duration::from_millis(3700)).await;
        for id in 0..2 {
            check_guard(&cluster, id).await;
        }
    }
    assert!(
        cluster.trim_point(p(0)).await >= Lsn::new(100),
        "the second one makes progress"
    );
    assert!(first.handle.acts() && second.handle.acts());

    store.set_cut(false);
    first
        .until("standby again", |running| lease_code(running) == "standby")
        .await;
    assert_eq!(first.handle.status().lease.unwrap().holder.as_deref(), Some("a2"));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_lease_says_nothing_is_trimmed_above_the_guard() {
    let cluster = Cluster::new(2).await;
    let admins = [
        cluster.start_as("a1", policy(), options()),
        cluster.start_as("a2", policy(), options()),
    ];
    for round in 0..12_u64 {
        for id in 0..2 {
            cluster.append(p(id), 70).await;
        }
        // Somebody forges it, deletes it, or puts an old one back, while requests are under way.
        if let Some(mut lease) = cluster
            .shared
            .repository
            .lease()
            .await
            .unwrap()
            .map(|found| found.value)
        {
            lease.write_id = WriteId::new(cluster.shared.seams.ulid());
            match round % 4 {
                0 => lease.epoch = LeaseEpoch::new(round),
                1 => lease.given_up = true,
                2 => lease.expires_at = Timestamp::from_millis(round),
                _ => lease.holder = crate::cluster::node("a9"),
            }
            cluster.put(Keys::LEASE, lease.encode()).await;
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(2900)).await;
        for id in 0..2 {
            check_guard(&cluster, id).await;
        }
        if round % 5 == 4 {
            cluster.delete(Keys::LEASE).await;
        }
    }
    admins[0]
        .until("progress", |running| {
            (0..2).all(|id| running.partition(id).trim_point >= Some(100))
        })
        .await;
    for admin in admins {
        admin.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_understood_is_left_alone_and_put_aside_it_is_made_anew() {
    let cluster = Cluster::new(1).await;
    cluster.put(Keys::LEASE, b"{\"format\": 99}".to_vec()).await;
    let running = cluster.start(policy());
    running
        .until("unusable", |running| lease_code(running) == "unusable")
        .await;
    let lease = running.handle.status().lease.unwrap();
    assert!(lease.detail.contains("admin/lease.json") && lease.remedy.contains("put the object aside"));
    running.until_held(0, HoldReason::Standby).await;

    cluster.delete(Keys::LEASE).await;
    running.until("active", |running| running.handle.acts()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_admin_takes_its_own_lease_back_at_once() {
    let cluster = Cluster::new(1).await;
    let first = cluster.start_as("a1", policy(), options());
    first.until("active", |running| running.handle.acts()).await;
    let begun = tokio::time::Instant::now();
    // The first process is not told: a second one under its name is what a restart looks like.
    let second = cluster.start_as("a1", policy(), options());
    second.until("active", |running| running.handle.acts()).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    first.until("standby", |running| !running.handle.acts()).await;
    // Two that run for long under one name do not take it from each other.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(second.handle.status().lease.unwrap().epoch, 2);
    first.stop().await;
    second.stop().await;
}

/// Remembers which metrics were touched.
#[derive(Default)]
struct Touched(Mutex<BTreeSet<String>>);

impl Touched {
    fn has(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains(name)
    }
}

impl metrics::Recorder for Touched {
    fn describe_counter(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.lock().unwrap().insert(key.name().to_owned());
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.lock().unwrap().insert(key.name().to_owned());
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_exports_its_lease_polls_and_view_and_what_is_said_of_the_cluster_only_once_it_acts() {
    let touched = Touched::default();
    let _here = metrics::set_default_local_recorder(&touched);
    let cluster = Cluster::new(1).await;
    cluster.append(p(0), 40).await;
    let other = LeaseClaim {
        cluster: cluster.shared.record.cluster.clone(),
        holder: node("other"),
        session: AdminSession::new(cluster.shared.seams.ulid()),
        address: None,
        term: Duration::from_secs(30),
    };
    cluster.shared.repository.take_lease(&other, None).await.unwrap();
    let running = cluster.start(policy());
    running
        .until("it watches", |running| lease_code(running) == "standby")
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let own = [
        "tidemark_admin_active",
        "tidemark_admin_lease_state",
        "tidemark_admin_nodes",
        "tidemark_admin_poll_seconds",
        "tidemark_admin_requests_in_flight",
        "tidemark_admin_view_age_seconds",
    ];
    let of_the_cluster = [
        "tidemark_admin_partitions",
        "tidemark_admin_replicas",
        "tidemark_admin_held_partitions",
        "tidemark_admin_partition_hold",
        "tidemark_admin_tail_lsn",
        "tidemark_admin_log_held_max_bytes",
        "tidemark_admin_log_held_quantile_bytes",
        "tidemark_admin_paused_scopes",
    ];
    assert!(own.iter().all(|name| touched.has(name)), "{:?}", touched.0);
    assert!(
        !of_the_cluster.iter().any(|name| touched.has(name)),
        "{:?}",
        touched.0
    );
    // The other one is never heard of again.
    running.until("it acts", |running| running.handle.acts()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        of_the_cluster.iter().all(|name| touched.has(name)),
        "{:?}",
        touched.0
    );
    running.stop().await;
}
