//! Every metric, as the crates describe them to a recorder.

use super::{GENERATED, cell};
use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

/// Labels with more known values than this show none of them: they are words of the page of reasons, or numbers.
const VALUES_SHOWN_MAX: usize = 8;

/// One metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The base unit of its values; empty for plain counts.
    pub unit: &'static str,
    /// What it means.
    pub meaning: String,
    /// Its labels, with the values that it has from the beginning.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Who exports metrics: a title, where they are described, and the labels of those without series.
type Source = (
    &'static str,
    fn(),
    &'static [(&'static str, &'static [&'static str])],
);

const SOURCES: [Source; 5] = [
    (
        "The admin",
        snapshot_scheduler::metrics::describe,
        snapshot_scheduler::metrics::LABELS,
    ),
    (
        "Workers",
        snapshot_worker::metrics::describe,
        snapshot_worker::metrics::LABELS,
    ),
    (
        "The log server",
        crate::roles::log_metrics::describe,
        crate::roles::log_metrics::LABELS,
    ),
    (
        "Nodes whose log is on NATS",
        partition_log::nats::metrics::describe,
        partition_log::nats::metrics::LABELS,
    ),
    (
        "Every node",
        describe_every_node,
        crate::wire_security::metrics::LABELS,
    ),
];

fn describe_every_node() {
    crate::roles::metrics::describe();
    crate::wire_security::metrics::describe();
}

/// Remembers what is described, and which series are there from the beginning.
#[derive(Default)]
struct Descriptions(Mutex<BTreeMap<String, Described>>);

impl Descriptions {
    fn of(source: &Source) -> Vec<Described> {
        let (_, describe, labels) = source;
        let found = Descriptions::default();
        with_local_recorder(&found, describe);
        let mut found = found.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (name, labels) in *labels {
            if let Some(described) = found.get_mut(*name) {
                for label in *labels {
                    described.labels.entry((*label).to_owned()).or_default();
                }
            }
        }
        // What has a series and no description would not be exported by its name alone: the tests of the crates see to it.
        found.retain(|_, described| !described.kind.is_empty());
        found.into_values().collect()
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Described)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(name.to_owned()).or_insert_with(|| Described {
            name: name.to_owned(),
            kind: "",
            unit: "",
            meaning: String::new(),
            labels: BTreeMap::new(),
        }));
    }

    fn describe(&self, kind: &'static str, key: &KeyName, unit: Option<Unit>, text: &SharedString) {
        self.with(key.as_str(), |described| {
            described.kind = kind;
            described.unit = base_unit(key.as_str(), unit);
            described.meaning = text.trim_end_matches('.').to_owned();
        });
    }

    fn register(&self, key: &Key) {
        self.with(key.name(), |described| {
            for label in key.labels() {
                let values = described.labels.entry(label.key().to_owned()).or_default();
                values.insert(label.value().to_owned());
            }
        });
    }
}

/// Returns the unit by what was said, and else by how the name ends.
fn base_unit(name: &str, unit: Option<Unit>) -> &'static str {
    let ends = |word: &str| name.trim_end_matches("_total").ends_with(word);
    match unit {
        Some(Unit::Seconds) => "seconds",
        Some(Unit::Bytes) => "bytes",
        _ if ends("_seconds") => "seconds",
        _ if ends("_bytes") => "bytes",
        _ if ends("_records") => "records",
        _ if ends("_lsn") => "LSN",
        _ => "",
    }
}

impl Recorder for Descriptions {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("counter", &key, unit, &text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("gauge", &key, unit, &text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("histogram", &key, unit, &text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key);
        Histogram::noop()
    }
}

/// Returns every metric that any node exports, sorted by name.
pub fn metrics() -> Vec<Described> {
    let mut all: Vec<Described> = SOURCES.iter().flat_map(Descriptions::of).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Returns the page of all metrics.
pub fn metrics_page() -> String {
    let mut page = format!(
        "{GENERATED}\n# Metrics\n\nWhat `/metrics` of each node exports. Values of `reason` and `kind` are the words of [reasons.md](reasons.md). \
         Series per partition are exported for up to 1,000 partitions; above that only the maxima. Only admins export what \
         concerns the whole cluster.\n"
    );
    for source in &SOURCES {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n| Name | Type | Labels | Unit | Meaning |\n|---|---|---|---|---|\n",
            source.0
        );
        for one in Descriptions::of(source) {
            let labels: Vec<String> = one.labels.iter().map(label).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                one.name,
                one.kind,
                labels.join(", "),
                one.unit,
                cell(&one.meaning)
            );
        }
    }
    page
}

fn label((key, values): (&String, &BTreeSet<String>)) -> String {
    let words = values.iter().all(|value| value.parse::<f64>().is_err());
    let version = key == "version";
    match values.len() {
        1..=VALUES_SHOWN_MAX if words && !version => {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{key}` ({})", values.join(", "))
        }
        _ => format!("`{key}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_type_a_meaning_and_a_name_of_its_own() {
        let all = metrics();
        let names: BTreeSet<_> = all.iter().map(|one| &one.name).collect();
        assert_eq!(names.len(), all.len());
        for one in &all {
            assert!(!one.meaning.is_empty() && !one.kind.is_empty(), "{one:?}");
            assert_eq!(one.name.ends_with("_total"), one.kind == "counter", "{one:?}");
        }
    }

    #[test]
    fn labels_that_are_declared_belong_to_metrics_that_are_described() {
        for (title, describe, labels) in SOURCES {
            let found: BTreeSet<String> = Descriptions::of(&(title, describe, labels))
                .into_iter()
                .map(|one| one.name)
                .collect();
            for (name, _) in labels {
                assert!(found.contains(*name), "{title}: {name}");
            }
        }
    }

    #[test]
    fn units_come_from_the_description_or_the_name() {
        assert_eq!(base_unit("x_total", Some(Unit::Bytes)), "bytes");
        assert_eq!(base_unit("x_seconds", None), "seconds");
        assert_eq!(base_unit("x_tail_lsn", Some(Unit::Count)), "LSN");
        assert_eq!(base_unit("x_trimmed_records_total", Some(Unit::Count)), "records");
        assert_eq!(base_unit("x", None), "");
    }
}
