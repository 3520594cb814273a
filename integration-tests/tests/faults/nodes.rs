//! Nodes that are gone, or cannot start.

use crate::shared::{Lease, WITHIN, lease, says, words};
use anyhow::{Context, ensure};
use integration_tests::SingleNode;
use snapshot_proto::v1::Liveness;
use std::{net::TcpListener, path::PathBuf, time::Duration};
use tidemark::cluster::{Node, PortBlock, wait_for};

#[tokio::test]
async fn an_unreachable_worker_is_named_and_the_others_go_on() -> anyhow::Result<()> {
    let mut lease = lease().await?;
    lease.kill(Node::Worker(3))?;
    let gone = wait_for("the admin to see that worker-3 is gone", WITHIN, async || {
        let status = lease
            .endpoints()
            .cluster_status()
            .await
            .map_err(|error| error.to_string())?;
        let node = status.nodes.into_iter().find(|node| node.node == "worker-3");
        let node = node.ok_or_else(|| "worker-3 is not in the status".to_owned())?;
        if node.liveness() == Liveness::Gone {
            Ok(node)
        } else {
            Err(format!("{node:?}"))
        }
    })
    .await?;
    ensure!(!gone.error.is_empty(), "{gone:?}");
    ensure!(gone.address == lease.endpoints().url(Node::Worker(3)), "{gone:?}");
    lease.goes_on(&[0, 1, 2]).await?;

    let address = lease.endpoints().url(Node::Worker(3)).to_owned();
    let ran = lease
        .run(
            &["kv", "get", "kept", "--worker", &address],
            Duration::from_secs(60),
        )
        .await;
    says(
        &ran.err().context("a dead worker answered")?.to_string(),
        &[&address, "check that one runs"],
    )?;
    lease.start(Node::Worker(3)).await?;
    lease.give_back().await
}

/// A fourth worker's configuration, which a test then spoils.
struct Fourth {
    folder: tempfile::TempDir,
    ports: PortBlock,
    text: String,
}

impl Fourth {
    fn of(lease: &Lease) -> anyhow::Result<Self> {
        let (folder, ports) = (tempfile::tempdir()?, PortBlock::take()?);
        let like = std::fs::read_to_string(lease.config_path(Node::Worker(1)))?;
        let text = like
            .replace(
                &lease.data_dir(Node::Worker(1)).to_string_lossy().into_owned(),
                &folder.path().join("data").to_string_lossy(),
            )
            .replace(
                &lease.endpoints().url(Node::Worker(1))["http://".len()..],
                &format!("127.0.0.1:{}", ports.port(0)),
            )
            .replace(
                lease.endpoints().metrics_address(Node::Worker(1)),
                &format!("127.0.0.1:{}", ports.port(1)),
            )
            .replace("\"worker-1\"", "\"worker-4\"");
        Ok(Fourth { folder, ports, text })
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn spawn(&self) -> anyhow::Result<SingleNode> {
        let config = self.folder.path().join("worker-4.toml");
        std::fs::write(&config, &self.text)?;
        let arguments = [
            "worker",
            "--config",
            &config.to_string_lossy(),
            "--exit-on-stdin-close",
        ];
        SingleNode::spawn(&arguments, &self.folder.path().join("said"))
    }
}

#[tokio::test]
async fn wrong_configuration_keys_are_all_named_at_once() -> anyhow::Result<()> {
    let lease = lease().await?;
    let mut fourth = Fourth::of(&lease)?;
    fourth.text = format!("snapshot_evry = 5\n{}\n[limitz]\nexports_max = 1\n", fourth.text);
    let (status, said) = fourth.spawn()?.until_ended(WITHIN).await?;
    ensure!(!status.success(), "{said}");
    says(&said, &["snapshot_evry", "limitz", "worker-4.toml"])?;
    ensure!(
        !fourth.data_dir().exists(),
        "a folder was made before the configuration was right"
    );
    lease.give_back().await
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() -> anyhow::Result<()> {
    let lease = lease().await?;
    let fourth = Fourth::of(&lease)?;
    let _taken = TcpListener::bind(("127.0.0.1", fourth.ports.port(0)))?;
    let (status, said) = fourth.spawn()?.until_ended(WITHIN).await?;
    ensure!(!status.success(), "{said}");
    says(
        &said,
        &[
            &format!("127.0.0.1:{}", fourth.ports.port(0)),
            "`listen`",
            "in use",
        ],
    )?;
    lease.give_back().await
}

#[tokio::test]
async fn a_missing_bucket_is_named_and_waited_for() -> anyhow::Result<()> {
    let lease = lease().await?;
    let mut fourth = Fourth::of(&lease)?;
    let missing = fourth.folder.path().join("no-bucket");
    let missing_url = format!("file://{}", missing.display());
    fourth.text = fourth.text.replace(&lease.store_url(), &missing_url);
    let node = fourth.spawn()?;
    let said = node.until_said(&["no-bucket", "cluster init"], WITHIN).await?;
    ensure!(
        !said.lines().any(|line| line.starts_with("ready ")),
        "it claims to serve: {said}"
    );
    says(&said, &[])?;
    ensure!(
        !missing.join("cluster.json").exists(),
        "a worker must not create a cluster"
    );
    lease.give_back().await
}

#[tokio::test]
async fn a_foreign_bucket_is_refused_before_anything_is_stored() -> anyhow::Result<()> {
    let lease = lease().await?;
    let mut fourth = Fourth::of(&lease)?;
    let foreign = fourth.folder.path().join("foreign");
    std::fs::create_dir(&foreign)?;
    let text = std::fs::read_to_string(lease.bucket_dir().join("cluster.json"))?;
    let mut record: serde_json::Value = serde_json::from_str(&text)?;
    record["cluster"]["fingerprint"] = "00112233445566778899aabbccddeeff".into();
    std::fs::write(foreign.join("cluster.json"), serde_json::to_vec_pretty(&record)?)?;
    fourth.text = fourth
        .text
        .replace(&lease.store_url(), &format!("file://{}", foreign.display()));
    let (status, said) = fourth.spawn()?.until_ended(WITHIN).await?;
    ensure!(!status.success(), "{said}");
    says(&said, &["belongs to cluster", "store.url"])?;
    ensure!(
        !fourth.data_dir().join("identity.json").exists(),
        "a foreign identity was adopted"
    );
    let stored: Vec<_> = std::fs::read_dir(&foreign)?.collect();
    ensure!(
        stored.len() == 1,
        "something was written to the foreign bucket: {stored:?}"
    );
    lease.give_back().await
}

#[tokio::test]
async fn a_foreign_pointer_holds_its_partition_alone() -> anyhow::Result<()> {
    let lease = lease().await?;
    let spoilt = crate::store::Spoilt::pointer(&lease, 0, |text| {
        let mut pointer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        pointer["cluster"]["fingerprint"] = "00112233445566778899aabbccddeeff".into();
        pointer.to_string()
    })
    .await?;
    let held = lease.until_held(0, &["foreign-identity"]).await?;
    says(
        &words(Some(&held)),
        &["0/latest.json", "00112233445566778899aabbccddeeff"],
    )?;
    ensure!(!held.remedy.is_empty(), "{held:?}");
    lease.goes_on(&Lease::others(0)).await?;
    spoilt.mend(&lease).await?;
    lease.give_back().await
}
