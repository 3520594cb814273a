//! Workers over gRPC.

use super::{SnapshotEvents, WorkerClient, WorkerError};
use async_trait::async_trait;
use futures::StreamExt;
use snapshot_proto::v1::{self, worker_service_client::WorkerServiceClient};
use snapshot_store::PartitionId;
use std::time::Duration;
use tonic::{
    Code, Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// How long a connection may take to come about; requests have limits of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A status carries up to 64 chain hashes for each partition, some 3 KiB; enough for thousands of partitions.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// An address that is not a URL.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not a worker's address: expected a URL like http://host:7310")]
pub struct WorkerAddressError {
    address: String,
    #[source]
    source: tonic::transport::Error,
}

/// Sends requests as they are.
type Plain = fn(Request<()>) -> Result<Request<()>, Status>;

/// A worker over gRPC. Connects when first asked, and again after a failure. `I` sees each request before it is sent,
/// and can put a token on it.
#[derive(Clone, Debug)]
pub struct GrpcWorker<I = Plain>(WorkerServiceClient<InterceptedService<Channel, I>>);

impl GrpcWorker {
    /// Prepares a client for `address`; no connection is made. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When `address` is not a URL.
    pub fn new(address: &str) -> Result<Self, WorkerAddressError> {
        Ok(Self::with_channel(Self::endpoint(address)?.connect_lazy()))
    }

    /// Wraps a channel that somebody else made.
    pub fn with_channel(channel: Channel) -> Self {
        let plain: Plain = |request| Ok(request);
        Self::intercepted(InterceptedService::new(channel, plain))
    }

    /// Returns the settings of a channel to the worker at `address`.
    ///
    /// # Errors
    /// When `address` is not a URL.
    pub fn endpoint(address: &str) -> Result<Endpoint, WorkerAddressError> {
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|source| WorkerAddressError {
            address: address.to_owned(),
            source,
        })?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .tcp_nodelay(true))
    }
}

impl<I: Interceptor + Clone> GrpcWorker<I> {
    /// Wraps a channel with an interceptor; [`GrpcWorker::endpoint`] returns the channel's settings.
    pub fn intercepted(channel: InterceptedService<Channel, I>) -> Self {
        GrpcWorker(WorkerServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn client(&self) -> WorkerServiceClient<InterceptedService<Channel, I>> {
        self.0.clone()
    }
}

fn failed(status: Status) -> WorkerError {
    let detail = status.message().to_owned();
    if let Some(info) = status.get_details_error_info() {
        return WorkerError::Refused {
            reason: info.reason,
            detail,
        };
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            WorkerError::Unreachable { detail }
        }
        Code::Unimplemented | Code::Internal | Code::DataLoss => WorkerError::Unintelligible { detail },
        code => WorkerError::Refused {
            reason: format!("{code:?}").to_lowercase(),
            detail,
        },
    }
}

#[async_trait]
impl<I: Interceptor + Clone + Send + Sync + 'static> WorkerClient for GrpcWorker<I> {
    async fn status(&self, request: v1::GetStatusRequest) -> Result<v1::WorkerStatus, WorkerError> {
        Ok(self
            .client()
            .get_status(request)
            .await
            .map_err(failed)?
            .into_inner())
    }

    async fn create_snapshot(
        &self,
        request: v1::CreateSnapshotRequest,
    ) -> Result<SnapshotEvents, WorkerError> {
        let events = self
            .client()
            .create_snapshot(request)
            .await
            .map_err(failed)?
            .into_inner();
        Ok(events.map(|event| event.map_err(failed)).boxed())
    }

    async fn verify(
        &self,
        request: v1::VerifySnapshotRequest,
    ) -> Result<v1::VerifySnapshotReply, WorkerError> {
        Ok(self
            .client()
            .verify_snapshot(request)
            .await
            .map_err(failed)?
            .into_inner())
    }

    async fn lead(&self, partition: PartitionId) -> Result<v1::LeadReply, WorkerError> {
        let request = v1::LeadRequest {
            partition: partition.get(),
        };
        Ok(self.client().lead(request).await.map_err(failed)?.into_inner())
    }

    async fn append_noop(&self, partition: PartitionId) -> Result<v1::AppendNoopReply, WorkerError> {
        let request = v1::AppendNoopRequest {
            partition: partition.get(),
        };
        Ok(self
            .client()
            .append_noop(request)
            .await
            .map_err(failed)?
            .into_inner())
    }
}
