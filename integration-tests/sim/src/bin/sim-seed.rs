//! One run of one seed, in a process whose clock and randomness are simulated, too.

use anyhow::Context as _;
use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use simulation::{Options, Plan, Plant, run};
use std::{fs::File, io::Write, path::PathBuf, process::ExitCode, time::Duration};

/// Runs a simulated cluster through the storm that a seed stands for, and prints a report in JSON.
#[derive(Parser)]
#[command(after_help = "Example:\n  sim-seed 42 --trace /tmp/trace --log info")]
struct Args {
    /// The seed.
    seed: u64,
    /// How long the storm lasts, in simulated seconds.
    #[arg(long, default_value_t = 60)]
    storm_seconds: u64,
    /// Writes the trace into this file; equal runs write equal files.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Plants a bug, to see whether it is found.
    #[arg(long)]
    plant: Option<Plant>,
    /// Prints what the nodes log, as a filter like `info` or `snapshot_worker=debug`.
    #[arg(long)]
    log: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(args.seed));
    let _clocks = mad_turmoil::time::SimClocksGuard::init();
    // Without a filter, too: setting this up uses randomness, and what is printed must not change the run.
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_deref().unwrap_or("off"))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let plan = Plan::of_seed(args.seed);
    if args.trace.is_some() || args.log.is_some() {
        eprintln!("{plan:?}");
    }
    let trace = match &args.trace {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
            Some(Box::new(std::io::BufWriter::new(file)) as Box<dyn Write + Send>)
        }
        None => None,
    };
    // Files in memory: every flush is synced.
    let memory = PathBuf::from("/dev/shm");
    let disks = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }?;
    let options = Options {
        storm: Duration::from_secs(args.storm_seconds),
        disks: disks.path().to_owned(),
        plant: args.plant,
        trace,
    };
    let report = run(plan, options)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
