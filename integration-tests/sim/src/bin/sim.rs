//! Many runs of the simulation, each of one seed in a process of its own.

use anyhow::{Context as _, ensure};
use clap::Parser;
use simulation::{LongRun, Plant, Runs, verdict};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::time::Instant;

/// How many seeds lie between two states that are kept.
const CHUNK: u64 = 100;
/// Distance of the starts from which a planted bug is looked for.
const START_DISTANCE: u64 = 10_000;

/// Runs many seeds, prints what went wrong and how often each branch was taken.
#[derive(Parser)]
#[command(after_help = "Examples:
  sim 150
  sim 1000 --first 1000000 --counters
  sim 20000 --keep /var/tmp/sim.json      goes on where it was stopped
  sim 2000 --plant all --starts 5         how many seeds each planted bug takes")]
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
    /// Keeps in this file what was found so far, and goes on from it.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Plants a bug, by its word, or each in turn (`all`), and looks for the first seed that finds it.
    #[arg(long)]
    plant: Option<String>,
    /// From how many starts it is looked for, each with seeds of its own.
    #[arg(long, default_value_t = 1)]
    starts: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let program = std::env::current_exe()?.with_file_name("sim-seed");
    match &args.plant {
        None => run(&args, &program),
        Some(word) => look_for(&args, &program, word),
    }
}

/// Runs all seeds.
fn run(args: &Args, program: &Path) -> anyhow::Result<ExitCode> {
    let runs = Runs::new(program, args.storm_seconds);
    let kept = args.keep.as_deref().map(LongRun::load).transpose()?.flatten();
    let mut run = kept.unwrap_or(LongRun {
        storm_seconds: args.storm_seconds,
        first: args.first,
        ..LongRun::default()
    });
    ensure!(
        (run.first, run.storm_seconds) == (args.first, args.storm_seconds),
        "the kept run begins at seed {} with storms of {} s: give the same, or another file",
        run.first,
        run.storm_seconds
    );
    let (begun, before) = (Instant::now(), run.done);
    while run.done < args.seeds {
        let from = args.first + run.done;
        let seeds: Vec<u64> = (from..from + CHUNK.min(args.seeds - run.done)).collect();
        let reports = runs.all(&seeds, |report| print!("{}", verdict(report)));
        run.add(&reports.context("the runs could not be made")?);
        if let Some(path) = &args.keep {
            run.store(path)?;
        }
        eprintln!("{}", progress(&run, before, args.seeds, begun.elapsed()));
    }
    if args.counters {
        for (name, count) in &run.counters {
            println!("{count:>10} {name}");
        }
    }
    print!("{run}");
    if !run.failed.is_empty() {
        println!("failed: {:?}", run.failed);
    }
    Ok(match run.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn progress(run: &LongRun, before: u64, seeds: u64, passed: Duration) -> String {
    let done = run.done - before;
    let left = passed.as_secs() * (seeds - run.done) / done.max(1);
    format!(
        "{} of {seeds} seeds, {} failed, {} s passed, about {left} s left",
        run.done,
        run.failed.len(),
        passed.as_secs()
    )
}

/// Looks for the first seed that finds a planted bug.
fn look_for(args: &Args, program: &Path, word: &str) -> anyhow::Result<ExitCode> {
    let plants = match word {
        "all" => Plant::ALL.to_vec(),
        word => vec![word.parse::<Plant>().map_err(anyhow::Error::msg)?],
    };
    let mut all_found = true;
    for plant in plants {
        let mut needed = Vec::new();
        for start in 0..args.starts {
            let first = args.first + start * START_DISTANCE;
            let runs = Runs {
                plant: Some(plant),
                ..Runs::new(program, args.storm_seconds)
            };
            let seeds: Vec<u64> = (first..first + args.seeds).collect();
            match runs.first_failing(&seeds)? {
                Some((count, report)) => {
                    let rules: Vec<&String> = report.violations.iter().take(2).collect();
                    println!("{}: found by seed {}: {rules:?}", plant.as_str(), report.seed);
                    needed.push(count);
                }
                None => {
                    println!("{}: not found from seed {first} on", plant.as_str());
                    all_found = false;
                }
            }
        }
        needed.sort_unstable();
        let median = needed.get(needed.len() / 2);
        println!("{}: seeds needed {needed:?}, median {median:?}", plant.as_str());
    }
    Ok(match all_found {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
