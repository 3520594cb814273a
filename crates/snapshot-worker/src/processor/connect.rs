//! From nothing to a reader at the right position.
//!
//! 1. The registry says which life of the log is in force, the log where it begins.
//! 2. The local state is opened, unless it is. A replacement that a crash interrupted is finished first.
//! 3. [`next_step`] decides: go on, restore, set aside, or give up. The object store is asked only for a restore.
//!
//! Steps that change something lead back to 1, because time has passed.

use super::{
    metadata::{METADATA_KEY, StateMetadata},
    state_machine::Changes,
    store::{StateError, StateStore, read_metadata},
    task::{Halt, Local, Task, halt_of_log, halt_of_read, halt_of_state},
};
use crate::{
    agent::{HostError, RestoreError, RestoreOutcome, RestoreRequest, ReuseLocal},
    core::{
        BlockedReason, Chain, LocalFacts, LogFacts, PartitionState, RestoreKind, StartStep,
        may_replay_from_first, next_step,
    },
};
use futures::{StreamExt, stream};
use partition_log::{LogInfo, ReadError, RecordBatch, RecordStream, Registration};
use snapshot_store::{
    ChainHash, Incarnation, Lsn, RecordHash,
    format::{ChainPoint, StateMachineVersion},
};
use std::{error::Error, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How many steps may lead back to the beginning.
const STEPS_MAX: usize = 8;
/// How long the record at the applied LSN may take to arrive.
const FIRST_RECORD_MAX: Duration = Duration::from_secs(5);
/// How long a tail below the applied LSN is given to turn out as old news.
const TAIL_LAG_MAX: Duration = Duration::from_millis(250);

/// Where reading goes on.
pub(super) struct Position {
    /// Begins right after the applied LSN.
    pub(super) records: RecordStream,
    /// The tail, as it was told when the position was found.
    pub(super) tail: Lsn,
}

impl Task {
    /// Finds the position, and gets there.
    pub(super) async fn connect(&mut self) -> Result<Position, Halt> {
        for _ in 0..STEPS_MAX {
            let (registration, info) = match self.look_at_log().await {
                Ok(found) => found,
                Err(halt) => {
                    self.show_local().await;
                    return Err(halt);
                }
            };
            let log = self.log_facts(&registration, &info);
            if self.local.is_none() {
                self.open_local().await?;
            }
            let local = self.local.as_ref().map(|local| LocalFacts {
                regressed: self.regressed_at == Some((log.incarnation, local.metadata.applied_lsn)),
                ..local_facts(&local.metadata, log.base)
            });
            match next_step(local.as_ref(), &log) {
                StartStep::Compare { applied } => {
                    if let Some(position) = self.compare(applied, &log, info.tail).await? {
                        return Ok(position);
                    }
                }
                StartStep::ReadFrom { from } => {
                    if let Some(records) = self.read(log.incarnation, from).await? {
                        return Ok(Position {
                            records,
                            tail: info.tail,
                        });
                    }
                }
                StartStep::Restore { kind } => self.restore(kind, &log).await?,
                StartStep::SetAside { incarnation } => self.set_aside(incarnation).await?,
                StartStep::Blocked { reason, detail } => return Err(Halt::Blocked(reason, detail)),
            }
        }
        Err(Halt::Again)
    }

    pub(super) async fn look_at_log(&mut self) -> Result<(Registration, LogInfo), Halt> {
        let (log, partition) = (Arc::clone(&self.log), self.replica.partition);
        let asked = Arc::clone(&log);
        let registration = self
            .ask(async move { asked.registration(partition).await })
            .await?;
        let registration = registration.map_err(halt_of_log)?;
        if registration.fingerprint != self.replica.fingerprint {
            let detail = format!(
                "the log belongs to cluster {}, this node to {}",
                registration.fingerprint, self.replica.fingerprint
            );
            return Err(Halt::Blocked(BlockedReason::LogIncarnation, detail));
        }
        let info = self
            .ask(async move { log.info(partition).await })
            .await?
            .map_err(halt_of_log)?;
        self.replica
            .status
            .send_modify(|status| status.tail_seen = Some(info.tail));
        Ok((registration, info))
    }

    pub(super) fn log_facts(&self, registration: &Registration, info: &LogInfo) -> LogFacts {
        let incarnation = registration.incarnation;
        let seen = self
            .trim_seen
            .filter(|(of, _)| *of == incarnation)
            .map_or(Lsn::ZERO, |(_, seen)| seen);
        LogFacts {
            incarnation,
            first_lsn: registration.first_lsn(),
            has_base: registration.base.is_some(),
            base: registration.base.and_then(|base| {
                Some(ChainPoint {
                    lsn: base.lsn,
                    hash: base.chain_hash?,
                })
            }),
            trim_point: info.trim_point.max(seen),
        }
    }

    /// Opens the local state, if there is one that was ever written.
    async fn open_local(&mut self) -> Result<(), Halt> {
        let replica = Arc::clone(&self.replica);
        let opened = self.replica.blocking.run(move || {
            let failed = |error: std::io::Error| match HostError::from(error) {
                full if full.is_full_disk() => StateError::NoSpace(with_causes(&full)),
                error => StateError::Failed(with_causes(&error)),
            };
            replica.dirs.recover().map_err(failed)?;
            if !replica.dirs.state().try_exists().map_err(failed)? {
                return Ok(None);
            }
            let store = replica.engine.open(&replica.dirs.state())?;
            let metadata = read_metadata(&*Arc::clone(&store).snapshot())?;
            Ok(metadata.map(|metadata| Local { store, metadata }))
        });
        let Some(local) = opened.await.map_err(|error| halt_of_state(&error))? else {
            return Ok(());
        };
        self.check_owner(&local.metadata)?;
        self.adopt(local);
        Ok(())
    }

    /// Opens the local state for what it says of itself, while there is no log to go on with: an operator who has lost the
    /// log asks how far it went. What is wrong with the state is found, and said, once the log is back.
    async fn show_local(&mut self) {
        if self.local.is_none()
            && let Err(halt) = self.open_local().await
        {
            tracing::debug!(partition = %self.replica.partition, ?halt, "the local state cannot be shown without a log");
        }
    }

    fn check_owner(&self, metadata: &StateMetadata) -> Result<(), Halt> {
        let replica = &self.replica;
        if metadata.fingerprint != replica.fingerprint || metadata.key_range != replica.key_range {
            let (found, own) = (metadata.key_range, replica.key_range);
            let detail = format!(
                "the folder holds partition {} of {} of cluster {}, not partition {} of {} of cluster {}",
                found.partition, found.of, metadata.fingerprint, own.partition, own.of, replica.fingerprint
            );
            return Err(Halt::Blocked(BlockedReason::LocalState, detail));
        }
        match replica.misfit(&metadata.state_machine) {
            Some(detail) => Err(Halt::Blocked(BlockedReason::StateVersion, detail)),
            None => Ok(()),
        }
    }

    /// Goes on with `local`, which was just read from disk: all of it is durable.
    fn adopt(&mut self, local: Local) {
        let metadata = &local.metadata;
        self.replica.status.send_modify(|status| {
            status.leader = metadata.leader.clone();
            status.incarnation = Some(metadata.incarnation);
            status.applied_lsn = Some(metadata.applied_lsn);
            status.durable_lsn = Some(metadata.applied_lsn);
            status.log_bytes = Some(metadata.log_bytes);
            status.chain = metadata.chain.trail(metadata.applied_lsn);
            status.needed = status.needed.map(|_| (metadata.applied_lsn, metadata.log_bytes));
        });
        self.replica.set_store(Some(Arc::clone(&local.store)));
        self.local = Some(local);
    }

    /// Opens a reader at `from`; `None` when that was trimmed meanwhile.
    async fn read(&mut self, incarnation: Incarnation, from: Lsn) -> Result<Option<RecordStream>, Halt> {
        let (log, partition) = (Arc::clone(&self.log), self.replica.partition);
        match self
            .ask(async move { log.read(partition, incarnation, from).await })
            .await?
        {
            Ok(records) => Ok(Some(records)),
            Err(ReadError::Trimmed { trim_point }) => {
                self.note_trimmed(incarnation, trim_point);
                Ok(None)
            }
            Err(error) => Err(halt_of_read(error)),
        }
    }

    pub(super) fn note_trimmed(&mut self, incarnation: Incarnation, trim_point: Lsn) {
        let known = self
            .trim_seen
            .filter(|(of, _)| *of == incarnation)
            .map_or(Lsn::ZERO, |(_, known)| known);
        self.trim_seen = Some((incarnation, known.max(trim_point)));
    }

    /// Checks that the log holds at `applied` the record that was applied there; `None` when it was trimmed
    /// meanwhile.
    async fn compare(&mut self, applied: Lsn, log: &LogFacts, tail: Lsn) -> Result<Option<Position>, Halt> {
        if tail <= applied {
            // Once could be old news.
            self.away(sleep(TAIL_LAG_MAX)).await?;
            let (_, info) = self.look_at_log().await?;
            if info.tail <= applied {
                let detail = format!("the log ends before {}, {applied} was applied here", info.tail);
                return Err(Halt::Blocked(BlockedReason::LogRegressed, detail));
            }
        }
        let Some(mut records) = self.read(log.incarnation, applied).await? else {
            return Ok(None);
        };
        let first = self.away(timeout(FIRST_RECORD_MAX, records.next())).await?;
        let batch = match first {
            Ok(Some(Ok(batch))) => batch,
            Ok(Some(Err(ReadError::Trimmed { trim_point }))) => {
                self.note_trimmed(log.incarnation, trim_point);
                return Ok(None);
            }
            Ok(Some(Err(error))) => return Err(halt_of_read(error)),
            Ok(None) => return Err(Halt::Unavailable("the log ended the stream".to_owned())),
            Err(_) => {
                return Err(Halt::Unavailable(format!(
                    "the record at {applied} did not arrive"
                )));
            }
        };
        let RecordBatch {
            first,
            records: mut head,
        } = batch;
        if first != applied || head.is_empty() {
            return Err(Halt::Blocked(
                BlockedReason::LogHole,
                format!("asked for {applied}, got {first}"),
            ));
        }
        let found = RecordHash::of(&head.remove(0));
        let remembered = self.local.as_ref().and_then(|local| local.metadata.last_record);
        if remembered.is_some_and(|remembered| remembered != found) {
            let detail = format!("the log holds another record at {applied} than the one applied here");
            return Err(Halt::Blocked(BlockedReason::LogRegressed, detail));
        }
        self.regressed_at = None;
        let records = if head.is_empty() {
            records
        } else {
            let rest = RecordBatch {
                first: applied.next(),
                records: head,
            };
            stream::iter([Ok(rest)]).chain(records).boxed()
        };
        Ok(Some(Position { records, tail }))
    }

    /// Gets a snapshot, or begins with an empty state where that gives the same.
    async fn restore(&mut self, kind: RestoreKind, log: &LogFacts) -> Result<(), Halt> {
        let applied_lsn = self.applied();
        self.step_down(&PartitionState::Restoring);
        self.close_local().await?;
        let under_way = match applied_lsn {
            None => self.under_way().await?,
            Some(_) => None,
        };
        // What made the state a case for a rebuild may be in any of the node's files.
        let (kind, reuse) = match under_way {
            Some(_) => (RestoreKind::Rebuild, ReuseLocal::Nothing),
            None => (kind, ReuseLocal::Allowed),
        };
        self.replica.status.send_modify(|status| status.needed = None);
        self.set_state(PartitionState::Restoring);
        let request = RestoreRequest {
            kind,
            incarnation: log.incarnation,
            trim_point: log.trim_point,
            applied_lsn,
            reuse,
        };
        let (agent, partition) = (self.agent.clone(), self.replica.partition);
        let outcome = self
            .away(async move { agent.restore(partition, request).await })
            .await?;
        let failure = match outcome {
            Ok(RestoreOutcome::Restored(_)) => return Ok(()),
            Ok(RestoreOutcome::NothingUsable { detail, .. }) => match may_replay_from_first(log) {
                Ok(()) => return self.begin_empty(log.incarnation).await,
                Err(why) => {
                    let detail = format!("{why}, and {detail}");
                    Halt::Blocked(BlockedReason::NoCoveringSnapshot, detail)
                }
            },
            Err(error) => Halt::Blocked(blocked_reason(&error), with_causes(&error)),
        };
        self.undo_rebuild(under_way, failure).await
    }

    /// Begins with an empty state before the log's first record, and makes that durable.
    async fn begin_empty(&mut self, incarnation: Incarnation) -> Result<(), Halt> {
        let replica = Arc::clone(&self.replica);
        let metadata = StateMetadata {
            applied_lsn: Lsn::ZERO,
            incarnation,
            fingerprint: replica.fingerprint,
            key_range: replica.key_range,
            chain: Chain::starting_at(ChainHash::origin(&replica.fingerprint, &incarnation)),
            last_record: None,
            leader: None,
            state_machine: StateMachineVersion {
                name: replica.machine.name().to_owned(),
                version: replica.machine.version(),
            },
            log_bytes: 0,
        };
        let changes = Changes::from([(METADATA_KEY.to_vec(), Some(metadata.encode().into()))]);
        let created = self.replica.blocking.run(move || {
            let store: Arc<dyn StateStore> = replica.engine.open(&replica.dirs.state())?;
            store.write(&changes)?;
            store.flush()?;
            Ok(Local { store, metadata })
        });
        let local = created.await.map_err(|error: StateError| halt_of_state(&error))?;
        self.adopt(local);
        Ok(())
    }

    /// Shows that there is no local state any more.
    pub(super) fn forget_state(&mut self) {
        self.search = None;
        self.replica.status.send_modify(|status| {
            status.leader = None;
            status.incarnation = None;
            status.applied_lsn = None;
            status.durable_lsn = None;
            status.needed = None;
            status.log_bytes = None;
            status.chain = Default::default();
        });
    }

    async fn set_aside(&mut self, incarnation: Incarnation) -> Result<(), Halt> {
        self.step_down(&PartitionState::Opening);
        self.close_local().await?;
        let dirs = self.replica.dirs.clone();
        let moved = self
            .replica
            .blocking
            .run(move || dirs.set_aside(&incarnation))
            .await;
        let folder = moved.map_err(|error| Halt::Blocked(BlockedReason::LocalState, error.to_string()))?;
        self.set_state(PartitionState::Opening);
        self.forget_state();
        tracing::warn!(
            partition = %self.replica.partition, %incarnation, folder = %folder.display(),
            "the log has a newer incarnation; the old local state is set aside"
        );
        Ok(())
    }
}

/// Returns what a start looks at of the local state; `base` is where the log continues another one.
fn local_facts(metadata: &StateMetadata, base: Option<ChainPoint>) -> LocalFacts {
    let trail = metadata.chain.trail(metadata.applied_lsn).0;
    let at_base = base.and_then(|base| trail.into_iter().find(|point| point.lsn == base.lsn));
    LocalFacts {
        incarnation: metadata.incarnation,
        applied_lsn: metadata.applied_lsn,
        regressed: false,
        hash_at_base: at_base.map(|point| point.hash),
    }
}

fn blocked_reason(error: &RestoreError) -> BlockedReason {
    match error {
        RestoreError::StoreUnavailable { .. } => BlockedReason::StoreUnavailable,
        RestoreError::StoreUnusable { .. } => BlockedReason::StoreUnusable,
        RestoreError::Unfit { .. } => BlockedReason::StateVersion,
        RestoreError::Local { source, .. } if source.is_full_disk() => BlockedReason::DiskFull,
        RestoreError::Local { .. } => BlockedReason::LocalState,
    }
}

/// Returns the error's text with those of its causes.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
