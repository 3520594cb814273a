//! The repository: one cluster's objects in one store, and the protocols around them.
//!
//! | Module | What it does |
//! |---|---|
//! | `init` | creates the identity of a cluster |
//! | `fork_point` | says where the logs of a forked cluster begin |
//! | `read` | reads pointer, certificate, control state, manifest: one GET each |
//! | `snapshot_upload`, `publish`, `upload`, `reuse` | makes a finished checkpoint a published snapshot |
//! | `certificate`, `control`, `lease` | the other mutable objects |
//! | `upload_client`, `buffers` | what an upload has of its own: connections, threads, memory |
//! | `source` | where an upload takes its files from: this machine, or another repository |
//! | `copy` | moves or forks a cluster's snapshots to another repository, or begins their next generation |
//! | `check`, `download` | verifies a snapshot in the store, brings one back |
//! | `local_source` | takes files of a download from the local disk, hashed |
//! | `open`, `options` | turns a URL and options into a store |
//! | `limits` | one budget of requests and bytes for all transfers of a process |
//! | `verify`, `anomaly` | verifies a whole partition; the names of all that can be wrong |
//! | `survey`, `sweep` | says what lies in the store, and deletes what `may_delete` allows |
//! | `local_remains` | what killed uploads leave in a folder |
//! | `capability` | refuses a store that does not keep the promises all this rests on |
//! | `local` | gives a folder those promises |
//! | `request` | deadlines and retries of single requests |

mod anomaly;
mod buffers;
mod capability;
mod certificate;
mod check;
mod control;
mod copy;
mod download;
mod error;
mod fork_point;
mod init;
mod lease;
mod limits;
mod local;
mod local_remains;
mod local_source;
mod open;
mod options;
mod pieces;
mod progress;
mod publish;
mod read;
mod request;
mod reuse;
mod snapshot_upload;
mod source;
mod survey;
mod sweep;
mod upload;
mod upload_client;
mod verify;

pub use anomaly::{Anomaly, AnomalyKind, Severity};
pub use certificate::{CertificateDraft, CertificateError};
pub use copy::{
    CopiedPartition, CopiedSnapshot, CopyError, CopyFault, CopyOutcome, CopyReport, ForkRequest, MoveRequest,
    PassedOver, PlannedRecovery, RecoveredLog, RecoveryFault, RecoveryPlan, RecoveryRequest,
};
pub use download::{Download, DownloadError, Reuse};
pub use error::{ContentCheck, ManifestError, StoreError};
pub use fork_point::{Fork, ForkPoint, ForkRefusal};
pub use init::{ClusterSpec, InitError};
pub use lease::{LeaseClaim, LeaseWrite};
pub use open::{OpenError, StoreKind, open_store};
pub use options::{Incremental, StoreOptions, TransferOptions};
pub use progress::{NoProgress, Progress};
pub use publish::{PublishError, Published};
pub use snapshot_upload::SnapshotUpload;
pub use survey::{BaseSurvey, DirectoryState, StoredSize, Survey, SurveyedDirectory, UnknownObject};
pub use sweep::{SweepMode, SweepReport};
pub use verify::{CheckLevel, PartitionCheck};

use crate::{Blocking, vocabulary::Seams};
use limits::Limits;
use object_store::{ObjectStore, UpdateVersion, path::Path};
use open::Opened;
use std::{fmt, path::PathBuf, sync::Arc};
use tokio::sync::OnceCell;
use upload_client::UploadClient;

/// The objects of one cluster in one store. Cheap to clone; one per process and URL.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    uploads: UploadClient,
    kind: StoreKind,
    base: Path,
    url: String,
    /// The folder of a `file://` store, which only `init` creates.
    folder: Option<PathBuf>,
    seams: Seams,
    limits: Limits,
    /// Whether uploads copy what an earlier snapshot holds.
    incremental: bool,
    /// Where files are read, written and hashed.
    blocking: Blocking,
    /// Set once this process has seen that the store can be trusted with conditional writes.
    capable: OnceCell<()>,
    /// Set once this process has seen that it may delete.
    deletable: OnceCell<()>,
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
    /// Opens the repository at `url` with default options; see [`Repository::open_with`].
    ///
    /// # Errors
    /// When the URL cannot be used; the error says what is expected.
    pub fn open(url: &str, seams: Seams) -> Result<Self, OpenError> {
        Self::open_with(url, &StoreOptions::default(), seams)
    }

    /// Opens the repository at `url`: `file:///absolute/path`, `s3://bucket/prefix`, `az://container/prefix`,
    /// `gs://bucket/prefix`, or `memory://` for a new, empty one that lives as long as its clones. Makes no request.
    ///
    /// # Errors
    /// When URL or options cannot be used; the error says what is expected, and never holds a secret.
    pub fn open_with(url: &str, options: &StoreOptions, seams: Seams) -> Result<Self, OpenError> {
        let opened = open::open(url, options)?;
        Ok(Self::build(opened, url.to_owned(), options, seams))
    }

    /// Uses `store`, with all keys below `base`.
    pub fn with_store(store: Arc<dyn ObjectStore>, base: Path, seams: Seams) -> Self {
        Self::with_store_and(store, base, &StoreOptions::default(), seams)
    }

    /// Uses `store`, with all keys below `base`; the client's options are not looked at.
    pub fn with_store_and(
        store: Arc<dyn ObjectStore>,
        base: Path,
        options: &StoreOptions,
        seams: Seams,
    ) -> Self {
        let url = format!("{store}/{base}");
        let opened = Opened {
            store,
            uploads: None,
            kind: StoreKind::Custom,
            base,
            folder: None,
        };
        Self::build(opened, url, options, seams)
    }

    fn build(opened: Opened, url: String, options: &StoreOptions, seams: Seams) -> Self {
        let incremental = match options.incremental {
            Incremental::Auto => opened.kind.copies_cheaply(),
            Incremental::On => true,
            Incremental::Off => false,
        };
        Repository(Arc::new(Inner {
            uploads: UploadClient::new(&opened, options.blocking),
            store: opened.store,
            kind: opened.kind,
            base: opened.base,
            url,
            folder: opened.folder,
            seams,
            limits: Limits::new(&options.transfer),
            incremental,
            blocking: options.blocking,
            capable: OnceCell::new(),
            deletable: OnceCell::new(),
        }))
    }

    /// Returns what kind of store it lies in.
    pub fn kind(&self) -> StoreKind {
        self.0.kind
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
        key.split('/').fold(self.0.base.clone(), Path::join)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.0.url)
    }
}
