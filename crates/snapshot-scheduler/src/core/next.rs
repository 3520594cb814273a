//! What would have to change for the next step of a partition: in words, with the numbers that are missing.

use super::thresholds::Thresholds;
use snapshot_store::{Lsn, NodeId};
use std::fmt::Write as _;

/// What was appended since the latest trusted snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The LSN of that snapshot, or where the log begins.
    pub lsn: Lsn,
    /// Records.
    pub records: u64,
    /// Bytes of them, when both ends are known.
    pub bytes: Option<u64>,
}

/// Says how much is missing until the next snapshot is due; `None` when it is.
pub fn until_snapshot(thresholds: &Thresholds, since: Since) -> Option<String> {
    let missing = |threshold: u64, there: u64| (threshold > 0).then(|| threshold.saturating_sub(there));
    let records = missing(thresholds.records, since.records);
    let bytes = since.bytes.and_then(|bytes| missing(thresholds.bytes, bytes));
    // Bytes alone make none due while no record came.
    let due = records == Some(0) || (bytes == Some(0) && since.records > 0);
    if due {
        return None;
    }
    let records = records.map(|records| format!("{} more records", grouped(records)));
    let bytes = bytes.map(|bytes| size(bytes.max(1)));
    let parts: Vec<String> = records.into_iter().chain(bytes).collect();
    match parts.is_empty() {
        true => Some("bytes since the latest snapshot are not known, and records do not count".to_owned()),
        false => Some(format!("{} until the next snapshot", parts.join(" or "))),
    }
}

/// Says what a replica that keeps the log from being trimmed lacks, and how much it may lack.
pub fn held_by_replica(node: &NodeId, needed: Lsn, guard: Lsn, held_records_max: u64) -> String {
    let behind = grouped(guard.records_since(needed));
    format!(
        "{node} is {behind} records behind, cap {}",
        grouped(held_records_max)
    )
}

/// Writes a number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a number of bytes in the largest unit of which there is at least one, rounded up.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut text = String::new();
    let (mut value, mut unit) = (bytes, "bytes");
    for next in UNITS {
        if value < 1024 {
            break;
        }
        (value, unit) = (value.div_ceil(1024), next);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{} {unit}", grouped(value));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(records: u64, bytes: u64) -> Thresholds {
        Thresholds {
            records,
            bytes,
            lag_records_max: 0,
            rule: None,
        }
    }

    #[test]
    fn what_is_missing_until_a_snapshot_is_said_in_both_units() {
        type Case<'a> = ((u64, u64), (u64, Option<u64>), Option<&'a str>);
        let cases: [Case<'_>; 10] = [
            (
                (100_000, 100 << 20),
                (87_590, Some(69 << 20)),
                Some("12,410 more records or 31 MiB until the next snapshot"),
            ),
            (
                (100, 0),
                (1, Some(5)),
                Some("99 more records until the next snapshot"),
            ),
            (
                (0, 2048),
                (1, Some(2047)),
                Some("1 bytes until the next snapshot"),
            ),
            ((0, 5000), (1, Some(1000)), Some("4 KiB until the next snapshot")),
            ((0, 2048), (1, Some(1024)), Some("1 KiB until the next snapshot")),
            ((100, 0), (100, None), None),
            ((0, 100), (1, Some(100)), None),
            ((0, 100), (0, Some(100)), Some("1 bytes until the next snapshot")),
            (
                (1000, 100),
                (1, None),
                Some("999 more records until the next snapshot"),
            ),
            (
                (0, 100),
                (1, None),
                Some("bytes since the latest snapshot are not known, and records do not count"),
            ),
        ];
        for ((records, bytes), (since, since_bytes), expected) in cases {
            let since = Since {
                lsn: Lsn::ZERO,
                records: since,
                bytes: since_bytes,
            };
            let said = until_snapshot(&thresholds(records, bytes), since);
            assert_eq!(said.as_deref(), expected, "{records} {bytes} {since:?}");
        }
    }

    #[test]
    fn who_holds_a_log_is_said_with_the_cap() {
        let node = NodeId::new("worker-2").unwrap();
        let said = held_by_replica(&node, Lsn::new(1_000_000), Lsn::new(1_040_311), 100_000);
        assert_eq!(said, "worker-2 is 40,311 records behind, cap 100,000");
    }

    #[test]
    fn thousands_stand_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, expected) in cases {
            assert_eq!(grouped(number), expected);
        }
    }
}
