//! Moving the memory log.

use super::{MemoryLog, reader};
use crate::position::check_incarnation;
use crate::{AppendError, LogError, LogInfo, LogMove, Passage, ReadError, RecordStream};
use async_trait::async_trait;
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};

#[async_trait]
impl LogMove for MemoryLog {
    async fn position(&self, partition: PartitionId, incarnation: Incarnation) -> Result<LogInfo, LogError> {
        let mut state = self.state();
        state.available(partition, |faults| faults.info_unavailable)?;
        let log = state.partition(partition)?;
        check_incarnation(&log.registration, incarnation)?;
        Ok(log.info())
    }

    async fn read_moving(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        reader::open(self, partition, incarnation, from, true)
    }

    async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        state
            .partition(partition)?
            .import(incarnation, batch, expected_tail)
    }

    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        let log = state.partition(partition)?;
        check_incarnation(&log.registration, incarnation)?;
        let (_, passage) = log.registration.change_passage(from.as_ref(), to);
        log.changed.send_replace(());
        Ok(passage)
    }

    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        let mut state = self.state();
        state.available(partition, |_| false)?;
        let log = state.partition(partition)?;
        check_incarnation(&log.registration, incarnation)?;
        log.registration.check_discard(id)?;
        state.partitions.remove(&partition);
        Ok(())
    }
}
