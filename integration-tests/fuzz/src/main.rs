//! Runs the targets on changed inputs.
//!
//! ```text
//! fuzz-targets [EXECUTIONS] [TARGET]
//! ```
//!
//! By default 10,000,000 executions of every target, from the seed in `TIDEMARK_FUZZ_SEED` or 1. The first misbehaviour
//! prints its input and ends the run.

use fuzz_targets::{Target, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let executions = match arguments
        .next()
        .map_or(Ok(10_000_000), |text| text.parse::<u64>())
    {
        Ok(executions) => executions,
        Err(error) => {
            eprintln!("EXECUTIONS is not a number: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = arguments.next();
    let seed = std::env::var("TIDEMARK_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let chosen = |target: &&Target| wanted.as_deref().is_none_or(|name| name == target.name());
    let targets: Vec<Target> = Target::ALL.iter().filter(chosen).copied().collect();
    if targets.is_empty() {
        eprintln!("there is no such target");
        return ExitCode::FAILURE;
    }
    // Independent of each other, so each has a thread.
    std::thread::scope(|scope| {
        for target in targets {
            scope.spawn(move || {
                let understood = run(target, seed, executions);
                println!(
                    "{:<9} {executions} executions, seed {seed}, {understood} understood",
                    target.name()
                );
            });
        }
    });
    ExitCode::SUCCESS
}
