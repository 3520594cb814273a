//! The stored objects. Each is JSON with a `format` number; golden files in `tests/golden` pin them.
//!
//! A field that a reader may pass over can be added at any time: older versions keep it when they rewrite the object
//! (see [`Unknown`]). What changes the meaning of the rest is a new format number, which older versions refuse by
//! name. The small values inside (identities, incarnations, producers) are closed: they never grow.

mod certificate;
mod cluster;
mod control;
mod keys;
mod lease;
mod manifest;
mod pointer;
mod unknown;

pub use certificate::{Certificate, CertifiedSnapshot, VerifyLevel};
pub use cluster::{ClusterRecord, KeyHash};
pub use control::{Control, Pause, PauseScope, StickyHold, StickyReason};
pub use keys::{Keys, SnapshotDirectory};
pub use lease::{Lease, LeaseEpoch};
pub use manifest::{
    ChainPoint, ChainTrail, KeyRange, Manifest, ManifestFile, Origin, Producer, StateMachineVersion,
};
pub use pointer::{Pointer, PointerEntry, PublishedSnapshot};
pub use unknown::Unknown;

use serde::{Serialize, de::DeserializeOwned};

/// Why a stored object could not be understood. The object is never overwritten because of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not the JSON that was expected.
    #[error("{key} is not a readable {what}: {detail}")]
    Unparsable {
        /// The object.
        key: String,
        /// What it should have been.
        what: &'static str,
        /// What the parser says.
        detail: String,
    },
    /// Written by a newer version of Tidemark.
    #[error("{key} has {what} format {found}, this version reads up to {known}: update this node")]
    Newer {
        /// The object.
        key: String,
        /// What it is.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The highest number this version knows.
        known: u32,
    },
}

/// An object with a versioned JSON form.
pub trait Stored: Serialize + DeserializeOwned {
    /// What people call it.
    const WHAT: &'static str;
    /// The format number this version writes, and the highest it reads.
    const FORMAT: u32;

    /// Returns the stored form: indented JSON with a final line break, so that people can read it in the bucket.
    fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a, T> {
            format: u32,
            #[serde(flatten)]
            body: &'a T,
        }
        let envelope = Envelope {
            format: Self::FORMAT,
            body: self,
        };
        let mut bytes =
            serde_json::to_vec_pretty(&envelope).expect("stored objects have string keys and finite numbers");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the stored form of the object at `key`.
    ///
    /// # Errors
    /// When it cannot be parsed or is of a newer format; the error names `key`.
    fn decode(key: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let unparsable = |detail: String| FormatError::Unparsable {
            key: key.to_owned(),
            what: Self::WHAT,
            detail,
        };
        let mut object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|error| unparsable(error.to_string()))?;
        let format = object
            .remove("format")
            .and_then(|format| format.as_u64())
            .ok_or_else(|| unparsable("it has no format number".to_owned()))?;
        if format > u64::from(Self::FORMAT) {
            return Err(FormatError::Newer {
                key: key.to_owned(),
                what: Self::WHAT,
                found: format,
                known: Self::FORMAT,
            });
        }
        serde_json::from_value(serde_json::Value::Object(object))
            .map_err(|error| unparsable(error.to_string()))
    }
}
