//! Explores the configurations and prints what each came to.
//!
//! ```text
//! protocol-model [--long] [--steps] [WORDS...]
//! ```
//!
//! `--long` adds the large configurations, `--steps` prints the counterexamples; words select by name.

use protocol_model::check::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let mut runs = protocol_model::safe();
    if has("--long") {
        runs.extend(protocol_model::safe_long());
    }
    runs.extend(protocol_model::mutants());
    runs.retain(|run| words.iter().all(|word| run.name().contains(word.as_str())));

    let cores = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let outcomes = runs.into_iter().map(|run| {
        // One thread finds a shortest counterexample.
        let outcome = run.explore(if run.is_mutant() { 1 } else { cores });
        println!("{outcome}");
        if has("--steps") {
            print_steps(&outcome);
        }
        outcome
    });
    let outcomes: Vec<Outcome> = outcomes.collect();
    let failed = outcomes.iter().filter(|outcome| !outcome.as_expected()).count();
    println!("{} configurations, {failed} not as expected", outcomes.len());
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_steps(outcome: &Outcome) {
    for (property, steps) in &outcome.violations {
        println!("    {property}:");
        for step in steps {
            println!("      {step}");
        }
    }
}
