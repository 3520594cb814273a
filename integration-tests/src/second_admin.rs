//! Another admin beside that of a cluster.

use crate::{SingleNode, TestCluster};
use std::path::PathBuf;
use tidemark::cluster::{Node, PortBlock};

/// A second admin like the first one, under another name and at other ports. Starts nothing by itself.
#[derive(Debug)]
pub struct SecondAdmin {
    config: PathBuf,
    log: PathBuf,
    url: String,
}

impl SecondAdmin {
    /// Writes its configuration: that of the first admin as it is now.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn prepare(cluster: &TestCluster, ports: &PortBlock) -> anyhow::Result<Self> {
        let listen = format!("127.0.0.1:{}", ports.port(0));
        let first = cluster.endpoints();
        let text = std::fs::read_to_string(cluster.config_path(Node::Admin))?
            .replace(&first.url(Node::Admin)["http://".len()..], &listen)
            .replace(
                first.metrics_address(Node::Admin),
                &format!("127.0.0.1:{}", ports.port(1)),
            )
            .replace("\"admin-1\"", "\"admin-2\"");
        let config = cluster.config_path(Node::Admin).with_file_name("admin-2.toml");
        std::fs::write(&config, text)?;
        Ok(SecondAdmin {
            config,
            log: cluster.log_path(Node::Admin).with_file_name("admin-2.log"),
            url: format!("http://{listen}"),
        })
    }

    /// Starts it; what it says begins anew. It is killed when the returned value is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self) -> anyhow::Result<SingleNode> {
        let config = self.config.to_string_lossy();
        let arguments = ["admin", "--config", &config, "--exit-on-stdin-close"];
        SingleNode::spawn(&arguments, &self.log)
    }

    /// Returns the URL of its service.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}
