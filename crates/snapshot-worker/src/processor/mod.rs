//! Level 2: the full partition processor.
//!
//! One task per partition applies its log to a RocksDB state of its own. The state says of itself up to which LSN
//! it was applied, in the same write as the data; what a crash takes away, the log gives back.
//!
//! | File | What it does |
//! |---|---|
//! | `state_machine` | what an embedder writes |
//! | `worker`, `view` | what an embedder calls |
//! | `task`, `connect`, `follow` | the task of one partition |
//! | `skip`, `rebuild` | a record that cannot be applied, a state that is damaged |
//! | `apply` | a run of records into one write |
//! | `proposer`, `propose` | getting records into the log in a term of one's own, each at most once |
//! | `adopt` | making a forked snapshot's state this cluster's own |
//! | `replica` | what task, agent and users share of one partition |
//! | `store`, `metadata`, `layout`, `exchange`, `inspect` | the state on disk |
//!
//! Invariants:
//! - Data and applied LSN change in one write; the durable LSN is told only after a flush that began later.
//! - A state is replaced only by one that was verified, and only while it is closed.
//! - A write is acknowledged only when its own record was applied as accepted.
//! - The object store is asked only when local state and log do not suffice.
//!
//! Not here: making snapshots without an admin (`agent`, `autonomous`).

mod adopt;
mod apply;
mod connect;
mod exchange;
mod follow;
mod inspect;
mod judged;
mod layout;
mod metadata;
mod propose;
mod proposer;
mod rebuild;
mod replica;
mod skip;
mod state_machine;
mod store;
mod task;
mod view;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use inspect::host_error;
pub use inspect::inspect_state;
pub use metadata::StateMetadata;
pub use propose::{Applied, COMMAND_BYTES_MAX, LeadError, ProposeError};
pub use state_machine::{ApplyError, Changes, Keyspace, StateMachine, Transaction};
pub use store::{
    FLUSH_THREADS, RocksEngine, RocksOptions, StateEngine, StateError, StateSnapshot, StateStore, StoredPair,
    Visit,
};
pub use view::{PartitionHandle, StateFacts, StateView, ViewError};
pub use worker::{CLOSE_PARTITION_MAX, Worker, WorkerError, WorkerOptions};
