//! The gRPC service of a worker node: a thin skin over the agent.
//!
//! A refusal to make a snapshot is an event, not an error; an error carries a machine-readable reason
//! (`ErrorInfo`, domain `tidemark`).

use super::{
    export_job::chain,
    host::{HostError, PartitionHost},
    policy::{ThresholdOverride, WorkerPolicy},
    repair::{RebuildError, SkipError},
    snapshot_agent::SnapshotAgent,
    verify::VerifyError,
    wire,
};
use crate::core::may_skip;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use snapshot_proto::v1::{self, worker_service_server::WorkerService};
use snapshot_store::{Lsn, PartitionId, RequestId};
use std::{collections::HashMap, error::Error, sync::Arc};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Request metadata in which a gate in front of this service tells the role of the caller, having taken out what the
/// caller itself sent. Absent without a gate.
pub const ROLE_METADATA: &str = "tidemark-role";
/// The role that changes nothing.
const READER: &str = "read";

/// Serves one agent over gRPC.
#[derive(Clone)]
pub struct AgentService {
    agent: SnapshotAgent,
}

impl AgentService {
    pub(super) fn new(agent: SnapshotAgent) -> Self {
        AgentService { agent }
    }

    fn host(&self, partition: PartitionId) -> Result<Arc<dyn PartitionHost>, Status> {
        self.agent.shared.host(partition).ok_or_else(|| {
            let message = format!(
                "partition {partition} is not hosted by node {}: check the list of partitions of this node",
                self.agent.shared.config.node
            );
            error(Code::NotFound, "unknown-partition", message, Some(partition))
        })
    }
}

/// Builds an error with a machine-readable reason.
fn error(code: Code, reason: &str, message: String, partition: Option<PartitionId>) -> Status {
    let mut metadata = HashMap::new();
    if let Some(partition) = partition {
        metadata.insert("partition".to_owned(), partition.to_string());
    }
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, "tidemark", metadata),
    )
}

fn invalid(field: wire::InvalidField) -> Status {
    let mut details = ErrorDetails::with_error_info("invalid-argument", "tidemark", HashMap::new());
    details.add_bad_request_violation(field.field, field.to_string());
    Status::with_error_details(Code::InvalidArgument, field.to_string(), details)
}

fn host_error(partition: PartitionId, source: &HostError) -> Status {
    let (code, reason) = match source {
        HostError::Unsupported => (Code::Unimplemented, "unsupported"),
        HostError::Unavailable(_) => (Code::FailedPrecondition, "unavailable"),
        HostError::Mismatch(_) => (Code::FailedPrecondition, "mismatch"),
        HostError::Corrupt(_) => (Code::DataLoss, "corrupt"),
        HostError::NoSpace(_) => (Code::ResourceExhausted, "disk-full"),
        HostError::Io(_) => (Code::Internal, "local"),
    };
    let message = format!("partition {partition}: {}", chain(source as &dyn Error));
    error(code, reason, message, Some(partition))
}

fn verify_error(source: &VerifyError) -> Status {
    let (code, reason, partition) = match source {
        VerifyError::UnknownPartition { partition } => (Code::NotFound, "unknown-partition", *partition),
        VerifyError::NotPublished { partition, .. } => (Code::NotFound, "unknown-snapshot", *partition),
        VerifyError::StoreUnusable { partition, .. } => {
            (Code::FailedPrecondition, "store-unusable", *partition)
        }
        VerifyError::StoreUnavailable { partition, .. } => {
            (Code::Unavailable, "store-unavailable", *partition)
        }
        VerifyError::Local { partition, source } => return host_error(*partition, source),
    };
    error(code, reason, chain(source as &dyn Error), Some(partition))
}

fn skip_error(partition: PartitionId, source: &SkipError) -> Status {
    let (code, reason) = match source {
        SkipError::Refused(refusal) => (Code::FailedPrecondition, refusal.as_str()),
        SkipError::Unavailable(_) => (Code::Unavailable, "log-unavailable"),
        SkipError::Unknown(_) => (Code::Unknown, "unknown-outcome"),
        SkipError::Unsupported => (Code::Unimplemented, "unsupported"),
    };
    error(
        code,
        reason,
        format!("partition {partition}: {source}"),
        Some(partition),
    )
}

fn rebuild_error(partition: PartitionId, source: &RebuildError) -> Status {
    let code = match source {
        RebuildError::NotNow { .. } | RebuildError::UnderWay | RebuildError::NoSource(_) => {
            Code::FailedPrecondition
        }
        RebuildError::Unavailable(_) => Code::Unavailable,
        RebuildError::Unsupported => Code::Unimplemented,
    };
    let message = format!("partition {partition}: {source}");
    error(code, source.as_str(), message, Some(partition))
}

fn threshold_override(wire: v1::ThresholdOverride) -> ThresholdOverride {
    ThresholdOverride {
        partitions: PartitionId::new(wire.first_partition)..=PartitionId::new(wire.last_partition),
        snapshot_after_records: wire.snapshot_after_records,
        snapshot_after_bytes: wire.snapshot_after_bytes,
    }
}

#[tonic::async_trait]
impl WorkerService for AgentService {
    type CreateSnapshotStream = BoxStream<'static, Result<v1::CreateSnapshotEvent, Status>>;

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::WorkerStatus>, Status> {
        let is_reader = request
            .metadata()
            .get(ROLE_METADATA)
            .is_some_and(|role| role.as_bytes() == READER.as_bytes());
        let request = request.into_inner();
        let shared = &self.agent.shared;
        // Only an admin's poll carries policy; an operator's look must not be mistaken for one, and who may only read
        // must not change what this node does.
        let polled = !is_reader && !request.admin.is_empty();
        if let Some(policy) = request.policy.filter(|_| polled) {
            shared.policy.send_replace(Some(WorkerPolicy {
                admin: request.admin,
                received_at: shared.seams.clock.now(),
                snapshot_after_records: policy.snapshot_after_records,
                snapshot_after_bytes: policy.snapshot_after_bytes,
                restorable_snapshots_min: policy.restorable_snapshots_min,
                paused: policy.paused,
                paused_partitions: policy
                    .paused_partitions
                    .into_iter()
                    .map(PartitionId::new)
                    .collect(),
                overrides: policy.overrides.into_iter().map(threshold_override).collect(),
            }));
        }
        let (version, partitions) = shared.versioned_status();
        let unchanged = request.known_version == version;
        let partitions = if unchanged { Vec::new() } else { partitions };
        let config = &shared.config;
        let exports = shared.export_counts();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(v1::WorkerStatus {
            node: config.node.to_string(),
            node_generation: shared.node_generation.clone(),
            address: config.address.clone(),
            fingerprint: Bytes::copy_from_slice(config.cluster.fingerprint.as_bytes()),
            version,
            unchanged,
            partitions: partitions.into_iter().map(wire::replica_status).collect(),
            exports_running: count(exports.running),
            exports_max: count(config.exports_max.max(1)),
            exports_queued: count(exports.queued),
            exports_queue_max: count(config.exports_queue_max),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<Self::CreateSnapshotStream>, Status> {
        let fresh = RequestId::new(self.agent.shared.seams.ulid());
        let request = wire::create_snapshot(request.into_inner(), fresh).map_err(invalid)?;
        let events = self.agent.create_snapshot(request);
        Ok(Response::new(
            events.map(|event| Ok(wire::export_event(event))).boxed(),
        ))
    }

    async fn verify_snapshot(
        &self,
        request: Request<v1::VerifySnapshotRequest>,
    ) -> Result<Response<v1::VerifySnapshotReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        self.host(partition)?;
        let snapshot_id = wire::snapshot_id(&request.snapshot_id).map_err(invalid)?;
        let level = wire::verify_level(request.level).map_err(invalid)?;
        let report = self.agent.verify(partition, snapshot_id, level).await;
        let report = report.map_err(|source| verify_error(&source))?;
        Ok(Response::new(wire::verify_reply(
            report,
            &self.agent.shared.config.node,
        )))
    }

    async fn lead(&self, request: Request<v1::LeadRequest>) -> Result<Response<v1::LeadReply>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let host = self.host(partition)?;
        let epoch = host
            .lead()
            .await
            .map_err(|source| host_error(partition, &source))?;
        Ok(Response::new(v1::LeadReply { epoch: epoch.get() }))
    }

    async fn append_noop(
        &self,
        request: Request<v1::AppendNoopRequest>,
    ) -> Result<Response<v1::AppendNoopReply>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let host = self.host(partition)?;
        let lsn = host
            .advance()
            .await
            .map_err(|source| host_error(partition, &source))?;
        Ok(Response::new(v1::AppendNoopReply { lsn: lsn.get() }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        self.host(partition)?;
        let request_id = wire::request_id(&request.request_id).map_err(invalid)?;
        let cancelled = self.agent.cancel(partition, request_id);
        Ok(Response::new(v1::CancelReply { cancelled }))
    }

    async fn skip_record(
        &self,
        request: Request<v1::SkipRecordRequest>,
    ) -> Result<Response<v1::SkipRecordReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let host = self.host(partition)?;
        let (lsn, dry_run) = (Lsn::new(request.lsn), request.dry_run);
        let hash = wire::record_hash(&request.record_hash).map_err(invalid)?;
        let (state, poison) = (host.status().state, host.poison());
        let record = may_skip(lsn, hash.as_ref(), &state, poison.as_ref())
            .cloned()
            .map_err(|refusal| skip_error(partition, &refusal.into()))?;
        let mut reply = v1::SkipRecordReply {
            record: Some(wire::poison_record(record)),
            skip_lsn: None,
        };
        if !dry_run {
            let order = wire::skip_order(request).map_err(invalid)?;
            let skip_lsn = host.skip(order).await;
            let skip_lsn = skip_lsn.map_err(|source| skip_error(partition, &source))?;
            reply.skip_lsn = Some(skip_lsn.get());
        }
        Ok(Response::new(reply))
    }

    async fn rebuild_partition(
        &self,
        request: Request<v1::RebuildPartitionRequest>,
    ) -> Result<Response<v1::RebuildPartitionReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let host = self.host(partition)?;
        let plan = host.rebuild(request.dry_run).await;
        let plan = plan.map_err(|source| rebuild_error(partition, &source))?;
        Ok(Response::new(wire::rebuild_reply(&plan)))
    }
}
