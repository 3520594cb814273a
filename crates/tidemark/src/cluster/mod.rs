//! A whole cluster on this machine: one log, one admin and some workers as separate processes on loopback.
//!
//! The demo and the integration tests run the real binary through this: configuration files, processes, ports,
//! signals. Every wait has a deadline. Processes are ended by their id, when their handle is dropped, and by
//! themselves when this process dies, because each watches its standard input (`--exit-on-stdin-close`).
//!
//! Not here: what a scenario does to the cluster (`demo`, `integration-tests`).

mod config;
mod endpoints;
mod error;
mod layout;
mod local;
mod ports;
mod process;
mod store;
mod wait;

pub use config::{Credentials, Settings};
pub use endpoints::Endpoints;
pub use error::ClusterError;
pub use local::{ClusterSpec, LocalCluster};
pub use ports::PortBlock;
pub use store::{ClusterStore, StorePlace};
pub use wait::wait_for;

use std::fmt;

/// One process of a local cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The log server.
    Log,
    /// The admin.
    Admin,
    /// A worker, counted from 1.
    Worker(u32),
}

impl Node {
    /// Returns the log, the admin and `workers` workers, in the order in which they are started.
    pub fn all(workers: u32) -> Vec<Node> {
        [Node::Log]
            .into_iter()
            .chain((1..=workers).map(Node::Worker))
            .chain([Node::Admin])
            .collect()
    }
}

/// Writes the node id.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Log => f.write_str("log-1"),
            Node::Admin => f.write_str("admin-1"),
            Node::Worker(number) => write!(f, "worker-{number}"),
        }
    }
}
