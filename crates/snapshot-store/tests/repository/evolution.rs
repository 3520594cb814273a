//! Nodes of two versions on one repository: what the newer one wrote is kept, and what the older one cannot know is left alone.

use super::*;
use serde_json::{Value, json};
use snapshot_store::{
    AnomalyKind, CertificateDraft, CertificateError, CheckLevel, InitError, StoreError,
    format::{FormatError, Keys, Pause, PauseScope, Unknown},
};

/// A document as only the next major version would write it.
const NEWER: &str = r#"{"format": 2, "everything": "else"}"#;

impl World {
    async fn json(&self, key: &str) -> Value {
        serde_json::from_slice(&self.get(key).await).unwrap()
    }

    async fn control_change(&self, name: &str) -> Result<(), StoreError> {
        let pause = Pause {
            scope: PauseScope::Cluster,
            by: name.to_owned(),
            at: at(1),
            reason: "a look".to_owned(),
            moved_to: None,
            unknown: Unknown::default(),
        };
        let changed = self
            .repository
            .update_control(&self.record.cluster, |control| control.pauses.push(pause.clone()));
        changed.await.map(drop)
    }

    fn draft_at(&self, up_to: u64) -> CertificateDraft {
        CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: vec![certified(&entry_of(self.incarnation(), up_to, 1))],
            issued_by: node("admin-1"),
        }
    }
}

fn is_newer(error: &StoreError, key: &str) -> bool {
    error.to_string().contains(key)
        && matches!(error, StoreError::Unusable(FormatError::Newer { found: 2, .. }))
}

#[tokio::test(start_paused = true)]
async fn a_replaced_pointer_keeps_what_a_later_version_added() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let key = Keys::pointer(P0);
    let mut later = world.json(&key).await;
    later["zz_document"] = json!({"a": [1]});
    later["snapshots"][0]["zz_entry"] = json!("kept");
    later["history"][0]["zz_history"] = json!(3);
    world.put(&key, later.to_string()).await;

    world.publish(200, 2).await.unwrap();
    let written = world.json(&key).await;
    assert_eq!(written["zz_document"], json!({"a": [1]}));
    assert_eq!(written["snapshots"][0].get("zz_entry"), None, "that is ours");
    assert_eq!(written["snapshots"][1]["zz_entry"], "kept");
    assert_eq!(written["history"][1]["zz_history"], 3);
    assert_eq!(world.retained().await, [200, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_control_state_keeps_what_a_later_version_added() {
    let world = World::new().await;
    world.control_change("ann").await.unwrap();
    let mut later = world.json(Keys::CONTROL).await;
    later["zz_document"] = json!([null]);
    later["pauses"][0]["zz_pause"] = json!("kept");
    later["holds"] = json!([{
        "partition": 0, "reason": "log-regressed", "since": "2025-10-09T08:53:20.002Z", "detail": "seen", "zz_hold": 1,
    }]);
    world.put(Keys::CONTROL, later.to_string()).await;

    world.control_change("bob").await.unwrap();
    let written = world.json(Keys::CONTROL).await;
    assert_eq!(written["pauses"].as_array().unwrap().len(), 2);
    assert_eq!(written["zz_document"], json!([null]));
    assert_eq!(written["pauses"][0]["zz_pause"], "kept");
    assert_eq!(written["holds"][0]["zz_hold"], 1);
    assert_ne!(written["write_id"], later["write_id"]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_pointer_stops_publishing_and_is_left_alone() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let key = Keys::pointer(P0);
    world.put(&key, NEWER).await;
    let before = world.keys().await;
    let error = world.publish(200, 2).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Store(error) if is_newer(error, &key)),
        "{error}"
    );
    assert_eq!(world.get(&key).await, NEWER.as_bytes());
    assert_eq!(world.keys().await, before, "nothing was uploaded");
}

#[tokio::test(start_paused = true)]
async fn a_newer_certificate_stops_publishing_and_certifying_and_is_left_alone() {
    let world = World::new().await;
    world.publish(100, 1).await.unwrap();
    let key = Keys::certificate(P0);
    world.put(&key, NEWER).await;
    let error = world.publish(200, 2).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Store(error) if is_newer(error, &key)),
        "{error}"
    );
    let error = world
        .repository
        .write_certificate(world.draft_at(100))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CertificateError::Store(error) if is_newer(error, &key)),
        "{error}"
    );
    assert_eq!(world.get(&key).await, NEWER.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_newer_control_state_is_not_changed() {
    let world = World::new().await;
    world.put(Keys::CONTROL, NEWER).await;
    let error = world.control_change("ann").await.unwrap_err();
    assert!(is_newer(&error, Keys::CONTROL), "{error}");
    assert_eq!(world.get(Keys::CONTROL).await, NEWER.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_newer_identity_stops_init_and_publishing() {
    let world = World::new().await;
    world.put(Keys::CLUSTER, NEWER).await;
    let error = world.other(7).init(&spec()).await.unwrap_err();
    assert!(
        matches!(&error, InitError::Store(error) if is_newer(error, Keys::CLUSTER)),
        "{error}"
    );
    let error = world.publish(100, 1).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Store(error) if is_newer(error, Keys::CLUSTER)),
        "{error}"
    );
    assert_eq!(world.get(Keys::CLUSTER).await, NEWER.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_newer_manifest_is_no_damage_of_its_bytes_and_is_not_restored() {
    let world = World::new().await;
    let mut entry = world.publish(100, 1).await.unwrap().entry;
    let key = Keys::manifest(P0, &entry.path);
    world.put(&key, NEWER).await;
    entry.manifest_hash = snapshot_store::ContentHash::of(NEWER.as_bytes());
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        let check = world
            .repository
            .check_snapshot(&world.record.cluster, P0, &entry, level, &NoProgress);
        let found = check.await.unwrap().anomalies;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind, &found[0].key), (AnomalyKind::NewerFormat, &key));
    }
    let dir = tempfile::tempdir().unwrap();
    let refused = world
        .repository
        .download(P0, &entry, dir.path(), &NoProgress)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains(&key) && refused.to_string().contains("format 2"),
        "{refused}"
    );
}
