//! The S3 server of the tests, killed between writing an object and noting its version.

use integration_tests::s3_server::{Locking, S3Server};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion, path::Path};
use snapshot_store::{Repository, Seams, StoreOptions};

const URL: &str = "s3://bucket";

/// Starts a server over `folder`, and opens its bucket.
async fn serve(folder: &std::path::Path) -> (S3Server, Box<dyn ObjectStore>) {
    let server = S3Server::start("127.0.0.1:0", folder, "bucket", Locking::Atomic)
        .await
        .unwrap();
    // Installs the provider of TLS, which building any client asks for.
    let options = StoreOptions::for_client(server.options());
    Repository::open_with(URL, &options, Seams::real()).unwrap();
    let url = url::Url::parse(URL).unwrap();
    let (store, _) = object_store::parse_url_opts(&url, server.options()).unwrap();
    (server, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_a_killed_server_wrote_does_not_keep_the_version_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let key = Path::from("latest.json");
    let (server, store) = serve(folder.path()).await;
    let first = store.put(&key, "first".into()).await.unwrap();
    drop(server);
    // What a kill between the two steps leaves.
    std::fs::write(folder.path().join("bucket/latest.json"), "second").unwrap();

    let (_server, store) = serve(folder.path()).await;
    let found = store.head(&key).await.unwrap();
    assert_ne!(found.e_tag, first.e_tag);
    let over = |e_tag| UpdateVersion { e_tag, version: None };
    let put = async |e_tag, content: &'static str| {
        let mode = PutMode::Update(over(e_tag));
        store.put_opts(&key, content.into(), mode.into()).await
    };
    let stale = put(first.e_tag, "stale").await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
    put(found.e_tag, "third").await.unwrap();
}
