//! Publishing a snapshot.
//!
//! A snapshot becomes visible in one step: the conditional update of its partition's pointer. What comes before can
//! be repeated or abandoned; there is nothing after it.
//!
//! 1. Read `cluster.json` and the pointer. Another cluster: refused. Already covered: superseded, nothing is uploaded.
//! 2. Upload the data files, then the manifest, into a directory that no other attempt ever uses. Files that a retained
//!    snapshot holds are copied inside the store (`reuse`). A crash leaves an orphan, which prune and sweep find by its
//!    name.
//! 3. Check that the manifest and all files are there with their sizes (on `file://` all of them are fsynced by now).
//!    A crash leaves an orphan.
//! 4. Read the pointer and the certificate, ask `may_replace_pointer`, and swap the pointer if it is still the version
//!    just read. A crash leaves an orphan, or a published snapshot whose publisher does not know it.
//!
//! Any error of the swap is unclear: a client below repeats requests and may have lost against itself. So step 4 is
//! a loop: read again; own id in the pointer or its history means done; a newer pointer means superseded; otherwise
//! the swap is tried again, at most `SWAP_TRIES` times. A write that was delayed and lands later changes the
//! version, so at most one of them takes effect. The upload is never deleted here, whatever happened: the delayed
//! write may still make it the latest.
//!
//! Cancelling is honoured up to the end of step 3, when nothing is visible yet; step 4 is short and always finishes.
//!
//! Invariants:
//! - The pointer names only snapshots whose manifest and files were confirmed present.
//! - The pointer's (generation, LSN) only ever grows.
//!
//! Not here: when to snapshot (`snapshot-scheduler`), and what is in the files (`snapshot-worker`).

use super::{
    Anomaly, Progress, Repository, SnapshotUpload, Versioned,
    anomaly::FirstFew,
    buffers::PartBuffers,
    error::StoreError,
    request::PutFault,
    reuse::Reusable,
    source::list_files,
    upload::{UploadPlan, manifest_key},
};
use crate::{
    core::{PointerFloor, ReplaceRefusal, may_replace_pointer, retained_after},
    format::{Certificate, Keys, Manifest, Pointer, PointerEntry, PublishedSnapshot, Stored, Unknown},
    vocabulary::{ClusterIdentity, ContentHash, Lsn, PartitionId, WriteId},
};
use object_store::UpdateVersion;
use tokio_util::sync::CancellationToken;

/// How often the swap is tried. Publishers of one partition are few, and each swap settles the race for most.
const SWAP_TRIES: usize = 8;

/// A published snapshot.
#[derive(Clone, Debug)]
pub struct Published {
    /// How the pointer names it.
    pub entry: PointerEntry,
    /// The pointer as this call last knew it.
    pub pointer: Pointer,
}

/// Why a snapshot was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store already has one at this LSN or above: nothing is to be done.
    #[error("partition {partition}: snapshot at {ours} is superseded by {} at {}", current.snapshot_id, current.lsn)]
    Superseded {
        /// The partition.
        partition: PartitionId,
        /// Our LSN.
        ours: Lsn,
        /// The snapshot that covers it.
        current: Box<PointerEntry>,
    },
    /// The pointer must not be replaced by this snapshot.
    #[error("{key} is not replaced: {reason}")]
    Refused {
        /// The pointer.
        key: String,
        /// Why.
        reason: ReplaceRefusal,
    },
    /// The store failed before the snapshot became visible: certainly not published.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was uploaded is not there or not complete: certainly not published.
    #[error(
        "partition {partition}: the uploaded snapshot is incomplete: {}",
        FirstFew(anomalies)
    )]
    Incomplete {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        anomalies: Vec<Anomaly>,
    },
    /// The checkpoint could not be read: certainly not published. The error names the file.
    #[error("the checkpoint cannot be read")]
    Local(#[source] std::io::Error),
    /// It was cancelled before the pointer was touched: certainly not published.
    #[error("the upload was cancelled")]
    Cancelled,
    /// The swap got no clear answer, and reading again did not clear it up: the snapshot may yet become the latest.
    #[error("partition {partition}: pointer swap may or may not have been applied")]
    Indeterminate {
        /// The partition.
        partition: PartitionId,
        /// The last answer.
        #[source]
        source: StoreError,
    },
}

impl PublishError {
    /// Returns whether another attempt (with a new checkpoint or the same) may succeed without anybody doing
    /// something.
    pub const fn is_retryable(&self) -> bool {
        match self {
            PublishError::Store(error) => error.is_retryable(),
            PublishError::Incomplete { .. } | PublishError::Indeterminate { .. } => true,
            PublishError::Superseded { .. }
            | PublishError::Refused { .. }
            | PublishError::Local(_)
            | PublishError::Cancelled => false,
        }
    }

    /// Returns the word used in metrics, status and JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            PublishError::Superseded { .. } => "superseded",
            PublishError::Refused { .. } => "refused",
            PublishError::Store(error) => error.kind(),
            PublishError::Incomplete { .. } => "incomplete",
            PublishError::Local(_) => "local",
            PublishError::Cancelled => "cancelled",
            PublishError::Indeterminate { .. } => "indeterminate",
        }
    }
}

/// A pointer that wants to take the place of the present one, whatever it comes from.
pub(super) trait PointerSwap: Sync {
    /// Its partition.
    fn partition(&self) -> PartitionId;

    /// Its latest snapshot, all of which is in the store.
    fn entry(&self) -> &PointerEntry;

    /// Decides on what was just read, by `may_replace_pointer`: `None` means go on, `Some` that nothing is to be done any
    /// more.
    fn decide(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Result<Option<Published>, PublishError>;

    /// Returns what is to be written over what was just read.
    fn next(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Pointer;
}

/// The swap of a finished upload.
struct PublishSwap<'a> {
    repository: &'a Repository,
    upload: &'a SnapshotUpload,
    entry: &'a PointerEntry,
}

impl PointerSwap for PublishSwap<'_> {
    fn partition(&self) -> PartitionId {
        self.upload.partition
    }

    fn entry(&self) -> &PointerEntry {
        self.entry
    }

    fn decide(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Result<Option<Published>, PublishError> {
        self.repository
            .decide(self.upload, current, certificate, Some(self.entry))
    }

    fn next(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Pointer {
        self.repository
            .next_pointer(self.upload, self.entry, current, certificate)
    }
}

/// What step 1 found.
enum Examined {
    /// The pointer names the snapshot already.
    AlreadyPublished(Box<Published>),
    /// It is wanted, and may reuse these files.
    Wanted(Reusable),
}

/// How far steps 1 to 3 came.
enum Prepared {
    /// The pointer names the snapshot already.
    AlreadyPublished(Published),
    /// All of it is in the store, and nobody knows.
    Uploaded(PointerEntry),
}

fn indeterminate(partition: PartitionId, key: String, source: Box<object_store::Error>) -> PublishError {
    PublishError::Indeterminate {
        partition,
        source: StoreError::Indeterminate { key, source },
    }
}

/// The entry for a finished upload.
pub(super) fn entry_for(manifest: &Manifest, manifest_hash: ContentHash) -> PointerEntry {
    PointerEntry {
        snapshot_id: manifest.snapshot_id,
        incarnation: manifest.incarnation,
        lsn: manifest.lsn,
        path: manifest.directory(),
        log_bytes: manifest.log_bytes,
        files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
        bytes_total: manifest.bytes_total,
        bytes_uploaded: manifest.bytes_uploaded,
        bytes_copied: manifest.bytes_copied,
        created_at: manifest.created_at,
        node: manifest.producer.node.clone(),
        role: manifest.producer.role,
        manifest_hash,
        unknown: Unknown::default(),
    }
}

impl Repository {
    /// Uploads a finished checkpoint and makes it the partition's latest snapshot; see the module's header for the
    /// protocol. `cancel` is honoured until the pointer is touched.
    ///
    /// # Errors
    /// See [`PublishError`]: superseded and refused are final, the rest is sorted by whether it may have happened.
    pub async fn publish(
        &self,
        upload: &SnapshotUpload,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Published, PublishError> {
        match self.prepare(upload, progress, cancel).await? {
            Prepared::AlreadyPublished(published) => Ok(published),
            Prepared::Uploaded(entry) => {
                let swap = PublishSwap {
                    repository: self,
                    upload,
                    entry: &entry,
                };
                self.swap_pointer(&swap).await
            }
        }
    }

    /// Steps 1 to 3: nothing of them is visible to others.
    async fn prepare(
        &self,
        upload: &SnapshotUpload,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Prepared, PublishError> {
        let examined = cancel.run_until_cancelled(self.examine(upload)).await;
        let reusable = match examined.ok_or(PublishError::Cancelled)?? {
            Examined::AlreadyPublished(published) => return Ok(Prepared::AlreadyPublished(*published)),
            Examined::Wanted(reusable) => reusable,
        };
        let directory = format!("{}/{}", upload.partition, upload.directory());
        let files = list_files(&upload.dir, self.0.blocking)
            .await
            .map_err(PublishError::Local)?;
        progress.total(files.iter().map(|file| file.bytes).sum());
        let plan = UploadPlan {
            directory: &directory,
            reusable: &reusable,
            buffers: PartBuffers::default(),
            progress,
            cancel,
        };
        // Not dropped when it is cancelled: it ends by itself, and leaves no open multipart upload.
        let manifest = upload.manifest(self.upload_files(&plan, files).await?);
        let finished = cancel
            .run_until_cancelled(self.finish(upload, &directory, &manifest))
            .await;
        Ok(Prepared::Uploaded(finished.ok_or(PublishError::Cancelled)??))
    }

    /// Step 1: whether the snapshot is wanted, and what it can reuse.
    async fn examine(&self, upload: &SnapshotUpload) -> Result<Examined, PublishError> {
        self.ensure_capable().await?;
        self.check_cluster(&upload.cluster).await?;
        let (current, certificate) = self.pointer_and_certificate(upload.partition).await?;
        if let Some(published) = self.decide(upload, current.as_ref(), certificate.as_ref(), None)? {
            return Ok(Examined::AlreadyPublished(Box::new(published)));
        }
        let pointer = current.as_ref().map(|current| &current.value);
        Ok(Examined::Wanted(self.reusable(upload, pointer).await))
    }

    /// The end of step 2, and step 3.
    async fn finish(
        &self,
        upload: &SnapshotUpload,
        directory: &str,
        manifest: &Manifest,
    ) -> Result<PointerEntry, PublishError> {
        let bytes = manifest.encode();
        let entry = entry_for(manifest, ContentHash::of(&bytes));
        self.put_immutable(&manifest_key(directory), bytes.into()).await?;
        let anomalies = self.check_presence(upload.partition, &entry).await?;
        if anomalies.is_empty() {
            return Ok(entry);
        }
        Err(PublishError::Incomplete {
            partition: upload.partition,
            anomalies,
        })
    }

    /// Step 4: swaps the pointer, deciding anew on each read.
    pub(super) async fn swap_pointer(&self, swap: &impl PointerSwap) -> Result<Published, PublishError> {
        let partition = swap.partition();
        let key = Keys::pointer(partition);
        // A put without a clear answer, and the version it asked for: as long as the pointer still is that version,
        // the put may yet land.
        let mut pending: Option<(Option<UpdateVersion>, Box<object_store::Error>)> = None;
        for tries in 0..=SWAP_TRIES {
            let read = self.pointer_and_certificate(partition).await;
            let (current, certificate) = match (read, pending.take()) {
                (Ok(read), still) => {
                    let version = read.0.as_ref().map(|current| current.version.clone());
                    pending = still.filter(|(asked_for, _)| *asked_for == version);
                    read
                }
                (Err(error), None) => return Err(error.into()),
                (Err(_), Some((_, source))) => return Err(indeterminate(partition, key, source)),
            };
            match (
                swap.decide(current.as_ref(), certificate.as_ref()),
                pending.take(),
            ) {
                (Ok(Some(done)), _) => return Ok(done),
                (Ok(None), still) => pending = still,
                (Err(PublishError::Refused { .. }), Some((_, source))) => {
                    return Err(indeterminate(partition, key, source));
                }
                (Err(error), _) => return Err(error),
            }
            if tries == SWAP_TRIES {
                break;
            }
            let pointer = swap.next(current.as_ref(), certificate.as_ref());
            let version = current.map(|current| current.version);
            let Err(error) = self.put_if(&key, pointer.encode(), version.clone()).await else {
                return Ok(Published {
                    entry: swap.entry().clone(),
                    pointer,
                });
            };
            tracing::debug!(%partition, %error, tries, "pointer swap failed: reading again");
            match (PutFault::of(&key, error), &pending) {
                (PutFault::Lost, _) => {}
                (PutFault::Unclear(source), _) => pending = Some((version, source)),
                (PutFault::Refused(error), None) => return Err(error.into()),
                (PutFault::Refused(_), Some(_)) => {}
            }
            self.pause(tries + 1).await;
        }
        match pending {
            Some((_, source)) => Err(indeterminate(partition, key, source)),
            None => Err(StoreError::Contended {
                key,
                tries: SWAP_TRIES,
            }
            .into()),
        }
    }

    /// Reads both, the certificate first: what it names, the pointer still retains.
    pub(super) async fn pointer_and_certificate(
        &self,
        partition: PartitionId,
    ) -> Result<(Option<Versioned<Pointer>>, Option<Versioned<Certificate>>), StoreError> {
        let certificate = self.certificate(partition).await?;
        Ok((self.pointer(partition).await?, certificate))
    }

    /// Asks whether the pointer as just read may be replaced: `None` means go on, `Some` that it already names this
    /// snapshot.
    fn decide(
        &self,
        upload: &SnapshotUpload,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
        uploaded: Option<&PointerEntry>,
    ) -> Result<Option<Published>, PublishError> {
        let pointer = current.map(|current| &current.value);
        let floor = PointerFloor {
            certificate: certificate.map(|certificate| &certificate.value),
            trimmed: upload.trimmed,
        };
        let Err(reason) = may_replace_pointer(pointer, &upload.candidate(), &floor) else {
            return Ok(None);
        };
        let key = || Keys::pointer(upload.partition);
        match (reason, pointer) {
            (ReplaceRefusal::AlreadyPublished, Some(pointer)) => {
                let named = pointer
                    .snapshots
                    .iter()
                    .find(|entry| entry.snapshot_id == upload.snapshot_id);
                match named.or(uploaded) {
                    Some(entry) => Ok(Some(Published {
                        entry: entry.clone(),
                        pointer: pointer.clone(),
                    })),
                    None => Err(PublishError::Refused {
                        key: key(),
                        reason: ReplaceRefusal::AlreadyPublished,
                    }),
                }
            }
            (reason @ ReplaceRefusal::Superseded { current: covering }, Some(pointer)) => {
                let covers =
                    |entry: &&PointerEntry| entry.incarnation == upload.incarnation && entry.lsn == covering;
                match pointer.snapshots.iter().find(covers) {
                    Some(entry) => Err(PublishError::Superseded {
                        partition: upload.partition,
                        ours: upload.lsn,
                        current: Box::new(entry.clone()),
                    }),
                    None => Err(PublishError::Refused { key: key(), reason }),
                }
            }
            (reason, _) => Err(PublishError::Refused { key: key(), reason }),
        }
    }

    fn next_pointer(
        &self,
        upload: &SnapshotUpload,
        entry: &PointerEntry,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Pointer {
        let current = current.map(|current| &current.value);
        self.pointer_after(
            (&upload.cluster, upload.partition),
            entry,
            current,
            certificate.map(|certificate| &certificate.value),
            upload.restorable_min(current),
        )
    }

    /// Returns the pointer that makes `entry` the latest snapshot after what `current` says.
    pub(super) fn pointer_after(
        &self,
        (cluster, partition): (&ClusterIdentity, PartitionId),
        entry: &PointerEntry,
        current: Option<&Pointer>,
        certificate: Option<&Certificate>,
        restorable_snapshots_min: u32,
    ) -> Pointer {
        let mut history = vec![PublishedSnapshot {
            snapshot_id: entry.snapshot_id,
            incarnation: entry.incarnation,
            lsn: entry.lsn,
            published_at: self.seams().clock.now(),
            unknown: Unknown::default(),
        }];
        history.extend(
            current
                .into_iter()
                .flat_map(|pointer| pointer.history.iter().cloned()),
        );
        history.truncate(Pointer::HISTORY_MAX);
        Pointer {
            cluster: cluster.clone(),
            partition,
            write_id: WriteId::new(self.seams().ulid()),
            restorable_snapshots_min,
            snapshots: retained_after(current, entry.clone(), certificate, restorable_snapshots_min),
            history,
            unknown: current.map(|pointer| pointer.unknown.clone()).unwrap_or_default(),
        }
    }
}
