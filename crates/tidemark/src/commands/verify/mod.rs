//! `snapshots verify`: by a worker, or by this process.

mod by_workers;
mod in_store;

use super::{AdminArgs, StoreOptionArgs};
use crate::output::{OutputFormat, bytes, duration_ms, table};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use snapshot_store::{Anomaly, AnomalyKind, PartitionId, Progress, Severity, SnapshotId, StateDigest};
use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf, process::ExitCode};

/// The exit code when nothing is damaged, and something wants cleaning up.
const EXIT_FINDINGS: u8 = 3;

/// How thoroughly snapshots are checked; each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Manifest and all files are there with their sizes.
    Presence,
    /// All files have the hashes the manifest names.
    Content,
    /// The snapshot is downloaded, opened, read through and compared with its manifest.
    Restore,
}

/// Arguments of `snapshots verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    /// Only this snapshot.
    #[arg(long, value_name = "ID")]
    snapshot: Option<SnapshotId>,
    /// How thoroughly.
    #[arg(long, value_enum, default_value = "content")]
    level: Level,
    /// Read the repository at this URL in this process, and look at everything that lies there.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Where --level restore puts one snapshot at a time; the system's folder for temporary files when left out.
    #[arg(long, value_name = "DIR", requires = "store")]
    scratch: Option<PathBuf>,
    /// Read no more than this many bytes per second, so that others keep their share of disk and network.
    #[arg(long, value_name = "BYTES", requires = "store")]
    bytes_per_second: Option<NonZeroU64>,
    #[command(flatten)]
    admin: AdminArgs,
}

impl VerifyArgs {
    fn wants(&self, snapshot_id: &str) -> bool {
        self.snapshot
            .is_none_or(|wanted| wanted.to_string() == snapshot_id)
    }
}

/// One thing that is wrong, as it is shown.
struct Found {
    kind: String,
    key: String,
    message: String,
    /// `None` for a kind that only a newer worker knows.
    known: Option<AnomalyKind>,
}

impl Found {
    /// Takes over what a worker says.
    fn named(kind: &str, key: String, message: String) -> Self {
        Found {
            kind: kind.to_owned(),
            key,
            message,
            known: AnomalyKind::ALL
                .iter()
                .copied()
                .find(|known| known.as_str() == kind),
        }
    }

    fn severity(&self) -> Severity {
        self.known.map_or(Severity::Damage, AnomalyKind::severity)
    }

    fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "severity": self.severity().as_str(),
            "key": self.key,
            "message": self.message,
            "remedy": self.known.map(AnomalyKind::remedy),
        })
    }
}

impl From<Anomaly> for Found {
    fn from(anomaly: Anomaly) -> Self {
        Found {
            kind: anomaly.kind.as_str().to_owned(),
            key: anomaly.key,
            message: anomaly.detail,
            known: Some(anomaly.kind),
        }
    }
}

/// What checking one snapshot came to.
struct Checked {
    partition: PartitionId,
    snapshot_id: String,
    lsn: u64,
    /// Where it was read.
    by: String,
    bytes_read: u64,
    duration_ms: u64,
    /// Of the state that was opened, at level restore.
    state_digest: Option<StateDigest>,
    anomalies: Vec<Found>,
    /// Set when the check itself did not succeed: nothing is known then.
    error: Option<String>,
}

impl Checked {
    fn new(partition: PartitionId, snapshot_id: String, lsn: u64, by: &str) -> Self {
        Checked {
            partition,
            snapshot_id,
            lsn,
            by: by.to_owned(),
            bytes_read: 0,
            duration_ms: 0,
            state_digest: None,
            anomalies: Vec::new(),
            error: None,
        }
    }

    fn json(&self) -> Value {
        json!({
            "partition": self.partition,
            "snapshot_id": self.snapshot_id,
            "lsn": self.lsn,
            "result": result(&self.anomalies, self.error.as_ref()),
            "by": self.by,
            "bytes_read": self.bytes_read,
            "duration_ms": self.duration_ms,
            "state_digest": self.state_digest,
            "anomalies": self.anomalies.iter().map(Found::json).collect::<Vec<_>>(),
            "error": self.error,
        })
    }
}

/// What lies in a place beside the snapshots that are retained there.
struct CheckedPlace {
    /// `None` for the base of the repository.
    partition: Option<PartitionId>,
    anomalies: Vec<Found>,
    /// Uploads that may still be going on.
    uploads: Vec<String>,
    error: Option<String>,
}

impl CheckedPlace {
    fn json(&self) -> Value {
        json!({
            "partition": self.partition,
            "result": result(&self.anomalies, self.error.as_ref()),
            "anomalies": self.anomalies.iter().map(Found::json).collect::<Vec<_>>(),
            "uploads": self.uploads,
            "error": self.error,
        })
    }
}

/// Everything that was checked.
#[derive(Default)]
struct Verified {
    snapshots: Vec<Checked>,
    places: Vec<CheckedPlace>,
}

impl Verified {
    fn anomalies(&self) -> impl Iterator<Item = &Found> {
        let of_places = self.places.iter().flat_map(|place| &place.anomalies);
        of_places.chain(self.snapshots.iter().flat_map(|one| &one.anomalies))
    }

    fn count(&self, severity: Severity) -> usize {
        self.anomalies()
            .filter(|found| found.severity() == severity)
            .count()
    }

    /// What could not be checked, by what it was.
    fn errors(&self) -> impl Iterator<Item = (String, &str)> {
        let of_places = self.places.iter().filter_map(|place| {
            let name = place.partition.map_or_else(
                || "the base".to_owned(),
                |partition| format!("partition {partition}"),
            );
            Some((name, place.error.as_deref()?))
        });
        let of_snapshots = self
            .snapshots
            .iter()
            .filter_map(|one| Some((format!("snapshot {}", one.snapshot_id), one.error.as_deref()?)));
        of_places.chain(of_snapshots)
    }

    fn exit_code(&self) -> u8 {
        let unknown = self.errors().next().is_some();
        match (
            unknown || self.count(Severity::Damage) > 0,
            self.count(Severity::Finding),
        ) {
            (true, _) => 1,
            (false, 0) => 0,
            (false, _) => EXIT_FINDINGS,
        }
    }

    fn json(&self) -> Value {
        json!({
            "ok": self.exit_code() == 0,
            "damage": self.count(Severity::Damage),
            "findings": self.count(Severity::Finding),
            "snapshots": self.snapshots.iter().map(Checked::json).collect::<Vec<_>>(),
            "places": self.places.iter().map(CheckedPlace::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        if self.snapshots.is_empty() {
            lines.push("no snapshots".to_owned());
        } else {
            lines.push(snapshots_table(&self.snapshots));
        }
        for place in &self.places {
            let uploads = place.uploads.iter();
            lines.extend(uploads.map(|upload| format!("{upload}: an upload that may still be going on")));
        }
        let mut remedies = BTreeMap::new();
        for found in self.anomalies() {
            lines.push(format!("{}: {}: {}", found.key, found.kind, found.message));
            remedies.insert(&found.kind, found.known.map(AnomalyKind::remedy));
        }
        for (kind, remedy) in remedies {
            lines.extend(remedy.map(|remedy| format!("what to do about {kind}: {remedy}")));
        }
        lines.extend(self.errors().map(|(what, error)| format!("{what}: {error}")));
        lines.push(match self.exit_code() {
            0 => "nothing is wrong".to_owned(),
            EXIT_FINDINGS => "nothing is damaged, and something wants cleaning up".to_owned(),
            _ => format!(
                "{} damaged, {} not known",
                self.count(Severity::Damage),
                self.errors().count()
            ),
        });
        lines.join("\n")
    }
}

/// Says in one word what a check came to.
fn result(anomalies: &[Found], error: Option<&String>) -> &'static str {
    match (error, anomalies.iter().map(Found::severity).max()) {
        (Some(_), _) => "unknown",
        (None, None) => "ok",
        (None, Some(Severity::Finding)) => "findings",
        (None, Some(Severity::Damage)) => "damaged",
    }
}

fn snapshots_table(checked: &[Checked]) -> String {
    let rows = checked.iter().map(|one| {
        [
            one.partition.to_string(),
            one.snapshot_id.clone(),
            one.lsn.to_string(),
            result(&one.anomalies, one.error.as_ref()).to_owned(),
            bytes(one.bytes_read),
            duration_ms(one.duration_ms),
            one.by.clone(),
            one.state_digest
                .map_or_else(|| "-".to_owned(), |digest| digest.to_string()),
        ]
    });
    table(
        [
            "partition",
            "snapshot",
            "LSN",
            "result",
            "read",
            "time",
            "by",
            "state digest",
        ],
        rows,
    )
}

pub(super) async fn verify(args: VerifyArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let verified = match &args.store {
        Some(url) => in_store::verify(&args, url, output).await?,
        None => Verified {
            snapshots: by_workers::by_workers(&args, output).await?,
            places: Vec::new(),
        },
    };
    if let (Some(snapshot), true) = (args.snapshot, verified.snapshots.is_empty()) {
        anyhow::bail!("no retained snapshot {snapshot}; see `tidemark snapshots list`");
    }
    output.print(&verified.json(), || verified.text())?;
    Ok(ExitCode::from(verified.exit_code()))
}

/// Moves a progress bar.
pub(super) struct BarProgress(pub(super) indicatif::ProgressBar);

impl Progress for BarProgress {
    fn advanced(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(kinds: &[AnomalyKind], error: Option<&str>) -> Verified {
        let found = |kind: &AnomalyKind| Found::from(Anomaly::new(*kind, "0/x", "seen"));
        Verified {
            snapshots: Vec::new(),
            places: vec![CheckedPlace {
                partition: Some(PartitionId::new(0)),
                anomalies: kinds.iter().map(found).collect(),
                uploads: Vec::new(),
                error: error.map(str::to_owned),
            }],
        }
    }

    #[test]
    fn the_exit_code_tells_damage_from_findings_and_both_from_nothing() {
        use AnomalyKind::{MissingFile, UnknownObject};
        assert_eq!(verified(&[], None).exit_code(), 0);
        assert_eq!(verified(&[UnknownObject], None).exit_code(), EXIT_FINDINGS);
        assert_eq!(verified(&[UnknownObject, MissingFile], None).exit_code(), 1);
        assert_eq!(verified(&[UnknownObject], Some("no answer")).exit_code(), 1);
        for kind in AnomalyKind::ALL {
            assert_ne!(verified(&[*kind], None).exit_code(), 0, "{kind}");
        }
    }

    #[test]
    fn what_only_a_newer_worker_knows_counts_as_damage() {
        let found = Found::named("strange-thing", "0/x".to_owned(), "seen".to_owned());
        assert_eq!(found.severity(), Severity::Damage);
        let known = Found::named("wrong-hash", "0/x".to_owned(), "seen".to_owned());
        assert_eq!(known.known, Some(AnomalyKind::WrongHash));
    }
}
