//! Metrics of the log server, sampled from its logs.

use partition_log::Log;
use snapshot_store::PartitionId;
use std::{sync::Arc, time::Duration};

/// Distance of two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most partitions with series of their own; sums cover all.
const SERIES_MAX: u32 = 1000;
/// The most partitions that are looked at.
const PARTITIONS_MAX: u32 = 10_000;

const PARTITIONS: &str = "tidemark_log_partitions";
const TAIL: &str = "tidemark_log_tail_lsn";
const TRIM_POINT: &str = "tidemark_log_trim_point_lsn";
const HELD_BYTES: &str = "tidemark_log_held_bytes";
const HELD_BYTES_ALL: &str = "tidemark_log_all_held_bytes";
const HELD_RECORDS_ALL: &str = "tidemark_log_all_held_records";

/// The labels of the metrics described here; none of them has a series before the first sample.
pub(crate) const LABELS: &[(&str, &[&str])] = &[
    (TAIL, &["partition"]),
    (TRIM_POINT, &["partition"]),
    (HELD_BYTES, &["partition"]),
];

/// Describes all metrics of this module to the installed recorder.
pub(crate) fn describe() {
    metrics::describe_gauge!(PARTITIONS, "Partitions with a log here");
    metrics::describe_gauge!(
        TAIL,
        "First unwritten LSN of a partition's log, for the first 1000 partitions"
    );
    metrics::describe_gauge!(
        TRIM_POINT,
        "Highest LSN removed from a partition's log, for the first 1000 partitions"
    );
    metrics::describe_gauge!(
        HELD_BYTES,
        "Bytes of records in a partition's log, for the first 1000 partitions"
    );
    metrics::describe_gauge!(HELD_BYTES_ALL, "Bytes of records in all logs");
    metrics::describe_gauge!(HELD_RECORDS_ALL, "Records in all logs");
}

/// Samples until the task is dropped.
pub(super) async fn sample(log: Arc<dyn Log>) {
    describe();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        sample_once(log.as_ref()).await;
    }
}

async fn sample_once(log: &dyn Log) {
    let (mut partitions, mut bytes, mut records) = (0, 0, 0);
    while partitions < PARTITIONS_MAX {
        // Partitions are numbered without gaps: the first that is missing ends them.
        let Ok(info) = log.info(PartitionId::new(partitions)).await else {
            break;
        };
        let held = info.held_bytes.unwrap_or(0);
        if partitions < SERIES_MAX {
            let label = partitions.to_string();
            metrics::gauge!(TAIL, "partition" => label.clone()).set(info.tail.get() as f64);
            metrics::gauge!(TRIM_POINT, "partition" => label.clone()).set(info.trim_point.get() as f64);
            metrics::gauge!(HELD_BYTES, "partition" => label).set(held as f64);
        }
        bytes += held;
        records += info.tail.prev().records_since(info.trim_point);
        partitions += 1;
    }
    metrics::gauge!(PARTITIONS).set(f64::from(partitions));
    metrics::gauge!(HELD_BYTES_ALL).set(bytes as f64);
    metrics::gauge!(HELD_RECORDS_ALL).set(records as f64);
}
