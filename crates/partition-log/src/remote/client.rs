//! The client for readers and writers.

use super::endpoint::{
    APPEND_TIMEOUT, EndpointError, MESSAGE_BYTES_MAX, Plain, QUERY_TIMEOUT, endpoint, plain,
};
use super::status::{append_error, log_error, read_error};
use super::wire::{incarnation_to_wire, info_from_wire, registration_from_wire};
use crate::position::check_batch;
use crate::{AppendError, Log, LogError, LogInfo, ReadError, RecordBatch, RecordStream, Registration};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use snapshot_proto::v1::{self, Records, append_reply, log_service_client::LogServiceClient, read_reply};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{future::Future, time::Duration};
use tonic::{
    Response, Status, Streaming,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A log on another node. Clones share its connection, which is made when it is needed and made again when it broke.
/// `I` sees each request before it is sent, and can put a token on it.
#[derive(Clone, Debug)]
pub struct RemoteLog<I = Plain>(LogServiceClient<InterceptedService<Channel, I>>);

impl RemoteLog {
    /// Wraps a channel; [`endpoint`] returns one's settings.
    pub fn new(channel: Channel) -> Self {
        Self::intercepted(InterceptedService::new(channel, plain()))
    }

    /// Prepares the connection to the server at `url`; it is made with the first request. To be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// When `url` is not a URL.
    pub fn connect_lazy(url: &str) -> Result<Self, EndpointError> {
        Ok(Self::new(endpoint(url)?.connect_lazy()))
    }
}

impl<I: Interceptor> RemoteLog<I> {
    /// Wraps a channel with an interceptor; [`endpoint`] returns the channel's settings.
    pub fn intercepted(channel: InterceptedService<Channel, I>) -> Self {
        let client = LogServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        RemoteLog(client)
    }
}

/// Waits for the answer to a request that is harmless to repeat.
pub(super) async fn answer<T>(
    partition: PartitionId,
    limit: Duration,
    request: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Result<T, Status>, LogError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => Ok(answer.map(Response::into_inner)),
        Err(_) => {
            let detail = format!("it did not answer within {limit:?}");
            Err(LogError::Unavailable { partition, detail })
        }
    }
}

/// Returns the error for an answer that breaks the rules.
pub(super) fn malformed(partition: PartitionId, what: &str) -> LogError {
    LogError::Unavailable {
        partition,
        detail: format!("its answer cannot be understood: {what}"),
    }
}

#[async_trait]
impl<I: Interceptor + Clone + Send + Sync + 'static> Log for RemoteLog<I> {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        let mut client = self.0.clone();
        let request = v1::GetRegistrationRequest {
            partition: partition.get(),
        };
        let message = answer(partition, QUERY_TIMEOUT, client.get_registration(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        registration_from_wire(message).map_err(|what| malformed(partition, what))
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let mut client = self.0.clone();
        let request = v1::GetInfoRequest {
            partition: partition.get(),
        };
        let message = answer(partition, QUERY_TIMEOUT, client.get_info(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        info_from_wire(message).map_err(|what| malformed(partition, what))
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        check_batch(&batch)?;
        let request = v1::AppendRequest {
            partition: partition.get(),
            incarnation: Some(incarnation_to_wire(incarnation)),
            records: batch,
            expected_tail: expected_tail.map(Lsn::get),
        };
        let mut client = self.0.clone();
        appending(partition, client.append(request)).await
    }

    async fn read(
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
        let replies = answer(partition, QUERY_TIMEOUT, client.read(request))
            .await?
            .map_err(|status| read_error(partition, &status))?;
        Ok(records(partition, from, replies))
    }
}

/// Returns what an append came to.
pub(super) async fn appending(
    partition: PartitionId,
    request: impl Future<Output = Result<Response<v1::AppendReply>, Status>>,
) -> Result<Lsn, AppendError> {
    match tokio::time::timeout(APPEND_TIMEOUT, request).await {
        Ok(Ok(reply)) => appended(reply.into_inner().outcome),
        Ok(Err(status)) => Err(append_error(partition, &status)),
        Err(_) => Err(AppendError::Unknown {
            detail: format!("no answer came within {APPEND_TIMEOUT:?}"),
        }),
    }
}

/// Returns the records in the replies to a read from `from` on.
pub(super) fn records(partition: PartitionId, from: Lsn, replies: Streaming<v1::ReadReply>) -> RecordStream {
    let reader = Reader {
        partition,
        next: from,
        replies,
    };
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
    items.boxed()
}

fn appended(outcome: Option<append_reply::Outcome>) -> Result<Lsn, AppendError> {
    use append_reply::Outcome;
    match outcome {
        Some(Outcome::LastLsn(last)) => Ok(Lsn::new(last)),
        Some(Outcome::TailMismatch(mismatch)) => Err(AppendError::TailMismatch {
            tail: Lsn::new(mismatch.tail),
        }),
        Some(Outcome::TooLarge(large)) => Err(AppendError::TooLarge {
            bytes: usize::try_from(large.bytes).unwrap_or(usize::MAX),
            records: usize::try_from(large.records).unwrap_or(usize::MAX),
        }),
        Some(Outcome::Sealed(_)) => Err(AppendError::Sealed),
        Some(Outcome::Unknown(unknown)) => Err(AppendError::Unknown {
            detail: unknown.detail,
        }),
        // An outcome that a newer server may know.
        None => Err(AppendError::Unknown {
            detail: "the answer names no outcome".to_owned(),
        }),
    }
}

/// A read stream from the server. What is under way is bounded by the stream's window.
struct Reader {
    partition: PartitionId,
    next: Lsn,
    replies: Streaming<v1::ReadReply>,
}

impl Reader {
    /// Waits for the next records, without a limit: at the tail there may be none for long. A dead server is noticed
    /// by the connection's keep-alive.
    async fn next_batch(&mut self) -> Result<RecordBatch, ReadError> {
        use read_reply::Item;
        let partition = self.partition;
        let reply = match self.replies.next().await {
            Some(Ok(reply)) => reply,
            Some(Err(status)) => return Err(read_error(partition, &status)),
            None => {
                let detail = "the server ended the stream".to_owned();
                return Err(LogError::Unavailable { partition, detail }.into());
            }
        };
        match reply.item {
            Some(Item::Records(Records { first, records }))
                if Lsn::new(first) == self.next && !records.is_empty() =>
            {
                Ok(RecordBatch {
                    first: self.next,
                    records,
                })
            }
            Some(Item::Records(_)) => {
                Err(malformed(partition, "its records do not follow each other").into())
            }
            Some(Item::Trimmed(trimmed)) => Err(ReadError::Trimmed {
                trim_point: Lsn::new(trimmed.trim_point),
            }),
            Some(Item::Regressed(regressed)) => Err(ReadError::Regressed {
                tail: Lsn::new(regressed.tail),
            }),
            Some(Item::Hole(hole)) => Err(ReadError::Hole {
                at: Lsn::new(hole.at),
            }),
            None => Err(malformed(partition, "an item is empty").into()),
        }
    }
}
