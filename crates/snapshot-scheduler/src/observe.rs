//! Looks at the workers and at the log, and keeps the view up to date.
//!
//! Each round asks all workers at about the same moment, so that their reports can be compared; a worker that
//! does not answer in time delays nobody else. What is read from the store is in [`crate::archive`].

use crate::{
    client::{WorkerError, WorkerSpec},
    core::{ClusterView, ControlView, LogView, Moment, PartitionView, highest_claim},
    lease, metrics,
    state::{Context, NodeMemory, State},
    wire,
};
use futures::{StreamExt, stream};
use partition_log::LogError;
use snapshot_proto::v1;
use snapshot_store::{
    Lsn, NodeId, PartitionId,
    core::LogFacts,
    format::{PauseScope, StickyReason},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// How many workers are polled at a time.
const POLLS_MAX: usize = 64;
/// How many logs are asked at a time.
const LOG_POLLS_MAX: usize = 16;
/// How many generations of a worker are remembered so that late replies can be told apart.
const RETIRED_MAX: usize = 8;
/// How often in a row a log must end below what replicas hold before it counts as regressed.
const REGRESSED_AFTER: u32 = 2;
/// How long it may take to learn that a log ends below what replicas hold; one that does not is silent.
const TAIL_PATIENCE: Duration = Duration::from_secs(1);
/// How far the distance of two rounds varies.
const JITTER: f64 = 0.1;

/// Polls all workers until the scheduler stops.
pub(crate) async fn poll_workers(ctx: Arc<Context>) {
    let permits = Arc::new(Semaphore::new(POLLS_MAX));
    loop {
        let due: Vec<WorkerSpec> = {
            let mut state = ctx.lock();
            let mut idle = |node: &NodeId| {
                state
                    .nodes
                    .get_mut(node)
                    .is_some_and(|memory| !std::mem::replace(&mut memory.polling, true))
            };
            let workers = ctx.workers();
            workers
                .values()
                .filter(|worker| idle(&worker.node))
                .cloned()
                .collect()
        };
        for worker in due {
            let (ctx, permits) = (ctx.clone(), permits.clone());
            ctx.tasks.clone().spawn(async move {
                // The semaphore is never closed; without a permit the worker is polled in the next round.
                if let Ok(_permit) = permits.acquire().await {
                    poll_worker(&ctx, &worker).await;
                }
                if let Some(memory) = ctx.lock().nodes.get_mut(&worker.node) {
                    memory.polling = false;
                }
            });
        }
        let pause = ctx
            .options
            .poll_interval()
            .mul_f64(ctx.seams.entropy.jitter(JITTER));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ctx.poll_wake.notified() => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

async fn poll_worker(ctx: &Context, worker: &WorkerSpec) {
    let mut known_version = ctx
        .lock()
        .nodes
        .get(&worker.node)
        .map_or(0, |memory| memory.version);
    // Asked twice at most: a restarted worker may have reached the version that its predecessor had.
    for _ in 0..2 {
        let request = v1::GetStatusRequest {
            admin: ctx.admin.to_string(),
            known_version,
            policy: worker_policy(ctx),
        };
        let reply = timeout(ctx.options.poll_timeout(), worker.client.status(request)).await;
        let reply = reply.unwrap_or_else(|_| {
            let detail = format!("no answer within {} ms", ctx.options.poll_timeout_ms);
            Err(WorkerError::Unreachable { detail })
        });
        let now = ctx.now();
        let mut state = ctx.lock();
        let applied = match reply {
            Ok(status) => apply_status(ctx, &mut state, now, worker, &status),
            Err(error) => Err(error.to_string()),
        };
        let result = match applied {
            Ok(Applied::AskAgain) => {
                known_version = 0;
                continue;
            }
            Ok(Applied::Done) => Ok(()),
            Err(error) => Err(error),
        };
        metrics::poll(result.is_ok());
        if let Some(node) = state.view.nodes.get_mut(&worker.node) {
            if let Err(error) = &result
                && node.error.as_ref() != Some(error)
            {
                tracing::warn!(node = %worker.node, address = %worker.address, %error, "worker cannot be polled");
            }
            node.error = result.err();
        }
        return;
    }
}

/// Returns what workers are told of the policy: by the admin that acts, so that two with different ones do not
/// contradict each other.
fn worker_policy(ctx: &Context) -> Option<v1::WorkerPolicy> {
    let state = ctx.lock();
    if !lease::standing(ctx, &state, ctx.now()).code.acts() {
        return None;
    }
    let (paused, paused_partitions) = pauses(&state.view);
    let policy = ctx.policy();
    Some(v1::WorkerPolicy {
        snapshot_after_records: policy.snapshot_after_records,
        snapshot_after_bytes: policy.snapshot_after_bytes,
        restorable_snapshots_min: policy.restorable_snapshots_min,
        paused,
        paused_partitions,
    })
}

/// Returns whether the whole cluster is paused, and which partitions are for themselves. What keeps the admin from having
/// snapshots made also keeps workers from making them unasked.
fn pauses(view: &ClusterView) -> (bool, Vec<u32>) {
    let ControlView::Known(control) = &view.control else {
        // Not knowing counts as paused.
        return (true, Vec::new());
    };
    let cluster = control
        .pauses
        .iter()
        .any(|pause| pause.scope == PauseScope::Cluster);
    let is_paused = |(id, partition): &(&PartitionId, &PartitionView)| {
        let held = [StickyReason::LogRegressed, StickyReason::ChainMismatch];
        control.pause_of(**id).is_some() || held.iter().any(|reason| partition.holds.contains_key(reason))
    };
    let paused = view.partitions.iter().filter(is_paused);
    (cluster, paused.map(|(id, _)| id.get()).collect())
}

/// What a status led to.
enum Applied {
    Done,
    /// `unchanged` was said by another generation than the one that is known.
    AskAgain,
}

fn apply_status(
    ctx: &Context,
    state: &mut State,
    now: Moment,
    worker: &WorkerSpec,
    status: &v1::WorkerStatus,
) -> Result<Applied, String> {
    if status.node != worker.node.as_str() {
        return Err(format!(
            "a node that calls itself {:?} answers there: check its address",
            status.node
        ));
    }
    if !status.fingerprint.is_empty() && status.fingerprint[..] != ctx.cluster.fingerprint.as_bytes()[..] {
        return Err("it belongs to another cluster: check its address and its store URL".to_owned());
    }
    // The host took it out of the cluster while it was being asked.
    let Some(memory) = state.nodes.get_mut(&worker.node) else {
        return Ok(Applied::Done);
    };
    if memory.retired.contains(&status.node_generation) {
        return Ok(Applied::Done);
    }
    if memory.generation != status.node_generation {
        if status.unchanged {
            return Ok(Applied::AskAgain);
        }
        let polling = memory.polling;
        let mut retired = std::mem::take(&mut memory.retired);
        retired.push_back(std::mem::take(&mut memory.generation));
        if retired.len() > RETIRED_MAX {
            retired.pop_front();
        }
        retired.retain(|generation| !generation.is_empty());
        let generation = status.node_generation.clone();
        *memory = NodeMemory {
            generation,
            retired,
            polling,
            ..NodeMemory::default()
        };
    } else if status.version < memory.version {
        return Ok(Applied::Done);
    }
    if !status.unchanged {
        memory.version = status.version;
        replace_reports(state, &worker.node, &status.partitions)?;
    }
    if let Some(node) = state.view.nodes.get_mut(&worker.node) {
        node.heard_at = Some(now);
        // What waits there comes before what would be ordered now.
        node.exports_running = status.exports_running.saturating_add(status.exports_queued);
        node.exports_max = status.exports_max;
    }
    Ok(Applied::Done)
}

/// Replaces everything `node` said before. A report that makes no sense is left out, and named.
fn replace_reports(state: &mut State, node: &NodeId, partitions: &[v1::ReplicaStatus]) -> Result<(), String> {
    let mut reports = BTreeMap::new();
    let mut fault = None;
    for status in partitions {
        match wire::replica_report(status) {
            Ok((id, report)) if state.view.partitions.contains_key(&id) => {
                reports.insert(id, (report, status.clone()));
            }
            Ok((id, _)) => {
                fault = Some(format!(
                    "it reports partition {id}, which the cluster does not have"
                ))
            }
            Err(error) => fault = Some(format!("partition {}: {error}", status.partition)),
        }
    }
    let ids: Vec<PartitionId> = state.view.partitions.keys().copied().collect();
    for id in ids {
        let archived = match reports.get(&id) {
            Some((report, _)) => report.archived_lsn,
            None => None,
        };
        if let Some(partition) = state.view.partitions.get_mut(&id) {
            match reports.get(&id) {
                Some((report, _)) => partition.replicas.insert(node.clone(), report.clone()),
                None => partition.replicas.remove(node),
            };
        }
        if let Some(archived) = archived {
            state.follow_archived(id, archived);
        }
        state.refresh_suspected(id);
    }
    if let Some(memory) = state.nodes.get_mut(node) {
        memory.replicas = reports
            .into_iter()
            .map(|(id, (_, status))| (id, status))
            .collect();
    }
    fault.map_or(Ok(()), Err)
}

/// Asks the log about all partitions, again and again until the scheduler stops.
pub(crate) async fn poll_log(ctx: Arc<Context>) {
    let ids: Vec<PartitionId> = ctx.trim_locks.keys().copied().collect();
    loop {
        let round = stream::iter(ids.iter().copied())
            .map(|id| observe_log(&ctx, id))
            .buffer_unordered(LOG_POLLS_MAX)
            .for_each(|()| std::future::ready(()));
        tokio::select! {
            () = round => {}
            () = ctx.shutdown.cancelled() => return,
        }
        let pause = ctx
            .options
            .poll_interval()
            .mul_f64(ctx.seams.entropy.jitter(JITTER));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

async fn observe_log(ctx: &Context, id: PartitionId) {
    let begun = ctx.now();
    // What is claimed before the tail is read must lie below it.
    let claim = {
        let state = ctx.lock();
        state.view.partitions.get(&id).and_then(|partition| {
            let (lsn, who) = highest_claim(&state.view, partition, begun)?;
            Some((partition.log?.facts.incarnation, lsn, who))
        })
    };
    match read_log(ctx, id).await {
        Ok((facts, held_bytes)) => {
            {
                let mut state = ctx.lock();
                if let Some((view, _)) = state.partition(id) {
                    view.log = Some(LogView {
                        facts,
                        held_bytes,
                        heard_at: begun,
                    });
                    view.log_error = None;
                }
            }
            if let Some((incarnation, lsn, who)) = claim
                && incarnation == facts.incarnation
            {
                judge_claim(ctx, id, facts, lsn, &who).await;
            }
        }
        Err(error) => {
            let detail = error.to_string();
            let mut state = ctx.lock();
            if let Some((view, _)) = state.partition(id) {
                if view.log_error.as_ref() != Some(&detail) {
                    tracing::warn!(partition = %id, error = %detail, "log cannot be asked");
                }
                view.log_error = Some(detail);
            }
        }
    }
}

/// Asks the log for its state, within the poll timeout.
pub(crate) async fn read_log(ctx: &Context, id: PartitionId) -> Result<(LogFacts, Option<u64>), LogError> {
    let info = timeout(ctx.options.poll_timeout(), ctx.log.info(id))
        .await
        .unwrap_or_else(|_| {
            let detail = format!("no answer within {} ms", ctx.options.poll_timeout_ms);
            Err(LogError::Unavailable {
                partition: id,
                detail,
            })
        })?;
    let facts = LogFacts {
        incarnation: info.incarnation,
        trim_point: info.trim_point,
        tail: info.tail,
    };
    Ok((facts, info.held_bytes))
}

/// Finds out whether the log ends below `claimed`. The state of the log may lag, so a reader has the last word:
/// it is told the tail linearizably.
async fn judge_claim(ctx: &Context, id: PartitionId, facts: LogFacts, claimed: Lsn, who: &str) {
    let patience = ctx.options.poll_timeout().min(TAIL_PATIENCE);
    let regressed = if claimed < facts.tail {
        None
    } else {
        let confirmed = ctx.log.tail_below(id, facts.incarnation, claimed);
        timeout(patience, confirmed).await.ok().flatten()
    };
    let mut state = ctx.lock();
    let Some((_, memory)) = state.partition(id) else {
        return;
    };
    memory.regressed = if regressed.is_some() {
        memory.regressed.saturating_add(1)
    } else {
        0
    };
    if let Some(tail) = regressed
        && memory.regressed >= REGRESSED_AFTER
    {
        let detail = format!("{who} is at LSN {claimed}, the log ends before {tail}");
        tracing::error!(partition = %id, %detail, "the log lost records; trimming and leadership are held");
        state.set_hold(id, StickyReason::LogRegressed, detail);
        ctx.store_wake.notify_one();
    }
}
