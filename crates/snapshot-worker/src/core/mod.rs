//! Pure decisions and plain values of the worker side: no async, clock, randomness, I/O or metrics.

mod chain;
mod choose;
mod decline;
mod leadership;
mod rebuild;
mod record;
mod skip;
mod start;
mod status;

pub use chain::Chain;
pub use choose::{
    PassReason, PointerRefusal, RestoreCandidates, RestoreNeed, check_owner, restore_candidates,
};
pub use decline::{Coverage, Decline, ExportFacts, coverage, decide_export};
pub use leadership::{Outcome, Verdict, judge, next_epoch};
pub use rebuild::{RebuildCounts, RebuildPlan, RebuildReason, RebuildSource, rebuild_source};
pub use record::{LedBody, Record, RecordError};
pub use skip::{PoisonRecord, SKIP_REASON_BYTES_MAX, SkipRefusal, may_skip};
pub use start::{LocalFacts, LogFacts, StartStep, may_replay_from_first, next_step};
pub use status::{
    ArchivedSnapshot, BlockedReason, FinishedRestore, PartitionState, ReplicaStatus, RestoreKind,
    RunningExport, RunningRestore,
};
