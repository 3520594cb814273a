//! What can go wrong between this process and the store, and what is wrong with a snapshot in it.

use crate::{
    format::{FormatError, Manifest},
    vocabulary::Fingerprint,
};
use std::fmt;

/// A store URL that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL.
    #[error("{url:?} is not a store URL: expected file:///path or memory://")]
    Unparsable {
        /// What was given.
        url: String,
        /// What the parser says.
        #[source]
        source: url::ParseError,
    },
    /// A `file://` URL without an absolute path on this machine.
    #[error("{url:?} names no local folder: expected file:///absolute/path")]
    NoFolder {
        /// What was given.
        url: String,
    },
    /// A scheme that a later release brings.
    #[error(
        "{scheme}:// stores are not built into this version: use file:// for now, a later release brings s3://, az:// and gs://"
    )]
    NotBuiltIn {
        /// The scheme.
        scheme: String,
    },
    /// A scheme nobody knows.
    #[error("{scheme:?} is not a kind of store: expected file:///path or memory://")]
    UnknownScheme {
        /// The scheme.
        scheme: String,
    },
}

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

macro_rules! anomaly_kinds {
    ($($(#[$doc:meta])* $variant:ident = $label:literal, $remedy:literal;)*) => {
        /// What is wrong with a snapshot in the store. Each has a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AnomalyKind { $($(#[$doc])* $variant,)* }

        impl AnomalyKind {
            /// Every kind.
            pub const ALL: &[AnomalyKind] = &[$(AnomalyKind::$variant,)*];

            /// Returns the word used in metrics, status and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(AnomalyKind::$variant => $label,)* }
            }

            /// Returns one sentence that says what to do.
            pub const fn remedy(self) -> &'static str {
                match self { $(AnomalyKind::$variant => $remedy,)* }
            }
        }
    };
}

anomaly_kinds! {
    /// The manifest is not there.
    MissingManifest = "missing-manifest", "find out what deleted it (a bucket rule, a person); new snapshots are ordered by themselves";
    /// A data file is not there.
    MissingFile = "missing-file", "find out what deleted it (a bucket rule, a person); new snapshots are ordered by themselves";
    /// A data file has another size than the manifest says.
    WrongSize = "wrong-size", "something wrote to the store's objects: check who can; new snapshots are ordered by themselves";
    /// An object has another content than its hash says.
    WrongHash = "wrong-hash", "the store or its disk changed bytes: check its health; new snapshots are ordered by themselves";
    /// The manifest cannot be parsed, or names files that cannot be.
    UnreadableManifest = "unreadable-manifest", "something wrote to the manifest: check who can; new snapshots are ordered by themselves";
    /// The manifest was written by a newer version.
    NewerFormat = "newer-format", "update this node's software";
    /// The manifest describes another snapshot than the pointer says.
    WrongSnapshot = "wrong-snapshot", "objects were moved by hand: put them back, or create a new snapshot";
    /// The manifest belongs to another cluster.
    ForeignCluster = "foreign-cluster", "two clusters share a prefix: give this cluster its own store URL";
    /// The manifest is of another life of the log.
    WrongIncarnation = "wrong-incarnation", "the snapshot does not belong to this log: create a new one";
    /// The files are what the manifest says, and their content is not a state that fits it.
    WrongState = "wrong-state", "the producer wrote a bad snapshot: keep its data folder for analysis and create one on another node";
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What kind of thing.
    pub kind: AnomalyKind,
    /// The object, relative to the repository's base.
    pub key: String,
    /// What was expected and found.
    pub detail: String,
}

impl Anomaly {
    /// Names one.
    pub fn new(kind: AnomalyKind, key: impl Into<String>, detail: impl Into<String>) -> Self {
        Anomaly {
            kind,
            key: key.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.kind, self.key, self.detail)
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

/// Prints the first few of many, for error texts.
pub(super) struct FirstFew<'a>(pub(super) &'a [Anomaly]);

impl fmt::Display for FirstFew<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 3;
        for (position, anomaly) in self.0.iter().take(SHOWN_MAX).enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{anomaly}")?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
