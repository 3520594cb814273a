//! Moving a cluster's snapshots to another repository. Cluster, incarnations and snapshot ids stay what they are, so that
//! keys and manifests are the same bytes at both ends.
//!
//! 1. Refuse what is not another place for this very cluster. Nothing was written yet.
//! 2. Seal the source (`seal`). A crash leaves a paused cluster; a rerun goes on, `tidemark resume` takes it back.
//! 3. Write `cluster.json`, if absent, and `control.json` with the other pauses and holds. A crash leaves a repository
//!    without snapshots.
//! 4. For each partition, read certificate and pointer at the source, and bring every retained snapshot to its place
//!    (`place`), oldest first. A crash leaves directories that nothing names.
//! 5. Write `trim.json`, only if it grows. A crash leaves a partition that says `pointer-missing` to whoever comes too early.
//! 6. Replace `latest.json`, if `may_replace_pointer` allows it, with the same retained snapshots and the same history.
//! 7. Read certificate and pointer at the source again. Where they changed (an upload was under way when the seal was set),
//!    go back to step 4, a bounded number of times.
//!
//! A trim that was certified after step 7 rests on snapshots that were retained then, and those are at the destination.
//! A destination that is ahead of the source, because the cluster lives there already, is left alone.

use super::{
    super::{
        Anomaly, CertificateError, Progress, PublishError, Published, Repository, Versioned,
        anomaly::AnomalyKind, publish::PointerSwap, read::check_owner,
    },
    CopiedPartition, CopiedSnapshot, CopyError, CopyFault, CopyOutcome, CopyReport, Run, a_few_at_once,
    place::Placement,
    selected,
};
use crate::{
    core::{PointerCandidate, PointerFloor, ReplaceRefusal, may_replace_pointer, retained_after_move},
    format::{Certificate, Control, Keys, Pointer, PointerEntry},
    vocabulary::{ClusterIdentity, Lineage, PartitionId, WriteId},
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// How often a source that changes is copied. A sealed one changes at most by the uploads that were under way.
const ROUNDS_MAX: usize = 5;

/// What is to be moved.
#[derive(Clone, Debug, Default)]
pub struct MoveRequest {
    /// Which partitions; all of them when `None`. The seal is of the whole cluster either way.
    pub partitions: Option<BTreeSet<PartitionId>>,
    /// Who orders it, for the seal.
    pub by: String,
}

/// Certificate and pointer of a partition as they were read, by their writes.
type Seen = (Option<WriteId>, Option<WriteId>);

/// Returns which writes were read.
fn seen(pointer: Option<&Versioned<Pointer>>, certificate: Option<&Versioned<Certificate>>) -> Seen {
    (
        pointer.map(|found| found.value.write_id),
        certificate.map(|found| found.value.write_id),
    )
}

struct Move<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    cluster: &'a ClusterIdentity,
    /// The source's control state, which the destination's takes over once before anything else is written there.
    control: Control,
    carried: OnceCell<()>,
    run: Run<'a>,
}

impl Repository {
    /// Moves the snapshots of the cluster here to `destination`, and seals this repository; see the module's header for
    /// the protocol. Can be interrupted at any time and repeated: a rerun goes on with what it finds, and a finished move is
    /// left as it is. Nothing is deleted here. `cancel` is honoured at every step, and leaves no open multipart upload.
    ///
    /// Progress counts the bytes of all snapshots that are looked after, whether they are sent or were there already.
    ///
    /// # Errors
    /// When nothing was moved at all; what happened to each partition is in the report.
    pub async fn move_to(
        &self,
        destination: &Repository,
        request: &MoveRequest,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        let prepare = async {
            self.refuse_overlap(destination)?;
            let record = self.copied_cluster().await?;
            let partitions = selected(&record, request.partitions.as_ref())?;
            let control = self.control().await.map_err(CopyError::Source)?;
            let control = control.map(|control| control.value);
            destination
                .refuse_other_cluster(&record, control.as_ref())
                .await?;
            let control = self.seal(&record.cluster, destination.url(), &request.by).await?;
            destination.adopt(&record, &control).await?;
            Ok((record, partitions, control))
        };
        let prepared = cancel.run_until_cancelled(prepare).await;
        let (record, partitions, control) = prepared.unwrap_or(Err(CopyError::Cancelled))?;
        let job = Move {
            source: self,
            destination,
            cluster: &record.cluster,
            control,
            carried: OnceCell::new(),
            run: Run::new(progress, cancel),
        };
        let partitions = job.until_stable(partitions).await;
        let there = destination.control().await.ok().flatten();
        Ok(CopyReport {
            cluster: record.cluster.clone(),
            partitions,
            seal: job.control.seal().cloned(),
            destination_seal: there.and_then(|control| control.value.seal().cloned()),
        })
    }
}

impl Move<'_> {
    /// Steps 4 to 7.
    async fn until_stable(&self, partitions: Vec<PartitionId>) -> Vec<CopiedPartition> {
        let mut done: BTreeMap<PartitionId, CopiedPartition> = BTreeMap::new();
        let mut left = partitions;
        for _ in 0..ROUNDS_MAX {
            let round = left.iter().map(|partition| self.partition(*partition)).collect();
            let mut copied = Vec::new();
            for (seen, one) in a_few_at_once(round).await {
                let partition = one.partition;
                let settled = matches!(one.outcome, CopyOutcome::Failed(_)) && seen.is_none();
                let earlier = done.remove(&partition);
                done.insert(partition, one.after(earlier));
                if !settled {
                    copied.push((partition, seen));
                }
            }
            let again = copied
                .into_iter()
                .map(|(partition, seen)| self.changed(partition, seen));
            left.clear();
            for (partition, changed) in a_few_at_once(again.collect()).await {
                match changed {
                    Ok(true) => left.push(partition),
                    Ok(false) => {}
                    Err(fault) => fail(&mut done, partition, fault),
                }
            }
            if left.is_empty() {
                break;
            }
        }
        for partition in left {
            fail(&mut done, partition, CopyFault::Unstable { rounds: ROUNDS_MAX });
        }
        done.into_values().collect()
    }

    /// Step 7.
    async fn changed(
        &self,
        partition: PartitionId,
        before: Option<Seen>,
    ) -> (PartitionId, Result<bool, CopyFault>) {
        let read = self.run.unless_cancelled(async {
            let read = self.source.pointer_and_certificate(partition).await;
            let (pointer, certificate) = read.map_err(CopyFault::Source)?;
            Ok(seen(pointer.as_ref(), certificate.as_ref()))
        });
        (partition, read.await.map(|now| Some(now) != before))
    }

    /// Steps 4 to 6 of one partition. Returns what was read of the source: nothing when that cannot be relied on, in
    /// which case another round makes no difference.
    async fn partition(&self, partition: PartitionId) -> (Option<Seen>, CopiedPartition) {
        let mut copied = CopiedPartition::new(partition, CopyOutcome::NoSnapshot);
        let mut read = None;
        match self.copy(partition, &mut copied, &mut read).await {
            Ok(outcome) => copied.outcome = outcome,
            Err(fault) => {
                // What is missing may have left the pointer since that was read: then the next round knows.
                if !matches!(fault, CopyFault::Damaged(_)) {
                    read = None;
                }
                copied.outcome = CopyOutcome::Failed(fault);
            }
        }
        (read, copied)
    }

    async fn copy(
        &self,
        partition: PartitionId,
        copied: &mut CopiedPartition,
        read: &mut Option<Seen>,
    ) -> Result<CopyOutcome, CopyFault> {
        let both = self.run.unless_cancelled(async {
            let source = self.source.pointer_and_certificate(partition).await;
            let there = self.destination.pointer_and_certificate(partition).await;
            Ok((
                source.map_err(CopyFault::Source)?,
                there.map_err(CopyFault::Destination)?,
            ))
        });
        let ((pointer, certificate), (pointer_there, certificate_there)) = both.await?;
        *read = Some(seen(pointer.as_ref(), certificate.as_ref()));
        let certificate = certificate.map(|found| found.value);
        let pointer = pointer.map(|found| found.value);
        self.check_own(partition, pointer.as_ref(), certificate.as_ref())?;
        let Some(pointer) = pointer else {
            return match certificate {
                None => Ok(CopyOutcome::NoSnapshot),
                Some(_) => Err(CopyFault::Damaged(vec![Anomaly::new(
                    AnomalyKind::PointerMissing,
                    Keys::pointer(partition),
                    "there is a certificate",
                )])),
            };
        };
        let Some(latest) = pointer.latest() else {
            return Ok(CopyOutcome::NoSnapshot);
        };
        let swap = MoveSwap {
            destination: self.destination,
            cluster: self.cluster,
            partition,
            moved: &pointer,
            latest,
        };
        let replaces = swap
            .decide(pointer_there.as_ref(), certificate_there.as_ref())?
            .is_none();
        let retained_there = pointer_there.iter().flat_map(|found| &found.value.snapshots);
        let retained_there: BTreeSet<_> = retained_there.map(|entry| entry.snapshot_id).collect();
        let is_latest_there = pointer_there
            .as_ref()
            .and_then(|found| found.value.latest())
            .is_some_and(|there| there.snapshot_id == latest.snapshot_id);
        if !replaces && !is_latest_there {
            // The cluster has gone on there: what was retained here when it left is none of its business.
            return Ok(CopyOutcome::AlreadyThere);
        }
        let mut wrote = false;
        for entry in pointer.snapshots.iter().rev() {
            let published = retained_there.contains(&entry.snapshot_id);
            wrote |= self.snapshot(partition, entry, published, copied).await?;
        }
        if let Some(certificate) = &certificate {
            wrote |= self
                .certificate(certificate, certificate_there.as_ref().map(|found| &found.value))
                .await?;
        }
        if replaces {
            if self.run.cancel.is_cancelled() {
                return Err(CopyFault::Cancelled);
            }
            self.carry().await?;
            self.destination.swap_pointer(&swap).await?;
            wrote = true;
        }
        Ok(match wrote {
            true => CopyOutcome::Copied,
            false => CopyOutcome::AlreadyThere,
        })
    }

    /// Checks that the source's documents are this cluster's, and this partition's.
    fn check_own(
        &self,
        partition: PartitionId,
        pointer: Option<&Pointer>,
        certificate: Option<&Certificate>,
    ) -> Result<(), CopyFault> {
        let pointer = pointer.map(|found| (Keys::pointer(partition), &found.cluster, found.partition));
        let certificate =
            certificate.map(|found| (Keys::certificate(partition), &found.cluster, found.partition));
        for (key, cluster, found) in pointer.into_iter().chain(certificate) {
            check_owner(&key, cluster, self.cluster).map_err(CopyFault::Source)?;
            if found != partition {
                let detail = format!("it is of partition {found}, not of {partition}");
                let anomaly = Anomaly::new(AnomalyKind::WrongSnapshot, key, detail);
                return Err(CopyFault::Damaged(vec![anomaly]));
            }
        }
        Ok(())
    }

    async fn carry(&self) -> Result<(), CopyFault> {
        let carried = self
            .carried
            .get_or_try_init(|| self.destination.carry_control(&self.control));
        carried.await.map(drop)
    }

    /// Brings one retained snapshot to its place; returns whether anything was written.
    async fn snapshot(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        published: bool,
        copied: &mut CopiedPartition,
    ) -> Result<bool, CopyFault> {
        let mut note = |bytes_sent, bytes_read_back| {
            copied.snapshots.push(CopiedSnapshot {
                source: entry.snapshot_id,
                snapshot_id: entry.snapshot_id,
                lsn: entry.lsn,
                bytes_total: entry.bytes_total,
                bytes_sent,
                bytes_read_back,
            });
        };
        // What the destination names and has needs nothing of the source, whatever became of it there.
        if published {
            let look = self.run.unless_cancelled(async {
                let anomalies = self.destination.check_presence(partition, entry).await;
                anomalies.map_err(CopyFault::Destination)
            });
            if look.await?.is_empty() {
                self.run.expect(entry.bytes_total);
                self.run.progress.advanced(entry.bytes_total);
                note(0, 0);
                return Ok(false);
            }
        }
        let sound = self.source.sound_manifest(self.cluster, partition, entry);
        let (manifest, manifest_bytes) = self.run.unless_cancelled(sound).await?;
        self.carry().await?;
        let placement = Placement {
            source: self.source,
            from: entry.path,
            destination: self.destination,
            partition,
            entry,
            manifest: &manifest,
            manifest_bytes,
            published,
        };
        let placed = placement.place(&self.run).await?;
        note(placed.bytes_sent, placed.bytes_read_back);
        Ok(true)
    }

    /// Step 5: returns whether the certificate was written.
    async fn certificate(
        &self,
        certificate: &Certificate,
        there: Option<&Certificate>,
    ) -> Result<bool, CopyFault> {
        let covered =
            there.is_some_and(
                |there| match there.incarnation.compared_to(&certificate.incarnation) {
                    Lineage::Same => there.up_to >= certificate.up_to,
                    Lineage::Older | Lineage::Newer | Lineage::Conflict => false,
                },
            );
        if covered {
            return Ok(false);
        }
        if self.run.cancel.is_cancelled() {
            return Err(CopyFault::Cancelled);
        }
        self.carry().await?;
        let copy = Certificate {
            write_id: WriteId::new(self.destination.seams().ulid()),
            ..certificate.clone()
        };
        match self.destination.put_certificate(copy).await {
            Ok(_) => Ok(true),
            Err(CertificateError::LostRace { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn fail(done: &mut BTreeMap<PartitionId, CopiedPartition>, partition: PartitionId, fault: CopyFault) {
    if let Some(one) = done.get_mut(&partition) {
        one.outcome = CopyOutcome::Failed(fault);
    }
}

/// The swap that ends the move of a partition.
struct MoveSwap<'a> {
    destination: &'a Repository,
    cluster: &'a ClusterIdentity,
    partition: PartitionId,
    moved: &'a Pointer,
    latest: &'a PointerEntry,
}

impl PointerSwap for MoveSwap<'_> {
    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn entry(&self) -> &PointerEntry {
        self.latest
    }

    fn decide(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Result<Option<Published>, PublishError> {
        let candidate = PointerCandidate {
            cluster: self.cluster,
            partition: self.partition,
            incarnation: self.latest.incarnation,
            lsn: self.latest.lsn,
            snapshot_id: self.latest.snapshot_id,
        };
        let floor = PointerFloor {
            certificate: certificate.map(|found| &found.value),
            trimmed: None,
        };
        let pointer = current.map(|found| &found.value);
        match (may_replace_pointer(pointer, &candidate, &floor), pointer) {
            (Ok(()), _) => Ok(None),
            (Err(ReplaceRefusal::AlreadyPublished | ReplaceRefusal::Superseded { .. }), Some(pointer)) => {
                Ok(Some(Published {
                    entry: pointer.latest().unwrap_or(self.latest).clone(),
                    pointer: pointer.clone(),
                }))
            }
            (Err(reason), _) => Err(PublishError::Refused {
                key: Keys::pointer(self.partition),
                reason,
            }),
        }
    }

    fn next(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Pointer {
        let current = current.map(|found| &found.value);
        let certificate = certificate.map(|found| &found.value);
        Pointer {
            write_id: WriteId::new(self.destination.seams().ulid()),
            snapshots: retained_after_move(self.moved, current, certificate),
            ..self.moved.clone()
        }
    }
}
