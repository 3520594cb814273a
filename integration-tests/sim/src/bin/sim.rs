//! Many runs of the simulation, each of one seed in a process of its own.

use anyhow::Context as _;
use clap::Parser;
use simulation::batch;
use std::process::ExitCode;

/// Runs many seeds, prints what went wrong and how often each branch was taken.
#[derive(Parser)]
#[command(after_help = "Examples:\n  sim 150\n  sim 1000 --first 1000000 --counters")]
struct Args {
    /// How many seeds.
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How long each storm lasts, in simulated seconds.
    #[arg(long, default_value_t = 60)]
    storm_seconds: u64,
    /// Prints all counters in the end.
    #[arg(long)]
    counters: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let program = std::env::current_exe()?.with_file_name("sim-seed");
    let seeds: Vec<u64> = (args.first..args.first + args.seeds).collect();
    let reports = batch::run(&program, &seeds, args.storm_seconds, |report| {
        let verdict = batch::verdict(report);
        if !verdict.is_empty() {
            print!("{verdict}");
        }
    })
    .context("the runs could not be made")?;
    if args.counters {
        for (name, count) in batch::totals(&reports) {
            println!("{count:>10} {name}");
        }
    }
    let failed = reports
        .iter()
        .filter(|report| !report.violations.is_empty())
        .count();
    let simulated: u64 = reports.iter().map(|report| report.simulated_ms).sum();
    println!(
        "{} seeds, {} simulated s, {failed} failed",
        reports.len(),
        simulated / 1000
    );
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
