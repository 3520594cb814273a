//! What the tests with real processes share.
//!
//! - [`TestCluster`]: a cluster that shows its logs when a test fails.
//! - [`SingleNode`]: one process beside it, for configurations that must not work.
//! - [`SecondAdmin`]: another admin of a cluster.
//! - [`on_nats`]: a cluster whose logs are on NATS servers.
//! - [`acknowledged`]: a load of writes while nodes are killed, and what must be there afterwards.
//! - [`rounds`]: how often a test disturbs a cluster, and by which choices.
//! - [`bucket`]: an independent reader of the object store: plain JSON and hashes, none of the project's own code.
//! - [`replicas`]: what each replica holds, read over gRPC.
//! - [`Authority`]: certificates and tokens, made when a test runs.
//! - [`s3_server`]: an S3 server on loopback, in a process of its own or in that of a test.
//! - [`scrape`]: a node's metrics.
//! - [`store_servers`]: object store servers of other makes.
//! - [`fault_proxy`]: what stands between a client and a server and breaks what passes, by a plan.

pub mod acknowledged;
pub mod bucket;
mod cluster;
mod credentials;
pub mod fault_proxy;
mod node;
pub mod on_nats;
pub mod replicas;
pub mod rounds;
pub mod s3_server;
mod scrape;
mod second_admin;
pub mod store_servers;

pub use cluster::{TestCluster, binary, copy_folder};
pub use credentials::Authority;
pub use node::SingleNode;
pub use scrape::scrape;
pub use second_admin::SecondAdmin;
