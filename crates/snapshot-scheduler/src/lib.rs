//! The admin of a Tidemark cluster, embeddable.
//!
//! **observe** (status of all workers, log info) → **plan** (pure; commands, and for every partition the reason for
//! what it did not do) → **execute** (bounded, idempotent).
//!
//! | Module | What it does |
//! |---|---|
//! | [`core`] | view, policy and plan: plain values and pure decisions |
//! | `observe` | polls workers and logs |
//! | `archive` | reads pointers and the control state, writes sticky holds |
//! | `execute` | carries out the plan's commands |
//! | `trim` | the protocol around the one decision that destroys log records |
//! | `scheduler`, `handle`, `service` | builds and runs it; status and operator requests; gRPC |
//!
//! Not here: how a snapshot is made (`snapshot-worker`), what is stored and how far a log may be trimmed
//! (`snapshot-store`). A lease, a continuous audit and reloading the policy take their places beside `archive`,
//! `execute` and `scheduler`; safety does not rest on them.

#![forbid(unsafe_code)]

mod archive;
mod client;
pub mod core;
mod execute;
mod handle;
pub mod metrics;
mod observe;
mod scheduler;
mod service;
mod state;
mod status;
mod trim;
mod wire;

pub use client::{GrpcWorker, SnapshotEvents, WorkerAddressError, WorkerClient, WorkerError, WorkerSpec};
pub use core::{CandidateChoice, Plan, Policy, PolicyFault, SchedulerOptions};
pub use handle::{OrderError, PauseError, SchedulerHandle};
pub use scheduler::{BuildError, Scheduler, SchedulerBuilder};
pub use service::AdminService;
pub use trim::{TrimMode, TrimReport, TrimResult};
