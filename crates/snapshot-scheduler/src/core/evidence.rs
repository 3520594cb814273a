//! Findings that must stop trimming while the evidence still exists.

use super::{
    looked::Looked,
    view::{ClusterView, Moment, PartitionView},
};
use snapshot_store::{
    ChainHash, Incarnation, Lsn,
    core::HoldReason,
    format::{ChainTrail, StateMachineVersion, StickyReason},
};
use std::collections::BTreeMap;

/// Compares the chain hashes of all live replicas and of the known manifests at equal LSNs; says which two differ.
///
/// No common LSN is no mismatch; a host or snapshot without chain hashes is not compared.
pub fn chain_mismatch(view: &ClusterView, partition: &PartitionView, now: Moment) -> Option<String> {
    let replicas = view
        .counted_replicas(partition, now)
        .filter_map(|(node, report, _)| {
            report
                .incarnation
                .map(|incarnation| (format!("replica {node}"), incarnation, &report.chain))
        });
    let manifests = partition.manifests.iter().filter_map(|(snapshot, facts)| {
        // A snapshot that was found damaged is dealt with as damage.
        let usable = !partition.is_damaged(*snapshot);
        let chain = facts.chain.as_ref().filter(|_| usable)?;
        Some((format!("snapshot {snapshot}"), facts.incarnation, chain))
    });
    let mut seen: BTreeMap<(u64, [u8; 16], Lsn), (ChainHash, String)> = BTreeMap::new();
    for (who, incarnation, chain) in replicas.chain(manifests) {
        for point in &chain.0 {
            let place = place(incarnation, point.lsn);
            let (hash, first) = seen.entry(place).or_insert_with(|| (point.hash, who.clone()));
            if *hash != point.hash {
                return Some(format!(
                    "{first} and {who} have different chain hashes at LSN {}",
                    point.lsn
                ));
            }
        }
    }
    None
}

/// Returns whether [`chain_mismatch`] would find something, at a cost that does not grow with the length of the trails.
///
/// A chain hash covers all records up to its LSN, so two chains that agree at an LSN agree at all below it: the newest
/// common one tells. Before a trim all of them are compared.
pub(super) fn chains_differ(looked: &Looked<'_>) -> bool {
    let replicas = looked
        .replicas
        .iter()
        .filter_map(|replica| Some((replica.report.incarnation?, &replica.report.chain)));
    let manifests = looked
        .partition
        .manifests
        .iter()
        .filter(|(snapshot, _)| !looked.partition.is_damaged(**snapshot))
        .filter_map(|(_, facts)| Some((facts.incarnation, facts.chain.as_ref()?)));
    let trails: Vec<(Incarnation, &ChainTrail)> = replicas.chain(manifests).collect();
    let pairs = trails
        .iter()
        .enumerate()
        .flat_map(|(at, one)| trails[..at].iter().map(move |other| (one, other)));
    pairs
        .filter(|((one, _), (other, _))| one == other)
        .any(|((_, one), (_, other))| differ_at_newest_common(one, other))
}

/// Walks down from the newest points of both; a trail is in the order of its LSNs.
fn differ_at_newest_common(one: &ChainTrail, other: &ChainTrail) -> bool {
    let apart = |one: &ChainTrail, other: &ChainTrail| match (one.0.first(), other.0.last()) {
        (Some(first), Some(last)) => first.lsn > last.lsn,
        _ => true,
    };
    if apart(one, other) || apart(other, one) {
        return false;
    }
    let (mut left, mut right) = (one.0.iter().rev().peekable(), other.0.iter().rev().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        match a.lsn.cmp(&b.lsn) {
            std::cmp::Ordering::Equal => return a.hash != b.hash,
            std::cmp::Ordering::Greater => left.next(),
            std::cmp::Ordering::Less => right.next(),
        };
    }
    false
}

fn place(incarnation: Incarnation, lsn: Lsn) -> (u64, [u8; 16], Lsn) {
    (incarnation.generation, *incarnation.id.as_bytes(), lsn)
}

/// Returns the highest LSN of the log's incarnation that a replica or a retained snapshot vouches for, and who.
///
/// Compared with a tail that is read afterwards, it shows whether the log lost records.
pub fn highest_claim(view: &ClusterView, partition: &PartitionView, now: Moment) -> Option<(Lsn, String)> {
    let incarnation = partition.log?.facts.incarnation;
    let replicas = view
        .counted_replicas(partition, now)
        .filter(|(_, report, _)| report.incarnation == Some(incarnation))
        .filter_map(|(node, report, _)| Some((report.applied_lsn?, format!("replica {node}"))));
    let snapshots = partition
        .entries()
        .map(|entry| (entry.lsn, format!("snapshot {}", entry.snapshot_id)));
    replicas.chain(snapshots).max_by_key(|(lsn, _)| *lsn)
}

/// Returns which live replica is blocked because the log lost the record that it applied last, and what it found there.
///
/// A log that has grown again since then looks whole to everybody else; this replica's state is all that tells.
pub fn reported_regression(view: &ClusterView, partition: &PartitionView, now: Moment) -> Option<String> {
    let incarnation = partition.log?.facts.incarnation;
    view.counted_replicas(partition, now)
        .filter(|(_, report, _)| report.incarnation == Some(incarnation))
        .find_map(|(node, report, _)| Some(format!("replica {node}: {}", report.log_regressed.as_ref()?)))
}

/// Returns the hold that keeps evidence: a sticky one, or one for as long as a replica vouches for what the log lost. Damage
/// is not among them: the trim protocol itself looks for the proof of its repair.
pub fn evidence_hold(looked: &Looked<'_>) -> Option<(HoldReason, String)> {
    let sticky = [
        (StickyReason::LogRegressed, HoldReason::LogRegressed),
        (StickyReason::ChainMismatch, HoldReason::ChainMismatch),
    ];
    let sticky = sticky
        .into_iter()
        .find_map(|(sticky, hold)| Some((hold, looked.partition.holds.get(&sticky)?.clone())));
    sticky.or_else(|| {
        let detail = reported_regression(looked.view, looked.partition, looked.now)?;
        Some((HoldReason::LogRegressed, detail))
    })
}

/// Returns why the view itself forbids a trim: the admin does not know enough yet, or any more.
pub fn view_hold(looked: &Looked<'_>) -> Option<(HoldReason, String)> {
    let (view, now) = (looked.view, looked.now);
    if looked.warming {
        let missing: Vec<_> = looked
            .partition
            .expected
            .iter()
            .filter(|node| view.may_still_answer(node, now))
            .map(ToString::to_string)
            .collect();
        return Some((
            HoldReason::ViewWarming,
            format!("not heard yet: {}", missing.join(", ")),
        ));
    }
    let oldest = looked
        .replicas
        .iter()
        .map(|replica| (replica.heard_at, replica.node))
        .min()
        .filter(|(heard_at, _)| now.since(*heard_at) > view.timing.view_age_max);
    if let Some((heard_at, node)) = oldest {
        let age = now.since(heard_at).as_millis();
        return Some((
            HoldReason::StaleView,
            format!("the last report of {node} is {age} ms old"),
        ));
    }
    None
}

/// Returns why a live replica could not open one of the snapshots that would be left: it would have fewer to come back from
/// than the policy demands.
pub fn version_hold(
    view: &ClusterView,
    partition: &PartitionView,
    now: Moment,
    wanted: usize,
) -> Option<String> {
    let versions: Vec<_> = partition
        .entries()
        .take(wanted)
        // A manifest that is not known is found missing by the look before the trim.
        .filter_map(|entry| Some((entry, &partition.manifests.get(&entry.snapshot_id)?.state_machine)))
        .collect();
    view.counted_replicas(partition, now)
        // A replica that has not opened its state yet does not say what it runs.
        .filter(|(_, report, _)| !report.state_machine.name.is_empty())
        .find_map(|(node, report, _)| {
            let runs = &report.state_machine;
            let unreadable = |snapshot: &StateMachineVersion| {
                snapshot.name != runs.name || snapshot.version > runs.version
            };
            let (entry, written) = versions.iter().find(|(_, written)| unreadable(written))?;
            Some(format!(
                "{node} runs {} version {}, which does not open snapshot {} of {} version {}",
                runs.name, runs.version, entry.snapshot_id, written.name, written.version
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::format::ChainPoint;

    #[test]
    fn two_chains_differ_when_their_newest_common_point_does() {
        let trail = |points: &[(u64, u8)]| {
            let point = |(lsn, byte): &(u64, u8)| ChainPoint {
                lsn: Lsn::new(*lsn),
                hash: ChainHash::from_bytes([*byte; 32]),
            };
            ChainTrail(points.iter().map(point).collect())
        };
        type Points<'a> = &'a [(u64, u8)];
        let cases: [(Points<'_>, Points<'_>, bool); 8] = [
            (&[], &[], false),
            (&[(10, 1)], &[], false),
            (&[(10, 1)], &[(10, 1)], false),
            (&[(10, 1)], &[(10, 2)], true),
            (&[(10, 1)], &[(20, 2)], false),
            (&[(10, 1), (20, 1)], &[(20, 2), (30, 2)], true),
            (&[(10, 1), (30, 1)], &[(20, 2)], false),
            (&[(10, 1), (20, 1), (30, 1)], &[(10, 2), (20, 1), (40, 2)], false),
        ];
        for (one, other, differ) in cases {
            let (one, other) = (trail(one), trail(other));
            assert_eq!(differ_at_newest_common(&one, &other), differ, "{one:?} {other:?}");
            assert_eq!(differ_at_newest_common(&other, &one), differ, "{other:?} {one:?}");
        }
    }
}
