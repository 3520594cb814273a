//! Carries out what was planned: every command in a task of its own, bounded by the plan, with a time limit.
//! Failures leave a backoff behind, so that somebody else is asked next time.

use crate::{
    archive,
    client::{SnapshotEvents, WorkerClient, WorkerError},
    core::{Command, LEAD_TIMEOUT, Moment, SnapshotCommand, TRIM_RECHECK, TrimHint, TrimStatus, note_begun},
    metrics::{self, RequestKind},
    state::{Context, State},
    trim::{self, TrimMode, TrimReport, TrimResult},
    verify, wire,
};
use futures::StreamExt;
use snapshot_proto::v1::{self, create_snapshot_event::Event};
use snapshot_store::{
    LeaderEpoch, Leadership, Lsn, NodeId, PartitionId, ReplicaRole, RequestId, core::HoldReason,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// How long a worker may be silent while it makes a snapshot.
const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(300);
/// How many messages one snapshot may send: far more than one a second for a day.
const SNAPSHOT_EVENTS_MAX: usize = 1_000_000;
/// How long an operator's client may leave the final message unread.
const RELAY_PATIENCE: Duration = Duration::from_secs(5);

/// Failures in a row, of whatever partitions, after which other nodes are preferred to one that answers: a full disk fails
/// all partitions, and each of them would else find that out by itself.
const NODE_FAILURES_MIN: u32 = 3;

/// Where the progress of an operator's request goes.
pub(crate) type Relay = mpsc::Sender<v1::CreateSnapshotEvent>;

/// Notes in the state that `command` is being carried out. Called under the lock that it was planned under.
pub(crate) fn begin(ctx: &Context, state: &mut State, command: &Command, now: Moment) -> RequestId {
    let request_id = RequestId::new(ctx.seams.ulid());
    note_begun(&mut state.view, command, request_id, now);
    request_id
}

/// Carries out `command`, which was begun, in a task.
pub(crate) fn spawn(ctx: &Arc<Context>, command: Command, request_id: RequestId, relay: Option<Relay>) {
    let ctx = ctx.clone();
    ctx.tasks.clone().spawn(async move {
        let shutdown = ctx.shutdown.clone();
        tokio::select! {
            () = carry_out(&ctx, command, request_id, relay) => ctx.wake.notify_one(),
            () = shutdown.cancelled() => {}
        }
    });
}

async fn carry_out(ctx: &Context, command: Command, request_id: RequestId, relay: Option<Relay>) {
    let kind = match &command {
        Command::CreateSnapshot(_) => Some(RequestKind::CreateSnapshot),
        Command::AppendNoop { .. } => Some(RequestKind::AppendNoop),
        Command::Verify { .. } => Some(RequestKind::Verify),
        Command::Lead { .. } => Some(RequestKind::Lead),
        // Counted where it begins, as are those of operators.
        Command::Trim { .. } => None,
    };
    let _request = kind.map(metrics::request);
    match command {
        Command::CreateSnapshot(command) => order_snapshot(ctx, &command, request_id, relay).await,
        Command::AppendNoop { partition, node } => append_noop(ctx, partition, &node).await,
        Command::Verify {
            partition,
            snapshot_id,
            node,
            level,
            cause,
        } => {
            verify::verify(ctx, partition, snapshot_id, &node, level, cause).await;
        }
        Command::Trim { partition, hint } => trim_by_policy(ctx, partition, hint).await,
        Command::Lead { partition, node } => lead(ctx, partition, &node).await,
    }
}

/// How a request for a snapshot ended.
enum Outcome {
    Published(v1::SnapshotPublished),
    Declined(v1::SnapshotDeclined),
    Failed { reason: String, message: String },
    Unreachable(String),
}

async fn order_snapshot(
    ctx: &Context,
    command: &SnapshotCommand,
    request_id: RequestId,
    relay: Option<Relay>,
) {
    metrics::snapshot_requested(command.cause);
    tracing::info!(
        partition = %command.partition, node = %command.node, min_lsn = %command.min_lsn, %request_id,
        cause = %command.cause, "snapshot asked for"
    );
    let outcome = match ctx.worker(&command.node) {
        Some(worker) => {
            let wire = v1::CreateSnapshotRequest {
                partition: command.partition.get(),
                min_lsn: command.min_lsn.get(),
                request_id: request_id.to_string(),
                distrusted: command.distrusted.iter().map(ToString::to_string).collect(),
                restorable_snapshots_min: ctx.policy().restorable_snapshots_min,
            };
            follow(worker.client.as_ref(), wire, relay.as_ref()).await
        }
        None => Outcome::Unreachable("it is not configured".to_owned()),
    };
    if let Some(relay) = relay {
        // The client may be gone or slow; the outcome counts all the same.
        let _ = relay.send_timeout(outcome_event(&outcome), RELAY_PATIENCE).await;
    }
    settle_order(ctx, command, request_id, outcome).await;
}

/// Follows a snapshot to its end, and passes progress on.
async fn follow(
    client: &dyn WorkerClient,
    request: v1::CreateSnapshotRequest,
    relay: Option<&Relay>,
) -> Outcome {
    let silent = || Outcome::Unreachable(format!("it was silent for {} s", SNAPSHOT_SILENCE_MAX.as_secs()));
    let mut events: SnapshotEvents =
        match timeout(SNAPSHOT_SILENCE_MAX, client.create_snapshot(request)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return failure(error),
            Err(_) => return silent(),
        };
    for _ in 0..SNAPSHOT_EVENTS_MAX {
        let event = match timeout(SNAPSHOT_SILENCE_MAX, events.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => return failure(error),
            Ok(None) => return Outcome::Unreachable("it ended the request without an outcome".to_owned()),
            Err(_) => return silent(),
        };
        match event.event {
            Some(Event::Published(published)) => return Outcome::Published(published),
            Some(Event::Declined(declined)) => return Outcome::Declined(declined),
            Some(Event::Failed(failed)) => {
                return Outcome::Failed {
                    reason: failed.reason,
                    message: failed.message,
                };
            }
            Some(Event::Queued(_) | Event::Accepted(_) | Event::Progress(_)) => {
                if let Some(relay) = relay {
                    // Progress that nobody reads is dropped.
                    let _ = relay.try_send(event);
                }
            }
            None => {}
        }
    }
    Outcome::Failed {
        reason: "endless".to_owned(),
        message: "it sent progress without end".to_owned(),
    }
}

fn failure(error: WorkerError) -> Outcome {
    match error {
        WorkerError::Unreachable { detail } => Outcome::Unreachable(detail),
        WorkerError::Refused { reason, detail } => Outcome::Failed {
            reason,
            message: detail,
        },
        WorkerError::Unintelligible { detail } => Outcome::Failed {
            reason: "unintelligible".to_owned(),
            message: detail,
        },
    }
}

fn outcome_event(outcome: &Outcome) -> v1::CreateSnapshotEvent {
    let event = match outcome {
        Outcome::Published(published) => Event::Published(published.clone()),
        Outcome::Declined(declined) => Event::Declined(declined.clone()),
        Outcome::Failed { reason, message } => Event::Failed(v1::SnapshotFailed {
            reason: reason.clone(),
            message: message.clone(),
        }),
        Outcome::Unreachable(detail) => Event::Failed(v1::SnapshotFailed {
            reason: "worker-unreachable".to_owned(),
            message: format!("{detail}; the snapshot may still be published"),
        }),
    };
    v1::CreateSnapshotEvent { event: Some(event) }
}

async fn settle_order(ctx: &Context, command: &SnapshotCommand, request_id: RequestId, outcome: Outcome) {
    let id = command.partition;
    let node = &command.node;
    let read_pointer = match &outcome {
        Outcome::Published(published) => {
            metrics::snapshot_outcome("published");
            tracing::info!(
                partition = %id, %node, snapshot = %published.snapshot_id, lsn = published.lsn,
                bytes = published.bytes_total, %request_id, "snapshot published"
            );
            true
        }
        Outcome::Declined(declined) => {
            metrics::snapshot_outcome("declined");
            metrics::declined(declined.reason());
            tracing::info!(
                partition = %id, %node, reason = wire::decline_word(declined.reason()), %request_id,
                message = %declined.message, "snapshot declined"
            );
            let mut state = ctx.lock();
            if let Some(report) = state
                .view
                .partitions
                .get_mut(&id)
                .and_then(|partition| partition.replicas.get_mut(node))
            {
                report.applied_lsn = declined.applied_lsn.map(Lsn::new).or(report.applied_lsn);
            }
            // Covered means that our knowledge of the store is old, whatever LSN it names.
            let news = declined
                .archived_lsn
                .is_some_and(|lsn| state.follow_archived(id, Lsn::new(lsn)));
            news || declined.reason() == v1::DeclineReason::Covered
        }
        Outcome::Failed { reason, message } => {
            metrics::snapshot_outcome("failed");
            tracing::warn!(partition = %id, %node, %reason, %message, %request_id, "snapshot failed");
            true
        }
        Outcome::Unreachable(detail) => {
            metrics::snapshot_outcome("unreachable");
            tracing::warn!(partition = %id, %node, %detail, %request_id, "worker lost while it made a snapshot");
            true
        }
    };
    if read_pointer {
        // The order stays in force until the pointer was read, so that nothing is ordered on old knowledge.
        if let Some((view, memory)) = ctx.lock().partition(id) {
            view.archive_stale = true;
            memory.pointer_wanted = true;
        }
        archive::read_pointer(ctx, id).await;
    }
    note_outcome(ctx, command, &outcome);
}

/// Ends the order and remembers who failed.
fn note_outcome(ctx: &Context, command: &SnapshotCommand, outcome: &Outcome) {
    let now = ctx.now();
    let mut state = ctx.lock();
    let Some((view, memory)) = state.partition(command.partition) else {
        return;
    };
    view.order = None;
    let node = &command.node;
    match outcome {
        Outcome::Published(_) => {
            view.backoff.remove(node);
            memory.failures.remove(node);
        }
        Outcome::Declined(_) => {
            let not_before = now.plus(ctx.options.poll_interval() * 2);
            view.backoff.insert(node.clone(), not_before);
        }
        Outcome::Failed { .. } | Outcome::Unreachable(_) => {
            let failures = memory.failures.entry(node.clone()).or_default();
            *failures = failures.saturating_add(1);
            view.backoff
                .insert(node.clone(), now.plus(ctx.backoff(*failures)));
        }
    }
    if let Some(node) = state.view.nodes.get_mut(node) {
        let failures = node.failures.saturating_add(1);
        match outcome {
            Outcome::Published(_) => node.failures = 0,
            Outcome::Declined(_) => {}
            Outcome::Failed { .. } => {
                node.failures = failures;
                if failures >= NODE_FAILURES_MIN {
                    node.failing_until = now.plus(ctx.backoff(failures));
                }
            }
            Outcome::Unreachable(_) => {
                node.failures = failures;
                node.not_before = now.plus(ctx.backoff(failures));
            }
        }
    }
}

async fn append_noop(ctx: &Context, id: PartitionId, node: &NodeId) {
    let Some(worker) = ctx.worker(node) else { return };
    match timeout(LEAD_TIMEOUT, worker.client.append_noop(id)).await {
        Ok(Ok(reply)) => {
            tracing::info!(partition = %id, %node, lsn = reply.lsn, "record appended to move the LSN");
        }
        Ok(Err(error)) => tracing::warn!(partition = %id, %node, %error, "leader could not append"),
        Err(_) => tracing::warn!(partition = %id, %node, "leader did not append in time"),
    }
}

async fn trim_by_policy(ctx: &Context, id: PartitionId, hint: TrimHint) {
    let report = trim::trim_partition(ctx, id, TrimMode::default()).await;
    let now = ctx.now();
    let mut state = ctx.lock();
    note_trim(&mut state, &report);
    let Some((view, _)) = state.partition(id) else {
        return;
    };
    view.trim.running = false;
    view.trim.looked = Some((now, hint));
    view.trim.idle = report.result == TrimResult::Held(HoldReason::NothingToTrim);
    if report.result == TrimResult::Held(HoldReason::Delay) {
        // Time alone changes that, and slowly.
        view.trim.not_before = now.plus(TRIM_RECHECK / 2);
    }
    let failed = match report.result {
        TrimResult::Failed => true,
        TrimResult::Held(reason) => {
            matches!(
                reason,
                HoldReason::StoreUnavailable
                    | HoldReason::LogUnavailable
                    | HoldReason::LostRace
                    | HoldReason::PointerUnreadable
                    | HoldReason::ControlUnreadable
                    | HoldReason::ForeignIdentity
            )
        }
        TrimResult::Trimmed { .. } | TrimResult::WouldTrim { .. } => false,
    };
    if failed {
        view.trim.failures = view.trim.failures.saturating_add(1);
        // What could not be read is looked at again, with growing distance, though nothing seems to have changed.
        view.trim.not_before = now.plus(ctx.backoff(view.trim.failures));
        view.trim.looked = None;
    } else {
        view.trim.failures = 0;
    }
}

/// Takes the outcome of a trim over into the status.
pub(crate) fn note_trim(state: &mut State, report: &TrimReport) {
    let Some((_, memory)) = state.partition(report.partition) else {
        return;
    };
    memory.trim_lines.clone_from(&report.lines);
    let detail = report.detail.clone();
    memory.trim = match &report.result {
        TrimResult::Trimmed { after, .. } => TrimStatus::Trimmed {
            trim_point: *after,
            detail,
        },
        TrimResult::Held(reason) => TrimStatus::Held {
            reason: *reason,
            detail,
        },
        TrimResult::Failed => TrimStatus::Failed { detail },
        // An operator's dry run says nothing about what the admin does.
        TrimResult::WouldTrim { .. } => return,
    };
}

async fn lead(ctx: &Context, id: PartitionId, node: &NodeId) {
    let outcome = match ctx.worker(node) {
        Some(worker) => timeout(LEAD_TIMEOUT, worker.client.lead(id))
            .await
            .unwrap_or_else(|_| {
                Err(WorkerError::Unreachable {
                    detail: "the announcement was not applied in time".to_owned(),
                })
            }),
        None => Err(WorkerError::Unreachable {
            detail: "it is not configured".to_owned(),
        }),
    };
    metrics::lead(outcome.is_ok());
    let now = ctx.now();
    let settle = ctx.options.timing().settle;
    let mut state = ctx.lock();
    let Some((view, _)) = state.partition(id) else {
        return;
    };
    match outcome {
        Ok(reply) => {
            tracing::info!(partition = %id, %node, epoch = reply.epoch, "leader assigned");
            // Reports that were on their way do not know of it yet.
            view.lead_not_before = now.plus(settle);
            view.lead_backoff.remove(node);
            if let Some(report) = view.replicas.get_mut(node) {
                let epoch = LeaderEpoch::new(reply.epoch);
                report.leader = Some(Leadership {
                    epoch,
                    node: node.clone(),
                });
                report.role = ReplicaRole::Leader;
            }
        }
        Err(error) => {
            tracing::warn!(partition = %id, %node, %error, "node did not take leadership");
            view.lead_not_before = now.plus(ctx.options.poll_interval());
            view.lead_backoff.insert(node.clone(), now.plus(LEAD_TIMEOUT));
        }
    }
}
