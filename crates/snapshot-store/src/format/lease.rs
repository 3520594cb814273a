//! `admin/lease.json`: which of several admins acts. A convenience: nothing that destroys something rests on it.

use super::{Stored, Unknown};
use crate::vocabulary::{AdminSession, ClusterIdentity, NodeId, Timestamp, WriteId};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Number of a term of office; the first is 1. Each change of the holder takes the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseEpoch(u64);

impl LeaseEpoch {
    /// Wraps a raw number.
    pub const fn new(number: u64) -> Self {
        LeaseEpoch(number)
    }

    /// Returns the raw number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        LeaseEpoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which admin acts, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// Drawn anew for every write.
    pub write_id: WriteId,
    /// Grows with every change of the holder.
    pub epoch: LeaseEpoch,
    /// The admin that acts.
    pub holder: NodeId,
    /// Its process: tells a restarted admin, or a second one of the same name, from the one that wrote this.
    pub session: AdminSession,
    /// Where operators reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When this holder took it.
    pub acquired_at: Timestamp,
    /// When it was written last.
    pub renewed_at: Timestamp,
    /// Until when it stands unless it is renewed, by the clock of the holder.
    pub expires_at: Timestamp,
    /// The holder gave it up; absent while it is held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// Fields that a later version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Lease {
    /// Returns how long it stands without being renewed, as its holder has it. Two moments of one clock: those of
    /// different nodes are never compared.
    pub fn term(&self) -> Duration {
        self.expires_at.since(self.renewed_at)
    }
}

impl Stored for Lease {
    const WHAT: &'static str = "lease";
    const FORMAT: u32 = 1;
}
