//! What operators and embedding hosts ask of a running scheduler.

use crate::{
    archive,
    core::{self, Budget, Command, Demand, Plan, SnapshotCode, SnapshotStep, TrimStatus},
    execute, explain, lease, observe,
    service::AdminService,
    state::Context,
    status,
    trim::{self, TrimMode, TrimReport},
};
use futures::{StreamExt, stream};
use snapshot_proto::v1::{self, admin_service_server::AdminServiceServer};
use snapshot_store::{
    Lsn, NodeId, PartitionId, StoreError,
    core::HoldReason,
    format::{Control, Pause, PauseScope, Unknown},
};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// How many messages of one operator's snapshot may wait to be read; progress beyond that is dropped.
const RELAY_DEPTH: usize = 64;
/// How many partitions one operator's trim works on at a time.
const MANUAL_TRIMS_MAX: usize = 8;
/// The longest name or reason a pause may carry, in bytes.
const PAUSE_TEXT_MAX: usize = 1024;

/// A request for a snapshot that was not passed on to any worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The cluster does not have the partition.
    #[error("partition {partition} does not exist: the cluster has {partitions}")]
    UnknownPartition {
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: usize,
    },
    /// The cluster does not have the node.
    #[error("worker {node} is not configured at this admin")]
    UnknownNode {
        /// What was asked for.
        node: NodeId,
    },
    /// Nobody can be asked now.
    #[error("partition {partition}: {code}: {detail}")]
    NotNow {
        /// The partition.
        partition: PartitionId,
        /// The reason, in the words of the status.
        code: SnapshotCode,
        /// What was seen.
        detail: String,
    },
}

/// A pause that was not written.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The cluster does not have the partition.
    #[error("partition {partition} does not exist: the cluster has {partitions}")]
    UnknownPartition {
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: usize,
    },
    /// Who or why is too long.
    #[error("who pauses and why may have {PAUSE_TEXT_MAX} bytes together")]
    TooLong,
    /// The control state could not be changed; nothing was.
    #[error("admin/control.json could not be changed")]
    Store(#[from] StoreError),
}

/// A handle to a scheduler. Cheap to clone.
#[derive(Clone)]
pub struct SchedulerHandle {
    pub(crate) ctx: Arc<Context>,
}

impl SchedulerHandle {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        SchedulerHandle { ctx }
    }

    /// Returns the status of the cluster: the same that operators get over gRPC.
    pub fn status(&self) -> v1::ClusterStatus {
        status::cluster_status(&self.ctx, &self.ctx.lock(), self.ctx.now())
    }

    /// Returns the rules of a partition with the values they were decided on last; `None` when the cluster does
    /// not have it.
    pub fn explain(&self, partition: PartitionId) -> Option<v1::ExplainReply> {
        explain::explain(&self.ctx, &self.ctx.lock(), partition, self.ctx.now())
    }

    /// Returns what a tick would do now, and why it would not do the rest. Changes nothing.
    pub fn preview(&self) -> Plan {
        // A copy of the randomness would still move the shared stream: a preview draws its own.
        let entropy = snapshot_store::Entropy::seeded(0);
        core::plan(
            &self.ctx.lock().view,
            &self.ctx.policy(),
            self.ctx.now(),
            &entropy,
        )
    }

    pub(crate) fn preview_to_wire(&self) -> v1::Plan {
        let plan = self.preview();
        status::plan_to_wire(&self.ctx.lock(), &plan, self.ctx.now())
    }

    /// Returns whether this admin acts: it has the lease, or none is used, and the policy lets it. One that does not only
    /// watches, and takes over by itself.
    pub fn acts(&self) -> bool {
        lease::standing(&self.ctx, &self.ctx.lock(), self.ctx.now())
            .code
            .acts()
    }

    /// Returns a receiver of tick numbers: a change means that the status may have changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.ctx.ticks.subscribe()
    }

    /// Returns the number of partitions.
    pub fn partitions(&self) -> usize {
        self.ctx.trim_locks.len()
    }

    /// Returns the gRPC service over this scheduler.
    pub fn service(&self) -> AdminServiceServer<AdminService> {
        AdminServiceServer::new(self.clone().into())
    }

    pub(crate) fn is_stopping(&self) -> impl Future<Output = ()> + use<> {
        self.ctx.shutdown.clone().cancelled_owned()
    }

    fn check_partition(&self, partition: PartitionId) -> Result<(), usize> {
        if self.ctx.trim_locks.contains_key(&partition) {
            Ok(())
        } else {
            Err(self.partitions())
        }
    }

    /// Asks a worker for a snapshot now, by the same choice as the policy makes, or a given one. Returns its
    /// progress; the last message is the outcome. The snapshot goes on when the receiver is dropped.
    ///
    /// # Errors
    /// When nobody can be asked now; the reason is one of those in the status.
    pub fn create_snapshot(
        &self,
        partition: PartitionId,
        min_lsn: Lsn,
        node: Option<NodeId>,
    ) -> Result<mpsc::Receiver<v1::CreateSnapshotEvent>, OrderError> {
        let ctx = &self.ctx;
        self.check_partition(partition)
            .map_err(|partitions| OrderError::UnknownPartition {
                partition,
                partitions,
            })?;
        if let Some(node) = node.as_ref().filter(|node| ctx.worker(node).is_none()) {
            return Err(OrderError::UnknownNode { node: node.clone() });
        }
        let demand = Demand { min_lsn, node };
        let now = ctx.now();
        let (command, request_id) = {
            let mut state = ctx.lock();
            state.view.standby = lease::standby(ctx, &state, now);
            let policy = ctx.policy();
            let mut budget = Budget::new(&state.view, &policy);
            let entropy = &ctx.seams.entropy;
            let decision = core::decide_snapshot(
                &state.view,
                partition,
                &policy,
                now,
                &mut budget,
                entropy,
                Some(&demand),
            );
            let SnapshotStep::Order(command) = decision.step else {
                return Err(OrderError::NotNow {
                    partition,
                    code: decision.code,
                    detail: decision.detail,
                });
            };
            let command = Command::CreateSnapshot(command);
            let request_id = execute::begin(ctx, &mut state, &command, now);
            (command, request_id)
        };
        let (relay, events) = mpsc::channel(RELAY_DEPTH);
        execute::spawn(ctx, command, request_id, Some(relay));
        Ok(events)
    }

    /// Trims the given partitions (all when empty) by the same rule as the policy does, and says what happened.
    /// A partition that does not exist is reported as failed.
    pub async fn trim(&self, partitions: &[PartitionId], mode: TrimMode) -> Vec<TrimReport> {
        let all: Vec<PartitionId> = if partitions.is_empty() {
            self.ctx.trim_locks.keys().copied().collect()
        } else {
            partitions.to_vec()
        };
        // Sorted, and each once.
        let all: std::collections::BTreeSet<PartitionId> = all.into_iter().collect();
        let reports: Vec<TrimReport> = stream::iter(all)
            .map(|id| async move {
                if let Err(partitions) = self.check_partition(id) {
                    let mut report = trim::trim_partition(&self.ctx, id, mode).await;
                    report.detail = format!("partition {id} does not exist: the cluster has {partitions}");
                    return report;
                }
                let report = trim::trim_partition(&self.ctx, id, mode).await;
                if !mode.dry_run {
                    execute::note_trim(&mut self.ctx.lock(), &report);
                }
                report
            })
            .buffered(MANUAL_TRIMS_MAX)
            .collect()
            .await;
        self.ctx.wake.notify_one();
        reports
    }

    /// Pauses a partition or the cluster, in `control.json`: no snapshot, no trim, no deletion, by any admin. A
    /// pause of the same scope is replaced.
    ///
    /// # Errors
    /// When it could not be written; then nothing is paused.
    pub async fn pause(&self, scope: PauseScope, by: &str, reason: &str) -> Result<Control, PauseError> {
        self.check_scope(scope)?;
        if by.len() + reason.len() > PAUSE_TEXT_MAX {
            return Err(PauseError::TooLong);
        }
        let pause = Pause {
            scope,
            by: by.to_owned(),
            at: self.ctx.seams.clock.now(),
            reason: reason.to_owned(),
            moved_to: None,
            unknown: Unknown::default(),
        };
        tracing::info!(%scope, by, reason, "paused");
        let change = |control: &mut Control| {
            // The seal of a moved repository is more than a pause: only `resume` takes it back.
            control
                .pauses
                .retain(|other| other.scope != scope || other.moved_to.is_some());
            control.pauses.push(pause.clone());
        };
        let control = archive::change_control(&self.ctx, change).await?;
        self.ctx.wake.notify_one();
        Ok(control)
    }

    /// Lifts the pause of a partition or of the cluster. Where a partition is not paused, it lifts the partition's
    /// sticky holds instead: the operator vouches for having looked at the evidence. What is still true is found
    /// again, and held again.
    ///
    /// # Errors
    /// When it could not be written; then everything stays as it is.
    pub async fn resume(&self, scope: PauseScope) -> Result<Control, PauseError> {
        self.check_scope(scope)?;
        let mut lifted = false;
        let control = archive::change_control(&self.ctx, |control| {
            lifted = control.pauses.iter().any(|pause| pause.scope == scope);
            control.pauses.retain(|pause| pause.scope != scope);
        })
        .await?;
        tracing::info!(%scope, lifted, "resumed");
        let control = match scope {
            PauseScope::Partition(partition) if !lifted => self.lift_holds(partition).await?,
            PauseScope::Partition(_) | PauseScope::Cluster => control,
        };
        self.ctx.wake.notify_one();
        Ok(control)
    }

    async fn lift_holds(&self, partition: PartitionId) -> Result<Control, PauseError> {
        let control = archive::clear_holds(&self.ctx, partition, |_| true).await?;
        tracing::warn!(%partition, "sticky holds were lifted by an operator");
        let mut state = self.ctx.lock();
        if let Some((view, memory)) = state.partition(partition) {
            // Whatever was found damaged is looked at again.
            view.trust
                .retain(|_, trust| *trust != snapshot_store::core::SnapshotTrust::Damaged);
            memory.damage.clear();
            memory.regressed = 0;
            memory.trim = TrimStatus::Pending;
        }
        Ok(control)
    }

    fn check_scope(&self, scope: PauseScope) -> Result<(), PauseError> {
        match scope {
            PauseScope::Cluster => Ok(()),
            PauseScope::Partition(partition) => {
                self.check_partition(partition)
                    .map_err(|partitions| PauseError::UnknownPartition {
                        partition,
                        partitions,
                    })
            }
        }
    }

    /// Returns why the log of a partition is held now, if it is.
    pub fn hold(&self, partition: PartitionId) -> Option<HoldReason> {
        match self.ctx.lock().memory.get(&partition)?.trim {
            TrimStatus::Held { reason, .. } => Some(reason),
            TrimStatus::Pending | TrimStatus::Trimmed { .. } | TrimStatus::Failed { .. } => None,
        }
    }

    /// Asks the log about a partition, past all caches.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn log_facts(
        &self,
        partition: PartitionId,
    ) -> Result<snapshot_store::core::LogFacts, partition_log::LogError> {
        Ok(observe::read_log(&self.ctx, partition).await?.0)
    }
}
