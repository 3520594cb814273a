//! Reading the tree: its files, its code without comments and tests, its documents, and what cargo makes of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names of the packages that `package` reaches as the product builds it: without development dependencies, and with
/// its own features, not those that other members of the workspace ask for.
pub(crate) fn packages_reached(package: &str, features: &str, depth: Option<u32>) -> BTreeSet<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root())
        // Some test runners ask for the features of the whole workspace at once.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .args(["tree", "--locked", "-p", package, "-e", "normal"]);
    command.args(["--prefix", "none", "--format", "{p}", "--features", features]);
    if let Some(depth) = depth {
        command.args(["--depth", &depth.to_string()]);
    }
    let output = command.output().expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is one level up")
        .to_owned()
}

pub(crate) fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

pub(crate) fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Adds all files below `folder` that end in `extension`, in order.
pub(crate) fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, extension, found);
        } else if entry.extension().is_some_and(|found| found == extension) {
            found.push(entry);
        }
    }
}

pub(crate) fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&root().join("crates"), "rs", &mut files);
    collect(&root().join("integration-tests"), "rs", &mut files);
    collect(&root().join("examples"), "rs", &mut files);
    files
}

pub(crate) fn manifests() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&root().join("crates"), "toml", &mut files);
    collect(&root().join("examples"), "toml", &mut files);
    files.retain(|file| file.ends_with("Cargo.toml"));
    files
}

/// Sources of the product: no test folders, no files that hold only tests.
pub(crate) fn product_sources() -> Vec<PathBuf> {
    let is_test = |file: &Path| {
        let inside = file.strip_prefix(root()).unwrap_or(file);
        let stem = inside
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        stem == "tests"
            || stem.ends_with("_tests")
            || inside.components().any(|part| part.as_os_str() == "tests")
            || inside.components().any(|part| part.as_os_str() == "benches")
    };
    rust_files()
        .into_iter()
        .filter(|file| file.starts_with(root().join("crates")) && !is_test(file))
        .collect()
}

/// The code of `file` up to its test module, without comments; line numbers stay.
pub(crate) fn product_code(file: &Path) -> String {
    read(file)
        .lines()
        .take_while(|line| {
            !line.trim_start().starts_with("#[cfg(test)]") && !line.starts_with("#![cfg(test)]")
        })
        .map(|line| {
            let code = line.trim_start();
            if code.starts_with("//") {
                ""
            } else {
                line.split(" // ").next().unwrap_or(line)
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The string literals in `code` that begin with `prefix` and are one word.
pub(crate) fn quoted_words(code: &str, prefix: &str) -> Vec<String> {
    code.split('"')
        .filter(|part| part.starts_with(prefix))
        .filter(|part| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .map(str::to_owned)
        .collect()
}

/// Whether `line` mentions `word` as a word: `Instant` is not in `Instantly`.
pub(crate) fn mentions(line: &str, word: &str) -> bool {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let open_start = word.starts_with(|c: char| !c.is_alphanumeric());
        let open_end = word.ends_with(|c: char| !c.is_alphanumeric());
        (open_start || !part_of_word(line[..at].chars().next_back()))
            && (open_end || !part_of_word(line[at + word.len()..].chars().next()))
    })
}

/// The part of `text` below the heading `title`, up to the next heading of the same level.
pub(crate) fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let at = text
        .find(&format!("\n{title}\n"))
        .unwrap_or_else(|| panic!("there is no heading {title:?}"));
    let rest = &text[at + title.len() + 2..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

/// Targets of the inline links of a Markdown text, code blocks left out.
pub(crate) fn link_targets(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            targets.push(rest[..end].trim());
        }
    }
    targets
}

/// The anchors that a Markdown renderer makes of the headings of `text`.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}
