//! Pure decisions and plain values of the worker side: no async, clock, randomness, I/O or metrics.

mod autonomous;
mod chain;
mod choose;
mod decline;
mod estimate;
mod handles;
mod leadership;
mod rebuild;
mod record;
mod room;
mod skip;
mod start;
mod status;

pub use autonomous::{Autonomous, DueCause, LastPoll, LeaveReason, decide_autonomous};
pub use chain::Chain;
pub use choose::{
    PassReason, PointerRefusal, RestoreCandidates, RestoreNeed, check_owner, restore_candidates,
};
pub use decline::{Coverage, Decline, ExportFacts, coverage, decide_export};
pub use estimate::{Estimate, estimate};
pub use handles::{
    HandleFacts, HandlePlan, HandleShortage, NODE_FILES, PARTITION_FILES, TABLES_MIN, TABLES_WANTED,
    plan_handles,
};
pub use leadership::{Outcome, Verdict, judge, next_epoch};
pub use rebuild::{RebuildCounts, RebuildPlan, RebuildReason, RebuildSource, rebuild_source};
pub use record::{LedBody, Record, RecordError};
pub use room::{DiskFacts, Shortage, room_for};
pub use skip::{PoisonRecord, SKIP_REASON_BYTES_MAX, SkipRefusal, may_skip};
pub use start::{LocalFacts, LogFacts, StartStep, may_replay_from_first, next_step};
pub use status::{
    ArchivedSnapshot, BlockedReason, FinishedRestore, PartitionState, ReplicaStatus, RestoreKind,
    RestorePhase, RunningExport, RunningRestore,
};
