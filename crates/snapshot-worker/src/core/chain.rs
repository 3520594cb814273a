//! The chain hash of a replica and the points at which it is remembered.

use super::leadership::Outcome;
use snapshot_store::{
    ChainHash, Lsn,
    format::{ChainPoint, ChainTrail},
};

/// The chain hash at the applied LSN, and at the last multiples of [`ChainTrail::SPACING`]. Independent of how
/// records were batched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The hash after the last record applied.
    pub hash: ChainHash,
    /// The remembered points, oldest first, at most [`ChainTrail::LENGTH_MAX`].
    pub points: Vec<ChainPoint>,
}

impl Chain {
    /// Begins with the hash before the first record.
    pub fn starting_at(hash: ChainHash) -> Self {
        Chain {
            hash,
            points: Vec::new(),
        }
    }

    /// Adds the record at `lsn`.
    pub fn extend(&mut self, lsn: Lsn, outcome: Outcome, record: &[u8]) {
        self.hash = self.hash.extend(lsn, outcome.byte(), record);
        if lsn.get().is_multiple_of(ChainTrail::SPACING) {
            if self.points.len() >= ChainTrail::LENGTH_MAX {
                self.points.remove(0);
            }
            self.points.push(ChainPoint { lsn, hash: self.hash });
        }
    }

    /// Returns the points to show to others: the remembered ones, and the one at `applied`.
    pub fn trail(&self, applied: Lsn) -> ChainTrail {
        let mut points = self.points.clone();
        if points.last().is_none_or(|point| point.lsn != applied) {
            points.push(ChainPoint {
                lsn: applied,
                hash: self.hash,
            });
        }
        ChainTrail(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain_up_to(last: u64) -> Chain {
        let mut chain = Chain::starting_at(ChainHash::of(b"origin"));
        for lsn in 1..=last {
            chain.extend(Lsn::new(lsn), Outcome::Accepted, &lsn.to_be_bytes());
        }
        chain
    }

    #[test]
    fn the_last_64_multiples_are_remembered() {
        let chain = chain_up_to(66 * 1024 + 5);
        let lsns: Vec<u64> = chain.points.iter().map(|point| point.lsn.get()).collect();
        assert_eq!(lsns, (3..=66).map(|n| n * 1024).collect::<Vec<u64>>());
        assert_eq!(chain.trail(Lsn::new(66 * 1024 + 5)).0.len(), 65);
    }

    #[test]
    fn a_multiple_is_shown_once() {
        let chain = chain_up_to(1024);
        assert_eq!(
            chain.trail(Lsn::new(1024)).0,
            [ChainPoint {
                lsn: Lsn::new(1024),
                hash: chain.hash
            }]
        );
    }

    #[test]
    fn another_outcome_gives_another_hash() {
        let mut accepted = chain_up_to(1023);
        let mut ignored = accepted.clone();
        accepted.extend(Lsn::new(1024), Outcome::Accepted, b"r");
        ignored.extend(Lsn::new(1024), Outcome::Ignored, b"r");
        let (accepted, ignored) = (accepted.trail(Lsn::new(1024)), ignored.trail(Lsn::new(1024)));
        assert_eq!(accepted.first_mismatch(&ignored), Some(Lsn::new(1024)));
    }
}
