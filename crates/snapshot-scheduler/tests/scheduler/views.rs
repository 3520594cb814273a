//! Views of a cluster as plain values.

use snapshot_scheduler::core::{
    ArchiveView, ClusterView, ControlView, LogView, Moment, NodeView, PartitionView, Policy, ReplicaReport,
    ReplicaState, Timing,
};
use snapshot_store::{
    ClusterIdentity, ContentHash, Entropy, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, Leadership,
    Lsn, NodeId, PartitionId, ReplicaRole, SnapshotId, Timestamp, WriteId,
    core::LogFacts,
    format::{ChainTrail, Control, Pointer, PointerEntry, SnapshotDirectory, StateMachineVersion, Unknown},
};
use std::{collections::BTreeMap, time::Duration};

pub(crate) const P: PartitionId = PartitionId::new(0);
pub(crate) const NOW: Moment = Moment(Duration::from_secs(1000));

pub(crate) fn node(index: usize) -> NodeId {
    NodeId::new(format!("n{index}")).unwrap()
}

pub(crate) fn incarnation() -> Incarnation {
    Incarnation {
        generation: 1,
        id: IncarnationId::from_bytes([1; 16]),
    }
}

pub(crate) fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "test".to_owned(),
        fingerprint: Fingerprint::from_bytes([5; 16]),
    }
}

pub(crate) fn id(entropy: &Entropy) -> SnapshotId {
    SnapshotId::new(entropy.ulid(Timestamp::default()))
}

pub(crate) fn entry(lsn: u64, node_index: usize, entropy: &Entropy) -> PointerEntry {
    let snapshot_id = id(entropy);
    PointerEntry {
        snapshot_id,
        incarnation: incarnation(),
        lsn: Lsn::new(lsn),
        path: SnapshotDirectory {
            generation: 1,
            lsn: Lsn::new(lsn),
            snapshot_id,
        },
        log_bytes: lsn * 10,
        files: 1,
        bytes_total: 1,
        bytes_uploaded: 1,
        bytes_copied: 0,
        created_at: Timestamp::default(),
        node: node(node_index),
        role: ReplicaRole::Follower,
        manifest_hash: ContentHash::of(b"manifest"),
        unknown: Unknown::default(),
    }
}

pub(crate) fn pointer(lsns: &[u64]) -> Option<Pointer> {
    let entropy = Entropy::seeded(1);
    (!lsns.is_empty()).then(|| Pointer {
        cluster: identity(),
        partition: P,
        write_id: WriteId::new(entropy.ulid(Timestamp::default())),
        restorable_snapshots_min: 2,
        snapshots: lsns.iter().map(|lsn| entry(*lsn, 1, &entropy)).collect(),
        history: Vec::new(),
        unknown: Unknown::default(),
    })
}

pub(crate) fn report(applied: u64) -> ReplicaReport {
    ReplicaReport {
        state: ReplicaState::Active,
        role: ReplicaRole::Follower,
        leader: Some(Leadership {
            epoch: LeaderEpoch::new(1),
            node: node(0),
        }),
        incarnation: Some(incarnation()),
        applied_lsn: Some(Lsn::new(applied)),
        needed_lsn: Some(Lsn::new(applied)),
        log_bytes: Some(applied * 10),
        needed_log_bytes: Some(applied * 10),
        archived_lsn: None,
        chain: ChainTrail::default(),
        state_machine: StateMachineVersion {
            name: "kv".to_owned(),
            version: 1,
        },
        exporting: false,
        damaged: Vec::new(),
        log_regressed: None,
    }
}

/// Node 0 leads; the others follow, each at the given LSN; the log ends right after the highest.
pub(crate) fn view(applied: &[u64], archived: &[u64]) -> ClusterView {
    let mut partition = PartitionView::new((0..applied.len()).map(node).collect());
    partition.replicas = applied
        .iter()
        .enumerate()
        .map(|(index, lsn)| (node(index), report(*lsn)))
        .collect();
    if let Some(leader) = partition.replicas.get_mut(&node(0)) {
        leader.role = ReplicaRole::Leader;
    }
    let tail = Lsn::new(applied.iter().copied().max().unwrap_or(0)).next();
    partition.log = Some(LogView {
        facts: LogFacts {
            incarnation: incarnation(),
            trim_point: Lsn::ZERO,
            tail,
        },
        held_bytes: None,
        heard_at: NOW,
    });
    partition.archive = ArchiveView::Known(pointer(archived));
    let heard = NodeView {
        heard_at: Some(NOW),
        exports_max: 4,
        ..NodeView::default()
    };
    ClusterView {
        fingerprint: identity().fingerprint,
        timing: Timing {
            suspect_after: Duration::from_secs(5),
            gone_after: Duration::from_secs(15),
            view_age_max: Duration::from_secs(30),
            settle: Duration::from_secs(3),
        },
        assign_leaders: true,
        standby: None,
        nodes: (0..applied.len())
            .map(|index| (node(index), heard.clone()))
            .collect(),
        partitions: BTreeMap::from([(P, partition)]),
        control: ControlView::Known(Control::empty(
            identity(),
            WriteId::new(Entropy::seeded(2).ulid(Timestamp::default())),
        )),
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        snapshot_after_records: 100,
        snapshot_after_bytes: 0,
        lag_records_max: 50,
        ..Policy::default()
    }
}

pub(crate) fn partition(view: &mut ClusterView) -> &mut PartitionView {
    view.partitions.get_mut(&P).unwrap()
}

pub(crate) fn heard_before(view: &mut ClusterView, index: usize, silence: Duration) {
    view.nodes.get_mut(&node(index)).unwrap().heard_at = Some(Moment(NOW.0 - silence));
}
