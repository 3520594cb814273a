//! Whole workers over a log in memory and an object store in memory.

mod bed;
mod blocked;
mod forking;
mod leading;
mod proposing;
mod replicas;
mod restoring;
mod stalling;

pub(super) use forking::forked_manifest;
