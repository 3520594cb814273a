//! Logs: on the standard error, so that the standard output stays what a command answers.

use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Environment variable with the filter, as `tracing` writes it: `info,snapshot_worker=debug`.
pub const FILTER_VARIABLE: &str = "TIDEMARK_LOG";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `default_filter` holds where [`FILTER_VARIABLE`] is not set; a filter that cannot be parsed is
/// said once and replaced by the default.
pub fn init(format: LogFormat, default_filter: &str) {
    let wanted = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|filter| !filter.is_empty());
    let parsed = wanted.as_deref().map(EnvFilter::try_new);
    let (filter, fault) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(default_filter), Some(error)),
        None => (EnvFilter::new(default_filter), None),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry
                .with(fmt::layer().with_writer(std::io::stderr).with_ansi(ansi))
                .try_init()
        }
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    // A second call in one process (tests) keeps the first subscriber.
    drop(started);
    if let Some(error) = fault {
        tracing::warn!("{FILTER_VARIABLE} is passed over: {error}");
    }
}
