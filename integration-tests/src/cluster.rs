//! A local cluster for tests.

use anyhow::{Context, bail};
use std::{
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Duration,
};
use tidemark::cluster::{ClusterSpec, ClusterStore, LocalCluster, Node, Settings, wait_for};

/// Returns the `tidemark` binary: `TIDEMARK_BIN`, or the one next to the tests that run.
///
/// # Errors
/// When it was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDEMARK_BIN") {
        return Ok(path.into());
    }
    // Tests run as `target/<profile>/deps/<test>-<hash>`.
    let test = std::env::current_exe()?;
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("the test has no folder")?;
    let path = profile.join("tidemark");
    if !path.is_file() {
        bail!(
            "{} is missing: run `cargo build --workspace --bins` first, or set TIDEMARK_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// Copies a folder with everything in it.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => std::fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}

/// A cluster in a folder of its own. Unless a test finishes it, the last lines of all nodes are shown at the end and
/// the folder stays.
#[derive(Debug)]
pub struct TestCluster {
    cluster: LocalCluster,
    dir: PathBuf,
    finished: bool,
}

impl TestCluster {
    /// Starts a cluster in a folder below `base` that begins with `name` and is this process's own: some test runners
    /// give every test a process.
    ///
    /// # Errors
    /// When a node does not start.
    pub async fn launch(
        base: &str,
        name: &str,
        workers: u32,
        partitions: u32,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(base, name, workers, partitions, settings)?;
        cluster.start(Node::Log).await?;
        cluster.init().await?;
        for node in cluster.nodes() {
            if node != Node::Log {
                cluster.start(node).await?;
            }
        }
        cluster.until_healthy(Duration::from_secs(60)).await?;
        Ok(cluster)
    }

    /// The same without a cluster in it yet, and with nothing started.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn prepare(
        base: &str,
        name: &str,
        workers: u32,
        partitions: u32,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        Self::prepare_on(ClusterStore::Folder, base, name, workers, partitions, settings)
    }

    /// The same with another store.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn prepare_on(
        store: ClusterStore,
        base: &str,
        name: &str,
        workers: u32,
        partitions: u32,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let dir = Path::new(base).join(format!("{name}-{}", std::process::id()));
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let spec = ClusterSpec {
            name: name.to_owned(),
            dir: dir.clone(),
            binary: binary()?,
            workers,
            partitions,
            store,
            settings,
        };
        Ok(TestCluster {
            cluster: LocalCluster::create(spec)?,
            dir,
            finished: false,
        })
    }

    /// Waits until every partition is led, and active on every worker.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn until_healthy(&self, within: Duration) -> anyhow::Result<()> {
        let (endpoints, partitions) = (self.cluster.endpoints(), self.cluster.spec().partitions);
        wait_for(
            "every partition to be led and active everywhere",
            within,
            async || {
                for worker in 1..=endpoints.workers() {
                    let status = endpoints
                        .worker_status(worker)
                        .await
                        .map_err(|error| error.to_string())?;
                    let active = status.partitions.iter().filter(|replica| {
                        replica.state() == snapshot_proto::v1::PartitionState::Active
                            && replica.leader.is_some()
                    });
                    if active.count() != partitions as usize {
                        let states: Vec<_> = status
                            .partitions
                            .iter()
                            .map(|replica| {
                                (
                                    replica.partition,
                                    replica.state().as_str_name(),
                                    &replica.blocked_detail,
                                )
                            })
                            .collect();
                        return Err(format!("worker {worker}: {states:?}"));
                    }
                }
                endpoints
                    .cluster_status()
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            },
        )
        .await?;
        Ok(())
    }

    /// Ends a test that went well: no node has panicked, and the folder is removed.
    ///
    /// # Errors
    /// When a node has panicked.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.check_no_panics()?;
        self.finished = true;
        Ok(())
    }

    /// Fails when the output of any node so far tells of a panic.
    ///
    /// # Errors
    /// With the first lines that do.
    pub fn check_no_panics(&self) -> anyhow::Result<()> {
        for node in self.cluster.nodes() {
            let log = match std::fs::read(self.cluster.log_path(node)) {
                // It was never started: a cluster on NATS has no log server.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                read => read?,
            };
            let log = String::from_utf8_lossy(&log);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                bail!("{node} panicked: {line}");
            }
        }
        Ok(())
    }
}

impl Deref for TestCluster {
    type Target = LocalCluster;
    fn deref(&self) -> &LocalCluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut LocalCluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.cluster.kill_all();
        if !self.finished {
            for node in self.cluster.nodes() {
                eprintln!(
                    "--- last lines of {node} ({}):",
                    self.cluster.log_path(node).display()
                );
                eprintln!("{}", self.cluster.log_tail(node));
            }
        } else {
            // What cannot be removed is removed by the next run.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
