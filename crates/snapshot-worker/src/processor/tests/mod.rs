//! Whole workers over a log in memory and an object store in memory.

mod bed;
mod blocked;
mod fencing;
mod forking;
mod full_disk;
mod killed;
mod leading;
mod many;
mod neighbours;
mod proposing;
mod rebuilding;
mod replicas;
mod restoring;
mod site;
mod skipping;
mod stalling;
mod stopping;

pub(super) use forking::forked_manifest;
