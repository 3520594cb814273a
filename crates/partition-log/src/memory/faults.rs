//! Faults on demand: what can go wrong between a caller and its log.

use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn};
use std::collections::VecDeque;

/// What happens to one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// It lands, and its reply is lost.
    UnknownLanded,
    /// The request is lost; the caller does not know.
    UnknownNotLanded,
    /// The request is held up: it takes place when [`MemoryLog::release_delayed`](super::MemoryLog::release_delayed)
    /// is called, if its expected tail still fits; the caller does not know.
    UnknownDelayed,
    /// It is refused before it was tried.
    Unavailable,
}

/// A request that is on its way.
#[derive(Debug)]
pub(super) enum Delayed {
    Append {
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    },
    Trim {
        incarnation: Incarnation,
        up_to: Lsn,
    },
}

/// The switches of one partition.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// For the next appends, first in, first out.
    pub(super) appends: VecDeque<AppendFault>,
    /// Everything answers "unavailable".
    pub(super) unavailable: bool,
    /// `info` and `registration` answer "unavailable".
    pub(super) info_unavailable: bool,
    /// Reading, begun or new, answers "unavailable".
    pub(super) reads_unavailable: bool,
    /// Trims answer "unavailable" and are held up.
    pub(super) trims_delayed: bool,
    /// Requests held up, in order.
    pub(super) delayed: VecDeque<Delayed>,
}
