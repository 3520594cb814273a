//! Forking a cluster: another cluster begins with copies of its snapshots. Cluster, incarnations and snapshot ids are new;
//! each manifest says in `origin` whose state lies in the files. The source is only read.
//!
//! 1. Write `cluster.json` with a fresh fingerprint, a new incarnation for every partition and the name of the source, if
//!    absent, and an empty `control.json`. A crash leaves a cluster without snapshots; a rerun goes on under the same ids.
//! 2. For each partition without a pointer at the destination, choose the newest sound snapshot of the source's current
//!    incarnation, and bring it to a directory of its own (`place`). Its id follows from the source's and from the new
//!    fingerprint, so that a rerun that chooses the same snapshot finds what is there. A crash leaves a directory that nothing
//!    names; so does a rerun that finds a newer snapshot.
//! 3. Write `latest.json`, where there is none.
//!
//! A partition that has a pointer at the destination is never touched again: the new cluster may already live on it. No
//! certificate is copied: nothing of the new logs has been trimmed.

use super::{
    super::{
        Anomaly, Progress, PublishError, Published, Repository, Versioned,
        anomaly::AnomalyKind,
        publish::{PointerSwap, entry_for},
        read::check_owner,
    },
    CopiedPartition, CopiedSnapshot, CopyError, CopyFault, CopyOutcome, CopyReport, PassedOver, Run,
    a_few_at_once,
    place::Placement,
    selected,
};
use crate::{
    core::{PointerCandidate, PointerFloor, may_replace_pointer},
    format::{
        Certificate, ClusterRecord, Keys, Manifest, Origin, Pointer, PointerEntry, PublishedSnapshot, Stored,
        Unknown,
    },
    vocabulary::{
        ClusterIdentity, ContentHash, Fingerprint, Incarnation, Lsn, PartitionId, SnapshotId, Timestamp,
        WriteId,
    },
};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

/// What is to be forked.
#[derive(Clone, Debug, Default)]
pub struct ForkRequest {
    /// Which partitions; all of them when `None`.
    pub partitions: Option<BTreeSet<PartitionId>>,
    /// The highest LSN that a chosen snapshot may have; the newest snapshot when `None`. Partitions have LSNs of their own.
    pub at: Option<Lsn>,
    /// Name of the new cluster: needed where the destination is empty, and compared where it is not.
    pub name: Option<String>,
}

/// The snapshots of a partition that may be chosen, newest first; at least one.
struct Candidates {
    entries: Vec<PointerEntry>,
    /// How many of the newest ones retention keeps at the source.
    restorable_min: u32,
}

struct Fork<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    /// The cluster that is forked.
    from: &'a ClusterRecord,
    /// The new one.
    to: &'a ClusterRecord,
    at: Option<Lsn>,
    run: Run<'a>,
}

impl Repository {
    /// Begins another cluster at `destination` with copies of the snapshots here; see the module's header for the
    /// protocol. Can be interrupted at any time and repeated, until the new cluster's logs are created: what comes after
    /// that is no business of the source. Nothing is written here. `cancel` is honoured at every step, and leaves no open
    /// multipart upload.
    ///
    /// # Errors
    /// When nothing was forked at all; what happened to each partition is in the report.
    pub async fn fork_to(
        &self,
        destination: &Repository,
        request: &ForkRequest,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        let prepare = async {
            self.refuse_overlap(destination)?;
            let from = self.copied_cluster().await?;
            let partitions = selected(&from, request.partitions.as_ref())?;
            let to = destination
                .adopt_fork(self, &from, request.name.as_deref())
                .await?;
            Ok((from, partitions, to))
        };
        let prepared = cancel.run_until_cancelled(prepare).await;
        let (from, partitions, to) = prepared.unwrap_or(Err(CopyError::Cancelled))?;
        let job = Fork {
            source: self,
            destination,
            from: &from,
            to: &to,
            at: request.at,
            run: Run::new(progress, cancel),
        };
        let copies = partitions.into_iter().map(|partition| job.partition(partition));
        Ok(CopyReport {
            cluster: to.cluster.clone(),
            partitions: a_few_at_once(copies.collect()).await,
            seal: None,
            destination_seal: None,
        })
    }
}

/// Returns the id of the copy of `snapshot` in the cluster with `fingerprint`: as old as the snapshot, and otherwise a hash of
/// both. Drawn ids never coincide with it, and another run gets the same.
fn forked_id(fingerprint: &Fingerprint, snapshot: SnapshotId) -> SnapshotId {
    let drawn = snapshot.get();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tidemark fork");
    hasher.update(fingerprint.as_bytes());
    hasher.update(&drawn.to_bytes());
    let mut random = [0; 16];
    random.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    SnapshotId::new(Ulid::from_parts(
        drawn.timestamp_ms(),
        u128::from_be_bytes(random),
    ))
}

/// Returns the manifest of the copy of the snapshot that `source` describes.
///
/// A snapshot that was itself forked, and not made anew since, keeps its origin: that is whose state the files hold.
pub(super) fn forked_manifest(
    source: Manifest,
    to: &ClusterIdentity,
    incarnation: Incarnation,
    snapshot_id: SnapshotId,
) -> Manifest {
    let origin = Origin {
        cluster: source.cluster,
        incarnation: source.incarnation,
        snapshot_id: source.snapshot_id,
    };
    let mut files = source.files;
    for file in &mut files {
        file.copies = 0;
    }
    Manifest {
        cluster: to.clone(),
        incarnation,
        snapshot_id,
        request_id: None,
        origin: Some(source.origin.unwrap_or(origin)),
        bytes_uploaded: source.bytes_total,
        bytes_copied: 0,
        files,
        ..source
    }
}

impl Fork<'_> {
    async fn partition(&self, partition: PartitionId) -> CopiedPartition {
        let mut copied = CopiedPartition::new(partition, CopyOutcome::NoSnapshot);
        match self.copy(partition, &mut copied).await {
            Ok(outcome) => copied.outcome = outcome,
            Err(fault) => copied.outcome = CopyOutcome::Failed(fault),
        }
        copied
    }

    async fn copy(
        &self,
        partition: PartitionId,
        copied: &mut CopiedPartition,
    ) -> Result<CopyOutcome, CopyFault> {
        let there = self.run.unless_cancelled(async {
            let there = self.destination.pointer_and_certificate(partition).await;
            there.map_err(CopyFault::Destination)
        });
        match there.await? {
            (Some(pointer), _) => {
                let key = Keys::pointer(partition);
                check_owner(&key, &pointer.value.cluster, &self.to.cluster)
                    .map_err(CopyFault::Destination)?;
                return Ok(CopyOutcome::AlreadyThere);
            }
            (None, Some(_)) => {
                return Err(CopyFault::Occupied {
                    key: Keys::certificate(partition),
                });
            }
            (None, None) => {}
        }
        let incarnation = *self
            .to
            .incarnations
            .get(&partition)
            .ok_or_else(|| CopyFault::Occupied {
                key: Keys::CLUSTER.to_owned(),
            })?;
        let candidates = self.run.unless_cancelled(self.candidates(partition)).await?;
        let Some(Candidates {
            entries,
            restorable_min,
        }) = candidates
        else {
            return Ok(CopyOutcome::NoSnapshot);
        };
        for entry in entries {
            let forked = self.snapshot(partition, &entry, incarnation, restorable_min);
            match forked.await {
                Ok(snapshot) => {
                    copied.snapshots.push(snapshot);
                    return Ok(CopyOutcome::Copied);
                }
                Err(CopyFault::Damaged(anomalies)) => copied.passed_over.push(PassedOver {
                    snapshot_id: entry.snapshot_id,
                    lsn: entry.lsn,
                    anomalies,
                }),
                Err(fault) => return Err(fault),
            }
        }
        let anomalies = copied
            .passed_over
            .iter()
            .flat_map(|passed| passed.anomalies.clone());
        Err(CopyFault::Damaged(anomalies.collect()))
    }

    /// Returns the snapshots that may be chosen; `None` when there is none.
    async fn candidates(&self, partition: PartitionId) -> Result<Option<Candidates>, CopyFault> {
        let (pointer, certificate) = self
            .source
            .pointer_and_certificate(partition)
            .await
            .map_err(CopyFault::Source)?;
        let key = Keys::pointer(partition);
        let Some(pointer) = pointer.map(|found| found.value) else {
            return match certificate {
                None => Ok(None),
                Some(_) => Err(CopyFault::Damaged(vec![Anomaly::new(
                    AnomalyKind::PointerMissing,
                    key,
                    "there is a certificate",
                )])),
            };
        };
        check_owner(&key, &pointer.cluster, &self.from.cluster).map_err(CopyFault::Source)?;
        let current = pointer.latest().map(|latest| latest.incarnation);
        let wanted = |entry: &PointerEntry| {
            Some(entry.incarnation) == current && self.at.is_none_or(|at| entry.lsn <= at)
        };
        let mut entries = pointer.snapshots;
        entries.retain(wanted);
        Ok((!entries.is_empty()).then_some(Candidates {
            entries,
            restorable_min: pointer.restorable_snapshots_min,
        }))
    }

    /// Steps 2 and 3 for one snapshot.
    async fn snapshot(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        incarnation: Incarnation,
        restorable_min: u32,
    ) -> Result<CopiedSnapshot, CopyFault> {
        let sound = self.source.sound_manifest(&self.from.cluster, partition, entry);
        let (manifest, _) = self.run.unless_cancelled(sound).await?;
        let id = forked_id(&self.to.cluster.fingerprint, manifest.snapshot_id);
        let manifest = forked_manifest(manifest, &self.to.cluster, incarnation, id);
        let bytes = manifest.encode();
        let forked = entry_for(&manifest, ContentHash::of(&bytes));
        let placement = Placement {
            source: self.source,
            from: entry.path,
            destination: self.destination,
            partition,
            entry: &forked,
            manifest: &manifest,
            manifest_bytes: bytes.into(),
            published: false,
        };
        let placed = placement.place(&self.run).await?;
        if self.run.cancel.is_cancelled() {
            return Err(CopyFault::Cancelled);
        }
        let swap = ForkSwap {
            to: self.to,
            partition,
            entry: &forked,
            restorable_min,
            write_id: WriteId::new(self.destination.seams().ulid()),
            published_at: self.destination.seams().clock.now(),
        };
        let published = self.destination.swap_pointer(&swap).await?;
        Ok(CopiedSnapshot {
            source: entry.snapshot_id,
            snapshot_id: published.entry.snapshot_id,
            lsn: published.entry.lsn,
            bytes_total: published.entry.bytes_total,
            bytes_sent: placed.bytes_sent,
            bytes_read_back: placed.bytes_read_back,
        })
    }
}

/// The swap that ends the fork of a partition: from no pointer to the first one.
struct ForkSwap<'a> {
    to: &'a ClusterRecord,
    partition: PartitionId,
    entry: &'a PointerEntry,
    restorable_min: u32,
    write_id: WriteId,
    published_at: Timestamp,
}

impl PointerSwap for ForkSwap<'_> {
    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn entry(&self) -> &PointerEntry {
        self.entry
    }

    fn decide(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Result<Option<Published>, PublishError> {
        let candidate = PointerCandidate {
            cluster: &self.to.cluster,
            partition: self.partition,
            incarnation: self.entry.incarnation,
            lsn: self.entry.lsn,
            snapshot_id: self.entry.snapshot_id,
        };
        let floor = PointerFloor {
            certificate: certificate.map(|found| &found.value),
            trimmed: None,
        };
        let key = Keys::pointer(self.partition);
        if let Some(current) = current.map(|found| &found.value) {
            // Another run was faster, or the new cluster lives already: neither is written over.
            check_owner(&key, &current.cluster, &self.to.cluster)?;
            return Ok(Some(Published {
                entry: current.latest().unwrap_or(self.entry).clone(),
                pointer: current.clone(),
            }));
        }
        match may_replace_pointer(None, &candidate, &floor) {
            Ok(()) => Ok(None),
            Err(reason) => Err(PublishError::Refused { key, reason }),
        }
    }

    fn next(&self, _: Option<&Versioned<Pointer>>, _: Option<&Versioned<Certificate>>) -> Pointer {
        Pointer {
            cluster: self.to.cluster.clone(),
            partition: self.partition,
            write_id: self.write_id,
            restorable_snapshots_min: self.restorable_min,
            snapshots: vec![self.entry.clone()],
            history: vec![PublishedSnapshot {
                snapshot_id: self.entry.snapshot_id,
                incarnation: self.entry.incarnation,
                lsn: self.entry.lsn,
                published_at: self.published_at,
                unknown: Unknown::default(),
            }],
            unknown: Unknown::default(),
        }
    }
}
