//! Gauges of partitions: series for each up to a number of partitions, and sums, maxima and quantiles of all.

use super::*;

/// The percentiles that are exported besides the maximum. The label `quantile` is reserved for summaries.
const PERCENTILES: [(&str, f64); 3] = [("50", 0.5), ("90", 0.9), ("99", 0.99)];

/// What the store holds of one partition, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredBytes {
    /// Snapshots that the pointer or the certificate names.
    pub(crate) retained: u64,
    /// Complete snapshots that nothing names any more.
    pub(crate) evicted: u64,
    /// Uploads in progress, and what is left of those that ended early.
    pub(crate) unfinished: u64,
}

impl StoredBytes {
    fn by_state(&self) -> [(&'static str, u64); 3] {
        [
            ("retained", self.retained),
            ("evicted", self.evicted),
            ("unfinished", self.unfinished),
        ]
    }
}

/// The values of one partition; what is unknown is not exported.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartitionGauges {
    pub(crate) archived: Option<u64>,
    pub(crate) guard: Option<u64>,
    pub(crate) trim_point: Option<u64>,
    pub(crate) tail: Option<u64>,
    pub(crate) held_bytes: Option<u64>,
    pub(crate) stored: Option<StoredBytes>,
    pub(crate) hold: Option<HoldReason>,
    pub(crate) hold_age: Duration,
    /// Whether the hold is more than there being nothing to trim.
    pub(crate) held_back: bool,
    pub(crate) facts: ConditionFacts,
}

impl PartitionGauges {
    fn archive_lag(&self) -> Option<u64> {
        let last = self.tail?.saturating_sub(1);
        Some(last.saturating_sub(self.archived.unwrap_or(0)))
    }

    fn replicas(&self) -> [(&'static str, usize); 3] {
        [
            ("expected", self.facts.expected),
            ("live", self.facts.live),
            ("active", self.facts.active),
        ]
    }
}

/// Exports one partition; `before` is the reason it was exported as held for last time.
pub(crate) fn partition(partition: &str, values: &PartitionGauges, before: Option<HoldReason>) {
    let lsns = [
        (ARCHIVED, values.archived),
        (GUARD, values.guard),
        (TRIM_POINT, values.trim_point),
        (TAIL, values.tail),
        (HELD_BYTES, values.held_bytes),
    ];
    for (name, value) in lsns {
        if let Some(value) = value {
            gauge!(name, "partition" => partition.to_owned()).set(value as f64);
        }
    }
    for (state, bytes) in values.stored.iter().flat_map(StoredBytes::by_state) {
        gauge!(STORED_BYTES, "partition" => partition.to_owned(), "state" => state).set(bytes as f64);
    }
    for (state, count) in values.replicas() {
        gauge!(PARTITION_REPLICAS, "partition" => partition.to_owned(), "state" => state).set(count as f64);
    }
    gauge!(HOLD_AGE, "partition" => partition.to_owned()).set(values.hold_age.as_secs_f64());
    let hold = |reason: HoldReason, value: f64| {
        gauge!(HOLD, "partition" => partition.to_owned(), "reason" => reason.as_str()).set(value);
    };
    if let Some(before) = before.filter(|before| Some(*before) != values.hold) {
        hold(before, 0.0);
    }
    if let Some(reason) = values.hold {
        hold(reason, 1.0);
    }
}

/// Exports sums, maxima and quantiles over all partitions.
pub(crate) fn totals(all: &[PartitionGauges]) {
    for condition in Condition::ALL {
        let count = all
            .iter()
            .filter(|values| core::condition(&values.facts) == *condition)
            .count();
        gauge!(PARTITIONS, "state" => condition.as_str()).set(count as f64);
    }
    for reason in HoldReason::ALL {
        let count = all.iter().filter(|values| values.hold == Some(*reason)).count();
        gauge!(HELD_PARTITIONS, "reason" => reason.as_str()).set(count as f64);
    }
    let mut replicas = PartitionGauges::default().replicas();
    for values in all {
        for ((_, sum), (_, count)) in replicas.iter_mut().zip(values.replicas()) {
            *sum += count;
        }
    }
    for (state, sum) in replicas {
        gauge!(REPLICAS, "state" => state).set(sum as f64);
    }
    let held_back = all.iter().filter(|values| values.held_back);
    let hold_ages = held_back.map(|values| values.hold_age.as_secs_f64());
    distribution(HOLD_AGE_MAX, HOLD_AGE_QUANTILE, hold_ages.collect());
    let held = all
        .iter()
        .filter_map(|values| values.held_bytes.map(|bytes| bytes as f64));
    distribution(HELD_BYTES_MAX, HELD_BYTES_QUANTILE, held.collect());
    let lags = all
        .iter()
        .filter_map(|values| values.archive_lag().map(|lag| lag as f64));
    distribution(ARCHIVE_LAG_MAX, ARCHIVE_LAG_QUANTILE, lags.collect());
    let mut sums = StoredBytes::default().by_state();
    for stored in all.iter().filter_map(|values| values.stored) {
        for ((_, sum), (_, bytes)) in sums.iter_mut().zip(stored.by_state()) {
            *sum += bytes;
        }
    }
    for (state, sum) in sums {
        gauge!(ALL_STORED_BYTES, "state" => state).set(sum as f64);
    }
}

/// Exports the maximum and some quantiles of `values`; all are 0 when there is none.
fn distribution(max: &'static str, quantile: &'static str, mut values: Vec<f64>) {
    values.sort_unstable_by(f64::total_cmp);
    gauge!(max).set(values.last().copied().unwrap_or(0.0));
    for (label, share) in PERCENTILES {
        // The nearest rank: a value that a partition has.
        let rank = (share * values.len() as f64).ceil() as usize;
        let value = values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0);
        gauge!(quantile, "percentile" => label).set(value);
    }
}

/// Takes back what [`partition`] exported of one partition: another admin speaks for it from now on.
pub(crate) fn withdraw_partition(partition: &str, exported: Option<HoldReason>) {
    for name in [ARCHIVED, GUARD, TRIM_POINT, TAIL, HELD_BYTES, HOLD_AGE] {
        gauge!(name, "partition" => partition.to_owned()).set(f64::NAN);
    }
    for (state, _) in StoredBytes::default().by_state() {
        gauge!(STORED_BYTES, "partition" => partition.to_owned(), "state" => state).set(f64::NAN);
    }
    for (state, _) in PartitionGauges::default().replicas() {
        gauge!(PARTITION_REPLICAS, "partition" => partition.to_owned(), "state" => state).set(f64::NAN);
    }
    if let Some(reason) = exported {
        gauge!(HOLD, "partition" => partition.to_owned(), "reason" => reason.as_str()).set(f64::NAN);
    }
}

/// Takes back what [`totals`] and [`pauses`] exported.
pub(crate) fn withdraw_totals() {
    let gone = f64::NAN;
    for condition in Condition::ALL {
        gauge!(PARTITIONS, "state" => condition.as_str()).set(gone);
    }
    for reason in HoldReason::ALL {
        gauge!(HELD_PARTITIONS, "reason" => reason.as_str()).set(gone);
    }
    for (state, _) in PartitionGauges::default().replicas() {
        gauge!(REPLICAS, "state" => state).set(gone);
    }
    for name in [HOLD_AGE_MAX, HELD_BYTES_MAX, ARCHIVE_LAG_MAX, PAUSED] {
        gauge!(name).set(gone);
    }
    for name in [HOLD_AGE_QUANTILE, HELD_BYTES_QUANTILE, ARCHIVE_LAG_QUANTILE] {
        for (label, _) in PERCENTILES {
            gauge!(name, "percentile" => label).set(gone);
        }
    }
    for (state, _) in StoredBytes::default().by_state() {
        gauge!(ALL_STORED_BYTES, "state" => state).set(gone);
    }
}
