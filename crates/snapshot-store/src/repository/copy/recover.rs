//! Recovering from a lost log: the newest sound snapshot of each partition begins the next generation of the same cluster,
//! in the same repository. [`plan_recovery`] decides; nothing is deleted.
//!
//! 1. Plan: read pointer and certificate, ask, and read the chosen snapshot through; a damaged one makes way for the next
//!    older, be it one that only the certificate names. Nothing is written. What is planned is shown to an operator before anything is done.
//! 2. Copy the snapshot to a directory of the next generation (`place`). Incarnation and snapshot id follow from the
//!    cluster, the partition, the generation and the chosen snapshot, so that a rerun that chooses the same one finds what
//!    is there. A crash leaves a directory that nothing names.
//! 3. Swap the pointer, if its latest snapshot still is the one that was planned with. What was retained stays retained.
//!    A crash after it leaves a partition without a log; a rerun sees that the copy awaits its log.
//! 4. The caller creates the log at the copy's LSN + 1, with the copy as its base. Its workers set aside what they have of
//!    the lost log, and restore the copy.
//!
//! Invariants:
//! - No log is created before the pointer names the snapshot it continues.
//! - Two runs at once agree, or one of them is refused: equal choices have equal ids, and of two different ones of one
//!   generation only the first swap takes effect.

use super::{
    super::{
        Anomaly, CheckLevel, Progress, PublishError, Published, Repository, Versioned,
        anomaly::AnomalyKind,
        publish::{PointerSwap, entry_for},
        read::check_owner,
    },
    CopyError, CopyFault, PassedOver, Run, a_few_at_once,
    fork::forked_manifest,
    place::Placement,
    selected,
};
use crate::{
    core::{
        PointerCandidate, PointerFloor, Recovery, RecoveryFacts, RecoveryRefusal, RecoveryStep,
        RegisteredLog, ReplaceRefusal, ReplicaClaim, may_replace_pointer, plan_recovery,
    },
    format::{Certificate, ClusterRecord, Keys, Manifest, Pointer, PointerEntry, Stored},
    repository::{
        ForkPoint,
        error::{ManifestError, StoreError},
    },
    vocabulary::{ClusterIdentity, ContentHash, Incarnation, IncarnationId, PartitionId, SnapshotId},
};
use std::collections::{BTreeMap, BTreeSet};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

/// What is to be recovered, and what others say of it.
#[derive(Clone, Debug, Default)]
pub struct RecoveryRequest {
    /// Which partitions; all of them when `None`.
    pub partitions: Option<BTreeSet<PartitionId>>,
    /// The logs that are there.
    pub logs: BTreeMap<PartitionId, RegisteredLog>,
    /// What workers say of their replicas.
    pub replicas: BTreeMap<PartitionId, Vec<ReplicaClaim>>,
}

/// Why a partition has no plan.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryFault {
    /// Something has to be corrected first.
    #[error(transparent)]
    Refused(#[from] RecoveryRefusal),
    /// The store did not answer, or what it holds cannot be understood.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// It was not wanted any more.
    #[error("it was cancelled")]
    Cancelled,
}

/// What is to be done about one partition.
#[derive(Debug)]
pub struct PlannedRecovery {
    /// The partition.
    pub partition: PartitionId,
    /// The plan, or why there is none.
    pub plan: Result<Recovery, RecoveryFault>,
    /// Damaged snapshots that were passed over, newest first.
    pub passed_over: Vec<PassedOver>,
    /// The latest snapshot when it was planned: what the swap relies on.
    pub latest: Option<SnapshotId>,
    /// How many complete snapshots lie below the partition although no pointer names any.
    pub unnamed: usize,
}

/// The plan of a recovery.
#[derive(Debug)]
pub struct RecoveryPlan {
    /// The cluster.
    pub record: ClusterRecord,
    /// Every partition that was asked for, in order.
    pub partitions: Vec<PlannedRecovery>,
}

impl Repository {
    /// Plans the recovery of partitions whose logs are lost: step 1 of the module's header. Writes nothing.
    ///
    /// # Errors
    /// When nothing could be planned at all; what stands against one partition is in the plan.
    pub async fn plan_recovery(
        &self,
        request: &RecoveryRequest,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<RecoveryPlan, CopyError> {
        let run = Run::new(progress, cancel);
        let prepare = async {
            let record = self.copied_cluster().await?;
            let control = self.control().await.map_err(CopyError::Source)?;
            let pauses = control.iter().flat_map(|control| &control.value.pauses);
            if let Some((seal, to)) = pauses
                .filter_map(|pause| Some((pause, pause.moved_to.as_ref()?)))
                .next()
            {
                return Err(CopyError::MovedElsewhere {
                    to: to.clone(),
                    by: seal.by.clone(),
                });
            }
            let partitions = selected(&record, request.partitions.as_ref())?;
            Ok((record, partitions))
        };
        let prepared = cancel.run_until_cancelled(prepare).await;
        let (record, partitions) = prepared.unwrap_or(Err(CopyError::Cancelled))?;
        let plans = partitions
            .into_iter()
            .map(|partition| self.plan_partition(&record, partition, request, &run));
        let partitions = a_few_at_once(plans.collect()).await;
        Ok(RecoveryPlan { record, partitions })
    }

    async fn plan_partition(
        &self,
        record: &ClusterRecord,
        partition: PartitionId,
        request: &RecoveryRequest,
        run: &Run<'_>,
    ) -> PlannedRecovery {
        let mut planned = PlannedRecovery {
            partition,
            plan: Err(RecoveryFault::Cancelled),
            passed_over: Vec::new(),
            latest: None,
            unnamed: 0,
        };
        let plan = self.plan_into(record, request, run, &mut planned);
        if let Some(plan) = run.cancel.run_until_cancelled(plan).await {
            planned.plan = plan;
        }
        planned
            .passed_over
            .sort_by_key(|found| std::cmp::Reverse(found.lsn));
        planned
    }

    async fn plan_into(
        &self,
        record: &ClusterRecord,
        request: &RecoveryRequest,
        run: &Run<'_>,
        planned: &mut PlannedRecovery,
    ) -> Result<Recovery, RecoveryFault> {
        let partition = planned.partition;
        let (pointer, certificate) = self.pointer_and_certificate(partition).await?;
        let (pointer, certificate) = (
            pointer.map(|found| found.value),
            certificate.map(|found| found.value),
        );
        let latest = pointer.as_ref().and_then(Pointer::latest);
        planned.latest = latest.map(|latest| latest.snapshot_id);
        let log = request.logs.get(&partition);
        let mut damaged = BTreeSet::new();
        let mut latest_origin = None;
        if let (None, Some(latest)) = (log, latest) {
            let (manifest, anomalies) = self.present_manifest(partition, latest).await?;
            latest_origin = manifest.and_then(|manifest| manifest.origin);
            if !anomalies.is_empty() {
                damaged.insert(latest.snapshot_id);
                planned.passed_over.push(passed_over(latest, anomalies));
            }
        }
        let certified = match (log, &pointer, &certificate) {
            (None, Some(pointer), Some(certificate)) => {
                self.unretained(pointer, certificate, planned).await?
            }
            _ => Vec::new(),
        };
        loop {
            let recovery = plan_recovery(&RecoveryFacts {
                cluster: &record.cluster,
                partition,
                first: record.incarnations.get(&partition).copied(),
                pointer: pointer.as_ref(),
                certificate: certificate.as_ref(),
                certified: &certified,
                latest_origin: latest_origin.as_ref(),
                damaged: &damaged,
                log,
                replicas: request.replicas.get(&partition).map_or(&[], Vec::as_slice),
            })?;
            match &recovery.step {
                RecoveryStep::Fork { from, .. } => {
                    run.expect(from.bytes_total);
                    let check = self
                        .check_snapshot(
                            &record.cluster,
                            partition,
                            from,
                            CheckLevel::Content,
                            &Advances(run.progress),
                        )
                        .await?;
                    if check.anomalies.is_empty() {
                        return Ok(recovery);
                    }
                    damaged.insert(from.snapshot_id);
                    planned.passed_over.push(passed_over(from, check.anomalies));
                }
                RecoveryStep::BeginEmpty { .. } => {
                    let inventory = self.inventory(partition).await?;
                    let contents = inventory.directories.values();
                    planned.unnamed = contents.filter(|contents| contents.manifest.is_some()).count();
                    return Ok(recovery);
                }
                RecoveryStep::Keep { .. } | RecoveryStep::Provision { .. } => return Ok(recovery),
            }
        }
    }

    /// Returns what `certificate` names and `pointer` does not: one GET each. Those whose manifests cannot be had are passed
    /// over.
    async fn unretained(
        &self,
        pointer: &Pointer,
        certificate: &Certificate,
        planned: &mut PlannedRecovery,
    ) -> Result<Vec<PointerEntry>, StoreError> {
        let mut entries = Vec::new();
        for snapshot in certificate.unretained(Some(pointer)) {
            match self.certified_entry(certificate, snapshot).await {
                Ok(entry) => entries.push(entry),
                Err(ManifestError::Store(error)) => return Err(error),
                Err(ManifestError::Damaged(anomaly)) => planned.passed_over.push(PassedOver {
                    snapshot_id: snapshot.snapshot_id,
                    lsn: snapshot.lsn,
                    anomalies: vec![anomaly],
                }),
            }
        }
        Ok(entries)
    }

    /// Does what was planned about a partition, steps 2 and 3 of the module's header, and returns where its log begins: at
    /// LSN 1 where nothing was archived, and nowhere (`None`) when it is there. Can be interrupted and repeated; the next
    /// run plans anew.
    ///
    /// # Errors
    /// When the pointer does not name the copy; what was sent stays, and the next run goes on with it.
    pub async fn recover(
        &self,
        record: &ClusterRecord,
        planned: &PlannedRecovery,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Option<RecoveredLog>, CopyFault> {
        let partition = planned.partition;
        let (entry, manifest) = match planned.plan.as_ref().map(|plan| &plan.step) {
            Err(_) | Ok(RecoveryStep::Keep { .. }) => return Ok(None),
            Ok(RecoveryStep::BeginEmpty { generation }) => {
                return Ok(Some(RecoveredLog::Empty(Incarnation {
                    generation: *generation,
                    id: IncarnationId::from_bytes(self.seams().entropy.bytes_16()),
                })));
            }
            Ok(RecoveryStep::Provision { entry }) => {
                let sound = self.sound_manifest(&record.cluster, partition, entry);
                let (manifest, _) = sound.await?;
                ((**entry).clone(), manifest)
            }
            Ok(RecoveryStep::Fork { from, generation }) => {
                self.ensure_capable().await.map_err(CopyFault::Destination)?;
                let run = Run::new(progress, cancel);
                self.fork_in_place(&record.cluster, planned, from, *generation, &run)
                    .await?
            }
        };
        let point = ForkPoint {
            partition,
            incarnation: entry.incarnation,
            snapshot_id: entry.snapshot_id,
            lsn: entry.lsn,
            chain_hash: manifest.chain_hash(),
            log_bytes: manifest.log_bytes,
            origin: manifest.origin.ok_or_else(|| {
                let key = Keys::manifest(partition, &entry.path);
                let detail = "it does not say any more whose state it holds";
                CopyFault::Damaged(vec![Anomaly::new(AnomalyKind::WrongSnapshot, key, detail)])
            })?,
        };
        Ok(Some(RecoveredLog::After(Box::new(point))))
    }

    /// Steps 2 and 3.
    async fn fork_in_place(
        &self,
        cluster: &ClusterIdentity,
        planned: &PlannedRecovery,
        from: &PointerEntry,
        generation: u64,
        run: &Run<'_>,
    ) -> Result<(PointerEntry, Manifest), CopyFault> {
        let partition = planned.partition;
        let sound = self.sound_manifest(cluster, partition, from);
        let (manifest, _) = run.unless_cancelled(sound).await?;
        let ids = RecoveredIds::of(cluster, partition, generation, from.snapshot_id);
        let manifest = forked_manifest(manifest, cluster, ids.incarnation, ids.snapshot_id);
        let bytes = manifest.encode();
        let entry = entry_for(&manifest, ContentHash::of(&bytes));
        let placement = Placement {
            source: self,
            from: from.path,
            destination: self,
            partition,
            entry: &entry,
            manifest: &manifest,
            manifest_bytes: bytes.into(),
            published: false,
        };
        placement.place(run).await?;
        if run.cancel.is_cancelled() {
            return Err(CopyFault::Cancelled);
        }
        let swap = RecoverySwap {
            repository: self,
            cluster,
            partition,
            entry: &entry,
            planned_with: planned.latest,
        };
        self.swap_pointer(&swap).await?;
        Ok((entry, manifest))
    }
}

/// Where the log of a recovered partition begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveredLog {
    /// Right after a snapshot that is published.
    After(Box<ForkPoint>),
    /// At LSN 1, under this incarnation: nothing was ever archived.
    Empty(Incarnation),
}

/// The ids of a recovered partition. Drawn ids never coincide with them, and another run gets the same.
struct RecoveredIds {
    incarnation: Incarnation,
    snapshot_id: SnapshotId,
}

impl RecoveredIds {
    fn of(cluster: &ClusterIdentity, partition: PartitionId, generation: u64, source: SnapshotId) -> Self {
        let hash = |what: &[u8]| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"tidemark recovery ");
            hasher.update(what);
            hasher.update(cluster.fingerprint.as_bytes());
            hasher.update(&partition.get().to_be_bytes());
            hasher.update(&generation.to_be_bytes());
            hasher.update(&source.get().to_bytes());
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            bytes
        };
        let random = u128::from_be_bytes(hash(b"snapshot"));
        RecoveredIds {
            incarnation: Incarnation {
                generation,
                id: IncarnationId::from_bytes(hash(b"incarnation")),
            },
            snapshot_id: SnapshotId::new(Ulid::from_parts(source.get().timestamp_ms(), random)),
        }
    }
}

fn passed_over(entry: &PointerEntry, anomalies: Vec<Anomaly>) -> PassedOver {
    PassedOver {
        snapshot_id: entry.snapshot_id,
        lsn: entry.lsn,
        anomalies,
    }
}

/// Passes on what has been read; the total grows as partitions are looked at, and is told elsewhere.
struct Advances<'a>(&'a dyn Progress);

impl Progress for Advances<'_> {
    fn advanced(&self, bytes: u64) {
        self.0.advanced(bytes);
    }
}

/// The swap to the first snapshot of the next generation.
struct RecoverySwap<'a> {
    repository: &'a Repository,
    cluster: &'a ClusterIdentity,
    partition: PartitionId,
    entry: &'a PointerEntry,
    /// The latest snapshot that the operator was shown.
    planned_with: Option<SnapshotId>,
}

impl PointerSwap for RecoverySwap<'_> {
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
        let key = Keys::pointer(self.partition);
        let current = current.map(|found| &found.value);
        if let Some(current) = current {
            check_owner(&key, &current.cluster, self.cluster)?;
        }
        let candidate = PointerCandidate {
            cluster: self.cluster,
            partition: self.partition,
            incarnation: self.entry.incarnation,
            lsn: self.entry.lsn,
            snapshot_id: self.entry.snapshot_id,
        };
        let floor = PointerFloor {
            certificate: certificate.map(|found| &found.value),
            trimmed: None,
        };
        match (may_replace_pointer(current, &candidate, &floor), current) {
            (Err(ReplaceRefusal::AlreadyPublished), Some(current)) => Ok(Some(Published {
                entry: self.entry.clone(),
                pointer: current.clone(),
            })),
            (Err(reason), _) => Err(PublishError::Refused { key, reason }),
            // Somebody published meanwhile: less may be lost than the operator was told.
            (Ok(()), Some(current)) => match current.latest() {
                Some(latest) if Some(latest.snapshot_id) != self.planned_with => {
                    Err(PublishError::Superseded {
                        partition: self.partition,
                        ours: self.entry.lsn,
                        current: Box::new(latest.clone()),
                    })
                }
                _ => Ok(None),
            },
            // It was there when it was planned.
            (Ok(()), None) => Err(StoreError::Missing { key }.into()),
        }
    }

    fn next(
        &self,
        current: Option<&Versioned<Pointer>>,
        certificate: Option<&Versioned<Certificate>>,
    ) -> Pointer {
        let current = current.map(|found| &found.value);
        self.repository.pointer_after(
            (self.cluster, self.partition),
            self.entry,
            current,
            certificate.map(|found| &found.value),
            current.map_or(1, |current| current.restorable_snapshots_min),
        )
    }
}
