//! Bringing a published snapshot into a partition.
//!
//! 1. Read the pointer; choose from metadata alone (pure, `core::choose`), newest first. Where nothing of it helps, read
//!    the certificate, and choose from what only that names.
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
    published::PublishedSnapshots,
    restore_job::{RestoreError, RestoreJob, RestoreOutcome, RestoreRequest, ReuseLocal},
    room::WithRoom,
    snapshot_agent::Shared,
    staging::DownloadFolder,
    tried::{Fault, Missed, NotUsed, Pass, damage},
};
use crate::{
    core::{ArchivedSnapshot, FinishedRestore, RestoreCandidates, RestorePhase},
    failpoint,
    metrics::{self, RestoreResult},
};
use snapshot_store::{
    Anomaly, DownloadError, Lsn, PartitionId, Reuse, SnapshotId, StoreError,
    format::{Certificate, Keys, Manifest, PointerEntry},
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
            let pointer = self.published().pointer().await?;
            let mut candidates = self.published().candidates(pointer.as_ref(), None)?;
            let mut pass = self.try_all(&candidates).await?;
            if let Pass::Exhausted = pass
                && let Some(certificate) = self.published().certificate().await?
            {
                candidates = self
                    .published()
                    .candidates(pointer.as_ref(), Some(&certificate))?;
                pass = self.try_certified(&certificate, &candidates).await?;
            }
            match pass {
                Pass::Restored(entry) => {
                    let finished = self.finish(&candidates, &entry, began).await;
                    return Ok(RestoreOutcome::Restored(finished));
                }
                Pass::ChooseAgain => {}
                Pass::Exhausted if pointer.is_none() && candidates.certified.is_empty() => {
                    return self.no_pointer().await;
                }
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
            match self.try_entry(entry).await? {
                Pass::Exhausted => {}
                end => return Ok(end),
            }
        }
        Ok(Pass::Exhausted)
    }

    /// Goes through what only `certificate` names.
    async fn try_certified(
        &mut self,
        certificate: &Certificate,
        candidates: &RestoreCandidates,
    ) -> Result<Pass, RestoreError> {
        for snapshot in &candidates.certified {
            let (id, lsn) = (snapshot.snapshot_id, snapshot.lsn);
            if self.tried.contains_key(&id) {
                continue;
            }
            tracing::warn!(partition = %self.partition, snapshot_id = %id, %lsn, "nothing that the pointer retains helps, trying what the certificate names");
            let pass = match self.published().entry(certificate, snapshot).await? {
                Ok(entry) => self.try_entry(&entry).await?,
                Err(anomaly) => {
                    let missed = self.missed(id, &[anomaly]).await?;
                    self.settle(id, lsn, missed)
                }
            };
            match pass {
                Pass::Exhausted => {}
                end => return Ok(end),
            }
        }
        Ok(Pass::Exhausted)
    }

    async fn try_entry(&mut self, entry: &PointerEntry) -> Result<Pass, RestoreError> {
        if self.tried.contains_key(&entry.snapshot_id) {
            return Ok(Pass::Exhausted);
        }
        self.job.choose(Some(entry));
        match self.try_one(entry).await? {
            None => Ok(Pass::Restored(Box::new(entry.clone()))),
            Some(missed) => Ok(self.settle(entry.snapshot_id, entry.lsn, missed)),
        }
    }

    /// Keeps in mind what became of a candidate that did not help, and says whether to go on.
    fn settle(&mut self, id: SnapshotId, lsn: Lsn, missed: NotUsed) -> Pass {
        let fault = match missed {
            NotUsed::Evicted => return Pass::ChooseAgain,
            NotUsed::Damaged(detail) => {
                tracing::error!(partition = %self.partition, snapshot_id = %id, %lsn, %detail, "snapshot is damaged, trying the next older one");
                metrics::restore_fell_back();
                self.shared
                    .with_slot(self.partition, |slot| slot.note_damaged(id));
                Fault::Damaged(detail)
            }
            NotUsed::Unfit(detail) => Fault::Unfit(detail),
        };
        self.tried.insert(id, (lsn, fault));
        Pass::Exhausted
    }

    /// Tells damage from an eviction, after which objects are missing rightly.
    async fn missed(&self, id: SnapshotId, anomalies: &[Anomaly]) -> Result<NotUsed, RestoreError> {
        if !self.published().name(id).await? {
            return Ok(NotUsed::Evicted);
        }
        metrics::anomalies(anomalies);
        Ok(damage(anomalies))
    }

    fn published(&self) -> PublishedSnapshots<'_> {
        PublishedSnapshots {
            shared: self.shared,
            partition: self.partition,
            request: &self.request,
        }
    }

    /// Returns why `entry` could not be installed; `None` when it was.
    async fn try_one(&self, entry: &PointerEntry) -> Result<Option<NotUsed>, RestoreError> {
        let folder = self.folder(entry).await.map_err(|error| self.local(error))?;
        let manifest = match self.download(entry, &folder).await {
            Ok(manifest) => manifest,
            Err(Missed::Download(DownloadError::Damaged(anomalies))) => {
                return Ok(Some(self.missed(entry.snapshot_id, &anomalies).await?));
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
            Ok(Some(difference)) => return Ok(Some(NotUsed::Damaged(difference))),
            Err(HostError::Corrupt(detail)) => return Ok(Some(NotUsed::Damaged(detail))),
            Err(HostError::Mismatch(detail)) => return Ok(Some(NotUsed::Unfit(detail))),
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
        Ok(None)
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
            "neither pointer nor certificate name one".to_owned()
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
