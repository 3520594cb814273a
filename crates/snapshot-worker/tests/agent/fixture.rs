//! A cluster identity in a store, and nodes with one agent each.

use crate::{host::FakeHost, store::CountingStore};
use futures::StreamExt as _;
use object_store::path::Path;
use snapshot_store::{
    ClusterSpec, Entropy, Incarnation, Lsn, ManualClock, NodeId, PartitionId, Repository, RequestId, Seams,
    Timestamp,
    format::{ClusterRecord, KeyHash, Pointer, PointerEntry},
};
use snapshot_worker::{
    Blocking,
    agent::{
        AgentConfig, CreateSnapshot, ExportEvent, PublishedExport, RestoreError, RestoreOutcome,
        RestoreRequest, ReuseLocal, SnapshotAgent,
    },
    core::FinishedRestore,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

pub(crate) const P: PartitionId = PartitionId::new(1);
/// Longer than anything here takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) repository: Repository,
    pub(crate) record: ClusterRecord,
    pub(crate) seams: Seams,
}

pub(crate) struct Node {
    pub(crate) agent: SnapshotAgent,
    pub(crate) host: Arc<FakeHost>,
}

pub(crate) fn seams() -> Seams {
    Seams {
        clock: Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000))),
        entropy: Entropy::seeded(7),
    }
}

impl Cluster {
    pub(crate) async fn on(repository: Repository, dir: TempDir) -> Self {
        Self::of(4, repository, dir).await
    }

    /// A cluster of `partitions` in a store that counts and can be told to misbehave.
    pub(crate) async fn counted(partitions: u32) -> (Arc<CountingStore>, Self) {
        let store = Arc::new(CountingStore::default());
        let repository = Repository::with_store(store.clone(), Path::default(), seams());
        let cluster = Self::of(partitions, repository, tempfile::tempdir().unwrap()).await;
        (store, cluster)
    }

    async fn of(partitions: u32, repository: Repository, dir: TempDir) -> Self {
        let spec = ClusterSpec {
            name: "test".to_owned(),
            partitions,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await.unwrap();
        Cluster {
            dir,
            repository,
            record,
            seams: seams(),
        }
    }

    pub(crate) async fn in_memory() -> Self {
        Self::on(
            Repository::open("memory://", seams()).unwrap(),
            tempfile::tempdir().unwrap(),
        )
        .await
    }

    pub(crate) async fn on_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("bucket").display());
        Self::on(Repository::open(&url, seams()).unwrap(), dir).await
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.record.incarnations[&P]
    }

    pub(crate) fn config(&self, name: &str) -> AgentConfig {
        AgentConfig {
            node: NodeId::new(name).unwrap(),
            address: format!("http://{name}"),
            cluster: self.record.cluster.clone(),
            data_dir: self.dir.path().join(name),
            exports_max: 1,
            exports_queue_max: 0,
            restores_max: 1,
            disk_reserve_bytes: 0,
            blocking: Blocking::Threads,
        }
    }

    pub(crate) fn host(&self, name: &str, partition: PartitionId) -> Arc<FakeHost> {
        let dir = self
            .dir
            .path()
            .join(name)
            .join("partitions")
            .join(partition.to_string());
        let incarnation = self.record.incarnations[&partition];
        FakeHost::new(dir, partition, self.record.cluster.fingerprint, incarnation)
    }

    /// Starts a node that hosts one partition and has applied nothing.
    pub(crate) fn node(&self, name: &str) -> Node {
        self.node_with(self.config(name))
    }

    pub(crate) fn node_with(&self, config: AgentConfig) -> Node {
        let host = self.host(config.node.as_str(), P);
        let agent = SnapshotAgent::new(config, self.repository.clone(), self.seams.clone()).unwrap();
        agent.attach(P, host.clone());
        Node { agent, host }
    }

    pub(crate) async fn pointer(&self) -> Pointer {
        self.repository
            .pointer(P)
            .await
            .unwrap()
            .expect("a snapshot was published")
            .value
    }

    /// Returns the path of the largest data file of a snapshot on disk.
    pub(crate) async fn file_of(&self, entry: &PointerEntry) -> PathBuf {
        let manifest = self.repository.manifest(P, entry).await.unwrap();
        let file = manifest.files.iter().max_by_key(|file| file.bytes).unwrap();
        self.dir
            .path()
            .join("bucket")
            .join(P.to_string())
            .join(entry.path.to_string())
            .join(&file.name)
    }
}

impl Node {
    pub(crate) fn request(&self, cluster: &Cluster, min_lsn: u64) -> CreateSnapshot {
        CreateSnapshot {
            partition: P,
            min_lsn: Lsn::new(min_lsn),
            request_id: RequestId::new(cluster.seams.ulid()),
            distrusted: vec![],
            restorable_snapshots_min: None,
        }
    }

    pub(crate) async fn create(&self, request: CreateSnapshot) -> Vec<ExportEvent> {
        tokio::time::timeout(PATIENCE, self.agent.create_snapshot(request).collect())
            .await
            .unwrap()
    }

    /// Applies up to `lsn` and publishes a snapshot there.
    pub(crate) async fn publish(&self, cluster: &Cluster, lsn: u64) -> PublishedExport {
        self.host.apply(lsn);
        let events = self.create(self.request(cluster, lsn)).await;
        match events.last() {
            Some(ExportEvent::Published(published)) => published.clone(),
            other => panic!("not published: {other:?}"),
        }
    }

    pub(crate) async fn restore(
        &self,
        cluster: &Cluster,
        trim_point: u64,
    ) -> Result<RestoreOutcome, RestoreError> {
        self.restore_reusing(cluster, trim_point, ReuseLocal::Allowed)
            .await
    }

    pub(crate) async fn restore_reusing(
        &self,
        cluster: &Cluster,
        trim_point: u64,
        reuse: ReuseLocal,
    ) -> Result<RestoreOutcome, RestoreError> {
        let applied_lsn = self.host.lsn().map(Lsn::new);
        let request = RestoreRequest {
            reuse,
            ..RestoreRequest::new(cluster.incarnation(), Lsn::new(trim_point), applied_lsn)
        };
        tokio::time::timeout(PATIENCE, self.agent.restore(P, request))
            .await
            .unwrap()
    }

    pub(crate) async fn restored(&self, cluster: &Cluster, trim_point: u64) -> FinishedRestore {
        match self.restore(cluster, trim_point).await.unwrap() {
            RestoreOutcome::Restored(restored) => restored,
            other => panic!("not restored: {other:?}"),
        }
    }
}

/// Names of what lies in the staging area.
pub(crate) fn staged(cluster: &Cluster, node: &str) -> Vec<PathBuf> {
    ["exports", "downloads", "verifications"]
        .iter()
        .flat_map(|kind| std::fs::read_dir(cluster.dir.path().join(node).join("staging").join(kind)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Flips one bit in the middle of a file.
pub(crate) fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
