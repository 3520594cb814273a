//! Where everything of a local cluster is: folders, files, ports.

use super::{
    LocalCluster, Node, PortBlock,
    engine::User,
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
    /// Ports per node: main and metrics; for a NATS server, clients and other servers.
    const PORTS: u16 = 2;
    /// Places of nodes before those of the second admin and the NATS servers: the log, the admin, the workers.
    const PLACES: u16 = 2 + LocalCluster::WORKERS_MAX as u16;

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
            Node::SecondAdmin => Self::PLACES,
            Node::Nats(number) => Self::PLACES + u16::try_from(number).unwrap_or(0),
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
        // Second to last of the block; the last one is for the store.
        format!("127.0.0.1:{}", self.first_port + PortBlock::LENGTH - 2)
    }

    /// Where a NATS server listens to the others.
    pub(super) fn nats_route(&self, node: Node) -> String {
        format!("127.0.0.1:{}", self.port(node, 1))
    }

    pub(super) fn store_listen(&self) -> String {
        store_address(self.first_port)
    }

    pub(super) fn url(&self, node: Node) -> String {
        let scheme = match node {
            Node::Nats(_) => "nats",
            _ => self.scheme(),
        };
        format!("{scheme}://{}", self.listen(node))
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
        let name = match node {
            // The same for all of them.
            Node::Nats(_) => "nats-server.conf".to_owned(),
            _ => format!("{node}.toml"),
        };
        self.dir.join("config").join(name)
    }

    /// What the configuration of the NATS servers includes.
    pub(super) fn nats_users(&self) -> PathBuf {
        self.dir.join("config").join("users.conf")
    }

    pub(super) fn nats_login(&self, user: User) -> PathBuf {
        self.dir.join("config").join(format!("{user}.login"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Engine, Settings};
    use std::collections::BTreeSet;

    #[test]
    fn no_two_services_of_the_largest_cluster_share_a_port() {
        let ports = PortBlock::take().unwrap();
        let workers = LocalCluster::WORKERS_MAX;
        let layout = Layout::new("/tmp".into(), workers, &ClusterStore::Folder, &ports, false);
        let on = |engine| Settings {
            engine,
            second_admin: true,
            ..Settings::default()
        };
        let mut nodes: BTreeSet<Node> = Node::all(workers, &on(Engine::Embedded)).into_iter().collect();
        let program = PathBuf::new();
        nodes.extend(Node::all(workers, &on(Engine::Nats { program })));
        let mut addresses = vec![layout.log_admin_listen(), layout.store_listen()];
        for node in &nodes {
            addresses.extend([layout.listen(*node), layout.metrics_listen(*node)]);
        }
        let distinct: BTreeSet<&String> = addresses.iter().collect();
        assert_eq!(
            (nodes.len(), distinct.len()),
            (14, addresses.len()),
            "{addresses:?}"
        );
        let last = format!("127.0.0.1:{}", ports.port(PortBlock::LENGTH - 1));
        assert!(addresses.iter().all(|address| *address <= last), "{addresses:?}");
    }
}
