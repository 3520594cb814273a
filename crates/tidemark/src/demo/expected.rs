//! What the cluster must hold at the end, computed from the input alone.
//!
//! This shares no code with the import, the state machine or their digests on purpose: it is the other side of
//! the comparison.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

/// Number and digest of the last value of every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pairs: u64,
    /// BLAKE3 over all pairs in key order, each as 4-byte big-endian length and bytes of the key, then of the value.
    pub(super) digest: [u8; 32],
}

impl Expected {
    /// Reads `file` line by line, on its own.
    pub(super) fn of_file(file: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let raw = File::open(file).map_err(|error| failed(&error))?;
        let mut raw = BufReader::new(raw);
        let gzipped = raw
            .fill_buf()
            .map_err(|error| failed(&error))?
            .starts_with(b"\x1f\x8b");
        let lines: Box<dyn BufRead> = if gzipped {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        let mut last = BTreeMap::new();
        for line in lines.lines() {
            let line = line.map_err(|error| failed(&error))?;
            if line.trim().is_empty() {
                continue;
            }
            let fields: BTreeMap<String, Box<serde_json::value::RawValue>> =
                serde_json::from_str(&line).map_err(|error| failed(&error))?;
            let field = |name: &str| {
                fields
                    .get(name)
                    .map(|raw| raw.get())
                    .ok_or_else(|| failed(&"a field is missing"))
            };
            let key: String = serde_json::from_str(field("key")?).map_err(|error| failed(&error))?;
            let source = field("value")?;
            let value = match serde_json::from_str::<String>(source) {
                Ok(decoded) => decoded,
                Err(_) => source.to_owned(),
            };
            last.insert(key.into_bytes(), value.into_bytes());
        }
        Ok(Self::of_map(&last))
    }

    /// Keeps the last value of every key.
    pub(super) fn of_pairs(pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self::of_map(&pairs.collect())
    }

    fn of_map(last: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in last.iter().flat_map(|(key, value)| [key, value]) {
            // Keys and values are bounded far below 4 GiB.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            hasher.update(&length.to_be_bytes());
            hasher.update(part);
        }
        Expected {
            pairs: last.len() as u64,
            digest: *hasher.finalize().as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_counts_and_order_does_not() {
        let pairs = |list: &[(&str, &str)]| {
            Expected::of_pairs(
                list.iter()
                    .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())),
            )
        };
        assert_eq!(
            pairs(&[("b", "1"), ("a", "2"), ("b", "3")]),
            pairs(&[("a", "2"), ("b", "3")])
        );
        assert_ne!(pairs(&[("a", "bc")]), pairs(&[("ab", "c")]));
        let bytes = b"\0\0\0\x01a\0\0\0\x02bc";
        assert_eq!(pairs(&[("a", "bc")]).digest, *blake3::hash(bytes).as_bytes());
    }
}
