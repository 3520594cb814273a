//! `snapshots copy`: another place for a cluster's snapshots, or another cluster that begins with them.

use super::{StoreOptionArgs, key_value, store_args::open_within, verify::BarProgress};
use crate::{
    output::{OutputFormat, bytes, or_dash, progress_bar, table},
    roles,
};
use anyhow::Context as _;
use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use snapshot_store::{
    Anomaly, CopiedPartition, CopyFault, CopyOutcome, CopyReport, ForkRequest, Lsn, MoveRequest, PartitionId,
    Repository, format::Pause,
};
use std::{collections::BTreeSet, num::NonZeroU64, process::ExitCode, str::FromStr};

pub(super) const EXAMPLES: &str = "\
--move is for another bucket or another kind of store: cluster and snapshots stay what they are. The source is sealed first:
a pause of the whole cluster that names the destination, which `tidemark resume` takes back. Stop here, switch the nodes to the
destination, and go on there.
--fork is for a clone or after a disaster: another cluster, whose logs `tidemark cluster init --from-fork` creates, begins with the
newest sound snapshot of each partition. The source is only read.

Both verify every byte, write pointers last and delete nothing. They can be interrupted and run again: they go on with
what is there.

Exit code: 0 all of it is there; 1 some partition failed; 3 a fork passed over a damaged snapshot, or found none.

Examples:
  tidemark snapshots copy file:///mnt/bucket s3://bucket/prod --move --dst-option region=eu-central-1
  tidemark snapshots copy s3://bucket/prod s3://other/clone --fork --name clone
  tidemark snapshots copy s3://bucket/prod file:///mnt/clone --fork --name clone --partitions 0,3-5 --at 120000";

/// The exit code when nothing failed, and something wants to be looked at.
const EXIT_FINDINGS: u8 = 3;

/// Arguments of `snapshots copy`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("mode").required(true).args(["moves", "fork"]))]
pub struct CopyArgs {
    /// URL of the repository to copy.
    #[arg(value_name = "SRC")]
    source: String,
    /// URL of where to.
    #[arg(value_name = "DST")]
    destination: String,
    /// Copy the cluster itself: all retained snapshots, certificates, pauses and holds. Seals the source.
    #[arg(long = "move")]
    moves: bool,
    /// Copy one snapshot of each partition into another cluster.
    #[arg(long)]
    fork: bool,
    /// Only these partitions, such as 0,3-5.
    #[arg(long, value_name = "LIST")]
    partitions: Option<PartitionList>,
    /// Take the newest snapshot at or below this LSN.
    #[arg(long, value_name = "LSN", conflicts_with = "moves")]
    at: Option<u64>,
    /// Name of the new cluster.
    #[arg(long, value_name = "NAME", conflicts_with = "moves")]
    name: Option<String>,
    /// Who orders it; stands in the seal.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator")]
    by: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Option of the destination's client, as --store-option is for the source.
    #[arg(long = "dst-option", value_name = "KEY=VALUE", value_parser = key_value)]
    destination_options: Vec<(String, String)>,
    /// Send no more than this many bytes per second, so that others keep their share of disk and network.
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<NonZeroU64>,
}

/// Partitions as people list them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionList(BTreeSet<PartitionId>);

impl PartitionList {
    /// Returns them.
    pub(super) fn partitions(&self) -> BTreeSet<PartitionId> {
        self.0.clone()
    }
}

impl FromStr for PartitionList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<u32, String> {
            let partition: PartitionId = text.trim().parse()?;
            Ok(partition.get())
        };
        let mut partitions = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                None => (number(part)?, number(part)?),
                Some((first, last)) => (number(first)?, number(last)?),
            };
            if first > last || last >= snapshot_store::ClusterSpec::PARTITIONS_MAX {
                return Err(format!("{part:?} is no range of partitions, such as 3-5"));
            }
            partitions.extend((first..=last).map(PartitionId::new));
        }
        Ok(PartitionList(partitions))
    }
}

/// A copy and where it went.
struct Copied<'a> {
    args: &'a CopyArgs,
    report: CopyReport,
}

/// Copies. Partitions that fail do not keep the others from being copied.
///
/// # Errors
/// When nothing could be copied at all.
pub(super) async fn copy(args: CopyArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let source = open_within(&args.source, args.options.pairs(), None).context("SRC")?;
    let destination = open_within(
        &args.destination,
        &args.destination_options,
        args.bytes_per_second,
    )
    .context("DST")?;
    let report = run(&args, &source, &destination, output).await?;
    let copied = Copied { args: &args, report };
    output.print(&copied.json(), || copied.text())?;
    Ok(ExitCode::from(copied.exit_code()))
}

async fn run(
    args: &CopyArgs,
    source: &Repository,
    destination: &Repository,
    output: OutputFormat,
) -> anyhow::Result<CopyReport> {
    // A killed process would leave uploads that cost space until a bucket rule removes them.
    let cancel = roles::stop::requested(false)?;
    let bar = BarProgress(progress_bar(output, "copying", Some(0)));
    let partitions = args.partitions.as_ref().map(|list| list.0.clone());
    let report = if args.moves {
        let request = MoveRequest {
            partitions,
            by: args.by.clone(),
        };
        source.move_to(destination, &request, &bar, &cancel).await
    } else {
        let request = ForkRequest {
            partitions,
            at: args.at.map(Lsn::new),
            name: args.name.clone(),
        };
        source.fork_to(destination, &request, &bar, &cancel).await
    };
    bar.0.finish_and_clear();
    Ok(report?)
}

impl Copied<'_> {
    /// Returns whether a fork has less than was hoped for.
    fn has_findings(&self) -> bool {
        let found = |one: &CopiedPartition| {
            let none = matches!(one.outcome, CopyOutcome::NoSnapshot);
            none || !one.passed_over.is_empty()
        };
        self.args.fork && self.report.partitions.iter().any(found)
    }

    fn exit_code(&self) -> u8 {
        match (self.report.all_well(), self.has_findings()) {
            (false, _) => 1,
            (true, true) => EXIT_FINDINGS,
            (true, false) => 0,
        }
    }

    fn json(&self) -> Value {
        let report = &self.report;
        json!({
            "ok": self.exit_code() == 0,
            "mode": if self.args.moves { "move" } else { "fork" },
            "source": self.args.source,
            "destination": self.args.destination,
            "cluster": report.cluster,
            "nothing_to_do": report.nothing_to_do(),
            "seal": report.seal.as_ref().map(seal_json),
            "destination_seal": report.destination_seal.as_ref().map(seal_json),
            "partitions": report.partitions.iter().map(partition_json).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let report = &self.report;
        let header = [
            "partition",
            "outcome",
            "snapshots",
            "newest LSN",
            "sent",
            "read back",
        ];
        let mut lines = vec![table(header, report.partitions.iter().map(row))];
        for one in &report.partitions {
            for passed in &one.passed_over {
                let anomalies = passed.anomalies.iter();
                lines.extend(anomalies.map(|anomaly| {
                    format!(
                        "partition {}: passed over the snapshot at LSN {}: {anomaly}",
                        one.partition, passed.lsn
                    )
                }));
            }
            match &one.outcome {
                CopyOutcome::Failed(fault) => {
                    lines.push(format!("partition {}: {}", one.partition, chain_text(fault)));
                }
                CopyOutcome::NoSnapshot => lines.push(no_snapshot(one.partition, self.args)),
                CopyOutcome::Copied | CopyOutcome::AlreadyThere => {}
            }
        }
        if let Some(seal) = &report.seal {
            lines.push(format!(
                "the source is sealed by {} since {}: {}",
                seal.by, seal.at, seal.reason
            ));
        }
        if let Some(seal) = &report.destination_seal {
            lines.push(format!(
                "the destination itself is sealed by {} since {} ({}): once the nodes use it, `tidemark resume` takes that back",
                seal.by, seal.at, seal.reason
            ));
        }
        lines.push(match (report.all_well(), report.nothing_to_do()) {
            (false, _) => "not all of it was copied; run the same command again to go on".to_owned(),
            (true, true) => format!("nothing to do: all of it is in {} already", self.args.destination),
            (true, false) => format!("cluster {} is in {}", report.cluster, self.args.destination),
        });
        lines.join("\n")
    }
}

fn no_snapshot(partition: PartitionId, args: &CopyArgs) -> String {
    match args.at {
        Some(at) => format!("partition {partition}: no retained snapshot is at or below LSN {at}"),
        None => format!("partition {partition}: it has no snapshot"),
    }
}

fn row(one: &CopiedPartition) -> [String; 6] {
    [
        one.partition.to_string(),
        one.outcome.as_str().to_owned(),
        one.snapshots.len().to_string(),
        or_dash(one.snapshots.last().map(|newest| newest.lsn)),
        bytes(one.bytes_sent()),
        bytes(one.bytes_read_back()),
    ]
}

fn partition_json(one: &CopiedPartition) -> Value {
    let snapshots = one.snapshots.iter().map(|snapshot| {
        json!({
            "source_snapshot_id": snapshot.source,
            "snapshot_id": snapshot.snapshot_id,
            "lsn": snapshot.lsn,
            "bytes_total": snapshot.bytes_total,
            "bytes_sent": snapshot.bytes_sent,
            "bytes_read_back": snapshot.bytes_read_back,
        })
    });
    let passed_over = one.passed_over.iter().map(|passed| {
        json!({
            "snapshot_id": passed.snapshot_id,
            "lsn": passed.lsn,
            "anomalies": anomalies_json(&passed.anomalies),
        })
    });
    let fault = match &one.outcome {
        CopyOutcome::Failed(fault) => Some(fault),
        CopyOutcome::Copied | CopyOutcome::AlreadyThere | CopyOutcome::NoSnapshot => None,
    };
    json!({
        "partition": one.partition,
        "outcome": one.outcome.as_str(),
        "snapshots": snapshots.collect::<Vec<_>>(),
        "passed_over": passed_over.collect::<Vec<_>>(),
        "fault": fault.map(fault_json),
    })
}

fn fault_json(fault: &CopyFault) -> Value {
    let anomalies = match fault {
        CopyFault::Damaged(anomalies) | CopyFault::Incomplete(anomalies) => anomalies.as_slice(),
        _ => &[],
    };
    json!({
        "kind": fault.kind(),
        "message": chain_text(fault),
        "anomalies": anomalies_json(anomalies),
    })
}

/// Returns anomalies as `snapshots verify` prints them.
pub(super) fn anomalies_json(anomalies: &[Anomaly]) -> Value {
    let one = |anomaly: &Anomaly| {
        json!({
            "kind": anomaly.kind.as_str(),
            "severity": anomaly.kind.severity().as_str(),
            "key": anomaly.key,
            "message": anomaly.detail,
            "remedy": anomaly.kind.remedy(),
        })
    };
    anomalies.iter().map(one).collect()
}

fn seal_json(seal: &Pause) -> Value {
    json!({ "moved_to": seal.moved_to, "by": seal.by, "at": seal.at })
}

/// Returns an error with all that it rests on.
fn chain_text(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_listed_with_commas_and_ranges() {
        let list = |text: &str| -> Option<Vec<u32>> {
            let list: PartitionList = text.parse().ok()?;
            Some(list.0.iter().map(|partition| partition.get()).collect())
        };
        assert_eq!(list("0,3-5"), Some(vec![0, 3, 4, 5]));
        assert_eq!(list("7"), Some(vec![7]));
        assert_eq!(list("2, 1"), Some(vec![1, 2]));
        for wrong in ["", "a", "5-3", "1,,2", "-1", "1-", "0-4294967295"] {
            assert_eq!(list(wrong), None, "{wrong:?}");
        }
    }
}
