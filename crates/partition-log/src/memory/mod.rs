//! A log in memory, for tests and simulations, with switches for faults.
//!
//! Deterministic: no threads, no clock, no randomness; a call takes effect when it is polled first. What a crash
//! of a real log can do to it is done by hand: [`MemoryLog::lose_tail`], [`MemoryLog::lose_record`],
//! [`MemoryLog::forget`].

mod faults;
mod moving;
mod reader;

use crate::position::{check_base, check_batch, check_incarnation, check_same};
use crate::{AppendError, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration};
use crate::{Log, LogAdmin};
use async_trait::async_trait;
use bytes::Bytes;
pub use faults::AppendFault;
use faults::{Delayed, Faults};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The logs of all partitions, in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<PartitionId, Partition>,
    faults: BTreeMap<PartitionId, Faults>,
}

#[derive(Debug)]
struct Partition {
    registration: Registration,
    records: BTreeMap<Lsn, Bytes>,
    trim_point: Lsn,
    tail: Lsn,
    /// Wakes the readers after anything changed that they look at.
    changed: watch::Sender<()>,
}

impl Partition {
    fn new(registration: Registration) -> Self {
        let trim_point = registration.first_trim_point();
        Partition {
            registration,
            records: BTreeMap::new(),
            trim_point,
            tail: trim_point.next(),
            changed: watch::Sender::new(()),
        }
    }

    fn append(
        &mut self,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        check_incarnation(&self.registration, incarnation)?;
        check_batch(&batch)?;
        self.registration.check_append()?;
        self.put(batch, expected_tail)
    }

    fn import(
        &mut self,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        check_incarnation(&self.registration, incarnation)?;
        check_batch(&batch)?;
        self.registration.check_import()?;
        self.put(batch, Some(expected_tail))
    }

    fn put(&mut self, batch: Vec<Bytes>, expected_tail: Option<Lsn>) -> Result<Lsn, AppendError> {
        if expected_tail.is_some_and(|expected| expected != self.tail) {
            return Err(AppendError::TailMismatch { tail: self.tail });
        }
        for record in batch {
            self.records.insert(self.tail, record);
            self.tail = self.tail.next();
        }
        self.changed.send_replace(());
        Ok(self.tail.prev())
    }

    fn trim(&mut self, incarnation: Incarnation, up_to: Lsn) -> Result<Lsn, LogError> {
        check_incarnation(&self.registration, incarnation)?;
        self.registration.check_trim()?;
        let up_to = up_to.min(self.tail.prev());
        if up_to > self.trim_point {
            self.records = self.records.split_off(&up_to.next());
            self.trim_point = up_to;
            self.changed.send_replace(());
        }
        Ok(self.trim_point)
    }

    fn info(&self) -> LogInfo {
        LogInfo {
            incarnation: self.registration.incarnation,
            trim_point: self.trim_point,
            tail: self.tail,
            held_bytes: Some(self.records.values().map(|record| record.len() as u64).sum()),
        }
    }
}

impl State {
    fn partition(&mut self, partition: PartitionId) -> Result<&mut Partition, LogError> {
        self.partitions
            .get_mut(&partition)
            .ok_or(LogError::Missing { partition })
    }

    fn faults(&mut self, partition: PartitionId) -> &mut Faults {
        self.faults.entry(partition).or_default()
    }

    /// Fails when the partition, or what `part` picks of it, is switched off.
    fn available(&mut self, partition: PartitionId, part: fn(&Faults) -> bool) -> Result<(), LogError> {
        let off = self
            .faults
            .get(&partition)
            .is_some_and(|faults| faults.unavailable || part(faults));
        if off {
            Err(unavailable(partition, "switched off"))
        } else {
            Ok(())
        }
    }

    fn run(&mut self, partition: PartitionId, request: Delayed) {
        let Ok(log) = self.partition(partition) else {
            return;
        };
        // Nobody waits for the answer any more.
        match request {
            Delayed::Append {
                incarnation,
                batch,
                expected_tail,
            } => {
                log.append(incarnation, batch, expected_tail).ok();
            }
            Delayed::Trim { incarnation, up_to } => {
                log.trim(incarnation, up_to).ok();
            }
        }
    }
}

fn unavailable(partition: PartitionId, detail: &str) -> LogError {
    LogError::Unavailable {
        partition,
        detail: detail.to_owned(),
    }
}

impl MemoryLog {
    /// Returns a place without any log.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one append of `partition` fail: the next one, or the one after those asked for earlier.
    pub fn fail_next_append(&self, partition: PartitionId, fault: AppendFault) {
        self.state().faults(partition).appends.push_back(fault);
    }

    /// Switches everything of `partition` off or on again; streams in progress end.
    pub fn set_unavailable(&self, partition: PartitionId, off: bool) {
        self.switch(partition, |faults| faults.unavailable = off);
    }

    /// Switches `info` and `registration` of `partition` off or on again.
    pub fn set_info_unavailable(&self, partition: PartitionId, off: bool) {
        self.switch(partition, |faults| faults.info_unavailable = off);
    }

    /// Switches reading of `partition` off or on again; streams in progress end.
    pub fn set_reads_unavailable(&self, partition: PartitionId, off: bool) {
        self.switch(partition, |faults| faults.reads_unavailable = off);
    }

    /// From now on trims of `partition` answer "unavailable" and are held up, until they are released.
    pub fn set_trims_delayed(&self, partition: PartitionId, delayed: bool) {
        self.switch(partition, |faults| faults.trims_delayed = delayed);
    }

    /// Lets the requests of `partition` that were held up take place, in the order they were made. Returns how many.
    pub fn release_delayed(&self, partition: PartitionId) -> usize {
        let mut state = self.state();
        let delayed = std::mem::take(&mut state.faults(partition).delayed);
        let count = delayed.len();
        for request in delayed {
            state.run(partition, request);
        }
        count
    }

    /// Loses the last `records` records of `partition`, as a log does that acknowledged before it was durable. Stops
    /// at the trim point.
    pub fn lose_tail(&self, partition: PartitionId, records: u64) {
        if let Ok(log) = self.state().partition(partition) {
            log.tail = log.tail.minus(records).max(log.trim_point.next());
            log.records.split_off(&log.tail);
            log.changed.send_replace(());
        }
    }

    /// Loses the record at `lsn` in the middle.
    pub fn lose_record(&self, partition: PartitionId, lsn: Lsn) {
        if let Ok(log) = self.state().partition(partition) {
            log.records.remove(&lsn);
        }
    }

    /// Loses the log of `partition` with its registration; streams in progress end.
    pub fn forget(&self, partition: PartitionId) {
        self.state().partitions.remove(&partition);
    }

    fn switch(&self, partition: PartitionId, change: impl FnOnce(&mut Faults)) {
        let mut state = self.state();
        change(state.faults(partition));
        if let Ok(log) = state.partition(partition) {
            log.changed.send_replace(());
        }
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        let mut state = self.state();
        state.available(partition, |faults| faults.info_unavailable)?;
        Ok(state.partition(partition)?.registration.clone())
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let mut state = self.state();
        state.available(partition, |faults| faults.info_unavailable)?;
        let log = state.partition(partition)?;
        log.registration.check_use()?;
        Ok(log.info())
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        let Some(fault) = state.faults(partition).appends.pop_front() else {
            return state
                .partition(partition)?
                .append(incarnation, batch, expected_tail);
        };
        match fault {
            AppendFault::Unavailable => return Err(unavailable(partition, "switched off").into()),
            AppendFault::UnknownNotLanded => {}
            AppendFault::UnknownLanded => {
                state.run(
                    partition,
                    Delayed::Append {
                        incarnation,
                        batch,
                        expected_tail,
                    },
                );
            }
            AppendFault::UnknownDelayed => {
                let request = Delayed::Append {
                    incarnation,
                    batch,
                    expected_tail,
                };
                state.faults(partition).delayed.push_back(request);
            }
        }
        Err(AppendError::Unknown {
            detail: "no reply came".to_owned(),
        })
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        reader::open(self, partition, incarnation, from, false)
    }
}

#[async_trait]
impl LogAdmin for MemoryLog {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        let mut state = self.state();
        state.available(registration.partition, |_| false)?;
        check_base(&registration)?;
        match state.partitions.get(&registration.partition) {
            Some(log) => check_same(&log.registration, &registration),
            None => {
                state
                    .partitions
                    .insert(registration.partition, Partition::new(registration));
                Ok(())
            }
        }
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        let log = state.partition(partition)?;
        check_incarnation(&log.registration, incarnation)?;
        log.registration.sealed = sealed;
        Ok(())
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        if state.faults(partition).trims_delayed {
            state
                .faults(partition)
                .delayed
                .push_back(Delayed::Trim { incarnation, up_to });
            return Err(unavailable(partition, "no reply came"));
        }
        state.partition(partition)?.trim(incarnation, up_to)
    }
}
