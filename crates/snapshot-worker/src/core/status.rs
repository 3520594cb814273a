//! What one replica says of itself.

use super::{estimate::Estimate, rebuild::RebuildCounts};
use snapshot_store::{
    Incarnation, Leadership, Lsn, PartitionId, ReplicaRole, RequestId, SnapshotId,
    format::{ChainTrail, StateMachineVersion},
};
use std::fmt;

macro_rules! blocked_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $remedy:literal;)*) => {
        /// Why a partition cannot go on by itself. Each has a metric label and an entry in the operator guide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum BlockedReason { $($(#[doc = $doc])+ $variant,)* }

        impl BlockedReason {
            /// Every reason, in the order of the operator guide.
            pub const ALL: &[BlockedReason] = &[$(BlockedReason::$variant,)*];

            /// Returns the word used in status, metrics and the operator guide.
            pub const fn as_str(self) -> &'static str {
                match self { $(BlockedReason::$variant => $label,)* }
            }

            /// Returns what it means, as this page of the code says it.
            pub const fn meaning(self) -> &'static str {
                match self { $(BlockedReason::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Returns one sentence that says what to do.
            pub const fn remedy(self) -> &'static str {
                match self { $(BlockedReason::$variant => $remedy,)* }
            }
        }
    };
}

blocked_reasons! {
    /// No log is registered for the partition.
    LogMissing = "log-missing", "check that the log's address and data folder are the right ones; a log that is lost is begun anew with `tidemark log recover`";
    /// The log was moved, and lives in another place.
    LogMoved = "log-moved", "let the section `log` of the node's configuration name the place that the message says, and start the node again";
    /// The log is of another incarnation than the local state, and not a newer one; or it continues another state.
    LogIncarnation = "log-incarnation", "the log is not the one that this replica's state belongs to: check the log's address and data folder";
    /// The log does not hold what this replica has applied.
    LogRegressed = "log-regressed", "the log lost records: stop writers and restore the log, or see the runbook for a lost log";
    /// A record in the middle of the log is missing.
    LogHole = "log-hole", "the log is damaged: restore it, or see the runbook for a lost log";
    /// The log did not answer for a while.
    LogUnavailable = "log-unavailable", "start the log server or check its address; retried by itself";
    /// No snapshot covers what the log no longer has.
    NoCoveringSnapshot = "no-covering-snapshot", "restore a snapshot to the store, or start a replica that still has the state; retried by itself";
    /// The object store did not answer, and a snapshot is needed.
    StoreUnavailable = "store-unavailable", "check the store's URL, credentials and network; retried by itself";
    /// A stored object belongs to another cluster, is unreadable or of a newer version.
    StoreUnusable = "store-unusable", "look at the object the message names; it is never overwritten";
    /// A record cannot be applied by this version.
    PoisonRecord = "poison-record", "update this node's software so that it can apply the record, or have all replicas pass over it with `tidemark partitions skip`";
    /// The local state cannot be read or written.
    LocalState = "local-state", "check the disk and the permissions of the data folder; retried by itself";
    /// The disk has no room for what the partition has to write.
    DiskFull = "disk-full", "make room on the disk of the data folder; retried by itself";
    /// The state was written by another or a newer state machine.
    StateVersion = "state-version", "update this node's software to the version that wrote the state";
}

impl fmt::Display for BlockedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a replica is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PartitionState {
    /// Local state and log are being looked at.
    #[default]
    Opening,
    /// A snapshot is chosen, downloaded or opened.
    Restoring,
    /// Records up to the tail seen when this state began are being applied.
    CatchingUp,
    /// That tail was reached; lag alone does not take it back.
    Active,
    /// The replica cannot go on by itself; it tries again with backoff.
    Blocked {
        /// Why.
        reason: BlockedReason,
        /// What was seen, and what to do.
        detail: String,
    },
}

impl PartitionState {
    /// Returns the word used in status and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            PartitionState::Opening => "opening",
            PartitionState::Restoring => "restoring",
            PartitionState::CatchingUp => "catching-up",
            PartitionState::Active => "active",
            PartitionState::Blocked { .. } => "blocked",
        }
    }

    /// Returns the word for the state, or, while blocked, the one for the reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            PartitionState::Blocked { reason, .. } => reason.as_str(),
            state => state.as_str(),
        }
    }

    /// Returns whether a record that cannot be applied is in the way.
    pub const fn is_blocked_by_record(&self) -> bool {
        matches!(
            self,
            PartitionState::Blocked {
                reason: BlockedReason::PoisonRecord,
                ..
            }
        )
    }
}

/// The word for the state; while blocked also the reason, and what was seen.
impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionState::Blocked { reason, detail } => write!(f, "blocked ({reason}): {detail}"),
            state => f.write_str(state.as_str()),
        }
    }
}

/// The newest published snapshot a node knows of: uploaded or restored by itself, or read from the pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivedSnapshot {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Its LSN.
    pub lsn: Lsn,
    /// Bytes of all log records up to it.
    pub log_bytes: u64,
}

/// A snapshot that is being made, or is to be made when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningExport {
    /// The request it answers.
    pub request_id: RequestId,
    /// The attempt.
    pub snapshot_id: SnapshotId,
    /// Applied LSN when it was accepted.
    pub lsn: Lsn,
    /// Bytes transferred so far.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// How many others wait before it; `None` once its turn has come.
    pub ahead: Option<u32>,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestorePhase {
    /// It waits for its turn: the node runs as many as it may.
    #[default]
    Queued,
    /// The pointer is read and a snapshot chosen.
    Choosing,
    /// Files on this disk are hashed, to keep or link those that fit.
    Reusing,
    /// The other files are read from the store.
    Downloading,
    /// All files are there; the state in them is read through.
    Checking,
    /// The new state takes the place of the old one.
    Installing,
}

impl RestorePhase {
    /// Returns the word used in status and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            RestorePhase::Queued => "queued",
            RestorePhase::Choosing => "choosing",
            RestorePhase::Reusing => "reusing",
            RestorePhase::Downloading => "downloading",
            RestorePhase::Checking => "checking",
            RestorePhase::Installing => "installing",
        }
    }
}

/// A snapshot that is being restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningRestore {
    /// How far it is.
    pub phase: RestorePhase,
    /// The snapshot and its LSN; `None` while queued or choosing.
    pub snapshot: Option<(SnapshotId, Lsn)>,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes read from the store.
    pub bytes_downloaded: u64,
    /// Bytes of files taken from the stale local state, or from what a restore of another snapshot had left.
    pub bytes_linked: u64,
    /// Bytes of files that an interrupted restore of the same snapshot had left.
    pub bytes_resumed: u64,
    /// Files in all; 0 while unknown.
    pub files_total: u64,
    /// Files that are complete and right.
    pub files_done: u64,
    /// How fast it is read from the store, and how long that still takes.
    pub estimate: Estimate,
}

impl RunningRestore {
    /// Returns how many bytes are in place, wherever they came from.
    pub const fn bytes_done(&self) -> u64 {
        self.bytes_downloaded
            .saturating_add(self.bytes_linked)
            .saturating_add(self.bytes_resumed)
    }

    /// Returns how many bytes are missing.
    pub const fn bytes_left(&self) -> u64 {
        self.bytes_total.saturating_sub(self.bytes_done())
    }
}

/// Why a restore was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestoreKind {
    /// There was no local state.
    Bootstrap,
    /// The log was trimmed past the local state.
    TrimGap,
    /// The local state was damaged, or an operator wanted it replaced.
    Rebuild,
}

impl RestoreKind {
    /// Every kind.
    pub const ALL: &[RestoreKind] = &[RestoreKind::Bootstrap, RestoreKind::TrimGap, RestoreKind::Rebuild];

    /// Returns the word used in status, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            RestoreKind::Bootstrap => "bootstrap",
            RestoreKind::TrimGap => "trim-gap",
            RestoreKind::Rebuild => "rebuild",
        }
    }
}

/// A restore that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRestore {
    /// Why it was needed.
    pub kind: RestoreKind,
    /// What was restored.
    pub snapshot_id: SnapshotId,
    /// Its LSN.
    pub lsn: Lsn,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many of them were read from the store.
    pub bytes_downloaded: u64,
    /// How many were taken from the stale local state, or from what a restore of another snapshot had left.
    pub bytes_linked: u64,
    /// How many an interrupted restore of the same snapshot had left.
    pub bytes_resumed: u64,
    /// From choosing to open.
    pub duration: std::time::Duration,
    /// Newer snapshots that were tried first and found damaged.
    pub damaged: Vec<SnapshotId>,
}

/// What one replica says of itself. The host fills in what it knows; the agent adds exports, restores and the
/// archived snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The partition.
    pub partition: PartitionId,
    /// Where it is in its life.
    pub state: PartitionState,
    /// What it is to the partition.
    pub role: ReplicaRole,
    /// The leader it has applied, and where clients reach that one.
    pub leader: Option<(Leadership, String)>,
    /// The log its state belongs to.
    pub incarnation: Option<Incarnation>,
    /// Highest LSN applied.
    pub applied_lsn: Option<Lsn>,
    /// Highest LSN flushed to disk.
    pub durable_lsn: Option<Lsn>,
    /// Highest LSN it no longer needs from the log, and the bytes of all records up to it: the durable LSN; while
    /// restoring, that of the snapshot; `None` while choosing one or blocked below the trim point.
    pub needed: Option<(Lsn, u64)>,
    /// Bytes of all records up to the applied LSN.
    pub log_bytes: Option<u64>,
    /// The newest published snapshot this node knows of.
    pub archived: Option<ArchivedSnapshot>,
    /// Chain hashes at and before the applied LSN; empty when the host keeps none.
    pub chain: ChainTrail,
    /// The state machine in use.
    pub state_machine: StateMachineVersion,
    /// The snapshot being made, or waiting to be made.
    pub export: Option<RunningExport>,
    /// The snapshot being restored.
    pub restore: Option<RunningRestore>,
    /// The last restore that succeeded since the node started.
    pub last_restore: Option<FinishedRestore>,
    /// Published snapshots found damaged by this node.
    pub damaged: Vec<SnapshotId>,
    /// Tail seen last, exclusive.
    pub tail_seen: Option<Lsn>,
    /// How often the local state was rebuilt since the node started.
    pub rebuilds: RebuildCounts,
}

impl ReplicaStatus {
    /// Returns the status of a follower that is opening and has applied nothing; a host sets what it knows on top.
    pub fn new(partition: PartitionId, state_machine: StateMachineVersion) -> Self {
        ReplicaStatus {
            partition,
            state: PartitionState::Opening,
            role: ReplicaRole::Follower,
            leader: None,
            incarnation: None,
            applied_lsn: None,
            durable_lsn: None,
            needed: None,
            log_bytes: None,
            archived: None,
            chain: ChainTrail::default(),
            state_machine,
            export: None,
            restore: None,
            last_restore: None,
            damaged: Vec::new(),
            tail_seen: None,
            rebuilds: RebuildCounts::default(),
        }
    }
}
