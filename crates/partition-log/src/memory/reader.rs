//! Reading from the memory log.

use super::{MemoryLog, State, unavailable};
use crate::position::{READ_BYTES_MAX, READ_RECORDS_MAX, Step, check_incarnation};
use crate::{ReadError, RecordBatch, RecordStream};
use futures::{StreamExt, stream};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use tokio::sync::watch;

struct Reader {
    log: MemoryLog,
    partition: PartitionId,
    incarnation: Incarnation,
    next: Lsn,
    /// Reads whatever the passage of the log.
    moving: bool,
    changed: watch::Receiver<()>,
}

pub(super) fn open(
    log: &MemoryLog,
    partition: PartitionId,
    incarnation: Incarnation,
    from: Lsn,
    moving: bool,
) -> Result<RecordStream, ReadError> {
    let mut state = log.state();
    let changed = state.partition(partition)?.changed.subscribe();
    let reader = Reader {
        log: log.clone(),
        partition,
        incarnation,
        next: from,
        moving,
        changed,
    };
    if let Some(error) = reader.step(&mut state)?.error() {
        return Err(error);
    }
    let items = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next_batch().await {
            Ok(batch) => {
                reader.next = batch.end();
                Some((Ok(batch), Some(reader)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(items.boxed())
}

impl Reader {
    fn step(&self, state: &mut State) -> Result<Step, ReadError> {
        state.available(self.partition, |faults| faults.reads_unavailable)?;
        let log = state.partition(self.partition)?;
        check_incarnation(&log.registration, self.incarnation)?;
        if !self.moving {
            log.registration.check_use()?;
        }
        Ok(Step::at(log.trim_point, log.tail, self.next))
    }

    async fn next_batch(&mut self) -> Result<RecordBatch, ReadError> {
        loop {
            self.changed.borrow_and_update();
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            if self.changed.changed().await.is_err() {
                // The log is gone, or another one stands in its place.
                self.take()?;
                return Err(unavailable(self.partition, "the log was replaced").into());
            }
        }
    }

    /// Returns the records that are there; `None` when there are none yet.
    fn take(&self) -> Result<Option<RecordBatch>, ReadError> {
        let mut state = self.log.state();
        match self.step(&mut state)? {
            Step::Wait => return Ok(None),
            step => {
                if let Some(error) = step.error() {
                    return Err(error);
                }
            }
        }
        let log = state.partition(self.partition)?;
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut expected = self.next;
        for (lsn, record) in log.records.range(self.next..) {
            if *lsn != expected || records.len() == READ_RECORDS_MAX || bytes >= READ_BYTES_MAX {
                break;
            }
            bytes += record.len();
            records.push(record.clone());
            expected = expected.next();
        }
        if records.is_empty() {
            return Err(ReadError::Hole { at: self.next });
        }
        Ok(Some(RecordBatch {
            first: self.next,
            records,
        }))
    }
}
