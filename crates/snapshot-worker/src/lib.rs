//! The partition side of Tidemark, in two levels.
//!
//! 1. [`agent`]: [`SnapshotAgent`](agent::SnapshotAgent) over [`PartitionHost`](agent::PartitionHost) does declines,
//!    export, publish, restore and verification, and serves gRPC. It knows no apply loop: a service that has its
//!    own RocksDB and its own election adopts this.
//! 2. [`processor`]: [`Worker`](processor::Worker) with a [`StateMachine`](processor::StateMachine) is the full
//!    partition processor on top of it: RocksDB state, apply loop, leadership from the log, acknowledged writes.
//!
//! [`core`] decides on plain values for both. [`prelude`] has what an embedder names. Whole programs are explained line by
//! line in the source tree: `examples/existing-service` (level 1) and `examples/ledger` (level 2).

pub mod agent;
pub mod core;
mod failpoint;
pub mod metrics;
pub mod prelude;
pub mod processor;

pub use snapshot_store::Blocking;
