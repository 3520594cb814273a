//! Keeps the lease up to date: reads it while another admin has it, renews it while this one has.
//!
//! 1. While it is not ours: read it. A crash changes nothing.
//! 2. Take or renew it by a conditional put against what was seen. A crash after it leaves a lease that nobody renews:
//!    the next admin waits for one term, a restarted one takes its own back at once.
//! 3. When the scheduler stops, after everything it started: give it up, so that another admin takes it at its next
//!    look. A crash before it costs the wait for a term.
//!
//! Not here: who may have it, and who acts (`core::lease`).

use crate::{
    archive::chain_text,
    core::{
        self, Candidate, LeaseCode, LeaseDecision, LeaseFailure, LeaseStanding, LeaseStep, LeaseWish, Moment,
        decide_lease,
    },
    metrics,
    state::{Context, State},
};
use snapshot_store::{LeaseClaim, LeaseWrite, StoreError, Versioned, format::Lease};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How many looks there are in a term.
const LOOKS_PER_TERM: u32 = 3;
/// How far the distance of two looks varies.
const JITTER: f64 = 0.1;
/// How long giving up may take; whoever stops is not kept from it by a store that is away.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(3);

/// Looks after the lease until the scheduler stops.
pub(crate) async fn keep(ctx: Arc<Context>) {
    let Some(candidate) = &ctx.candidate else { return };
    let distance = candidate.term / LOOKS_PER_TERM;
    loop {
        tokio::select! {
            () = round(&ctx, candidate, distance, wish(&ctx)) => {}
            () = ctx.shutdown.cancelled() => return,
        }
        let pause = distance.mul_f64(ctx.seams.entropy.jitter(JITTER));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

/// Gives the lease up, if this process has it.
pub(crate) async fn give_up(ctx: &Context) {
    if let Some(candidate) = &ctx.candidate {
        round(ctx, candidate, GIVE_UP_PATIENCE, LeaseWish::Stop).await;
    }
}

/// Returns why this admin only watches now; `None` when it decides. What a dry run decides is not carried out, and the
/// plan says so itself.
pub(crate) fn standby(ctx: &Context, state: &State, now: Moment) -> Option<String> {
    let standing = standing(ctx, state, now);
    let watches = !standing.code.acts() && standing.code != LeaseCode::DryRun;
    watches.then(|| format!("{}: {}", standing.code, standing.detail))
}

/// Returns whether this admin acts now, and why.
pub(crate) fn standing(ctx: &Context, state: &State, now: Moment) -> LeaseStanding {
    core::standing(&state.lease, ctx.candidate.as_ref(), ctx.policy().dry_run, now)
}

fn wish(ctx: &Context) -> LeaseWish {
    match ctx.policy().dry_run {
        true => LeaseWish::DryRun,
        false => LeaseWish::Act,
    }
}

/// Looks once, decides and acts.
async fn round(ctx: &Context, candidate: &Candidate, patience: Duration, wish: LeaseWish) {
    let (known, owned, failed) = {
        let state = ctx.lock();
        let owned = state.lease.own(candidate).is_some();
        (state.lease_version.clone(), owned, state.lease.failure.is_some())
    };
    let known = match owned {
        // Nobody but us replaces it unless our term passes, and then the put is refused. After a failure anything may be
        // there, or nothing.
        true if !failed => known,
        false if wish == LeaseWish::Stop => return,
        _ => match within(patience, ctx.repository.lease()).await {
            Ok(found) => {
                note(ctx, candidate, found.clone(), ctx.now());
                found
            }
            Err(failure) => return fail(ctx, failure),
        },
    };
    let begun = ctx.now();
    let decision = decide_lease(&ctx.lock().lease, candidate, wish, begun);
    let claim = || LeaseClaim {
        cluster: ctx.cluster.clone(),
        holder: candidate.node.clone(),
        session: candidate.session,
        address: ctx.address.clone(),
        term: candidate.term,
    };
    let written = match (decision.step, &known) {
        (LeaseStep::Wait, _) | (LeaseStep::Renew | LeaseStep::GiveUp, None) => return,
        (LeaseStep::Take, before) => {
            within(patience, ctx.repository.take_lease(&claim(), before.as_ref())).await
        }
        (LeaseStep::Renew, Some(held)) => within(patience, ctx.repository.renew_lease(&claim(), held)).await,
        (LeaseStep::GiveUp, Some(held)) => within(patience, ctx.repository.give_up_lease(held)).await,
    };
    match written {
        Ok(LeaseWrite::Written(lease)) => {
            tell(&decision, &lease.value);
            note(ctx, candidate, Some(lease), begun);
        }
        Ok(LeaseWrite::Lost(found)) => note(ctx, candidate, found, ctx.now()),
        Err(failure) => fail(ctx, failure),
    }
    ctx.wake.notify_one();
}

/// What failed, and whether trying again may help.
struct Failure {
    detail: String,
    passing: bool,
}

async fn within<T>(
    patience: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Failure> {
    match timeout(patience, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure {
            passing: error.is_retryable(),
            detail: chain_text(&error),
        }),
        Err(_) => Err(Failure {
            passing: true,
            detail: format!("the store did not answer within {} ms", patience.as_millis()),
        }),
    }
}

fn tell(decision: &LeaseDecision, lease: &Lease) {
    let (epoch, reason, detail) = (lease.epoch, decision.reason, &decision.detail);
    match decision.step {
        LeaseStep::Take => {
            metrics::lease_changed("taken");
            tracing::info!(%epoch, %reason, %detail, "the lease was taken: this admin acts");
        }
        LeaseStep::GiveUp => {
            metrics::lease_changed("given-up");
            tracing::info!(%epoch, "the lease was given up");
        }
        LeaseStep::Renew | LeaseStep::Wait => {}
    }
}

fn note(ctx: &Context, candidate: &Candidate, found: Option<Versioned<Lease>>, seen_at: Moment) {
    let mut state = ctx.lock();
    let before = state.lease.own(candidate).is_some();
    let lease = found.as_ref().map(|found| found.value.clone());
    let given_up = lease
        .as_ref()
        .is_some_and(|lease| lease.session == candidate.session);
    state.lease.note(lease, seen_at, candidate.session);
    state.lease_read_at = Some(seen_at);
    state.lease_version = found;
    if before && state.lease.own(candidate).is_none() && !given_up {
        metrics::lease_changed("lost");
        let standing = standing(ctx, &state, ctx.now());
        tracing::warn!(detail = %standing.detail, "the lease was lost: this admin only watches");
    }
}

fn fail(ctx: &Context, failure: Failure) {
    metrics::lease_failed();
    let mut state = ctx.lock();
    if state.lease.failure.as_ref().map(|last| &last.detail) != Some(&failure.detail) {
        tracing::warn!(detail = %failure.detail, "the lease could not be read or written");
    }
    state.lease.failure = Some(LeaseFailure {
        at: ctx.now(),
        detail: failure.detail,
        passing: failure.passing,
    });
}
