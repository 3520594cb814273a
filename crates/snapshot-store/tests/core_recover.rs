//! What becomes of a partition whose log is lost: a table of what is found, what is done about it, and what is said to be lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use proptest::prelude::*;
use snapshot_store::{
    ClusterIdentity, Incarnation, Lsn, SnapshotId,
    core::{
        Loss, Recovery, RecoveryFacts, RecoveryRefusal, RecoveryStep, RegisteredLog, ReplicaClaim,
        plan_recovery,
    },
    format::{Certificate, Origin, Pointer, PointerEntry},
};
use std::collections::BTreeSet;

/// What a test finds; the rest is a partition that was lost with two snapshots, at 100 and 140.
struct Found {
    cluster: ClusterIdentity,
    pointer: Option<Pointer>,
    certificate: Option<Certificate>,
    certified: Vec<PointerEntry>,
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
            certified: Vec::new(),
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
            certified: &self.certified,
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
    assert_eq!(found.plan(), Err(RecoveryRefusal::NothingSound { named: 2 }));
}

#[test]
fn what_only_the_certificate_names_comes_in_the_order_of_its_lsn() {
    let mut found = Found::lost();
    found.certificate = Some(certificate(120, &[entry(120), entry(90)]));
    found.certified = vec![entry(120), entry(90)];
    assert_eq!(found.fork(), (140, 2));
    for (damaged, next) in [(140, 120), (120, 100), (100, 90)] {
        found.damaged.insert(snapshot_id(damaged));
        assert_eq!(found.fork(), (next, 2), "{damaged} is damaged");
    }
    found.damaged.insert(snapshot_id(90));
    assert_eq!(found.plan(), Err(RecoveryRefusal::NothingSound { named: 4 }));
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
    let mut went_on = Found::recovered();
    went_on.replicas = vec![replica(1, 150)];
    assert_eq!(
        went_on.loss(),
        (140, Some(150)),
        "what is lost is of the parent's log"
    );

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
    // A fork always begins a later generation than that of its origin.
    let of_its_own_life = |found: &mut Found| found.origin.as_mut().unwrap().incarnation = incarnation(2);
    assert_eq!(lived(of_its_own_life), 3);
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
fn each_step_has_a_word_of_its_own() {
    let word = |found: Found| found.plan().unwrap().step.as_str();
    assert_eq!(word(Found::lost()), "fork");
    assert_eq!(word(Found::recovered()), "provision");
    let there = Found {
        log: log(incarnation(1), 141),
        ..Found::lost()
    };
    assert_eq!(word(there), "keep");
    let empty = Found {
        pointer: None,
        ..Found::lost()
    };
    assert_eq!(word(empty), "begin-empty");
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing is forked while a log is there or followed; what is forked is the newest that is not damaged; its generation
    /// is above all that anything speaks of; and what is said to be lost lies above what is kept.
    #[test]
    fn a_fork_is_of_the_newest_sound_snapshot_and_above_every_life_of_the_log(
        retained in prop::collection::btree_set((1u64..3, 1u64..20), 0..4),
        unretained in prop::collection::btree_set(1u64..20, 0..3),
        damaged in prop::collection::btree_set(1u64..20, 0..8),
        lives in prop::collection::vec((1u64..4, 0u64..30, any::<bool>()), 0..3),
        tail in prop::option::of(1u64..30),
    ) {
        let id = |generation: u64, lsn: u64| u128::from(generation * 100 + lsn);
        let retained: Vec<PointerEntry> = retained.iter().rev()
            .map(|(generation, lsn)| entry_of(incarnation(*generation), *lsn, id(*generation, *lsn)))
            .collect();
        let certified: Vec<PointerEntry> = unretained.iter().rev()
            .map(|lsn| entry_of(incarnation(1), *lsn, id(1, *lsn)))
            .filter(|entry| !retained.iter().any(|kept| kept.snapshot_id == entry.snapshot_id))
            .collect();
        let mut found = Found::lost();
        found.certificate = (!certified.is_empty()).then(|| certificate(1, &certified));
        found.damaged = damaged.iter().flat_map(|lsn| [1, 2].map(|generation| snapshot_id(id(generation, *lsn)))).collect();
        found.log = tail.and_then(|tail| log(incarnation(2), tail));
        found.replicas = lives.iter().map(|(generation, applied, following)| ReplicaClaim {
            following: *following,
            ..replica(*generation, *applied)
        }).collect();
        found.pointer = (!retained.is_empty()).then(|| pointer(retained.clone()));
        found.certified.clone_from(&certified);
        let position = |entry: &PointerEntry| (entry.incarnation.generation, entry.lsn);
        let named = || retained.iter().chain(&certified);
        let newest = named().filter(|entry| !found.damaged.contains(&entry.snapshot_id)).map(position).max();
        let followed = found.replicas.iter().any(|replica| replica.following);
        match found.plan() {
            Ok(Recovery { step: RecoveryStep::Fork { from, generation }, loss }) => {
                prop_assert!(found.log.is_none() && !followed && found.pointer.is_some());
                prop_assert_eq!(Some(position(&from)), newest);
                prop_assert!(named().all(|entry| entry.incarnation.generation < generation));
                prop_assert!(found.replicas.iter().all(|replica| replica.incarnation.generation < generation));
                let Loss { kept, seen } = loss.unwrap();
                prop_assert_eq!(kept, from.lsn);
                prop_assert!(seen.is_none_or(|(lsn, _)| lsn > kept));
            }
            Ok(Recovery { step: RecoveryStep::Keep { .. }, loss }) => prop_assert!(found.log.is_some() && loss.is_none()),
            Ok(Recovery { step: RecoveryStep::BeginEmpty { .. }, .. }) => {
                prop_assert!(found.log.is_none() && !followed && found.pointer.is_none() && found.certificate.is_none());
            }
            Ok(Recovery { step: RecoveryStep::Provision { .. }, .. }) => prop_assert!(false, "no copy awaits a log here"),
            Err(RecoveryRefusal::NothingSound { .. }) => prop_assert!(found.pointer.is_some() && newest.is_none()),
            Err(RecoveryRefusal::PointerMissing) => prop_assert!(found.pointer.is_none() && found.certificate.is_some()),
            Err(RecoveryRefusal::Followed { .. }) => prop_assert!(followed && found.log.is_none()),
            Err(_) => prop_assert!(found.log.is_some()),
        }
    }
}
