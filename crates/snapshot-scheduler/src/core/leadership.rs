//! Who is asked to lead a partition that has no live leader. Optional: an embedding host may elect by itself.
//!
//! A leader counts as live until its node is gone, or until its own report, not older than the announcement, says
//! that it follows (it was restarted) or cannot go on. A late report therefore never takes leadership away.

use super::{
    evidence::reported_regression,
    looked::Looked,
    reason::LeadershipCode,
    view::{ClusterView, Liveness, Moment, PartitionView, ReplicaState},
};
use snapshot_store::{Entropy, Lsn, NodeId, ReplicaRole, format::StickyReason};
use std::collections::BTreeMap;

/// How many records a replica may lie behind the freshest one and still be asked to lead: it reads to the tail
/// before it serves, so this bounds how long the partition waits.
pub const LEAD_LAG_RECORDS_MAX: u64 = 1000;

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadershipDecision {
    /// Who is asked to lead.
    pub node: Option<NodeId>,
    /// Why.
    pub code: LeadershipCode,
    /// The values it rests on.
    pub detail: String,
}

/// Returns the live leader of the partition, if it has one.
pub fn live_leader(view: &ClusterView, partition: &PartitionView, now: Moment) -> Option<NodeId> {
    live_leader_of(&Looked::at(view, partition, now)).cloned()
}

/// Returns the live leader of the partition that is looked at, if it has one.
pub fn live_leader_of<'a>(looked: &Looked<'a>) -> Option<&'a NodeId> {
    let (leader, partition) = (looked.leader()?, looked.partition);
    if !looked.liveness(&leader.node).counts() {
        return None;
    }
    let hosts = partition.replicas.contains_key(&leader.node) || partition.expected.contains(&leader.node);
    if !hosts {
        // A leader from before a fork, or one whose replica was moved away: nobody there could lead.
        return None;
    }
    if let Some(own) = partition.replicas.get(&leader.node) {
        let own_term = own.leader.as_ref().map(|own| own.epoch);
        let own_is_current = own_term.is_some_and(|epoch| epoch >= leader.epoch);
        if own_is_current && own.role != ReplicaRole::Leader {
            return None;
        }
        if matches!(own.state, ReplicaState::Blocked | ReplicaState::Restoring) {
            return None;
        }
    }
    Some(&leader.node)
}

/// How many partitions each node leads, or is asked to lead.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<NodeId, usize>);

impl Counts {
    /// Counts the leader of one partition, if it has a live one.
    pub fn note(&mut self, looked: &Looked<'_>) {
        if let Some(node) = live_leader_of(looked) {
            self.add(node);
        }
    }

    fn add(&mut self, node: &NodeId) {
        match self.0.get_mut(node) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(node.clone(), 1);
            }
        }
    }

    fn of(&self, node: &NodeId) -> usize {
        self.0.get(node).copied().unwrap_or(0)
    }
}

/// Decides who is asked to lead one partition. `counts` is kept up to date, so that leaderships spread evenly.
pub fn decide_leadership(looked: &Looked<'_>, counts: &mut Counts, entropy: &Entropy) -> LeadershipDecision {
    let no = |code, detail: String| LeadershipDecision {
        node: None,
        code,
        detail,
    };
    let (view, partition, now) = (looked.view, looked.partition, looked.now);
    if let Some(node) = live_leader_of(looked) {
        return no(LeadershipCode::Led, format!("{node} leads"));
    }
    if !view.assign_leaders {
        return no(LeadershipCode::Off, "leaders are not assigned here".to_owned());
    }
    if let Some(detail) = &view.standby {
        return no(LeadershipCode::Standby, detail.clone());
    }
    let sticky = partition.holds.get(&StickyReason::LogRegressed).cloned();
    if let Some(detail) = sticky.or_else(|| reported_regression(view, partition, now)) {
        return no(LeadershipCode::Held, detail);
    }
    if looked.warming {
        return no(
            LeadershipCode::ViewWarming,
            "not all expected workers were heard yet".to_owned(),
        );
    }
    if now < partition.lead_not_before {
        return no(
            LeadershipCode::Waiting,
            "a node was asked a moment ago".to_owned(),
        );
    }
    let incarnation = partition.log.map(|log| log.facts.incarnation);
    let eligible: Vec<(&NodeId, Lsn)> = looked
        .replicas
        .iter()
        .filter(|replica| {
            let report = replica.report;
            replica.liveness == Liveness::Live
                && report.state == ReplicaState::Active
                && report.incarnation.is_some()
                && incarnation.is_none_or(|incarnation| report.incarnation == Some(incarnation))
        })
        .filter_map(|replica| Some((replica.node, replica.report.applied_lsn?)))
        .collect();
    let Some(freshest) = eligible.iter().map(|(_, applied)| *applied).max() else {
        return no(
            LeadershipCode::NoCandidate,
            "no replica is live and active".to_owned(),
        );
    };
    let load = |node: &NodeId| counts.of(node);
    let fresh: Vec<&NodeId> = eligible
        .iter()
        .filter(|(_, applied)| freshest.records_since(*applied) <= LEAD_LAG_RECORDS_MAX)
        .map(|(node, _)| *node)
        .collect();
    // Who failed a moment ago is asked again only when there is nobody else.
    let rested = |node: &&NodeId| {
        partition
            .lead_backoff
            .get(*node)
            .is_none_or(|until| now >= *until)
    };
    let preferred: Vec<&NodeId> = fresh.iter().copied().filter(rested).collect();
    let fresh = if preferred.is_empty() { fresh } else { preferred };
    let least = fresh.iter().map(|node| load(node)).min().unwrap_or(0);
    let least_loaded: Vec<&NodeId> = fresh.into_iter().filter(|node| load(node) == least).collect();
    let Some(index) = entropy.below(least_loaded.len()) else {
        return no(
            LeadershipCode::NoCandidate,
            "no replica is live and active".to_owned(),
        );
    };
    let node = least_loaded[index].clone();
    counts.add(&node);
    let detail = format!("{node} is asked to lead; it leads {least} other partitions");
    LeadershipDecision {
        node: Some(node),
        code: LeadershipCode::Assigned,
        detail,
    }
}
