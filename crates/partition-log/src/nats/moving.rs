//! Moving logs to and from NATS.

use super::{NatsLog, unfinished};
use crate::{AppendError, LogError, LogInfo, LogMove, Passage, ReadError, RecordStream};
use async_trait::async_trait;
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};

#[async_trait]
impl LogMove for NatsLog {
    async fn position(&self, partition: PartitionId, _: Incarnation) -> Result<LogInfo, LogError> {
        Err(unfinished(partition))
    }

    async fn read_moving(
        &self,
        partition: PartitionId,
        _: Incarnation,
        _: Lsn,
    ) -> Result<RecordStream, ReadError> {
        Err(unfinished(partition).into())
    }

    async fn import(
        &self,
        partition: PartitionId,
        _: Incarnation,
        _: Vec<Bytes>,
        _: Lsn,
    ) -> Result<Lsn, AppendError> {
        Err(unfinished(partition).into())
    }

    async fn change_passage(
        &self,
        partition: PartitionId,
        _: Incarnation,
        _: Option<Passage>,
        _: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        Err(unfinished(partition))
    }

    async fn discard(&self, partition: PartitionId, _: Incarnation, _: WriteId) -> Result<(), LogError> {
        Err(unfinished(partition))
    }
}
