//! The client that moves logs.

use super::client::{answer, appending, malformed, records};
use super::endpoint::{
    ADMIN_TIMEOUT, EndpointError, MESSAGE_BYTES_MAX, Plain, QUERY_TIMEOUT, endpoint, plain,
};
use super::status::{log_error, read_error};
use super::wire::{incarnation_to_wire, info_from_wire, passage_from_wire, passage_to_wire};
use crate::position::check_batch;
use crate::{AppendError, LogError, LogInfo, LogMove, Passage, ReadError, RecordStream};
use async_trait::async_trait;
use bytes::Bytes;
use snapshot_proto::v1::{self, log_move_service_client::LogMoveServiceClient};
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};
use tonic::{
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// What moving a log on another node needs. Clones share its connection. `I` sees each request before it is sent, and
/// can put a token on it.
#[derive(Clone, Debug)]
pub struct RemoteLogMove<I = Plain>(LogMoveServiceClient<InterceptedService<Channel, I>>);

impl RemoteLogMove {
    /// Prepares the connection to the server at `url`; it is made with the first request. To be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// When `url` is not a URL.
    pub fn connect_lazy(url: &str) -> Result<Self, EndpointError> {
        let channel = endpoint(url)?.connect_lazy();
        Ok(Self::intercepted(InterceptedService::new(channel, plain())))
    }
}

impl<I: Interceptor> RemoteLogMove<I> {
    /// Wraps a channel with an interceptor; [`endpoint`] returns the channel's settings.
    pub fn intercepted(channel: InterceptedService<Channel, I>) -> Self {
        let client = LogMoveServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        RemoteLogMove(client)
    }
}

#[async_trait]
impl<I: Interceptor + Clone + Send + Sync + 'static> LogMove for RemoteLogMove<I> {
    async fn position(&self, partition: PartitionId, incarnation: Incarnation) -> Result<LogInfo, LogError> {
        let mut client = self.0.clone();
        let request = v1::GetPositionRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
        };
        let message = answer(partition, QUERY_TIMEOUT, client.get_position(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        info_from_wire(message).map_err(|what| malformed(partition, what))
    }

    async fn read_moving(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        let request = v1::ReadRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
            from: from.get(),
        };
        let mut client = self.0.clone();
        let replies = answer(partition, QUERY_TIMEOUT, client.read_moving(request))
            .await?
            .map_err(|status| read_error(partition, &status))?;
        Ok(records(partition, from, replies))
    }

    async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        check_batch(&batch)?;
        let request = v1::AppendRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
            records: batch,
            expected_tail: Some(expected_tail.get()),
        };
        let mut client = self.0.clone();
        appending(partition, client.import(request)).await
    }

    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        let mut client = self.0.clone();
        let request = v1::ChangePassageRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
            from: from.as_ref().map(passage_to_wire),
            to: to.as_ref().map(passage_to_wire),
        };
        let reply = answer(partition, ADMIN_TIMEOUT, client.change_passage(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        let passage = reply.passage.map(passage_from_wire).transpose();
        passage.map_err(|what| malformed(partition, what))
    }

    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        let mut client = self.0.clone();
        let request = v1::DiscardRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
            id: id.to_string(),
        };
        answer(partition, ADMIN_TIMEOUT, client.discard(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        Ok(())
    }
}
