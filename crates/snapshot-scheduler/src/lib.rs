//! The admin of a Tidemark cluster, embeddable.
//!
//! **observe** (status of all workers, log info) → **plan** (pure; commands, and for every partition the reason for
//! what it did not do) → **execute** (bounded, idempotent).
//!
//! | Module | What it does |
//! |---|---|
//! | [`core`] | view, policy and plan: plain values and pure decisions |
//! | `cluster_log`, `client`, `workers` | the seams: logs, a worker, and which workers there are |
//! | `observe`, `told` | polls workers and logs; what workers are told with that |
//! | `archive` | reads pointers and the control state, writes sticky holds |
//! | `audit` | looks at all published snapshots again and again, within a budget of requests |
//! | `presence` | looks whether one snapshot is complete |
//! | `lease` | of several admins, sees to it that one acts |
//! | `execute`, `verify` | carry out the plan's commands |
//! | `trim` | the protocol around the one decision that destroys log records |
//! | `export`, `status`, `explain` | the view as gauges, as a whole, and one partition of it on a page |
//! | `reload` | changes the policy while it runs |
//! | `scheduler`, `handle`, `service` | builds and runs it; status and operator requests; gRPC |
//!
//! Not here: how a snapshot is made (`snapshot-worker`), what is stored and how far a log may be trimmed
//! (`snapshot-store`). Safety rests neither on the audit nor on the lease.

#![forbid(unsafe_code)]

mod archive;
mod audit;
mod client;
mod cluster_log;
pub mod core;
mod execute;
mod explain;
mod export;
mod handle;
mod lease;
pub mod metrics;
mod observe;
mod presence;
mod reload;
mod scheduler;
mod service;
mod state;
mod status;
mod told;
mod trim;
mod verify;
mod wire;
mod workers;

pub use client::{GrpcWorker, SnapshotEvents, WorkerAddressError, WorkerClient, WorkerError, WorkerSpec};
pub use cluster_log::{ClusterLog, LogParts};
pub use core::{
    AuditPolicy, CandidateChoice, Plan, Policy, PolicyChange, PolicyFault, PolicyOverride, SchedulerOptions,
};
pub use handle::{OrderError, PauseError, SchedulerHandle};
pub use reload::{PolicySource, ReloadError};
pub use scheduler::{BuildError, Scheduler, SchedulerBuilder};
pub use service::AdminService;
pub use trim::{TrimMode, TrimReport, TrimResult};
pub use workers::{WorkersChange, WorkersFault};
