//! The seam between the admin and a worker. Both sides speak the messages of `worker.proto`.

mod grpc;

pub use grpc::{GrpcWorker, WorkerAddressError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use snapshot_proto::v1;
use snapshot_store::{NodeId, PartitionId};
use std::sync::Arc;

/// A request to a worker failed. Nothing is known of whether the worker did what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// It did not answer.
    #[error("it cannot be reached: {detail}")]
    Unreachable {
        /// What happened.
        detail: String,
    },
    /// It answered that it does not do this.
    #[error("{reason}: {detail}")]
    Refused {
        /// A stable word.
        reason: String,
        /// What it said.
        detail: String,
    },
    /// Its answer makes no sense: another version, or not a worker at all.
    #[error("its answer cannot be understood: {detail}")]
    Unintelligible {
        /// What is wrong.
        detail: String,
    },
}

/// Progress of a snapshot; the last item is the outcome.
pub type SnapshotEvents = BoxStream<'static, Result<v1::CreateSnapshotEvent, WorkerError>>;

/// What the admin asks of a worker. The caller sets all time limits.
#[async_trait]
pub trait WorkerClient: Send + Sync + 'static {
    /// Returns what the worker says of its partitions.
    async fn status(&self, request: v1::GetStatusRequest) -> Result<v1::WorkerStatus, WorkerError>;

    /// Asks for a snapshot. Repeating a request under the same id joins the one that is running.
    async fn create_snapshot(
        &self,
        request: v1::CreateSnapshotRequest,
    ) -> Result<SnapshotEvents, WorkerError>;

    /// Checks a published snapshot.
    async fn verify(
        &self,
        request: v1::VerifySnapshotRequest,
    ) -> Result<v1::VerifySnapshotReply, WorkerError>;

    /// Asks the node to announce itself as leader; answers when that was applied.
    async fn lead(&self, partition: PartitionId) -> Result<v1::LeadReply, WorkerError>;

    /// Asks the leader to append a record that changes nothing.
    async fn append_noop(&self, partition: PartitionId) -> Result<v1::AppendNoopReply, WorkerError>;
}

/// A worker of the cluster, as configured.
#[derive(Clone)]
pub struct WorkerSpec {
    /// Its node id; a worker that calls itself otherwise is not believed.
    pub node: NodeId,
    /// Where it is reached, for people.
    pub address: String,
    /// Partitions it is expected to host.
    pub partitions: Vec<PartitionId>,
    /// How it is asked.
    pub client: Arc<dyn WorkerClient>,
}

impl WorkerSpec {
    /// Describes a worker that is asked over gRPC at `address`, without TLS and token. No connection is made. Must be
    /// called within a Tokio runtime.
    ///
    /// # Errors
    /// When `address` is not a URL.
    pub fn grpc(
        node: NodeId,
        address: String,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Result<Self, WorkerAddressError> {
        let client = Arc::new(GrpcWorker::new(&address)?);
        Ok(WorkerSpec {
            node,
            address,
            partitions: partitions.into_iter().collect(),
            client,
        })
    }
}
