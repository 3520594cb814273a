//! The embeddable admin: builds the parts, runs them, and ticks.

use crate::{
    archive, audit,
    client::WorkerSpec,
    cluster_log::ClusterLog,
    core::{self, Candidate, Command, Plan, Policy, PolicyFault, SchedulerOptions, TrimStatus},
    execute, export,
    handle::SchedulerHandle,
    lease, metrics, observe,
    reload::PolicySource,
    state::{Context, State},
    workers::{self, WorkersFault},
};
use snapshot_store::{
    AdminSession, Clock, ClusterIdentity, NodeId, PartitionId, Repository, RequestId, Seams,
    format::ClusterRecord,
};
use std::{
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
    /// The workers contradict each other or the cluster.
    #[error(transparent)]
    Workers(#[from] WorkersFault),
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
    log: Option<Arc<dyn ClusterLog>>,
    store: Option<Repository>,
    workers: Vec<WorkerSpec>,
    seams: Option<Seams>,
    clock: Option<Arc<dyn Clock>>,
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

    /// Sets the logs that are looked at and trimmed: any engine, [`LogParts`](crate::LogParts), or a host's own.
    #[must_use]
    pub fn log(mut self, log: Arc<dyn ClusterLog>) -> Self {
        self.log = Some(log);
        self
    }

    /// Sets the repository that the snapshots are in.
    #[must_use]
    pub fn store(mut self, store: Repository) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the workers that are known from the start: none for a host that discovers them, and tells
    /// [`SchedulerHandle::set_workers`]. Until then the logs are held as `no-live-replica`.
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

    /// Sets the clock alone. It dates what is stored and shown, and makes a trim smaller under `trim_delay_ms`; how long
    /// things take is measured by Tokio's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
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
        let repository = self.store.ok_or(missing("store"))?;
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
        let workers = workers::index(self.workers, partitions)?;
        let ids = (0..partitions).map(PartitionId::new);
        let mut seams = self.seams.unwrap_or_else(|| repository.seams().clone());
        seams.clock = self.clock.unwrap_or(seams.clock);
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
            repository,
            options: self.options,
            policy: RwLock::new(Arc::new(self.policy)),
            policy_source: self.policy_source,
            workers: RwLock::new(Arc::new(workers)),
            started: Instant::now(),
            trim_locks: ids.map(|id| (id, tokio::sync::Mutex::default())).collect(),
            wake: Notify::new(),
            poll_wake: Notify::new(),
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
        export::export(ctx, &mut state, now);
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
        let is_new = memory.trim_standing.note(memory.trim.reason().code, now);
        if let TrimStatus::Held { reason, .. } = &memory.trim
            && is_new
        {
            metrics::hold_began(*reason);
        }
    }
}
