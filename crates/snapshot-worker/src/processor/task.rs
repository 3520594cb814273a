//! The task of one partition: opening, following the log, and being blocked, until it is stopped.
//!
//! | File | Part |
//! |---|---|
//! | `task` | the loop around it all: backoff, waiting, closing |
//! | `connect` | from nothing to a reader at the right position: local state, log, restore |
//! | `follow` | applying records, proposing, flushing |
//! | `skip`, `rebuild` | what is in the way: a record that cannot be applied, a state that is damaged |
//!
//! Each partition has a task of its own, and a task that fails blocks its partition alone.

use super::{
    metadata::StateMetadata,
    propose::{LeadError, ProposeError},
    proposer::Proposer,
    rebuild::{Order, RebuildOrder},
    replica::{Command, Replica},
    skip::SkipSearch,
    store::{StateError, StateStore},
};
use crate::{
    agent::SnapshotAgent,
    core::{BlockedReason, PartitionState},
    metrics,
};
use futures::{FutureExt, future::BoxFuture};
use partition_log::{AppendError, Log, LogError, ReadError};
use snapshot_store::{Incarnation, Lsn, ReplicaRole, Seams};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the log may take to answer one request.
pub(super) const LOG_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long closing waits for readers of the state before it gives up.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a reader that was cut off waits before it reads again; doubles up to the second value.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// How often in a row the log may be looked at anew without one record being applied.
const ROUNDS_MAX: u32 = 10;
/// Jitter of every wait, to both sides.
const JITTER: f64 = 0.2;

/// How the task paces itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) flush_interval: Duration,
    pub(super) flush_records: u64,
    pub(super) apply_records_max: usize,
    pub(super) apply_bytes_max: usize,
    pub(super) retry_min: Duration,
    pub(super) retry_max: Duration,
    pub(super) log_patience: Duration,
    pub(super) drain_max: Duration,
}

/// The open state, as its one writer knows it.
pub(super) struct Local {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) metadata: StateMetadata,
}

/// Why the task does not go on as it did.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was stopped.
    Stopped,
    /// It cannot go on by itself.
    Blocked(BlockedReason, String),
    /// The log must be looked at anew.
    Again,
    /// The log does not answer.
    Unavailable(String),
    /// The local state is damaged.
    Damaged(String),
    /// An operator wants the local state replaced.
    Ordered(RebuildOrder),
}

pub(super) struct Flush {
    pub(super) up_to: Lsn,
    pub(super) log_bytes: u64,
    pub(super) done: BoxFuture<'static, Result<(), StateError>>,
}

pub(super) struct Task {
    pub(super) replica: Arc<Replica>,
    pub(super) log: Arc<dyn Log>,
    pub(super) agent: SnapshotAgent,
    pub(super) seams: Seams,
    pub(super) pace: Pace,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
    pub(super) local: Option<Local>,
    pub(super) proposer: Proposer,
    pub(super) append: Option<BoxFuture<'static, Result<Lsn, AppendError>>>,
    pub(super) flush: Option<Flush>,
    /// When what is applied and not flushed is to be flushed; `None` while all is.
    pub(super) flush_at: Option<Instant>,
    /// The highest trim point a reader met, and of which log: what the log says of itself may lag.
    pub(super) trim_seen: Option<(Incarnation, Lsn)>,
    /// The applied LSN at which the log was seen without the record applied there, or with another one; of which log.
    pub(super) regressed_at: Option<(Incarnation, Lsn)>,
    /// The record that cannot be applied and is in the way, and whether it may be passed over.
    pub(super) search: Option<SkipSearch>,
    /// When the state was last found damaged and set aside.
    pub(super) damaged_at: Option<Instant>,
    /// The disk was full: the replica is active again once a flush has succeeded.
    pub(super) flush_first: bool,
    /// The partition became active: what was set aside is not needed any more.
    pub(super) discard_due: bool,
}

impl Task {
    /// Runs until stopped, then closes the state.
    pub(super) async fn run(mut self) {
        let mut delay = self.pace.retry_min;
        let mut interrupted: Option<Halt> = None;
        loop {
            let before = (self.applied(), self.durable());
            // A panic is a bug; the partition is blocked by it, the node and its neighbours are not.
            let (reason, detail) = match AssertUnwindSafe(self.attempt(interrupted.take()))
                .catch_unwind()
                .await
            {
                Ok(None) => break,
                Ok(Some(blocked)) => blocked,
                Err(_) => (
                    BlockedReason::LocalState,
                    "an internal error, see this node's log".to_owned(),
                ),
            };
            let moved = match reason {
                // What is applied anew each time and cannot be written is no step forward.
                BlockedReason::DiskFull => self.durable() != before.1,
                _ => self.applied() != before.0,
            };
            if moved {
                delay = self.pace.retry_min;
            }
            self.block(reason, detail);
            match self.pause(self.jittered(delay)).await {
                Ok(()) => {}
                Err(Halt::Stopped) => break,
                Err(halt) => interrupted = Some(halt),
            }
            delay = (delay * 2).min(self.pace.retry_max);
        }
        self.finish().await;
    }

    /// Goes as far as possible: returns `None` when stopped, else why it is blocked. Begins with what interrupted the
    /// wait before it.
    async fn attempt(&mut self, mut interrupted: Option<Halt>) -> Option<(BlockedReason, String)> {
        let mut rounds = 0;
        let mut outage: Option<Instant> = None;
        let mut delay = RECONNECT_MIN;
        loop {
            let (before, began) = (self.applied(), Instant::now());
            let halt = match interrupted.take() {
                Some(halt) => halt,
                None => match self.connect().await {
                    Ok(position) => self.follow(position).await,
                    Err(halt) => halt,
                },
            };
            let ordered = matches!(halt, Halt::Ordered(_));
            let halt = self.settle(halt).await;
            if ordered
                || self.applied() != before
                || began.elapsed() >= self.pace.log_patience + LOG_ANSWER_MAX
            {
                (rounds, outage, delay) = (0, None, RECONNECT_MIN);
            }
            rounds += 1;
            match halt {
                Halt::Stopped => return None,
                Halt::Blocked(reason, detail) => return Some((reason, detail)),
                halt @ (Halt::Damaged(_) | Halt::Ordered(_)) => {
                    interrupted = Some(halt);
                    continue;
                }
                Halt::Again if rounds <= ROUNDS_MAX => {}
                Halt::Again => {
                    let detail =
                        format!("the log had to be looked at {rounds} times without a record applied");
                    return Some((BlockedReason::LogUnavailable, detail));
                }
                Halt::Unavailable(detail) => {
                    let since = *outage.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.pace.log_patience {
                        return Some((BlockedReason::LogUnavailable, detail));
                    }
                }
            }
            match self.away(sleep(self.jittered(delay))).await {
                Ok(()) => {}
                Err(Halt::Stopped) => return None,
                Err(halt) => interrupted = Some(halt),
            }
            delay = (delay * 2).min(RECONNECT_MAX);
        }
    }

    fn durable(&self) -> Option<Lsn> {
        self.replica.status.borrow().durable_lsn
    }

    pub(super) fn applied(&self) -> Option<Lsn> {
        self.local.as_ref().map(|local| local.metadata.applied_lsn)
    }

    pub(super) fn jittered(&self, delay: Duration) -> Duration {
        delay.mul_f64(self.seams.entropy.jitter(JITTER))
    }

    /// Waits for `work` while answering whoever asks the task for something.
    pub(super) async fn away<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Halt> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Halt::Stopped),
                done = &mut work => return Ok(done),
                Some(command) = self.commands.recv() => self.take(command),
                Some(order) = self.orders.recv() => {
                    if let Some(halt) = self.take_order(order) {
                        return Err(halt);
                    }
                }
            }
            self.proposer.send_answers();
        }
    }

    /// Asks the log something.
    pub(super) async fn ask<T, E>(
        &mut self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Halt> {
        let answer = self.away(timeout(LOG_ANSWER_MAX, question)).await?;
        answer.map_err(|_| Halt::Unavailable(format!("no answer within {} s", LOG_ANSWER_MAX.as_secs())))
    }

    /// Takes a request from outside; only an active replica does anything about it.
    pub(super) fn take(&mut self, command: Command) {
        let state = self.replica.status.borrow().state.clone();
        match command {
            Command::Propose(proposal) if state == PartitionState::Active => {
                let leader = self
                    .local
                    .as_ref()
                    .and_then(|local| local.metadata.leader.as_ref());
                self.proposer.propose(proposal, leader);
            }
            Command::Lead(answer) if state == PartitionState::Active => {
                let leader = self
                    .local
                    .as_ref()
                    .and_then(|local| local.metadata.leader.as_ref());
                self.proposer.lead(answer, leader.map(|(leader, _)| leader));
            }
            // A receiver that is gone does not care.
            Command::Propose(proposal) => {
                drop(proposal.answer.send(Err(ProposeError::NotActive { state })));
            }
            Command::Lead(answer) => drop(answer.send(Err(LeadError::NotActive { state }))),
        }
    }

    pub(super) fn set_state(&mut self, state: PartitionState) {
        self.replica.status.send_if_modified(|status| {
            let changed = status.state != state;
            status.state = state;
            changed
        });
        metrics::replica_moved(&self.replica.status.borrow());
    }

    /// Gives up leadership and everything under way; `state` is where the partition goes now.
    pub(super) fn step_down(&mut self, state: &PartitionState) {
        self.append = None;
        self.proposer.abandon(state);
        self.replica
            .status
            .send_modify(|status| status.role = ReplicaRole::Follower);
        self.proposer.send_answers();
    }

    fn block(&mut self, reason: BlockedReason, detail: String) {
        let partition = self.replica.partition;
        let news = !matches!(
            &self.replica.status.borrow().state,
            PartitionState::Blocked { reason: known, .. } if *known == reason
        );
        if news {
            tracing::warn!(%partition, %reason, detail, remedy = reason.remedy(), "the partition is blocked");
            metrics::became_blocked(reason);
        }
        let state = PartitionState::Blocked { reason, detail };
        self.step_down(&state);
        if reason == BlockedReason::LogRegressed
            && let Some(Local { metadata, .. }) = &self.local
        {
            self.regressed_at = Some((metadata.incarnation, metadata.applied_lsn));
        }
        if matches!(reason, BlockedReason::LocalState | BlockedReason::DiskFull) {
            // Whatever is wrong with the open state, the next attempt opens it anew: RocksDB takes no write after one that
            // failed, and what it had not flushed is in the log.
            self.flush_first |= reason == BlockedReason::DiskFull;
            self.flush = None;
            self.flush_at = None;
            self.local = None;
            self.replica.set_store(None);
        }
        self.set_state(state);
    }

    /// Closes the state, so that its folder can be moved. Waits for readers, for a limited time.
    pub(super) async fn close_local(&mut self) -> Result<(), Halt> {
        self.flush = None;
        self.flush_at = None;
        self.replica.set_store(None);
        let Some(Local { store, .. }) = self.local.take() else {
            return Ok(());
        };
        let give_up = Instant::now() + CLOSE_WAIT_MAX;
        while Arc::strong_count(&store) > 1 || store.has_snapshots() {
            if Instant::now() >= give_up {
                let detail = "the state is still being read and cannot be closed".to_owned();
                return Err(Halt::Blocked(BlockedReason::LocalState, detail));
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.replica.blocking.run(move || drop(store)).await;
        Ok(())
    }

    /// Answers whoever still waits, flushes and closes the state.
    async fn finish(mut self) {
        self.commands.close();
        self.step_down(&PartitionState::Opening);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Propose(proposal) => drop(proposal.answer.send(Err(ProposeError::Stopping))),
                Command::Lead(answer) => {
                    drop(answer.send(Err(LeadError::NotActive {
                        state: PartitionState::Opening,
                    })));
                }
            }
        }
        if let Some(local) = &self.local {
            let (store, metadata) = (Arc::clone(&local.store), &local.metadata);
            let (up_to, log_bytes) = (metadata.applied_lsn, metadata.log_bytes);
            match self.replica.blocking.run(move || store.flush()).await {
                Ok(()) => self.replica.note_durable(up_to, log_bytes),
                Err(error) => {
                    tracing::warn!(partition = %self.replica.partition, %error, "the last flush failed; the log has it all");
                }
            }
        }
        if let Err(halt) = self.close_local().await {
            tracing::warn!(partition = %self.replica.partition, ?halt, "the state was not closed in time");
        }
    }
}

/// Says what a failed read means.
pub(super) fn halt_of_read(error: ReadError) -> Halt {
    match error {
        // The trim point was noted; what it means is decided when the log is looked at again.
        ReadError::Trimmed { .. } => Halt::Again,
        ReadError::Regressed { .. } => Halt::Blocked(BlockedReason::LogRegressed, error.to_string()),
        ReadError::Hole { .. } => Halt::Blocked(BlockedReason::LogHole, error.to_string()),
        // The registry is asked anew: it may name another life of the log by now.
        ReadError::Log(LogError::OtherIncarnation { .. }) => Halt::Again,
        ReadError::Log(error) => halt_of_log(error),
    }
}

/// Says what a failed request means.
pub(super) fn halt_of_log(error: LogError) -> Halt {
    match error {
        LogError::Missing { .. } => Halt::Blocked(BlockedReason::LogMissing, error.to_string()),
        LogError::OtherIncarnation { .. } => Halt::Blocked(BlockedReason::LogIncarnation, error.to_string()),
        LogError::Moved { .. } => Halt::Blocked(BlockedReason::LogMoved, error.to_string()),
        LogError::Unavailable { .. } => Halt::Unavailable(error.to_string()),
    }
}

/// Says what a failed use of the local state means.
pub(super) fn halt_of_state(error: &StateError) -> Halt {
    let detail = error.to_string();
    match error {
        StateError::Newer { .. } => Halt::Blocked(BlockedReason::StateVersion, detail),
        StateError::NoSpace(_) => Halt::Blocked(BlockedReason::DiskFull, detail),
        StateError::Failed(_) => Halt::Blocked(BlockedReason::LocalState, detail),
        StateError::Corrupt(_) => Halt::Damaged(detail),
    }
}
