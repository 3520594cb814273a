//! The ways in which anomalies come about: `snapshots verify` finds each under its name, at every level at which it shows, and
//! says so in its exit code. That no kind is left out is for `every_kind`.

use crate::bucket::{Answer, Bucket, P0};
use anyhow::{Context, ensure};
use snapshot_store::{
    AnomalyKind, ClusterIdentity, Fingerprint, Incarnation, IncarnationId, PartitionId, Severity,
    format::{Certificate, Keys, PointerEntry, Stored},
};
use std::collections::BTreeSet;

/// Nothing is damaged, and something wants cleaning up.
const FINDINGS: i32 = 3;

/// The exit code for anomalies of this kind alone.
pub(crate) fn exit_code(kind: AnomalyKind) -> i32 {
    match kind.severity() {
        Severity::Damage => 1,
        Severity::Finding => FINDINGS,
    }
}

impl Answer {
    /// Kind and key of all anomalies, wherever they stand in the answer.
    pub(crate) fn anomalies(&self) -> BTreeSet<(String, String)> {
        let of = |list: &str| self.json[list].as_array().cloned().unwrap_or_default();
        let places = of("places").into_iter().chain(of("snapshots"));
        let anomalies = places.flat_map(|place| place["anomalies"].as_array().cloned().unwrap_or_default());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        anomalies
            .map(|anomaly| (text(&anomaly["kind"]), text(&anomaly["key"])))
            .collect()
    }
}

/// Has the repository verified, and expects exactly this anomaly.
fn expect(bucket: &Bucket, kind: AnomalyKind, key: &str, level: &str) -> anyhow::Result<()> {
    let answer = bucket.snapshots(&["verify", "--level", level])?;
    let expected = BTreeSet::from([(kind.as_str().to_owned(), key.to_owned())]);
    ensure!(
        answer.anomalies() == expected,
        "expected {kind} at {key}: {answer:?}"
    );
    ensure!(answer.code == Some(exit_code(kind)), "{kind}: {answer:?}");
    ensure!(answer.json["ok"] == false, "{answer:?}");
    Ok(())
}

/// Expects it at each level at which it shows.
fn expect_at_every_level(bucket: &Bucket, kind: AnomalyKind, key: &str) -> anyhow::Result<()> {
    for level in ["presence", "content", "restore"] {
        expect(bucket, kind, key, level)?;
    }
    Ok(())
}

pub(crate) fn other_cluster() -> ClusterIdentity {
    ClusterIdentity {
        name: "other".to_owned(),
        fingerprint: Fingerprint::from_bytes([0xee; 16]),
    }
}

/// A file of the newest snapshot that is large enough to be spoilt.
pub(crate) async fn a_file(bucket: &Bucket) -> anyhow::Result<(PointerEntry, String)> {
    let entry = bucket.pointer().await?.snapshots.remove(0);
    let manifest = bucket.repository.manifest(P0, &entry).await?;
    let file = manifest.files.iter().find(|file| file.name.ends_with(".sst"));
    let key = Keys::file(P0, &entry.path, &file.context("the state has a table")?.name);
    Ok((entry, key))
}

#[tokio::test]
async fn a_sound_repository_passes_at_every_level() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    for level in ["presence", "content", "restore"] {
        let answer = bucket.snapshots(&["verify", "--level", level])?;
        ensure!(answer.code == Some(0), "{answer:?}");
        let snapshots = answer.json["snapshots"].as_array().context("a list")?;
        ensure!(snapshots.len() == 2, "{answer:?}");
        for snapshot in snapshots {
            ensure!(snapshot["result"] == "ok", "{answer:?}");
            ensure!(
                (snapshot["bytes_read"] != 0) == (level != "presence"),
                "{answer:?}"
            );
            ensure!(
                snapshot["state_digest"].is_string() == (level == "restore"),
                "{answer:?}"
            );
        }
    }
    let pointer = bucket.pointer().await?;
    let manifest = bucket.repository.manifest(P0, &pointer.snapshots[0]).await?;
    let id = pointer.snapshots[0].snapshot_id.to_string();
    let answer = bucket.snapshots(&[
        "verify",
        "--level",
        "restore",
        "--partition",
        "0",
        "--snapshot",
        &id,
    ])?;
    let digest = manifest
        .state_digest
        .context("the manifest has a digest")?
        .to_string();
    ensure!(
        answer.json["snapshots"][0]["state_digest"] == digest,
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test]
async fn damaged_pointers_are_found() -> anyhow::Result<()> {
    let key = Keys::pointer(P0);
    let bucket = Bucket::new().await?;
    bucket.remove(&key)?;
    expect_at_every_level(&bucket, AnomalyKind::PointerMissing, &key)?;
    bucket.write(&key, "{")?;
    expect_at_every_level(&bucket, AnomalyKind::PointerUnreadable, &key)?;
    bucket.write(&key, r#"{"format": 99}"#)?;
    expect_at_every_level(&bucket, AnomalyKind::NewerFormat, &key)?;

    let bucket = Bucket::new().await?;
    bucket
        .change_pointer(|pointer| pointer.cluster = other_cluster())
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::ForeignCluster, &key)?;

    let bucket = Bucket::new().await?;
    bucket
        .change_pointer(|pointer| pointer.partition = PartitionId::new(1))
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::WrongSnapshot, &key)?;

    let bucket = Bucket::new().await?;
    let rival = Incarnation {
        id: IncarnationId::from_bytes([9; 16]),
        ..bucket.incarnation()
    };
    bucket
        .change_pointer(|pointer| pointer.snapshots[0].incarnation = rival)
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::WrongIncarnation, &key)?;

    let bucket = Bucket::new().await?;
    let old = bucket.pointer().await?;
    for lsn in [300, 400] {
        bucket.publish(lsn).await?;
    }
    bucket.certify(300).await?;
    bucket.write(&key, old.encode())?;
    expect_at_every_level(&bucket, AnomalyKind::PointerBehind, &key)
}

#[tokio::test]
async fn damaged_certificates_are_found() -> anyhow::Result<()> {
    let key = Keys::certificate(P0);
    let bucket = Bucket::new().await?;
    let original = std::fs::read(bucket.path(&key))?;
    bucket.write(&key, "{")?;
    expect_at_every_level(&bucket, AnomalyKind::CertificateUnreadable, &key)?;
    let mut certificate = Certificate::decode(&key, &original)?;
    certificate.cluster = other_cluster();
    bucket.write(&key, certificate.encode())?;
    expect_at_every_level(&bucket, AnomalyKind::ForeignCluster, &key)
}

#[tokio::test]
async fn missing_objects_are_found() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let (entry, file) = a_file(&bucket).await?;
    bucket.remove(&file)?;
    expect_at_every_level(&bucket, AnomalyKind::MissingFile, &file)?;
    let manifest = Keys::manifest(P0, &entry.path);
    bucket.remove(&manifest)?;
    expect_at_every_level(&bucket, AnomalyKind::MissingManifest, &manifest)?;
    let folder = format!("0/{}/", entry.path);
    std::fs::remove_dir_all(bucket.path(&folder))?;
    expect_at_every_level(&bucket, AnomalyKind::PointerToNothing, &folder)
}

#[tokio::test]
async fn changed_files_are_found() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let (_, file) = a_file(&bucket).await?;
    let mut bytes = std::fs::read(bucket.path(&file))?;
    bytes[10] ^= 1;
    bucket.write(&file, &bytes)?;
    let answer = bucket.snapshots(&["verify", "--level", "presence"])?;
    ensure!(answer.code == Some(0), "presence proves no content: {answer:?}");
    for level in ["content", "restore"] {
        expect(&bucket, AnomalyKind::WrongHash, &file, level)?;
    }
    bytes.pop();
    bucket.write(&file, &bytes)?;
    expect_at_every_level(&bucket, AnomalyKind::WrongSize, &file)
}

#[tokio::test]
async fn changed_manifests_are_found() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let key = Keys::manifest(P0, &bucket.pointer().await?.snapshots[0].path);
    let original = std::fs::read(bucket.path(&key))?;
    bucket.put_manifest(b"{").await?;
    expect_at_every_level(&bucket, AnomalyKind::UnreadableManifest, &key)?;
    bucket.put_manifest(br#"{"format": 99}"#).await?;
    expect_at_every_level(&bucket, AnomalyKind::NewerFormat, &key)?;
    bucket.put_manifest(&original).await?;
    bucket
        .change_manifest(|manifest| manifest.partition = PartitionId::new(1))
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::WrongSnapshot, &key)?;
    bucket.put_manifest(&original).await?;
    bucket
        .change_manifest(|manifest| manifest.incarnation.id = IncarnationId::from_bytes([9; 16]))
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::WrongIncarnation, &key)?;
    bucket.put_manifest(&original).await?;
    bucket
        .change_manifest(|manifest| manifest.cluster = other_cluster())
        .await?;
    expect_at_every_level(&bucket, AnomalyKind::ForeignCluster, &key)?;
    // Written over by hand, without the pointer knowing.
    let foreign = std::fs::read(bucket.path(&key))?;
    bucket.put_manifest(&original).await?;
    bucket.write(&key, foreign)?;
    expect_at_every_level(&bucket, AnomalyKind::ForeignCluster, &key)
}

#[tokio::test]
async fn a_state_that_is_not_what_its_manifest_says_is_found_by_opening_it() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let entry = bucket.publish_as(300, 299).await?;
    let key = Keys::manifest(P0, &entry.path);
    let answer = bucket.snapshots(&["verify", "--level", "content"])?;
    ensure!(
        answer.code == Some(0),
        "its files are what they should be: {answer:?}"
    );
    expect(&bucket, AnomalyKind::WrongState, &key, "restore")
}

#[tokio::test]
async fn what_ended_early_and_what_is_strange_are_findings() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let dead = bucket.directory(150);
    bucket.write(&format!("0/{dead}/000007.sst#1"), "half a file")?;
    expect_at_every_level(&bucket, AnomalyKind::UnfinishedDirectory, &format!("0/{dead}/"))?;

    let bucket = Bucket::new().await?;
    let running = bucket.directory(900);
    bucket.write(&format!("0/{running}/000007.sst"), "a file")?;
    let answer = bucket.snapshots(&["verify"])?;
    ensure!(answer.code == Some(0), "an upload may be going on: {answer:?}");

    for key in ["0/notes.txt", "readme.txt"] {
        let bucket = Bucket::new().await?;
        bucket.write(key, "a note")?;
        expect_at_every_level(&bucket, AnomalyKind::UnknownObject, key)?;
    }
    let bucket = Bucket::new().await?;
    bucket.write("notes/one.txt", "a note")?;
    expect_at_every_level(&bucket, AnomalyKind::UnknownObject, "notes/")
}
