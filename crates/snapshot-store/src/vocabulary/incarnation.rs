//! Which life of a log a position belongs to.

use serde::{Deserialize, Serialize};
use std::fmt;

/// 128 random bits that tell two logs of the same generation apart; written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncarnationId([u8; 16]);

/// Identity of one life of a log. A log that was created anew has another one, so that LSNs of the old life are
/// never mistaken for LSNs of the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incarnation {
    /// Orders incarnations of one partition; the first is 1.
    pub generation: u64,
    /// Tells apart two incarnations of the same generation, which would be a conflict.
    pub id: IncarnationId,
}

/// How one incarnation stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// The very same log.
    Same,
    /// Of a lower generation.
    Older,
    /// Of a higher generation.
    Newer,
    /// Same generation, other id: two logs claim the same place. Nothing is written or deleted.
    Conflict,
}

impl Incarnation {
    /// Returns how `self` stands to `other`; `Older` means that `self` is the older one.
    pub fn compared_to(&self, other: &Incarnation) -> Lineage {
        match self.generation.cmp(&other.generation) {
            std::cmp::Ordering::Less => Lineage::Older,
            std::cmp::Ordering::Greater => Lineage::Newer,
            std::cmp::Ordering::Equal if self.id == other.id => Lineage::Same,
            std::cmp::Ordering::Equal => Lineage::Conflict,
        }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.id)
    }
}

impl IncarnationId {
    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        IncarnationId(bytes)
    }

    /// Wraps raw bytes of unknown length; `None` unless there are exactly 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(IncarnationId)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

super::identity::hex_16!(IncarnationId, "an incarnation id");
