//! The last words that are hard to bring about: holds that take a store which fails at the right moment, and every decline,
//! counted under the word it has everywhere.

use crate::{
    cluster::{Cluster, Running, p, policy},
    cut_store::CutStore,
    holds::{snapshots, sticky, trimmed_by},
    worker::FakeWorker,
};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use object_store::path::Path;
use snapshot_proto::v1;
use snapshot_scheduler::{AuditPolicy, Policy, SchedulerOptions, TrimMode, TrimResult};
use snapshot_store::{
    CertificateDraft, Lsn, Repository,
    core::HoldReason,
    format::{CertifiedSnapshot, Keys, Unknown, VerifyLevel},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
};

/// Counts what is counted, by name and value of the one label.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<(String, String), Arc<Count>>>);

#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }
    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::SeqCst);
    }
}

impl Counts {
    fn of(&self, name: &str, label: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        let count = counts.get(&(name.to_owned(), label.to_owned()));
        count.map_or(0, |count| count.0.load(Ordering::SeqCst))
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let label = key.labels().next().map_or("", |label| label.value());
        let place = (key.name().to_owned(), label.to_owned());
        Counter::from_arc(self.0.lock().unwrap().entry(place).or_default().clone())
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Runs `test` under a paused clock with a recorder of its own.
fn counted(test: impl AsyncFnOnce(&Counts)) {
    let counts = Counts::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    with_local_recorder(&counts, || runtime.block_on(test(&counts)));
}

/// An admin that reaches the store of `cluster` through `store`.
fn start_on(cluster: &Cluster, store: &CutStore) -> Running {
    let store = Arc::new(store.clone());
    let repository = Repository::with_store(store, Path::default(), cluster.shared.seams.clone());
    cluster.start_on("admin", policy(), SchedulerOptions::default(), repository)
}

#[test]
fn every_decline_is_counted_under_the_word_of_the_worker() {
    let reasons = [
        (v1::DeclineReason::UnknownPartition, "unknown-partition"),
        (v1::DeclineReason::Behind, "behind"),
        (v1::DeclineReason::Running, "running"),
        (v1::DeclineReason::NotActive, "not-active"),
        (v1::DeclineReason::Covered, "covered"),
        (v1::DeclineReason::Busy, "busy"),
        (v1::DeclineReason::Stopping, "stopping"),
    ];
    for (reason, word) in reasons {
        counted(async |counts| {
            let cluster = Cluster::new(1).await;
            for worker in &cluster.workers {
                let declined = v1::SnapshotDeclined {
                    reason: reason.into(),
                    ..Default::default()
                };
                FakeWorker::lock(worker).declines.push(declined);
            }
            let running = cluster.start(policy());
            cluster.append(p(0), 100).await;
            let name = "tidemark_admin_declines_total";
            running.until(word, |_| counts.of(name, word) > 0).await;
            assert!(counts.of("tidemark_admin_snapshot_outcomes_total", "declined") > 0);
            running.stop().await;
        });
    }
}

#[test]
fn a_pointer_that_cannot_be_read_before_a_trim_holds_it() {
    counted(async |_| {
        let cluster = Cluster::new(1).await;
        let store = CutStore::around(cluster.shared.store.clone());
        let running = trimmed_by(&cluster, start_on(&cluster, &store)).await;
        // All of it gone is `control-unreadable`: that is read first.
        store.cut_reads_of(Some("latest.json"));
        let mode = TrimMode {
            force: false,
            dry_run: false,
        };
        let reports = running.handle.trim(&[], mode).await;
        assert_eq!(reports[0].result, TrimResult::Held(HoldReason::StoreUnavailable));
        store.cut_reads_of(None);
        running.stop().await;
    });
}

#[test]
fn another_admin_that_certifies_first_holds_the_trim_and_what_it_certified_is_trimmed_next() {
    counted(async |counts| {
        let cluster = Cluster::new(1).await;
        for worker in &cluster.workers {
            worker.lock().fail_verify = true;
        }
        let store = CutStore::around(cluster.shared.store.clone());
        let running = start_on(&cluster, &store);
        snapshots(&cluster, &running, 2).await;
        running.until_held(0, HoldReason::UnverifiedSnapshot).await;
        let pointer = cluster.pointer(p(0)).await.unwrap();
        let rival = CertificateDraft {
            cluster: cluster.shared.record.cluster.clone(),
            partition: p(0),
            incarnation: cluster.shared.record.incarnations[&p(0)],
            up_to: Lsn::new(100),
            snapshots: pointer
                .snapshots
                .iter()
                .map(|entry| CertifiedSnapshot {
                    snapshot_id: entry.snapshot_id,
                    lsn: entry.lsn,
                    path: entry.path,
                    manifest_hash: entry.manifest_hash,
                    verified: VerifyLevel::Content,
                    verified_by: crate::cluster::node("w3"),
                    verified_at: entry.created_at,
                    unknown: Unknown::default(),
                })
                .collect(),
            issued_by: crate::cluster::node("rival"),
        };
        store.certify_first(cluster.shared.repository.clone(), rival);
        for worker in &cluster.workers {
            worker.lock().fail_verify = false;
        }
        running.until_held(0, HoldReason::LostRace).await;
        assert_eq!(cluster.trim_point(p(0)).await, Lsn::ZERO);
        assert!(counts.of("tidemark_admin_holds_total", "lost-race") > 0);
        running
            .until("trimmed", |running| running.partition(0).trim_point == Some(100))
            .await;
        assert_eq!(
            cluster.certificate(p(0)).await.unwrap().issued_by.as_str(),
            "rival"
        );
        running.stop().await;
    });
}

/// A pointer decided before the certificate was written has evicted what that names. It is looked at all the same, and
/// nothing is held for it.
#[test]
fn the_audit_looks_at_what_only_the_certificate_names() {
    counted(async |counts| {
        let cluster = Cluster::new(1).await;
        let audit = AuditPolicy {
            interval_ms: 1000,
            requests_per_second: 100,
            ..AuditPolicy::default()
        };
        let running = cluster.start(Policy { audit, ..policy() });
        let running = trimmed_by(&cluster, running).await;
        let certificate = cluster.certificate(p(0)).await.unwrap();
        cluster
            .overwrite_pointer(p(0), |pointer| pointer.snapshots.truncate(1))
            .await;
        let only = certificate.snapshots[1].clone();
        let said = format!(
            "only the certificate names snapshot {} at {}",
            only.snapshot_id, only.lsn
        );
        let explained = |running: &Running| format!("{:?}", running.handle.explain(p(0)));
        running
            .until("the pointer to be read", |running| {
                explained(running).contains(&said)
            })
            .await;
        cluster.delete(&Keys::manifest(p(0), &only.path)).await;
        running
            .until("it to be found", |_| {
                counts.of("tidemark_admin_anomalies_total", "missing-manifest") > 0
            })
            .await;
        assert!(counts.of("tidemark_admin_audits_total", "presence") > 0);
        assert_eq!(sticky(&cluster).await, []);
        assert_eq!(running.trim_code(0), HoldReason::TooFewSnapshots.as_str());
        running.stop().await;
    });
}
