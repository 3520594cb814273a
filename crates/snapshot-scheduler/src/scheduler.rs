//! The embeddable admin: builds the parts, runs them, and ticks.

use crate::{
    archive, audit,
    client::WorkerSpec,
    core::{self, Candidate, Command, Liveness, Plan, Policy, PolicyFault, SchedulerOptions, TrimStatus},
    execute,
    handle::SchedulerHandle,
    lease,
    metrics::{self, PartitionGauges},
    observe,
    reload::PolicySource,
    state::{Context, State},
};
use partition_log::{Log, LogAdmin};
use snapshot_store::{
    AdminSession, ClusterIdentity, NodeId, PartitionId, Repository, RequestId, Seams,
    core::HoldReason,
    format::{ClusterRecord, StickyReason},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shortest distance of two ticks, however much happens.
const TICK_SPACING: Duration = Duration::from_millis(20);
/// How long running tasks may take to notice that the scheduler stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why a scheduler cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A part was not given.
    #[error("{part} is missing: call `.{part}(…)` on the builder")]
    Missing {
        /// The builder's method.
        part: &'static str,
    },
    /// Policy or options contradict themselves.
    #[error("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faulty {
        /// All faults.
        faults: Vec<PolicyFault>,
    },
    /// Two workers have the same node id.
    #[error("worker {node} is configured twice: node ids must be unique")]
    DuplicateWorker {
        /// The node.
        node: NodeId,
    },
    /// A worker is expected to host a partition the cluster does not have.
    #[error("worker {node} is configured with partition {partition}, the cluster has 0 to {last}")]
    UnknownPartition {
        /// The node.
        node: NodeId,
        /// The partition.
        partition: PartitionId,
        /// The highest partition.
        last: u32,
    },
}

/// Collects the parts of a [`Scheduler`].
#[derive(Default)]
pub struct SchedulerBuilder {
    policy: Policy,
    policy_source: Option<Arc<dyn PolicySource>>,
    options: SchedulerOptions,
    admin: Option<NodeId>,
    address: Option<String>,
    cluster: Option<(ClusterIdentity, u32)>,
    log: Option<Arc<dyn Log>>,
    log_admin: Option<Arc<dyn LogAdmin>>,
    repository: Option<Repository>,
    workers: Vec<WorkerSpec>,
    seams: Option<Seams>,
}

impl SchedulerBuilder {
    /// Sets the admin's own node id.
    #[must_use]
    pub fn admin(mut self, node: NodeId) -> Self {
        self.admin = Some(node);
        self
    }

    /// Sets where operators reach the admin: other admins name it while this one acts.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the cluster, as `cluster.json` describes it.
    #[must_use]
    pub fn cluster(self, record: &ClusterRecord) -> Self {
        self.cluster_identity(record.cluster.clone(), record.partitions)
    }

    /// Sets the cluster by its identity and number of partitions.
    #[must_use]
    pub fn cluster_identity(mut self, cluster: ClusterIdentity, partitions: u32) -> Self {
        self.cluster = Some((cluster, partitions));
        self
    }

    /// Sets the log that is looked at.
    #[must_use]
    pub fn log(mut self, log: Arc<dyn Log>) -> Self {
        self.log = Some(log);
        self
    }

    /// Sets the log that is trimmed: the same one, with the credentials for it.
    #[must_use]
    pub fn log_admin(mut self, log_admin: Arc<dyn LogAdmin>) -> Self {
        self.log_admin = Some(log_admin);
        self
    }

    /// Sets the log that is looked at and trimmed, where one client has the credentials for both.
    #[must_use]
    pub fn log_with_admin(self, log: Arc<impl Log + LogAdmin>) -> Self {
        self.log(log.clone()).log_admin(log)
    }

    /// Sets the repository.
    #[must_use]
    pub fn repository(mut self, repository: Repository) -> Self {
        self.repository = Some(repository);
        self
    }

    /// Sets the workers.
    #[must_use]
    pub fn workers(mut self, workers: Vec<WorkerSpec>) -> Self {
        self.workers = workers;
        self
    }

    /// Sets time and randomness; those of the repository when left out.
    #[must_use]
    pub fn seams(mut self, seams: Seams) -> Self {
        self.seams = Some(seams);
        self
    }

    /// Sets where the policy comes from when it is read again; without it, only the host changes it.
    #[must_use]
    pub fn policy_source(mut self, source: Arc<dyn PolicySource>) -> Self {
        self.policy_source = Some(source);
        self
    }

    /// Sets how the scheduler paces itself.
    #[must_use]
    pub fn options(mut self, options: SchedulerOptions) -> Self {
        self.options = options;
        self
    }

    /// Builds the scheduler. Makes no request.
    ///
    /// # Errors
    /// When a part is missing or the parts contradict each other.
    pub fn build(self) -> Result<Scheduler, BuildError> {
        let missing = |part| BuildError::Missing { part };
        let admin = self.admin.ok_or(missing("admin"))?;
        let (cluster, partitions) = self.cluster.ok_or(missing("cluster"))?;
        let log = self.log.ok_or(missing("log"))?;
        let log_admin = self.log_admin.ok_or(missing("log_admin"))?;
        let repository = self.repository.ok_or(missing("repository"))?;
        let faults: Vec<PolicyFault> = [
            self.policy.validate(),
            self.policy.validate_for(partitions),
            self.options.validate(),
        ]
        .into_iter()
        .filter_map(Result::err)
        .flatten()
        .collect();
        if !faults.is_empty() {
            return Err(BuildError::Faulty { faults });
        }
        let workers = index_workers(self.workers, partitions)?;
        let ids = (0..partitions).map(PartitionId::new);
        let seams = self.seams.unwrap_or_else(|| repository.seams().clone());
        let candidate = self.options.lease_term().map(|term| Candidate {
            node: admin.clone(),
            session: AdminSession::new(seams.ulid()),
            term,
        });
        let context = Context {
            state: Mutex::new(State::new(
                &cluster,
                partitions,
                &workers,
                &self.options,
                &self.policy,
                seams.clock.now(),
            )),
            seams,
            admin,
            address: self.address,
            candidate,
            cluster,
            log,
            log_admin,
            repository,
            options: self.options,
            policy: RwLock::new(Arc::new(self.policy)),
            policy_source: self.policy_source,
            workers,
            started: Instant::now(),
            trim_locks: ids.map(|id| (id, tokio::sync::Mutex::default())).collect(),
            wake: Notify::new(),
            store_wake: Notify::new(),
            ticks: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Ok(Scheduler {
            ctx: Arc::new(context),
        })
    }
}

fn index_workers(
    workers: Vec<WorkerSpec>,
    partitions: u32,
) -> Result<BTreeMap<NodeId, WorkerSpec>, BuildError> {
    let mut index = BTreeMap::new();
    for worker in workers {
        let node = worker.node.clone();
        if let Some(partition) = worker
            .partitions
            .iter()
            .find(|partition| partition.get() >= partitions)
        {
            let (partition, last) = (*partition, partitions.saturating_sub(1));
            return Err(BuildError::UnknownPartition {
                node,
                partition,
                last,
            });
        }
        if index.insert(node.clone(), worker).is_some() {
            return Err(BuildError::DuplicateWorker { node });
        }
    }
    Ok(index)
}

/// The admin of a cluster: watches workers and logs, orders snapshots, has them verified, trims.
pub struct Scheduler {
    ctx: Arc<Context>,
}

impl Scheduler {
    /// Begins to build a scheduler that follows `policy`.
    pub fn builder(policy: Policy) -> SchedulerBuilder {
        SchedulerBuilder {
            policy,
            ..SchedulerBuilder::default()
        }
    }

    /// Returns a handle for status and operator requests; works before, while and after the scheduler runs.
    pub fn handle(&self) -> SchedulerHandle {
        SchedulerHandle::new(self.ctx.clone())
    }

    /// Runs until `shutdown` is cancelled, then stops everything it started and gives up its lease. Snapshots that workers are making go
    /// on there.
    pub async fn run(self, shutdown: CancellationToken) {
        let ctx = self.ctx;
        ctx.tasks.spawn(observe::poll_workers(ctx.clone()));
        ctx.tasks.spawn(observe::poll_log(ctx.clone()));
        ctx.tasks.spawn(archive::keep_reading(ctx.clone()));
        ctx.tasks.spawn(lease::keep(ctx.clone()));
        ctx.tasks.spawn(audit::keep_auditing(ctx.clone()));
        loop {
            tick(&ctx);
            let earliest = Instant::now() + TICK_SPACING;
            let next = Instant::now() + ctx.options.tick_interval();
            tokio::select! {
                () = sleep_until(next) => {}
                () = ctx.wake.notified() => sleep_until(earliest).await,
                () = shutdown.cancelled() => break,
            }
        }
        ctx.shutdown.cancel();
        ctx.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, ctx.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = ctx.tasks.len(), "some tasks did not stop in time");
        }
        lease::give_up(&ctx).await;
    }
}

/// Plans once, and begins what was planned.
fn tick(ctx: &Arc<Context>) {
    let begun = Instant::now();
    let now = ctx.now();
    let commands: Vec<(Command, RequestId)> = {
        let mut state = ctx.lock();
        state.tick += 1;
        state.view.standby = lease::standby(ctx, &state, now);
        let plan = core::plan(&state.view, &ctx.policy(), now, &ctx.seams.entropy);
        note_plan(ctx, &mut state, &plan, now);
        let commands = plan.commands.iter().map(|command| {
            let request_id = execute::begin(ctx, &mut state, command, now);
            (command.clone(), request_id)
        });
        let commands = commands.collect();
        export(ctx, &state, now);
        state.plan = plan;
        ctx.ticks.send_replace(state.tick);
        commands
    };
    for (command, request_id) in commands {
        execute::spawn(ctx, command, request_id, None);
    }
    metrics::ticked(begun.elapsed());
}

/// Remembers since when each answer stands, and makes new evidence sticky.
fn note_plan(ctx: &Context, state: &mut State, plan: &Plan, now: core::Moment) {
    for (id, planned) in &plan.partitions {
        if let Some((reason, detail)) = &planned.new_hold {
            tracing::error!(partition = %id, ?reason, %detail, "the partition is held");
            state.set_hold(*id, *reason, detail.clone());
            ctx.store_wake.notify_one();
        }
        let Some((view, memory)) = state.partition(*id) else {
            continue;
        };
        view.followers_unavailable_since = match view.followers_unavailable_since {
            since @ Some(_) if planned.followers_unavailable() => since,
            None if planned.followers_unavailable() => Some(now),
            _ => None,
        };
        if let Some((reason, detail)) = &planned.trim_hold {
            // Once it is over, the log is looked at again though nothing about the snapshots changed.
            view.trim.looked = None;
            memory.trim = TrimStatus::Held {
                reason: *reason,
                detail: detail.clone(),
            };
        }
        memory.snapshot_standing.note(planned.snapshot.code.as_str(), now);
        memory
            .leadership_standing
            .note(planned.leadership.code.as_str(), now);
        let before = hold_named(memory.trim_standing.code);
        if memory.trim_standing.note(memory.trim.reason().code, now) {
            let reason = match &memory.trim {
                TrimStatus::Held { reason, .. } => Some(*reason),
                TrimStatus::Pending | TrimStatus::Trimmed { .. } | TrimStatus::Failed { .. } => None,
            };
            if let Some(reason) = reason {
                metrics::hold_began(reason);
            }
            if plan.partitions.len() <= metrics::PARTITION_SERIES_MAX {
                metrics::partition_hold(&id.to_string(), before, reason);
            }
        }
    }
}

fn hold_named(code: &str) -> Option<HoldReason> {
    HoldReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == code)
}

/// Exports the gauges.
fn export(ctx: &Context, state: &State, now: core::Moment) {
    for liveness in Liveness::ALL {
        let count = state
            .view
            .nodes
            .keys()
            .filter(|node| state.view.liveness(node, now) == *liveness)
            .count();
        metrics::nodes(*liveness, count);
    }
    let epoch = state.lease.lease.as_ref().map(|lease| lease.epoch);
    let acts = lease::standing(ctx, state, now).code.acts();
    metrics::lease(acts, epoch.unwrap_or_default());
    if let core::ControlView::Known(control) = &state.view.control {
        metrics::pauses(control.pauses.len());
    }
    let progress = core::audit_progress(&state.view, state.audit.as_ref(), &ctx.policy(), now);
    let damaged = state
        .view
        .partitions
        .values()
        .filter(|partition| partition.holds.contains_key(&StickyReason::DamagedSnapshot));
    metrics::audit(progress.oldest_look, damaged.count());
    let mut all = Vec::with_capacity(state.view.partitions.len());
    for (id, partition) in &state.view.partitions {
        let Some(memory) = state.memory.get(id) else {
            continue;
        };
        let facts = partition.log.map(|log| log.facts);
        let held = hold_named(memory.trim_standing.code);
        let values = PartitionGauges {
            archived: partition.archived().map(|entry| entry.lsn.get()),
            guard: crate::status::guard(state, partition, memory).map(|lsn| lsn.get()),
            trim_point: facts.map(|facts| facts.trim_point.get()),
            tail: facts.map(|facts| facts.tail.get()),
            held_bytes: partition.log.and_then(|log| log.held_bytes),
            stored: memory.stored,
            hold_age: held.map_or(Duration::ZERO, |_| now.since(memory.trim_standing.since)),
            held_back: held.is_some_and(|reason| reason != HoldReason::NothingToTrim),
        };
        if state.view.partitions.len() <= metrics::PARTITION_SERIES_MAX {
            metrics::partition(&id.to_string(), &values);
        }
        all.push(values);
    }
    metrics::totals(&all);
}
