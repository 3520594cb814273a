//! Counts which branches a run took: the product's own metrics, and what the simulation adds.

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// Counters by name and labels, for one process. Gauges and histograms are not kept.
#[derive(Clone, Default)]
pub struct Counters(Counts);

struct One {
    counts: Counts,
    name: String,
}

impl Counters {
    /// Adds one to `name`.
    pub fn count(&self, name: &str) {
        add(&self.0, name, 1);
    }

    /// Returns how often `name` was counted.
    pub fn get(&self, name: &str) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(name).copied().unwrap_or_default()
    }

    /// Returns all of them.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the product's metrics counted here, from now on.
    ///
    /// # Errors
    /// When something else in this process collects them.
    pub fn install(&self) -> anyhow::Result<()> {
        metrics::set_global_recorder(self.clone()).map_err(|error| anyhow::anyhow!("{error}"))
    }
}

fn add(counts: &Counts, name: &str, value: u64) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    match counts.get_mut(name) {
        Some(count) => *count += value,
        None => {
            counts.insert(name.to_owned(), value);
        }
    }
}

impl CounterFn for One {
    fn increment(&self, value: u64) {
        add(&self.counts, &self.name, value);
    }

    fn absolute(&self, value: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert(self.name.clone(), value);
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<String> = key
            .labels()
            .filter(|label| label.key() != "partition")
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = match labels.is_empty() {
            true => key.name().to_owned(),
            false => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        Counter::from_arc(Arc::new(One {
            counts: Arc::clone(&self.0),
            name,
        }))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
