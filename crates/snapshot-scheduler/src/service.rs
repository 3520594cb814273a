//! The admin's gRPC service: a thin shell over [`SchedulerHandle`].

use crate::{
    core::{PolicyChange, RestorePrice, TrimPrice},
    handle::{OrderError, PauseError, SchedulerHandle},
    reload::ReloadError,
    trim::{TrimMode, TrimReport, TrimResult},
};
use futures::{Stream, StreamExt, stream::BoxStream};
use snapshot_proto::v1::{self, admin_service_server::AdminService as Service};
use snapshot_store::{
    Lsn, NodeId, PartitionId,
    format::{Control, PauseScope},
};
use std::{collections::HashMap, time::Duration};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Distance of two messages of a watch when the client names none.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest distance a client may ask for.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Serves `tidemark.v1.AdminService`.
#[derive(Clone)]
pub struct AdminService {
    handle: SchedulerHandle,
}

impl From<SchedulerHandle> for AdminService {
    fn from(handle: SchedulerHandle) -> Self {
        AdminService { handle }
    }
}

/// Builds an error with a machine-readable reason.
fn refusal(code: Code, reason: &str, message: String, metadata: &[(&str, String)]) -> Status {
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, "tidemark", metadata),
    )
}

fn unknown_partition(partition: PartitionId, message: String) -> Status {
    refusal(
        Code::NotFound,
        "unknown-partition",
        message,
        &[("partition", partition.to_string())],
    )
}

fn order_refused(error: OrderError) -> Status {
    let message = error.to_string();
    match error {
        OrderError::UnknownPartition { partition, .. } => unknown_partition(partition, message),
        OrderError::UnknownNode { node } => refusal(
            Code::NotFound,
            "unknown-node",
            message,
            &[("node", node.to_string())],
        ),
        OrderError::NotNow { partition, code, .. } => {
            let message = if code.remedy().is_empty() {
                message
            } else {
                format!("{message}; {}", code.remedy())
            };
            refusal(
                Code::FailedPrecondition,
                code.as_str(),
                message,
                &[("partition", partition.to_string())],
            )
        }
    }
}

fn pause_refused(error: PauseError) -> Status {
    let message = crate::archive::chain_text(&error);
    match error {
        PauseError::UnknownPartition { partition, .. } => unknown_partition(partition, message),
        PauseError::TooLong => refusal(Code::InvalidArgument, "too-long", message, &[]),
        PauseError::Store(_) => refusal(Code::Unavailable, "control-unreadable", message, &[]),
    }
}

fn pauses(control: &Control) -> Vec<v1::PauseEntry> {
    control.pauses.iter().map(crate::wire::pause_to_wire).collect()
}

fn scope(partition: Option<u32>) -> PauseScope {
    partition.map_or(PauseScope::Cluster, |partition| {
        PauseScope::Partition(PartitionId::new(partition))
    })
}

fn outcome(report: TrimReport) -> v1::TrimOutcome {
    let (code, after) = match &report.result {
        TrimResult::Trimmed { after, .. } => ("trimmed", Some(*after)),
        TrimResult::WouldTrim { .. } => ("would-trim", report.trim_point),
        TrimResult::Held(reason) => (reason.as_str(), report.trim_point),
        TrimResult::Failed => ("failed", None),
    };
    v1::TrimOutcome {
        partition: report.partition.get(),
        code: code.to_owned(),
        detail: report.detail,
        trim_point_before: report.trim_point.map(Lsn::get),
        trim_point_after: after.map(Lsn::get),
        guard_lsn: report.guard_lsn.map(Lsn::get),
        left_behind: report.left_behind.iter().map(ToString::to_string).collect(),
        price: report.price.as_ref().map(price),
    }
}

fn price(price: &TrimPrice) -> v1::TrimPrice {
    let restore = |restore: &RestorePrice| v1::RestorePrice {
        node: restore.node.to_string(),
        needed_lsn: restore.needed_lsn.map(Lsn::get),
        live: restore.live,
        bytes: restore.bytes,
    };
    v1::TrimPrice {
        up_to: price.up_to.get(),
        records: price.records,
        bytes: price.bytes.map(|freed| freed.bytes),
        bytes_estimated: price.bytes.is_some_and(|freed| freed.estimated),
        must_restore: price.must_restore.iter().map(restore).collect(),
    }
}

/// Returns the status without what changes by itself, for comparing.
fn settled(mut status: v1::ClusterStatus) -> v1::ClusterStatus {
    status.tick = 0;
    status.age = None;
    if let Some(lease) = &mut status.lease {
        lease.expires_at_ms = 0;
        lease.detail.clear();
    }
    if let Some(audit) = &mut status.audit {
        *audit = v1::AuditState {
            damaged_partitions: std::mem::take(&mut audit.damaged_partitions),
            ..v1::AuditState::default()
        };
    }
    for node in &mut status.nodes {
        node.age_ms = None;
    }
    for partition in &mut status.partitions {
        partition.log_age_ms = None;
        partition.pointer_age_ms = None;
        for snapshot in &mut partition.snapshots {
            snapshot.read_age_ms = None;
        }
        let reasons = [
            &mut partition.snapshot,
            &mut partition.trim,
            &mut partition.leadership,
        ];
        for reason in reasons.into_iter().flatten() {
            reason.for_ms = 0;
        }
    }
    status
}

/// Sends the status at once and again whenever it changed, at most once in `interval`.
fn watch(
    handle: SchedulerHandle,
    interval: Duration,
) -> impl Stream<Item = Result<v1::ClusterStatus, Status>> {
    let ticks = handle.watch();
    futures::stream::unfold(
        (handle, ticks, None),
        move |(handle, mut ticks, last)| async move {
            loop {
                let status = handle.status();
                let bare = settled(status.clone());
                if last.as_ref() != Some(&bare) {
                    return Some((Ok(status), (handle, ticks, Some(bare))));
                }
                tokio::select! {
                    () = handle.is_stopping() => return None,
                    () = async {
                        tokio::time::sleep(interval).await;
                        // The sender lives as long as the handle.
                        ticks.changed().await.ok();
                    } => {}
                }
            }
        },
    )
}

#[tonic::async_trait]
impl Service for AdminService {
    async fn get_cluster_status(
        &self,
        _request: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        Ok(Response::new(self.handle.status()))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let reply = self.handle.explain(partition).ok_or_else(|| {
            let partitions = self.handle.partitions();
            let message = format!("partition {partition} does not exist: the cluster has {partitions}");
            unknown_partition(partition, message)
        })?;
        Ok(Response::new(reply))
    }

    type CreateSnapshotStream = BoxStream<'static, Result<v1::CreateSnapshotEvent, Status>>;

    async fn create_snapshot(
        &self,
        request: Request<v1::AdminCreateSnapshotRequest>,
    ) -> Result<Response<Self::CreateSnapshotStream>, Status> {
        let request = request.into_inner();
        let node = match request.node.as_str() {
            "" => None,
            node => Some(NodeId::new(node).map_err(|error| {
                refusal(Code::InvalidArgument, "invalid-node-id", error.to_string(), &[])
            })?),
        };
        let partition = PartitionId::new(request.partition);
        let events = self
            .handle
            .create_snapshot(partition, Lsn::new(request.min_lsn), node)
            .map_err(order_refused)?;
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    async fn trim(&self, request: Request<v1::TrimRequest>) -> Result<Response<v1::TrimReply>, Status> {
        let request = request.into_inner();
        let partitions: Vec<PartitionId> = request.partitions.iter().copied().map(PartitionId::new).collect();
        if let Some(unknown) = partitions
            .iter()
            .find(|id| id.get() as usize >= self.handle.partitions())
        {
            let message = format!(
                "partition {unknown} does not exist: the cluster has {}",
                self.handle.partitions()
            );
            return Err(unknown_partition(*unknown, message));
        }
        let mode = TrimMode {
            force: request.force,
            dry_run: request.dry_run,
        };
        let reports = self.handle.trim(&partitions, mode).await;
        Ok(Response::new(v1::TrimReply {
            partitions: reports.into_iter().map(outcome).collect(),
        }))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseReply>, Status> {
        let request = request.into_inner();
        let control = self
            .handle
            .pause(scope(request.partition), &request.by, &request.reason)
            .await
            .map_err(pause_refused)?;
        Ok(Response::new(v1::PauseReply {
            pauses: pauses(&control),
        }))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeReply>, Status> {
        let control = self
            .handle
            .resume(scope(request.into_inner().partition))
            .await
            .map_err(pause_refused)?;
        Ok(Response::new(v1::ResumeReply {
            pauses: pauses(&control),
        }))
    }

    async fn preview_plan(
        &self,
        _request: Request<v1::PreviewPlanRequest>,
    ) -> Result<Response<v1::Plan>, Status> {
        Ok(Response::new(self.handle.preview_to_wire()))
    }

    async fn reload_policy(
        &self,
        _request: Request<v1::ReloadPolicyRequest>,
    ) -> Result<Response<v1::ReloadPolicyReply>, Status> {
        let changes = self.handle.reload_policy().await.map_err(|error| {
            let reason = match &error {
                ReloadError::NoSource => "no-policy-source",
                ReloadError::Refused { .. } => "policy-refused",
            };
            refusal(Code::FailedPrecondition, reason, error.to_string(), &[])
        })?;
        let change = |change: PolicyChange| v1::PolicyChange {
            key: change.key,
            from: change.from,
            to: change.to,
        };
        Ok(Response::new(v1::ReloadPolicyReply {
            changes: changes.into_iter().map(change).collect(),
            policy: Some(self.handle.policy_state()),
        }))
    }

    type WatchStream = BoxStream<'static, Result<v1::ClusterStatus, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let interval = match request.into_inner().interval_ms {
            0 => WATCH_INTERVAL,
            millis => Duration::from_millis(millis).max(WATCH_INTERVAL_MIN),
        };
        Ok(Response::new(watch(self.handle.clone(), interval).boxed()))
    }
}
