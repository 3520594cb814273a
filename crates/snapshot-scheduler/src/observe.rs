//! Looks at the workers and at the log, and keeps the view up to date.
//!
//! Each round asks all workers at about the same moment, so that their reports can be compared; a worker that
//! does not answer in time delays nobody else. What is read from the store is in [`crate::archive`].

use crate::{
    client::{WorkerError, WorkerSpec},
    core::{LogView, Moment, highest_claim},
    metrics::{self, RequestKind},
    state::{Context, NodeMemory, State},
    told::worker_policy,
    wire,
};
use futures::{StreamExt, stream};
use partition_log::LogError;
use snapshot_proto::v1;
use snapshot_store::{ClusterIdentity, Lsn, NodeId, PartitionId, core::LogFacts, format::StickyReason};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

/// How many workers are polled at a time.
const POLLS_MAX: usize = 64;
/// How many logs are asked at a time.
const LOG_POLLS_MAX: usize = 16;
/// How many generations of a worker are remembered so that late replies can be told apart.
const RETIRED_MAX: usize = 8;
/// How often in a row a log must end below what replicas hold before it counts as regressed.
const REGRESSED_AFTER: u32 = 2;
/// How long it may take to learn that a log ends below what replicas hold; one that does not is silent. A log on NATS
/// looks three times within a second before it says so.
const TAIL_PATIENCE: Duration = Duration::from_secs(3);
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
        let policy = Arc::new(worker_policy(&ctx));
        for worker in due {
            let (ctx, permits, policy) = (ctx.clone(), permits.clone(), policy.clone());
            ctx.tasks.clone().spawn(async move {
                // The semaphore is never closed; without a permit the worker is polled in the next round.
                if let Ok(_permit) = permits.acquire().await {
                    poll_worker(&ctx, &worker, &policy).await;
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

async fn poll_worker(ctx: &Context, worker: &WorkerSpec, policy: &Option<v1::WorkerPolicy>) {
    let _request = metrics::request(RequestKind::PollWorker);
    let begun = ctx.now();
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
            policy: policy.clone(),
        };
        let reply = timeout(ctx.options.poll_timeout(), worker.client.status(request)).await;
        let reply = reply.unwrap_or_else(|_| {
            let detail = format!("no answer within {} ms", ctx.options.poll_timeout_ms);
            Err(WorkerError::Unreachable { detail })
        });
        let now = ctx.now();
        let mut state = ctx.lock();
        let applied = match reply {
            Ok(status) => apply_status(&ctx.cluster, &mut state, now, &worker.node, &status),
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
        metrics::poll(result.is_ok(), now.since(begun));
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

/// What a status led to.
enum Applied {
    Done,
    /// `unchanged` was said by another generation than the one that is known.
    AskAgain,
}

/// Takes over what answered at the address of `node`.
fn apply_status(
    cluster: &ClusterIdentity,
    state: &mut State,
    now: Moment,
    node: &NodeId,
    status: &v1::WorkerStatus,
) -> Result<Applied, String> {
    if status.node != node.as_str() {
        return Err(format!(
            "a node that calls itself {:?} answers there: check its address",
            status.node
        ));
    }
    if !status.fingerprint.is_empty() && status.fingerprint[..] != cluster.fingerprint.as_bytes()[..] {
        return Err("it belongs to another cluster: check its address and its store URL".to_owned());
    }
    // The host took it out of the cluster while it was being asked.
    let Some(memory) = state.nodes.get_mut(node) else {
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
        replace_reports(state, node, &status.partitions)?;
    }
    if let Some(node) = state.view.nodes.get_mut(node) {
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
                // The trail of chain hashes is by far the largest part, and is in the report.
                let chain = Vec::new();
                let status = v1::ReplicaStatus {
                    chain,
                    ..status.clone()
                };
                reports.insert(id, (report, status));
            }
            Ok((id, _)) => {
                fault = Some(format!(
                    "it reports partition {id}, which the cluster does not have"
                ))
            }
            Err(error) => fault = Some(format!("partition {}: {error}", status.partition)),
        }
    }
    // What it hosts, and what it hosted: the others of a large cluster are none of its business.
    let before = state.nodes.get(node).map(|memory| memory.replicas.keys());
    let ids: BTreeSet<PartitionId> = before
        .into_iter()
        .flatten()
        .chain(reports.keys())
        .copied()
        .collect();
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
    let read = {
        let _request = metrics::request(RequestKind::PollLog);
        read_log(ctx, id).await
    };
    metrics::log_poll(ctx.now().since(begun));
    match read {
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
    let regressed = if claimed < facts.tail {
        None
    } else {
        let confirmed = ctx.log.tail_below(id, facts.incarnation, claimed);
        timeout(TAIL_PATIENCE, confirmed).await.ok().flatten()
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

#[cfg(test)]
mod tests;
