//! `docs/repository-format.md` and the golden files name the same fields.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.context("the workspace is one level up")?.to_owned())
}

/// The golden files, by name.
fn golden_files() -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root()?.join("crates/snapshot-store/tests/golden"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .context("a name")?;
        files.insert(name.to_owned(), fs::read(&path)?);
    }
    Ok(files)
}

/// All names of fields in `value`, the numbers of partitions aside.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if name.parse::<u32>().is_err() {
                    found.insert(name.clone());
                }
                fields(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names in the first columns of a section's tables.
fn first_cells(section: &str) -> BTreeSet<String> {
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = cells.filter_map(|line| line.split('|').next());
    cells.flat_map(|cell| quoted(&format!("`{cell}"))).collect()
}

#[test]
fn document_and_golden_files_name_the_same_fields() -> anyhow::Result<()> {
    let document = fs::read_to_string(root()?.join("docs/repository-format.md"))?;
    let sections: Vec<&str> = document.split("\n## ").collect();
    let values = sections
        .iter()
        .find(|text| text.starts_with("How values are written"));
    let of_values = quoted(values.context("no section about values")?);

    let mut stored: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, bytes) in golden_files()? {
        let link = format!("tests/golden/{name})");
        let section = sections.iter().find(|text| text.contains(&link));
        let section = section.with_context(|| format!("the document does not refer to golden/{name}"))?;
        let value = serde_json::from_slice(&bytes).with_context(|| name.clone())?;
        fields(&value, stored.entry(section).or_default());
    }
    ensure!(stored.len() == 6, "there are six documents");
    for (section, stored) in stored {
        let title = section.lines().next().unwrap_or_default();
        let known: BTreeSet<_> = quoted(section).union(&of_values).cloned().collect();
        let missing: Vec<_> = stored.difference(&known).collect();
        ensure!(missing.is_empty(), "{title} does not know the fields {missing:?}");
        let named = first_cells(section);
        let strange: Vec<_> = named.difference(&stored).collect();
        ensure!(
            strange.is_empty() && named.contains("format"),
            "{title}: no golden file has the fields {strange:?}"
        );
    }
    Ok(())
}

#[test]
fn the_worked_example_has_the_hash_of_the_golden_manifest() -> anyhow::Result<()> {
    let document = fs::read_to_string(root()?.join("docs/repository-format.md"))?;
    let example = document.split("\n## Worked example\n").nth(1);
    let example = quoted(example.context("no example")?);
    let golden = golden_files()?;
    let hash = blake3::hash(golden.get("metadata.json").context("no manifest")?);
    ensure!(
        example.contains(hash.to_hex().as_str()),
        "golden/metadata.json has {hash}"
    );
    let pointer: Value = serde_json::from_slice(golden.get("latest.json").context("no pointer")?)?;
    for entry in pointer["snapshots"].as_array().context("no snapshots")? {
        let path = entry["path"].as_str().context("no path")?;
        ensure!(example.contains(path), "the example does not name {path}");
    }
    Ok(())
}

/// The golden files cannot show a field that nobody put into them: the types can.
#[test]
fn the_document_names_every_field_of_the_stored_types() -> anyhow::Result<()> {
    let document = quoted(&fs::read_to_string(root()?.join("docs/repository-format.md"))?);
    let mut seen = 0;
    for name in [
        "certificate",
        "cluster",
        "control",
        "lease",
        "manifest",
        "pointer",
    ] {
        let source = root()?.join(format!("crates/snapshot-store/src/format/{name}.rs"));
        let text = fs::read_to_string(source)?;
        let fields = text.lines().filter_map(|line| line.strip_prefix("    pub "));
        let fields = fields
            .filter_map(|line| line.split_once(": "))
            .map(|(field, _)| field);
        for field in fields.filter(|field| *field != "unknown" && !field.contains(' ')) {
            ensure!(
                document.contains(field),
                "docs/repository-format.md does not know `{field}` of {name}.rs"
            );
            seen += 1;
        }
    }
    ensure!(
        seen > 50,
        "only {seen} fields were found: are they written otherwise now?"
    );
    Ok(())
}
