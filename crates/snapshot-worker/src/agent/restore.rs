//! Bringing a published snapshot into a partition.
//!
//! 1. Read the pointer; choose from metadata alone (pure, `core::choose`), newest first.
//! 2. Bring it into `staging/downloads/<partition>/<snapshot_id>`: keep what an interrupted restore left there, link
//!    what such a restore of another snapshot or the stale state has, download the rest; every hash verified in this
//!    pass. Whatever ends it before step 4 leaves the folder, for the next restore to take from.
//! 3. Have the host open the download and read it through; compare what it finds with the manifest.
//! 4. Install: the host replaces its state by the verified folder in one step. A crash before it leaves the old
//!    state, a crash after it the new one.
//! 5. Remove what is left in staging; remember the archived LSN. A crash before leaves folders, which go once the
//!    partition is active, and loses a hint.
//!
//! A snapshot that fails in 2 or 3 is damaged, and the next older one is tried. A missing file alone is no damage
//! yet: the pointer is read again, for the snapshot may have been evicted since, and then the choice starts over.
//! Local state is touched in step 4 only; a link to one of its files changes nothing in it. Restores wait for their
//! turn in the order in which they came.

use super::{
    compare::differences,
    host::{HostError, PartitionHost},
    restore_job::{RestoreError, RestoreJob, RestoreOutcome, RestoreRequest, ReuseLocal},
    room::WithRoom,
    snapshot_agent::Shared,
    staging::DownloadFolder,
};
use crate::{
    core::{
        ArchivedSnapshot, FinishedRestore, RestoreCandidates, RestoreNeed, RestorePhase, restore_candidates,
    },
    failpoint,
    metrics::{self, RestoreResult},
};
use snapshot_store::{
    Anomaly, AnomalyKind, DownloadError, Lsn, PartitionId, Reuse, SnapshotId, StoreError,
    format::{Keys, Manifest, Pointer, PointerEntry},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};
use tokio::time::Instant;

/// How often a restore reads the pointer anew because what it had chosen was evicted meanwhile.
const CHOICES_MAX: usize = 5;

/// Takes the job out of the slot however the restore ends, also when its future is dropped.
struct Registered<'a> {
    shared: &'a Shared,
    partition: PartitionId,
    job: Arc<RestoreJob>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.shared.lock().get_mut(&self.partition) {
            slot.restore = None;
        }
    }
}

fn register<'a>(
    shared: &'a Shared,
    partition: PartitionId,
    request: &RestoreRequest,
) -> Result<(Registered<'a>, Arc<dyn PartitionHost>), RestoreError> {
    let refuse = |why: &str| RestoreError::local(partition)(HostError::Unavailable(why.to_owned()));
    let mut slots = shared.lock();
    let slot = slots
        .get_mut(&partition)
        .ok_or_else(|| refuse("it is not hosted here"))?;
    let host = slot.host.clone().ok_or_else(|| refuse("it is not hosted here"))?;
    if slot.restore.is_some() {
        return Err(refuse("it is being restored already"));
    }
    slot.note_trimmed(request.incarnation, request.trim_point);
    let job = Arc::new(RestoreJob::new(partition));
    slot.restore = Some(Arc::clone(&job));
    Ok((
        Registered {
            shared,
            partition,
            job,
        },
        host,
    ))
}

pub(super) async fn restore(
    shared: &Shared,
    partition: PartitionId,
    request: RestoreRequest,
) -> Result<RestoreOutcome, RestoreError> {
    let result = match register(shared, partition, &request) {
        Ok((registered, host)) => {
            let attempt = Attempt {
                shared,
                partition,
                request,
                host: &*host,
                job: &registered.job,
                tried: BTreeMap::new(),
            };
            attempt.run().await
        }
        Err(error) => Err(error),
    };
    metrics::restore_ended(
        request.kind,
        match &result {
            Ok(RestoreOutcome::Restored(_)) => RestoreResult::Restored,
            Ok(RestoreOutcome::NothingUsable { .. }) => RestoreResult::NothingUsable,
            Err(error) => error.result(),
        },
    );
    result
}

/// What became of one candidate.
enum Tried {
    /// The host has its state.
    Installed,
    /// Its objects or its content are not what was published.
    Damaged(String),
    /// This node's software cannot read it.
    Unfit(String),
    /// The pointer no longer names it: choose again.
    Evicted,
}

/// Why a candidate did not help.
enum Fault {
    Damaged(String),
    Unfit(String),
}

/// Why a download did not end in a snapshot.
enum Missed {
    Download(DownloadError),
    /// The disk has too little room for it.
    NoRoom(HostError),
}

impl From<DownloadError> for Missed {
    fn from(error: DownloadError) -> Self {
        Missed::Download(error)
    }
}

/// Says what anomalies mean: a manifest of a newer format is no damage.
fn damage(anomalies: &[Anomaly]) -> Tried {
    let texts: Vec<_> = anomalies.iter().map(ToString::to_string).collect();
    if !anomalies.is_empty()
        && anomalies
            .iter()
            .all(|anomaly| anomaly.kind == AnomalyKind::NewerFormat)
    {
        return Tried::Unfit(texts.join("; "));
    }
    Tried::Damaged(texts.join("; "))
}

struct Attempt<'a> {
    shared: &'a Shared,
    partition: PartitionId,
    request: RestoreRequest,
    host: &'a dyn PartitionHost,
    job: &'a RestoreJob,
    /// Candidates of this restore that did not help.
    tried: BTreeMap<SnapshotId, (Lsn, Fault)>,
}

impl Attempt<'_> {
    async fn run(mut self) -> Result<RestoreOutcome, RestoreError> {
        let Ok(_permit) = self.shared.restores.acquire().await else {
            return Err(self.local(HostError::Unavailable("the node is stopping".to_owned())));
        };
        let began = Instant::now();
        for _ in 0..CHOICES_MAX {
            self.job.choose(None);
            let Some(pointer) = self.pointer().await? else {
                return self.no_pointer().await;
            };
            let candidates = self.candidates(&pointer)?;
            match self.try_all(&candidates).await? {
                Pass::Restored(entry) => {
                    let finished = self.finish(&candidates, &entry, began).await;
                    return Ok(RestoreOutcome::Restored(finished));
                }
                Pass::ChooseAgain => {}
                Pass::Exhausted => return self.nothing_usable(&candidates),
            }
        }
        let detail = format!(
            "{} changed {CHOICES_MAX} times while its snapshots were read",
            Keys::pointer(self.partition)
        );
        Ok(RestoreOutcome::NothingUsable {
            detail,
            any_damaged: self.any_damaged(),
        })
    }

    async fn try_all(&mut self, candidates: &RestoreCandidates) -> Result<Pass, RestoreError> {
        for entry in &candidates.entries {
            let id = entry.snapshot_id;
            if self.tried.contains_key(&id) {
                continue;
            }
            self.job.choose(Some(entry));
            let fault = match self.try_one(entry).await? {
                Tried::Installed => return Ok(Pass::Restored(Box::new(entry.clone()))),
                Tried::Evicted => return Ok(Pass::ChooseAgain),
                Tried::Damaged(detail) => {
                    tracing::error!(partition = %self.partition, snapshot_id = %id, lsn = %entry.lsn, %detail, "snapshot is damaged, trying the next older one");
                    metrics::restore_fell_back();
                    self.shared
                        .with_slot(self.partition, |slot| slot.note_damaged(id));
                    Fault::Damaged(detail)
                }
                Tried::Unfit(detail) => Fault::Unfit(detail),
            };
            self.tried.insert(id, (entry.lsn, fault));
        }
        Ok(Pass::Exhausted)
    }

    async fn try_one(&self, entry: &PointerEntry) -> Result<Tried, RestoreError> {
        let folder = self.folder(entry).await.map_err(|error| self.local(error))?;
        let manifest = match self.download(entry, &folder).await {
            Ok(manifest) => manifest,
            Err(Missed::Download(DownloadError::Damaged(anomalies))) => {
                if !self.still_published(entry).await? {
                    return Ok(Tried::Evicted);
                }
                metrics::anomalies(&anomalies);
                return Ok(damage(&anomalies));
            }
            Err(Missed::Download(DownloadError::Store(error))) => {
                return Err(RestoreError::store(self.partition, error));
            }
            Err(Missed::Download(DownloadError::Local(error))) => return Err(self.local(error.into())),
            Err(Missed::NoRoom(error)) => return Err(self.local(error)),
        };
        failpoint::reached("restore: all files are complete");
        self.job.enter(RestorePhase::Checking);
        match self.inspect(&folder.path, &manifest).await {
            Ok(None) => {}
            Ok(Some(difference)) => return Ok(Tried::Damaged(difference)),
            Err(HostError::Corrupt(detail)) => return Ok(Tried::Damaged(detail)),
            Err(HostError::Mismatch(detail)) => return Ok(Tried::Unfit(detail)),
            Err(error) => return Err(self.local(error)),
        }
        failpoint::reached("restore: the snapshot is checked");
        self.job.enter(RestorePhase::Installing);
        self.host
            .install(&folder.path, &manifest)
            .await
            .map_err(|error| self.local(error))?;
        failpoint::reached("restore: the snapshot is installed");
        self.shared.staging.discard_downloads(self.partition).await;
        failpoint::reached("restore: staging is empty");
        Ok(Tried::Installed)
    }

    /// Returns where `entry` is prepared. A restore that may reuse nothing begins with nothing.
    async fn folder(&self, entry: &PointerEntry) -> Result<DownloadFolder, HostError> {
        let staging = &self.shared.staging;
        if self.request.reuse == ReuseLocal::Nothing {
            staging.discard_downloads(self.partition).await;
        }
        Ok(staging.download(self.partition, entry.snapshot_id).await?)
    }

    async fn download(&self, entry: &PointerEntry, folder: &DownloadFolder) -> Result<Manifest, Missed> {
        let staging = &self.shared.staging;
        let reuse = match self.request.reuse {
            ReuseLocal::Nothing => Reuse::Nothing,
            ReuseLocal::Allowed => Reuse::Allowed {
                sources: folder
                    .siblings
                    .iter()
                    .cloned()
                    .chain(self.host.reusable_files())
                    .collect(),
            },
        };
        let download = self
            .shared
            .repository
            .begin_download(self.partition, entry, &folder.path, &reuse, self.job)
            .await?;
        staging.drop_siblings(folder).await;
        let missing = download.bytes_missing();
        let room = match missing {
            0 => None,
            missing => Some(staging.reserve(missing).await.map_err(Missed::NoRoom)?),
        };
        self.job.enter(RestorePhase::Downloading);
        let progress = WithRoom {
            room: room.as_ref(),
            progress: self.job,
        };
        Ok(download.finish(&progress).await?)
    }

    /// Returns what differs between the state in `dir` and its manifest, or between the manifest and this cluster,
    /// whose identity a forked state would be given.
    async fn inspect(&self, dir: &Path, manifest: &Manifest) -> Result<Option<String>, HostError> {
        let (found, ours) = (&manifest.cluster, &self.shared.config.cluster);
        if found.fingerprint != ours.fingerprint {
            return Ok(Some(format!(
                "the manifest belongs to cluster {found}, not to {ours}"
            )));
        }
        let facts = self.host.inspect(dir).await?;
        let differences = differences(&facts, manifest);
        Ok((!differences.is_empty()).then(|| differences.join("; ")))
    }

    /// Whether the pointer, read anew, still names `entry`. A file of a snapshot that was evicted meanwhile is
    /// missing rightly.
    async fn still_published(&self, entry: &PointerEntry) -> Result<bool, RestoreError> {
        let pointer = self.pointer().await?;
        Ok(pointer.is_some_and(|pointer| {
            pointer
                .snapshots
                .iter()
                .any(|retained| retained.snapshot_id == entry.snapshot_id)
        }))
    }

    async fn pointer(&self) -> Result<Option<Pointer>, RestoreError> {
        let pointer = self.shared.repository.pointer(self.partition).await;
        let pointer = pointer.map_err(|error| RestoreError::store(self.partition, error))?;
        Ok(pointer.map(|versioned| versioned.value))
    }

    fn candidates(&self, pointer: &Pointer) -> Result<RestoreCandidates, RestoreError> {
        let damaged = self.shared.with_slot(self.partition, |slot| slot.damaged.clone());
        let need = RestoreNeed {
            fingerprint: self.shared.config.cluster.fingerprint,
            partition: self.partition,
            incarnation: self.request.incarnation,
            trim_point: self.request.trim_point,
            applied_lsn: self.request.applied_lsn,
            damaged: &damaged,
        };
        restore_candidates(pointer, &need).map_err(|refusal| RestoreError::StoreUnusable {
            partition: self.partition,
            detail: refusal.to_string(),
        })
    }

    async fn finish(
        &self,
        candidates: &RestoreCandidates,
        entry: &PointerEntry,
        began: Instant,
    ) -> FinishedRestore {
        let PointerEntry {
            snapshot_id,
            lsn,
            log_bytes,
            ..
        } = *entry;
        let running = self.job.running();
        let finished = self.shared.with_slot(self.partition, |slot| {
            // It was read through just now: whatever was wrong with it has been repaired.
            slot.damaged.remove(&snapshot_id);
            let newer = candidates.entries.iter().filter(|other| other.lsn > lsn);
            let damaged: BTreeSet<_> = newer
                .map(|other| other.snapshot_id)
                .filter(|id| slot.damaged.contains(id))
                .collect();
            let finished = FinishedRestore {
                kind: self.request.kind,
                snapshot_id,
                lsn,
                bytes: entry.bytes_total,
                bytes_downloaded: running.bytes_downloaded,
                bytes_linked: running.bytes_linked,
                bytes_resumed: running.bytes_resumed,
                duration: began.elapsed(),
                damaged: damaged.into_iter().collect(),
            };
            slot.last_restore = Some(finished.clone());
            finished
        });
        metrics::restore_took(finished.duration);
        tracing::info!(partition = %self.partition, %snapshot_id, %lsn, kind = finished.kind.as_str(), bytes = finished.bytes, downloaded = finished.bytes_downloaded, linked = finished.bytes_linked, resumed = finished.bytes_resumed, duration = ?finished.duration, "snapshot restored");
        let archived = ArchivedSnapshot {
            snapshot_id,
            lsn,
            log_bytes,
        };
        self.shared
            .note_archived(self.partition, entry.incarnation, archived)
            .await;
        finished
    }

    /// Tells a partition that was never snapshotted from a store that is not the cluster's: a wrong URL, or a
    /// folder that is not mounted. Only this way to fail costs the extra request.
    async fn no_pointer(&self) -> Result<RestoreOutcome, RestoreError> {
        let (key, url) = (Keys::pointer(self.partition), self.shared.repository.url());
        let record = self.shared.repository.cluster().await;
        let record = record.map_err(|error| RestoreError::store(self.partition, error))?;
        let unusable = |error| Err(RestoreError::store(self.partition, error));
        let cluster_key = || Keys::CLUSTER.to_owned();
        let expected = self.shared.config.cluster.fingerprint;
        match record.map(|record| record.cluster.fingerprint) {
            None => unusable(StoreError::Missing { key: cluster_key() }),
            Some(found) if found != expected => unusable(StoreError::Foreign {
                key: cluster_key(),
                found,
                expected,
            }),
            Some(_) => Ok(RestoreOutcome::NothingUsable {
                detail: format!("{url} has no {key}: no snapshot of the partition was published there"),
                any_damaged: self.any_damaged(),
            }),
        }
    }

    fn nothing_usable(&self, candidates: &RestoreCandidates) -> Result<RestoreOutcome, RestoreError> {
        let passed = candidates
            .passed_over
            .iter()
            .map(|(id, lsn, reason)| format!("{id} at {lsn} is {}", reason.as_str()));
        let tried = self.tried.iter().map(|(id, (lsn, fault))| match fault {
            Fault::Damaged(detail) => format!("{id} at {lsn} is damaged ({detail})"),
            Fault::Unfit(detail) => format!("{id} at {lsn} cannot be read by this node ({detail})"),
        });
        let found: Vec<_> = passed.chain(tried).collect();
        let found = if found.is_empty() {
            "the pointer names none".to_owned()
        } else {
            found.join("; ")
        };
        let detail = format!(
            "no published snapshot covers the log's trim point {}: {found}",
            self.request.trim_point
        );
        let any_damaged = self.any_damaged();
        if !any_damaged && !self.tried.is_empty() {
            return Err(RestoreError::Unfit {
                partition: self.partition,
                detail,
            });
        }
        Ok(RestoreOutcome::NothingUsable { detail, any_damaged })
    }

    fn any_damaged(&self) -> bool {
        self.tried
            .values()
            .any(|(_, fault)| matches!(fault, Fault::Damaged(_)))
    }

    fn local(&self, source: HostError) -> RestoreError {
        RestoreError::local(self.partition)(source)
    }
}

/// How going through the candidates ended.
enum Pass {
    Restored(Box<PointerEntry>),
    ChooseAgain,
    Exhausted,
}
