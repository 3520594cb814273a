//! Who is asked for a snapshot that is due.

use super::{
    looked::{CountedReplica, Looked},
    policy::{CandidateChoice, Policy},
    reason::SnapshotCode,
    snapshot::{Budget, Demand},
    view::Liveness,
};
use snapshot_store::{Entropy, Lsn, NodeId, ReplicaRole};
use std::collections::BTreeSet;

/// One choice of a candidate.
pub(super) struct Choice<'a> {
    pub(super) looked: &'a Looked<'a>,
    pub(super) policy: &'a Policy,
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
        for replica in self.looked.active() {
            let (node, applied) = (replica.node, replica.report.applied_lsn);
            let fresh = applied.is_some_and(|applied| applied >= self.min_lsn);
            if self
                .demand
                .is_some_and(|demand| demand.node.as_ref() == Some(node))
            {
                return self.demanded(node, fresh, leaders.contains(node));
            }
            match (leaders.contains(node), fresh) {
                (true, true) => fresh_leaders.push(replica),
                (true, false) => {}
                (false, true) => fresh_followers.push(replica),
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
            .looked
            .partition
            .followers_unavailable_since
            .map_or_else(Default::default, |since| self.looked.now.since(since));
        if !fresh_followers.is_empty() && waited < self.policy.leader_fallback_after() {
            let detail = format!("{} fresh non-leaders are busy or failing", fresh_followers.len());
            return Err((SnapshotCode::FollowersBusy, detail));
        }
        // Reports of one round come one after the other: a moment later the non-leaders may be fresh again.
        if fresh_followers.is_empty() && behind > 0 && waited < self.looked.view.timing.settle {
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
        let announced = self.looked.leader().map(|leader| leader.node.clone());
        let claiming = self
            .looked
            .replicas
            .iter()
            .filter(|replica| replica.report.role == ReplicaRole::Leader)
            .map(|replica| replica.node.clone());
        announced.into_iter().chain(claiming).collect()
    }

    /// Chooses among those that can be asked now: lowest state machine version first, then by policy.
    fn pick(&self, candidates: &[&CountedReplica<'_>], entropy: &Entropy) -> Option<NodeId> {
        // A sound node that is busy is waited for. Where all fail, one partition's trouble must not keep the others from
        // being tried: then it makes no difference.
        let sound = |node: &NodeId| {
            let node = self.looked.view.nodes.get(node);
            node.is_none_or(|node| self.looked.now >= node.failing_until)
        };
        let any_sound = candidates.iter().any(|replica| sound(replica.node));
        let available: Vec<_> = candidates
            .iter()
            .filter(|replica| self.is_available(replica))
            .filter(|replica| sound(replica.node) || !any_sound)
            .collect();
        let version = |replica: &CountedReplica<'_>| replica.report.state_machine.version;
        let lowest = available.iter().map(|replica| version(replica)).min()?;
        let available: Vec<&NodeId> = available
            .iter()
            .filter(|replica| version(replica) == lowest)
            .map(|replica| replica.node)
            .collect();
        if self.policy.candidate == CandidateChoice::Sticky
            && let Some(last) = self.looked.partition.entries().next().map(|entry| &entry.node)
            && let Some(node) = available.iter().find(|node| **node == last)
        {
            return Some((*node).clone());
        }
        entropy
            .below(available.len())
            .map(|index| available[index].clone())
    }

    fn is_available(&self, replica: &CountedReplica<'_>) -> bool {
        let (looked, node) = (self.looked, replica.node);
        let node_ok = looked
            .view
            .nodes
            .get(node)
            .is_some_and(|node| looked.now >= node.not_before);
        let partition_ok = looked
            .partition
            .backoff
            .get(node)
            .is_none_or(|not_before| looked.now >= *not_before);
        let free = self.demand.is_some() || self.budget.has_room_on(node);
        replica.liveness == Liveness::Live && node_ok && partition_ok && free
    }
}
