//! A run over many seeds that may take hours: what it found so far is kept in a file, from which it goes on.

use crate::{batch, report::Report};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, path::Path};

/// What a run over many seeds came to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongRun {
    /// How long each storm lasts, in simulated seconds.
    pub storm_seconds: u64,
    /// The first seed.
    pub first: u64,
    /// How many seeds were run, from the first up.
    pub done: u64,
    /// Seeds that broke a rule.
    pub failed: Vec<u64>,
    /// Simulated time of all runs, in milliseconds.
    pub simulated_ms: u64,
    /// How often each branch was taken.
    pub counters: BTreeMap<String, u64>,
}

impl LongRun {
    /// Reads what was kept; `None` when nothing was.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(path: &Path) -> anyhow::Result<Option<LongRun>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Keeps what was found, in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?).with_context(|| new.display().to_string())?;
        fs::rename(&new, path).with_context(|| path.display().to_string())
    }

    /// Adds the reports of the next seeds, in their order.
    pub fn add(&mut self, reports: &[Report]) {
        for report in reports {
            self.done += 1;
            self.simulated_ms += report.simulated_ms;
            if !report.violations.is_empty() {
                self.failed.push(report.seed);
            }
        }
        for (name, count) in batch::totals(reports) {
            *self.counters.entry(name).or_default() += count;
        }
    }

    /// Adds what is counted under names that begin with one of `starts` and contain `part`.
    fn sum(&self, starts: &[&str], part: &str) -> u64 {
        let counted = self
            .counters
            .iter()
            .filter(|(name, _)| starts.iter().any(|start| name.starts_with(start)) && name.contains(part));
        counted.map(|(_, count)| count).sum()
    }
}

/// What a reader of a long run wants to know first.
impl fmt::Display for LongRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("faults", self.sum(&["fault ", "damage done ", "harm done "], "")),
            ("acknowledged writes", self.sum(&["write acknowledged"], "")),
            (
                "snapshots published",
                self.sum(&["tidemark_worker_snapshots_total"], "outcome=published"),
            ),
            ("trims", self.sum(&["trim executed"], "")),
            (
                "restores",
                self.sum(&["tidemark_worker_restores_total"], "outcome=restored"),
            ),
            (
                "fallbacks to an older snapshot",
                self.sum(&["tidemark_worker_restore_fallbacks_total"], ""),
            ),
            (
                "lost races",
                self.sum(
                    &[
                        "store refused a conditional put",
                        "append lost a race",
                        "tidemark_admin_holds_total{reason=lost-race",
                    ],
                    "",
                ),
            ),
        ];
        writeln!(
            f,
            "{} seeds from {} up, {} simulated hours, {} failed",
            self.done,
            self.first,
            self.simulated_ms / 3_600_000,
            self.failed.len()
        )?;
        for (what, count) in lines {
            writeln!(f, "{count:>12} {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        assert_eq!(LongRun::load(&path).unwrap(), None);
        let mut run = LongRun {
            storm_seconds: 60,
            first: 5,
            ..LongRun::default()
        };
        let report = |seed, violations: &[&str]| Report {
            seed,
            trace_hash: String::new(),
            events: 1,
            simulated_ms: 1_800_000,
            calm_ms: 0,
            violations: violations.iter().map(|text| (*text).to_owned()).collect(),
            counters: BTreeMap::from([("fault crash".to_owned(), 2), ("trim executed".to_owned(), 3)]),
        };
        run.add(&[report(5, &[]), report(6, &["rule 1"])]);
        run.store(&path).unwrap();
        let mut again = LongRun::load(&path).unwrap().unwrap();
        assert_eq!(again, run);
        again.add(&[report(7, &[])]);
        assert_eq!((again.done, again.failed.as_slice()), (3, &[6][..]));
        let shown = again.to_string();
        assert!(
            shown.starts_with("3 seeds from 5 up, 1 simulated hours, 1 failed\n"),
            "{shown}"
        );
        assert!(shown.contains("           6 faults\n"), "{shown}");
    }
}
