//! Replacing the pointer, what it retains, and what may be deleted: tables and properties.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use proptest::prelude::*;
use snapshot_store::{
    Incarnation, Lsn, PartitionId,
    core::{
        DeleteFacts, DeleteScope, KeepReason, PointerCandidate, PointerFloor, ReplaceRefusal, may_delete,
        may_replace_pointer, retained_after, retained_after_move,
    },
    format::{Certificate, Pointer, PointerEntry, SnapshotDirectory},
};

fn replace(
    current: Option<&Pointer>,
    (incarnation, lsn): (Incarnation, u64),
    certificate: Option<&Certificate>,
    trimmed: Option<(Incarnation, u64)>,
) -> Result<(), ReplaceRefusal> {
    let cluster = cluster();
    let candidate = PointerCandidate {
        cluster: &cluster,
        partition: P0,
        incarnation,
        lsn: Lsn::new(lsn),
        snapshot_id: snapshot_id(1_000_000 + u128::from(lsn)),
    };
    let trimmed = trimmed.map(|(incarnation, lsn)| (incarnation, Lsn::new(lsn)));
    may_replace_pointer(current, &candidate, &PointerFloor { certificate, trimmed })
}

fn delete(
    directory: &SnapshotDirectory,
    pointer: Option<&Pointer>,
    certificate: Option<&Certificate>,
    scope: DeleteScope,
) -> Result<(), KeepReason> {
    let facts = DeleteFacts {
        cluster: &cluster(),
        partition: P0,
        pointer,
        certificate,
    };
    may_delete(directory, &facts, scope)
}

fn deletable(
    directory: &SnapshotDirectory,
    pointer: Option<&Pointer>,
    certificate: Option<&Certificate>,
) -> Result<(), KeepReason> {
    delete(directory, pointer, certificate, DeleteScope::CurrentGeneration)
}

#[test]
fn a_pointer_is_replaced_only_by_a_higher_one() {
    let current = pointer(vec![entry(500), entry(300)]);
    let one = incarnation(1);
    assert_eq!(replace(None, (one, 5), None, None), Ok(()));
    assert_eq!(replace(Some(&current), (one, 501), None, None), Ok(()));
    for lsn in [1, 300, 499, 500] {
        let refused = replace(Some(&current), (one, lsn), None, None);
        assert_eq!(
            refused,
            Err(ReplaceRefusal::Superseded {
                current: Lsn::new(500)
            })
        );
    }
    // A newer life of the log starts over; an older one is over.
    assert_eq!(replace(Some(&current), (incarnation(2), 5), None, None), Ok(()));
    let newer = pointer(vec![entry_of(incarnation(2), 5, 5), entry(500)]);
    let refused = replace(Some(&newer), (one, 900), None, None);
    assert_eq!(
        refused,
        Err(ReplaceRefusal::NewerIncarnation {
            found: incarnation(2)
        })
    );
    let refused = replace(Some(&current), (rival_incarnation(), 900), None, None);
    assert_eq!(
        refused,
        Err(ReplaceRefusal::Conflict {
            found: one,
            ours: rival_incarnation()
        })
    );
}

#[test]
fn a_foreign_pointer_or_certificate_is_never_replaced() {
    let mut foreign = pointer(vec![entry(500)]);
    foreign.cluster = other_cluster();
    let mut misplaced = pointer(vec![entry(500)]);
    misplaced.partition = PartitionId::new(4);
    let mut certificate = certificate(5, &[entry(5)]);
    certificate.cluster = other_cluster();
    let one = (incarnation(1), 900);
    for refused in [
        replace(Some(&foreign), one, None, None),
        replace(Some(&misplaced), one, None, None),
        replace(None, one, Some(&certificate), None),
    ] {
        assert!(
            matches!(refused, Err(ReplaceRefusal::Foreign { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_missing_pointer_does_not_lower_what_was_trimmed() {
    let one = incarnation(1);
    let certificate = certificate(400, &[entry(500)]);
    let below = Err(ReplaceRefusal::BelowFloor { floor: Lsn::new(400) });
    assert_eq!(replace(None, (one, 399), Some(&certificate), None), below);
    assert_eq!(replace(None, (one, 400), Some(&certificate), None), Ok(()));
    assert_eq!(replace(None, (one, 399), None, Some((one, 400))), below);
    assert_eq!(replace(None, (one, 400), None, Some((one, 400))), Ok(()));
    assert_eq!(
        replace(None, (incarnation(2), 1), Some(&certificate), Some((one, 400))),
        Ok(())
    );
    let refused = replace(None, (one, 900), None, Some((incarnation(2), 3)));
    assert_eq!(
        refused,
        Err(ReplaceRefusal::NewerIncarnation {
            found: incarnation(2)
        })
    );
}

#[test]
fn a_pointer_that_names_the_snapshot_says_so() {
    let cluster = cluster();
    let mut current = pointer(vec![entry(500), entry(300)]);
    current.snapshots.pop();
    let candidate = PointerCandidate {
        cluster: &cluster,
        partition: P0,
        incarnation: incarnation(1),
        lsn: Lsn::new(300),
        snapshot_id: snapshot_id(300),
    };
    // It left retention meanwhile and is only in the history: still published.
    let answer = may_replace_pointer(Some(&current), &candidate, &PointerFloor::default());
    assert_eq!(answer, Err(ReplaceRefusal::AlreadyPublished));
}

#[test]
fn retention_keeps_the_newest_and_the_certified() {
    let current = pointer(vec![entry(500), entry(400), entry(300), entry(200)]);
    let lsns = |certificate: Option<&Certificate>, min: u32| -> Vec<u64> {
        retained_after(Some(&current), entry(600), certificate, min)
            .iter()
            .map(|e| e.lsn.get())
            .collect()
    };
    assert_eq!(lsns(None, 2), [600, 500]);
    assert_eq!(lsns(None, 0), [600]);
    assert_eq!(lsns(None, 9), [600, 500, 400, 300, 200]);
    assert_eq!(
        lsns(Some(&certificate(200, &[entry(400), entry(200)])), 2),
        [600, 500, 400, 200]
    );
}

#[test]
fn each_condition_alone_keeps_a_directory() {
    let current = pointer(vec![entry(900), entry(800)]);
    let certificate = certificate(700, &[entry(900), entry(800)]);
    let check = |directory: SnapshotDirectory, expected: Result<(), KeepReason>| {
        assert_eq!(
            deletable(&directory, Some(&current), Some(&certificate)),
            expected
        );
    };
    let at_lsn = |lsn: u64| entry_of(incarnation(1), lsn, 5_555).path;
    check(at_lsn(600), Ok(()));
    check(at_lsn(699), Ok(()));
    check(at_lsn(700), Err(KeepReason::NotBelowCertificate));
    check(at_lsn(900), Err(KeepReason::NotBelowPointer));
    check(at_lsn(950), Err(KeepReason::NotBelowPointer));
    check(entry(800).path, Err(KeepReason::Retained));
    check(
        entry_of(incarnation(2), 10, 5).path,
        Err(KeepReason::OtherGeneration),
    );
    assert_eq!(
        deletable(&at_lsn(600), None, Some(&certificate)),
        Err(KeepReason::NoPointer)
    );
    assert_eq!(
        deletable(&at_lsn(600), Some(&current), None),
        Err(KeepReason::NoCertificate)
    );
}

#[test]
fn a_certificate_protects_what_it_names_and_what_is_above_it() {
    let current = pointer(vec![entry(900)]);
    let certificate = certificate(700, &[entry(650), entry(640)]);
    let check = |directory: SnapshotDirectory| deletable(&directory, Some(&current), Some(&certificate));
    assert_eq!(check(entry(650).path), Err(KeepReason::Certified));
    assert_eq!(
        check(entry_of(incarnation(1), 645, 1).path),
        Err(KeepReason::NotBelowCertified)
    );
    assert_eq!(check(entry_of(incarnation(1), 639, 1).path), Ok(()));
}

#[test]
fn pointer_and_certificate_of_different_logs_delete_nothing() {
    let directory = entry(100).path;
    let current = pointer(vec![entry(900)]);
    let certified = certificate(700, &[entry(800)]);
    let (mut foreign, mut misplaced) = (current.clone(), current.clone());
    foreign.cluster = other_cluster();
    misplaced.partition = PartitionId::new(4);
    let next_life = pointer(vec![entry_of(incarnation(2), 900, 3)]);
    for pointer in [&foreign, &misplaced, &next_life] {
        let kept = deletable(&directory, Some(pointer), Some(&certified));
        assert_eq!(kept, Err(KeepReason::Inconsistent));
    }
    // Two documents that agree with each other, and belong to somebody else.
    let (mut foreign_too, mut misplaced_too) = (certified.clone(), certified.clone());
    foreign_too.cluster = other_cluster();
    misplaced_too.partition = PartitionId::new(4);
    for (pointer, certificate) in [(&foreign, &foreign_too), (&misplaced, &misplaced_too)] {
        let kept = deletable(&directory, Some(pointer), Some(certificate));
        assert_eq!(kept, Err(KeepReason::Inconsistent));
    }
}

#[test]
fn an_older_generation_goes_only_when_it_is_named_and_a_newer_one_is_certified() {
    let fork = incarnation(2);
    let current = pointer(vec![entry_of(fork, 950, 20), entry_of(fork, 900, 19), entry(800)]);
    let mut certified = certificate(900, &[entry_of(fork, 950, 20), entry_of(fork, 900, 19)]);
    certified.incarnation = fork;
    let check = |directory: SnapshotDirectory, certificate: Option<&Certificate>, generation: u64| {
        let scope = DeleteScope::OlderGeneration(generation);
        delete(&directory, Some(&current), certificate, scope)
    };
    let (old, retained) = (entry(700).path, entry(800).path);
    // Above the fork's own LSNs, too: nothing of that life can be restored into the new one.
    let high = entry_of(incarnation(1), 5_000, 77).path;
    assert_eq!(check(old, Some(&certified), 1), Ok(()));
    assert_eq!(check(high, Some(&certified), 1), Ok(()));
    assert_eq!(check(retained, Some(&certified), 1), Err(KeepReason::Retained));
    assert_eq!(
        deletable(&old, Some(&current), Some(&certified)),
        Err(KeepReason::OtherGeneration)
    );

    let present = entry_of(fork, 10, 5).path;
    for generation in [2, 3] {
        assert_eq!(
            check(present, Some(&certified), generation),
            Err(KeepReason::NotOlder)
        );
        assert_eq!(
            check(old, Some(&certified), generation),
            Err(KeepReason::NotOlder)
        );
    }
    assert_eq!(
        check(present, Some(&certified), 1),
        Err(KeepReason::OtherGeneration)
    );
    assert_eq!(check(old, None, 1), Err(KeepReason::NoCertificate));
    // The new life has not been certified yet: the certificate still is the old one's.
    let before = certificate(700, &[entry(800)]);
    assert_eq!(check(old, Some(&before), 1), Err(KeepReason::Inconsistent));
}

#[test]
fn a_moved_pointer_keeps_what_was_moved_and_what_the_certificate_there_names() {
    let moved = pointer(vec![entry(500), entry(400)]);
    let lsns = |entries: Vec<PointerEntry>| -> Vec<u64> {
        entries.into_iter().map(|entry| entry.lsn.get()).collect()
    };
    let there = pointer(vec![entry(450), entry(300), entry(200)]);
    let names = certificate(200, &[entry(300), entry(200)]);
    assert_eq!(lsns(retained_after_move(&moved, None, None)), [500, 400]);
    assert_eq!(lsns(retained_after_move(&moved, Some(&there), None)), [500, 400]);
    assert_eq!(
        lsns(retained_after_move(&moved, Some(&there), Some(&names))),
        [500, 400, 300, 200]
    );
    // Two snapshots of one state: the one that a trim rests on.
    let twin = entry_of(incarnation(1), 400, 9_999);
    let there = pointer(vec![twin.clone()]);
    let names = certificate(400, std::slice::from_ref(&twin));
    let kept = retained_after_move(&moved, Some(&there), Some(&names));
    assert_eq!(kept, [entry(500), twin]);
}

#[test]
fn every_reason_to_keep_has_a_word_and_words() {
    for reason in KeepReason::ALL {
        assert!(
            reason
                .as_str()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        );
        assert!(reason.in_words().contains(' '));
    }
}

fn entries() -> impl Strategy<Value = Vec<PointerEntry>> {
    prop::collection::btree_set((1_u64..3, 1_u64..60), 1..6).prop_map(|positions| {
        let entry = |(generation, lsn): &(u64, u64)| {
            entry_of(
                incarnation(*generation),
                *lsn,
                u128::from(generation * 1_000 + lsn),
            )
        };
        positions.iter().rev().map(entry).collect()
    })
}

fn position(entry: &PointerEntry) -> (u64, Lsn) {
    (entry.incarnation.generation, entry.lsn)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pointer_never_goes_back(
        entries in entries(), generation in 1_u64..4, lsn in 1_u64..80, floor in 0_u64..80, min in 0_u32..4,
    ) {
        let current = pointer(entries);
        let certificate = certificate(floor, &[entry(floor)]);
        let candidate = (incarnation(generation), lsn);
        if replace(Some(&current), candidate, Some(&certificate), None).is_ok() {
            let newest = entry_of(incarnation(generation), lsn, 9_999_999);
            let retained = retained_after(Some(&current), newest, Some(&certificate), min);
            let before = current.snapshots.iter().map(position).max();
            prop_assert!(Some(position(&retained[0])) > before);
            prop_assert!(generation > 1 || lsn >= floor);
            prop_assert!(retained.is_sorted_by(|a, b| position(a) > position(b)));
        }
    }

    #[test]
    fn retention_keeps_the_newest_and_what_is_certified_and_nothing_else(
        entries in entries(), named in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        lsn in 60_u64..80, min in 0_u32..5,
    ) {
        let current = pointer(entries.clone());
        let named: Vec<PointerEntry> = named.iter().map(|pick| entries[pick.index(entries.len())].clone()).collect();
        let certificate = certificate(1, &named);
        let newest = entry_of(incarnation(2), lsn, 9_999_999);
        let retained = retained_after(Some(&current), newest.clone(), Some(&certificate), min);
        prop_assert_eq!(&retained[0], &newest);
        let among_newest = min.max(1) as usize - 1;
        for (place, entry) in entries.iter().enumerate() {
            let kept = place < among_newest || named.contains(entry);
            prop_assert_eq!(retained.contains(entry), kept, "{:?}", entry);
        }
    }

    #[test]
    fn nothing_that_is_needed_is_ever_deletable(
        entries in entries(), named in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        up_to in 0_u64..80, generation in 1_u64..4, lsn in 0_u64..80, known in any::<bool>(),
    ) {
        let current = pointer(entries.clone());
        let mut certificate = certificate(up_to, &[]);
        certificate.incarnation = entries[0].incarnation;
        certificate.snapshots = named.iter().map(|pick| certified(&entries[pick.index(entries.len())])).collect();
        // Either an unknown directory, or one the pointer retains.
        let directory = if known { entries[lsn as usize % entries.len()].path } else {
            entry_of(incarnation(generation), lsn, 424_242).path
        };
        if deletable(&directory, Some(&current), Some(&certificate)).is_ok() {
            prop_assert!(!known, "a retained snapshot was deletable");
            prop_assert_eq!(directory.generation, entries[0].incarnation.generation);
            prop_assert!(directory.lsn < entries[0].lsn);
            prop_assert!(directory.lsn < certificate.up_to);
            prop_assert!(!certificate.snapshots.is_empty());
            prop_assert!(certificate.snapshots.iter().all(|named| directory.lsn < named.lsn));
            // Neither can it become the pointer any more.
            let late = replace(Some(&current), (entries[0].incarnation, directory.lsn.get()), Some(&certificate), None);
            prop_assert!(late.is_err());
        }
    }

    #[test]
    fn an_explicit_command_never_reaches_the_present_generation(
        entries in entries(), asked_for in 0_u64..4, generation in 1_u64..4, lsn in 0_u64..80, known in any::<bool>(),
    ) {
        let current = pointer(entries.clone());
        let mut certificate = certificate(40, &entries[..1]);
        certificate.incarnation = entries[0].incarnation;
        let directory = if known { entries[lsn as usize % entries.len()].path } else {
            entry_of(incarnation(generation), lsn, 424_242).path
        };
        let scope = DeleteScope::OlderGeneration(asked_for);
        if delete(&directory, Some(&current), Some(&certificate), scope).is_ok() {
            prop_assert!(!known, "a retained snapshot was deletable");
            prop_assert_eq!(directory.generation, asked_for);
            prop_assert!(asked_for < entries[0].incarnation.generation);
            let late = replace(Some(&current), (incarnation(asked_for), lsn), Some(&certificate), None);
            prop_assert!(late.is_err());
        }
    }

    /// After a move all that was moved can be restored there, at its position, and so can what the certificate there rests on.
    #[test]
    fn a_move_keeps_what_was_moved_and_what_is_certified_and_nothing_else(
        moved in entries(), here in prop::option::of(entries()),
        named in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let here = here.map(|mut entries| {
            // Some are the moved ones, some others at the same position.
            let other = |entry: &mut PointerEntry| *entry = entry_of(entry.incarnation, entry.lsn.get(), 7_000_000 + u128::from(entry.lsn.get()));
            entries.iter_mut().step_by(2).for_each(other);
            entries
        });
        let certificate = here.as_ref().map(|here| {
            let named: Vec<_> = named.iter().map(|pick| here[pick.index(here.len())].clone()).collect();
            certificate(1, &named)
        });
        let (moved, here) = (pointer(moved), here.map(pointer));
        let retained = retained_after_move(&moved, here.as_ref(), certificate.as_ref());
        prop_assert!(retained.is_sorted_by(|newer, older| position(newer) > position(older)));
        let certified: Vec<&PointerEntry> = here.iter().flat_map(|here| &here.snapshots)
            .filter(|entry| certificate.as_ref().is_some_and(|found| found.names(entry.snapshot_id)))
            .collect();
        prop_assert!(certified.iter().all(|entry| retained.contains(entry)));
        prop_assert!(moved.snapshots.iter().all(|entry| retained.iter().any(|kept| position(kept) == position(entry))));
        prop_assert!(retained.iter().all(|entry| certified.contains(&entry) || moved.snapshots.contains(entry)));
    }
}
