//! `snapshots verify --store`: this process reads the repository itself, and needs no node.

use super::{BarProgress, Checked, CheckedPlace, Found, Level, Verified, VerifyArgs};
use crate::{
    commands::snapshots::with_partitions,
    kv::machine::KvMachine,
    output::{OutputFormat, progress_bar},
};
use anyhow::Context as _;
use snapshot_store::{
    Anomaly, AnomalyKind, CheckLevel, DownloadError, PartitionId, Repository, StateDigest,
    format::{ClusterRecord, Keys, PointerEntry},
};
use snapshot_worker::{
    Blocking,
    agent::{HostError, differences},
    processor::{RocksEngine, RocksOptions, inspect_state},
};
use std::{path::Path, sync::Arc};
use tokio::time::Instant;

/// Who read, in the answer.
const HERE: &str = "this process";

pub(super) async fn verify(args: &VerifyArgs, url: &str, output: OutputFormat) -> anyhow::Result<Verified> {
    let repository = args.options.open_within(url, args.bytes_per_second)?;
    let (repository, partitions) = with_partitions(repository, args.partition).await?;
    let record = repository
        .cluster()
        .await?
        .with_context(|| format!("{url} holds no cluster any more"))?;
    let check = StoreCheck {
        args,
        repository,
        record,
        engine: Arc::new(RocksEngine::new(&RocksOptions::default())?),
        output,
    };
    let mut verified = Verified::default();
    if args.partition.is_none() && args.snapshot.is_none() {
        verified.places.push(check.base().await);
    }
    for partition in partitions {
        check.partition(partition, &mut verified).await;
    }
    Ok(verified)
}

struct StoreCheck<'a> {
    args: &'a VerifyArgs,
    repository: Repository,
    record: ClusterRecord,
    engine: Arc<RocksEngine>,
    output: OutputFormat,
}

/// What looking at one snapshot came to.
#[derive(Default)]
struct Look {
    anomalies: Vec<Anomaly>,
    state_digest: Option<StateDigest>,
}

impl StoreCheck<'_> {
    async fn base(&self) -> CheckedPlace {
        let found = self.repository.survey_base(self.record.partitions).await;
        let (anomalies, error) = match found {
            Ok(survey) => (survey.unknown.iter().map(Anomaly::from).collect(), None),
            Err(error) => (Vec::new(), Some(chain_text(error.into()))),
        };
        place(None, anomalies, Vec::new(), error)
    }

    async fn partition(&self, partition: PartitionId, verified: &mut Verified) {
        let check = match self.repository.check_partition(&self.record, partition).await {
            Ok(check) => check,
            Err(error) => {
                let error = Some(chain_text(error.into()));
                verified
                    .places
                    .push(place(Some(partition), Vec::new(), Vec::new(), error));
                return;
            }
        };
        if self.args.snapshot.is_none() {
            let uploads = check.uploads.iter().map(|upload| format!("{partition}/{upload}"));
            let found = place(Some(partition), check.anomalies, uploads.collect(), None);
            verified.places.push(found);
        }
        for entry in check.snapshots {
            if self.args.wants(&entry.snapshot_id.to_string()) {
                verified.snapshots.extend(self.snapshot(partition, &entry).await);
            }
        }
    }

    /// Checks one snapshot; `None` when it left retention meanwhile, and rightly went.
    async fn snapshot(&self, partition: PartitionId, entry: &PointerEntry) -> Option<Checked> {
        let mut one = Checked::new(partition, entry.snapshot_id.to_string(), entry.lsn.get(), HERE);
        let began = Instant::now();
        let bar = BarProgress(progress_bar(self.output, "verifying", Some(0)));
        let looked = self.look(partition, entry, &bar).await;
        one.bytes_read = bar.0.position();
        bar.0.finish_and_clear();
        one.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match looked {
            Ok(look) => {
                if !look.anomalies.is_empty() && self.left_retention(partition, entry).await {
                    return None;
                }
                one.state_digest = look.state_digest;
                one.anomalies = look.anomalies.into_iter().map(Found::from).collect();
            }
            Err(error) => one.error = Some(chain_text(error)),
        }
        Some(one)
    }

    async fn look(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        bar: &BarProgress,
    ) -> anyhow::Result<Look> {
        let level = match self.args.level {
            Level::Content => CheckLevel::Content,
            // The download that comes next reads every hash.
            Level::Presence | Level::Restore => CheckLevel::Presence,
        };
        let check = self
            .repository
            .check_snapshot(&self.record.cluster, partition, entry, level, bar)
            .await?;
        match self.args.level {
            Level::Restore if check.anomalies.is_empty() => self.open(partition, entry, bar).await,
            Level::Presence | Level::Content | Level::Restore => Ok(Look {
                anomalies: check.anomalies,
                state_digest: None,
            }),
        }
    }

    /// Downloads the snapshot into a scratch folder, opens it, reads it through and compares it with its manifest.
    async fn open(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        bar: &BarProgress,
    ) -> anyhow::Result<Look> {
        let scratch = self.args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new()
            .prefix("tidemark-verify-")
            .tempdir_in(&scratch)
            .with_context(|| {
                format!(
                    "no folder can be made in {}; name another with --scratch",
                    scratch.display()
                )
            })?;
        let dir = scratch.path().join("state");
        let manifest = match self.repository.download(partition, entry, &dir, bar).await {
            Ok(manifest) => manifest,
            Err(DownloadError::Damaged(anomalies)) => {
                return Ok(Look {
                    anomalies,
                    state_digest: None,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let wrong_state = |detail: String| {
            Anomaly::new(
                AnomalyKind::WrongState,
                Keys::manifest(partition, &entry.path),
                detail,
            )
        };
        match self.inspect(&dir).await {
            Ok(facts) => Ok(Look {
                anomalies: differences(&facts, &manifest)
                    .into_iter()
                    .map(wrong_state)
                    .collect(),
                state_digest: facts.state_digest,
            }),
            Err(HostError::Corrupt(detail)) => Ok(Look {
                anomalies: vec![wrong_state(detail)],
                state_digest: None,
            }),
            // It says more of this program than of the snapshot.
            Err(error) => Err(error.into()),
        }
    }

    async fn inspect(&self, dir: &Path) -> Result<snapshot_worker::agent::CheckpointFacts, HostError> {
        let (engine, dir) = (Arc::clone(&self.engine), dir.to_owned());
        Blocking::Threads
            .run(move || inspect_state(&*engine, &KvMachine, &dir))
            .await
    }

    async fn left_retention(&self, partition: PartitionId, entry: &PointerEntry) -> bool {
        let Ok(Some(pointer)) = self.repository.pointer(partition).await else {
            return false;
        };
        let mut named = pointer.value.snapshots.iter();
        named.all(|named| named.snapshot_id != entry.snapshot_id)
    }
}

fn place(
    partition: Option<PartitionId>,
    anomalies: Vec<Anomaly>,
    uploads: Vec<String>,
    error: Option<String>,
) -> CheckedPlace {
    CheckedPlace {
        partition,
        anomalies: anomalies.into_iter().map(Found::from).collect(),
        uploads,
        error,
    }
}

fn chain_text(error: anyhow::Error) -> String {
    format!("{error:#}")
}
