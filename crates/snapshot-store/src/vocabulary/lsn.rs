//! Positions in a partition's log.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Position of a record in a partition's log; the first record is 1, and positions are dense.
///
/// The value 0 stands for "before the first record": it is the trim point of a log that was never trimmed and
/// the applied LSN of an empty state. It is never the position of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Lsn = Lsn(0);
    /// The first record of a log without a base.
    pub const FIRST: Lsn = Lsn(1);

    /// Wraps a raw position.
    pub const fn new(position: u64) -> Self {
        Lsn(position)
    }

    /// Returns the raw position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the following position; saturates at `u64::MAX`, which no log reaches.
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// Returns the preceding position; [`Lsn::ZERO`] has none before it and stays.
    pub const fn prev(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Returns the position `records` further on, saturating.
    pub const fn plus(self, records: u64) -> Lsn {
        Lsn(self.0.saturating_add(records))
    }

    /// Returns the position `records` before this one, never below [`Lsn::ZERO`].
    pub const fn minus(self, records: u64) -> Lsn {
        Lsn(self.0.saturating_sub(records))
    }

    /// Returns how many records lie in `(earlier, self]`; 0 when `earlier` is not earlier.
    pub const fn records_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}
