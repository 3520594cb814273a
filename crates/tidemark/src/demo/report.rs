//! What the demo found, as one JSON object and as tables.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// The result of a demo.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DemoReport {
    /// Whether all is as it must be.
    pub ok: bool,
    /// How many pairs the cluster holds.
    pub records: u64,
    /// Digest over all of them.
    pub digest: String,
    /// The partitions, in order.
    pub partitions: Vec<PartitionReport>,
    /// The recoveries, in the order in which they happened.
    pub recoveries: Vec<Recovery>,
    /// What was checked.
    #[serde(skip)]
    pub checks: Vec<Check>,
    /// What else a person may want to know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// One partition at the end.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartitionReport {
    /// Its number.
    pub partition: u32,
    /// First unwritten LSN.
    pub tail: Option<u64>,
    /// Highest LSN removed from the log.
    pub trim_point: Option<u64>,
    /// LSN of the newest snapshot.
    pub archived_lsn: Option<u64>,
    /// Lowest LSN among the restorable snapshots.
    pub guard_lsn: Option<u64>,
    /// The node that leads it.
    pub leader: Option<String>,
    /// All snapshots published during the run, oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// State digest per node.
    pub digests: BTreeMap<String, String>,
    /// Restores per node, in words.
    #[serde(skip)]
    pub restores: Vec<String>,
    /// How often the trim point was seen to move.
    #[serde(skip)]
    pub trims: usize,
}

/// One published snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotReport {
    /// Its id.
    pub snapshot_id: String,
    /// The LSN whose state it holds.
    pub lsn: u64,
    /// Who made it.
    pub node: String,
    /// What that node was to the partition: `leader` or `follower`.
    pub role: &'static str,
    /// Sum of all file sizes.
    pub bytes_total: u64,
    /// How much of it was uploaded.
    pub bytes_uploaded: u64,
    /// How much of it was copied inside the store, from an earlier snapshot.
    pub bytes_copied: u64,
}

/// Why a node had to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryKind {
    /// It was killed and its folder wiped.
    Bootstrap,
    /// It was away while the log was trimmed past its state.
    TrimGap,
    /// It was wiped while the newest snapshot of a partition was damaged.
    Fallback,
    /// The admin was killed.
    AdminRestart,
    /// The admin that acted was killed, and another one was there.
    AdminTakeover,
    /// A NATS server was killed.
    ServerLoss,
}

impl RecoveryKind {
    /// Returns the word used in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            RecoveryKind::Bootstrap => "bootstrap",
            RecoveryKind::TrimGap => "trim-gap",
            RecoveryKind::Fallback => "fallback",
            RecoveryKind::AdminRestart => "admin-restart",
            RecoveryKind::AdminTakeover => "admin-takeover",
            RecoveryKind::ServerLoss => "server-loss",
        }
    }
}

/// One recovery.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// Why it was needed.
    pub kind: RecoveryKind,
    /// Who recovered.
    pub node: String,
    /// How many partitions came back in this way.
    pub partitions: usize,
    /// From the start of the process until the last of its partitions was active (the admin: decided about; a NATS server: up
    /// to date). Of a takeover: from the kill of the other admin on.
    pub duration_ms: u64,
    /// How many should have.
    #[serde(skip)]
    pub partitions_expected: usize,
    /// Partition, and what its restore took, in words.
    #[serde(skip)]
    pub restores: BTreeMap<u32, String>,
}

/// Something that must be so.
#[derive(Clone, Debug)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What was found instead; `None` when it is so.
    pub failure: Option<String>,
}

impl Check {
    /// Makes a check of a list of faults; an empty one is what it must be.
    pub(super) fn none_of(name: &'static str, faults: Vec<String>) -> Self {
        Check {
            name,
            failure: (!faults.is_empty()).then(|| faults.join("; ")),
        }
    }
}

impl DemoReport {
    /// Returns whether all is as it must be.
    pub fn ok(&self) -> bool {
        self.ok
    }

    /// Returns the one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("the report has string keys and finite numbers")
    }

    /// Returns the line that says whether all is as it must be.
    pub fn summary(&self) -> String {
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter_map(|check| Some(format!("{}: {}", check.name, check.failure.as_ref()?)))
            .collect();
        if failed.is_empty() && self.ok {
            let names: Vec<&str> = self.checks.iter().map(|check| check.name).collect();
            return format!("All is as it must be: {}.", names.join(", "));
        }
        format!("NOT as it must be: {}", failed.join(" | "))
    }

    /// Returns the tables and the summary.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.partition_table(), self.recovery_table());
        let _ = writeln!(text, "{} pairs, digest {}", self.records, self.digest);
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        text + &self.summary()
    }

    fn partition_table(&self) -> Table {
        let mut table = new_table(&[
            "partition",
            "tail",
            "trim point",
            "archived",
            "guard",
            "leader",
            "snapshots",
            "restores",
            "digests",
        ]);
        for partition in &self.partitions {
            let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            table.add_row(vec![
                partition.partition.to_string(),
                number(partition.tail),
                number(partition.trim_point),
                number(partition.archived_lsn),
                number(partition.guard_lsn),
                partition.leader.clone().unwrap_or_else(|| "-".to_owned()),
                snapshots_by_producer(&partition.snapshots),
                partition.restores.join("\n"),
                short_digests(&partition.digests),
            ]);
        }
        table
    }

    fn recovery_table(&self) -> Table {
        let mut table = new_table(&["recovery", "node", "partitions", "duration"]);
        for recovery in &self.recoveries {
            table.add_row(vec![
                recovery.kind.as_str().to_owned(),
                recovery.node.clone(),
                format!("{} of {}", recovery.partitions, recovery.partitions_expected),
                format!("{} ms", recovery.duration_ms),
            ]);
        }
        table
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// One line per node and role.
fn snapshots_by_producer(snapshots: &[SnapshotReport]) -> String {
    let mut groups: BTreeMap<(&str, &str), (usize, u64, u64)> = BTreeMap::new();
    for snapshot in snapshots {
        let (count, total, copied) = groups.entry((&snapshot.node, snapshot.role)).or_default();
        *count += 1;
        *total += snapshot.bytes_total;
        *copied += snapshot.bytes_copied;
    }
    let line = |((node, role), (count, total, copied)): ((&str, &str), (usize, u64, u64))| {
        let copied = match copied {
            0 => String::new(),
            copied => format!(", {} of it copied", human_bytes(copied)),
        };
        format!("{count} × {node} ({role}), {}{copied}", human_bytes(total))
    };
    groups.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One line when all are equal, one per node otherwise.
fn short_digests(digests: &BTreeMap<String, String>) -> String {
    let short = |digest: &String| digest.chars().take(12).collect::<String>();
    digests
        .iter()
        .map(|(node, digest)| format!("{node} {}", short(digest)))
        .collect::<Vec<_>>()
        .join("\n")
}

pub(super) fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DemoReport {
        DemoReport {
            ok: true,
            records: 2,
            digest: "ab".repeat(32),
            partitions: vec![PartitionReport {
                tail: Some(10),
                snapshots: vec![SnapshotReport {
                    snapshot_id: "01".to_owned(),
                    lsn: 9,
                    node: "worker-1".to_owned(),
                    role: "follower",
                    bytes_total: 4096,
                    bytes_uploaded: 1024,
                    bytes_copied: 3072,
                }],
                digests: [("worker-1".to_owned(), "cd".repeat(32))].into(),
                ..PartitionReport::default()
            }],
            recoveries: vec![Recovery {
                kind: RecoveryKind::TrimGap,
                node: "worker-2".to_owned(),
                partitions: 1,
                duration_ms: 5,
                partitions_expected: 1,
                restores: BTreeMap::new(),
            }],
            checks: vec![Check::none_of("digests equal", Vec::new())],
            notes: Vec::new(),
        }
    }

    #[test]
    fn json_has_exactly_the_documented_fields() {
        let keys = |value: &serde_json::Value| {
            value
                .as_object()
                .map(|object| object.keys().cloned().collect::<Vec<_>>().join(" "))
                .unwrap_or_default()
        };
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(keys(&json), "digest ok partitions records recoveries");
        assert_eq!(
            keys(&json["partitions"][0]),
            "archived_lsn digests guard_lsn leader partition snapshots tail trim_point"
        );
        assert_eq!(
            keys(&json["partitions"][0]["snapshots"][0]),
            "bytes_copied bytes_total bytes_uploaded lsn node role snapshot_id"
        );
        assert_eq!(keys(&json["recoveries"][0]), "duration_ms kind node partitions");
        assert_eq!(json["recoveries"][0]["kind"], "trim-gap");
    }

    #[test]
    fn the_summary_names_every_check_that_failed() {
        let mut report = report();
        assert!(report.summary().starts_with("All is as it must be"));
        report.ok = false;
        report
            .checks
            .push(Check::none_of("count", vec!["2 instead of 3".to_owned()]));
        assert!(report.summary().contains("count: 2 instead of 3"));
        assert!(report.to_text().ends_with(&report.summary()));
    }

    #[test]
    fn the_table_says_how_much_was_copied_where_something_was() {
        let mut report = report();
        let cell = "1 × worker-1 (follower), 4.0 KiB, 3.0 KiB of it copied";
        assert!(report.to_text().contains(cell), "{}", report.to_text());
        report.partitions[0].snapshots[0].bytes_copied = 0;
        assert!(!report.to_text().contains("copied"));
    }
}
