//! Names, kinds and zero values of the metrics.

use super::*;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

/// Remembers what was described and registered.
#[derive(Default)]
struct Seen {
    described: Mutex<BTreeMap<String, (&'static str, String)>>,
    registered: Mutex<BTreeSet<(&'static str, String)>>,
}

impl Seen {
    fn describe(&self, kind: &'static str, key: &KeyName, text: &SharedString) {
        let entry = (kind, text.to_string());
        assert!(
            self.described
                .lock()
                .unwrap()
                .insert(key.as_str().to_owned(), entry)
                .is_none()
        );
    }

    fn register(&self, kind: &'static str, key: &Key) {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let series = format!("{} {}", key.name(), labels.join(","));
        self.registered.lock().unwrap().insert((kind, series));
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe("counter", &key, &text);
    }
    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe("gauge", &key, &text);
    }
    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe("histogram", &key, &text);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register("counter", key);
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register("gauge", key);
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register("histogram", key);
        Histogram::noop()
    }
}

#[test]
fn names_are_clean_and_every_metric_is_described() {
    let seen = Seen::default();
    metrics::with_local_recorder(&seen, || {
        describe();
        let values = PartitionGauges {
            archived: Some(1),
            guard: Some(1),
            trim_point: Some(1),
            tail: Some(1),
            held_bytes: Some(1),
            stored: Some(StoredBytes::default()),
            ..PartitionGauges::default()
        };
        partition("0", &values);
        totals(&[values]);
        partition_hold("0", Some(HoldReason::Paused), Some(HoldReason::Delay));
        nodes(Liveness::Live, 1);
        pauses(0);
        lease(true, LeaseEpoch::new(1));
        ticked(Duration::ZERO);
        pruned(1);
        audit(Duration::ZERO, 0);
    });
    let described = seen.described.lock().unwrap();
    for (name, (kind, text)) in described.iter() {
        assert!(name.starts_with("tidemark_admin_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
        assert!(text.ends_with('.'), "{name} is described by a sentence");
    }
    let registered = seen.registered.lock().unwrap();
    for (kind, series) in registered.iter() {
        let name = series.split(' ').next().unwrap();
        assert_eq!(
            described.get(name).map(|(kind, _)| kind),
            Some(kind),
            "{name} is described"
        );
    }
    let used: BTreeSet<_> = registered
        .iter()
        .map(|(_, series)| series.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        used.len(),
        described.len(),
        "nothing is described that is not used"
    );
    for reason in HoldReason::ALL {
        let series = format!("{HOLDS} reason={}", reason.as_str());
        assert!(
            registered.contains(&("counter", series)),
            "{reason} begins at zero"
        );
    }
}
