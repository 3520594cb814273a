//! The policy changes while the scheduler runs; a faulty one changes nothing.

use crate::cluster::{Cluster, Running, p, policy};
use snapshot_proto::v1::{self, admin_service_server::AdminService as _};
use snapshot_scheduler::{AdminService, Policy, PolicyOverride, PolicySource, ReloadError, SchedulerOptions};
use snapshot_store::core::HoldReason;
use std::sync::{Arc, Mutex};
use tonic::{Code, Request};
use tonic_types::StatusExt;

/// A file that a test rewrites.
struct Source(Mutex<Result<Policy, String>>);

impl Source {
    fn set(&self, next: Result<Policy, String>) {
        *self.0.lock().unwrap() = next;
    }
}

impl PolicySource for Source {
    fn read(&self) -> Result<Policy, String> {
        self.0.lock().unwrap().clone()
    }
}

fn with_source(cluster: &Cluster) -> (Running, Arc<Source>) {
    let source = Arc::new(Source(Mutex::new(Ok(policy()))));
    let with = source.clone();
    let running = cluster.start_with("admin", policy(), SchedulerOptions::default(), |builder| {
        builder.policy_source(with)
    });
    (running, source)
}

fn state(running: &Running) -> v1::PolicyState {
    running.handle.status().policy.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_is_in_force_from_the_next_tick_on_and_says_what_changed() {
    let cluster = Cluster::new(1).await;
    let (running, source) = with_source(&cluster);
    cluster.append(p(0), 70).await;
    running
        .until("not due", |running| running.snapshot_code(0) == "not-due")
        .await;
    assert_eq!(
        running.handle.reload_policy().await.unwrap(),
        [],
        "nothing changed yet"
    );
    assert_eq!(state(&running).revision, 1);

    source.set(Ok(Policy {
        snapshot_after_records: 60,
        ..policy()
    }));
    let changes = running.handle.reload_policy().await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to_string(), "policy.snapshot_after_records: 100 -> 60");
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(70)
        })
        .await;
    let state = state(&running);
    assert_eq!((state.revision, state.refused.as_str()), (2, ""));
    assert!(
        state.json.contains("\"snapshot_after_records\":60"),
        "{}",
        state.json
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_faulty_policy_is_refused_with_all_its_faults_and_the_old_one_stays() {
    let cluster = Cluster::new(2).await;
    let (running, source) = with_source(&cluster);
    let rule = PolicyOverride {
        first_partition: 0,
        last_partition: 7,
        snapshot_after_records: Some(60),
        ..PolicyOverride::default()
    };
    source.set(Ok(Policy {
        snapshots_max: 0,
        overrides: vec![rule],
        ..policy()
    }));
    let refused = running.handle.reload_policy().await.unwrap_err();
    let said = refused.to_string();
    for part in [
        "policy.snapshots_max",
        "policy.override[0].last_partition",
        "stays as it is",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(*running.handle.policy(), policy());
    assert!(state(&running).refused.contains("policy.snapshots_max"));

    source.set(Err("admin.toml: no such file".to_owned()));
    assert!(matches!(
        running.handle.reload_policy().await,
        Err(ReloadError::Refused { .. })
    ));
    assert_eq!(state(&running).refused, "admin.toml: no such file");
    // It goes on as before.
    let lsn = cluster.append(p(0), 100).await.get();
    running
        .until("archived", |running| {
            running.partition(0).archived_lsn == Some(lsn)
        })
        .await;
    source.set(Ok(policy()));
    assert_eq!(running.handle.reload_policy().await.unwrap(), []);
    assert_eq!(state(&running).refused, "", "a good one takes the refusal back");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stricter_policy_holds_what_the_old_one_would_trim() {
    let cluster = Cluster::new(1).await;
    let (running, source) = with_source(&cluster);
    source.set(Ok(Policy {
        restorable_snapshots_min: 3,
        ..policy()
    }));
    running.handle.reload_policy().await.unwrap();
    for _ in 0..2 {
        let lsn = cluster.append(p(0), 100).await.get();
        running
            .until("archived", |running| {
                running.partition(0).archived_lsn == Some(lsn)
            })
            .await;
    }
    running.until_held(0, HoldReason::TooFewSnapshots).await;
    assert_eq!(cluster.pointer(p(0)).await.unwrap().restorable_snapshots_min, 3);

    source.set(Ok(policy()));
    running.handle.reload_policy().await.unwrap();
    running
        .until("trimmed", |running| running.partition(0).trim_point == Some(100))
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn operators_reload_over_grpc_and_learn_why_it_was_refused() {
    let cluster = Cluster::new(1).await;
    let (running, source) = with_source(&cluster);
    let service: AdminService = running.handle.clone().into();
    source.set(Ok(Policy {
        retain_records: 5,
        ..policy()
    }));
    let reply = service
        .reload_policy(Request::new(v1::ReloadPolicyRequest {}))
        .await;
    let reply = reply.unwrap().into_inner();
    assert_eq!(reply.changes.len(), 1);
    assert_eq!(
        (
            reply.changes[0].key.as_str(),
            reply.changes[0].from.as_str(),
            reply.changes[0].to.as_str()
        ),
        ("policy.retain_records", "0", "5")
    );
    assert_eq!(reply.policy.unwrap().revision, 2);

    source.set(Err("line 3 is not TOML".to_owned()));
    let refused = service
        .reload_policy(Request::new(v1::ReloadPolicyRequest {}))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "policy-refused");
    assert!(refused.message().contains("line 3 is not TOML"));

    let without = cluster.start_as("other", policy(), SchedulerOptions::default());
    let service: AdminService = without.handle.clone().into();
    let refused = service
        .reload_policy(Request::new(v1::ReloadPolicyRequest {}))
        .await;
    assert_eq!(
        refused.unwrap_err().get_details_error_info().unwrap().reason,
        "no-policy-source"
    );
    without.stop().await;
    running.stop().await;
}
