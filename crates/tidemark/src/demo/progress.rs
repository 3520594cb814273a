//! Tells a person what the demo is doing; on standard error, so that standard output holds the result alone.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Lines with the time since the start and, on a terminal, a bar of acknowledged records.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    pub(super) fn new(records: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(records as u64), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} records acknowledged")
        {
            bar.set_style(style);
        }
        Progress {
            bar,
            started: Instant::now(),
        }
    }

    /// Says one thing.
    pub(super) fn say(&self, line: impl std::fmt::Display) {
        let line = format!("[{:6.1} s] {line}", self.started.elapsed().as_secs_f64());
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Counts records of the input that were acknowledged.
    pub(super) fn acknowledged(&self, records: usize) {
        self.bar.inc(records as u64);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
