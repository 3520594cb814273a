//! Moving the embedded log.

use super::request::{Append, Request};
use super::{EmbeddedLog, closed, reader};
use crate::position::{check_batch, check_incarnation};
use crate::{AppendError, LogError, LogInfo, LogMove, Passage, ReadError, RecordStream};
use async_trait::async_trait;
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};

#[async_trait]
impl LogMove for EmbeddedLog {
    async fn position(&self, partition: PartitionId, incarnation: Incarnation) -> Result<LogInfo, LogError> {
        let cell = self.0.shared.open_cell(partition)?;
        check_incarnation(&cell.registration(), incarnation)?;
        Ok(cell.info())
    }

    async fn read_moving(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        reader::open(&self.0.shared, partition, incarnation, from, true)
    }

    async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        let bytes = check_batch(&batch)?;
        let append = Append {
            partition,
            incarnation,
            batch,
            bytes,
            expected_tail: Some(expected_tail),
            imported: true,
        };
        self.ask_append(append).await
    }

    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        self.ask(|reply| Request::ChangePassage {
            partition,
            incarnation,
            from,
            to,
            reply,
        })
        .await
        .unwrap_or_else(|_| Err(closed(partition)))
    }

    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        self.ask(|reply| Request::Discard {
            partition,
            incarnation,
            id,
            reply,
        })
        .await
        .unwrap_or_else(|_| Err(closed(partition)))
    }
}
