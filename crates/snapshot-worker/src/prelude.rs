//! What an embedding service names, of this crate and of those below it: `use snapshot_worker::prelude::*`.

pub use crate::agent::{
    AgentConfig, CheckpointFacts, HostError, LocalIdentity, PartitionHost, RestoreOutcome, RestoreRequest,
    SnapshotAgent, checkpoint_family, read_family,
};
pub use crate::core::{BlockedReason, PartitionState, ReplicaStatus};
pub use crate::processor::{
    ApplyError, Keyspace, PartitionHandle, StateMachine, StateView, Transaction, Worker, WorkerOptions,
};
pub use partition_log::{Log, LogAdmin, ReadError, RecordBatch, Registration};
pub use snapshot_store::format::{KeyRange, Manifest, StateMachineVersion};
pub use snapshot_store::{
    ClusterSpec, Fingerprint, Incarnation, LeaderEpoch, Leadership, Lsn, NodeId, PartitionId, ReplicaRole,
    Repository, Seams,
};
