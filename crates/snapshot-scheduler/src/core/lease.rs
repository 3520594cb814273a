//! Which of several admins acts, and what a look at the lease leads to.
//!
//! ```text
//! take    = there is none, it was given up, a former process of this node left it, or its whole term passed
//!           without a write
//! renew   = it is ours, and a part of its term has passed
//! give up = it is ours, and this admin stops or is told by the policy to do nothing (`dry_run`)
//! acts    = it is ours, and was confirmed within its term or cannot be asked about
//! ```
//!
//! Time is this process's own monotonic clock: a term is counted from when the write that began it was seen first, so
//! the clocks of two nodes are never compared. Nothing that destroys rests on any of this: when two admins act, each
//! destructive step is still decided on what it reads afresh, and written conditionally.

use super::{
    reason::{LeaseCode, LeaseReason},
    view::Moment,
};
use snapshot_store::{AdminSession, NodeId, format::Lease};
use std::time::Duration;

/// The longest term of another admin's lease that is waited for, whatever it says.
pub const LEASE_TERM_MAX: Duration = Duration::from_secs(300);
/// Which part of a term must have passed before it is renewed; the lease is looked at three times in a term.
const RENEW_AFTER_PART: u32 = 4;

/// Who this admin is to the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its node id.
    pub node: NodeId,
    /// This process.
    pub session: AdminSession,
    /// How long its lease stands without being renewed.
    pub term: Duration,
}

/// Why the lease is not known, or could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFailure {
    /// When it was tried.
    pub at: Moment,
    /// What happened.
    pub detail: String,
    /// Whether the store merely did not answer: trying again may help without anybody doing something.
    pub passing: bool,
}

/// What is known of the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseView {
    /// Whether it was ever read.
    pub looked: bool,
    /// As read or written last; `None` when there was none.
    pub lease: Option<Lease>,
    /// When this write of it was seen first; of an own one, when it was begun.
    pub since: Moment,
    /// Why the last try failed, if it did.
    pub failure: Option<LeaseFailure>,
    /// Whether this process held it before.
    pub held_before: bool,
}

impl LeaseView {
    /// Takes over what was read, or written, at `seen_at`.
    pub fn note(&mut self, lease: Option<Lease>, seen_at: Moment, session: AdminSession) {
        let write = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.write_id);
        if !self.looked || write(&self.lease) != write(&lease) {
            self.since = seen_at;
        }
        self.looked = true;
        self.held_before |= lease.as_ref().is_some_and(|lease| lease.session == session);
        self.lease = lease;
        self.failure = None;
    }

    /// Returns the lease, if this process holds it.
    pub fn own(&self, candidate: &Candidate) -> Option<&Lease> {
        self.lease
            .as_ref()
            .filter(|lease| lease.session == candidate.session && !lease.given_up)
    }
}

/// Whether this admin wants the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseWish {
    /// It is to act.
    Act,
    /// The policy says `dry_run`.
    DryRun,
    /// It stops.
    Stop,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// Take it, if it still is what was seen.
    Take,
    /// Begin another term.
    Renew,
    /// Let others have it at once.
    GiveUp,
    /// Nothing.
    Wait,
}

/// The answer, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseDecision {
    /// What to do.
    pub step: LeaseStep,
    /// Why.
    pub reason: LeaseReason,
    /// The values it rests on.
    pub detail: String,
}

/// Decides what to do about the lease, of which `view` says what was just read, or what this process wrote last.
pub fn decide_lease(view: &LeaseView, candidate: &Candidate, wish: LeaseWish, now: Moment) -> LeaseDecision {
    let answer = |step, reason, detail| LeaseDecision { step, reason, detail };
    let passed = now.since(view.since);
    let leaving = match wish {
        LeaseWish::Act => None,
        LeaseWish::DryRun => Some(LeaseReason::DryRun),
        LeaseWish::Stop => Some(LeaseReason::Stopping),
    };
    if let Some(reason) = leaving {
        return match view.own(candidate) {
            Some(own) => answer(LeaseStep::GiveUp, reason, said(own)),
            None => answer(LeaseStep::Wait, reason, "it is not ours".to_owned()),
        };
    }
    let Some(lease) = &view.lease else {
        return answer(LeaseStep::Take, LeaseReason::Vacant, "there is none".to_owned());
    };
    if view.own(candidate).is_some() {
        let detail = format!("renewed {} ms ago", passed.as_millis());
        let due = passed >= candidate.term / RENEW_AFTER_PART || view.failure.is_some();
        return match due {
            true => answer(LeaseStep::Renew, LeaseReason::RenewalDue, detail),
            false => answer(LeaseStep::Wait, LeaseReason::Fresh, detail),
        };
    }
    if lease.given_up {
        return answer(LeaseStep::Take, LeaseReason::GivenUp, said(lease));
    }
    // Once only: two processes of one name would else take it from each other for ever.
    if lease.holder == candidate.node && !view.held_before {
        return answer(LeaseStep::Take, LeaseReason::FormerProcess, said(lease));
    }
    let term = lease.term().min(LEASE_TERM_MAX);
    let detail = format!(
        "{}; not renewed for {} of {} ms",
        said(lease),
        passed.as_millis(),
        term.as_millis()
    );
    match passed >= term {
        true => answer(LeaseStep::Take, LeaseReason::Expired, detail),
        false => answer(LeaseStep::Wait, LeaseReason::HeldByOther, detail),
    }
}

/// Whether this admin acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStanding {
    /// Why it does or does not.
    pub code: LeaseCode,
    /// The values it rests on.
    pub detail: String,
}

/// Returns whether this admin acts now; `candidate` is `None` where no lease is used, and `dry_run` is the policy's.
///
/// An admin whose term has passed does nothing before it has asked again: it may have been stopped and continued. If the
/// store does not answer, it goes on as before: nobody else can take the lease through that store, and partitions
/// without a leader need somebody who finds them one.
pub fn standing(
    view: &LeaseView,
    candidate: Option<&Candidate>,
    dry_run: bool,
    now: Moment,
) -> LeaseStanding {
    let answer = |code, detail: String| LeaseStanding { code, detail };
    if dry_run {
        let other = view
            .lease
            .as_ref()
            .map_or_else(|| "nobody has the lease".to_owned(), said);
        return answer(
            LeaseCode::DryRun,
            format!("it only shows what it would do; {other}"),
        );
    }
    let Some(candidate) = candidate else {
        return answer(LeaseCode::Off, "no lease is used: this admin acts".to_owned());
    };
    if let Some(own) = view.own(candidate) {
        if now.since(view.since) < candidate.term {
            return answer(LeaseCode::Active, said(own));
        }
        return match &view.failure {
            Some(failure) if failure.passing && now.since(failure.at) < candidate.term => answer(
                LeaseCode::Unconfirmed,
                format!("{}; it could not be renewed: {}", said(own), failure.detail),
            ),
            Some(failure) if !failure.passing => answer(LeaseCode::Unusable, failure.detail.clone()),
            _ => answer(
                LeaseCode::Pending,
                format!("{}; it is to be renewed first", said(own)),
            ),
        };
    }
    match (&view.lease, &view.failure) {
        (_, Some(failure)) if !failure.passing => answer(LeaseCode::Unusable, failure.detail.clone()),
        (Some(lease), failure) => {
            let unknown = failure
                .as_ref()
                .map(|failure| format!("; it could not be read since: {}", failure.detail));
            answer(
                LeaseCode::Standby,
                format!("{}{}", said(lease), unknown.unwrap_or_default()),
            )
        }
        (None, Some(failure)) => answer(LeaseCode::Pending, failure.detail.clone()),
        (None, None) => answer(
            LeaseCode::Pending,
            "admin/lease.json is to be read first".to_owned(),
        ),
    }
}

/// Says who holds a lease, and until when.
fn said(lease: &Lease) -> String {
    let Lease {
        holder,
        epoch,
        expires_at,
        ..
    } = lease;
    match (lease.given_up, &lease.address) {
        (true, _) => format!("{holder} gave epoch {epoch} up at {expires_at}"),
        (false, Some(address)) => format!("{holder} at {address} has epoch {epoch} until {expires_at}"),
        (false, None) => format!("{holder} has epoch {epoch} until {expires_at}"),
    }
}
