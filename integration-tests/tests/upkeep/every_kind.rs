//! Every kind of anomaly is produced, and `snapshots verify` finds it under its name and says so in its exit code: a kind
//! without a scenario does not compile.

use crate::{
    bucket::{Answer, Bucket, P0},
    verify::{a_file, exit_code, other_cluster},
};
use anyhow::{Context, ensure};
use integration_tests::s3_server::{Locking, S3Server};
use snapshot_store::{
    AnomalyKind, IncarnationId, PartitionId,
    format::{Keys, Stored},
};
use std::collections::BTreeSet;

/// Brings the anomaly about. Returns the key under which it is to be found.
async fn produce(kind: AnomalyKind, bucket: &Bucket) -> anyhow::Result<String> {
    let (pointer, certificate) = (Keys::pointer(P0), Keys::certificate(P0));
    let (entry, file) = a_file(bucket).await?;
    let manifest = Keys::manifest(P0, &entry.path);
    Ok(match kind {
        AnomalyKind::PointerMissing => {
            bucket.remove(&pointer)?;
            pointer
        }
        AnomalyKind::PointerUnreadable => {
            bucket.write(&pointer, "[]")?;
            pointer
        }
        AnomalyKind::PointerToNothing => {
            let folder = format!("{P0}/{}/", entry.path);
            std::fs::remove_dir_all(bucket.path(&folder))?;
            folder
        }
        AnomalyKind::PointerBehind => {
            let old = bucket.pointer().await?;
            for lsn in [300, 400] {
                bucket.publish(lsn).await?;
            }
            bucket.certify(300).await?;
            bucket.write(&pointer, old.encode())?;
            pointer
        }
        AnomalyKind::CertificateUnreadable => {
            bucket.write(&certificate, "{}")?;
            certificate
        }
        AnomalyKind::MissingManifest => {
            bucket.remove(&manifest)?;
            manifest
        }
        AnomalyKind::MissingFile => {
            bucket.remove(&file)?;
            file
        }
        AnomalyKind::WrongSize => {
            let mut bytes = std::fs::read(bucket.path(&file))?;
            bytes.push(0);
            bucket.write(&file, bytes)?;
            file
        }
        AnomalyKind::WrongHash => {
            let mut bytes = std::fs::read(bucket.path(&file))?;
            bytes[0] ^= 0x80;
            bucket.write(&file, bytes)?;
            file
        }
        AnomalyKind::UnreadableManifest => {
            bucket.put_manifest(br#"{"format": 1}"#).await?;
            manifest
        }
        AnomalyKind::NewerFormat => {
            bucket.write(&certificate, r#"{"format": 2}"#)?;
            certificate
        }
        // The store refuses to read it: see `look`.
        AnomalyKind::NotReadable => file,
        AnomalyKind::WrongSnapshot => {
            bucket
                .change_manifest(|manifest| manifest.partition = PartitionId::new(1))
                .await?;
            manifest
        }
        AnomalyKind::ForeignCluster => {
            bucket
                .change_manifest(|manifest| manifest.cluster = other_cluster())
                .await?;
            manifest
        }
        AnomalyKind::WrongIncarnation => {
            bucket
                .change_manifest(|manifest| manifest.incarnation.id = IncarnationId::from_bytes([9; 16]))
                .await?;
            manifest
        }
        AnomalyKind::WrongState => Keys::manifest(P0, &bucket.publish_as(300, 299).await?.path),
        AnomalyKind::UnfinishedDirectory => {
            let folder = format!("{P0}/{}/", bucket.directory(150));
            bucket.write(&format!("{folder}000007.sst"), "half a snapshot")?;
            folder
        }
        AnomalyKind::UnknownObject => {
            bucket.write("0/notes.txt", "a note")?;
            "0/notes.txt".to_owned()
        }
    })
}

/// Has the repository verified, at the lowest level that finds the kind.
async fn look(kind: AnomalyKind, bucket: &Bucket, key: &str) -> anyhow::Result<Answer> {
    let level = match kind {
        AnomalyKind::WrongHash | AnomalyKind::NotReadable => "content",
        AnomalyKind::WrongState => "restore",
        _ => "presence",
    };
    let args = ["verify", "--level", level];
    if kind != AnomalyKind::NotReadable {
        return bucket.snapshots(&args);
    }
    // A folder has no storage classes: an S3 server shows the same one, and keeps the file in an archive class.
    bucket.remove(".lock")?;
    let server = S3Server::start("127.0.0.1:0", bucket.dir.path(), "store", Locking::Atomic).await?;
    let (url, options) = ("s3://store", server.options());
    let before = Bucket::snapshots_at(url, &options, &args)?;
    ensure!(
        before.code == Some(0),
        "nothing is wrong before it is moved: {before:?}"
    );
    server.archive(key);
    Bucket::snapshots_at(url, &options, &args)
}

// The server answers while this thread waits for the binary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_found_under_its_name() -> anyhow::Result<()> {
    let mut names = BTreeSet::new();
    for kind in AnomalyKind::ALL {
        let bucket = Bucket::new().await?;
        let key = produce(*kind, &bucket).await.with_context(|| kind.to_string())?;
        let answer = look(*kind, &bucket, &key).await?;
        let expected = BTreeSet::from([(kind.as_str().to_owned(), key.clone())]);
        ensure!(
            answer.anomalies() == expected,
            "expected {kind} at {key}: {answer:?}"
        );
        ensure!(
            answer.code == Some(exit_code(*kind)) && answer.code != Some(0),
            "{kind}: {answer:?}"
        );
        let text = answer.json.to_string();
        ensure!(
            text.contains(&serde_json::to_string(kind.remedy())?),
            "{kind} has no remedy: {text}"
        );
        ensure!(names.insert(kind.as_str()), "two kinds are called {kind}");
    }
    Ok(())
}
