//! What one run came to, as it is passed from its process to whoever started that.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash over the whole trace: equal runs have equal hashes.
    pub trace_hash: String,
    /// Lines of the trace.
    pub events: u64,
    /// Simulated time in all, in milliseconds.
    pub simulated_ms: u64,
    /// How long the calm took until everything was well, in milliseconds.
    pub calm_ms: u64,
    /// What must never happen and did; empty in a good run.
    pub violations: Vec<String>,
    /// How often each branch was taken.
    pub counters: BTreeMap<String, u64>,
}

impl Report {
    /// Returns how often `name` was counted.
    pub fn count(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }
}
