//! Has a worker check a snapshot, and takes over what it found.

use crate::{
    client::WorkerError,
    core::{AuditResult, Instants, PartitionView, ReadAge, VerifyCause},
    metrics,
    state::{Check, Context, PartitionMemory},
    wire,
};
use snapshot_proto::v1;
use snapshot_store::{
    AnomalyKind, NodeId, PartitionId, SnapshotId,
    core::SnapshotTrust,
    format::{Certificate, Pointer, StickyReason, VerifyLevel},
};
use std::time::Duration;
use tokio::time::timeout;

/// How long a check of one snapshot may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3600);

/// Has `node` check a snapshot. A worker that cannot say leaves a backoff behind, so that another one is asked next time.
pub(crate) async fn verify(
    ctx: &Context,
    id: PartitionId,
    snapshot: SnapshotId,
    node: &NodeId,
    level: VerifyLevel,
    cause: VerifyCause,
) {
    let outcome = match ctx.worker(node) {
        Some(worker) => {
            let request = v1::VerifySnapshotRequest {
                partition: id.get(),
                snapshot_id: snapshot.to_string(),
                level: wire::level_to_wire(level).into(),
            };
            timeout(VERIFY_TIMEOUT, worker.client.verify(request))
                .await
                .unwrap_or_else(|_| {
                    Err(WorkerError::Unreachable {
                        detail: "the check did not finish in time".to_owned(),
                    })
                })
        }
        None => Err(WorkerError::Unreachable {
            detail: "it is not configured".to_owned(),
        }),
    };
    // A check that says ok below the level asked for, or not ok without saying what is wrong, proves nothing.
    let verdict = outcome.map_err(|error| error.to_string()).and_then(|reply| {
        let reached = wire::level(reply.level());
        match (reply.ok, reply.anomalies.first()) {
            (true, None) if reached.is_some_and(|reached| reached >= level) => Ok(None),
            // Neither says anything about the bytes; the trim names what it is.
            (false, Some(first))
                if first.kind == AnomalyKind::NewerFormat.as_str()
                    || first.kind == AnomalyKind::ForeignCluster.as_str() =>
            {
                Err(format!("{}: {}", first.kind, first.message))
            }
            (false, Some(first)) => Ok(Some(format!("{} ({}: {})", first.key, first.kind, first.message))),
            _ => Err("its answer is neither a pass nor an anomaly".to_owned()),
        }
    });
    if cause == VerifyCause::Audit {
        metrics::audited(
            VerifyLevel::Content,
            match &verdict {
                Ok(None) => AuditResult::Sound,
                Ok(Some(_)) => AuditResult::Damaged,
                Err(_) => AuditResult::Failed,
            },
        );
    }
    let instants = ctx.instants();
    let now = instants.now;
    let mut state = ctx.lock();
    match verdict {
        Ok(None) => {
            metrics::verified("ok");
            let by = node.clone();
            let at = instants.clock;
            state.note_verified(id, snapshot, Check { level, by, at }, now);
        }
        Ok(Some(detail)) => {
            metrics::verified("damaged");
            tracing::error!(partition = %id, %snapshot, by = %node, %detail, "snapshot is damaged");
            state.note_damaged(id, snapshot, detail);
            ctx.store_wake.notify_one();
        }
        Err(detail) => {
            metrics::verified("failed");
            tracing::warn!(partition = %id, %snapshot, by = %node, %detail, "snapshot could not be checked");
            let not_before = now.plus(ctx.backoff(3));
            if let Some((view, memory)) = state.partition(id) {
                view.verify_backoff.insert(node.clone(), not_before);
                // It may have left the pointer meanwhile.
                memory.pointer_wanted = true;
            }
        }
    }
    if let Some((view, _)) = state.partition(id) {
        view.verifying = None;
        view.audit.reading = false;
    }
}

/// Takes checks over from the certificate in force: only for the very same manifests, and not while damage is
/// being repaired, because the certificate was written before it.
pub(crate) fn trust_certificate(
    view: &mut PartitionView,
    memory: &mut PartitionMemory,
    pointer: &Pointer,
    certificate: &Certificate,
    instants: Instants,
) {
    if view.holds.contains_key(&StickyReason::DamagedSnapshot)
        || certificate.cluster.fingerprint != pointer.cluster.fingerprint
    {
        return;
    }
    for certified in &certificate.snapshots {
        let same = pointer.snapshots.iter().any(|entry| {
            entry.snapshot_id == certified.snapshot_id && entry.manifest_hash == certified.manifest_hash
        });
        let known = view.trust.contains_key(&certified.snapshot_id);
        if same && !known {
            view.trust
                .insert(certified.snapshot_id, SnapshotTrust::Verified(certified.verified));
            if certified.verified >= VerifyLevel::Content {
                let read = ReadAge::new(certified.verified_at, instants);
                view.audit.read.insert(certified.snapshot_id, read);
            }
            let check = Check {
                level: certified.verified,
                by: certified.verified_by.clone(),
                at: certified.verified_at,
            };
            memory.checks.insert(certified.snapshot_id, check);
        }
    }
}
