//! Why a node did not start. Each message names the thing and says what to do.

use snapshot_store::{ClusterIdentity, Fingerprint, PartitionId};
use std::{io, net::SocketAddr, path::PathBuf};

/// A node cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address} (`{key}`): the port is in use; stop the process that holds it (`ss -ltnp` shows it), or set `{key}` to a free port"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// The configuration key it came from.
        key: &'static str,
    },
    /// Listening failed for another reason.
    #[error(
        "cannot listen on {address} (`{key}`); check that the address belongs to this machine and the port may be used"
    )]
    Listen {
        /// The address.
        address: String,
        /// The configuration key it came from.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It would be reachable from other machines without protection.
    #[error(
        "`{key}` = {address} is not loopback, and gRPC is not protected there: set `tls.cert`, `tls.key` and `auth.accepted_tokens`, or listen on 127.0.0.1"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
        /// The configuration key it came from.
        key: &'static str,
    },
    /// The credentials cannot be used.
    #[error("the credentials cannot be used:{}", faults.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
    Credentials {
        /// All that is wrong with them.
        faults: Vec<crate::config::Fault>,
    },
    /// The data folder cannot be created.
    #[error("cannot create the data folder {} (`data_dir`); check its parent and its permissions", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log belongs to another cluster than the node.
    #[error(
        "the log of partition {partition} at {log} belongs to cluster {found}, but {anchor} to {expected}: correct the section `log` or `store.url`; nothing was changed"
    )]
    ForeignLog {
        /// The partition whose registration was read.
        partition: PartitionId,
        /// Where the log is.
        log: String,
        /// Whose it is.
        found: Fingerprint,
        /// What says otherwise: the store or the data folder.
        anchor: String,
        /// Whose the node is.
        expected: ClusterIdentity,
    },
    /// The log lives in another place.
    #[error("{0}")]
    MovedLog(partition_log::LogError),
    /// The configuration names a partition that the cluster has not.
    #[error("`{key}` names partition {partition}, but the cluster has only 0 to {}: correct the list", partitions.saturating_sub(1))]
    NoSuchPartition {
        /// The configuration key.
        key: String,
        /// The partition.
        partition: PartitionId,
        /// How many the cluster has.
        partitions: u32,
    },
    /// Serving ended with an error.
    #[error("the server on {address} failed")]
    Server {
        /// Where it listened.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The metrics recorder cannot be installed.
    #[error("metrics cannot be collected: {detail}")]
    Metrics {
        /// Why.
        detail: String,
    },
    /// The reflection service cannot be built; a broken build.
    #[error("the descriptors of the services cannot be read: {0}; build this program anew")]
    Descriptors(String),
}
