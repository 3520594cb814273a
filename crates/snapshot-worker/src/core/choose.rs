//! Which published snapshots a replica may restore, in the order in which it tries them.
//!
//! First those that the pointer retains, then those that only the certificate in force names: a swap that was decided
//! before the certificate was written may have evicted one of them, and no other may be left that covers the trim gap.

use snapshot_store::{
    ClusterIdentity, Fingerprint, Incarnation, Lineage, Lsn, PartitionId, SnapshotId,
    format::{Certificate, CertifiedSnapshot, Keys, Pointer, PointerEntry},
};
use std::collections::BTreeSet;

/// What a replica needs of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct RestoreNeed<'a> {
    /// The cluster it belongs to.
    pub fingerprint: Fingerprint,
    /// The partition.
    pub partition: PartitionId,
    /// The log it goes on with afterwards.
    pub incarnation: Incarnation,
    /// Highest LSN the log no longer has: the snapshot must hold at least that.
    pub trim_point: Lsn,
    /// What it has applied already; `None` without local state. A snapshot that adds nothing is no use.
    pub applied_lsn: Option<Lsn>,
    /// Snapshots this node found damaged before.
    pub damaged: &'a BTreeSet<SnapshotId>,
}

/// Why a published snapshot is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassReason {
    /// It was made from an older or newer life of the log.
    OtherIncarnation,
    /// It ends below the trim point: the log has a gap after it.
    BelowTrimPoint,
    /// The replica has applied as much already.
    NothingNew,
}

impl PassReason {
    /// Returns the words used in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            PassReason::OtherIncarnation => "of another incarnation of the log",
            PassReason::BelowTrimPoint => "below the trim point",
            PassReason::NothingNew => "not above what is applied",
        }
    }
}

/// What can be restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreCandidates {
    /// Snapshots to try, in this order: the newest first; those found damaged before come last, because they may
    /// have been repaired meanwhile and are checked in full again anyway.
    pub entries: Vec<PointerEntry>,
    /// Snapshots that the certificate names and the pointer does not, to try when none of `entries` helps, in the same
    /// order.
    pub certified: Vec<CertifiedSnapshot>,
    /// Snapshots that do not help, and why.
    pub passed_over: Vec<(SnapshotId, Lsn, PassReason)>,
}

/// Pointer or certificate are not ones this replica may rely on. They are never overwritten because of that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerRefusal {
    /// It belongs to another cluster.
    #[error(
        "{key} belongs to cluster {name} ({found}), not to this one ({expected}): give this cluster its own store URL"
    )]
    ForeignCluster {
        /// The object.
        key: String,
        /// Name of the cluster found.
        name: String,
        /// Fingerprint found.
        found: Fingerprint,
        /// Our own.
        expected: Fingerprint,
    },
    /// It belongs to another partition.
    #[error("{key} speaks of partition {found}: somebody copied it here; restore the right object")]
    ForeignPartition {
        /// The object.
        key: String,
        /// Partition found.
        found: PartitionId,
    },
    /// It names a snapshot of the log's generation with another id: two logs claim the same place.
    #[error(
        "{key} names a snapshot of incarnation {found}, which conflicts with the log's {expected}: check the log's address and data folder"
    )]
    Conflict {
        /// The object.
        key: String,
        /// Incarnation found.
        found: Incarnation,
        /// The log's.
        expected: Incarnation,
    },
}

/// Checks that `pointer` belongs to this cluster and partition.
///
/// # Errors
/// Who it belongs to instead.
pub fn check_owner(
    pointer: &Pointer,
    fingerprint: Fingerprint,
    partition: PartitionId,
) -> Result<(), PointerRefusal> {
    let found = (&pointer.cluster, pointer.partition);
    check_owned(|| Keys::pointer(partition), found, fingerprint, partition)
}

fn check_owned(
    key: impl Fn() -> String,
    found: (&ClusterIdentity, PartitionId),
    fingerprint: Fingerprint,
    partition: PartitionId,
) -> Result<(), PointerRefusal> {
    let (cluster, found) = found;
    if cluster.fingerprint != fingerprint {
        return Err(PointerRefusal::ForeignCluster {
            key: key(),
            name: cluster.name.clone(),
            found: cluster.fingerprint,
            expected: fingerprint,
        });
    }
    if found != partition {
        return Err(PointerRefusal::ForeignPartition { key: key(), found });
    }
    Ok(())
}

/// Chooses, from metadata alone, the snapshots that bring the replica over the trim gap. `None` is an object that is not
/// there, or was not asked for: the certificate matters only where nothing that the pointer retains helps.
///
/// # Errors
/// When one of the two must not be used at all.
pub fn restore_candidates(
    pointer: Option<&Pointer>,
    certificate: Option<&Certificate>,
    need: &RestoreNeed<'_>,
) -> Result<RestoreCandidates, PointerRefusal> {
    let mut candidates = RestoreCandidates::default();
    if let Some(pointer) = pointer {
        check_owner(pointer, need.fingerprint, need.partition)?;
        for entry in &pointer.snapshots {
            let (id, lsn) = (entry.snapshot_id, entry.lsn);
            match pass_over(Keys::pointer, entry.incarnation, lsn, need)? {
                Some(reason) => candidates.passed_over.push((id, lsn, reason)),
                None => candidates.entries.push(entry.clone()),
            }
        }
    }
    if let Some(certificate) = certificate {
        let found = (&certificate.cluster, certificate.partition);
        let key = || Keys::certificate(need.partition);
        check_owned(key, found, need.fingerprint, need.partition)?;
        for snapshot in certificate.unretained(pointer) {
            let (id, lsn) = (snapshot.snapshot_id, snapshot.lsn);
            match pass_over(Keys::certificate, certificate.incarnation, lsn, need)? {
                Some(reason) => candidates.passed_over.push((id, lsn, reason)),
                None => candidates.certified.push(snapshot.clone()),
            }
        }
    }
    let rank = |id, lsn| (need.damaged.contains(&id), std::cmp::Reverse(lsn));
    candidates
        .entries
        .sort_by_key(|entry| rank(entry.snapshot_id, entry.lsn));
    candidates
        .certified
        .sort_by_key(|snapshot| rank(snapshot.snapshot_id, snapshot.lsn));
    Ok(candidates)
}

/// Says why a snapshot that the object at `key` names does not help; `None` when it does.
fn pass_over(
    key: impl Fn(PartitionId) -> String,
    incarnation: Incarnation,
    lsn: Lsn,
    need: &RestoreNeed<'_>,
) -> Result<Option<PassReason>, PointerRefusal> {
    match incarnation.compared_to(&need.incarnation) {
        Lineage::Same => {}
        Lineage::Older | Lineage::Newer => return Ok(Some(PassReason::OtherIncarnation)),
        Lineage::Conflict => {
            return Err(PointerRefusal::Conflict {
                key: key(need.partition),
                found: incarnation,
                expected: need.incarnation,
            });
        }
    }
    if lsn < need.trim_point {
        return Ok(Some(PassReason::BelowTrimPoint));
    }
    if need.applied_lsn.is_some_and(|applied| lsn <= applied) {
        return Ok(Some(PassReason::NothingNew));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{
        ContentHash, Entropy, IncarnationId, NodeId, ReplicaRole, Timestamp, WriteId,
        format::{SnapshotDirectory, Unknown, VerifyLevel},
    };

    const OURS: Fingerprint = Fingerprint::from_bytes([1; 16]);
    const P: PartitionId = PartitionId::new(3);

    fn incarnation(generation: u64, id: u8) -> Incarnation {
        Incarnation {
            generation,
            id: IncarnationId::from_bytes([id; 16]),
        }
    }

    fn id(number: u64) -> SnapshotId {
        SnapshotId::new(Entropy::seeded(number).ulid(Timestamp::from_millis(number)))
    }

    fn entry(incarnation: Incarnation, lsn: u64) -> PointerEntry {
        let lsn = Lsn::new(lsn);
        PointerEntry {
            snapshot_id: id(lsn.get()),
            incarnation,
            lsn,
            path: SnapshotDirectory {
                generation: incarnation.generation,
                lsn,
                snapshot_id: id(lsn.get()),
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

    fn pointer(fingerprint: Fingerprint, snapshots: Vec<PointerEntry>) -> Pointer {
        Pointer {
            cluster: ClusterIdentity {
                name: "c".to_owned(),
                fingerprint,
            },
            partition: P,
            write_id: WriteId::new(Entropy::seeded(0).ulid(Timestamp::default())),
            restorable_snapshots_min: 2,
            snapshots,
            history: vec![],
            unknown: Unknown::default(),
        }
    }

    fn certificate(fingerprint: Fingerprint, incarnation: Incarnation, lsns: &[u64]) -> Certificate {
        let snapshot = |lsn: &u64| {
            let entry = entry(incarnation, *lsn);
            CertifiedSnapshot {
                snapshot_id: entry.snapshot_id,
                lsn: entry.lsn,
                path: entry.path,
                manifest_hash: entry.manifest_hash,
                verified: VerifyLevel::Content,
                verified_by: entry.node,
                verified_at: Timestamp::default(),
                unknown: Unknown::default(),
            }
        };
        let pointer = pointer(fingerprint, vec![]);
        Certificate {
            cluster: pointer.cluster,
            partition: P,
            incarnation,
            write_id: pointer.write_id,
            up_to: Lsn::ZERO,
            snapshots: lsns.iter().map(snapshot).collect(),
            issued_by: NodeId::new("admin").unwrap(),
            issued_at: Timestamp::default(),
            unknown: Unknown::default(),
        }
    }

    /// Runs the choice against a log of incarnation 2 that is trimmed to 20, where the replica knows the snapshot at 40 as
    /// damaged, and returns what only the certificate has, in the order of trying.
    fn beyond_the_pointer(
        retained: Option<&[u64]>,
        certificate: &Certificate,
    ) -> Result<Vec<u64>, PointerRefusal> {
        let ours = incarnation(2, 2);
        let need = RestoreNeed {
            fingerprint: OURS,
            partition: P,
            incarnation: ours,
            trim_point: Lsn::new(20),
            applied_lsn: Some(Lsn::new(21)),
            damaged: &BTreeSet::from([id(40)]),
        };
        let pointer = retained.map(|retained| {
            let entries = retained.iter().map(|lsn| entry(ours, *lsn));
            pointer(OURS, entries.collect())
        });
        let found = restore_candidates(pointer.as_ref(), Some(certificate), &need)?;
        let of_pointer = found.entries.iter().map(|entry| entry.snapshot_id);
        assert!(of_pointer.eq(retained.into_iter().flatten().map(|lsn| id(*lsn))));
        Ok(found.certified.iter().map(|found| found.lsn.get()).collect())
    }

    #[test]
    fn what_only_the_certificate_names_is_tried_as_well() {
        let ours = incarnation(2, 2);
        let two = certificate(OURS, ours, &[40, 30]);
        assert_eq!(beyond_the_pointer(Some(&[60, 50]), &two), Ok(vec![30, 40]));
        assert_eq!(beyond_the_pointer(Some(&[50, 30]), &two), Ok(vec![40]));
        let both = [30, 40];
        assert_eq!(beyond_the_pointer(Some(&both), &two), Ok(vec![]), "nothing twice");
        assert_eq!(
            beyond_the_pointer(None, &two),
            Ok(vec![30, 40]),
            "also when the pointer was deleted"
        );
        let old = certificate(OURS, ours, &[21, 19]);
        assert_eq!(beyond_the_pointer(Some(&[50]), &old), Ok(vec![]));
    }

    #[test]
    fn a_certificate_of_another_log_or_cluster_gives_nothing() {
        let older = certificate(OURS, incarnation(1, 1), &[30]);
        assert_eq!(beyond_the_pointer(Some(&[50]), &older), Ok(vec![]));
        let rival = certificate(OURS, incarnation(2, 9), &[30]);
        let foreign = certificate(Fingerprint::from_bytes([9; 16]), incarnation(2, 2), &[30]);
        let mut misplaced = certificate(OURS, incarnation(2, 2), &[30]);
        misplaced.partition = PartitionId::new(4);
        for refused in [rival, foreign, misplaced] {
            let error = beyond_the_pointer(Some(&[50]), &refused).unwrap_err();
            assert!(error.to_string().contains("3/trim.json"), "{error}");
        }
    }

    /// Runs the choice against a log trimmed up to `trim_point` and returns the LSNs in the order of trying.
    fn check(
        snapshots: &[(Incarnation, u64)],
        trim_point: u64,
        applied: Option<u64>,
        damaged: &[u64],
    ) -> Result<Vec<u64>, PointerRefusal> {
        let damaged: BTreeSet<_> = damaged.iter().map(|lsn| id(*lsn)).collect();
        let need = RestoreNeed {
            fingerprint: OURS,
            partition: P,
            incarnation: incarnation(2, 2),
            trim_point: Lsn::new(trim_point),
            applied_lsn: applied.map(Lsn::new),
            damaged: &damaged,
        };
        let entries = snapshots
            .iter()
            .map(|(incarnation, lsn)| entry(*incarnation, *lsn))
            .collect();
        let candidates = restore_candidates(Some(&pointer(OURS, entries)), None, &need)?;
        assert_eq!(candidates.certified, []);
        Ok(candidates.entries.iter().map(|entry| entry.lsn.get()).collect())
    }

    #[test]
    fn the_newest_covering_snapshot_comes_first() {
        let ours = incarnation(2, 2);
        let three = [(ours, 30), (ours, 20), (ours, 10)];
        assert_eq!(check(&three, 0, None, &[]), Ok(vec![30, 20, 10]));
        assert_eq!(
            check(&three, 20, None, &[]),
            Ok(vec![30, 20]),
            "at the trim point is enough"
        );
        assert_eq!(check(&three, 21, None, &[]), Ok(vec![30]));
        assert_eq!(check(&three, 31, None, &[]), Ok(vec![]), "a gap would be left");
        assert_eq!(
            check(&three, 10, Some(20), &[]),
            Ok(vec![30]),
            "it must add something"
        );
    }

    #[test]
    fn damaged_snapshots_are_tried_last() {
        let ours = incarnation(2, 2);
        let three = [(ours, 30), (ours, 20), (ours, 10)];
        assert_eq!(check(&three, 0, None, &[30]), Ok(vec![20, 10, 30]));
        assert_eq!(check(&three, 0, None, &[30, 20, 10]), Ok(vec![30, 20, 10]));
    }

    #[test]
    fn snapshots_of_other_incarnations_are_passed_over() {
        let ours = incarnation(2, 2);
        assert_eq!(
            check(&[(incarnation(3, 3), 50), (ours, 30)], 0, None, &[]),
            Ok(vec![30])
        );
        assert_eq!(
            check(&[(ours, 30), (incarnation(1, 1), 90)], 0, None, &[]),
            Ok(vec![30])
        );
        let conflict = check(&[(incarnation(2, 9), 50), (ours, 30)], 0, None, &[]);
        assert!(
            matches!(conflict, Err(PointerRefusal::Conflict { .. })),
            "{conflict:?}"
        );
    }

    #[test]
    fn a_foreign_pointer_is_refused_by_name() {
        let foreign = Fingerprint::from_bytes([9; 16]);
        let error = check_owner(&pointer(foreign, vec![]), OURS, P).unwrap_err();
        assert!(error.to_string().contains("3/latest.json"), "{error}");
        assert!(error.to_string().contains(&foreign.to_string()), "{error}");
        let error = check_owner(&pointer(OURS, vec![]), OURS, PartitionId::new(4)).unwrap_err();
        assert!(
            matches!(error, PointerRefusal::ForeignPartition { .. }),
            "{error}"
        );
    }
}
