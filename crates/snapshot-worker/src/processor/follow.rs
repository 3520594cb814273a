//! Following the log: applying what comes, proposing, and flushing.

use super::{
    apply::{AppliedRuns, Stop, apply_runs},
    connect::Position,
    proposer::{Append, Signal},
    skip::SkipSearch,
    store::StateError,
    task::{Flush, Halt, LOG_ANSWER_MAX, Task, halt_of_read, halt_of_state},
};
use crate::{
    core::{BlockedReason, PartitionState},
    failpoint, metrics,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use partition_log::{AppendError, ReadError, RecordBatch, RecordStream};
use snapshot_store::{Lsn, ReplicaRole};
use std::{future::pending, sync::Arc};
use tokio::time::{Instant, sleep_until, timeout};

/// How many full writes of records are taken from the log at once, where it has them: while one is written, the next is
/// prepared.
const WRITES_GATHERED: usize = 4;

/// What wakes the task.
enum Event {
    Stop,
    Command(super::replica::Command),
    Order(super::rebuild::Order),
    Appended(Result<Lsn, AppendError>),
    Flushed(Result<(), StateError>),
    Read(Option<Result<RecordBatch, ReadError>>),
    Timer,
}

impl Task {
    /// Follows the log from `position` until something is in the way.
    pub(super) async fn follow(&mut self, position: Position) -> Halt {
        let Position { mut records, tail } = position;
        self.begin_following(tail);
        // Once stopped: until when proposals under way are waited for.
        let mut drain_until: Option<Instant> = None;
        loop {
            self.proposer.send_answers();
            if std::mem::take(&mut self.discard_due) {
                self.discard_set_aside().await;
            }
            if drain_until.is_some_and(|until| self.proposer.is_idle() || Instant::now() >= until) {
                return Halt::Stopped;
            }
            self.start_append();
            self.start_flush();
            let timer = [
                self.flush_at.filter(|_| self.flush.is_none()),
                self.proposer.retry_at(),
                drain_until,
            ];
            let event = tokio::select! {
                () = self.stop.cancelled(), if drain_until.is_none() => Event::Stop,
                Some(command) = self.commands.recv() => Event::Command(command),
                Some(order) = self.orders.recv(), if drain_until.is_none() => Event::Order(order),
                result = in_place(self.append.as_mut()) => Event::Appended(result),
                result = in_place(self.flush.as_mut().map(|flush| &mut flush.done)) => Event::Flushed(result),
                item = records.next() => Event::Read(item),
                () = at(timer.into_iter().flatten().min()) => Event::Timer,
            };
            let result = match event {
                Event::Stop => {
                    self.proposer.close();
                    drain_until = Some(Instant::now() + self.pace.drain_max);
                    Ok(())
                }
                Event::Command(command) => {
                    self.take_all(command);
                    Ok(())
                }
                Event::Order(order) => self.take_order(order).map_or(Ok(()), Err),
                Event::Appended(result) => self.on_appended(result),
                Event::Flushed(result) => self.on_flushed(result).map(|()| self.note_caught_up(tail)),
                Event::Read(item) => self.on_read(item, &mut records, tail).await,
                Event::Timer => Ok(()),
            };
            if let Err(halt) = result {
                self.proposer.send_answers();
                return halt;
            }
        }
    }

    fn begin_following(&mut self, tail: Lsn) {
        self.replica.status.send_modify(|status| {
            if status.state != PartitionState::Active {
                status.state = PartitionState::CatchingUp;
            }
            if status.needed.is_none() {
                // The state was just opened, so all of it is durable.
                status.needed = status.durable_lsn.zip(status.log_bytes);
            }
        });
        self.note_caught_up(tail);
    }

    fn note_caught_up(&mut self, tail: Lsn) {
        let caught_up = self.applied().is_some_and(|applied| applied.next() >= tail);
        if caught_up && self.replica.status.borrow().state == PartitionState::CatchingUp {
            if self.flush_first {
                self.flush_at = Some(Instant::now());
                return;
            }
            self.set_state(PartitionState::Active);
            self.agent.discard_downloads(self.replica.partition);
            self.discard_due = true;
        }
    }

    /// Takes a request and all that wait behind it, so that they share one append.
    fn take_all(&mut self, command: super::replica::Command) {
        self.take(command);
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
    }

    fn start_append(&mut self) {
        let Some(local) = &self.local else { return };
        if self.append.is_some() {
            return;
        }
        let next = self
            .proposer
            .next_append(local.metadata.applied_lsn, Instant::now());
        let Some(Append {
            records,
            expected_tail,
        }) = next
        else {
            return;
        };
        let (log, partition) = (Arc::clone(&self.log), self.replica.partition);
        let incarnation = local.metadata.incarnation;
        let append = async move {
            let append = log.append(partition, incarnation, records, Some(expected_tail));
            match timeout(LOG_ANSWER_MAX, append).await {
                Ok(result) => result,
                Err(_) => Err(AppendError::Unknown {
                    detail: "the log did not answer in time".to_owned(),
                }),
            }
        };
        self.append = Some(append.boxed());
    }

    fn on_appended(&mut self, result: Result<Lsn, AppendError>) -> Result<(), Halt> {
        self.append = None;
        metrics::appended(result.as_ref().err());
        let applied = self.applied().unwrap_or_default();
        match self.proposer.appended(result, applied, Instant::now()) {
            Signal::GoOn => Ok(()),
            Signal::LogRegressed => Err(Halt::Again),
        }
    }

    fn start_flush(&mut self) {
        let Some(local) = &self.local else { return };
        if self.flush.is_some() || self.flush_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let (store, blocking) = (Arc::clone(&local.store), self.replica.blocking);
        self.flush_at = None;
        self.flush = Some(Flush {
            up_to: local.metadata.applied_lsn,
            log_bytes: local.metadata.log_bytes,
            done: blocking
                .run(move || {
                    failpoint::reached("flush: begun");
                    let flushed = store.flush();
                    failpoint::reached("flush: done");
                    flushed
                })
                .boxed(),
        });
    }

    fn on_flushed(&mut self, result: Result<(), StateError>) -> Result<(), Halt> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        result.map_err(|error| halt_of_state(&error))?;
        metrics::flushed();
        self.flush_first = false;
        self.replica.note_durable(flush.up_to, flush.log_bytes);
        metrics::replica_moved(&self.replica.status.borrow());
        Ok(())
    }

    async fn on_read(
        &mut self,
        item: Option<Result<RecordBatch, ReadError>>,
        records: &mut RecordStream,
        tail: Lsn,
    ) -> Result<(), Halt> {
        let batch = match item {
            None => return Err(Halt::Unavailable("the log ended the stream".to_owned())),
            Some(Err(error)) => return Err(self.read_failed(error)),
            Some(Ok(batch)) => batch,
        };
        let (run, failed) = self.gather(batch, records)?;
        self.apply(run).await?;
        self.note_caught_up(tail);
        match failed {
            Some(error) => Err(self.read_failed(error)),
            None => Ok(()),
        }
    }

    fn read_failed(&mut self, error: ReadError) -> Halt {
        if let (ReadError::Trimmed { trim_point }, Some(local)) = (&error, &self.local) {
            self.note_trimmed(local.metadata.incarnation, *trim_point);
        }
        halt_of_read(error)
    }

    /// Joins `batch` with what else is there already, as far as it fits [`WRITES_GATHERED`]; also returns the error
    /// that came after it.
    fn gather(
        &mut self,
        batch: RecordBatch,
        records: &mut RecordStream,
    ) -> Result<(Vec<Bytes>, Option<ReadError>), Halt> {
        let mut expected = self.applied().unwrap_or_default().next();
        let mut run: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(batch);
        while let Some(batch) = next.take() {
            if batch.first != expected {
                let detail = format!("the log sent the record at {} instead of {expected}", batch.first);
                return Err(Halt::Blocked(BlockedReason::LogHole, detail));
            }
            expected = batch.end();
            bytes += batch.records.iter().map(Bytes::len).sum::<usize>();
            run.extend(batch.records);
            if run.len() >= self.pace.apply_records_max.saturating_mul(WRITES_GATHERED)
                || bytes >= self.pace.apply_bytes_max.saturating_mul(WRITES_GATHERED)
            {
                break;
            }
            match records.next().now_or_never() {
                Some(Some(Ok(batch))) => next = Some(batch),
                Some(Some(Err(error))) => return Ok((run, Some(error))),
                // An ended stream ends again at the next look.
                Some(None) | None => {}
            }
        }
        Ok((run, None))
    }

    /// Applies records that follow the applied LSN.
    async fn apply(&mut self, records: Vec<Bytes>) -> Result<(), Halt> {
        let Some(local) = &self.local else {
            return Err(Halt::Again);
        };
        let (store, machine) = (Arc::clone(&local.store), Arc::clone(&self.replica.machine));
        let metadata = local.metadata.clone();
        let skip = self.search.as_ref().and_then(SkipSearch::mark);
        let (blocking, pace) = (self.replica.blocking, self.pace);
        let work = move || {
            let runs = chunks(&records, pace.apply_records_max, pace.apply_bytes_max);
            apply_runs(&*store, &*machine, metadata, &runs, skip, blocking)
        };
        let mut applied = blocking.run(work).await;
        let stop = applied.stop.take();
        self.absorb(applied);
        match stop {
            None => Ok(()),
            Some(Stop::Poison(poison)) => Err(self.at_poison(poison).await),
            Some(Stop::Failed(error)) => Err(halt_of_state(&error)),
        }
    }

    /// Takes note of what was applied, and shows it.
    fn absorb(&mut self, run: AppliedRuns) {
        let Some(local) = &mut self.local else { return };
        local.metadata = run.metadata;
        let applied = local.metadata.applied_lsn;
        self.search.take_if(|search| search.lsn() <= applied);
        for record in &run.records {
            self.proposer.applied(record);
        }
        for outcomes in run.records.chunk_by(|one, next| one.outcome == next.outcome) {
            metrics::records_applied(outcomes[0].outcome, outcomes.len() as u64);
        }
        let metadata = &local.metadata;
        let role = match self.proposer.leading() {
            Some(_) => ReplicaRole::Leader,
            None => ReplicaRole::Follower,
        };
        let mut unflushed = 0;
        self.replica.status.send_modify(|status| {
            status.applied_lsn = Some(metadata.applied_lsn);
            status.log_bytes = Some(metadata.log_bytes);
            status.leader = metadata.leader.clone();
            status.role = role;
            status.chain = metadata.chain.trail(metadata.applied_lsn);
            status.tail_seen = status.tail_seen.max(Some(metadata.applied_lsn.next()));
            unflushed = metadata
                .applied_lsn
                .records_since(status.durable_lsn.unwrap_or_default());
        });
        metrics::replica_moved(&self.replica.status.borrow());
        self.proposer.send_answers();
        let now = Instant::now();
        if unflushed >= self.pace.flush_records {
            self.flush_at = Some(now);
        } else if unflushed > 0 {
            self.flush_at.get_or_insert(now + self.pace.flush_interval);
        }
    }
}

/// Waits for a future that stays where it is; forever when there is none.
async fn in_place<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Cuts `records` into pieces of at most `records_max` records and about `bytes_max` bytes, each of at least one.
fn chunks(records: &[Bytes], records_max: usize, bytes_max: usize) -> Vec<&[Bytes]> {
    let mut chunks = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, record) in records.iter().enumerate() {
        if index > begin && (index - begin >= records_max || bytes + record.len() > bytes_max) {
            chunks.push(&records[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += record.len();
    }
    if begin < records.len() {
        chunks.push(&records[begin..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_order_and_bounds() {
        let records: Vec<Bytes> = [3usize, 3, 9, 1, 1, 1, 1]
            .iter()
            .map(|len| Bytes::from(vec![0; *len]))
            .collect();
        let lengths = |records_max, bytes_max| {
            chunks(&records, records_max, bytes_max)
                .iter()
                .map(|chunk| chunk.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(lengths(100, 100), [7]);
        assert_eq!(lengths(2, 100), [2, 2, 2, 1]);
        assert_eq!(lengths(100, 6), [2, 1, 4]);
        assert_eq!(lengths(1, 1), [1; 7]);
        assert!(chunks(&[], 1, 1).is_empty());
    }
}
