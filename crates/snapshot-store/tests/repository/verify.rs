//! Verifying a partition as a whole: every kind of anomaly is produced, and found under its name.

use super::*;
use faults::Archive;
use snapshot_store::{
    Anomaly, AnomalyKind, CheckLevel, ContentHash, PartitionCheck, Severity,
    format::{Certificate, Keys, Manifest, Pointer, PointerEntry, Stored},
};

const POINTER: &str = "0/latest.json";
const CERTIFICATE: &str = "0/trim.json";

impl World {
    /// Two snapshots and a certificate that rests on them.
    async fn certified() -> Self {
        let world = World::new().await;
        for lsn in [100, 200] {
            world.publish(lsn, u128::from(lsn)).await.unwrap();
        }
        world.certify(100).await;
        world
    }

    async fn check(&self) -> PartitionCheck {
        self.repository.check_partition(&self.record, P0).await.unwrap()
    }

    /// Kind and key of everything that is wrong beside the snapshots.
    async fn found(&self) -> Vec<(AnomalyKind, String)> {
        kinds(&self.check().await.anomalies)
    }

    async fn read_pointer(&self) -> Pointer {
        Pointer::decode(POINTER, &self.get(POINTER).await).unwrap()
    }

    async fn check_snapshot(&self, entry: &PointerEntry, level: CheckLevel) -> Vec<(AnomalyKind, String)> {
        let check = self
            .repository
            .check_snapshot(&self.record.cluster, P0, entry, level, &NoProgress);
        kinds(&check.await.unwrap().anomalies)
    }
}

fn kinds(anomalies: &[Anomaly]) -> Vec<(AnomalyKind, String)> {
    anomalies
        .iter()
        .map(|anomaly| (anomaly.kind, anomaly.key.clone()))
        .collect()
}

fn one(kind: AnomalyKind, key: impl Into<String>) -> Vec<(AnomalyKind, String)> {
    vec![(kind, key.into())]
}

#[tokio::test(start_paused = true)]
async fn nothing_is_wrong_with_a_partition_that_is_new_or_whole() {
    let world = World::new().await;
    assert_eq!(world.found().await, []);
    let world = World::certified().await;
    let check = world.check().await;
    assert_eq!((check.anomalies.len(), check.uploads.len()), (0, 0));
    let lsns: Vec<u64> = check.snapshots.iter().map(|entry| entry.lsn.get()).collect();
    assert_eq!(lsns, [200, 100]);
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check_snapshot(&check.snapshots[0], level).await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_pointer_is_told_from_one_that_never_was() {
    let world = World::certified().await;
    world.delete(POINTER).await;
    assert_eq!(world.found().await, one(AnomalyKind::PointerMissing, POINTER));
    world.delete(CERTIFICATE).await;
    assert_eq!(
        world.found().await,
        one(AnomalyKind::PointerMissing, POINTER),
        "there are complete snapshots"
    );
    // A first upload in progress is nothing wrong.
    let world = World::new().await;
    let running = entry_of(world.incarnation(), 100, 1).path;
    world.put(&format!("0/{running}/CURRENT"), b"x".to_vec()).await;
    let check = world.check().await;
    assert_eq!((check.anomalies, check.uploads), (vec![], vec![running]));
}

#[tokio::test(start_paused = true)]
async fn unreadable_documents_are_named() {
    let newer = r#"{"format": 99}"#;
    for (key, text, kind) in [
        (POINTER, "{", AnomalyKind::PointerUnreadable),
        (POINTER, newer, AnomalyKind::NewerFormat),
        (CERTIFICATE, "[]", AnomalyKind::CertificateUnreadable),
        (CERTIFICATE, newer, AnomalyKind::NewerFormat),
    ] {
        let world = World::certified().await;
        world.put(key, text).await;
        assert_eq!(world.found().await, one(kind, key));
        assert_eq!(world.get(key).await, text.as_bytes(), "it is never overwritten");
    }
}

#[tokio::test(start_paused = true)]
async fn objects_of_another_cluster_partition_or_log_are_named() {
    let world = World::certified().await;
    let (pointer, certificate) = (world.get(POINTER).await, world.get(CERTIFICATE).await);
    let pointer = Pointer::decode(POINTER, &pointer).unwrap();
    let certificate = Certificate::decode(CERTIFICATE, &certificate).unwrap();

    let with_pointer = async |change: &dyn Fn(&mut Pointer)| {
        let mut changed = pointer.clone();
        change(&mut changed);
        world.put(POINTER, changed.encode()).await;
        let found = world.found().await;
        world.put(POINTER, pointer.encode()).await;
        found
    };
    let with_certificate = async |change: &dyn Fn(&mut Certificate)| {
        let mut changed = certificate.clone();
        change(&mut changed);
        world.put(CERTIFICATE, changed.encode()).await;
        let found = world.found().await;
        world.put(CERTIFICATE, certificate.encode()).await;
        found
    };
    let four = snapshot_store::PartitionId::new(4);
    let foreign = with_pointer(&|pointer| pointer.cluster = other_cluster()).await;
    assert_eq!(foreign, one(AnomalyKind::ForeignCluster, POINTER));
    let misplaced = with_pointer(&|pointer| pointer.partition = four).await;
    assert_eq!(misplaced, one(AnomalyKind::WrongSnapshot, POINTER));
    let rival = with_pointer(&|pointer| pointer.snapshots[0].incarnation = rival_incarnation()).await;
    assert_eq!(rival, one(AnomalyKind::WrongIncarnation, POINTER));

    let foreign = with_certificate(&|certificate| certificate.cluster = other_cluster()).await;
    assert_eq!(foreign, one(AnomalyKind::ForeignCluster, CERTIFICATE));
    let misplaced = with_certificate(&|certificate| certificate.partition = four).await;
    assert_eq!(misplaced, one(AnomalyKind::WrongSnapshot, CERTIFICATE));
    let rival = with_certificate(&|certificate| certificate.incarnation = rival_incarnation()).await;
    assert_eq!(rival, one(AnomalyKind::WrongIncarnation, CERTIFICATE));
    assert_eq!(world.found().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_pointer_that_was_put_back_is_behind_the_certificate() {
    let world = World::certified().await;
    let old = world.get(POINTER).await;
    for lsn in [300, 400] {
        world.publish(lsn, u128::from(lsn)).await.unwrap();
    }
    world.certify(300).await;
    world.put(POINTER, old).await;
    assert_eq!(world.found().await, one(AnomalyKind::PointerBehind, POINTER));
    // And what the certificate rests on must be there, though this pointer does not name it.
    let lost = entry_of(world.incarnation(), 300, 300).path;
    world.delete(&format!("0/{lost}/metadata.json")).await;
    let found = world.found().await;
    assert!(
        found.contains(&(AnomalyKind::MissingManifest, format!("0/{lost}/metadata.json"))),
        "{found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pointer_to_nothing_is_told_from_a_missing_manifest() {
    let world = World::certified().await;
    let entry = world.read_pointer().await.snapshots.remove(0);
    world.delete(&Keys::manifest(P0, &entry.path)).await;
    let missing = one(AnomalyKind::MissingManifest, Keys::manifest(P0, &entry.path));
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check_snapshot(&entry, level).await, missing);
    }
    for file in ["CURRENT", "000007.sst"] {
        world.delete(&Keys::file(P0, &entry.path, file)).await;
    }
    let nothing = one(AnomalyKind::PointerToNothing, format!("0/{}/", entry.path));
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check_snapshot(&entry, level).await, nothing);
    }
    let dir = tempfile::tempdir().unwrap();
    let error = world
        .repository
        .download(P0, &entry, dir.path(), &NoProgress)
        .await;
    assert!(
        error.unwrap_err().is_missing(),
        "a restore reads the pointer again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_manifest_of_another_cluster_is_foreign_whether_its_hash_fits_or_not() {
    let world = World::certified().await;
    let mut entry = world.read_pointer().await.snapshots.remove(0);
    let key = Keys::manifest(P0, &entry.path);
    let mut manifest = Manifest::decode(&key, &world.get(&key).await).unwrap();
    manifest.cluster = other_cluster();
    world.put(&key, manifest.encode()).await;
    let foreign = one(AnomalyKind::ForeignCluster, key.as_str());
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check_snapshot(&entry, level).await, foreign);
    }
    entry.manifest_hash = ContentHash::of(&manifest.encode());
    for level in [CheckLevel::Presence, CheckLevel::Content] {
        assert_eq!(world.check_snapshot(&entry, level).await, foreign);
    }
    // Other bytes of our own cluster are a wrong hash.
    manifest.cluster = world.record.cluster.clone();
    manifest.log_bytes += 1;
    world.put(&key, manifest.encode()).await;
    assert_eq!(
        world.check_snapshot(&entry, CheckLevel::Presence).await,
        one(AnomalyKind::WrongHash, key)
    );
}

#[tokio::test(start_paused = true)]
async fn what_lies_in_an_archive_class_is_not_readable_and_not_missing() {
    for archive in [Archive::S3, Archive::Azure] {
        let world = World::certified().await;
        let entry = world.read_pointer().await.snapshots.remove(0);
        let file = Keys::file(P0, &entry.path, "000007.sst");
        world.store.archive("000007.sst", archive);
        assert_eq!(
            world.check_snapshot(&entry, CheckLevel::Presence).await,
            [],
            "a listing does not show it"
        );
        let not_readable = one(AnomalyKind::NotReadable, file);
        assert_eq!(
            world.check_snapshot(&entry, CheckLevel::Content).await,
            not_readable
        );
        let dir = tempfile::tempdir().unwrap();
        let error = world
            .repository
            .download(P0, &entry, dir.path(), &NoProgress)
            .await
            .unwrap_err();
        assert!(
            !error.is_missing() && error.to_string().contains("not-readable"),
            "{error}"
        );

        world.store.archive("metadata.json", archive);
        let manifest = one(AnomalyKind::NotReadable, Keys::manifest(P0, &entry.path));
        assert_eq!(world.check_snapshot(&entry, CheckLevel::Presence).await, manifest);
        for key in [POINTER, CERTIFICATE] {
            world.store.archive(key, archive);
            assert_eq!(world.found().await, one(AnomalyKind::NotReadable, key));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_that_ended_and_strange_objects_are_findings_and_no_damage() {
    let world = World::certified().await;
    let dead = entry_of(world.incarnation(), 150, 9).path;
    let running = entry_of(world.incarnation(), 300, 9).path;
    for key in [
        format!("0/{dead}/CURRENT"),
        format!("0/{running}/CURRENT"),
        "0/notes.txt".to_owned(),
    ] {
        world.put(&key, b"x".to_vec()).await;
    }
    let check = world.check().await;
    assert_eq!(
        kinds(&check.anomalies),
        [
            (AnomalyKind::UnfinishedDirectory, format!("0/{dead}/")),
            (AnomalyKind::UnknownObject, "0/notes.txt".to_owned()),
        ]
    );
    assert_eq!(check.uploads, [running]);
    assert!(
        check
            .anomalies
            .iter()
            .all(|anomaly| anomaly.kind.severity() == Severity::Finding)
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_silent_says_nothing_of_a_partition() {
    for key in [POINTER, CERTIFICATE] {
        let world = World::certified().await;
        world.store.fail_reads(key, 50);
        assert!(world.repository.check_partition(&world.record, P0).await.is_err());
    }
}
