//! The simulation in its short form: 150 seeds, and 20 of them twice.

use simulation::{FaultClass, Report, batch};
use std::path::Path;

/// How many seeds, from 1 up.
const SEEDS: u64 = 150;
/// How many seeds are run twice, and how long their storms are.
const CANARIES: u64 = 20;
const CANARY_STORM_SECONDS: u64 = 20;
/// How long each storm lasts; the calm takes 12 s at least, and most often 20.
const STORM_SECONDS: u64 = 60;

/// Branches that 150 seeds must have taken: a storm that never reaches them proves nothing about them.
const SOMETIMES: &[&str] = &[
    "append lost a race",
    "damage done flip",
    "damage done lifecycle",
    "tidemark_admin_anomalies_total{kind=missing-file}",
    "tidemark_admin_anomalies_total{kind=pointer-to-nothing}",
    "tidemark_admin_declines_total{reason=covered}",
    "tidemark_admin_declines_total{reason=running}",
    "tidemark_admin_holds_total{reason=control-unreadable}",
    "tidemark_admin_holds_total{reason=damaged-snapshot}",
    "tidemark_admin_holds_total{reason=log-unavailable}",
    "tidemark_admin_holds_total{reason=lost-race}",
    "tidemark_admin_holds_total{reason=nothing-to-trim}",
    "tidemark_admin_holds_total{reason=replica-behind}",
    "tidemark_admin_holds_total{reason=standby}",
    "tidemark_admin_holds_total{reason=store-unavailable}",
    "tidemark_admin_holds_total{reason=too-few-snapshots}",
    "tidemark_admin_holds_total{reason=unverified-snapshot}",
    "tidemark_admin_holds_total{reason=view-warming}",
    "tidemark_admin_lease_changes_total{change=taken}",
    "tidemark_admin_lease_failures_total",
    "tidemark_admin_snapshot_outcomes_total{outcome=declined}",
    "tidemark_admin_snapshot_outcomes_total{outcome=failed}",
    "tidemark_admin_snapshot_outcomes_total{outcome=unreachable}",
    "tidemark_admin_snapshots_requested_total{cause=repair}",
    "tidemark_admin_trims_total{outcome=failed}",
    "tidemark_admin_trims_total{outcome=trimmed}",
    "tidemark_admin_verifications_total{outcome=damaged}",
    "tidemark_admin_verifications_total{outcome=failed}",
    "tidemark_worker_appends_total{outcome=tail-mismatch}",
    "tidemark_worker_appends_total{outcome=unavailable}",
    "tidemark_worker_appends_total{outcome=unknown}",
    "tidemark_worker_proposals_total{outcome=unknown}",
    "tidemark_worker_restores_total{kind=bootstrap,outcome=restored}",
    "tidemark_worker_restores_total{kind=trim-gap,outcome=restored}",
    "tidemark_worker_verifications_total{level=content,outcome=damaged}",
    "tidemark_worker_verifications_total{level=restore,outcome=ok}",
    "write refused",
];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sim-seed"))
}

fn run(seeds: &[u64], storm_seconds: u64) -> Vec<Report> {
    batch::run(program(), seeds, storm_seconds, |_| {}).expect("every seed is run")
}

#[test]
fn no_rule_breaks_in_150_storms_and_each_rare_branch_is_taken() {
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    let reports = run(&seeds, STORM_SECONDS);
    let failed: String = reports.iter().map(batch::verdict).collect();
    assert!(failed.is_empty(), "{failed}");
    let totals = batch::totals(&reports);
    // Skewed clocks are no event that could be counted.
    let faults = FaultClass::ALL.iter().filter(|class| **class != FaultClass::Skew);
    let faults = faults.map(|class| format!("fault {}", class.as_str()));
    let never: Vec<String> = faults
        .chain(SOMETIMES.iter().map(|name| (*name).to_owned()))
        .filter(|name| !totals.contains_key(name))
        .collect();
    assert!(
        never.is_empty(),
        "no seed came to {never:?}; all counters: {totals:#?}"
    );
}

#[test]
fn equal_seeds_make_equal_runs() {
    let seeds: Vec<u64> = (1..=CANARIES).collect();
    let first = run(&seeds, CANARY_STORM_SECONDS);
    let second = run(&seeds, CANARY_STORM_SECONDS);
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
