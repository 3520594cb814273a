//! What can go wrong between the client and the cluster.

use super::{import::ImportError, rules::Refusal};
use crate::wire_security::AddressError;
use snapshot_store::PartitionId;

/// A request to the cluster did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// No address was given.
    #[error("no worker to ask: name at least one with --worker URL or TIDEMARK_WORKERS")]
    NoWorkers,
    /// An address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No worker answered.
    #[error("no worker answers at {addresses}: check that one runs and that the address is right ({detail})")]
    Unreachable {
        /// The addresses asked.
        addresses: String,
        /// What the last one said.
        detail: String,
    },
    /// The client refuses it without asking.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A worker refuses it for good.
    #[error("{message}")]
    Rejected {
        /// The stable word for it; empty when the worker gave none.
        reason: String,
        /// What the worker said.
        message: String,
    },
    /// It was tried until patience ran out. A write may have taken effect.
    #[error(
        "partition {partition}: gave up after {attempts} attempts in {seconds} s: {last}; see `tidemark status` for its leader"
    )]
    GaveUp {
        /// The partition.
        partition: PartitionId,
        /// How often it was tried.
        attempts: u32,
        /// For how long.
        seconds: u64,
        /// What was answered last.
        last: String,
    },
    /// A worker spreads keys in a way that this client does not know.
    #[error("the cluster spreads keys by {key_hash:?}, which this client does not know: update the client")]
    UnknownKeyHash {
        /// The name of the way.
        key_hash: String,
    },
    /// The source of an import cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Two replicas, or the pages of one scan, contradict each other.
    #[error("partition {partition}: {detail}")]
    Inconsistent {
        /// The partition.
        partition: PartitionId,
        /// What was seen.
        detail: String,
    },
}
