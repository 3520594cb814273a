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
            hold: Some(HoldReason::Delay),
            ..PartitionGauges::default()
        };
        partition("0", &values, Some(HoldReason::Paused));
        totals(&[values]);
        nodes(Liveness::Live, 1);
        pauses(0);
        lease(LeaseCode::Active, LeaseEpoch::new(1));
        poll(true, Duration::ZERO);
        view_age("workers", Some(Duration::ZERO));
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

/// Keeps the values of gauges by series.
#[derive(Default)]
struct Gauges(Mutex<BTreeMap<String, std::sync::Arc<std::sync::atomic::AtomicU64>>>);

impl Gauges {
    fn value(&self, series: &str) -> f64 {
        let gauges = self.0.lock().unwrap();
        let gauge = gauges
            .get(series)
            .unwrap_or_else(|| panic!("{series} is not among {:?}", gauges.keys()));
        f64::from_bits(gauge.load(std::sync::atomic::Ordering::Relaxed))
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let series = format!("{} {}", key.name(), labels.join(","));
        let gauge = self.0.lock().unwrap().entry(series).or_default().clone();
        Gauge::from_arc(gauge)
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn quantiles_are_values_that_partitions_have_and_everything_is_withdrawn_again() {
    let gauges = Gauges::default();
    let of = |held_bytes: u64| PartitionGauges {
        held_bytes: Some(held_bytes),
        hold: Some(HoldReason::Paused),
        facts: ConditionFacts {
            known: true,
            expected: 3,
            live: 2,
            active: 1,
            led: true,
            held: None,
        },
        ..PartitionGauges::default()
    };
    let all: Vec<PartitionGauges> = (1..=200).map(of).collect();
    metrics::with_local_recorder(&gauges, || {
        totals(&all);
        partition("0", &all[0], None);
    });
    let expected = [
        ("tidemark_admin_log_held_max_bytes ", 200.0),
        ("tidemark_admin_log_held_quantile_bytes percentile=50", 100.0),
        ("tidemark_admin_log_held_quantile_bytes percentile=90", 180.0),
        ("tidemark_admin_log_held_quantile_bytes percentile=99", 198.0),
        ("tidemark_admin_partitions state=degraded", 200.0),
        ("tidemark_admin_partitions state=healthy", 0.0),
        ("tidemark_admin_replicas state=expected", 600.0),
        ("tidemark_admin_replicas state=active", 200.0),
        ("tidemark_admin_held_partitions reason=paused", 200.0),
        ("tidemark_admin_partition_hold partition=0,reason=paused", 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(gauges.value(series), value, "{series}");
    }
    metrics::with_local_recorder(&gauges, || {
        withdraw_totals();
        withdraw_partition("0", Some(HoldReason::Paused));
    });
    let all = gauges.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    for series in all {
        assert!(
            gauges.value(&series).is_nan(),
            "{series} still says something of the cluster"
        );
    }
}
