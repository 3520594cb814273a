//! The references that are generated from the code: `docs/reasons.md` and `docs/metrics.md`.
//!
//! Each word is defined in one place, with its meaning and its remedy; each metric is described in one place of its crate.
//! The pages are rendered from there, and a test fails when they are not up to date.

mod metrics;
mod reasons;

pub use metrics::{Described, metrics, metrics_page};
pub use reasons::{Vocabulary, reasons_page, vocabularies};

use clap::Args;
use std::{path::PathBuf, process::ExitCode};

/// Arguments of `docs`.
#[derive(Debug, Args)]
pub struct DocsArgs {
    /// The folder that the pages are written to.
    #[arg(value_name = "DIR", default_value = "docs")]
    folder: PathBuf,
}

/// Returns the pages: name of the file, and text.
pub fn pages() -> [(&'static str, String); 2] {
    [("reasons.md", reasons_page()), ("metrics.md", metrics_page())]
}

/// Writes the pages.
///
/// # Errors
/// When the folder cannot be written.
pub fn run(args: &DocsArgs) -> anyhow::Result<ExitCode> {
    for (name, text) in pages() {
        let path = args.folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| anyhow::anyhow!("{} cannot be written: {error}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What stands at the top of every generated page.
const GENERATED: &str =
    "<!-- Generated from the code by `just generate-docs`; a test fails while it is not up to date. -->\n";

/// Puts text into a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
