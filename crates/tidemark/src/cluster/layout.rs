//! Where everything of a local cluster is: folders, files, ports.

use super::{
    Node, PortBlock,
    store::{ClusterStore, StorePlace},
};
use std::path::{Path, PathBuf};

/// Where everything of a local cluster is.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    pub(super) workers: u32,
    first_port: u16,
    pub(super) store: StorePlace,
    tls: bool,
}

impl Layout {
    /// Ports per node: main, metrics, and one more for the log's administration.
    const PORTS: u16 = 3;

    pub(super) fn new(
        dir: PathBuf,
        workers: u32,
        store: &ClusterStore,
        ports: &PortBlock,
        tls: bool,
    ) -> Self {
        let first_port = ports.port(0);
        let store = store.place(&bucket_in(&dir), &store_address(first_port));
        Layout {
            dir,
            workers,
            first_port,
            store,
            tls,
        }
    }

    fn port(&self, node: Node, index: u16) -> u16 {
        let place = match node {
            Node::Log => 0,
            Node::Admin => 1,
            Node::Worker(number) => 1 + u16::try_from(number).unwrap_or(0),
        };
        self.first_port + place * Self::PORTS + index
    }

    pub(super) fn listen(&self, node: Node) -> String {
        format!("127.0.0.1:{}", self.port(node, 0))
    }

    pub(super) fn metrics_listen(&self, node: Node) -> String {
        format!("127.0.0.1:{}", self.port(node, 1))
    }

    pub(super) fn log_admin_listen(&self) -> String {
        format!("127.0.0.1:{}", self.port(Node::Log, 2))
    }

    pub(super) fn store_listen(&self) -> String {
        store_address(self.first_port)
    }

    pub(super) fn url(&self, node: Node) -> String {
        format!("{}://{}", self.scheme(), self.listen(node))
    }

    pub(super) fn log_admin_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.log_admin_listen())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub(super) fn data_dir(&self, node: Node) -> PathBuf {
        self.dir.join("data").join(node.to_string())
    }

    pub(super) fn bucket(&self) -> PathBuf {
        bucket_in(&self.dir)
    }

    pub(super) fn config(&self, node: Node) -> PathBuf {
        self.dir.join("config").join(format!("{node}.toml"))
    }

    pub(super) fn log(&self, node: Node) -> PathBuf {
        self.dir.join("logs").join(format!("{node}.log"))
    }

    pub(super) fn store_log(&self) -> PathBuf {
        self.dir.join("logs").join("store.log")
    }
}

fn bucket_in(dir: &Path) -> PathBuf {
    dir.join("bucket")
}

/// Returns where a server of the store listens: at the last port of the block, behind those of all nodes.
fn store_address(first_port: u16) -> String {
    format!("127.0.0.1:{}", first_port + PortBlock::LENGTH - 1)
}
