//! Whether a pointer may be replaced by one that names a new snapshot.

use crate::{
    format::{Certificate, Pointer},
    vocabulary::{ClusterIdentity, Fingerprint, Incarnation, Lineage, Lsn, PartitionId, SnapshotId},
};

/// The snapshot that wants to become the latest.
#[derive(Clone, Copy, Debug)]
pub struct PointerCandidate<'a> {
    /// The cluster it belongs to.
    pub cluster: &'a ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The log it covers.
    pub incarnation: Incarnation,
    /// Up to where.
    pub lsn: Lsn,
    /// The attempt.
    pub snapshot_id: SnapshotId,
}

/// What a pointer must not fall below even when there is none to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub struct PointerFloor<'a> {
    /// The certificate in the store, if any.
    pub certificate: Option<&'a Certificate>,
    /// The log's incarnation and trim point, where known.
    pub trimmed: Option<(Incarnation, Lsn)>,
}

/// Why a pointer stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceRefusal {
    /// The object in the store belongs to another cluster or partition.
    #[error("it belongs to cluster {found}, not to {expected}: give this cluster its own store URL")]
    Foreign {
        /// Fingerprint found.
        found: Fingerprint,
        /// Our own.
        expected: Fingerprint,
    },
    /// The object in the store speaks of a newer life of the log: this writer is a leftover of the old one.
    #[error("it is of a newer incarnation ({found})")]
    NewerIncarnation {
        /// Incarnation found.
        found: Incarnation,
    },
    /// Same generation, other id.
    #[error("it is of incarnation {found}, which conflicts with {ours}")]
    Conflict {
        /// Incarnation found.
        found: Incarnation,
        /// Our own.
        ours: Incarnation,
    },
    /// It already names this snapshot.
    #[error("it already names this snapshot")]
    AlreadyPublished,
    /// It already covers as much or more.
    #[error("it already covers up to {current}")]
    Superseded {
        /// The latest LSN it names.
        current: Lsn,
    },
    /// The log was trimmed above the candidate: it could not be continued from the log.
    #[error("the log was trimmed up to {floor}: a snapshot at {floor} or above is needed")]
    BelowFloor {
        /// The lowest LSN that would do.
        floor: Lsn,
    },
}

/// Decides whether the pointer `current` (as it was in the very read that gave the ETag; `None` when there is no
/// object) may be replaced by one whose latest snapshot is `candidate`.
///
/// A pointer never goes back: `(generation, LSN)` must grow strictly.
///
/// # Errors
/// The reason why not.
pub fn may_replace_pointer(
    current: Option<&Pointer>,
    candidate: &PointerCandidate<'_>,
    floor: &PointerFloor<'_>,
) -> Result<(), ReplaceRefusal> {
    if let Some(current) = current {
        check_owner(candidate, &current.cluster, current.partition)?;
        if current.has_published(candidate.snapshot_id) {
            return Err(ReplaceRefusal::AlreadyPublished);
        }
        for entry in &current.snapshots {
            check_lineage(candidate, entry.incarnation)?;
            if entry.incarnation == candidate.incarnation && entry.lsn >= candidate.lsn {
                return Err(ReplaceRefusal::Superseded { current: entry.lsn });
            }
        }
    }
    if let Some(certificate) = floor.certificate {
        check_owner(candidate, &certificate.cluster, certificate.partition)?;
        check_above(candidate, certificate.incarnation, certificate.up_to)?;
    }
    if let Some((incarnation, trim_point)) = floor.trimmed {
        check_above(candidate, incarnation, trim_point)?;
    }
    Ok(())
}

fn check_owner(
    candidate: &PointerCandidate<'_>,
    found: &ClusterIdentity,
    partition: PartitionId,
) -> Result<(), ReplaceRefusal> {
    if found.fingerprint != candidate.cluster.fingerprint || partition != candidate.partition {
        return Err(ReplaceRefusal::Foreign {
            found: found.fingerprint,
            expected: candidate.cluster.fingerprint,
        });
    }
    Ok(())
}

fn check_lineage(candidate: &PointerCandidate<'_>, found: Incarnation) -> Result<(), ReplaceRefusal> {
    match found.compared_to(&candidate.incarnation) {
        Lineage::Same | Lineage::Older => Ok(()),
        Lineage::Newer => Err(ReplaceRefusal::NewerIncarnation { found }),
        Lineage::Conflict => Err(ReplaceRefusal::Conflict {
            found,
            ours: candidate.incarnation,
        }),
    }
}

fn check_above(
    candidate: &PointerCandidate<'_>,
    incarnation: Incarnation,
    floor: Lsn,
) -> Result<(), ReplaceRefusal> {
    check_lineage(candidate, incarnation)?;
    if incarnation == candidate.incarnation && candidate.lsn < floor {
        return Err(ReplaceRefusal::BelowFloor { floor });
    }
    Ok(())
}
