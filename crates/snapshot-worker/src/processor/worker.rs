//! The worker of one node: its partitions, opened and closed at run time.

use super::{
    layout::PartitionDirs,
    proposer::Proposer,
    replica::{Replica, ReplicaParts},
    state_machine::StateMachine,
    store::{RocksEngine, RocksOptions, StateEngine, StateError, handles},
    task::{Pace, Task},
    view::PartitionHandle,
};
use crate::{
    Blocking,
    agent::{AgentConfig, AgentError, AgentService, LocalIdentity, PartitionHost, SnapshotAgent},
};
use futures::future::join_all;
use partition_log::Log;
use snapshot_proto::v1::worker_service_server::WorkerServiceServer;
use snapshot_store::{NodeId, PartitionId, Repository, Seams};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long closing a partition takes at most: proposals under way, then the flush, then readers of the state.
pub const CLOSE_PARTITION_MAX: Duration = Duration::from_secs(20);

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The node.
    pub node: NodeId,
    /// Where clients reach it; announced with its leadership.
    pub address: String,
    /// Its folder.
    pub data_dir: PathBuf,
    /// The cluster it belongs to.
    pub identity: LocalIdentity,
    /// The partitions to open at once; more can be opened later.
    pub partitions: Vec<PartitionId>,
    /// What is applied is flushed at the latest after this time, also on a quiet partition.
    ///
    /// A lower value lets the log be trimmed closer to the tail and shortens replay, and writes more small files.
    pub flush_interval: Duration,
    /// Records applied after which a flush comes earlier than that.
    pub flush_records: u64,
    /// Records applied in one write at most.
    pub apply_records_max: usize,
    /// Bytes of records applied in one write, about at most.
    pub apply_bytes_max: usize,
    /// Snapshots of different partitions made at once.
    pub exports_max: usize,
    /// Snapshots that wait for their turn at most.
    pub exports_queue_max: usize,
    /// Restores at once.
    pub restores_max: usize,
    /// Bytes that staging leaves free on the disk.
    pub disk_reserve_bytes: u64,
    /// How long a blocked partition waits before it tries again, at first; doubles up to `retry_max`.
    pub retry_min: Duration,
    /// How long a blocked partition waits before it tries again, at most.
    pub retry_max: Duration,
    /// How long the log may be unavailable before a partition counts as blocked.
    pub log_patience: Duration,
    /// How long a proposal waits for its fate before its proposer is told that it is unknown.
    pub propose_timeout: Duration,
    /// Proposals of one partition that wait at once.
    pub proposals_max: usize,
    /// Bytes of proposals of one partition that wait at once.
    pub proposals_bytes_max: usize,
    /// How long closing a partition waits for proposals under way.
    pub drain_max: Duration,
    /// How long no admin must have polled before leaders make snapshots of their own accord, by the thresholds of the last
    /// poll; `None` leaves snapshots to the admin.
    pub autonomous_after: Option<Duration>,
    /// Memory and threads of all states.
    pub rocks: RocksOptions,
    /// Where blocking work runs.
    pub blocking: Blocking,
}

impl WorkerOptions {
    /// Returns options with the default pace and no partitions.
    pub fn new(node: NodeId, address: String, data_dir: PathBuf, identity: LocalIdentity) -> Self {
        WorkerOptions {
            node,
            address,
            data_dir,
            identity,
            partitions: Vec::new(),
            flush_interval: Duration::from_secs(2),
            flush_records: 100_000,
            apply_records_max: 512,
            apply_bytes_max: 1 << 20,
            exports_max: 2,
            exports_queue_max: 8,
            restores_max: 2,
            disk_reserve_bytes: 1 << 30,
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(30),
            log_patience: Duration::from_secs(5),
            propose_timeout: Duration::from_secs(10),
            proposals_max: 1024,
            proposals_bytes_max: 64 << 20,
            drain_max: Duration::from_secs(2),
            autonomous_after: None,
            rocks: RocksOptions::default(),
            blocking: Blocking::Threads,
        }
    }
}

/// A worker was not started, or a partition not opened.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The agent could not be started.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The state engine could not be set up.
    #[error("the state engine cannot be set up")]
    Engine(#[source] StateError),
    /// The cluster has no such partition.
    #[error("there is no partition {partition}: the cluster has {partitions}, numbered from 0")]
    NoSuchPartition {
        /// The partition.
        partition: PartitionId,
        /// How many there are.
        partitions: u32,
    },
    /// The partition is open already.
    #[error("partition {partition} is open already")]
    AlreadyOpen {
        /// The partition.
        partition: PartitionId,
    },
    /// The state machine's keyspaces are not in ascending order of prefixes from 1 up.
    #[error("the keyspaces of state machine {name} are not in ascending order of prefixes from 1 up")]
    Keyspaces {
        /// The state machine.
        name: &'static str,
    },
}

struct Running {
    handle: PartitionHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Shared {
    options: WorkerOptions,
    machine: Arc<dyn StateMachine>,
    engine: Arc<dyn StateEngine>,
    log: Arc<dyn Log>,
    seams: Seams,
    agent: SnapshotAgent,
    partitions: Mutex<BTreeMap<PartitionId, Running>>,
}

/// The partition processors of one node. Clones are the same worker.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the node's agent and opens its partitions, each as a task of its own. Waits for none of them: their
    /// states tell how far they are. Must be called within a Tokio runtime.
    ///
    /// Raises this process's soft limit of open files as far as the partitions need and the hard limit allows, and logs
    /// what is short.
    ///
    /// # Errors
    /// When the data folder cannot be used, or the options name a partition that does not exist.
    pub fn start(
        options: WorkerOptions,
        machine: Arc<dyn StateMachine>,
        log: Arc<dyn Log>,
        repository: Repository,
        seams: Seams,
    ) -> Result<Self, WorkerError> {
        // Which partitions are opened later is not known; it may be all.
        let partitions = match options.partitions.len() {
            0 => options.identity.partitions as usize,
            named => named,
        };
        let rocks = RocksOptions {
            tables_open_max: handles::prepare(partitions, options.rocks.tables_open_max),
            ..options.rocks
        };
        let engine = RocksEngine::new(&rocks).map_err(WorkerError::Engine)?;
        Self::start_with_engine(options, machine, Arc::new(engine), log, repository, seams)
    }

    /// Like [`Worker::start`], over another state engine.
    ///
    /// # Errors
    /// When the data folder cannot be used, or the options name a partition that does not exist.
    pub fn start_with_engine(
        options: WorkerOptions,
        machine: Arc<dyn StateMachine>,
        engine: Arc<dyn StateEngine>,
        log: Arc<dyn Log>,
        repository: Repository,
        seams: Seams,
    ) -> Result<Self, WorkerError> {
        let prefixes: Vec<u8> = machine.keyspaces().iter().map(|space| space.prefix).collect();
        if prefixes.first() == Some(&0) || !prefixes.is_sorted_by(|a, b| a < b) {
            return Err(WorkerError::Keyspaces { name: machine.name() });
        }
        let config = AgentConfig {
            node: options.node.clone(),
            exports_max: options.exports_max,
            exports_queue_max: options.exports_queue_max,
            restores_max: options.restores_max,
            disk_reserve_bytes: options.disk_reserve_bytes,
            blocking: options.blocking,
            ..AgentConfig::new(
                &options.identity,
                options.address.clone(),
                options.data_dir.clone(),
            )
        };
        let agent = SnapshotAgent::new(config, repository, seams.clone())?;
        let partitions = options.partitions.clone();
        let shared = Shared {
            options,
            machine,
            engine,
            log,
            seams,
            agent,
            partitions: Mutex::default(),
        };
        let worker = Worker {
            shared: Arc::new(shared),
        };
        for partition in &partitions {
            worker.check_exists(*partition)?;
        }
        for partition in partitions {
            worker.open_partition(partition)?;
        }
        worker.shared.agent.discard_downloads_of_others();
        if let Some(silence_min) = worker.shared.options.autonomous_after {
            let agent = worker.shared.agent.clone();
            tokio::spawn(async move { agent.run_autonomously(silence_min).await });
        }
        Ok(worker)
    }

    /// Returns the agent: snapshots, restores and status of this node.
    pub fn agent(&self) -> &SnapshotAgent {
        &self.shared.agent
    }

    /// Returns the gRPC service.
    pub fn service(&self) -> WorkerServiceServer<AgentService> {
        self.shared.agent.service()
    }

    /// Returns the way to `partition`; `None` when it is not open here.
    pub fn partition(&self, partition: PartitionId) -> Option<PartitionHandle> {
        self.lock().get(&partition).map(|running| running.handle.clone())
    }

    /// Returns the open partitions, in order of their numbers.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.lock().keys().copied().collect()
    }

    /// Opens `partition`; its task goes on from the local state, the log and the store by itself. Must be called
    /// within a Tokio runtime.
    ///
    /// # Errors
    /// When the cluster has no such partition, or it is open.
    pub fn open_partition(&self, partition: PartitionId) -> Result<PartitionHandle, WorkerError> {
        self.check_exists(partition)?;
        let mut partitions = self.lock();
        if partitions.contains_key(&partition) {
            return Err(WorkerError::AlreadyOpen { partition });
        }
        let Shared {
            options,
            machine,
            engine,
            log,
            seams,
            agent,
            ..
        } = &*self.shared;
        let (replica, inbox) = Replica::new(ReplicaParts {
            partition,
            node: options.node.clone(),
            fingerprint: options.identity.cluster.fingerprint,
            key_range: options.identity.key_range(partition),
            engine: Arc::clone(engine),
            machine: Arc::clone(machine),
            blocking: options.blocking,
            dirs: PartitionDirs::new(&options.data_dir, partition),
            log: Arc::clone(log),
            propose_timeout: options.propose_timeout,
            proposals_max: options.proposals_max,
            proposals_bytes_max: options.proposals_bytes_max,
        });
        agent.attach(partition, Arc::clone(&replica) as Arc<dyn PartitionHost>);
        let handle = PartitionHandle::new(Arc::clone(&replica));
        let stop = CancellationToken::new();
        let task = Task {
            proposer: Proposer::new(options.node.clone(), options.address.clone()),
            replica,
            log: Arc::clone(log),
            agent: agent.clone(),
            seams: seams.clone(),
            pace: pace(options),
            commands: inbox.commands,
            orders: inbox.orders,
            stop: stop.clone(),
            local: None,
            append: None,
            flush: None,
            flush_at: None,
            trim_seen: None,
            regressed_at: None,
            search: None,
            damaged_at: None,
            flush_first: false,
            discard_due: false,
        };
        let task = tokio::spawn(task.run());
        partitions.insert(
            partition,
            Running {
                handle: handle.clone(),
                stop,
                task,
            },
        );
        Ok(handle)
    }

    /// Closes `partition`: takes no more proposals, waits a moment for those under way, flushes and closes the
    /// state, within [`CLOSE_PARTITION_MAX`]. Says whether it was open.
    pub async fn close_partition(&self, partition: PartitionId) -> bool {
        let Some(running) = self.lock().remove(&partition) else {
            return false;
        };
        self.shared.agent.detach(partition);
        running.stop.cancel();
        let mut task = running.task;
        if timeout(CLOSE_PARTITION_MAX, &mut task).await.is_err() {
            tracing::warn!(%partition, "the partition did not close in time; the log has what was not flushed");
            task.abort();
        }
        true
    }

    /// Stops exports, then closes all partitions at once. Takes at most the agent's
    /// [`SHUTDOWN_WAIT_MAX`](crate::agent::SHUTDOWN_WAIT_MAX) and [`CLOSE_PARTITION_MAX`].
    pub async fn shutdown(&self) {
        self.shared.agent.shutdown().await;
        join_all(
            self.partitions()
                .into_iter()
                .map(|partition| self.close_partition(partition)),
        )
        .await;
    }

    fn check_exists(&self, partition: PartitionId) -> Result<(), WorkerError> {
        let partitions = self.shared.options.identity.partitions;
        if partition.get() < partitions {
            Ok(())
        } else {
            Err(WorkerError::NoSuchPartition {
                partition,
                partitions,
            })
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Running>> {
        self.shared
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn pace(options: &WorkerOptions) -> Pace {
    Pace {
        flush_interval: options.flush_interval,
        flush_records: options.flush_records.max(1),
        apply_records_max: options.apply_records_max.max(1),
        apply_bytes_max: options.apply_bytes_max.max(1),
        retry_min: options.retry_min,
        retry_max: options.retry_max.max(options.retry_min),
        log_patience: options.log_patience,
        drain_max: options.drain_max,
    }
}
