//! Pure decisions and plain values of the admin: no async, no clock, no I/O, no metrics. Randomness is an argument.
//!
//! | Decision | Where |
//! |---|---|
//! | what to do next | [`plan()`] |
//! | is a snapshot due, and who is asked | [`decide_snapshot`] |
//! | who is asked to lead | [`decide_leadership`] |
//! | does evidence forbid trimming | [`chain_mismatch`], [`highest_claim`], [`reported_regression`], [`view_hold`], [`version_hold`] |
//! | what is looked at again | [`decide_audit`], [`content_due`] |
//! | which admin acts, and what to do about the lease | [`standing`], [`decide_lease`] |
//! | what is the matter with a partition, and what is missing for its next step | [`condition()`], [`until_snapshot`] |
//! | how far to trim | `snapshot_store::core::trim_up_to` |

mod audit;
mod begun;
mod candidate;
mod change;
mod condition;
mod evidence;
mod leadership;
mod lease;
mod looked;
mod next;
mod options;
mod plan;
mod policy;
mod price;
mod reason;
mod snapshot;
mod thresholds;
mod view;

pub use audit::{
    AUDIT_TRIES, AuditMemory, AuditPass, AuditPolicy, AuditProgress, AuditStep, AuditWait, Instants, ReadAge,
    audit_progress, content_due, decide_audit,
};
pub use begun::{LEAD_TIMEOUT, NOOP_SPACING, note_begun};
pub use change::{PolicyChange, policy_changes};
pub use condition::{ConditionFacts, condition};
pub use evidence::{
    chain_mismatch, evidence_hold, highest_claim, reported_regression, version_hold, view_hold,
};
pub use leadership::{
    Counts, LEAD_LAG_RECORDS_MAX, LeadershipDecision, decide_leadership, live_leader, live_leader_of,
};
pub use lease::{
    Candidate, LEASE_TERM_MAX, LeaseDecision, LeaseFailure, LeaseStanding, LeaseStep, LeaseView, LeaseWish,
    decide_lease, standing,
};
pub use looked::{CountedReplica, Looked};
pub use next::{Since, grouped, held_by_replica, until_snapshot};
pub use options::SchedulerOptions;
pub use plan::{
    Command, PartitionPlan, Plan, TRIM_RECHECK, TRIM_RECHECK_IDLE, TRIM_SPACING, TRIMS_MAX, VERIFIES_MAX,
    plan, trim_hint,
};
pub use policy::{CandidateChoice, Policy, PolicyFault};
pub use price::{FreedBytes, PriceFacts, RestorePrice, TrimPrice, price};
pub use reason::{
    AuditResult, Condition, LeadershipCode, LeaseCode, LeaseReason, Reason, SnapshotCause, SnapshotCode,
    TrimStatus, VerifyCause,
};
pub use snapshot::{
    Budget, Demand, SnapshotCommand, SnapshotDecision, SnapshotStep, decide_snapshot, since_latest,
};
pub use thresholds::{PolicyOverride, Thresholds};
pub use view::{
    ArchiveView, ClusterView, ControlView, Liveness, LogView, ManifestFacts, Moment, NodeView, PartitionView,
    ReplicaReport, ReplicaState, RunningOrder, Timing, TrimHint, TrimMemory,
};
