//! How far a log may be trimmed: the rule that protects the only copy of every record.
//!
//! ```text
//! guard  = lowest LSN among the `restorable_snapshots_min` newest snapshots of the log's incarnation, all verified
//! needed = lowest needed LSN of the live replicas that are not too far behind
//! up_to  = min(guard, needed, tail - 1 - retain_records)
//! ```
//!
//! Every bound is a line of [`trim_up_to`], and the answer says which one was binding.

use super::HoldReason;
use crate::{
    format::{Certificate, Keys, Pointer, PointerEntry, VerifyLevel},
    vocabulary::{ClusterIdentity, Incarnation, Lineage, Lsn, NodeId, PartitionId, SnapshotId, Timestamp},
};
use std::{collections::BTreeMap, time::Duration};

/// What the log says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// Which life of the log.
    pub incarnation: Incarnation,
    /// Highest LSN removed, inclusive.
    pub trim_point: Lsn,
    /// First unwritten LSN, exclusive.
    pub tail: Lsn,
}

/// What one live replica still needs of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaNeed {
    /// The node.
    pub node: NodeId,
    /// Highest LSN it no longer needs, inclusive; `None` when it needs nothing that is left (it is choosing a
    /// snapshot, or is blocked below the trim point).
    pub needed_lsn: Option<Lsn>,
    /// Bytes of all log records up to `needed_lsn`; `None` when unknown.
    pub log_bytes: Option<u64>,
}

/// What is known of one snapshot's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotTrust {
    /// Present now, and checked at least once at this level.
    Verified(VerifyLevel),
    /// A check found it incomplete or changed.
    Damaged,
}

/// The policy behind the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRule {
    /// How many of the newest snapshots must be restorable; at least 1.
    pub restorable_snapshots_min: u32,
    /// How thoroughly they must have been checked.
    pub verify_before_trim: VerifyLevel,
    /// How many of the newest records stay in the log in any case.
    pub retain_records: u64,
    /// A replica further below the guard than this no longer holds the trim.
    pub held_records_max: u64,
    /// The same in bytes of log records.
    pub held_bytes_max: u64,
    /// Snapshots younger than this do not count for the guard.
    pub trim_delay: Duration,
    /// An operator's `--force`: skips replica protection and `retain_records`, never the guard.
    pub force: bool,
}

/// Everything the rule looks at, read afresh right before the decision.
#[derive(Clone, Debug)]
pub struct TrimFacts<'a> {
    /// The cluster that decides.
    pub cluster: &'a ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// Its log; `None` when the log did not answer.
    pub log: Option<LogFacts>,
    /// Its pointer; `None` when the store has none.
    pub pointer: Option<&'a Pointer>,
    /// Its certificate in force; `None` when the store has none.
    pub certificate: Option<&'a Certificate>,
    /// What is known of its snapshots.
    pub trust: &'a BTreeMap<SnapshotId, SnapshotTrust>,
    /// Its live replicas (live and suspect, not gone).
    pub replicas: &'a [ReplicaNeed],
    /// The present moment; used for `trim_delay` alone, which only ever makes the answer smaller.
    pub now: Timestamp,
}

/// Which line of the rule was binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrimBound {
    /// The guard: the oldest restorable snapshot.
    Guard,
    /// The guard as it stood `trim_delay` ago.
    DelayedGuard,
    /// A live replica still needs what comes after.
    Replica(NodeId),
    /// `retain_records`.
    RetainRecords,
}

/// Permission to trim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimGrant {
    /// The life of the log the permission is for.
    pub incarnation: Incarnation,
    /// Highest LSN that may go, inclusive.
    pub up_to: Lsn,
    /// The guard LSN it stays within.
    pub guard_lsn: Lsn,
    /// What kept it from being higher.
    pub bound: TrimBound,
    /// The snapshots it rests on, newest first.
    pub snapshots: Vec<PointerEntry>,
    /// Replicas that will have to restore, because they are too far behind to be waited for.
    pub left_behind: Vec<NodeId>,
    /// Whether the certificate in force already covers `up_to`, so that none needs to be written.
    pub certified: bool,
}

/// The answer of [`trim_up_to`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrimDecision {
    /// The log may be trimmed this far.
    Trim(TrimGrant),
    /// The log is left alone.
    Hold {
        /// Why.
        reason: HoldReason,
        /// The guard LSN, where one could be determined.
        guard_lsn: Option<Lsn>,
        /// What was seen, for people.
        detail: String,
    },
}

/// Decides how far the log of one partition may be trimmed.
///
/// Not knowing something means: hold. Only facts that were read for this decision count; the caller reads them
/// again for the next one.
pub fn trim_up_to(facts: &TrimFacts<'_>, rule: &TrimRule) -> TrimDecision {
    let hold = |reason, guard_lsn, detail: String| TrimDecision::Hold {
        reason,
        guard_lsn,
        detail,
    };

    let Some(log) = facts.log else {
        return hold(
            HoldReason::LogUnavailable,
            None,
            "the log did not answer".to_owned(),
        );
    };
    if let Some(certificate) = facts.certificate
        && let Err((reason, detail)) = check_certificate(facts, &log, certificate)
    {
        return hold(reason, None, detail);
    }
    let Some(pointer) = facts.pointer else {
        if facts.certificate.is_some() || log.trim_point > Lsn::ZERO {
            return hold(
                HoldReason::PointerMissing,
                None,
                format!("the log is trimmed to {}", log.trim_point),
            );
        }
        return hold(
            HoldReason::TooFewSnapshots,
            None,
            "there is no snapshot yet".to_owned(),
        );
    };
    if let Err((reason, detail)) = check_pointer(facts, &log, pointer) {
        return hold(reason, None, detail);
    }

    // The guard. A damaged snapshot is not skipped: it means that an older guard may be all there is.
    let wanted = rule.restorable_snapshots_min.max(1);
    let restorable: Vec<PointerEntry> = pointer.restorable(&log.incarnation, wanted).cloned().collect();
    if (restorable.len() as u64) < u64::from(wanted) {
        let detail = format!("{} of {wanted} restorable snapshots", restorable.len());
        return hold(HoldReason::TooFewSnapshots, None, detail);
    }
    for entry in &restorable {
        match facts.trust.get(&entry.snapshot_id) {
            Some(SnapshotTrust::Verified(level)) if *level >= rule.verify_before_trim => {}
            Some(SnapshotTrust::Damaged) => {
                let detail = format!("snapshot {} at {} is damaged", entry.snapshot_id, entry.lsn);
                return hold(HoldReason::DamagedSnapshot, None, detail);
            }
            Some(SnapshotTrust::Verified(_)) | None => {
                let detail = format!(
                    "snapshot {} at {} is not verified yet",
                    entry.snapshot_id, entry.lsn
                );
                return hold(HoldReason::UnverifiedSnapshot, None, detail);
            }
        }
    }
    let Some(guard) = restorable.iter().map(|entry| entry.lsn).min() else {
        return hold(
            HoldReason::TooFewSnapshots,
            None,
            "there is no restorable snapshot".to_owned(),
        );
    };

    let mut up_to = guard;
    let mut bound = TrimBound::Guard;
    let mut lower = |candidate: Lsn, why: TrimBound| {
        if candidate < up_to {
            up_to = candidate;
            bound = why;
        }
    };

    if rule.trim_delay > Duration::ZERO {
        match delayed_guard(pointer, &log.incarnation, wanted, facts.now, rule.trim_delay) {
            Some(delayed) => lower(delayed, TrimBound::DelayedGuard),
            None => {
                return hold(
                    HoldReason::Delay,
                    Some(guard),
                    "the snapshots are too young".to_owned(),
                );
            }
        }
    }

    let mut left_behind = Vec::new();
    if !rule.force {
        if facts.replicas.is_empty() {
            return hold(
                HoldReason::NoLiveReplica,
                Some(guard),
                "no replica is live".to_owned(),
            );
        }
        let guard_bytes = restorable.iter().map(|entry| entry.log_bytes).min();
        for replica in facts.replicas {
            let Some(needed) = replica.needed_lsn else {
                continue;
            };
            if too_far_behind(replica, needed, guard, guard_bytes, rule) {
                left_behind.push(replica.node.clone());
            } else {
                lower(needed, TrimBound::Replica(replica.node.clone()));
            }
        }
        lower(
            log.tail.prev().minus(rule.retain_records),
            TrimBound::RetainRecords,
        );
    }

    if up_to <= log.trim_point {
        let detail = format!("trimmed to {}, the rule allows {up_to}", log.trim_point);
        let reason = match bound {
            TrimBound::Replica(_) => HoldReason::ReplicaBehind,
            TrimBound::DelayedGuard => HoldReason::Delay,
            TrimBound::Guard | TrimBound::RetainRecords => HoldReason::NothingToTrim,
        };
        return hold(reason, Some(guard), detail);
    }
    assert!(
        up_to <= guard && up_to < log.tail,
        "a trim must stay within the guard and below the tail"
    );
    TrimDecision::Trim(TrimGrant {
        incarnation: log.incarnation,
        up_to,
        guard_lsn: guard,
        bound,
        snapshots: restorable,
        left_behind,
        certified: facts.certificate.is_some_and(|certificate| {
            certificate.incarnation == log.incarnation && certificate.up_to >= up_to
        }),
    })
}

/// Checks that the certificate speaks of this cluster, partition and log.
fn check_certificate(
    facts: &TrimFacts<'_>,
    log: &LogFacts,
    certificate: &Certificate,
) -> Result<(), (HoldReason, String)> {
    if certificate.cluster.fingerprint != facts.cluster.fingerprint
        || certificate.partition != facts.partition
    {
        let detail = format!(
            "{} belongs to {}",
            Keys::certificate(facts.partition),
            certificate.cluster
        );
        return Err((HoldReason::ForeignIdentity, detail));
    }
    match certificate.incarnation.compared_to(&log.incarnation) {
        Lineage::Same | Lineage::Older => Ok(()),
        Lineage::Newer | Lineage::Conflict => Err((
            HoldReason::IncarnationMismatch,
            format!(
                "trim.json is of incarnation {}, the log of {}",
                certificate.incarnation, log.incarnation
            ),
        )),
    }
}

/// Checks that the pointer speaks of this cluster, partition and log, and of nothing above the tail.
fn check_pointer(
    facts: &TrimFacts<'_>,
    log: &LogFacts,
    pointer: &Pointer,
) -> Result<(), (HoldReason, String)> {
    if pointer.cluster.fingerprint != facts.cluster.fingerprint || pointer.partition != facts.partition {
        return Err((
            HoldReason::ForeignIdentity,
            format!(
                "{} belongs to {}",
                Keys::pointer(facts.partition),
                pointer.cluster
            ),
        ));
    }
    for entry in &pointer.snapshots {
        match entry.incarnation.compared_to(&log.incarnation) {
            Lineage::Older => {}
            Lineage::Newer | Lineage::Conflict => {
                let detail = format!(
                    "a snapshot is of incarnation {}, the log of {}",
                    entry.incarnation, log.incarnation
                );
                return Err((HoldReason::IncarnationMismatch, detail));
            }
            Lineage::Same if entry.lsn >= log.tail => {
                let detail = format!("a snapshot is at {}, the tail at {}", entry.lsn, log.tail);
                return Err((HoldReason::LogRegressed, detail));
            }
            Lineage::Same => {}
        }
    }
    Ok(())
}

/// Returns the guard as it stood `delay` ago, from the publication times in the pointer's history.
fn delayed_guard(
    pointer: &Pointer,
    incarnation: &Incarnation,
    wanted: u32,
    now: Timestamp,
    delay: Duration,
) -> Option<Lsn> {
    let mut old_enough: Vec<Lsn> = pointer
        .history
        .iter()
        .filter(|published| {
            published.incarnation == *incarnation && now.since(published.published_at) >= delay
        })
        .map(|published| published.lsn)
        .collect();
    old_enough.sort_unstable_by(|a, b| b.cmp(a));
    old_enough.get(wanted as usize - 1).copied()
}

/// Returns whether `replica` is so far below the guard that it is cheaper to let it restore.
fn too_far_behind(
    replica: &ReplicaNeed,
    needed: Lsn,
    guard: Lsn,
    guard_bytes: Option<u64>,
    rule: &TrimRule,
) -> bool {
    let bytes_behind = match (guard_bytes, replica.log_bytes) {
        (Some(guard_bytes), Some(bytes)) => guard_bytes.saturating_sub(bytes),
        _ => 0,
    };
    guard.records_since(needed) > rule.held_records_max || bytes_behind > rule.held_bytes_max
}
