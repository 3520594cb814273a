//! Generated code of the wire API in `proto/`, and nothing else.

/// Package `tidemark.v1`: records, log, worker and admin services.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod v1 {
    tonic::include_proto!("tidemark.v1");
}

/// Package `tidemark.kv.v1`: the built-in key-value state machine.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod kv {
    tonic::include_proto!("tidemark.kv.v1");
}

/// Descriptors of all packages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
