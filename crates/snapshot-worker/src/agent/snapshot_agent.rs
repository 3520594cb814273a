//! The agent of one node: what it knows of all its partitions, and the way to everything it does for them.

use super::{
    archived::{ArchivedFolder, ArchivedRecord},
    export,
    export_job::{CreateSnapshot, ExportEvent},
    host::PartitionHost,
    identity::LocalIdentity,
    policy::WorkerPolicy,
    queue::ExportCounts,
    repair::{self, Covering},
    restore,
    restore_job::{RestoreError, RestoreOutcome, RestoreRequest},
    service::AgentService,
    slot::Slot,
    staging::Staging,
    verify::{self, VerifyError, VerifyReport},
};
use crate::{
    Blocking,
    core::{ArchivedSnapshot, ReplicaStatus},
};
use futures::stream::BoxStream;
use snapshot_proto::v1::worker_service_server::WorkerServiceServer;
use snapshot_store::{
    ClusterIdentity, Incarnation, NodeId, PartitionId, Repository, RequestId, Seams, SnapshotId,
    format::VerifyLevel,
};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long [`SnapshotAgent::shutdown`] waits for cancelled exports. An export that takes longer is left to the
/// sweep of the next start.
pub const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Verifications that run at once; they read whole snapshots, so they are kept from crowding out restores.
const VERIFICATIONS_MAX: usize = 2;

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node.
    pub node: NodeId,
    /// Where clients reach it.
    pub address: String,
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// Its folder; `staging` and `archived` below it are the agent's.
    pub data_dir: PathBuf,
    /// Snapshots of different partitions that it makes at once, at least 1.
    pub exports_max: usize,
    /// Snapshots that wait for their turn at most; a request beyond that is declined as busy.
    pub exports_queue_max: usize,
    /// Restores that it runs at once, at least 1.
    pub restores_max: usize,
    /// Bytes that staging leaves free on the file system of `data_dir`.
    pub disk_reserve_bytes: u64,
    /// Where blocking work runs.
    pub blocking: Blocking,
}

impl AgentConfig {
    /// Returns the configuration of the node that `identity` describes, reached at `address`, with the default limits:
    /// two snapshots at once and eight that wait, two restores at once, and 1 GiB left free.
    pub fn new(identity: &LocalIdentity, address: String, data_dir: PathBuf) -> Self {
        AgentConfig {
            node: identity.node.clone(),
            address,
            cluster: identity.cluster.clone(),
            data_dir,
            exports_max: 2,
            exports_queue_max: 8,
            restores_max: 2,
            disk_reserve_bytes: 1 << 30,
            blocking: Blocking::Threads,
        }
    }
}

/// An agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder cannot be used.
    #[error("{}: staging cannot be prepared in the data folder", folder.display())]
    Io {
        /// The data folder.
        folder: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// Makes, publishes, restores and verifies snapshots for the partitions of one node. Clones share one agent.
///
/// It has no background activity of its own: the object store is asked only when a snapshot is requested, restored
/// or verified, never at start. Who wants snapshots also while no admin is there runs [`SnapshotAgent::run_autonomously`].
#[derive(Clone)]
pub struct SnapshotAgent {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: AgentConfig,
    pub(super) repository: Repository,
    pub(super) seams: Seams,
    pub(super) staging: Staging,
    archived: ArchivedFolder,
    slots: Mutex<BTreeMap<PartitionId, Slot>>,
    /// Number of the next export: they have their turns in the order of their numbers.
    pub(super) export_numbers: AtomicU64,
    pub(super) restores: Semaphore,
    pub(super) verifications: Semaphore,
    /// Cancelled when the node stops; parent of every export's own token.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Drawn at start: tells this life of the node from the one before.
    pub(super) node_generation: String,
    pub(super) policy: watch::Sender<Option<WorkerPolicy>>,
    versioned: Mutex<VersionedStatus>,
}

/// The status as it was last told, and its number.
struct VersionedStatus {
    version: u64,
    partitions: Vec<ReplicaStatus>,
}

impl SnapshotAgent {
    /// Prepares the agent: empties the staging area of what a crash left, but for downloads, which restores continue, and
    /// reads what is known of published snapshots. Makes no request to the store.
    ///
    /// # Errors
    /// When the data folder cannot be used.
    pub fn new(config: AgentConfig, repository: Repository, seams: Seams) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Io {
            folder: config.data_dir.clone(),
            source,
        };
        let staging =
            Staging::open(&config.data_dir, config.disk_reserve_bytes, config.blocking).map_err(failed)?;
        let archived = ArchivedFolder::new(&config.data_dir, config.blocking);
        let slots = archived
            .load()
            .map_err(failed)?
            .into_iter()
            .map(|(partition, record)| {
                (
                    partition,
                    Slot {
                        archived: Some(record),
                        ..Slot::default()
                    },
                )
            })
            .collect();
        // A random start keeps a caller that remembers the version of a previous life from believing that nothing
        // has changed since; the top bits stay clear so that it can grow.
        let version = 1 + (seams.entropy.next_u64() >> 16);
        Ok(SnapshotAgent {
            shared: Arc::new(Shared {
                export_numbers: AtomicU64::new(0),
                restores: Semaphore::new(config.restores_max.max(1)),
                verifications: Semaphore::new(VERIFICATIONS_MAX),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                node_generation: seams.ulid().to_string(),
                policy: watch::Sender::new(None),
                versioned: Mutex::new(VersionedStatus {
                    version,
                    partitions: Vec::new(),
                }),
                slots: Mutex::new(slots),
                config,
                repository,
                seams,
                staging,
                archived,
            }),
        })
    }

    /// Begins to serve `partition`, whose state `host` owns. A host attached before is replaced.
    pub fn attach(&self, partition: PartitionId, host: Arc<dyn PartitionHost>) {
        self.shared.with_slot(partition, |slot| slot.host = Some(host));
    }

    /// Stops serving `partition`, and cancels its export. What is known of its snapshots stays.
    pub fn detach(&self, partition: PartitionId) {
        if let Some(slot) = self.shared.lock().get_mut(&partition) {
            slot.host = None;
            if let Some(job) = &slot.export {
                job.cancel.cancel();
            }
        }
    }

    /// Makes and publishes a snapshot, as a task of its own: dropping the events does not stop it. Repeating a
    /// request under the same id joins the export that is running, or repeats its answer when it published.
    ///
    /// When as many are made as may be, the request waits for its turn; exports are made in the order in which they were
    /// asked for.
    ///
    /// The events are `Queued` while it waits, `Accepted`, then `Progress`, and at last one of `Published`, `Declined` and
    /// `Failed`; a decline may come without the others. Must be called within a Tokio runtime.
    pub fn create_snapshot(&self, request: CreateSnapshot) -> BoxStream<'static, ExportEvent> {
        export::begin(&self.shared, request)
    }

    /// Cancels the export of `partition` if it answers `request_id`; says whether it did. One that waits for its turn ends
    /// at once; else it takes effect between two steps of the export and during the upload, never in the middle of a pointer swap.
    pub fn cancel(&self, partition: PartitionId, request_id: RequestId) -> bool {
        match self
            .shared
            .lock()
            .get(&partition)
            .and_then(|slot| slot.export.as_ref())
        {
            Some(job) if job.request_id == request_id => {
                job.cancel.cancel();
                true
            }
            _ => false,
        }
    }

    /// Brings the newest published snapshot that covers the gap into the partition's host.
    ///
    /// # Errors
    /// When the store or the local disk prevents it; finding nothing to restore is an answer, not an error.
    pub async fn restore(
        &self,
        partition: PartitionId,
        request: RestoreRequest,
    ) -> Result<RestoreOutcome, RestoreError> {
        restore::restore(&self.shared, partition, request).await
    }

    /// Removes what an interrupted restore of `partition` left: its state turned out to be in order without it. The host
    /// calls this once that is clear; an export does by itself. Must be called within a Tokio runtime.
    pub fn discard_downloads(&self, partition: PartitionId) {
        self.shared.discard_downloads(partition);
    }

    /// Removes what interrupted restores left of partitions that are not hosted here: those whose hosts are not attached
    /// now. Must be called within a Tokio runtime.
    pub fn discard_downloads_of_others(&self) {
        match self.shared.staging.partitions_with_downloads() {
            Ok(partitions) => partitions
                .into_iter()
                .filter(|partition| self.shared.host(*partition).is_none())
                .for_each(|partition| self.shared.discard_downloads(partition)),
            Err(error) => tracing::warn!(%error, "what interrupted restores left was not looked for"),
        }
    }

    /// Returns the snapshot that [`SnapshotAgent::restore`] would try first, without reading its content.
    ///
    /// # Errors
    /// When the store does not answer or is not the cluster's; finding nothing is an answer, not an error.
    pub async fn covering(
        &self,
        partition: PartitionId,
        request: &RestoreRequest,
    ) -> Result<Covering, RestoreError> {
        repair::covering(&self.shared, partition, request).await
    }

    /// Checks a published snapshot of a partition hosted here.
    ///
    /// # Errors
    /// When the check could not be made. Damage is a result, not an error.
    pub async fn verify(
        &self,
        partition: PartitionId,
        snapshot_id: SnapshotId,
        level: VerifyLevel,
    ) -> Result<VerifyReport, VerifyError> {
        verify::verify(&self.shared, partition, snapshot_id, level).await
    }

    /// Returns the status of all partitions hosted here, in order of their numbers.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.shared.status()
    }

    /// Returns the status of one partition; `None` when it is not hosted here.
    pub fn replica(&self, partition: PartitionId) -> Option<ReplicaStatus> {
        let host = self.shared.host(partition)?;
        let status = host.status();
        self.shared
            .lock()
            .get(&partition)
            .map(|slot| slot.complete(status))
    }

    /// Remembers a published snapshot the host learnt of, over restarts; older news is ignored.
    pub async fn note_archived(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        archived: ArchivedSnapshot,
    ) {
        self.shared.note_archived(partition, incarnation, archived).await;
    }

    /// Returns the admin's policy as it came with the last poll; `None` before the first one.
    pub fn policy(&self) -> watch::Receiver<Option<WorkerPolicy>> {
        self.shared.policy.subscribe()
    }

    /// Returns the id drawn at start, which tells this life of the node from the one before.
    pub fn node_generation(&self) -> &str {
        &self.shared.node_generation
    }

    /// Returns the gRPC service.
    pub fn service(&self) -> WorkerServiceServer<AgentService> {
        WorkerServiceServer::new(AgentService::new(self.clone()))
    }

    /// Declines new requests, cancels running exports and waits for them, at most [`SHUTDOWN_WAIT_MAX`].
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(SHUTDOWN_WAIT_MAX, self.shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("an export did not stop in time; the next start removes what it left");
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on the slot of `partition`. The lock is held: `change` must not call the host.
    pub(super) fn with_slot<T>(&self, partition: PartitionId, change: impl FnOnce(&mut Slot) -> T) -> T {
        change(self.lock().entry(partition).or_default())
    }

    /// Returns who hosts `partition` here.
    pub(super) fn host(&self, partition: PartitionId) -> Option<Arc<dyn PartitionHost>> {
        self.lock().get(&partition)?.host.clone()
    }

    pub(super) fn discard_downloads(self: &Arc<Self>, partition: PartitionId) {
        let set_aside = {
            // Under the lock no restore begins: one that did meanwhile would lose its folder.
            let slots = self.lock();
            let restoring = slots.get(&partition).is_some_and(|slot| slot.restore.is_some());
            match restoring {
                true => None,
                false => self.staging.set_aside(partition),
            }
        };
        if let Some(folder) = set_aside {
            let staging = self.staging.clone();
            self.tasks.spawn(async move { staging.remove(folder).await });
        }
    }

    pub(super) fn export_counts(&self) -> ExportCounts {
        ExportCounts::of(&self.lock())
    }

    pub(super) fn status(&self) -> Vec<ReplicaStatus> {
        let hosts: Vec<_> = self
            .lock()
            .iter()
            .filter_map(|(partition, slot)| Some((*partition, slot.host.clone()?)))
            .collect();
        // Hosts are asked without the lock: they may be about to call the agent.
        let statuses: Vec<_> = hosts
            .into_iter()
            .map(|(partition, host)| (partition, host.status()))
            .collect();
        let slots = self.lock();
        statuses
            .into_iter()
            .filter_map(|(partition, status)| Some(slots.get(&partition)?.complete(status)))
            .collect()
    }

    /// Returns the status with its version, which grows when anything differs from the last call.
    pub(super) fn versioned_status(&self) -> (u64, Vec<ReplicaStatus>) {
        // The lock is taken first, so that of two calls the later one has the later status.
        let mut versioned = self.versioned.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = self.status();
        if versioned.partitions != partitions {
            versioned.version += 1;
            versioned.partitions = partitions;
        }
        (versioned.version, versioned.partitions.clone())
    }

    pub(super) async fn note_archived(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        archived: ArchivedSnapshot,
    ) {
        let record = ArchivedRecord::new(incarnation, archived);
        if self.with_slot(partition, |slot| slot.note_archived(record))
            && let Err(error) = self.archived.write(partition, record).await
        {
            tracing::warn!(%partition, %error, "the archived LSN is not kept over a restart");
        }
    }
}
