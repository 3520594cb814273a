//! Partitions, nodes and who leads.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Number of a partition, from 0 up to the cluster's partition count, exclusive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(u32);

impl PartitionId {
    /// Wraps a raw number.
    pub const fn new(number: u32) -> Self {
        PartitionId(number)
    }

    /// Returns the raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl FromStr for PartitionId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(PartitionId)
            .map_err(|_| format!("{text:?} is not a partition: expected a number from 0 up"))
    }
}

/// Name of a node: 1 to 64 characters out of `a-z`, `0-9`, `-`, `_` and `.`, the first a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// A text that cannot name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a node id: expected 1 to 64 characters of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
)]
pub struct NodeIdError {
    text: String,
}

impl NodeId {
    /// The longest name, in bytes.
    pub const LENGTH_MAX: usize = 64;

    /// Checks `text` and wraps it.
    ///
    /// # Errors
    /// When it is empty, too long or holds other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, NodeIdError> {
        let text = text.into();
        let first_ok = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rest_ok = text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if first_ok && rest_ok && text.len() <= Self::LENGTH_MAX {
            Ok(NodeId(text))
        } else {
            Err(NodeIdError {
                text: text.chars().take(80).collect(),
            })
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        NodeId::new(text)
    }
}

impl TryFrom<String> for NodeId {
    type Error = NodeIdError;
    fn try_from(text: String) -> Result<Self, NodeIdError> {
        NodeId::new(text)
    }
}

impl From<NodeId> for String {
    fn from(node: NodeId) -> String {
        node.0
    }
}

/// Number of a leadership term of a partition, announced in its log; the first is 1, 0 means none so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaderEpoch(u64);

impl LeaderEpoch {
    /// No leader was announced yet.
    pub const NONE: LeaderEpoch = LeaderEpoch(0);

    /// Wraps a raw number.
    pub const fn new(number: u64) -> Self {
        LeaderEpoch(number)
    }

    /// Returns the raw number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the term after this one.
    pub const fn next(self) -> Self {
        LeaderEpoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// Who leads a partition, and in which term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leadership {
    /// The term.
    pub epoch: LeaderEpoch,
    /// The leader of that term.
    pub node: NodeId,
}

/// What a replica was when it made a snapshot or answered a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaRole {
    /// It led its partition.
    Leader,
    /// It followed.
    Follower,
}

impl ReplicaRole {
    /// Returns the word used in metrics, status and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReplicaRole::Leader => "leader",
            ReplicaRole::Follower => "follower",
        }
    }
}
