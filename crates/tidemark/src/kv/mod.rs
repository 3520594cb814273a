//! The built-in key-value state machine: a replicated key-value view of the log.
//!
//! - [`rules`]: what a key and a value may be; the same for client, server and state machine.
//! - [`machine`]: applies commands to a partition's state.
//! - [`service`]: the gRPC side of a worker.
//! - [`client`]: finds leaders, follows hints, retries; [`import`] reads files for it.

pub mod client;
mod digest;
mod error;
pub mod import;
mod importer;
pub mod machine;
mod routes;
pub mod rules;
pub mod service;

pub use client::KvClient;
pub use digest::{ClusterDigest, PartitionScan};
pub use error::KvError;
pub use importer::{ImportProgress, ImportReport};

#[cfg(test)]
mod tests;
