//! One log per partition: the contract every engine keeps, and the engines.
//!
//! LSNs are dense and begin at 1. The *trim point* is the highest LSN removed (inclusive, 0 when none), the *tail*
//! the first unwritten LSN (exclusive). A log has an incarnation; everything is asked of one incarnation and
//! refused for another.
//!
//! | Feature | Engine |
//! |---|---|
//! | `memory` | in memory, with switches for faults |
//! | `embedded` | its own RocksDB, one committer thread, group commit with fsync |
//! | `remote` | gRPC server over any engine, and the client |
//! | `nats` | NATS JetStream: one replicated stream per partition and incarnation |
//! | `conformance` | the suite that every engine runs |

mod contract;
pub mod copy;
mod error;
mod moving;
#[cfg(any(
    feature = "memory",
    feature = "embedded",
    feature = "remote",
    feature = "nats"
))]
#[cfg_attr(
    not(all(feature = "memory", feature = "embedded")),
    allow(dead_code, reason = "the client needs a part")
)]
mod position;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "remote")]
pub mod remote;

pub use contract::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Base, Log, LogAdmin, LogInfo, RECORD_BYTES_MAX, RecordBatch,
    RecordStream, Registration,
};
pub use error::{AppendError, LogError, ProvisionError, ReadError};
pub use moving::{LogMove, Passage, may_change};
