//! One partition on this node, as its task, the agent and its users share it.
//!
//! Whoever reads the state and finds it damaged tells the task, which has it rebuilt: readers of a view, and the agent
//! when it reads a checkpoint through, whose files are those of the state.

use super::{
    adopt::adopt_state,
    inspect::{host_error, inspect_state, misfit},
    layout::PartitionDirs,
    propose::{Answer, LeadAnswer, LeadError, Proposal, ProposeError},
    rebuild::{Order, RebuildOrder},
    state_machine::StateMachine,
    store::{StateEngine, StateError, StateStore},
};
use crate::{
    Blocking,
    agent::{CheckpointFacts, HostError, PartitionHost, RebuildAnswer, RebuildError, SkipError, SkipOrder},
    core::{LedBody, PartitionState, PoisonRecord, ReplicaStatus},
};
use async_trait::async_trait;
use partition_log::Log;
use snapshot_store::{
    Fingerprint, Incarnation, LeaderEpoch, Lsn, NodeId, PartitionId,
    format::{KeyRange, Manifest, StateMachineVersion},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

/// What the task is asked from outside.
pub(super) enum Command {
    Propose(Proposal),
    Lead(oneshot::Sender<LeadAnswer>),
}

/// Orders that wait for the task; another one of the same kind would say the same.
const ORDERS_MAX: usize = 8;

/// How long the task may take to say whether it rebuilds its state: it looks at log and store, and waits for readers
/// of the state.
const REBUILD_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Memory for waiting proposals is given out in units of this size: a semaphore counts in 32 bits.
const ROOM_UNIT_BYTES: usize = 1024;

/// One partition on this node.
pub(super) struct Replica {
    pub(super) partition: PartitionId,
    pub(super) node: NodeId,
    pub(super) fingerprint: Fingerprint,
    pub(super) key_range: KeyRange,
    pub(super) engine: Arc<dyn StateEngine>,
    pub(super) machine: Arc<dyn StateMachine>,
    pub(super) blocking: Blocking,
    pub(super) dirs: PartitionDirs,
    pub(super) log: Arc<dyn Log>,
    open: RwLock<OpenState>,
    pub(super) status: watch::Sender<ReplicaStatus>,
    /// The record that cannot be applied which was met last, and in which log.
    poison: Mutex<Option<(Incarnation, PoisonRecord)>>,
    /// The checkpoint made last, and of which open state.
    checkpoint: Mutex<Option<(PathBuf, u64)>>,
    commands: mpsc::Sender<Command>,
    orders: mpsc::Sender<Order>,
    room: Arc<Semaphore>,
    propose_timeout: Duration,
}

/// The open state; `None` while it is closed or being replaced.
#[derive(Default)]
struct OpenState {
    /// Grows with every state opened, so that news of one that was replaced is known as such.
    number: u64,
    store: Option<Arc<dyn StateStore>>,
}

/// What the task of a replica listens to.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) orders: mpsc::Receiver<Order>,
}

/// What a replica is made from; the rest it makes itself.
pub(super) struct ReplicaParts {
    pub(super) partition: PartitionId,
    pub(super) node: NodeId,
    pub(super) fingerprint: Fingerprint,
    pub(super) key_range: KeyRange,
    pub(super) engine: Arc<dyn StateEngine>,
    pub(super) machine: Arc<dyn StateMachine>,
    pub(super) blocking: Blocking,
    pub(super) dirs: PartitionDirs,
    pub(super) log: Arc<dyn Log>,
    pub(super) propose_timeout: Duration,
    pub(super) proposals_max: usize,
    pub(super) proposals_bytes_max: usize,
}

impl Replica {
    pub(super) fn new(parts: ReplicaParts) -> (Arc<Self>, Inbox) {
        let (commands, receiver) = mpsc::channel(parts.proposals_max.max(1));
        let (orders, order_receiver) = mpsc::channel(ORDERS_MAX);
        let units = parts
            .proposals_bytes_max
            .div_ceil(ROOM_UNIT_BYTES)
            .clamp(1, Semaphore::MAX_PERMITS);
        let machine = &parts.machine;
        let state_machine = StateMachineVersion {
            name: machine.name().to_owned(),
            version: machine.version(),
        };
        let replica = Replica {
            status: watch::Sender::new(ReplicaStatus::new(parts.partition, state_machine)),
            partition: parts.partition,
            node: parts.node,
            fingerprint: parts.fingerprint,
            key_range: parts.key_range,
            engine: parts.engine,
            machine: parts.machine,
            blocking: parts.blocking,
            dirs: parts.dirs,
            log: parts.log,
            open: RwLock::default(),
            poison: Mutex::default(),
            checkpoint: Mutex::default(),
            commands,
            orders,
            room: Arc::new(Semaphore::new(units)),
            propose_timeout: parts.propose_timeout,
        };
        let inbox = Inbox {
            commands: receiver,
            orders: order_receiver,
        };
        (Arc::new(replica), inbox)
    }

    /// Returns the open state, if there is one.
    pub(super) fn store(&self) -> Option<Arc<dyn StateStore>> {
        self.numbered_store().1
    }

    /// Returns the open state with its number.
    pub(super) fn numbered_store(&self) -> (u64, Option<Arc<dyn StateStore>>) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        (open.number, open.store.clone())
    }

    /// Returns the number of the state opened last.
    pub(super) fn opened(&self) -> u64 {
        self.numbered_store().0
    }

    pub(super) fn set_store(&self, store: Option<Arc<dyn StateStore>>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.number += u64::from(store.is_some());
        open.store = store;
    }

    /// Tells the task when `result` shows that the state with the number `opened` is damaged.
    pub(super) fn note_read<T>(&self, opened: u64, result: &Result<T, StateError>) {
        if let Err(StateError::Corrupt(detail)) = result {
            self.note_damaged(opened, detail);
        }
    }

    fn note_damaged(&self, opened: u64, detail: &str) {
        let detail = detail.to_owned();
        // When the channel is full the task has enough to do; who reads the damage again tells it again.
        drop(self.orders.try_send(Order::Damaged { opened, detail }));
    }

    pub(super) fn set_poison(&self, incarnation: Incarnation, record: PoisonRecord) {
        *self.poison.lock().unwrap_or_else(PoisonError::into_inner) = Some((incarnation, record));
    }

    /// Returns the record that cannot be applied which was met last; it may be passed since.
    pub(super) fn poison_known(&self) -> Option<(Incarnation, PoisonRecord)> {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers that `dir` is a checkpoint of the open state with the number `opened`.
    fn note_checkpoint(&self, dir: &Path, opened: u64) {
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        *checkpoint = Some((dir.to_owned(), opened));
    }

    /// Returns the number of the state that `dir` is a checkpoint of.
    fn checkpoint_of(&self, dir: &Path) -> Option<u64> {
        let checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, opened) = checkpoint.as_ref()?;
        (made == dir).then_some(*opened)
    }

    /// Hands records to the task and waits for their fate.
    pub(super) async fn submit(&self, bodies: Vec<LedBody>, bytes: usize) -> Answer {
        let deadline = Instant::now() + self.propose_timeout;
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
        let room = timeout_at(deadline, Arc::clone(&self.room).acquire_many_owned(units)).await;
        let room = room
            .map_err(|_| ProposeError::Overloaded)?
            .map_err(|_| ProposeError::Stopping)?;
        let (answer, receiver) = oneshot::channel();
        let proposal = Proposal {
            bodies,
            answer,
            room: Some(room),
        };
        match timeout_at(deadline, self.commands.send(Command::Propose(proposal))).await {
            Err(_) => return Err(ProposeError::Overloaded),
            Ok(Err(_)) => return Err(ProposeError::Stopping),
            Ok(Ok(())) => {}
        }
        let unknown = |detail: &str| {
            Err(ProposeError::Unknown {
                detail: detail.to_owned(),
            })
        };
        match timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => unknown("the partition was closed"),
            Err(_) => unknown("it was not seen in the log in time"),
        }
    }

    /// Asks the task to announce this replica, and waits for the announcement to be applied.
    pub(super) async fn announce(&self) -> LeadAnswer {
        let deadline = Instant::now() + self.propose_timeout;
        let not_active = || LeadError::NotActive {
            state: self.status.borrow().state.clone(),
        };
        let (answer, receiver) = oneshot::channel();
        match timeout_at(deadline, self.commands.send(Command::Lead(answer))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(not_active()),
        }
        match timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(not_active()),
            Err(_) => Err(LeadError::Unknown),
        }
    }

    /// Returns what is wrong with a state for this node's software; `None` when it can be used.
    pub(super) fn misfit(&self, found: &StateMachineVersion) -> Option<String> {
        misfit(&*self.machine, found)
    }

    /// Notes that everything up to `durable` is safe.
    pub(super) fn note_durable(&self, durable: Lsn, log_bytes: u64) {
        self.status.send_modify(|status| {
            if status.durable_lsn.is_none_or(|known| known < durable) {
                status.durable_lsn = Some(durable);
                if status.needed.is_some() {
                    status.needed = Some((durable, log_bytes));
                }
            }
        });
    }
}

#[async_trait]
impl PartitionHost for Replica {
    fn status(&self) -> ReplicaStatus {
        self.status.borrow().clone()
    }

    async fn checkpoint(&self, dir: &Path) -> Result<(), HostError> {
        let (opened, store) = self.numbered_store();
        let store = store.ok_or_else(|| HostError::Unavailable("the state is not open".to_owned()))?;
        // What was applied before the checkpoint is in it; taking it from memory afterwards would claim too much.
        let before = {
            let status = self.status.borrow();
            status.applied_lsn.zip(status.log_bytes)
        };
        let target = dir.to_owned();
        self.blocking
            .run(move || store.checkpoint(&target))
            .await
            .map_err(host_error)?;
        self.note_checkpoint(dir, opened);
        if let Some((applied, log_bytes)) = before {
            self.note_durable(applied, log_bytes);
        }
        Ok(())
    }

    async fn inspect(&self, dir: &Path) -> Result<CheckpointFacts, HostError> {
        let (engine, machine) = (Arc::clone(&self.engine), Arc::clone(&self.machine));
        let target = dir.to_owned();
        let read = move || inspect_state(&*engine, &*machine, &target);
        // A partition that is being restored waits for this; an export or a check does not.
        let waited_for = self.status.borrow().state == PartitionState::Restoring;
        let facts = if waited_for {
            self.blocking.run(read).await
        } else {
            self.blocking.run_in_background(read).await
        };
        // The files of a checkpoint are those of the state it was made from.
        if let (Err(HostError::Corrupt(detail)), Some(opened)) = (&facts, self.checkpoint_of(dir)) {
            self.note_damaged(opened, detail);
        }
        facts
    }

    fn reusable_files(&self) -> Option<PathBuf> {
        Some(self.dirs.state())
    }

    async fn install(&self, dir: &Path, manifest: &Manifest) -> Result<(), HostError> {
        // The task closed the state before it asked for a restore, and opens what is in place afterwards.
        if self.store().is_some() || self.status.borrow().state != PartitionState::Restoring {
            return Err(HostError::Unavailable(
                "the partition is not being restored".to_owned(),
            ));
        }
        if manifest.cluster.fingerprint != self.fingerprint {
            return Err(HostError::Mismatch(format!(
                "the snapshot belongs to cluster {}, this node to {}",
                manifest.cluster, self.fingerprint
            )));
        }
        let (lsn, log_bytes) = (manifest.lsn, manifest.log_bytes);
        let (engine, dirs) = (Arc::clone(&self.engine), self.dirs.clone());
        let (dir, manifest) = (dir.to_owned(), manifest.clone());
        let install = move || -> Result<(), HostError> {
            adopt_state(&*engine, &dir, &manifest)?;
            Ok(dirs.replace(&dir)?)
        };
        self.blocking.run(install).await?;
        // From here on the log must keep what follows, also before the new state is open.
        self.status
            .send_modify(|status| status.needed = Some((lsn, log_bytes)));
        Ok(())
    }

    async fn advance(&self) -> Result<Lsn, HostError> {
        let applied = self.submit(vec![LedBody::NoOp], 0).await;
        let applied = applied.map_err(|error| HostError::Unavailable(error.to_string()))?;
        let last = applied.last().map(|applied| applied.lsn);
        last.ok_or_else(|| HostError::Unavailable("nothing was appended".to_owned()))
    }

    async fn lead(&self) -> Result<LeaderEpoch, HostError> {
        self.announce()
            .await
            .map_err(|error| HostError::Unavailable(error.to_string()))
    }

    fn poison(&self) -> Option<PoisonRecord> {
        self.poison_known().map(|(_, poison)| poison)
    }

    async fn skip(&self, order: SkipOrder) -> Result<Lsn, SkipError> {
        self.order_skip(order).await
    }

    async fn rebuild(&self, dry_run: bool) -> RebuildAnswer {
        let gone = || RebuildError::NotNow {
            state: self.status.borrow().state.clone(),
        };
        let (answer, receiver) = oneshot::channel();
        let order = Order::Rebuild(RebuildOrder { dry_run, answer });
        self.orders.try_send(order).map_err(|_| gone())?;
        match timeout(REBUILD_ANSWER_MAX, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(RebuildError::Unavailable(
                "the partition did not answer in time; look at its status before asking again".to_owned(),
            )),
        }
    }
}
