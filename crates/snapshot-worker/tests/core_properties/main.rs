//! What holds for the worker's decisions whatever they are given.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod progress;
mod requests;
mod words;

use bytes::Bytes;
use proptest::prelude::*;
use snapshot_store::{
    ClusterIdentity, ContentHash, Entropy, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, Leadership,
    Lineage, Lsn, NodeId, PartitionId, RecordHash, ReplicaRole, SnapshotId, Timestamp, WriteId,
    format::{
        Certificate, CertifiedSnapshot, Pointer, PointerEntry, SnapshotDirectory, Unknown, VerifyLevel,
    },
};
use snapshot_worker::core::{
    LedBody, LocalFacts, LogFacts, Record, RestoreNeed, StartStep, may_replay_from_first, next_step,
    restore_candidates,
};
use std::collections::BTreeSet;

const OURS: Fingerprint = Fingerprint::from_bytes([1; 16]);
const P: PartitionId = PartitionId::new(3);

/// Few values of everything, so that equal ones meet.
fn incarnations() -> impl Strategy<Value = Incarnation> {
    (1u64..4, 0u8..2).prop_map(|(generation, id)| Incarnation {
        generation,
        id: IncarnationId::from_bytes([id; 16]),
    })
}

fn lsns() -> impl Strategy<Value = Lsn> {
    prop_oneof![4 => 0u64..8, 1 => Just(u64::MAX)].prop_map(Lsn::new)
}

fn locals() -> impl Strategy<Value = LocalFacts> {
    (incarnations(), lsns(), any::<bool>()).prop_map(|(incarnation, applied_lsn, regressed)| LocalFacts {
        incarnation,
        applied_lsn,
        regressed,
        hash_at_base: None,
    })
}

fn logs() -> impl Strategy<Value = LogFacts> {
    (incarnations(), 1u64..4, any::<bool>(), lsns()).prop_map(|(incarnation, first, has_base, trim_point)| {
        LogFacts {
            incarnation,
            first_lsn: Lsn::new(first),
            has_base,
            base: None,
            trim_point,
        }
    })
}

fn snapshot_id(number: u64) -> SnapshotId {
    SnapshotId::new(Entropy::seeded(number).ulid(Timestamp::from_millis(number)))
}

fn entry(number: u64, incarnation: Incarnation, lsn: Lsn) -> PointerEntry {
    PointerEntry {
        snapshot_id: snapshot_id(number),
        incarnation,
        lsn,
        path: SnapshotDirectory {
            generation: incarnation.generation,
            lsn,
            snapshot_id: snapshot_id(number),
        },
        log_bytes: 0,
        files: 1,
        bytes_total: 1,
        bytes_uploaded: 1,
        bytes_copied: 0,
        created_at: Timestamp::default(),
        node: NodeId::new("a").unwrap(),
        role: ReplicaRole::Follower,
        manifest_hash: ContentHash::of(b""),
        unknown: Unknown::default(),
    }
}

fn pointers() -> impl Strategy<Value = Pointer> {
    let owners = prop_oneof![8 => Just((1u8, 3u32)), 1 => Just((2, 3)), 1 => Just((1, 4))];
    (owners, prop::collection::vec((incarnations(), lsns()), 0..6)).prop_map(|((owner, partition), found)| {
        Pointer {
            cluster: ClusterIdentity {
                name: "c".to_owned(),
                fingerprint: Fingerprint::from_bytes([owner; 16]),
            },
            partition: PartitionId::new(partition),
            write_id: WriteId::new(Entropy::seeded(0).ulid(Timestamp::default())),
            restorable_snapshots_min: 2,
            snapshots: (1..)
                .zip(found)
                .map(|(number, (incarnation, lsn))| entry(number, incarnation, lsn))
                .collect(),
            history: vec![],
            unknown: Unknown::default(),
        }
    })
}

/// Certificates whose snapshots are, by their numbers, partly those of [`pointers`].
fn certificates() -> impl Strategy<Value = Certificate> {
    let snapshots = prop::collection::btree_map(1u64..9, lsns(), 0..4);
    (pointers(), incarnations(), snapshots).prop_map(|(owner, incarnation, found)| Certificate {
        cluster: owner.cluster,
        partition: owner.partition,
        incarnation,
        write_id: owner.write_id,
        up_to: Lsn::ZERO,
        snapshots: found
            .into_iter()
            .map(|(number, lsn)| {
                let entry = entry(number, incarnation, lsn);
                CertifiedSnapshot {
                    snapshot_id: entry.snapshot_id,
                    lsn,
                    path: entry.path,
                    manifest_hash: entry.manifest_hash,
                    verified: VerifyLevel::Content,
                    verified_by: entry.node,
                    verified_at: Timestamp::default(),
                    unknown: Unknown::default(),
                }
            })
            .collect(),
        issued_by: NodeId::new("a").unwrap(),
        issued_at: Timestamp::default(),
        unknown: Unknown::default(),
    })
}

fn records() -> impl Strategy<Value = Record> {
    let bodies = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| LedBody::Command(bytes.into())),
        ".{0,20}".prop_map(|address| LedBody::Announce { address }),
        Just(LedBody::NoOp),
    ];
    let led = (any::<u64>(), "[a-z0-9][a-z0-9._-]{0,63}", any::<u64>(), bodies);
    let led = led.prop_map(|(epoch, node, sequence, body)| Record::Led {
        leadership: Leadership {
            epoch: LeaderEpoch::new(epoch),
            node: NodeId::new(node).unwrap(),
        },
        sequence,
        body,
    });
    let skip = (any::<u64>(), any::<[u8; 32]>(), ".{0,40}").prop_map(|(lsn, hash, reason)| Record::Skip {
        lsn: Lsn::new(lsn),
        hash: RecordHash::from_bytes(hash),
        reason,
    });
    prop_oneof![3 => led, 1 => skip]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A replica reads on only in the very log its state belongs to, only where nothing is missing in between, and not from a
    /// state that the log has contradicted, unless it can compare again.
    #[test]
    fn a_replica_never_reads_across_a_gap_or_in_another_log(local in prop::option::of(locals()), log in logs()) {
        let lineage = local.map(|local| log.incarnation.compared_to(&local.incarnation));
        match next_step(local.as_ref(), &log) {
            StartStep::Compare { applied } => {
                prop_assert_eq!(lineage, Some(Lineage::Same));
                prop_assert_eq!(Some(applied), local.map(|local| local.applied_lsn));
                prop_assert!(applied > log.trim_point);
            }
            StartStep::ReadFrom { from } => {
                prop_assert_eq!(lineage, Some(Lineage::Same));
                prop_assert_eq!(local.map(|local| local.applied_lsn), Some(log.trim_point));
                prop_assert_eq!(from, log.trim_point.next());
                prop_assert!(local.is_some_and(|local| !local.regressed));
            }
            StartStep::Restore { .. } => {
                // At the trim point, too, where the log had contradicted the state: nothing is left to compare.
                let gap = |local: LocalFacts| match local.regressed {
                    true => local.applied_lsn <= log.trim_point,
                    false => local.applied_lsn < log.trim_point,
                };
                prop_assert!(local.is_none_or(gap));
                prop_assert!(lineage.is_none_or(|lineage| lineage == Lineage::Same));
            }
            StartStep::SetAside { incarnation } => {
                prop_assert_eq!(lineage, Some(Lineage::Newer));
                prop_assert_eq!(Some(incarnation), local.map(|local| local.incarnation));
            }
            StartStep::Blocked { .. } => {
                prop_assert!(matches!(lineage, Some(Lineage::Older | Lineage::Conflict)));
            }
        }
    }

    #[test]
    fn only_a_log_that_lacks_nothing_is_replayed(log in logs()) {
        let whole = !log.has_base && log.first_lsn == Lsn::FIRST && log.trim_point == Lsn::ZERO;
        prop_assert_eq!(may_replay_from_first(&log).is_ok(), whole);
    }

    /// What is restored covers the gap, is of the log's own incarnation and adds something; nothing else is left out; and
    /// nothing of a foreign pointer or certificate is taken. No snapshot is tried for both.
    #[test]
    fn exactly_what_helps_is_a_candidate(
        pointer in prop::option::of(pointers()),
        certificate in prop::option::of(certificates()),
        incarnation in incarnations(),
        trim_point in lsns(),
        applied_lsn in prop::option::of(lsns()),
        damaged in prop::collection::btree_set(1u64..6, 0..3),
    ) {
        let damaged: BTreeSet<SnapshotId> = damaged.into_iter().map(snapshot_id).collect();
        let need = RestoreNeed {
            fingerprint: OURS,
            partition: P,
            incarnation,
            trim_point,
            applied_lsn,
            damaged: &damaged,
        };
        let ours = |cluster: &ClusterIdentity, partition| cluster.fingerprint == OURS && partition == P;
        let conflict = |found: Incarnation| found.compared_to(&incarnation) == Lineage::Conflict;
        let retained: Vec<PointerEntry> = pointer.iter().flat_map(|pointer| pointer.snapshots.clone()).collect();
        let unretained: Vec<(Incarnation, SnapshotId, Lsn)> = certificate
            .iter()
            .flat_map(|certificate| {
                let named = certificate.snapshots.iter();
                named.map(|named| (certificate.incarnation, named.snapshot_id, named.lsn))
            })
            .filter(|(_, id, _)| !retained.iter().any(|entry| entry.snapshot_id == *id))
            .collect();
        let usable = pointer.as_ref().is_none_or(|pointer| ours(&pointer.cluster, pointer.partition))
            && certificate.as_ref().is_none_or(|found| ours(&found.cluster, found.partition))
            && !retained.iter().any(|entry| conflict(entry.incarnation))
            && !unretained.iter().any(|(found, ..)| conflict(*found));
        let Ok(found) = restore_candidates(pointer.as_ref(), certificate.as_ref(), &need) else {
            prop_assert!(!usable);
            return Ok(());
        };
        prop_assert!(usable);
        let helps = |found: Incarnation, lsn: Lsn| {
            found == incarnation && lsn >= trim_point && applied_lsn.is_none_or(|applied| lsn > applied)
        };
        let expected: BTreeSet<SnapshotId> = retained
            .iter()
            .filter(|entry| helps(entry.incarnation, entry.lsn))
            .map(|entry| entry.snapshot_id)
            .collect();
        let chosen: BTreeSet<SnapshotId> = found.entries.iter().map(|entry| entry.snapshot_id).collect();
        prop_assert_eq!(&chosen, &expected);
        let expected: BTreeSet<SnapshotId> =
            unretained.iter().filter(|(found, _, lsn)| helps(*found, *lsn)).map(|(_, id, _)| *id).collect();
        let chosen: BTreeSet<SnapshotId> = found.certified.iter().map(|named| named.snapshot_id).collect();
        prop_assert_eq!(&chosen, &expected);
        prop_assert_eq!(
            found.entries.len() + found.certified.len() + found.passed_over.len(),
            retained.len() + unretained.len()
        );
        let rank = |id, lsn| (damaged.contains(&id), std::cmp::Reverse(lsn));
        let ranks = [
            found.entries.iter().map(|entry| rank(entry.snapshot_id, entry.lsn)).collect::<Vec<_>>(),
            found.certified.iter().map(|named| rank(named.snapshot_id, named.lsn)).collect(),
        ];
        prop_assert!(ranks.iter().all(|ranks| ranks.is_sorted()), "the damaged last, the newest first");
    }

    #[test]
    fn every_record_survives_encoding(record in records()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(record) = Record::decode(&Bytes::from(bytes)) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }
}
