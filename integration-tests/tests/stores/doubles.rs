//! Stores that are wrong on purpose are refused before the first publish.

use crate::world::{P0, checkpoint, publish, spec, store_error};
use integration_tests::s3_server::{Locking, S3Server};
use snapshot_store::{Repository, Seams, StoreError, StoreOptions};
use std::path::Path;

const URL: &str = "s3://bucket/prefix";

async fn serve(folder: &Path, locking: Locking) -> (S3Server, Repository) {
    let server = S3Server::start("127.0.0.1:0", folder, "bucket", locking)
        .await
        .unwrap();
    let options = StoreOptions::for_client(server.options());
    let repository = Repository::open_with(URL, &options, Seams::real()).unwrap();
    (server, repository)
}

/// Publishes through a server that is wrong, to a cluster that a right one has created; returns why it was refused.
async fn refusal_of(locking: Locking) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (_right, through_right) = serve(folder.path(), Locking::Atomic).await;
    let record = through_right.init(&spec(1)).await.unwrap();
    let stored = || objects(&folder.path().join("bucket"));
    let before = stored();

    let (_wrong, through_wrong) = serve(folder.path(), locking).await;
    let files = checkpoint(&[("CURRENT", 16)]);
    let refused = publish(&through_wrong, &record, P0, files.path(), 100).await;
    let error = store_error(refused.unwrap_err());
    assert!(matches!(error, StoreError::Incapable { .. }), "{error:?}");
    assert!(!error.is_retryable());
    assert_eq!(
        stored(),
        before,
        "nothing was written but the probe, which is gone"
    );
    assert!(through_right.pointer(P0).await.unwrap().is_none());
    publish(&through_right, &record, P0, files.path(), 100)
        .await
        .unwrap();
    error.to_string()
}

/// Returns all files below a bucket.
fn objects(bucket: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![bucket.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(bucket).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

const REMEDY: &str =
    "use a store with conditional writes (If-Match and If-None-Match), or file:// on a local disk";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_refused_before_the_first_publish() {
    let refusal = refusal_of(Locking::Unconditional).await;
    assert!(
        refusal.contains("it created an object that existed already"),
        "{refusal}"
    );
    assert!(refusal.contains(REMEDY), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_right_for_one_writer_at_a_time_is_refused_before_the_first_publish() {
    // Which sign gives it away is up to the race: several winners, or one whose write is not what stands there.
    let refusal = refusal_of(Locking::None).await;
    assert!(refusal.contains(REMEDY), "{refusal}");
}
