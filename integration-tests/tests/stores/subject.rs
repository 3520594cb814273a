//! A store under test.

use futures::FutureExt;
use integration_tests::{
    s3_server::{Locking, S3Server},
    store_servers::StoreServer,
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use snapshot_store::{Entropy, Incremental, Repository, Seams, StoreOptions, SystemClock};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};
use tempfile::TempDir;
use tokio::time::Instant;
use url::Url;

const BUCKET: &str = "bucket";

/// A store, with a fresh prefix for every case.
pub(crate) struct Subject {
    name: &'static str,
    place: Place,
}

enum Place {
    Memory(Arc<InMemory>),
    Folder(TempDir),
    S3(
        S3Server,
        #[expect(dead_code, reason = "removed at the end")] TempDir,
    ),
    Process(StoreServer),
    Named(String),
}

impl Subject {
    pub(crate) fn memory() -> Self {
        Self::new("memory", Place::Memory(Arc::default()))
    }

    pub(crate) fn folder() -> Self {
        Self::new("a local folder", Place::Folder(tempfile::tempdir().unwrap()))
    }

    pub(crate) async fn s3() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start("127.0.0.1:0", folder.path(), BUCKET, Locking::Atomic).await;
        Self::new("s3s", Place::S3(server.unwrap(), folder))
    }

    pub(crate) async fn moto() -> Self {
        Self::new("moto", Place::Process(StoreServer::moto(BUCKET).await.unwrap()))
    }

    pub(crate) async fn azurite() -> Self {
        let server = StoreServer::azurite(BUCKET).await.unwrap();
        Self::new("azurite", Place::Process(server))
    }

    /// The bucket and prefix that `TIDEMARK_TEST_GCS_URL` names, if it does. Credentials must be given too: the client
    /// would otherwise ask the network for some.
    pub(crate) fn named_gcs_bucket() -> Option<Self> {
        let url = std::env::var("TIDEMARK_TEST_GCS_URL").ok()?;
        let given = ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"];
        assert!(
            given.iter().any(|name| std::env::var_os(name).is_some()),
            "TIDEMARK_TEST_GCS_URL needs credentials: set one of {given:?}"
        );
        let run = Seams::real().ulid();
        Some(Self::new("gcs", Place::Named(format!("{url}/{run}"))))
    }

    fn new(name: &'static str, place: Place) -> Self {
        Subject { name, place }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it asks who is there. moto and memory let everybody in, a folder asks the system.
    pub(crate) fn checks_credentials(&self) -> bool {
        matches!(self.name, "s3s" | "azurite")
    }

    /// Whether it has buckets that may be missing.
    pub(crate) fn has_buckets(&self) -> bool {
        matches!(self.place, Place::S3(..) | Place::Process(_) | Place::Named(_))
    }

    /// Whether it is reached over the network at an address that can be changed.
    pub(crate) fn has_endpoint(&self) -> bool {
        matches!(self.place, Place::S3(..) | Place::Process(_))
    }

    /// Returns where `prefix` lies.
    pub(crate) fn url(&self, prefix: &str) -> String {
        let below = |base: &str| {
            let mut url = Url::parse(base).unwrap();
            let mut segments = url.path_segments_mut().unwrap();
            segments.pop_if_empty().extend(prefix.split('/'));
            drop(segments);
            url.to_string()
        };
        match &self.place {
            Place::Memory(_) => "memory://".to_owned(),
            Place::Folder(folder) => Url::from_file_path(folder.path().join(prefix)).unwrap().into(),
            Place::S3(..) => below(&format!("s3://{BUCKET}")),
            Place::Process(server) => below(&server.url("")),
            Place::Named(url) => below(url),
        }
    }

    pub(crate) fn options(&self) -> StoreOptions {
        let client = match &self.place {
            Place::S3(server, _) => server.options(),
            Place::Process(server) => server.options(),
            Place::Memory(_) | Place::Folder(_) | Place::Named(_) => Vec::new(),
        };
        StoreOptions {
            client: client.into_iter().collect(),
            // Also where it saves nothing: the copies are tested, not their price.
            incremental: Incremental::On,
            ..StoreOptions::default()
        }
    }

    /// Opens the repository at `prefix` as a process of its own would: with its own check, limits and randomness.
    pub(crate) fn repository(&self, prefix: &str) -> Repository {
        match &self.place {
            Place::Memory(store) => {
                let base = Path::parse(prefix).unwrap();
                Repository::with_store_and(store.clone(), base, &self.options(), seams())
            }
            _ => Repository::open_with(&self.url(prefix), &self.options(), seams()).unwrap(),
        }
    }

    /// The store below the repository, and the prefix in it: for what only somebody else would do.
    pub(crate) fn raw(&self, prefix: &str) -> Raw {
        let (store, base): (Arc<dyn ObjectStore>, Path) = match &self.place {
            Place::Memory(store) => (store.clone(), Path::parse(prefix).unwrap()),
            Place::Folder(folder) => {
                let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
                (Arc::new(store), Path::parse(prefix).unwrap())
            }
            _ => {
                let url = Url::parse(&self.url(prefix)).unwrap();
                let (store, base) = object_store::parse_url_opts(&url, self.options().client).unwrap();
                (store.into(), base)
            }
        };
        Raw { store, base }
    }
}

fn seams() -> Seams {
    Seams {
        clock: Arc::new(SystemClock),
        entropy: Entropy::from_os(),
    }
}

/// Objects of a store, by keys relative to a prefix.
pub(crate) struct Raw {
    store: Arc<dyn ObjectStore>,
    base: Path,
}

impl Raw {
    fn path(&self, key: &str) -> Path {
        Path::parse(format!("{}/{key}", self.base)).unwrap()
    }

    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let payload = bytes.into().into();
        self.store.put(&self.path(key), payload).await.unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let found = self.store.get(&self.path(key)).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.store.delete(&self.path(key)).await.unwrap();
    }

    /// Every key below the prefix, sorted; the lock file of a folder is not an object.
    pub(crate) async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.store.list(Some(&self.base)).try_collect().await.unwrap();
        let prefix = format!("{}/", self.base);
        let key = |meta: object_store::ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(&prefix).unwrap().to_owned();
            (!key.starts_with('.')).then_some(key)
        };
        let mut keys: Vec<String> = listed.into_iter().filter_map(key).collect();
        keys.sort();
        keys
    }
}

/// Runs one case and says how it went, so that a failure of one does not hide the others.
pub(crate) async fn runs(name: &str, case: impl Future<Output = ()>) -> bool {
    let begun = Instant::now();
    let passed = AssertUnwindSafe(case).catch_unwind().await.is_ok();
    let verdict = if passed { "ok" } else { "FAILED" };
    println!("{verdict:6} {:6} ms  {name}", begun.elapsed().as_millis());
    passed
}
