//! The rules of the tree, checked by reading it: who may depend on whom, what a pure module may not mention, which
//! words the documentation owes its readers.
//!
//! A rule that fails says which file breaks it and what the rule is for. Whoever needs an exception changes the rule
//! here, in the open, with the reason beside it.

#[path = "tidy/tree.rs"]
mod tree;

use snapshot_store::{AnomalyKind, core::HoldReason};
use snapshot_worker::core::{BlockedReason, Decline};
use std::collections::{BTreeMap, BTreeSet};
use tree::*;

/// Files longer than [`LINES_MAX`] that are still about one noun, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// From here on a file holds two things.
const LINES_MAX: usize = 500;

/// An example is read in one go, from its first line to its last.
const EXAMPLE_LINES_MAX: usize = 249;

/// What `core/` may not mention: it decides on plain values, so that the model checker and the simulation can run it.
const IMPURE: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "async_trait",
    "tokio",
    "metrics::",
    "tracing",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "Instant",
    "SystemTime",
    "rand::",
    "object_store",
    "rocksdb",
    "tonic",
];

/// Package, features to switch on besides the default ones, and the packages it must not reach, directly or not, as the
/// product builds it.
const DEPENDENCY_RULES: &[(&str, &str, &str)] = &[
    (
        "snapshot-store",
        "",
        "tonic prost rocksdb snapshot-proto partition-log snapshot-worker snapshot-scheduler",
    ),
    (
        "partition-log",
        "",
        "tonic prost rocksdb snapshot-proto snapshot-worker snapshot-scheduler",
    ),
    ("partition-log", "memory", "tonic prost rocksdb"),
    ("partition-log", "embedded", "tonic prost"),
    ("partition-log", "remote", "rocksdb"),
    ("partition-log", "nats", "tonic prost rocksdb"),
    ("snapshot-worker", "", "snapshot-scheduler tidemark"),
    ("snapshot-scheduler", "", "rocksdb snapshot-worker tidemark"),
    // The model asks decisions: it needs no node.
    ("protocol-model", "", "snapshot-scheduler tidemark"),
    // The examples show that the libraries are enough.
    ("admin-node", "", "tidemark"),
    ("existing-service", "", "tidemark"),
    ("ledger", "", "tidemark"),
];

#[test]
fn every_crate_reaches_only_what_it_may() {
    let mut broken = Vec::new();
    for (package, features, never) in DEPENDENCY_RULES {
        let reached = packages_reached(package, features, None);
        for never in never.split_whitespace().filter(|never| reached.contains(*never)) {
            broken.push(format!("{package} [{features}] reaches {never}"));
        }
    }
    assert!(
        broken.is_empty(),
        "design rules broken (ARCHITECTURE.md, code map): {broken:#?}"
    );
}

#[test]
fn the_generated_code_depends_on_tonic_and_prost_alone() {
    let direct = packages_reached("snapshot-proto", "", Some(1));
    let allowed = BTreeSet::from(["snapshot-proto", "prost", "tonic", "tonic-prost"].map(str::to_owned));
    assert!(direct.is_subset(&allowed), "snapshot-proto depends on {direct:?}");
}

#[test]
fn decisions_are_pure() {
    let mut broken = Vec::new();
    for file in product_sources()
        .into_iter()
        .filter(|file| file.components().any(|part| part.as_os_str() == "core"))
    {
        let code = product_code(&file);
        for (number, line) in code.lines().enumerate() {
            for word in IMPURE.iter().filter(|word| mentions(line, word)) {
                broken.push(format!("{}:{} mentions {word}", shown(&file), number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "core/ decides on plain values: {broken:#?}");
}

#[test]
fn product_code_does_not_unwrap() {
    let mut broken = Vec::new();
    for file in product_sources() {
        for (number, line) in product_code(&file).lines().enumerate() {
            if line.contains(".unwrap()") || line.contains("todo!(") || line.contains("unimplemented!(") {
                broken.push(format!("{}:{}", shown(&file), number + 1));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "use `?`, or `expect(\"why it cannot fail\")`: {broken:#?}"
    );
}

#[test]
fn files_are_about_one_noun() {
    let excused: BTreeMap<&str, &str> = LONG_FILES.iter().copied().collect();
    let long: Vec<String> = rust_files()
        .iter()
        .map(|file| (shown(file), read(file).lines().count()))
        .filter(|(name, lines)| *lines > LINES_MAX && !excused.contains_key(name.as_str()))
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "split what holds two things, or say in LONG_FILES why it does not: {long:#?}"
    );
    for name in excused.keys() {
        let lines = read(&root().join(name)).lines().count();
        assert!(
            lines > LINES_MAX,
            "{name} has {lines} lines: take it off the list"
        );
    }
}

#[test]
fn an_example_is_one_short_program() {
    let mut sources = rust_files();
    sources.retain(|file| shown(file).starts_with("examples/") && shown(file).contains("/src/"));
    let long: Vec<String> = sources
        .iter()
        .map(|file| (shown(file), read(file).lines().count()))
        .filter(|(name, lines)| *lines > EXAMPLE_LINES_MAX || !name.ends_with("/src/main.rs"))
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(!sources.is_empty() && long.is_empty(), "{long:#?}");
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = rust_files()
        .iter()
        .filter(|file| !read(file).trim_start().starts_with("//!"))
        .map(|file| shown(file))
        .collect();
    assert!(silent.is_empty(), "begin these with a `//!` header: {silent:#?}");
}

#[test]
fn no_test_is_ignored() {
    let attribute = concat!("#[", "ignore");
    let ignored: Vec<String> = rust_files()
        .iter()
        .filter(|file| read(file).contains(attribute))
        .map(|file| shown(file))
        .collect();
    assert!(
        ignored.is_empty(),
        "a test that does not run proves nothing: {ignored:#?}"
    );
}

#[test]
fn the_operator_guide_has_an_entry_for_every_reason() {
    let guide = read(&root().join("docs/operator-guide.md"));
    let sections = [
        (
            "## Holds",
            HoldReason::ALL
                .iter()
                .map(|reason| reason.as_str())
                .collect::<Vec<_>>(),
        ),
        (
            "## Blocked partitions",
            BlockedReason::ALL.iter().map(|reason| reason.as_str()).collect(),
        ),
        ("## Declines", Decline::REASONS.to_vec()),
    ];
    for (title, reasons) in sections {
        let section = section(&guide, title);
        let entries: BTreeSet<String> = section
            .lines()
            .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
            .map(str::to_owned)
            .collect();
        let expected: BTreeSet<String> = reasons.into_iter().map(str::to_owned).collect();
        assert_eq!(
            entries, expected,
            "docs/operator-guide.md, section {title:?}, and the code must name the same"
        );
    }
}

#[test]
fn the_operator_guide_has_a_line_for_every_kind_of_damage() {
    let guide = read(&root().join("docs/operator-guide.md"));
    let section = section(&guide, "## Damage");
    let missing: Vec<&str> = AnomalyKind::ALL
        .iter()
        .map(|kind| kind.as_str())
        .filter(|word| !section.contains(&format!("`{word}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operator-guide.md, section Damage, does not know {missing:?}"
    );
}

#[test]
fn the_operator_guide_has_a_line_for_every_refused_call() {
    let guide = read(&root().join("docs/operator-guide.md"));
    let section = section(&guide, "## Credentials and certificates");
    let missing: Vec<&str> = tidemark::wire_security::Refusal::REASONS
        .into_iter()
        .filter(|reason| !section.contains(&format!("| `{reason}` |")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operator-guide.md, section Refused calls, does not know {missing:?}"
    );
}

/// Returns the tests below `folder` as one line.
fn tests_in_one_line(folder: &str) -> String {
    let mut files = Vec::new();
    collect(&root().join(folder), "rs", &mut files);
    let texts = files.iter().map(|file| read(file));
    let words: Vec<String> = texts
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    words.join(" ")
}

/// `damaged-snapshot` as the name of a variant.
fn variant_of(word: &str) -> String {
    let parts = word.split('-').map(|part| part[..1].to_uppercase() + &part[1..]);
    parts.collect()
}

#[test]
fn every_no_is_brought_about_by_a_test_that_waits_for_it() {
    let (scheduler, processor, agent) = (
        tests_in_one_line("crates/snapshot-scheduler/tests/scheduler"),
        tests_in_one_line("crates/snapshot-worker/src/processor/tests"),
        tests_in_one_line("crates/snapshot-worker/tests/agent"),
    );
    let mut missing = Vec::new();
    // Each of these is the end of a wait for what a running scheduler or worker says, or of a comparison with it.
    for word in HoldReason::ALL.iter().map(|reason| reason.as_str()) {
        let variant = variant_of(word);
        let ends = [
            "until_held(0, ",
            "stays_held(&cluster, &running, ",
            "TrimResult::Held(",
        ];
        if !ends
            .iter()
            .any(|end| scheduler.contains(&format!("{end}HoldReason::{variant})")))
        {
            missing.push(format!("hold {word}"));
        }
    }
    for word in BlockedReason::ALL.iter().map(|reason| reason.as_str()) {
        let variant = variant_of(word);
        let ends = [
            format!(", BlockedReason::{variant})"),
            format!("reason: BlockedReason::{variant},"),
        ];
        if !ends.iter().any(|end| processor.contains(end.as_str())) {
            missing.push(format!("blocked {word}"));
        }
    }
    for word in Decline::REASONS {
        let by_worker = [format!("Decline::{} {{", variant_of(word)), format!("\"{word}\"")];
        let seen_by_admin = format!("v1::DeclineReason::{}, \"{word}\"", variant_of(word));
        if !by_worker.iter().any(|end| agent.contains(end.as_str())) || !scheduler.contains(&seen_by_admin) {
            missing.push(format!("decline {word}"));
        }
    }
    assert!(
        missing.is_empty(),
        "write a test that brings it about and waits for it by its name: {missing:#?}"
    );
}

#[test]
fn the_generated_references_are_up_to_date() {
    for (name, text) in tidemark::reference::pages() {
        assert!(
            read(&root().join("docs").join(name)) == text,
            "docs/{name} is not what the code says: run `just generate-docs`"
        );
    }
}

#[test]
fn every_metric_of_the_code_is_described() {
    let described: BTreeSet<String> = tidemark::reference::metrics()
        .into_iter()
        .map(|metric| metric.name)
        .collect();
    let exported: BTreeSet<String> = product_sources()
        .iter()
        .filter(|file| file.to_string_lossy().contains("metrics") && !file.ends_with("tests.rs"))
        .flat_map(|file| quoted_words(&product_code(file), "tidemark_"))
        .collect();
    assert_eq!(
        described, exported,
        "describe each metric where its crate describes the others, and run `just generate-docs`"
    );
}

#[test]
fn metrics_are_named_only_where_they_are_described() {
    let mut broken = Vec::new();
    for file in product_sources() {
        let name = shown(&file);
        let code = product_code(&file);
        let names = [
            "\"tidemark_admin_",
            "\"tidemark_worker_",
            "\"tidemark_log_",
            "\"tidemark_nats_",
            "\"tidemark_wire_",
        ];
        // The help of the demo and the reference read metrics; they export none.
        if !name.contains("metrics") && names.iter().any(|name| code.contains(name)) {
            broken.push(name);
        }
    }
    assert!(
        broken.is_empty(),
        "name metrics in the crate's metrics.rs: {broken:#?}"
    );
}

#[test]
fn decline_reasons_on_the_wire_are_those_of_the_worker() {
    let on_the_wire: BTreeSet<String> = (1..)
        .map_while(|number| snapshot_proto::v1::DeclineReason::try_from(number).ok())
        .map(|reason| {
            reason
                .as_str_name()
                .trim_start_matches("DECLINE_REASON_")
                .to_lowercase()
                .replace('_', "-")
        })
        .collect();
    let in_code: BTreeSet<String> = Decline::REASONS
        .iter()
        .map(|reason| (*reason).to_owned())
        .collect();
    assert_eq!(on_the_wire, in_code);
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut documents = vec![];
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        documents.push(root().join(name));
    }
    collect(&root().join("docs"), "md", &mut documents);
    let mut broken = Vec::new();
    for document in documents {
        let folder = document.parent().expect("a file has a folder").to_owned();
        let text = read(&document);
        for target in link_targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                folder.join(path)
            };
            if !file.exists() {
                broken.push(format!("{} -> {target}", shown(&document)));
            } else if !anchor.is_empty() && !anchors(&read(&file)).contains(anchor) {
                broken.push(format!("{} -> {target}: no such heading", shown(&document)));
            }
        }
    }
    assert!(broken.is_empty(), "dead links: {broken:#?}");
}

#[test]
fn decision_records_are_numbered_and_complete() {
    let mut records = Vec::new();
    collect(&root().join("docs/adr"), "md", &mut records);
    records.sort();
    assert!(!records.is_empty());
    for (position, record) in records.iter().enumerate() {
        let name = shown(record);
        let number = format!("docs/adr/{:04}-", position + 1);
        assert!(name.starts_with(&number), "{name}: the next number is {number}");
        let text = read(record);
        for heading in ["## Context", "## Decision", "## Consequences", "## Alternatives"] {
            assert!(text.contains(heading), "{name} has no {heading:?}");
        }
    }
}

#[test]
fn the_licence_is_there_and_every_crate_names_it() {
    assert!(read(&root().join("LICENSE")).contains("Apache License"));
    for manifest in manifests() {
        let text = read(&manifest);
        assert!(
            text.contains("license.workspace = true"),
            "{} names no licence",
            shown(&manifest)
        );
        assert!(
            text.contains("[lints"),
            "{} takes no part in the lints",
            shown(&manifest)
        );
    }
}

#[test]
fn the_readers_of_the_tree_read_right() {
    assert!(mentions("use std::time::Instant;", "Instant"));
    assert!(!mentions("// Instantly", "Instant"));
    assert!(mentions("x.await?", ".await"));
    assert_eq!(link_targets("see [a](b.md) and [c](d.md#e)"), ["b.md", "d.md#e"]);
    assert!(anchors("## What `may` go, and why").contains("what-may-go-and-why"));
    assert_eq!(section("x\n## A\none\n## B\ntwo", "## A"), "one");
}
