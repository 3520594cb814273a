//! A whole cluster on this machine: what keeps the logs, one admin or two, and some workers, as separate processes on loopback.
//!
//! The demo and the integration tests run the real binary through this: configuration files, processes, ports,
//! signals. Every wait has a deadline. Processes are ended by their id, when their handle is dropped, and by
//! themselves when this process dies, because each watches its standard input (`--exit-on-stdin-close`), or a shell beside
//! it does.
//!
//! Not here: what a scenario does to the cluster (`demo`, `integration-tests`).

mod config;
mod endpoints;
mod engine;
mod error;
mod layout;
mod local;
mod ports;
mod process;
mod store;
mod wait;

pub use config::{Credentials, Settings};
pub use endpoints::Endpoints;
pub use engine::Engine;
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
    /// Another admin, which takes over when the first one is gone.
    SecondAdmin,
    /// A NATS server, counted from 1.
    Nats(u32),
}

impl Node {
    /// Returns everything that is started for a cluster with `workers` workers and these settings, in that order.
    pub fn all(workers: u32, settings: &Settings) -> Vec<Node> {
        let mut nodes = settings.engine.nodes();
        nodes.extend((1..=workers).map(Node::Worker));
        nodes.push(Node::Admin);
        nodes.extend(settings.second_admin.then_some(Node::SecondAdmin));
        nodes
    }

    /// Returns whether it keeps the logs: such nodes are started first and ended last.
    pub fn keeps_logs(self) -> bool {
        matches!(self, Node::Log | Node::Nats(_))
    }
}

/// Writes the node id.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Log => f.write_str("log-1"),
            Node::Admin => f.write_str("admin-1"),
            Node::Worker(number) => write!(f, "worker-{number}"),
            Node::SecondAdmin => f.write_str("admin-2"),
            Node::Nats(number) => write!(f, "nats-{number}"),
        }
    }
}
