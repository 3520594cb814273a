//! The records the demo writes.

use super::{DemoError, expected::Expected};
use crate::kv::import::{Pair, Pairs};
use bytes::Bytes;
use snapshot_store::Entropy;
use std::path::Path;

/// Records in the order in which they are written, and what must be there afterwards.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) records: Vec<Pair>,
    pub(super) expected: Expected,
}

/// Equal runs generate equal records.
const SEED: u64 = 0x7164_656d_6172_6b00;

impl Input {
    /// Reads `file`, or generates `updates` records when there is none.
    ///
    /// All of it is held in memory: the demo is for files of some hundred megabytes, `kv import` is for larger ones.
    pub(super) fn read(file: Option<&Path>, updates: u32) -> Result<Self, DemoError> {
        match file {
            Some(file) => {
                let records = Pairs::open(file)?.collect::<Result<Vec<_>, _>>()?;
                let expected = Expected::of_file(file).map_err(DemoError::Expected)?;
                Ok(Input { records, expected })
            }
            None => {
                let records = generate(updates, &Entropy::seeded(SEED));
                let pairs = records
                    .iter()
                    .map(|pair| (pair.key.to_vec(), pair.value.to_vec()));
                Ok(Input {
                    expected: Expected::of_pairs(pairs),
                    records,
                })
            }
        }
    }
}

/// Generates updates of about a third as many keys; few keys get most of the updates, as in real logs.
fn generate(updates: u32, entropy: &Entropy) -> Vec<Pair> {
    let keys = f64::from((updates / 3).max(1));
    let draw = |revision: u32| {
        // Uniform in [0, 1); its third power crowds near 0.
        let uniform = (entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let key = (keys * uniform.powi(3)) as u32;
        let length = 40 + (entropy.next_u64() % 360) as usize;
        let filling: String = (0..length / 16 + 1)
            .map(|_| format!("{:016x}", entropy.next_u64()))
            .collect();
        let value = format!(r#"{{"revision":{revision},"data":"{}"}}"#, &filling[..length]);
        Pair {
            key: Bytes::from(format!("item-{key:08}")),
            value: Bytes::from(value),
        }
    };
    (0..updates).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn equal_seeds_generate_equal_records() {
        assert_eq!(
            generate(500, &Entropy::seeded(1)),
            generate(500, &Entropy::seeded(1))
        );
        assert_ne!(
            generate(500, &Entropy::seeded(1)),
            generate(500, &Entropy::seeded(2))
        );
    }

    #[test]
    fn updates_are_skewed_and_reach_many_keys() {
        let records = generate(6_000, &Entropy::seeded(1));
        let mut counts: BTreeMap<Bytes, usize> = BTreeMap::new();
        for pair in &records {
            *counts.entry(pair.key.clone()).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap();
        assert!(counts.len() > 500, "{} keys", counts.len());
        assert!(
            most > 20 * records.len() / counts.len(),
            "{most} updates of one key among {} keys",
            counts.len()
        );
    }

    #[test]
    fn a_file_is_read_as_by_the_independent_reader() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.jsonl");
        std::fs::write(&file, "{\"key\":\"b\",\"value\": {\"x\":  1}}\n\n{\"key\":\"a\",\"value\":\"\\u00e9\"}\n{\"key\":\"b\",\"value\":2}\n").unwrap();
        let input = Input::read(Some(&file), 0).unwrap();
        let written = input
            .records
            .iter()
            .map(|pair| (pair.key.to_vec(), pair.value.to_vec()));
        assert_eq!(Expected::of_pairs(written), input.expected);
        assert_eq!(input.expected.pairs, 2);
    }
}
