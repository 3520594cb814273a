//! BLAKE3 hashes, one type for each meaning, written as 64 lower-case hex digits.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A hash was not written as 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a hash: expected 64 hex digits")]
pub struct HashParseError {
    text: String,
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Hashes `bytes` with BLAKE3.
            pub fn of(bytes: &[u8]) -> Self {
                $name(*blake3::hash(bytes).as_bytes())
            }

            /// Wraps raw hash bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }

            /// Wraps raw hash bytes of unknown length; `None` unless there are exactly 32.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map($name)
            }

            /// Returns the raw hash bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                $name(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = HashParseError;
            fn from_str(text: &str) -> Result<Self, HashParseError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| HashParseError { text: text.chars().take(80).collect() })?;
                Ok($name(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

hash_type!(
    /// Hash of the bytes of a stored object.
    ContentHash
);
hash_type!(
    /// Hash over everything a replica has applied up to some LSN, see [`ChainHash::extend`].
    ChainHash
);
hash_type!(
    /// Hash of one log record as appended.
    RecordHash
);
hash_type!(
    /// Hash over all pairs of a state, see [`PairDigest`](super::PairDigest).
    StateDigest
);

impl ChainHash {
    /// Returns the chain hash before the first record of a log without a base.
    pub fn origin(fingerprint: &super::Fingerprint, incarnation: &super::Incarnation) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(fingerprint.as_bytes());
        hasher.update(&incarnation.generation.to_be_bytes());
        hasher.update(incarnation.id.as_bytes());
        hasher.finalize().into()
    }

    /// Returns the chain hash after one more record:
    /// `BLAKE3(previous ‖ lsn as 8 bytes big-endian ‖ outcome ‖ record bytes as appended)`.
    ///
    /// `outcome` is the byte of what the replica made of the record (accepted, ignored, skipped, control).
    #[must_use]
    pub fn extend(&self, lsn: super::Lsn, outcome: u8, record: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&lsn.get().to_be_bytes());
        hasher.update(&[outcome]);
        hasher.update(record);
        hasher.finalize().into()
    }
}
