//! What commands print: tables and words for people, one JSON object for programs.

use comfy_table::{Cell, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

/// How a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Tables and sentences.
    #[default]
    Text,
    /// One JSON object on the standard output.
    Json,
}

impl OutputFormat {
    /// Prints `answer` as one JSON object, or what `text` says.
    ///
    /// # Errors
    /// When the standard output cannot be written.
    pub fn print<T: Serialize>(self, answer: &T, text: impl FnOnce() -> String) -> io::Result<()> {
        match self {
            OutputFormat::Json => print_line(&serde_json::to_string(answer)?),
            OutputFormat::Text => print_line(text().trim_end()),
        }
    }
}

/// Prints one line, or several. A reader that went away (`tidemark status | head -1`) is no error.
///
/// # Errors
/// When the standard output cannot be written for another reason.
pub fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Asks a person on the terminal, unless `yes` says that somebody decided already. Says whether to go on.
///
/// # Errors
/// When nobody can be asked.
pub fn confirmed(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    anyhow::ensure!(
        io::stdin().is_terminal(),
        "{question}\nnobody can be asked here: repeat the command with --yes"
    );
    eprint!("{question} [yes/no] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

/// Lays `rows` out under `header`.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(header.map(Cell::new));
    table.add_rows(rows.into_iter().map(|row| row.map(Cell::new)));
    // One line per row also where the output is no terminal: scripts and logs read it too.
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns a progress bar on the standard error, which shows only on a terminal and in text mode.
pub fn progress_bar(format: OutputFormat, what: &'static str, total: Option<u64>) -> ProgressBar {
    if format == OutputFormat::Json || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    }
    let template = match total {
        Some(_) => "{prefix} [{bar:30}] {pos}/{len} {msg} ({elapsed}, {eta} left)",
        None => "{prefix} {spinner} {pos} {msg} ({elapsed})",
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar.set_prefix(what);
    bar
}

/// Returns a size as people read it.
pub fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Returns a value or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// Returns milliseconds as people read them.
pub fn duration_ms(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..120_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => format!("{} min", millis / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_holds_every_cell_on_one_line_per_row() {
        let text = table(["partition", "tail"], [["0".to_owned(), "17".to_owned()]]);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("partition") && text.contains("17"), "{text}");
    }

    #[test]
    fn what_was_decided_is_not_asked() {
        assert!(confirmed(true, "Sure?").expect("nobody is asked"));
    }

    #[test]
    fn values_read_well() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
        assert_eq!(or_dash::<u64>(None), "-");
        assert_eq!(
            (duration_ms(12), duration_ms(1234), duration_ms(180_000)).0,
            "12 ms"
        );
        assert_eq!(duration_ms(1234), "1.2 s");
        assert_eq!(duration_ms(180_000), "3 min");
        assert_eq!(bytes(2048), "2.00 KiB");
    }
}
