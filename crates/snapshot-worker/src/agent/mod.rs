//! Level 1: snapshots and restores for a service that owns its state.
//!
//! | File | What it does |
//! |---|---|
//! | `host` | the seam to whoever owns the state |
//! | `column_family` | checkpoints for hosts with several partitions in one RocksDB |
//! | `snapshot_agent` | the agent of one node: partitions, status, limits |
//! | `export`, `export_job`, `queue` | makes and publishes a snapshot, in its turn |
//! | `restore`, `restore_job`, `published`, `tried` | brings a published snapshot into a partition |
//! | `repair` | what operators order: skipping a record, rebuilding a state |
//! | `autonomous` | makes snapshots while no admin is there to ask |
//! | `verify`, `compare` | checks a published snapshot |
//! | `identity`, `archived`, `staging` | what lies in the data folder |
//! | `room` | how much of the disk jobs may fill |
//! | `service`, `wire` | gRPC |

mod archived;
mod autonomous;
mod column_family;
mod compare;
mod export;
mod export_job;
mod host;
mod identity;
mod policy;
mod published;
mod queue;
mod repair;
mod restore;
mod restore_job;
mod room;
mod service;
mod slot;
mod snapshot_agent;
mod staging;
mod tried;
mod verify;
mod wire;

pub use column_family::{checkpoint_family, read_family};
pub use compare::differences;
pub use export_job::{CreateSnapshot, ExportEvent, ExportFailure, PublishedExport};
pub use host::{CheckpointFacts, HostError, PartitionHost};
pub use identity::{IdentityError, LocalIdentity};
pub use policy::{ThresholdOverride, WorkerPolicy};
pub use repair::{Covering, RebuildAnswer, RebuildError, SkipError, SkipOrder};
pub use restore_job::{RestoreError, RestoreOutcome, RestoreRequest, ReuseLocal};
pub use service::{AgentService, ROLE_METADATA};
pub use snapshot_agent::{AgentConfig, AgentError, SHUTDOWN_WAIT_MAX, SnapshotAgent};
pub use verify::{VerifyError, VerifyReport};
