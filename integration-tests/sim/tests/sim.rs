//! The simulation in its short form: 150 seeds, and 20 of them twice.

use simulation::{Report, batch};
use std::path::Path;

/// How many seeds, from 1 up.
const SEEDS: u64 = 150;
/// How many seeds are run twice.
const CANARIES: u64 = 20;
/// How long each storm lasts; the calm takes 12 s at least, and most often 20.
const STORM_SECONDS: u64 = 60;

/// Branches that 150 seeds must have taken: a storm that never reaches them proves nothing about them.
const SOMETIMES: &[&str] = &[];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sim-seed"))
}

fn run(seeds: &[u64]) -> Vec<Report> {
    batch::run(program(), seeds, STORM_SECONDS, |_| {}).unwrap()
}

#[test]
fn no_rule_breaks_in_150_storms_and_each_rare_branch_is_taken() {
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    let reports = run(&seeds);
    let failed: String = reports.iter().map(batch::verdict).collect();
    assert!(failed.is_empty(), "{failed}");
    let totals = batch::totals(&reports);
    let never: Vec<&str> = SOMETIMES
        .iter()
        .copied()
        .filter(|name| !totals.contains_key(*name))
        .collect();
    assert!(
        never.is_empty(),
        "no seed came to {never:?}; all counters: {totals:#?}"
    );
}

#[test]
fn equal_seeds_make_equal_runs() {
    let seeds: Vec<u64> = (1..=CANARIES).collect();
    let (first, second) = (run(&seeds), run(&seeds));
    let differ: Vec<(u64, &str, &str)> = first
        .iter()
        .zip(&second)
        .filter(|(first, second)| first != second)
        .map(|(first, second)| (first.seed, first.trace_hash.as_str(), second.trace_hash.as_str()))
        .collect();
    assert!(
        differ.is_empty(),
        "the same seeds made different runs; compare the traces that `just sim-replay` writes: {differ:?}"
    );
}
