//! What can go wrong between this process and the store.

use super::anomaly::Anomaly;
use crate::{
    format::{FormatError, Manifest},
    vocabulary::Fingerprint,
};

/// Why a request to the store gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or said that it cannot now. Worth asking again.
    #[error("cannot {action} {key}: the store did not answer")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
        /// What the client says.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The bucket or container is not there.
    #[error(
        "cannot {action} {key}: the bucket or container does not exist; create it, or check the store URL"
    )]
    NoBucket {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
        /// What the client says.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The store refuses these credentials.
    #[error("cannot {action} {key}: the store denies access, check its credentials and permissions")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
        /// What the client says.
        #[source]
        source: Box<object_store::Error>,
    },
    /// An object is there and cannot be understood; it is never overwritten.
    #[error(transparent)]
    Unusable(#[from] FormatError),
    /// An object belongs to another cluster; it is never overwritten.
    #[error("{key} belongs to cluster {found}, not to {expected}: give this cluster its own store URL")]
    Foreign {
        /// The object.
        key: String,
        /// Fingerprint found.
        found: Fingerprint,
        /// Our own.
        expected: Fingerprint,
    },
    /// An object that must be there is not; it is not created silently.
    #[error(
        "{key} is missing: check the store URL (and that it is mounted), run `tidemark cluster init` for a new cluster"
    )]
    Missing {
        /// The object.
        key: String,
    },
    /// The store does not keep the promises that publishing rests on.
    #[error("the store cannot be used: {detail}")]
    Incapable {
        /// What it did, and the remedy.
        detail: String,
    },
    /// Others kept winning the race for one object.
    #[error("{key} changed during each of {tries} attempts to update it: try again")]
    Contended {
        /// The object.
        key: String,
        /// How often it was tried.
        tries: usize,
    },
    /// A write got no clear answer, and reading again did not clear it up: it may still land.
    #[error("{key} may or may not have been written")]
    Indeterminate {
        /// The object.
        key: String,
        /// The last answer.
        #[source]
        source: Box<object_store::Error>,
    },
}

/// What is said of a request that creates an object.
const WRITES: &[&str] = &["write", "update", "probe"];

impl StoreError {
    /// Sorts the client's error by what the caller does next.
    pub(super) fn from_client(action: &'static str, key: &str, source: object_store::Error) -> Self {
        let key = key.to_owned();
        match source {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                StoreError::Denied {
                    action,
                    key,
                    source: Box::new(source),
                }
            }
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                StoreError::Incapable {
                    detail: format!("it cannot {action} {key}: {source}"),
                }
            }
            // Reads of an object that is missing do not come here; a write can only miss the bucket.
            object_store::Error::NotFound { .. } if WRITES.contains(&action) => StoreError::NoBucket {
                action,
                key,
                source: Box::new(source),
            },
            source => StoreError::Unavailable {
                action,
                key,
                source: Box::new(source),
            },
        }
    }

    /// Returns whether the same request may succeed later without anybody doing something.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable { .. } | StoreError::Contended { .. } | StoreError::Indeterminate { .. }
        )
    }

    /// Returns the word used in metrics, status and JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            StoreError::Unavailable { .. } => "store-unavailable",
            StoreError::Denied { .. } => "store-denied",
            StoreError::NoBucket { .. } => "no-bucket",
            StoreError::Unusable(FormatError::Unparsable { .. }) => "unparsable",
            StoreError::Unusable(FormatError::Newer { .. }) => "newer-format",
            StoreError::Foreign { .. } => "foreign-identity",
            StoreError::Missing { .. } => "missing",
            StoreError::Incapable { .. } => "store-incapable",
            StoreError::Contended { .. } => "contended",
            StoreError::Indeterminate { .. } => "indeterminate",
        }
    }
}

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The store answered, and what it holds is not the manifest the pointer names.
    #[error("the snapshot is damaged: {0}")]
    Damaged(Anomaly),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a check of a snapshot's content found.
#[derive(Clone, Debug)]
pub struct ContentCheck {
    /// What is wrong; empty when nothing is.
    pub anomalies: Vec<Anomaly>,
    /// How many bytes were read.
    pub bytes_read: u64,
    /// The manifest, where it could be read.
    pub manifest: Option<Manifest>,
}
