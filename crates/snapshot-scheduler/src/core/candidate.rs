//! Who is asked for a snapshot that is due.

use super::{
    policy::{CandidateChoice, Policy},
    reason::SnapshotCode,
    snapshot::{Budget, Demand, usable},
    view::{ClusterView, Liveness, Moment, PartitionView, ReplicaReport},
};
use snapshot_store::{Entropy, Lsn, NodeId, ReplicaRole};
use std::collections::BTreeSet;

/// One choice of a candidate.
pub(super) struct Choice<'a> {
    pub(super) view: &'a ClusterView,
    pub(super) partition: &'a PartitionView,
    pub(super) policy: &'a Policy,
    pub(super) now: Moment,
    pub(super) budget: &'a Budget,
    pub(super) demand: Option<&'a Demand>,
    pub(super) min_lsn: Lsn,
}

impl Choice<'_> {
    /// Returns who is asked, and whether that is the leader.
    pub(super) fn candidate(&self, entropy: &Entropy) -> Result<(NodeId, bool), (SnapshotCode, String)> {
        let leaders = self.leaders();
        let mut fresh_followers = Vec::new();
        let mut behind = 0;
        let mut fresh_leaders = Vec::new();
        for (node, report, liveness) in usable(self.view, self.partition, self.now) {
            let fresh = report.applied_lsn.is_some_and(|applied| applied >= self.min_lsn);
            if self
                .demand
                .is_some_and(|demand| demand.node.as_ref() == Some(node))
            {
                return self.demanded(node, fresh, leaders.contains(node));
            }
            match (leaders.contains(node), fresh) {
                (true, true) => fresh_leaders.push((node, report, liveness)),
                (true, false) => {}
                (false, true) => fresh_followers.push((node, report, liveness)),
                (false, false) => behind += 1,
            }
        }
        if let Some(node) = self.demand.and_then(|demand| demand.node.as_ref()) {
            return Err((
                SnapshotCode::NoCandidate,
                format!("{node} has no live and active replica"),
            ));
        }

        if let Some(node) = self.pick(&fresh_followers, entropy) {
            return Ok((node, false));
        }
        let waited = self
            .partition
            .followers_unavailable_since
            .map_or_else(Default::default, |since| self.now.since(since));
        if !fresh_followers.is_empty() && waited < self.policy.leader_fallback_after() {
            let detail = format!("{} fresh non-leaders are busy or failing", fresh_followers.len());
            return Err((SnapshotCode::FollowersBusy, detail));
        }
        // Reports of one round come one after the other: a moment later the non-leaders may be fresh again.
        if fresh_followers.is_empty() && behind > 0 && waited < self.view.timing.settle {
            let detail = format!("{behind} non-leaders are below LSN {}", self.min_lsn);
            return Err((SnapshotCode::FollowersBehind, detail));
        }
        self.pick(&fresh_leaders, entropy)
            .map(|node| (node, true))
            .ok_or_else(|| {
                let detail = format!(
                    "{} fresh non-leaders and {} fresh leaders, none can be asked",
                    fresh_followers.len(),
                    fresh_leaders.len()
                );
                (SnapshotCode::NoCandidate, detail)
            })
    }

    fn demanded(
        &self,
        node: &NodeId,
        fresh: bool,
        leads: bool,
    ) -> Result<(NodeId, bool), (SnapshotCode, String)> {
        if fresh {
            return Ok((node.clone(), leads));
        }
        Err((
            SnapshotCode::FollowersBehind,
            format!("{node} has not applied LSN {} yet", self.min_lsn),
        ))
    }

    /// Returns every node that may be the leader: the one announced last, and those that say they are.
    fn leaders(&self) -> BTreeSet<NodeId> {
        let announced = self
            .view
            .leader(self.partition, self.now)
            .map(|leader| leader.node);
        let claiming = self
            .view
            .counted_replicas(self.partition, self.now)
            .filter(|(_, report, _)| report.role == ReplicaRole::Leader)
            .map(|(node, _, _)| node.clone());
        announced.into_iter().chain(claiming).collect()
    }

    /// Chooses among those that can be asked now: lowest state machine version first, then by policy.
    fn pick(&self, candidates: &[(&NodeId, &ReplicaReport, Liveness)], entropy: &Entropy) -> Option<NodeId> {
        // A sound node that is busy is waited for. Where all fail, one partition's trouble must not keep the others from
        // being tried: then it makes no difference.
        let sound = |node: &NodeId| {
            let node = self.view.nodes.get(node);
            node.is_none_or(|node| self.now >= node.failing_until)
        };
        let any_sound = candidates.iter().any(|(node, _, _)| sound(node));
        let available: Vec<_> = candidates
            .iter()
            .filter(|(node, _, liveness)| self.is_available(node, *liveness))
            .filter(|(node, _, _)| sound(node) || !any_sound)
            .collect();
        let lowest = available
            .iter()
            .map(|(_, report, _)| report.state_machine.version)
            .min()?;
        let available: Vec<&NodeId> = available
            .iter()
            .filter(|(_, report, _)| report.state_machine.version == lowest)
            .map(|(node, _, _)| *node)
            .collect();
        if self.policy.candidate == CandidateChoice::Sticky
            && let Some(last) = self.partition.entries().first().map(|entry| &entry.node)
            && let Some(node) = available.iter().find(|node| **node == last)
        {
            return Some((*node).clone());
        }
        entropy
            .below(available.len())
            .map(|index| available[index].clone())
    }

    fn is_available(&self, node: &NodeId, liveness: Liveness) -> bool {
        let node_ok = self
            .view
            .nodes
            .get(node)
            .is_some_and(|node| self.now >= node.not_before);
        let partition_ok = self
            .partition
            .backoff
            .get(node)
            .is_none_or(|not_before| self.now >= *not_before);
        let free = self.demand.is_some() || self.budget.has_room_on(node);
        liveness == Liveness::Live && node_ok && partition_ok && free
    }
}
