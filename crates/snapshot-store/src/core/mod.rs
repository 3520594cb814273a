//! The three decisions that destroy something, as pure functions over plain values.
//!
//! | Decision | Destroys | Used by |
//! |---|---|---|
//! | [`trim_up_to`] | log records | the admin, before every trim |
//! | [`may_replace_pointer`] | what `latest.json` said before | every publisher, before every swap |
//! | [`may_delete`] | a snapshot's objects | prune and sweep, before every deletion |
//!
//! Nothing else decides these things, and nothing goes around them. [`retained_after`] decides what a new pointer
//! keeps, and thereby what becomes deletable at all. [`plan_reuse`] destroys nothing: it says which files of a download
//! may lie on this disk already. Nor does [`plan_recovery`]: it says what a lost log is continued from.

mod delete;
mod hold;
mod recover;
mod replace;
mod retention;
mod reuse;
mod trim;

pub use delete::{DeleteFacts, DeleteScope, KeepReason, may_delete};
pub use hold::HoldReason;
pub use recover::{
    Loss, Recovery, RecoveryFacts, RecoveryRefusal, RecoveryStep, RegisteredLog, ReplicaClaim, plan_recovery,
};
pub use replace::{PointerCandidate, PointerFloor, ReplaceRefusal, may_replace_pointer};
pub use retention::{retained_after, retained_after_move};
pub use reuse::{CANDIDATES_MAX, Candidate, Listing, ReusePlan, plan_reuse};
pub use trim::{
    LogFacts, ReplicaNeed, SnapshotTrust, TrimBound, TrimDecision, TrimFacts, TrimGrant, TrimRule, trim_up_to,
};
