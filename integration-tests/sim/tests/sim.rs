//! The simulation in its short form: 150 seeds, and 20 of them twice.

use simulation::{FaultClass, Plant, Report, Runs, totals, verdict};
use std::path::Path;

/// How many seeds, from 1 up.
const SEEDS: u64 = 150;
/// How many seeds are run twice, and how long their storms are.
const CANARIES: u64 = 20;
const CANARY_STORM_SECONDS: u64 = 15;
/// How long each storm lasts; the calm takes 12 s at least, and most often 20.
const STORM_SECONDS: u64 = 60;

/// Branches that 150 seeds must have taken: a storm that never reaches them proves nothing about them.
const SOMETIMES: &[&str] = &[
    "append lost a race",
    "damage done flip",
    "damage done lifecycle",
    "harm done LogConflicts",
    "harm done LogRecreated",
    "harm done log-regressed",
    "harm done pointer-deleted",
    "harm done pointer-foreign",
    "object copied",
    "stale pointer read",
    "store refused a conditional put",
    "tidemark_admin_anomalies_total{kind=missing-file}",
    "tidemark_admin_anomalies_total{kind=pointer-to-nothing}",
    "tidemark_admin_anomalies_total{kind=wrong-hash}",
    "tidemark_admin_declines_total{reason=covered}",
    "tidemark_admin_declines_total{reason=not-active}",
    "tidemark_admin_declines_total{reason=running}",
    "tidemark_admin_holds_total{reason=control-unreadable}",
    "tidemark_admin_holds_total{reason=damaged-snapshot}",
    "tidemark_admin_holds_total{reason=delay}",
    "tidemark_admin_holds_total{reason=dry-run}",
    "tidemark_admin_holds_total{reason=foreign-identity}",
    "tidemark_admin_holds_total{reason=incarnation-mismatch}",
    "tidemark_admin_holds_total{reason=log-regressed}",
    "tidemark_admin_holds_total{reason=log-unavailable}",
    "tidemark_admin_holds_total{reason=lost-race}",
    "tidemark_admin_holds_total{reason=no-live-replica}",
    "tidemark_admin_holds_total{reason=nothing-to-trim}",
    "tidemark_admin_holds_total{reason=paused}",
    "tidemark_admin_holds_total{reason=pointer-missing}",
    "tidemark_admin_holds_total{reason=pointer-unreadable}",
    "tidemark_admin_holds_total{reason=replica-behind}",
    "tidemark_admin_holds_total{reason=standby}",
    "tidemark_admin_holds_total{reason=store-unavailable}",
    "tidemark_admin_holds_total{reason=too-few-snapshots}",
    "tidemark_admin_holds_total{reason=unverified-snapshot}",
    "tidemark_admin_holds_total{reason=version-unsupported}",
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
    "tidemark_worker_anomalies_total{kind=missing-file}",
    "tidemark_worker_anomalies_total{kind=wrong-hash}",
    "tidemark_worker_appends_total{outcome=tail-mismatch}",
    "tidemark_worker_appends_total{outcome=unavailable}",
    "tidemark_worker_appends_total{outcome=unknown}",
    "tidemark_worker_blocked_total{reason=local-state}",
    "tidemark_worker_blocked_total{reason=log-incarnation}",
    "tidemark_worker_blocked_total{reason=log-regressed}",
    "tidemark_worker_blocked_total{reason=log-unavailable}",
    "tidemark_worker_blocked_total{reason=state-version}",
    "tidemark_worker_blocked_total{reason=store-unavailable}",
    "tidemark_worker_blocked_total{reason=store-unusable}",
    "tidemark_worker_proposals_total{outcome=unknown}",
    "tidemark_worker_restore_fallbacks_total",
    "tidemark_worker_restores_total{kind=bootstrap,outcome=nothing-usable}",
    "tidemark_worker_restores_total{kind=bootstrap,outcome=restored}",
    "tidemark_worker_restores_total{kind=bootstrap,outcome=unfit}",
    "tidemark_worker_restores_total{kind=trim-gap,outcome=restored}",
    "tidemark_worker_reused_bytes_total{source=staging}",
    "tidemark_worker_verifications_total{level=content,outcome=damaged}",
    "tidemark_worker_verifications_total{level=restore,outcome=ok}",
    "upload of several parts completed",
    "write refused",
];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sim-seed"))
}

fn run(runs: Runs<'_>, seeds: &[u64]) -> Vec<Report> {
    runs.all(seeds, |_| {}).expect("every seed is run")
}

#[test]
fn no_rule_breaks_in_150_storms_and_each_rare_branch_is_taken() {
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    let reports = run(Runs::new(program(), STORM_SECONDS), &seeds);
    let failed: String = reports.iter().map(verdict).collect();
    assert!(failed.is_empty(), "{failed}");
    let totals = totals(&reports);
    // Skewed clocks are no event that could be counted.
    let faults = FaultClass::ALL.iter().filter(|class| **class != FaultClass::Skew);
    let faults = faults.map(|class| format!("fault {}", class.as_str()));
    let never: Vec<String> = faults
        .chain(SOMETIMES.iter().map(|name| (*name).to_owned()))
        .filter(|name| totals.get(name).is_none_or(|count| *count == 0))
        .collect();
    assert!(
        never.is_empty(),
        "no seed came to {never:?}; all counters: {totals:#?}"
    );
}

#[test]
fn equal_seeds_make_equal_runs() {
    let seeds: Vec<u64> = (1..=CANARIES).collect();
    let runs = Runs::new(program(), CANARY_STORM_SECONDS);
    let first = run(runs, &seeds);
    // What the nodes log must change nothing: that is how a failing seed is looked at.
    let logging = true;
    let second = run(Runs { logging, ..runs }, &seeds);
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

#[test]
fn bugs_that_are_planted_are_found() {
    // Those that take a seed or two; `just sim-planted` looks for all of them.
    let planted = [
        Plant::ReportBeforePointer,
        Plant::TrustStatus,
        Plant::NewestRestorable,
    ];
    for plant in planted {
        let runs = Runs {
            plant: Some(plant),
            ..Runs::new(program(), STORM_SECONDS)
        };
        let found = runs
            .first_failing(&[1, 2, 3, 4, 5, 6])
            .expect("every seed is run");
        assert!(found.is_some(), "no seed finds {}", plant.as_str());
    }
}
