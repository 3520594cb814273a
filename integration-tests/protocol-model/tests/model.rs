//! Every configuration of the models that the test command explores; see `docs/testing.md` for the bounds.

use protocol_model::{Run, mutants, safe};

fn explore_all(runs: Vec<Run>) {
    let mut failed = Vec::new();
    for run in runs {
        let outcome = run.explore(1);
        println!("{outcome}");
        if !outcome.as_expected() {
            failed.push(outcome.to_string());
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Every `parts`-th of the safe configurations of one model, from `part` on. Tests run side by side, configurations one
/// after the other.
fn safe_of(model: &str, part: usize, parts: usize) {
    let runs = safe().into_iter().filter(|run| run.name().starts_with(model));
    let runs: Vec<Run> = runs.skip(part).step_by(parts).collect();
    assert!(!runs.is_empty(), "no configuration is called {model:?}");
    explore_all(runs);
}

#[test]
fn publishing_trimming_and_deleting_are_safe_within_their_bounds() {
    safe_of("archive: ", 0, 2);
}

#[test]
fn publishing_trimming_and_deleting_are_safe_within_other_bounds() {
    safe_of("archive: ", 1, 2);
}

#[test]
fn leadership_is_safe_within_its_bounds() {
    safe_of("leadership: ", 0, 1);
}

#[test]
fn a_lost_or_regressed_log_is_safe_within_its_bounds() {
    safe_of("lineage: ", 0, 1);
}

#[test]
fn every_rule_that_is_taken_out_is_missed() {
    let mutants = mutants();
    assert!(mutants.len() >= 25, "{} mutants", mutants.len());
    explore_all(mutants);
}

#[test]
fn no_two_configurations_have_one_name() {
    let mut names: Vec<&str> = safe().iter().chain(&mutants()).map(Run::name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:#?}");
}
