//! The words every part of Tidemark shares: positions, identities, hashes, time and randomness.

mod clock;
mod digest;
mod entropy;
mod hash;
mod identity;
mod incarnation;
mod lsn;
mod node;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use digest::PairDigest;
pub use entropy::{Entropy, Seams};
pub use hash::{ChainHash, ContentHash, HashParseError, RecordHash, StateDigest};
pub use identity::{AdminSession, ClusterIdentity, Fingerprint, RequestId, SnapshotId, WriteId};
pub use incarnation::{Incarnation, IncarnationId, Lineage};
pub use lsn::Lsn;
pub use node::{LeaderEpoch, Leadership, NodeId, NodeIdError, PartitionId, ReplicaRole};
