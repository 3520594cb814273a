//! The repository: one cluster's objects in one store, and the protocols around them.
//!
//! | Module | What it does |
//! |---|---|
//! | `init` | creates the identity of a cluster |
//! | `read` | reads pointer, certificate, control state, manifest: one GET each |
//! | `publish`, `upload` | makes a finished checkpoint a published snapshot |
//! | `certificate`, `control` | the two other mutable objects |
//! | `check`, `download` | verifies a snapshot in the store, brings one back |
//! | `prune` | deletes what `may_delete` allows |
//! | `capability` | refuses a store that does not keep the promises all this rests on |
//! | `local` | gives a folder those promises |
//! | `request` | deadlines and retries of single requests |

mod capability;
mod certificate;
mod check;
mod control;
mod download;
mod error;
mod init;
mod local;
mod progress;
mod prune;
mod publish;
mod read;
mod request;
mod upload;

pub use certificate::{CertificateDraft, CertificateError};
pub use download::DownloadError;
pub use error::{Anomaly, AnomalyKind, ContentCheck, ManifestError, OpenError, StoreError};
pub use init::{ClusterSpec, InitError};
pub use progress::{NoProgress, Progress};
pub use prune::PruneReport;
pub use publish::{PublishError, Published, SnapshotUpload};

use crate::vocabulary::Seams;
use local::LocalStore;
use object_store::{ObjectStore, UpdateVersion, memory::InMemory, path::Path};
use std::{fmt, path::PathBuf, sync::Arc};
use tokio::sync::OnceCell;

/// The objects of one cluster in one store. Cheap to clone; one per process and URL.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    base: Path,
    url: String,
    /// The folder of a `file://` store, which only `init` creates.
    folder: Option<PathBuf>,
    seams: Seams,
    /// Set once this process has seen that the store can be trusted with conditional writes.
    capable: OnceCell<()>,
}

/// A mutable object as read or written, with what a conditional update needs.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The object.
    pub value: T,
    /// Which version of it this is.
    pub version: UpdateVersion,
}

impl Repository {
    /// Opens the repository at `url`: `file:///absolute/path`, or `memory://` for a new, empty one that lives as
    /// long as its clones. Makes no request.
    ///
    /// # Errors
    /// When the URL cannot be used; the error says what is expected.
    pub fn open(url: &str, seams: Seams) -> Result<Self, OpenError> {
        let parsed = url::Url::parse(url).map_err(|source| OpenError::Unparsable {
            url: url.to_owned(),
            source,
        })?;
        match parsed.scheme() {
            "file" => {
                let folder = parsed
                    .to_file_path()
                    .ok()
                    .filter(|folder| folder.is_absolute())
                    .ok_or_else(|| OpenError::NoFolder { url: url.to_owned() })?;
                let store = Arc::new(LocalStore::new(folder.clone()));
                Ok(Self::build(
                    store,
                    Path::default(),
                    url.to_owned(),
                    Some(folder),
                    seams,
                ))
            }
            "memory" => Ok(Self::build(
                Arc::new(InMemory::new()),
                Path::default(),
                url.to_owned(),
                None,
                seams,
            )),
            scheme @ ("s3" | "s3a" | "az" | "azure" | "abfs" | "abfss" | "gs" | "http" | "https") => {
                Err(OpenError::NotBuiltIn {
                    scheme: scheme.to_owned(),
                })
            }
            scheme => Err(OpenError::UnknownScheme {
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// Uses `store`, with all keys below `base`.
    pub fn with_store(store: Arc<dyn ObjectStore>, base: Path, seams: Seams) -> Self {
        let url = format!("{store}/{base}");
        Self::build(store, base, url, None, seams)
    }

    fn build(
        store: Arc<dyn ObjectStore>,
        base: Path,
        url: String,
        folder: Option<PathBuf>,
        seams: Seams,
    ) -> Self {
        Repository(Arc::new(Inner {
            store,
            base,
            url,
            folder,
            seams,
            capable: OnceCell::new(),
        }))
    }

    /// Returns the URL it was opened with.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Returns the seams it was opened with.
    pub fn seams(&self) -> &Seams {
        &self.0.seams
    }

    fn store(&self) -> &dyn ObjectStore {
        self.0.store.as_ref()
    }

    /// Returns the full path of a key that is relative to the base.
    fn path(&self, key: &str) -> Path {
        if self.0.base.as_ref().is_empty() {
            Path::from(key)
        } else {
            Path::from(format!("{}/{key}", self.0.base))
        }
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.0.url)
    }
}
