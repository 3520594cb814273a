//! What can be wrong with the objects in a store: a closed list of kinds, each with a name and a remedy.

use std::fmt;

/// How much an anomaly matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing that a restore depends on: something wants cleaning up, or an explanation.
    Finding,
    /// A restore may fail because of it.
    Damage,
}

impl Severity {
    /// Returns the word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Finding => "finding",
            Severity::Damage => "damage",
        }
    }
}

macro_rules! anomaly_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $severity:ident, $remedy:literal;)*) => {
        /// What is wrong with objects in the store. Each has a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AnomalyKind { $($(#[doc = $doc])+ $variant,)* }

        impl AnomalyKind {
            /// Every kind.
            pub const ALL: &[AnomalyKind] = &[$(AnomalyKind::$variant,)*];

            /// Returns the word used in metrics, status and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(AnomalyKind::$variant => $label,)* }
            }

            /// Returns what it means, as this page of the code says it.
            pub const fn meaning(self) -> &'static str {
                match self { $(AnomalyKind::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Returns whether a restore may fail because of it.
            pub const fn severity(self) -> Severity {
                match self { $(AnomalyKind::$variant => Severity::$severity,)* }
            }

            /// Returns one sentence that says what to do.
            pub const fn remedy(self) -> &'static str {
                match self { $(AnomalyKind::$variant => $remedy,)* }
            }
        }
    };
}

anomaly_kinds! {
    /// There is no pointer, although a certificate or a complete snapshot exists.
    PointerMissing = "pointer-missing", Damage, "put latest.json back from a versioned bucket, or create a new snapshot: one at or above the trim point and the certificate is accepted";
    /// The pointer is there and cannot be understood.
    PointerUnreadable = "pointer-unreadable", Damage, "put an earlier version of latest.json back: it is never overwritten";
    /// The pointer names a snapshot of which not one object is there.
    PointerToNothing = "pointer-to-nothing", Damage, "find out what deleted the whole directory (a bucket rule, a person); new snapshots are ordered by themselves";
    /// The pointer's latest snapshot is below what was certified as trimmed.
    PointerBehind = "pointer-behind", Damage, "latest.json was put back to an older version: bring the newest one back, or create a new snapshot";
    /// The certificate is there and cannot be understood.
    CertificateUnreadable = "certificate-unreadable", Damage, "put an earlier version of trim.json back: it is never overwritten, and nothing is trimmed meanwhile";
    /// The manifest is not there.
    MissingManifest = "missing-manifest", Damage, "find out what deleted it (a bucket rule, a person); new snapshots are ordered by themselves";
    /// A data file is not there.
    MissingFile = "missing-file", Damage, "find out what deleted it (a bucket rule, a person); new snapshots are ordered by themselves";
    /// A data file has another size than the manifest says.
    WrongSize = "wrong-size", Damage, "something wrote to the store's objects: check who can; new snapshots are ordered by themselves";
    /// An object has another content than its hash says.
    WrongHash = "wrong-hash", Damage, "the store or its disk changed bytes: check its health; new snapshots are ordered by themselves";
    /// The manifest cannot be parsed, or names files that cannot be.
    UnreadableManifest = "unreadable-manifest", Damage, "something wrote to the manifest: check who can; new snapshots are ordered by themselves";
    /// An object was written by a newer version.
    NewerFormat = "newer-format", Damage, "update this node's software";
    /// An object is there, and its storage class does not let it be read.
    NotReadable = "not-readable", Damage, "bring it back from the archive class, and change the bucket rule that moved it there: only instantly readable classes are safe";
    /// An object describes another snapshot or partition than its place says.
    WrongSnapshot = "wrong-snapshot", Damage, "objects were moved by hand: put them back, or create a new snapshot";
    /// An object belongs to another cluster.
    ForeignCluster = "foreign-cluster", Damage, "two clusters share a prefix: give this cluster its own store URL";
    /// A snapshot is of another life of the log.
    WrongIncarnation = "wrong-incarnation", Damage, "the snapshot does not belong to this log: create a new one";
    /// The files are what the manifest says, and their content is not a state that fits it.
    WrongState = "wrong-state", Damage, "the producer wrote a bad snapshot: keep its data folder for analysis and create one on another node";
    /// An upload that ended early, and that nothing can complete any more.
    UnfinishedDirectory = "unfinished-directory", Finding, "it only takes space: `tidemark snapshots sweep --delete` removes it once the log is trimmed past it";
    /// An object below the prefix that Tidemark did not write.
    UnknownObject = "unknown-object", Finding, "find out whose it is and move it away: Tidemark never touches it";
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
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
