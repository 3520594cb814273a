//! The trim rule: a table, one line for each bound and each hold, and properties over random facts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod properties;

use common::*;
use snapshot_store::{
    Incarnation, Lsn, SnapshotId,
    core::{
        HoldReason, LogFacts, ReplicaNeed, SnapshotTrust, TrimBound, TrimDecision, TrimFacts, TrimGrant,
        TrimRule, trim_up_to,
    },
    format::{Certificate, Pointer, VerifyLevel},
};
use std::{collections::BTreeMap, time::Duration};

/// What a case starts from: two verified snapshots at 800 and 500, a live replica at 900, the tail at 1001.
#[derive(Clone, Debug)]
struct Case {
    cluster: snapshot_store::ClusterIdentity,
    log: Option<LogFacts>,
    pointer: Option<Pointer>,
    certificate: Option<Certificate>,
    trust: BTreeMap<SnapshotId, SnapshotTrust>,
    replicas: Vec<ReplicaNeed>,
    rule: TrimRule,
}

fn need(lsn: Option<u64>, bytes: Option<u64>) -> ReplicaNeed {
    ReplicaNeed {
        node: node("worker-1"),
        needed_lsn: lsn.map(Lsn::new),
        log_bytes: bytes,
    }
}

impl Default for Case {
    fn default() -> Self {
        let content = SnapshotTrust::Verified(VerifyLevel::Content);
        Case {
            cluster: cluster(),
            log: Some(LogFacts {
                incarnation: incarnation(1),
                trim_point: Lsn::ZERO,
                tail: Lsn::new(1001),
            }),
            pointer: Some(pointer(vec![entry(800), entry(500)])),
            certificate: None,
            trust: [(snapshot_id(800), content), (snapshot_id(500), content)].into(),
            replicas: vec![need(Some(900), Some(90_000))],
            rule: TrimRule {
                restorable_snapshots_min: 2,
                verify_before_trim: VerifyLevel::Content,
                retain_records: 0,
                held_records_max: 10_000,
                held_bytes_max: 10_000_000,
                trim_delay: Duration::ZERO,
                force: false,
            },
        }
    }
}

impl Case {
    fn with(change: impl FnOnce(&mut Case)) -> Self {
        let mut case = Case::default();
        change(&mut case);
        case
    }

    fn decide(&self) -> TrimDecision {
        let facts = TrimFacts {
            cluster: &self.cluster,
            partition: P0,
            log: self.log,
            pointer: self.pointer.as_ref(),
            certificate: self.certificate.as_ref(),
            trust: &self.trust,
            replicas: &self.replicas,
            now: at(1_000_000),
        };
        trim_up_to(&facts, &self.rule)
    }

    fn grant(&self) -> TrimGrant {
        match self.decide() {
            TrimDecision::Trim(grant) => grant,
            hold => panic!("expected a grant, found {hold:?}"),
        }
    }

    fn hold(&self) -> HoldReason {
        match self.decide() {
            TrimDecision::Hold { reason, .. } => reason,
            grant => panic!("expected a hold, found {grant:?}"),
        }
    }

    fn log(&mut self) -> &mut LogFacts {
        self.log.as_mut().unwrap()
    }

    fn pointer(&mut self) -> &mut Pointer {
        self.pointer.as_mut().unwrap()
    }
}

#[test]
fn each_bound_of_the_rule_can_be_the_binding_one() {
    let check = |change: fn(&mut Case), up_to: u64, bound: TrimBound| {
        let grant = Case::with(change).grant();
        assert_eq!((grant.up_to, grant.bound), (Lsn::new(up_to), bound));
        assert_eq!(grant.guard_lsn, Lsn::new(500));
    };
    check(|_| {}, 500, TrimBound::Guard);
    check(
        |case| case.replicas = vec![need(Some(300), None)],
        300,
        TrimBound::Replica(node("worker-1")),
    );
    check(
        |case| case.replicas = vec![need(None, None)],
        500,
        TrimBound::Guard,
    );
    check(
        |case| case.rule.retain_records = 700,
        300,
        TrimBound::RetainRecords,
    );
    check(
        |case| {
            case.rule.force = true;
            case.rule.retain_records = 700;
            case.replicas = vec![need(Some(300), None)];
        },
        500,
        TrimBound::Guard,
    );
}

#[test]
fn a_delay_uses_the_guard_as_it_stood() {
    let delayed = |delay: u64| {
        Case::with(|case| {
            let mut history = pointer(vec![entry(800), entry(500), entry(300), entry(200)]).history;
            history[0].published_at = at(999_000);
            history[1].published_at = at(990_000);
            history[2].published_at = at(500_000);
            history[3].published_at = at(100_000);
            case.pointer().history = history;
            case.rule.trim_delay = Duration::from_millis(delay);
        })
    };
    assert_eq!(delayed(500).grant().up_to, Lsn::new(500));
    assert_eq!(delayed(5_000).grant().up_to, Lsn::new(300));
    assert_eq!(delayed(10_000).grant().up_to, Lsn::new(300), "just old enough");
    assert_eq!(delayed(10_001).grant().up_to, Lsn::new(200));
    assert_eq!(delayed(100_000).grant().up_to, Lsn::new(200));
    assert_eq!(delayed(100_000).grant().bound, TrimBound::DelayedGuard);
    assert_eq!(delayed(600_000).hold(), HoldReason::Delay);
}

#[test]
fn without_a_delay_the_history_is_not_asked() {
    let forgetful = Case::with(|case| case.pointer().history.clear());
    assert_eq!(forgetful.grant().up_to, Lsn::new(500));
}

#[test]
fn of_equal_bounds_the_first_one_is_named() {
    let at_guard = Case::with(|case| case.replicas = vec![need(Some(500), None)]);
    assert_eq!(at_guard.grant().bound, TrimBound::Guard);
    let nothing_left = Case::with(|case| {
        case.replicas = vec![need(Some(500), None)];
        case.log().trim_point = Lsn::new(500);
    });
    assert_eq!(nothing_left.hold(), HoldReason::NothingToTrim);
}

#[test]
fn a_replica_exactly_as_far_behind_as_allowed_is_waited_for() {
    for records in [true, false] {
        let check = |less: u64| {
            let case = Case::with(|case| {
                case.replicas = vec![need(Some(10), Some(1_000))];
                match records {
                    true => case.rule.held_records_max = 490 - less,
                    false => case.rule.held_bytes_max = 49_000 - less,
                }
            });
            case.grant().up_to
        };
        assert_eq!(check(0), Lsn::new(10), "by records: {records}");
        assert_eq!(check(1), Lsn::new(500), "by records: {records}");
    }
}

#[test]
fn a_replica_too_far_behind_is_left_behind_and_said() {
    let by_records = Case::with(|case| {
        case.replicas.push(ReplicaNeed {
            node: node("slow"),
            needed_lsn: Some(Lsn::new(10)),
            log_bytes: None,
        });
        case.rule.held_records_max = 400;
    });
    let by_bytes = Case::with(|case| {
        case.replicas.push(ReplicaNeed {
            node: node("slow"),
            needed_lsn: Some(Lsn::new(10)),
            log_bytes: Some(1_000),
        });
        case.rule.held_bytes_max = 40_000;
    });
    for case in [by_records, by_bytes] {
        let grant = case.grant();
        assert_eq!(
            (grant.up_to, grant.left_behind),
            (Lsn::new(500), vec![node("slow")])
        );
    }
}

#[test]
fn whatever_is_unknown_damaged_or_foreign_holds() {
    let check = |change: fn(&mut Case), expected: HoldReason| assert_eq!(Case::with(change).hold(), expected);
    check(|case| case.log = None, HoldReason::LogUnavailable);
    check(|case| case.pointer = None, HoldReason::TooFewSnapshots);
    check(
        |case| {
            case.pointer = None;
            case.log().trim_point = Lsn::new(5);
        },
        HoldReason::PointerMissing,
    );
    check(
        |case| {
            case.pointer = None;
            case.certificate = Some(certificate(100, &[entry(500)]));
        },
        HoldReason::PointerMissing,
    );
    check(
        |case| case.pointer().snapshots.truncate(1),
        HoldReason::TooFewSnapshots,
    );
    check(
        |case| case.rule.restorable_snapshots_min = 3,
        HoldReason::TooFewSnapshots,
    );
    check(
        |case| case.trust.retain(|id, _| *id != snapshot_id(500)),
        HoldReason::UnverifiedSnapshot,
    );
    check(
        |case| {
            case.trust
                .insert(snapshot_id(500), SnapshotTrust::Verified(VerifyLevel::Presence));
        },
        HoldReason::UnverifiedSnapshot,
    );
    for damaged in [500, 800] {
        let case = Case::with(|case| {
            // A third, healthy snapshot does not make up for a damaged newer one.
            case.pointer().snapshots.push(entry(300));
            case.trust
                .insert(snapshot_id(300), SnapshotTrust::Verified(VerifyLevel::Restore));
            case.trust.insert(snapshot_id(damaged), SnapshotTrust::Damaged);
        });
        assert_eq!(case.hold(), HoldReason::DamagedSnapshot);
    }
    check(|case| case.cluster = other_cluster(), HoldReason::ForeignIdentity);
    check(
        |case| {
            let mut foreign = certificate(100, &[entry(500)]);
            foreign.cluster = other_cluster();
            case.certificate = Some(foreign);
        },
        HoldReason::ForeignIdentity,
    );
    check(
        |case| case.pointer().partition = snapshot_store::PartitionId::new(7),
        HoldReason::ForeignIdentity,
    );
    check(
        |case| case.log().incarnation = rival_incarnation(),
        HoldReason::IncarnationMismatch,
    );
    check(
        |case| {
            case.pointer()
                .snapshots
                .insert(0, entry_of(incarnation(2), 10, 77))
        },
        HoldReason::IncarnationMismatch,
    );
    check(
        |case| case.log().incarnation = incarnation(2),
        HoldReason::TooFewSnapshots,
    );
    check(|case| case.log().tail = Lsn::new(800), HoldReason::LogRegressed);
    check(|case| case.replicas.clear(), HoldReason::NoLiveReplica);
    check(
        |case| case.log().trim_point = Lsn::new(500),
        HoldReason::NothingToTrim,
    );
    check(
        |case| case.replicas = vec![need(Some(0), None)],
        HoldReason::ReplicaBehind,
    );
}

#[test]
fn a_certificate_that_covers_the_answer_need_not_be_written_again() {
    let case = |up_to: u64| {
        Case::with(|case| case.certificate = Some(certificate(up_to, &[entry(800), entry(500)]))).grant()
    };
    assert!(case(500).certified);
    assert!(!case(499).certified);
}
