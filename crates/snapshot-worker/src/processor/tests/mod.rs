//! Whole workers over a log in memory and an object store in memory.

mod bed;
mod blocked;
mod forking;
mod leading;
mod many;
mod proposing;
mod replicas;
mod restoring;

pub(super) use forking::forked_manifest;
