//! The lease, as tables over plain values.

use crate::{cluster::node, views::identity};
use proptest::prelude::*;
use snapshot_scheduler::core::{
    Candidate, LEASE_TERM_MAX, LeaseCode, LeaseFailure, LeaseReason, LeaseStep, LeaseView, LeaseWish, Moment,
    decide_lease, standing,
};
use snapshot_store::{
    AdminSession, Entropy, Timestamp, WriteId,
    format::{Lease, LeaseEpoch, Unknown},
};
use std::time::Duration;

const TERM: Duration = Duration::from_secs(10);
const SINCE: Moment = Moment(Duration::from_secs(100));

fn session(seed: u64) -> AdminSession {
    AdminSession::new(Entropy::seeded(seed).ulid(Timestamp::default()))
}

fn candidate() -> Candidate {
    Candidate {
        node: node("admin-1"),
        session: session(1),
        term: TERM,
    }
}

fn lease(holder: &str, seed: u64, term: Duration) -> Lease {
    let renewed_at = Timestamp::from_millis(1_700_000_000_000);
    Lease {
        cluster: identity(),
        write_id: WriteId::new(Entropy::seeded(seed + 50).ulid(Timestamp::default())),
        epoch: LeaseEpoch::new(3),
        holder: node(holder),
        session: session(seed),
        address: None,
        acquired_at: renewed_at,
        renewed_at,
        expires_at: renewed_at.plus(term),
        given_up: false,
        unknown: Unknown::default(),
    }
}

fn seen(lease: Option<Lease>) -> LeaseView {
    let mut view = LeaseView::default();
    view.note(lease, SINCE, session(1));
    view
}

fn after(seconds: u64) -> Moment {
    SINCE.plus(Duration::from_secs(seconds))
}

fn failed(view: LeaseView, at: Moment, passing: bool) -> LeaseView {
    let detail = "no route to the store".to_owned();
    LeaseView {
        failure: Some(LeaseFailure { at, detail, passing }),
        ..view
    }
}

#[test]
fn what_is_done_about_the_lease_follows_from_who_has_it_and_for_how_long() {
    use LeaseReason as Why;
    use LeaseStep::{GiveUp, Renew, Take, Wait};
    use LeaseWish::{Act, DryRun, Stop};
    let own = || seen(Some(lease("admin-1", 1, TERM)));
    let other = || seen(Some(lease("admin-2", 2, TERM)));
    let former = || seen(Some(lease("admin-1", 3, TERM)));
    let mut given_up = other();
    given_up.lease.as_mut().unwrap().given_up = true;
    let mut namesake = former();
    namesake.held_before = true;
    let endless = seen(Some(lease("admin-2", 2, Duration::from_secs(1_000_000))));
    let cases = [
        ("none", seen(None), Act, 0, Take, Why::Vacant),
        ("own, young", own(), Act, 2, Wait, Why::Fresh),
        ("own, a part of it passed", own(), Act, 3, Renew, Why::RenewalDue),
        ("own, long expired", own(), Act, 500, Renew, Why::RenewalDue),
        (
            "own, and the last try failed",
            failed(own(), after(1), true),
            Act,
            1,
            Renew,
            Why::RenewalDue,
        ),
        ("another's", other(), Act, 9, Wait, Why::HeldByOther),
        (
            "another's, not renewed for its term",
            other(),
            Act,
            10,
            Take,
            Why::Expired,
        ),
        ("another's, given up", given_up, Act, 0, Take, Why::GivenUp),
        (
            "that of our former process",
            former(),
            Act,
            0,
            Take,
            Why::FormerProcess,
        ),
        (
            "that of a second process of our name",
            namesake.clone(),
            Act,
            9,
            Wait,
            Why::HeldByOther,
        ),
        ("the same, not renewed", namesake, Act, 10, Take, Why::Expired),
        (
            "another's, for days",
            endless.clone(),
            Act,
            299,
            Wait,
            Why::HeldByOther,
        ),
        (
            "the same, for as long as we wait",
            endless,
            Act,
            LEASE_TERM_MAX.as_secs(),
            Take,
            Why::Expired,
        ),
        ("own, and we stop", own(), Stop, 0, GiveUp, Why::Stopping),
        ("another's, and we stop", other(), Stop, 500, Wait, Why::Stopping),
        ("own, in a dry run", own(), DryRun, 0, GiveUp, Why::DryRun),
        ("none, in a dry run", seen(None), DryRun, 0, Wait, Why::DryRun),
        ("none, and we stop", seen(None), Stop, 0, Wait, Why::Stopping),
    ];
    for (what, view, wish, seconds, step, reason) in cases {
        let decision = decide_lease(&view, &candidate(), wish, after(seconds));
        assert_eq!(
            (decision.step, decision.reason),
            (step, reason),
            "{what}: {}",
            decision.detail
        );
    }
}

#[test]
fn whether_an_admin_acts_follows_from_what_it_last_saw() {
    let own = || seen(Some(lease("admin-1", 1, TERM)));
    let other = || seen(Some(lease("admin-2", 2, TERM)));
    let cases = [
        ("never read", LeaseView::default(), 0, LeaseCode::Pending),
        (
            "could not be read yet",
            failed(LeaseView::default(), SINCE, true),
            0,
            LeaseCode::Pending,
        ),
        (
            "cannot be understood",
            failed(LeaseView::default(), SINCE, false),
            0,
            LeaseCode::Unusable,
        ),
        ("read, and none there", seen(None), 0, LeaseCode::Pending),
        ("own", own(), 9, LeaseCode::Active),
        (
            "own, and a try failed in time",
            failed(own(), after(5), true),
            9,
            LeaseCode::Active,
        ),
        // A process that was stopped and continued does nothing before it looked.
        ("own, expired, not asked since", own(), 10, LeaseCode::Pending),
        (
            "own, expired, the last failure is old",
            failed(own(), after(5), true),
            60,
            LeaseCode::Pending,
        ),
        (
            "own, expired, the last failure is a term old",
            failed(own(), after(50), true),
            60,
            LeaseCode::Pending,
        ),
        (
            "own, expired, the store is away",
            failed(own(), after(58), true),
            60,
            LeaseCode::Unconfirmed,
        ),
        (
            "own, expired, and refused",
            failed(own(), after(58), false),
            60,
            LeaseCode::Unusable,
        ),
        ("another's", other(), 0, LeaseCode::Standby),
        ("another's, expired, not taken", other(), 60, LeaseCode::Standby),
        (
            "another's, the store is away",
            failed(other(), after(58), true),
            60,
            LeaseCode::Standby,
        ),
    ];
    for (what, view, seconds, code) in cases {
        let standing = standing(&view, Some(&candidate()), false, after(seconds));
        assert_eq!(standing.code, code, "{what}: {}", standing.detail);
    }
    let without = standing(&LeaseView::default(), None, false, SINCE);
    assert_eq!((without.code, without.code.acts()), (LeaseCode::Off, true));
}

#[test]
fn a_standby_says_who_acts_until_when_and_where() {
    let mut held = lease("admin-2", 2, TERM);
    held.address = Some("http://10.0.0.7:7400".to_owned());
    let standing = standing(&seen(Some(held)), Some(&candidate()), false, SINCE);
    for said in [
        "admin-2",
        "http://10.0.0.7:7400",
        "epoch 3",
        "2023-11-14T22:13:30.000Z",
    ] {
        assert!(standing.detail.contains(said), "{}", standing.detail);
    }
}

#[test]
fn a_term_is_counted_from_the_first_look_at_a_write_and_a_failure_does_not_begin_it_anew() {
    let mut view = seen(Some(lease("admin-2", 2, TERM)));
    view.note(Some(lease("admin-2", 2, TERM)), after(5), session(1));
    assert_eq!(view.since, SINCE, "the same write");
    let mut renewed = lease("admin-2", 2, TERM);
    renewed.write_id = WriteId::new(Entropy::seeded(99).ulid(Timestamp::default()));
    view = failed(view, after(6), true);
    view.note(Some(renewed), after(7), session(1));
    assert_eq!((view.since, view.failure), (after(7), None), "a new write");
}

/// Leases of this process, of a former one, and of others; some given up, some with a senseless term.
fn leases() -> impl Strategy<Value = Option<Lease>> {
    let holders = prop::sample::select(vec![
        ("admin-1", 1),
        ("admin-1", 3),
        ("admin-2", 2),
        ("admin-3", 4),
    ]);
    let terms = prop::sample::select(vec![0, 1, 10, 299, 300, 301, 1_000_000]);
    let some = (holders, terms, any::<bool>()).prop_map(|((holder, seed), term, given_up)| Lease {
        given_up,
        ..lease(holder, seed, Duration::from_secs(term))
    });
    prop::option::weighted(0.9, some)
}

fn views() -> impl Strategy<Value = LeaseView> {
    let failures = prop::option::of((0u64..20, any::<bool>()));
    (leases(), failures, any::<bool>()).prop_map(|(lease, failure, held_before)| {
        let mut view = seen(lease);
        view.held_before |= held_before;
        match failure {
            Some((at, passing)) => failed(view, after(at), passing),
            None => view,
        }
    })
}

fn wishes() -> impl Strategy<Value = LeaseWish> {
    prop::sample::select(vec![LeaseWish::Act, LeaseWish::DryRun, LeaseWish::Stop])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_lease_is_taken_from_nobody_who_may_still_act(view in views(), wish in wishes(), passed in 0u64..400) {
        let decision = decide_lease(&view, &candidate(), wish, after(passed));
        let own = view.own(&candidate()).is_some();
        match decision.step {
            LeaseStep::Take => {
                prop_assert_eq!(wish, LeaseWish::Act);
                prop_assert!(!own);
                if let Some(lease) = &view.lease {
                    let over = Duration::from_secs(passed) >= lease.term().min(LEASE_TERM_MAX);
                    let former = lease.holder == candidate().node && !view.held_before;
                    prop_assert!(lease.given_up || former || over, "{decision:?}");
                }
            }
            LeaseStep::Renew => prop_assert!(own && wish == LeaseWish::Act),
            LeaseStep::GiveUp => prop_assert!(own && wish != LeaseWish::Act),
            LeaseStep::Wait => {}
        }
    }

    #[test]
    fn no_lease_keeps_a_cluster_without_an_admin_for_longer_than_the_longest_term(view in views()) {
        let decision = decide_lease(&view, &candidate(), LeaseWish::Act, SINCE.plus(LEASE_TERM_MAX));
        prop_assert!(matches!(decision.step, LeaseStep::Take | LeaseStep::Renew), "{decision:?}");
    }

    #[test]
    fn only_the_holder_acts_and_for_certain_only_within_its_term(view in views(), passed in 0u64..400) {
        let candidate = candidate();
        let code = standing(&view, Some(&candidate), false, after(passed)).code;
        let own = view.own(&candidate).is_some();
        match code {
            LeaseCode::Active => prop_assert!(own && Duration::from_secs(passed) < TERM),
            LeaseCode::Unconfirmed => prop_assert!(own && view.failure.as_ref().is_some_and(|failure| failure.passing)),
            LeaseCode::Standby => prop_assert!(!own && view.lease.is_some()),
            LeaseCode::Unusable => prop_assert!(view.failure.as_ref().is_some_and(|failure| !failure.passing)),
            LeaseCode::Pending => prop_assert!(!own || Duration::from_secs(passed) >= TERM),
            other => prop_assert!(false, "{other:?} with a lease in use and no dry run"),
        }
        prop_assert_eq!(standing(&view, Some(&candidate), true, after(passed)).code, LeaseCode::DryRun);
    }
}
