//! Metrics of the engine: names, help texts and the words of their labels, in one place.
//!
//! Nothing else in the engine names a metric. Without a recorder all of this costs next to nothing.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use std::time::Duration;

const APPEND_DURATION: &str = "tidemark_nats_append_seconds";
const APPEND_RECORDS: &str = "tidemark_nats_append_records";
const UNCLEAR: &str = "tidemark_nats_unclear_appends_total";
const READ_LAG: &str = "tidemark_nats_read_lag_records";
const READERS_RESTARTED: &str = "tidemark_nats_reads_restarted_total";
const CONNECTIONS: &str = "tidemark_nats_connections_total";

/// How an append ended whose acknowledgement did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// It had landed.
    Landed,
    /// It had not, and cannot any more.
    NotLanded,
    /// Nobody could be asked in time.
    Unknown,
}

impl Unclear {
    const ALL: [Unclear; 3] = [Unclear::Landed, Unclear::NotLanded, Unclear::Unknown];

    const fn as_str(self) -> &'static str {
        match self {
            Unclear::Landed => "landed",
            Unclear::NotLanded => "not-landed",
            Unclear::Unknown => "unknown",
        }
    }
}

/// Metrics that have no series before something happens, with their labels.
pub const LABELS: &[(&str, &[&str])] = &[];

/// Describes all metrics of the engine to the installed recorder, and sets the counters to 0.
pub fn describe() {
    describe_histogram!(
        APPEND_DURATION,
        Unit::Seconds,
        "Time until the servers acknowledged a batch, or it was given up"
    );
    describe_histogram!(
        APPEND_RECORDS,
        Unit::Count,
        "Records of a batch: those of all appends that waited together"
    );
    describe_counter!(
        UNCLEAR,
        Unit::Count,
        "Batches whose acknowledgement did not come, by what was found out about them"
    );
    describe_histogram!(
        READ_LAG,
        Unit::Count,
        "Records of the log that a reader still has before it, each time it takes some"
    );
    describe_counter!(
        READERS_RESTARTED,
        Unit::Count,
        "Times a reader had to go on with another consumer: servers restarted or changed roles"
    );
    describe_counter!(
        CONNECTIONS,
        Unit::Count,
        "Connections made to servers; each beyond the first is a reconnect"
    );
    for outcome in Unclear::ALL {
        counter!(UNCLEAR, "outcome" => outcome.as_str()).absolute(0);
    }
    counter!(READERS_RESTARTED).absolute(0);
    counter!(CONNECTIONS).absolute(0);
}

pub(super) fn appended(duration: Duration, records: usize) {
    histogram!(APPEND_DURATION).record(duration.as_secs_f64());
    histogram!(APPEND_RECORDS).record(records as f64);
}

pub(super) fn unclear(outcome: Unclear) {
    counter!(UNCLEAR, "outcome" => outcome.as_str()).increment(1);
}

pub(super) fn read(lag: u64) {
    histogram!(READ_LAG).record(lag as f64);
}

pub(super) fn reader_restarted() {
    counter!(READERS_RESTARTED).increment(1);
}

pub(super) fn connected() {
    counter!(CONNECTIONS).increment(1);
}
