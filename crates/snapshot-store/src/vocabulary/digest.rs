//! The digest of a set of key-value pairs.

use super::StateDigest;

/// Computes the digest of a set of pairs: BLAKE3 over all pairs in key order, each as 4-byte big-endian length
/// and bytes of the key, then the same of the value.
///
/// A state with several keyspaces feeds them in order of their prefix and calls [`PairDigest::next_keyspace`]
/// between two of them. The digest of a state with a single keyspace is therefore the plain digest of its
/// pairs, and anybody can compute it from the pairs alone.
#[derive(Debug, Clone, Default)]
pub struct PairDigest {
    hasher: blake3::Hasher,
    /// Not hashed yet.
    gathered: Vec<u8>,
    pairs: u64,
}

/// How much is hashed at once: BLAKE3 hashes many KiB together several times faster than one pair after the other.
const GATHERED_BYTES: usize = 128 << 10;

/// Longer than any key may be, so that it cannot be read as the length of one.
const KEYSPACE_MARK: [u8; 4] = u32::MAX.to_be_bytes();

impl PairDigest {
    /// Starts with no pairs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next pair; the caller feeds pairs in ascending key order.
    ///
    /// Keys and values are far below 4 GiB everywhere in Tidemark (records are bounded to a few MiB).
    pub fn pair(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.feed(&(part.len() as u32).to_be_bytes());
            self.feed(part);
        }
        self.pairs += 1;
    }

    /// Marks the end of one keyspace and the beginning of the one with `prefix`.
    pub fn next_keyspace(&mut self, prefix: u8) {
        self.feed(&KEYSPACE_MARK);
        self.feed(&[prefix]);
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() > GATHERED_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
        if bytes.len() > GATHERED_BYTES {
            self.hasher.update(bytes);
        } else {
            self.gathered.extend_from_slice(bytes);
        }
    }

    /// Returns how many pairs were added.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Returns the digest.
    pub fn finish(&self) -> StateDigest {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.gathered);
        hasher.finalize().into()
    }
}
