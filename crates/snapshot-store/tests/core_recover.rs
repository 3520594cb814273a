//! What becomes of a partition whose log is lost: a table of what is found, what is done about it, and what is said to be lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use snapshot_store::{
    ClusterIdentity, Incarnation, Lsn, SnapshotId,
    core::{
        Loss, Recovery, RecoveryFacts, RecoveryRefusal, RecoveryStep, RegisteredLog, ReplicaClaim,
        plan_recovery,
    },
    format::{Certificate, Origin, Pointer},
};
use std::collections::BTreeSet;

/// What a test finds; the rest is a partition that was lost with two snapshots, at 100 and 140.
struct Found {
    cluster: ClusterIdentity,
    pointer: Option<Pointer>,
    certificate: Option<Certificate>,
    origin: Option<Origin>,
    damaged: BTreeSet<SnapshotId>,
    log: Option<RegisteredLog>,
    replicas: Vec<ReplicaClaim>,
}

impl Found {
    fn lost() -> Self {
        Found {
            cluster: cluster(),
            pointer: Some(pointer(vec![entry(140), entry(100)])),
            certificate: None,
            origin: None,
            damaged: BTreeSet::new(),
            log: None,
            replicas: Vec::new(),
        }
    }

    /// After a recovery: the copy of 140 is the latest, of generation 2, and its log is missing.
    fn recovered() -> Self {
        Found {
            pointer: Some(pointer(vec![entry_of(incarnation(2), 140, 9), entry(140)])),
            origin: Some(Origin {
                cluster: cluster(),
                incarnation: incarnation(1),
                snapshot_id: snapshot_id(140),
            }),
            ..Found::lost()
        }
    }

    fn plan(&self) -> Result<Recovery, RecoveryRefusal> {
        plan_recovery(&RecoveryFacts {
            cluster: &self.cluster,
            partition: P0,
            first: Some(incarnation(1)),
            pointer: self.pointer.as_ref(),
            certificate: self.certificate.as_ref(),
            latest_origin: self.origin.as_ref(),
            damaged: &self.damaged,
            log: self.log.as_ref(),
            replicas: &self.replicas,
        })
    }

    /// Which snapshot is copied, and to which generation.
    fn fork(&self) -> (u64, u64) {
        match self.plan().unwrap().step {
            RecoveryStep::Fork { from, generation } => (from.lsn.get(), generation),
            other => panic!("{other:?}"),
        }
    }

    fn loss(&self) -> (u64, Option<u64>) {
        let Loss { kept, seen } = self.plan().unwrap().loss.unwrap();
        (kept.get(), seen.map(|(lsn, _)| lsn.get()))
    }
}

fn replica(generation: u64, applied: u64) -> ReplicaClaim {
    ReplicaClaim {
        node: "worker-1".to_owned(),
        incarnation: incarnation(generation),
        applied_lsn: Lsn::new(applied),
        following: false,
    }
}

fn log(incarnation: Incarnation, tail: u64) -> Option<RegisteredLog> {
    Some(RegisteredLog {
        fingerprint: cluster().fingerprint,
        incarnation,
        tail: Lsn::new(tail),
    })
}

#[test]
fn the_newest_snapshot_that_is_not_damaged_begins_the_next_generation() {
    let mut found = Found::lost();
    assert_eq!(found.fork(), (140, 2));
    found.damaged.insert(snapshot_id(140));
    assert_eq!(found.fork(), (100, 2));
    found.damaged.insert(snapshot_id(100));
    assert_eq!(found.plan(), Err(RecoveryRefusal::NothingSound { retained: 2 }));
}

#[test]
fn the_next_generation_lies_above_everything_that_speaks_of_one() {
    let generation = |change: fn(&mut Found)| {
        let mut found = Found::lost();
        change(&mut found);
        found.fork().1
    };
    assert_eq!(generation(|_| {}), 2);
    assert_eq!(
        generation(|found| found.replicas = vec![replica(7, 1), replica(3, 9)]),
        8
    );
    let of_certificate = |found: &mut Found| {
        found.certificate = Some(Certificate {
            incarnation: incarnation(4),
            ..certificate(90, &[entry(100)])
        });
    };
    assert_eq!(generation(of_certificate), 5);
    let of_history = |found: &mut Found| {
        let past = pointer(vec![entry_of(incarnation(6), 90, 3)]).history;
        found.pointer.as_mut().unwrap().history.extend(past);
    };
    assert_eq!(generation(of_history), 7);
}

#[test]
fn what_is_lost_is_all_above_the_snapshot_and_the_highest_that_anything_speaks_of() {
    let mut found = Found::lost();
    assert_eq!(found.loss(), (140, None));
    found.replicas = vec![replica(1, 150), replica(1, 172)];
    assert_eq!(found.loss(), (140, Some(172)));
    found.damaged.insert(snapshot_id(140));
    found.replicas.clear();
    assert_eq!(
        found.loss(),
        (100, Some(140)),
        "the damaged snapshot says how far the log went"
    );
    // What an earlier life reached is no claim on the one that is lost now.
    let mut again = Found::recovered();
    again.replicas = vec![replica(1, 500), replica(2, 160)];
    assert_eq!((again.fork(), again.loss()), ((140, 3), (140, Some(160))));
}

#[test]
fn a_copy_that_awaits_its_log_is_given_it_and_copied_anew_only_once_that_log_has_lived() {
    let awaits = Found::recovered();
    let Recovery { step, loss } = awaits.plan().unwrap();
    let RecoveryStep::Provision { entry: copy } = step else {
        panic!("{step:?}")
    };
    assert_eq!((copy.lsn.get(), copy.incarnation), (140, incarnation(2)));
    assert_eq!(loss.unwrap().kept, Lsn::new(140));

    let lived = |change: fn(&mut Found)| {
        let mut found = Found::recovered();
        change(&mut found);
        found.fork().1
    };
    assert_eq!(lived(|found| found.replicas = vec![replica(2, 140)]), 3);
    let trimmed = |found: &mut Found| {
        found.certificate = Some(Certificate {
            incarnation: incarnation(2),
            ..certificate(140, &[entry(140)])
        });
    };
    assert_eq!(lived(trimmed), 3);
    assert_eq!(lived(|found| found.origin = None), 3);
    let of_another = |found: &mut Found| found.origin.as_mut().unwrap().cluster = other_cluster();
    assert_eq!(lived(of_another), 3);
    let damaged = |found: &mut Found| found.damaged = BTreeSet::from([snapshot_id(9)]);
    assert_eq!(lived(damaged), 3);
}

#[test]
fn a_log_that_is_there_is_kept_or_named_as_the_wrong_one() {
    let with = |log: Option<RegisteredLog>, mut found: Found| {
        found.log = log;
        found.plan()
    };
    for there in [log(incarnation(1), 141), log(incarnation(3), 1)] {
        let incarnation = there.as_ref().unwrap().incarnation;
        let kept = Recovery {
            step: RecoveryStep::Keep { incarnation },
            loss: None,
        };
        assert_eq!(with(there, Found::lost()), Ok(kept));
    }
    let regressed = with(log(incarnation(1), 140), Found::lost());
    assert!(
        matches!(regressed, Err(RecoveryRefusal::Regressed { .. })),
        "{regressed:?}"
    );
    for wrong in [log(incarnation(1), 900), log(rival_incarnation(), 900)] {
        let found = with(wrong, Found::recovered());
        assert!(
            matches!(found, Err(RecoveryRefusal::OtherLife { .. })),
            "{found:?}"
        );
    }
    let foreign = log(incarnation(1), 141).map(|log| RegisteredLog {
        fingerprint: other_cluster().fingerprint,
        ..log
    });
    let found = with(foreign, Found::lost());
    assert!(
        matches!(found, Err(RecoveryRefusal::OtherLog { .. })),
        "{found:?}"
    );
}

#[test]
fn a_log_that_a_replica_follows_is_not_lost() {
    let mut found = Found::lost();
    found.replicas = vec![ReplicaClaim {
        following: true,
        ..replica(1, 140)
    }];
    assert!(matches!(found.plan(), Err(RecoveryRefusal::Followed { .. })));
}

#[test]
fn a_partition_begins_empty_only_where_nothing_was_ever_archived() {
    let mut found = Found {
        pointer: None,
        replicas: vec![replica(1, 30)],
        ..Found::lost()
    };
    let step = RecoveryStep::BeginEmpty { generation: 2 };
    assert_eq!(found.plan().unwrap().step, step);
    assert_eq!(found.loss(), (0, Some(30)));
    found.certificate = Some(certificate(90, &[entry(100)]));
    assert_eq!(found.plan(), Err(RecoveryRefusal::PointerMissing));
}

#[test]
fn objects_of_another_cluster_are_named_and_nothing_is_done() {
    let mut found = Found::lost();
    found.certificate = Some(Certificate {
        cluster: other_cluster(),
        ..certificate(90, &[entry(100)])
    });
    let refused = found.plan();
    assert!(
        matches!(
            refused,
            Err(RecoveryRefusal::Foreign {
                object: "trim.json",
                ..
            })
        ),
        "{refused:?}"
    );
    found.certificate = None;
    found.pointer.as_mut().unwrap().cluster = other_cluster();
    let refused = found.plan();
    assert!(
        matches!(
            refused,
            Err(RecoveryRefusal::Foreign {
                object: "latest.json",
                ..
            })
        ),
        "{refused:?}"
    );
}
