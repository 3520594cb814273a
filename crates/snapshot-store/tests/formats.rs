//! What stored objects answer when they are asked: whom they name, whom they cover, what follows from their values.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use snapshot_store::{
    ChainHash, Lsn, PartitionId,
    format::{
        ChainPoint, ChainTrail, Control, KeyHash, Lease, LeaseEpoch, Pause, PauseScope, Pointer, StickyHold,
        StickyReason, Stored, Unknown, VerifyLevel,
    },
};

#[test]
fn a_level_has_the_word_that_is_stored_for_it() {
    for (level, word) in [
        (VerifyLevel::Presence, "presence"),
        (VerifyLevel::Content, "content"),
        (VerifyLevel::Restore, "restore"),
    ] {
        assert_eq!(level.as_str(), word);
        assert_eq!(serde_json::to_value(level).unwrap(), word);
    }
}

/// Pinned, as every key of a running cluster lies where this says. The values come from another implementation of BLAKE3.
#[test]
fn a_key_belongs_to_the_partition_that_its_hash_says() {
    let cases: [(&[u8], [u32; 4]); 4] = [
        (b"", [0, 6, 438, 2_769_087_328]),
        (b"user-1", [0, 0, 32, 2_597_800_542]),
        (b"user-2", [0, 4, 28, 2_806_506_048]),
        (b"order/7", [0, 7, 839, 2_044_937_774]),
    ];
    for (key, expected) in cases {
        let found = [1, 8, 1000, u32::MAX].map(|of| KeyHash::Blake3Mod.partition_of(key, of).get());
        assert_eq!(found, expected, "{key:?}");
    }
}

#[test]
fn a_certificate_says_what_it_rests_on_and_what_of_it_the_pointer_has_evicted() {
    let certificate = certificate(100, &[entry(800), entry(500), entry(300)]);
    assert!(certificate.names(snapshot_id(500)));
    assert!(!certificate.names(snapshot_id(501)));
    assert_eq!(certificate.oldest_lsn(), Some(Lsn::new(300)));
    let beyond = |pointer: Option<&Pointer>| -> Vec<u64> {
        let snapshots = certificate.unretained(pointer);
        snapshots.map(|snapshot| snapshot.lsn.get()).collect()
    };
    assert_eq!(beyond(None), [800, 500, 300]);
    assert_eq!(beyond(Some(&pointer(vec![entry(900), entry(500)]))), [800, 300]);
}

#[test]
fn a_pointer_tells_what_it_retains_from_what_it_only_remembers() {
    let mut found = pointer(vec![
        entry_of(incarnation(2), 20, 1),
        entry(500),
        entry(300),
        entry(100),
    ]);
    found.snapshots.pop();
    assert_eq!(found.latest().map(|entry| entry.lsn), Some(Lsn::new(20)));
    let known = |lsn: u128| {
        (
            found.retains(snapshot_id(lsn)),
            found.has_published(snapshot_id(lsn)),
        )
    };
    assert_eq!(known(300), (true, true));
    assert_eq!(known(100), (false, true));
    assert_eq!(known(7), (false, false));
    let restorable = |generation: u64, min: u32| -> Vec<u64> {
        let incarnation = incarnation(generation);
        found
            .restorable(&incarnation, min)
            .map(|entry| entry.lsn.get())
            .collect()
    };
    assert_eq!(restorable(1, 1), [500]);
    assert_eq!(restorable(1, 9), [500, 300]);
    assert_eq!(restorable(2, 9), [20]);

    // One that was published so long ago that the history has forgotten it, and is retained all the same.
    found.history.clear();
    assert!(found.has_published(snapshot_id(300)));
}

#[test]
fn a_pause_covers_one_partition_or_all_and_a_hold_only_its_own() {
    let mut control = Control::empty(cluster(), write_id(1));
    assert_eq!((control.pause_of(P0), control.seal()), (None, None));
    let pause = |scope, moved_to: Option<&str>| Pause {
        scope,
        by: "ops".to_owned(),
        at: at(1),
        reason: "migration".to_owned(),
        moved_to: moved_to.map(str::to_owned),
        unknown: Unknown::default(),
    };
    let (one, other) = (PartitionId::new(1), PartitionId::new(2));
    control.pauses.push(pause(PauseScope::Partition(one), None));
    let scope = |control: &Control, partition| control.pause_of(partition).map(|pause| pause.scope);
    assert_eq!(scope(&control, one), Some(PauseScope::Partition(one)));
    assert_eq!(scope(&control, other), None);
    assert_eq!(control.seal(), None, "a pause is no seal");

    control
        .pauses
        .push(pause(PauseScope::Cluster, Some("s3://new/place")));
    for partition in [one, other] {
        assert_eq!(
            scope(&control, partition),
            Some(PauseScope::Cluster),
            "it comes first"
        );
    }
    assert_eq!(control.seal(), control.pauses.last());

    let hold = |partition, reason| StickyHold {
        partition,
        reason,
        since: at(2),
        detail: String::new(),
        unknown: Unknown::default(),
    };
    control.holds = vec![
        hold(one, StickyReason::ChainMismatch),
        hold(other, StickyReason::LogRegressed),
    ];
    let reasons: Vec<_> = control.holds_of(other).map(|hold| hold.reason).collect();
    assert_eq!(reasons, [StickyReason::LogRegressed]);
}

fn trail(points: &[(u64, &str)]) -> ChainTrail {
    let point = |(lsn, content): &(u64, &str)| ChainPoint {
        lsn: Lsn::new(*lsn),
        hash: ChainHash::of(content.as_bytes()),
    };
    ChainTrail(points.iter().map(point).collect())
}

#[test]
fn trails_differ_at_the_lowest_common_lsn_whose_hashes_differ() {
    let ours = trail(&[(100, "a"), (200, "b"), (300, "c")]);
    let first = |other: &[(u64, &str)]| ours.first_mismatch(&trail(other)).map(Lsn::get);
    assert_eq!(first(&[(100, "a"), (200, "b"), (300, "c")]), None);
    assert_eq!(first(&[(100, "a"), (200, "x"), (300, "y")]), Some(200));
    assert_eq!(first(&[(300, "y")]), Some(300));
    assert_eq!(
        first(&[(150, "x"), (400, "y")]),
        None,
        "no common LSN says nothing"
    );
    assert_eq!(first(&[]), None);
}

#[test]
fn a_manifest_has_the_chain_hash_at_its_own_lsn_and_the_identity_that_its_files_carry() {
    let golden = include_bytes!("golden/metadata.json");
    let mut manifest = snapshot_store::format::Manifest::decode("metadata", golden).unwrap();
    let origin = manifest.origin.clone().unwrap();
    assert_eq!(
        manifest.state_identity(),
        (origin.cluster.fingerprint, origin.incarnation)
    );
    manifest.origin = None;
    assert_eq!(manifest.state_identity(), (cluster().fingerprint, incarnation(1)));
    assert_eq!(manifest.directory(), entry(800).path);

    manifest.chain = Some(trail(&[(512, "before"), (800, "own")]));
    assert_eq!(manifest.chain_hash(), Some(ChainHash::of(b"own")));
    manifest.chain = Some(trail(&[(512, "before")]));
    assert_eq!(manifest.chain_hash(), None);
    manifest.chain = None;
    assert_eq!(manifest.chain_hash(), None);
}

#[test]
fn a_lease_stands_from_its_renewal_to_its_end_and_its_epochs_count_up() {
    let mut lease = Lease::decode("lease", include_bytes!("golden/lease.json")).unwrap();
    assert_eq!(lease.term().as_millis(), 10_000);
    lease.expires_at = lease.renewed_at;
    assert!(lease.term().is_zero());
    assert_eq!(LeaseEpoch::default().next(), LeaseEpoch::new(1));
    assert_eq!(LeaseEpoch::new(7).next().get(), 8);
}
