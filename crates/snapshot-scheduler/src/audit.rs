//! The continuous audit: looks at all published snapshots again, in passes over all partitions, within a budget of
//! requests.
//!
//! 1. Read the pointer. Where it is not the one that is known, it is read again by whoever reads pointers; nothing is
//!    taken over from here.
//! 2. Look whether every snapshot of the log that it retains is complete. Damage holds the partition at once, and with the next round in
//!    `control.json`; the plan then orders new snapshots. What only the certificate names is looked at as well, because
//!    restores fall back to it; damage to it holds nothing, because no trim rests on it any more.
//!
//! A crash anywhere costs the rest of the pass: the next admin begins one of its own. Nothing is written to the store
//! but the hold. Safety does not rest on any of it: each trim looks for itself, right before it.
//!
//! Not here: what is looked at next (`core::audit`), and reading content, which the plan asks workers for.

use crate::{
    archive::limited,
    core::{AuditPass, AuditPolicy, AuditResult, AuditStep, AuditWait, decide_audit},
    metrics,
    presence::{self, Presence},
    state::Context,
};
use futures::{StreamExt, stream};
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use snapshot_store::{
    Lsn, PartitionId,
    core::HoldReason,
    format::{Pointer, PointerEntry, VerifyLevel},
};
use std::{num::NonZeroU32, sync::Arc};
use tokio::time::Instant;

/// How many partitions are chosen at a time: the choice looks at all of them.
const BATCH: usize = 64;
/// Requests for a look at a snapshot whose size is not known before: its manifest twice, and a page of a listing.
const CERTIFIED_REQUESTS: u32 = 3;

/// Audits until the scheduler stops.
pub(crate) async fn keep_auditing(ctx: Arc<Context>) {
    let mut budget = RequestBudget::new(&ctx.policy().audit);
    loop {
        let policy = ctx.policy();
        budget.follow(&policy.audit);
        let work = async {
            match next_step(&ctx, &policy.audit) {
                AuditStep::Look(ids) => {
                    stream::iter(ids)
                        .map(|id| look(&ctx, &budget, id))
                        .buffer_unordered(policy.audit.concurrency_max.max(1) as usize)
                        .for_each(|()| std::future::ready(()))
                        .await;
                }
                AuditStep::Begin | AuditStep::End { .. } => {}
                AuditStep::Wait(_) => tokio::time::sleep(ctx.options.tick_interval()).await,
            }
        };
        tokio::select! {
            () = work => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

/// Decides what comes next, and keeps the account of passes.
fn next_step(ctx: &Context, policy: &AuditPolicy) -> AuditStep {
    let now = ctx.now();
    let mut state = ctx.lock();
    let step = decide_audit(&state.view, state.audit.as_ref(), policy, now, BATCH);
    match &step {
        AuditStep::Begin => {
            state.audit = Some(AuditPass {
                begun: now,
                took: None,
            });
        }
        AuditStep::End { complete } => {
            let passes = state.audited.map_or(0, |(passes, _)| passes);
            let Some(pass) = &mut state.audit else { return step };
            let took = now.since(pass.begun);
            pass.took = Some(took);
            if *complete {
                state.audited = Some((passes.saturating_add(1), took));
                metrics::audit_passed(took);
            }
        }
        // Who takes over begins anew; what another admin looked at meanwhile is not known here.
        AuditStep::Wait(AuditWait::Standby | AuditWait::Off) => state.audit = None,
        AuditStep::Wait(AuditWait::Resting | AuditWait::Retrying) | AuditStep::Look(_) => {}
    }
    step
}

async fn look(ctx: &Context, budget: &RequestBudget, id: PartitionId) {
    let begun = ctx.now();
    let result = look_at(ctx, budget, id).await;
    metrics::audited(VerifyLevel::Presence, result);
    let now = ctx.now();
    let mut state = ctx.lock();
    let Some((view, memory)) = state.partition(id) else {
        return;
    };
    match result {
        AuditResult::Failed => {
            let pause = ctx.backoff(view.audit.failures.saturating_add(1));
            view.audit.failed(now, pause);
            return;
        }
        AuditResult::Untrusted => {
            // Whoever reads pointers, and the look before a trim, find out what it is, and say so.
            memory.pointer_wanted = true;
            view.trim.looked = None;
            ctx.store_wake.notify_one();
        }
        AuditResult::Sound | AuditResult::Damaged => {}
    }
    view.audit.looked(begun);
    if result != AuditResult::Sound {
        ctx.wake.notify_one();
    }
}

/// Looks at one partition.
async fn look_at(ctx: &Context, budget: &RequestBudget, id: PartitionId) -> AuditResult {
    budget.spend(1).await;
    let pointer = match limited(ctx.repository.pointer(id)).await {
        Ok(read) => read.map(|read| read.value),
        Err((HoldReason::StoreUnavailable, _)) => return AuditResult::Failed,
        Err(_) => return AuditResult::Untrusted,
    };
    let entries = match compare(ctx, id, pointer.as_ref()) {
        Ok(entries) => entries,
        Err(result) => return result,
    };
    let mut worst = AuditResult::Sound;
    for entry in entries {
        budget.spend(presence::requests(&entry)).await;
        worst = worst.max(result_of(&presence::check(ctx, id, &entry).await));
    }
    let certificate = {
        let state = ctx.lock();
        let memory = state.memory.get(&id);
        memory.and_then(|memory| memory.unretained.clone())
    };
    let Some(certificate) = certificate else {
        return worst;
    };
    for snapshot in certificate.unretained(pointer.as_ref()) {
        budget.spend(CERTIFIED_REQUESTS).await;
        let found = presence::check_certified(ctx, id, &certificate, snapshot).await;
        worst = worst.max(result_of(&found));
    }
    worst
}

fn result_of(found: &Presence) -> AuditResult {
    match found {
        Presence::Complete | Presence::Left => AuditResult::Sound,
        Presence::Damaged => AuditResult::Damaged,
        Presence::Unknown(HoldReason::ForeignIdentity | HoldReason::VersionUnsupported, _) => {
            AuditResult::Untrusted
        }
        Presence::Unknown(..) => AuditResult::Failed,
    }
}

/// Compares the pointer with what is known of it, and has it read again where they differ. Returns the snapshots to look
/// at: those of the log's own incarnation, because no trim rests on any other.
fn compare(
    ctx: &Context,
    id: PartitionId,
    pointer: Option<&Pointer>,
) -> Result<Vec<PointerEntry>, AuditResult> {
    let mut state = ctx.lock();
    let Some((view, memory)) = state.partition(id) else {
        return Ok(Vec::new());
    };
    if view.pointer() != pointer {
        memory.pointer_wanted = true;
        view.trim.looked = None;
        ctx.store_wake.notify_one();
    }
    let log = view.log.map(|log| log.facts);
    let Some(pointer) = pointer else {
        // A young partition has none, and nothing that would rest on one.
        let trimmed = log.is_some_and(|log| log.trim_point > Lsn::ZERO);
        return match view.pointer().is_none() && memory.certified.is_none() && !trimmed {
            true => Ok(Vec::new()),
            false => Err(AuditResult::Untrusted),
        };
    };
    if pointer.cluster.fingerprint != ctx.cluster.fingerprint {
        return Err(AuditResult::Untrusted);
    }
    let incarnation = log.ok_or(AuditResult::Failed)?.incarnation;
    let of_this_log = |entry: &&PointerEntry| entry.incarnation == incarnation;
    Ok(pointer.snapshots.iter().filter(of_this_log).cloned().collect())
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Nanos>>;

/// How many requests an audit may make in a second.
struct RequestBudget {
    per_second: NonZeroU32,
    limiter: Limiter,
}

impl RequestBudget {
    fn new(policy: &AuditPolicy) -> Self {
        let per_second = NonZeroU32::new(policy.requests_per_second).unwrap_or(NonZeroU32::MIN);
        RequestBudget {
            per_second,
            // Without a burst: what was not used is not made up for.
            limiter: RateLimiter::direct_with_clock(
                Quota::per_second(per_second).allow_burst(NonZeroU32::MIN),
                RuntimeClock(Instant::now()),
            ),
        }
    }

    /// Takes over a changed policy.
    fn follow(&mut self, policy: &AuditPolicy) {
        if self.per_second.get() != policy.requests_per_second.max(1) {
            *self = RequestBudget::new(policy);
        }
    }

    /// Waits until `requests` more may be made. Cancel-safe.
    async fn spend(&self, requests: u32) {
        for _ in 0..requests {
            while let Err(not_before) = self.limiter.check() {
                tokio::time::sleep(not_before.wait_time_from(self.limiter.clock().now())).await;
            }
        }
        metrics::audit_requests(requests);
    }
}

/// The time of the runtime, which is simulated in simulations.
#[derive(Clone)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn requests_stay_within_the_budget_also_after_a_rest() {
        let policy = AuditPolicy {
            requests_per_second: 10,
            ..AuditPolicy::default()
        };
        let mut budget = RequestBudget::new(&policy);
        let begun = Instant::now();
        futures::join!(budget.spend(20), budget.spend(21));
        let took = begun.elapsed();
        assert!(
            (3.9..4.2).contains(&took.as_secs_f64()),
            "{took:?} for 41 requests"
        );

        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        budget.spend(11).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(990),
            "{:?}",
            begun.elapsed()
        );

        budget.follow(&AuditPolicy {
            requests_per_second: 1000,
            ..policy
        });
        let begun = Instant::now();
        budget.spend(11).await;
        assert!(
            begun.elapsed() < Duration::from_millis(100),
            "{:?}",
            begun.elapsed()
        );
    }
}
