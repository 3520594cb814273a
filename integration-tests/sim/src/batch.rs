//! Many runs, each in a process of its own: the randomness of a process is used up by its run.

use crate::{plant::Plant, report::Report};
use anyhow::Context as _;
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// How long one run may take, in real time: one that takes longer stands still, because something in it spins. A run takes
/// seconds; a machine that is busy, or stops it for a while, must not end hours of runs.
const RUN_MAX: Duration = Duration::from_secs(900);
/// How often a run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How runs are made.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// The `sim-seed` binary.
    pub program: &'a Path,
    /// How long each storm lasts, in simulated seconds.
    pub storm_seconds: u64,
    /// A bug that is planted in all of them.
    pub plant: Option<Plant>,
    /// Whether the nodes log, to nowhere: that must change nothing.
    pub logging: bool,
}

impl<'a> Runs<'a> {
    /// Runs of the shipped code.
    pub fn new(program: &'a Path, storm_seconds: u64) -> Self {
        Runs {
            program,
            storm_seconds,
            plant: None,
            logging: false,
        }
    }

    /// Runs `seeds`, as many at once as there are processors. Calls `each` as reports arrive; returns them in the order of
    /// the seeds.
    ///
    /// # Errors
    /// When a process cannot be started or says nothing that can be understood.
    pub fn all(&self, seeds: &[u64], each: impl Fn(&Report) + Sync) -> anyhow::Result<Vec<Report>> {
        self.until(seeds, |report| {
            each(report);
            false
        })
    }

    /// Runs `seeds` in their order until one breaks a rule. Returns how many it took, and its report; `None` when none does.
    ///
    /// # Errors
    /// As [`Runs::all`].
    pub fn first_failing(&self, seeds: &[u64]) -> anyhow::Result<Option<(u64, Report)>> {
        let reports = self.until(seeds, |report| !report.violations.is_empty())?;
        let failing = (1..).zip(reports);
        Ok(failing
            .into_iter()
            .find(|(_, report)| !report.violations.is_empty()))
    }

    /// Runs `seeds` until `is_last` says so of one of them; runs under way are finished.
    fn until(&self, seeds: &[u64], is_last: impl Fn(&Report) -> bool + Sync) -> anyhow::Result<Vec<Report>> {
        let next = AtomicUsize::new(0);
        let work = || -> anyhow::Result<Vec<(usize, Report)>> {
            let mut reports = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(seed) = seeds.get(at) else {
                    return Ok(reports);
                };
                let report = self.one(*seed)?;
                if is_last(&report) {
                    next.fetch_max(seeds.len(), Ordering::Relaxed);
                }
                reports.push((at, report));
            }
        };
        let at_once = thread::available_parallelism().map_or(1, usize::from);
        let found = thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|thread| {
                let found = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"));
                found.and_then(|found| found)
            });
            joined.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut reports: Vec<(usize, Report)> = found.into_iter().flatten().collect();
        reports.sort_by_key(|(at, _)| *at);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    /// Runs one seed.
    ///
    /// # Errors
    /// When the process cannot be started or says nothing that can be understood.
    pub fn one(&self, seed: u64) -> anyhow::Result<Report> {
        let mut command = Command::new(self.program);
        command.arg(seed.to_string());
        command.args(["--storm-seconds", &self.storm_seconds.to_string()]);
        if let Some(plant) = self.plant {
            command.args(["--plant", plant.as_str()]);
        }
        let errors = match (self.logging, self.plant) {
            (true, _) => {
                command.args(["--log", "debug"]);
                Stdio::null()
            }
            // What panics there does so on purpose.
            (false, Some(_)) => Stdio::null(),
            (false, None) => Stdio::inherit(),
        };
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        // A report is shorter than what a pipe holds, so that it is written whether or not somebody reads.
        let deadline = Instant::now() + RUN_MAX;
        while process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                anyhow::bail!("seed {seed} does not end; replay it with `just sim-replay {seed}`");
            }
            thread::sleep(LOOK_EVERY);
        }
        let output = process.wait_with_output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("seed {seed} made no report; replay it with `just sim-replay {seed}`"))
    }
}

/// Adds the counters of all reports.
pub fn totals(reports: &[Report]) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    for (name, count) in reports.iter().flat_map(|report| &report.counters) {
        *totals.entry(name.clone()).or_default() += count;
    }
    totals
}

/// Says what went wrong in a run, and how to see it again; empty for a good one.
pub fn verdict(report: &Report) -> String {
    let mut text = String::new();
    for violation in &report.violations {
        text += &format!("seed {}: {violation}\n", report.seed);
    }
    if !text.is_empty() {
        text += &format!("replay it with: just sim-replay {}\n", report.seed);
    }
    text
}
