//! Which published snapshots a replica may restore, in the order in which it tries them.

use snapshot_store::{
    Fingerprint, Incarnation, Lineage, Lsn, PartitionId, SnapshotId,
    format::{Keys, Pointer, PointerEntry},
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
    /// Snapshots that do not help, and why.
    pub passed_over: Vec<(SnapshotId, Lsn, PassReason)>,
}

/// The pointer is not one this replica may restore from. It is never overwritten because of that.
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
    let key = || Keys::pointer(partition);
    if pointer.cluster.fingerprint != fingerprint {
        return Err(PointerRefusal::ForeignCluster {
            key: key(),
            name: pointer.cluster.name.clone(),
            found: pointer.cluster.fingerprint,
            expected: fingerprint,
        });
    }
    if pointer.partition != partition {
        return Err(PointerRefusal::ForeignPartition {
            key: key(),
            found: pointer.partition,
        });
    }
    Ok(())
}

/// Chooses, from metadata alone, the snapshots that bring the replica over the trim gap.
///
/// # Errors
/// When the pointer must not be used at all.
pub fn restore_candidates(
    pointer: &Pointer,
    need: &RestoreNeed<'_>,
) -> Result<RestoreCandidates, PointerRefusal> {
    check_owner(pointer, need.fingerprint, need.partition)?;
    let mut candidates = RestoreCandidates::default();
    for entry in &pointer.snapshots {
        match pass_over(entry, need)? {
            Some(reason) => candidates
                .passed_over
                .push((entry.snapshot_id, entry.lsn, reason)),
            None => candidates.entries.push(entry.clone()),
        }
    }
    candidates.entries.sort_by_key(|entry| {
        (
            need.damaged.contains(&entry.snapshot_id),
            std::cmp::Reverse(entry.lsn),
        )
    });
    Ok(candidates)
}

fn pass_over(entry: &PointerEntry, need: &RestoreNeed<'_>) -> Result<Option<PassReason>, PointerRefusal> {
    match entry.incarnation.compared_to(&need.incarnation) {
        Lineage::Same => {}
        Lineage::Older | Lineage::Newer => return Ok(Some(PassReason::OtherIncarnation)),
        Lineage::Conflict => {
            return Err(PointerRefusal::Conflict {
                key: Keys::pointer(need.partition),
                found: entry.incarnation,
                expected: need.incarnation,
            });
        }
    }
    if entry.lsn < need.trim_point {
        return Ok(Some(PassReason::BelowTrimPoint));
    }
    if need.applied_lsn.is_some_and(|applied| entry.lsn <= applied) {
        return Ok(Some(PassReason::NothingNew));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{
        ClusterIdentity, ContentHash, Entropy, IncarnationId, NodeId, ReplicaRole, Timestamp, WriteId,
        format::{SnapshotDirectory, Unknown},
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
        let candidates = restore_candidates(&pointer(OURS, entries), &need)?;
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
