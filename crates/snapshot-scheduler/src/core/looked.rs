//! One partition as a decision looks at it: what of its replicas counts now, worked out once for all rules.

use super::view::{ClusterView, Liveness, Moment, PartitionView, ReplicaReport, ReplicaState};
use snapshot_store::{Leadership, Lsn, NodeId};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A replica on a node that is live or suspect.
#[derive(Clone, Copy, Debug)]
pub struct CountedReplica<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// What it said last.
    pub report: &'a ReplicaReport,
    /// Live or suspect.
    pub liveness: Liveness,
    /// When the node answered last.
    pub heard_at: Moment,
}

/// One partition, and its replicas that count.
#[derive(Clone, Debug)]
pub struct Looked<'a> {
    /// The cluster it belongs to.
    pub view: &'a ClusterView,
    /// The partition.
    pub partition: &'a PartitionView,
    /// The present moment.
    pub now: Moment,
    /// The replicas of live and suspect nodes, by node.
    pub replicas: Vec<CountedReplica<'a>>,
    /// Whether some expected worker was not heard yet and may still answer.
    pub warming: bool,
}

impl<'a> Looked<'a> {
    /// Looks at one partition.
    pub fn at(view: &'a ClusterView, partition: &'a PartitionView, now: Moment) -> Self {
        let heard = |node: &NodeId| Some((view.nodes.get(node)?.heard_at?, view.liveness(node, now)));
        let warming = view.is_warming(partition, now);
        Looked::with(view, partition, now, warming, heard)
    }

    fn with(
        view: &'a ClusterView,
        partition: &'a PartitionView,
        now: Moment,
        warming: bool,
        heard: impl Fn(&NodeId) -> Option<(Moment, Liveness)>,
    ) -> Self {
        let counted = partition.replicas.iter().filter_map(|(node, report)| {
            let (heard_at, liveness) = heard(node)?;
            liveness.counts().then_some(CountedReplica {
                node,
                report,
                liveness,
                heard_at,
            })
        });
        Looked {
            view,
            partition,
            now,
            replicas: counted.collect(),
            warming,
        }
    }

    /// Returns the replicas that are active on the log's own incarnation.
    pub fn active(&self) -> impl Iterator<Item = &CountedReplica<'a>> {
        let incarnation = self.partition.log.map(|log| log.facts.incarnation);
        self.replicas.iter().filter(move |replica| {
            replica.report.state == ReplicaState::Active
                && incarnation.is_some()
                && replica.report.incarnation == incarnation
        })
    }

    /// Returns the highest LSN that an active replica has applied.
    pub fn freshest(&self) -> Option<Lsn> {
        self.active()
            .filter_map(|replica| replica.report.applied_lsn)
            .max()
    }

    /// Returns the bytes of all records up to the highest LSN that an active replica has applied.
    pub fn log_bytes(&self) -> Option<u64> {
        self.active().filter_map(|replica| replica.report.log_bytes).max()
    }

    /// Returns the leader of the latest term that a replica knows of.
    pub fn leader(&self) -> Option<&'a Leadership> {
        self.replicas
            .iter()
            .filter_map(|replica| replica.report.leader.as_ref())
            .max_by_key(|leader| leader.epoch)
    }

    /// Returns whether `node` answers, be it with a replica of this partition or not.
    pub fn liveness(&self, node: &NodeId) -> Liveness {
        let own = self.replicas.iter().find(|replica| replica.node == node);
        own.map_or_else(|| self.view.liveness(node, self.now), |replica| replica.liveness)
    }
}

/// FNV-1a: short names, chosen by the operator or the host, need no defence against collisions.
pub(super) struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        NameHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All nodes with their liveness, so that a plan looks each replica's node up in one step.
pub(super) struct Nodes<'a> {
    view: &'a ClusterView,
    now: Moment,
    heard: HashMap<&'a str, (Moment, Liveness), BuildHasherDefault<NameHasher>>,
    /// Whether any partition can be warming up at all.
    may_warm: bool,
}

impl<'a> Nodes<'a> {
    pub(super) fn of(view: &'a ClusterView, now: Moment) -> Self {
        let heard = view.nodes.iter().filter_map(|(name, node)| {
            let heard_at = node.heard_at?;
            Some((name.as_str(), (heard_at, view.liveness(name, now))))
        });
        let unheard = view.nodes.keys().any(|node| view.may_still_answer(node, now));
        Nodes {
            view,
            now,
            heard: heard.collect(),
            // A node that is expected and not known could answer only right after the start.
            may_warm: unheard || now.0 < view.timing.gone_after,
        }
    }

    pub(super) fn look(&self, partition: &'a PartitionView) -> Looked<'a> {
        let warming = self.may_warm && self.view.is_warming(partition, self.now);
        let heard = |node: &NodeId| self.heard.get(node.as_str()).copied();
        Looked::with(self.view, partition, self.now, warming, heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that were the same for all names would keep every rule and make a plan slow.
    #[test]
    fn names_are_hashed_by_fnv_1a() {
        let published = [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ];
        for (name, expected) in published {
            let mut hasher = NameHasher::default();
            hasher.write(name.as_bytes());
            assert_eq!(hasher.finish(), expected, "{name}");
        }
    }
}
