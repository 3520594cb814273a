//! Sweeping a local folder, where killed uploads leave files that the store's client does not see.

use super::*;
use snapshot_store::{DirectoryState, StoredSize, SweepMode};
use sweep::sweep;

#[tokio::test]
async fn what_a_killed_upload_leaves_in_a_folder_is_found_counted_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let repository = Repository::open(&url, seams(1)).unwrap();
    let record = repository.init(&spec()).await.unwrap();
    let files = checkpoint(&[("CURRENT", 16), ("000007.sst", 5_000)]);
    let incarnation = record.incarnations[&P0];
    for lsn in [100, 200, 300] {
        let upload = upload(&record.cluster, incarnation, &files, lsn, lsn.into());
        publish(&repository, &upload).await.unwrap();
    }
    let pointer = repository.pointer(P0).await.unwrap().unwrap().value;
    let draft = snapshot_store::CertificateDraft {
        cluster: record.cluster.clone(),
        partition: P0,
        incarnation,
        up_to: Lsn::new(200),
        snapshots: pointer.snapshots.iter().map(certified).collect(),
        issued_by: node("admin-1"),
    };
    repository.write_certificate(draft).await.unwrap();
    // Killed with one file complete and one not; before the first was; above the pointer; and with nothing at all.
    let folder = |lsn: u64| {
        dir.path()
            .join("0")
            .join(entry_of(incarnation, lsn, lsn.into()).path.to_string())
    };
    for lsn in [120, 130, 140, 400] {
        std::fs::create_dir(folder(lsn)).unwrap();
    }
    std::fs::write(folder(120).join("CURRENT"), [0; 16]).unwrap();
    std::fs::write(folder(120).join("000007.sst#1"), [0; 700]).unwrap();
    std::fs::write(folder(130).join("000007.sst#2"), [0; 30]).unwrap();
    std::fs::write(folder(400).join("000007.sst#1"), [0; 4]).unwrap();

    let survey = repository.survey(P0).await.unwrap();
    let of = |lsn: u64| {
        survey
            .directories
            .iter()
            .find(|found| found.directory.lsn == Lsn::new(lsn))
            .unwrap()
    };
    for (lsn, objects, bytes, parts) in [
        (120, 2, 716, 700),
        (130, 1, 30, 30),
        (140, 0, 0, 0),
        (400, 1, 4, 4),
    ] {
        assert_eq!(of(lsn).state, DirectoryState::Unfinished);
        assert_eq!(of(lsn).size, StoredSize { objects, bytes }, "{lsn}");
        assert_eq!(of(lsn).unfinished_parts.bytes, parts, "{lsn}");
    }
    assert_eq!(survey.unknown, []);

    let report = sweep(&repository, SweepMode::Delete).await;
    let deleted: Vec<u64> = report
        .deleted
        .iter()
        .map(|directory| directory.lsn.get())
        .collect();
    assert_eq!(deleted, [100, 120, 130, 140]);
    for lsn in [100, 120, 130, 140] {
        assert!(!folder(lsn).exists(), "{lsn}");
    }
    assert!(
        folder(400).join("000007.sst#1").exists(),
        "it may still be going on"
    );
    assert!(dir.path().join(".lock").exists());
    for entry in &pointer.snapshots {
        assert_eq!(repository.check_presence(P0, entry).await.unwrap(), []);
    }
}
