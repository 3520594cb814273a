//! `snapshots sweep`: what lies in the repository, and what of it nothing depends on any more.

use super::{StoreOptionArgs, exit, snapshots::open_store, verify::BarProgress};
use crate::output::{OutputFormat, bytes, progress_bar, table};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use snapshot_store::{
    PartitionId, Repository, StoredSize, SurveyedDirectory, SweepMode, SweepReport, UnknownObject,
    core::{DeleteScope, KeepReason},
    format::{Control, Keys},
};
use std::{collections::BTreeSet, process::ExitCode};

pub(super) const EXAMPLES: &str = "\
Lists every snapshot directory with what it is and, where it stays, why; with --delete those go that may. What may go
lies below the pointer, below what the last trim was certified for and below the snapshots it rested on; an upload in
progress never does, so this can run at any time, and be interrupted and repeated. Objects that Tidemark did not write
are named and never touched. What is paused or held is not deleted from.

Examples:
  tidemark snapshots sweep --store file:///mnt/bucket
  tidemark snapshots sweep --store file:///mnt/bucket --delete
  tidemark snapshots sweep --store file:///mnt/bucket --partition 3 --generation 1 --delete";

/// Arguments of `snapshots sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<PartitionId>,
    /// Delete what may go; without it, nothing is changed.
    #[arg(long)]
    delete: bool,
    /// Look for what is left of this older generation of the logs, which is never deleted by itself.
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// URL of the repository.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
}

impl SweepArgs {
    fn mode(&self) -> SweepMode {
        match self.delete {
            true => SweepMode::Delete,
            false => SweepMode::List,
        }
    }

    fn scope(&self) -> DeleteScope {
        self.generation
            .map_or(DeleteScope::CurrentGeneration, DeleteScope::OlderGeneration)
    }
}

/// What sweeping came to.
struct Swept {
    mode: SweepMode,
    partitions: Vec<(PartitionId, Result<SweepReport, String>)>,
    /// What lies beside the partitions.
    base: Result<Vec<UnknownObject>, String>,
}

/// Lists what may go, and deletes it when asked to. Partitions that fail do not keep the others from being swept.
///
/// # Errors
/// When the store cannot be used at all.
pub(super) async fn sweep(args: SweepArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let (repository, partitions) = open_store(&args.store, &args.options, args.partition).await?;
    let base = match args.partition {
        Some(_) => Ok(Vec::new()),
        None => unknown_beside(&repository)
            .await
            .map_err(|error| format!("{error:#}")),
    };
    let mut swept = Swept {
        mode: args.mode(),
        partitions: Vec::new(),
        base,
    };
    for partition in partitions {
        let result = sweep_one(&args, &repository, partition, output).await;
        swept
            .partitions
            .push((partition, result.map_err(|error| format!("{error:#}"))));
    }
    output.print(&swept.json(), || swept.text())?;
    Ok(exit(swept.all_well()))
}

async fn unknown_beside(repository: &Repository) -> anyhow::Result<Vec<UnknownObject>> {
    let record = repository.cluster().await?.context("cluster.json is gone")?;
    Ok(repository.survey_base(record.partitions).await?.unknown)
}

async fn sweep_one(
    args: &SweepArgs,
    repository: &Repository,
    partition: PartitionId,
    output: OutputFormat,
) -> anyhow::Result<SweepReport> {
    if args.delete {
        let control = repository.control().await?;
        if let Some(reason) = held_back(control.as_ref().map(|control| &control.value), partition) {
            anyhow::bail!("nothing was deleted: {reason}");
        }
    }
    let bar = BarProgress(progress_bar(output, "deleting", Some(0)));
    let report = repository.sweep(partition, args.scope(), args.mode(), &bar).await;
    bar.0.finish_and_clear();
    Ok(report?)
}

/// Says what forbids deleting anything of a partition now: a pause, evidence that is to be kept, or not knowing.
fn held_back(control: Option<&Control>, partition: PartitionId) -> Option<String> {
    let Some(control) = control else {
        return Some(format!("{} is missing, and may have held a pause", Keys::CONTROL));
    };
    if let Some(pause) = control.pause_of(partition) {
        return Some(format!(
            "{} paused by {}: {}; `tidemark resume` ends it",
            pause.scope, pause.by, pause.reason
        ));
    }
    let hold = control.holds_of(partition).next()?;
    Some(format!(
        "the partition is held, and what it holds is evidence: {}",
        hold.detail
    ))
}

impl Swept {
    fn all_well(&self) -> bool {
        self.base.is_ok() && self.partitions.iter().all(|(_, result)| result.is_ok())
    }

    fn reports(&self) -> impl Iterator<Item = (PartitionId, &SweepReport)> {
        let reports = self.partitions.iter();
        reports.filter_map(|(partition, result)| Some((*partition, result.as_ref().ok()?)))
    }

    /// Returns what was deleted, or would be.
    fn freed(&self) -> (usize, StoredSize) {
        let of_one = |(_, report): (PartitionId, &SweepReport)| match self.mode {
            SweepMode::Delete => (report.deleted.len(), report.freed),
            SweepMode::List => {
                let deletable = || report.survey.deletable();
                (deletable().count(), deletable().map(|found| found.size).sum())
            }
        };
        self.reports().map(of_one).fold(
            (0, StoredSize::default()),
            |(directories, mut sum), (more, size)| {
                sum += size;
                (directories + more, sum)
            },
        )
    }

    fn unknown(&self) -> impl Iterator<Item = &UnknownObject> {
        let beside = self.base.iter().flatten();
        beside.chain(self.reports().flat_map(|(_, report)| &report.survey.unknown))
    }

    fn json(&self) -> Value {
        let (directories, size) = self.freed();
        json!({
            "ok": self.all_well(),
            "delete": self.mode == SweepMode::Delete,
            "freed": { "directories": directories, "objects": size.objects, "bytes": size.bytes },
            "partitions": self.partitions.iter().map(|(partition, result)| partition_json(*partition, result)).collect::<Vec<_>>(),
            "unknown": self.unknown().map(|found| json!({ "key": found.key, "bytes": found.bytes })).collect::<Vec<_>>(),
            "error": self.base.as_ref().err(),
        })
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut reasons = BTreeSet::new();
        let mut rows = Vec::new();
        for (partition, report) in self.reports() {
            for found in &report.survey.directories {
                reasons.extend(found.verdict.err());
                rows.push(row(partition, found, report));
            }
        }
        if rows.is_empty() {
            lines.push("no snapshots".to_owned());
        } else {
            let header = [
                "partition",
                "LSN",
                "generation",
                "snapshot",
                "state",
                "objects",
                "bytes",
                "what happens",
            ];
            lines.push(table(header, rows));
        }
        let in_words = |reason: KeepReason| format!("{}: {}", reason.as_str(), reason.in_words());
        lines.extend(reasons.into_iter().map(in_words));
        lines.extend(
            self.unknown()
                .map(|found| format!("{}: Tidemark did not write it, and never touches it", found.key)),
        );
        let failed = self.partitions.iter().filter_map(|(partition, result)| {
            let error = result.as_ref().err()?;
            Some(format!("partition {partition}: {error}"))
        });
        lines.extend(failed);
        lines.extend(self.base.as_ref().err().cloned());
        let (directories, size) = self.freed();
        let what = format!(
            "{directories} directories with {} objects, {}",
            size.objects,
            bytes(size.bytes)
        );
        lines.push(match self.mode {
            SweepMode::Delete => format!("deleted: {what}"),
            SweepMode::List => format!("--delete would free {what}"),
        });
        lines.join("\n")
    }
}

fn partition_json(partition: PartitionId, result: &Result<SweepReport, String>) -> Value {
    let directories = result.iter().flat_map(|report| {
        let of_report = report.survey.directories.iter();
        of_report.map(|found| directory_json(found, report))
    });
    json!({
        "partition": partition,
        "directories": directories.collect::<Vec<_>>(),
        "error": result.as_ref().err(),
    })
}

fn directory_json(found: &SurveyedDirectory, report: &SweepReport) -> Value {
    let size = |size: StoredSize| json!({ "objects": size.objects, "bytes": size.bytes });
    json!({
        "path": found.directory,
        "generation": found.directory.generation,
        "lsn": found.directory.lsn,
        "snapshot_id": found.directory.snapshot_id,
        "state": found.state.as_str(),
        "size": size(found.size),
        "unfinished_parts": size(found.unfinished_parts),
        "deletable": found.verdict.is_ok(),
        "deleted": report.deleted.contains(&found.directory),
        "reason": found.verdict.err().map(KeepReason::as_str),
        "reason_in_words": found.verdict.err().map(KeepReason::in_words),
    })
}

fn row(partition: PartitionId, found: &SurveyedDirectory, report: &SweepReport) -> [String; 8] {
    let outcome = match (report.deleted.contains(&found.directory), found.verdict) {
        (true, _) => "deleted",
        (false, Ok(())) => "may go",
        (false, Err(reason)) => reason.as_str(),
    };
    [
        partition.to_string(),
        found.directory.lsn.to_string(),
        found.directory.generation.to_string(),
        found.directory.snapshot_id.to_string(),
        found.state.as_str().to_owned(),
        found.size.objects.to_string(),
        bytes(found.size.bytes),
        outcome.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{
        ClusterIdentity, Fingerprint, SnapshotId, Timestamp, WriteId,
        format::{Pause, PauseScope, SnapshotDirectory, StickyHold, StickyReason},
    };
    use snapshot_store::{DirectoryState, Lsn, Seams, Survey};

    const P3: PartitionId = PartitionId::new(3);

    fn control() -> Control {
        let cluster = ClusterIdentity {
            name: "shop".to_owned(),
            fingerprint: Fingerprint::from_bytes([1; 16]),
        };
        Control::empty(cluster, WriteId::new(Seams::real().ulid()))
    }

    #[test]
    fn what_is_paused_held_or_not_known_is_not_deleted_from() {
        assert_eq!(held_back(Some(&control()), P3), None);
        assert!(held_back(None, P3).is_some());
        let mut paused = control();
        paused.pauses.push(Pause {
            scope: PauseScope::Cluster,
            by: "ann".to_owned(),
            at: Timestamp::from_millis(1),
            reason: "maintenance".to_owned(),
            moved_to: None,
            unknown: Default::default(),
        });
        assert!(held_back(Some(&paused), P3).is_some_and(|reason| reason.contains("ann")));
        let mut held = control();
        held.holds.push(StickyHold {
            partition: P3,
            reason: StickyReason::DamagedSnapshot,
            since: Timestamp::from_millis(1),
            detail: "0/x".to_owned(),
            unknown: Default::default(),
        });
        assert!(held_back(Some(&held), P3).is_some());
        assert_eq!(held_back(Some(&held), PartitionId::new(4)), None);
    }

    #[test]
    fn the_answer_says_what_would_be_freed_and_why_the_rest_stays() {
        let found = |lsn: u64, state, verdict| SurveyedDirectory {
            directory: SnapshotDirectory {
                generation: 1,
                lsn: Lsn::new(lsn),
                snapshot_id: SnapshotId::new(Seams::real().ulid()),
            },
            state,
            size: StoredSize {
                objects: 2,
                bytes: 2048,
            },
            unfinished_parts: StoredSize::default(),
            verdict,
        };
        let survey = Survey {
            partition: P3,
            directories: vec![
                found(100, DirectoryState::Evicted, Ok(())),
                found(200, DirectoryState::Retained, Err(KeepReason::Retained)),
            ],
            documents: StoredSize::default(),
            unknown: Vec::new(),
        };
        let report = SweepReport {
            survey,
            deleted: Vec::new(),
            freed: StoredSize::default(),
        };
        let mut swept = Swept {
            mode: SweepMode::List,
            partitions: vec![(P3, Ok(report))],
            base: Ok(Vec::new()),
        };
        let text = swept.text();
        assert!(
            text.contains("--delete would free 1 directories with 2 objects, 2.00 KiB"),
            "{text}"
        );
        assert!(text.contains(KeepReason::Retained.in_words()), "{text}");
        assert!(swept.all_well());
        swept
            .partitions
            .push((PartitionId::new(4), Err("no answer".to_owned())));
        assert!(!swept.all_well());
        assert_eq!(swept.json()["partitions"][1]["error"], "no answer");
    }
}
