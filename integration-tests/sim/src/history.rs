//! All that the log of one partition ever held: one history, or several where the log broke its word.

use crate::truth::{Replayed, Truth};
use bytes::Bytes;
use snapshot_store::{ChainHash, Lsn, StateDigest};

/// The histories of one log. What it lost, or was before it was created anew, is an earlier one.
pub(crate) struct History {
    current: Truth,
    /// Earlier ones by number, with the last LSN that each shares with all later ones.
    earlier: Vec<(Truth, Lsn)>,
}

impl History {
    pub(crate) fn new(current: Truth) -> Self {
        History {
            current,
            earlier: Vec::new(),
        }
    }

    /// Returns what the log holds now.
    pub(crate) fn current(&mut self) -> &mut Truth {
        &mut self.current
    }

    /// Returns the record at `lsn`, also when the log has trimmed it.
    pub(crate) fn record(&self, lsn: Lsn) -> Option<Bytes> {
        self.current.record(lsn)
    }

    /// Adds the records of one append; returns the LSN of the last.
    pub(crate) fn append(&mut self, batch: &[Bytes]) -> Lsn {
        self.current.append(batch)
    }

    /// The log lost what comes after `last`.
    pub(crate) fn lose_after(&mut self, last: Lsn) {
        self.earlier.push((self.current.clone(), last));
        self.current.lose_after(last);
    }

    /// The log was lost, and another one took its place.
    pub(crate) fn begin_anew(&mut self, truth: Truth) {
        let lost = std::mem::replace(&mut self.current, truth);
        self.earlier.push((lost, Lsn::ZERO));
    }

    /// Returns the number of the latest history whose state at `lsn` is what `is_right` wants.
    pub(crate) fn find(&mut self, lsn: Lsn, is_right: impl Fn(&Replayed) -> bool) -> Option<usize> {
        self.latest(|truth| truth.at(lsn).is_some_and(&is_right))
    }

    /// Returns the number of the latest history that has this chain hash and this digest at `lsn`.
    pub(crate) fn find_digests(&mut self, lsn: Lsn, digests: (ChainHash, StateDigest)) -> Option<usize> {
        self.latest(|truth| truth.digests_at(lsn) == Some(digests))
    }

    fn latest(&mut self, mut is_right: impl FnMut(&mut Truth) -> bool) -> Option<usize> {
        let number = self.earlier.len();
        if is_right(&mut self.current) {
            return Some(number);
        }
        let mut earlier = self.earlier.iter_mut().enumerate().rev();
        earlier.find_map(|(number, (truth, _))| is_right(truth).then_some(number))
    }

    /// Returns whether the records up to `lsn` of history `number` are those that the log holds or held now.
    pub(crate) fn is_shared(&self, number: Option<usize>, lsn: Lsn) -> bool {
        number.is_some_and(|number| {
            let later = self.earlier.iter().skip(number);
            later.map(|(_, shared)| *shared).all(|shared| lsn <= shared)
        })
    }

    /// Returns the state at the end of each history.
    pub(crate) fn ends(&mut self) -> Vec<Replayed> {
        let earlier = self.earlier.iter_mut().map(|(truth, _)| truth);
        earlier
            .chain([&mut self.current])
            .filter_map(|truth| truth.at(truth.last()).cloned())
            .collect()
    }
}
