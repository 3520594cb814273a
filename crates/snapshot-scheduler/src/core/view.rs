//! What the admin knows, as plain values. Filled by the observer, read by the plan.

use super::audit::AuditMemory;
use snapshot_store::{
    Fingerprint, Incarnation, Leadership, Lsn, NodeId, PartitionId, ReplicaRole, RequestId, SnapshotId,
    WriteId,
    core::{HoldReason, LogFacts, ReplicaNeed, SnapshotTrust},
    format::{ChainTrail, Control, Pointer, PointerEntry, StateMachineVersion, StickyReason},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A moment on the scheduler's own monotonic clock: the time since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// Returns the time passed since `earlier`, zero when that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the moment `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration))
    }
}

/// Whether a node answers, judged by the age of its last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It answers.
    Live,
    /// It missed some polls; counted as live with its last report.
    Suspect,
    /// It missed many; out of the view.
    Gone,
    /// Never heard of since this admin started.
    Unknown,
}

impl Liveness {
    /// Every value.
    pub const ALL: &[Liveness] = &[
        Liveness::Live,
        Liveness::Suspect,
        Liveness::Gone,
        Liveness::Unknown,
    ];

    /// Returns the word used in metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Liveness::Live => "live",
            Liveness::Suspect => "suspect",
            Liveness::Gone => "gone",
            Liveness::Unknown => "unknown",
        }
    }

    /// Returns whether the last report of the node counts.
    pub const fn counts(self) -> bool {
        matches!(self, Liveness::Live | Liveness::Suspect)
    }
}

/// The times by which the view is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which a node is suspect.
    pub suspect_after: Duration,
    /// Silence after which a node is gone.
    pub gone_after: Duration,
    /// The oldest report or log state a trim may rest on.
    pub view_age_max: Duration,
    /// How long reports of different moments may take to agree: two poll rounds and their timeout.
    pub settle: Duration,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// When the admin learned that it exists: at its start, or from the host's discovery.
    pub known_since: Moment,
    /// When it answered last.
    pub heard_at: Option<Moment>,
    /// Snapshots it makes now or has waiting, by its own report.
    pub exports_running: u32,
    /// The most it makes at once; 0 when it does not say.
    pub exports_max: u32,
    /// Not asked for snapshots before this moment, because it did not answer lately.
    pub not_before: Moment,
    /// Others are preferred before this moment, because snapshots of several partitions failed on it in a row.
    pub failing_until: Moment,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last poll failed, if it did.
    pub error: Option<String>,
}

/// Where a replica is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Local state and log are being looked at, or the worker did not say.
    Opening,
    /// A snapshot is chosen, downloaded or opened.
    Restoring,
    /// Records are being applied up to the tail.
    CatchingUp,
    /// The tail was reached.
    Active,
    /// It cannot go on by itself.
    Blocked,
}

impl ReplicaState {
    /// Returns the word used in status.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReplicaState::Opening => "opening",
            ReplicaState::Restoring => "restoring",
            ReplicaState::CatchingUp => "catching-up",
            ReplicaState::Active => "active",
            ReplicaState::Blocked => "blocked",
        }
    }
}

/// What one replica said of itself last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Where it is in its life.
    pub state: ReplicaState,
    /// What it is to the partition.
    pub role: ReplicaRole,
    /// The leader it has applied.
    pub leader: Option<Leadership>,
    /// The log its state belongs to.
    pub incarnation: Option<Incarnation>,
    /// Highest LSN applied.
    pub applied_lsn: Option<Lsn>,
    /// Highest LSN it no longer needs from the log.
    pub needed_lsn: Option<Lsn>,
    /// Bytes of all records up to the applied LSN.
    pub log_bytes: Option<u64>,
    /// Bytes of all records up to the needed LSN.
    pub needed_log_bytes: Option<u64>,
    /// LSN of the newest published snapshot it knows of.
    pub archived_lsn: Option<Lsn>,
    /// Chain hashes; empty when the host keeps none.
    pub chain: ChainTrail,
    /// The state machine in use.
    pub state_machine: StateMachineVersion,
    /// Whether it is making a snapshot.
    pub exporting: bool,
    /// Published snapshots it found damaged.
    pub damaged: Vec<SnapshotId>,
    /// What it found in the log instead of the record it applied last, while that blocks it.
    pub log_regressed: Option<String>,
}

/// What the log said of itself last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogView {
    /// Incarnation, trim point and tail.
    pub facts: LogFacts,
    /// Bytes still in the log, when it counts them.
    pub held_bytes: Option<u64>,
    /// When the request that brought it was begun.
    pub heard_at: Moment,
}

/// What is known of the pointer of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveView {
    /// It was not read yet, or must be read again before it counts.
    Unread,
    /// Reading it failed.
    Unreadable {
        /// Why, in the words of a hold.
        reason: HoldReason,
        /// What was seen.
        detail: String,
    },
    /// As read.
    Known(Option<Pointer>),
}

/// What is known of the control state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlView {
    /// It was not read yet.
    Unread,
    /// It is missing or cannot be read.
    Unreadable(String),
    /// As read.
    Known(Control),
}

/// A snapshot that this admin asked for and that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningOrder {
    /// Its id.
    pub request_id: RequestId,
    /// Who makes it.
    pub node: NodeId,
}

/// What of a snapshot's manifest is compared with replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts {
    /// The log it covers.
    pub incarnation: Incarnation,
    /// Chain hashes, if it has any.
    pub chain: Option<ChainTrail>,
    /// The state machine that wrote it.
    pub state_machine: StateMachineVersion,
}

/// What a trim looked at; when it changes, looking again may be worthwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimHint {
    /// The pointer's write.
    pub write_id: Option<WriteId>,
    /// Restorable snapshots verified at the demanded level.
    pub verified: usize,
    /// Restorable snapshots found damaged.
    pub damaged: usize,
    /// The guard, if all snapshots hold.
    pub guard_lsn: Option<Lsn>,
    /// How far the cached values would allow a trim.
    pub up_to: Lsn,
    /// Sticky holds in force.
    pub holds: usize,
}

/// When trimming was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimMemory {
    /// A trim is running.
    pub running: bool,
    /// The last look.
    pub looked: Option<(Moment, TrimHint)>,
    /// The last look found nothing to trim and nothing wrong: only a change is worth the next one.
    pub idle: bool,
    /// No look before this moment.
    pub not_before: Moment,
    /// Failures in a row.
    pub failures: u32,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Nodes that are configured to host it.
    pub expected: BTreeSet<NodeId>,
    /// Its log, as it answered last.
    pub log: Option<LogView>,
    /// Why the log did not answer last time.
    pub log_error: Option<String>,
    /// Its pointer.
    pub archive: ArchiveView,
    /// A newer pointer is said to exist: no snapshot is ordered before it was read.
    pub archive_stale: bool,
    /// What is known of its snapshots.
    pub trust: BTreeMap<SnapshotId, SnapshotTrust>,
    /// Snapshots a worker found damaged and nobody checked again yet.
    pub suspected: BTreeSet<SnapshotId>,
    /// What manifests say, for the snapshots in the pointer.
    pub manifests: BTreeMap<SnapshotId, ManifestFacts>,
    /// Last report of each node.
    pub replicas: BTreeMap<NodeId, ReplicaReport>,
    /// The snapshot this admin asked for.
    pub order: Option<RunningOrder>,
    /// Nodes not asked for a snapshot of this partition before a moment.
    pub backoff: BTreeMap<NodeId, Moment>,
    /// Since when a snapshot is due and no non-leader could be asked.
    pub followers_unavailable_since: Option<Moment>,
    /// The snapshot being verified.
    pub verifying: Option<SnapshotId>,
    /// Nodes not asked to verify before a moment.
    pub verify_backoff: BTreeMap<NodeId, Moment>,
    /// No no-op is appended before this moment.
    pub noop_not_before: Moment,
    /// Nobody is asked to lead before this moment.
    pub lead_not_before: Moment,
    /// Nodes that failed to lead, and until when others are preferred.
    pub lead_backoff: BTreeMap<NodeId, Moment>,
    /// When trimming was looked at.
    pub trim: TrimMemory,
    /// Sticky holds, of control.json and those this admin is about to write there.
    pub holds: BTreeMap<StickyReason, String>,
    /// When its snapshots were looked at and read.
    pub audit: AuditMemory,
}

impl PartitionView {
    /// Returns a partition of which nothing is known yet.
    pub fn new(expected: BTreeSet<NodeId>) -> Self {
        PartitionView {
            expected,
            log: None,
            log_error: None,
            archive: ArchiveView::Unread,
            archive_stale: false,
            trust: BTreeMap::new(),
            suspected: BTreeSet::new(),
            manifests: BTreeMap::new(),
            replicas: BTreeMap::new(),
            order: None,
            backoff: BTreeMap::new(),
            followers_unavailable_since: None,
            verifying: None,
            verify_backoff: BTreeMap::new(),
            noop_not_before: Moment::default(),
            lead_not_before: Moment::default(),
            lead_backoff: BTreeMap::new(),
            trim: TrimMemory::default(),
            holds: BTreeMap::new(),
            audit: AuditMemory::default(),
        }
    }

    /// Returns the pointer, where it is known and there is one.
    pub fn pointer(&self) -> Option<&Pointer> {
        match &self.archive {
            ArchiveView::Known(pointer) => pointer.as_ref(),
            ArchiveView::Unread | ArchiveView::Unreadable { .. } => None,
        }
    }

    /// Returns the snapshots of the log's incarnation, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &PointerEntry> {
        let incarnation = self.log.map(|log| log.facts.incarnation);
        let snapshots = self.pointer().map_or(&[][..], |pointer| &pointer.snapshots);
        snapshots
            .iter()
            .filter(move |entry| Some(entry.incarnation) == incarnation)
    }

    /// Returns whether a check found the snapshot damaged.
    pub fn is_damaged(&self, snapshot_id: SnapshotId) -> bool {
        matches!(self.trust.get(&snapshot_id), Some(SnapshotTrust::Damaged))
    }

    /// Returns the newest snapshot that was not found damaged: what "due" counts from.
    pub fn archived(&self) -> Option<&PointerEntry> {
        self.entries().find(|entry| !self.is_damaged(entry.snapshot_id))
    }
}

/// Everything the plan looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Fingerprint of the cluster.
    pub fingerprint: Fingerprint,
    /// The times by which the view is judged.
    pub timing: Timing,
    /// Whether partitions without a leader get one.
    pub assign_leaders: bool,
    /// Why this admin only watches; `None` when it acts.
    pub standby: Option<String>,
    /// All configured nodes.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// All partitions.
    pub partitions: BTreeMap<PartitionId, PartitionView>,
    /// Pauses and sticky holds.
    pub control: ControlView,
}

impl ClusterView {
    /// Returns whether `node` answers.
    pub fn liveness(&self, node: &NodeId, now: Moment) -> Liveness {
        let Some(heard_at) = self.nodes.get(node).and_then(|node| node.heard_at) else {
            return Liveness::Unknown;
        };
        match now.since(heard_at) {
            silence if silence >= self.timing.gone_after => Liveness::Gone,
            silence if silence >= self.timing.suspect_after => Liveness::Suspect,
            _ => Liveness::Live,
        }
    }

    /// Returns the replicas of live and suspect nodes.
    pub fn counted_replicas<'a>(
        &'a self,
        partition: &'a PartitionView,
        now: Moment,
    ) -> impl Iterator<Item = (&'a NodeId, &'a ReplicaReport, Liveness)> {
        partition
            .replicas
            .iter()
            .map(move |(node, report)| (node, report, self.liveness(node, now)))
            .filter(|(_, _, liveness)| liveness.counts())
    }

    /// Returns whether some expected worker of the partition was not heard yet and may still answer.
    pub fn is_warming(&self, partition: &PartitionView, now: Moment) -> bool {
        partition
            .expected
            .iter()
            .any(|node| self.may_still_answer(node, now))
    }

    /// Returns whether `node` was never heard, and has not had the time yet after which it counts as gone.
    pub fn may_still_answer(&self, node: &NodeId, now: Moment) -> bool {
        let view = self.nodes.get(node);
        let known_since = view.map(|view| view.known_since).unwrap_or_default();
        view.is_none_or(|view| view.heard_at.is_none()) && now.since(known_since) < self.timing.gone_after
    }

    /// Returns what the live and suspect replicas still need of the log.
    pub fn replica_needs(&self, partition: &PartitionView, now: Moment) -> Vec<ReplicaNeed> {
        self.counted_replicas(partition, now)
            .map(|(node, report, _)| ReplicaNeed {
                node: node.clone(),
                needed_lsn: report.needed_lsn,
                log_bytes: report.needed_log_bytes,
            })
            .collect()
    }

    /// Returns the leader of the latest term that a live or suspect replica knows of.
    pub fn leader(&self, partition: &PartitionView, now: Moment) -> Option<Leadership> {
        self.counted_replicas(partition, now)
            .filter_map(|(_, report, _)| report.leader.clone())
            .max_by_key(|leader| leader.epoch)
    }
}
