//! The repository's protocols against stores in memory, in a folder, and with faults.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/faults.rs"]
mod faults;

mod capability;
mod copy;
mod copy_faults;
mod copy_fork;
mod documents;
mod download;
mod evolution;
mod fork_point;
mod incremental;
mod lease;
mod local;
mod publish;
mod publish_faults;
mod read;
mod recover;
mod resume;
mod sweep;
mod sweep_folder;
mod transfer;
mod verify;

use common::*;
use faults::FaultyStore;
use object_store::{ObjectStoreExt, PutPayload, memory::InMemory, path::Path};
use snapshot_store::{
    ClusterIdentity, Incarnation, Lsn, ManualClock, NoProgress, PublishError, Published, ReplicaRole,
    Repository, Seams, SnapshotId, SnapshotUpload,
    format::{ClusterRecord, KeyHash, KeyRange, Producer, StateMachineVersion},
};
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

fn seams(seed: u64) -> Seams {
    Seams {
        clock: Arc::new(ManualClock::at(at(0))),
        entropy: snapshot_store::Entropy::seeded(seed),
    }
}

fn spec() -> snapshot_store::ClusterSpec {
    snapshot_store::ClusterSpec {
        name: "shop".to_owned(),
        partitions: 2,
        key_hash: KeyHash::Blake3Mod,
    }
}

/// A cluster in a store with faults, and a second handle (another process) on the same objects.
struct World {
    store: FaultyStore,
    repository: Repository,
    memory: Arc<InMemory>,
    record: ClusterRecord,
    checkpoint: TempDir,
}

impl World {
    async fn new() -> Self {
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::around(memory.clone());
        let repository = Repository::with_store(Arc::new(store.clone()), Path::from("base"), seams(1));
        let record = repository.init(&spec()).await.unwrap();
        World {
            store,
            repository,
            memory,
            record,
            checkpoint: checkpoint(&[("CURRENT", 16), ("000007.sst", 5_000)]),
        }
    }

    /// Another process on the same objects, without faults.
    fn other(&self, seed: u64) -> Repository {
        Repository::with_store(self.memory.clone(), Path::from("base"), seams(seed))
    }

    fn incarnation(&self) -> Incarnation {
        self.record.incarnations[&P0]
    }

    fn upload(&self, lsn: u64, id: u128) -> SnapshotUpload {
        upload(
            &self.record.cluster,
            self.incarnation(),
            &self.checkpoint,
            lsn,
            id,
        )
    }

    async fn publish(&self, lsn: u64, id: u128) -> Result<Published, PublishError> {
        publish(&self.repository, &self.upload(lsn, id)).await
    }

    /// Writes an object as somebody else would.
    async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let payload = PutPayload::from(bytes.into());
        self.memory
            .put(&Path::from(format!("base/{key}")), payload)
            .await
            .unwrap();
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let found = self.memory.get(&Path::from(format!("base/{key}"))).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    async fn delete(&self, key: &str) {
        self.memory
            .delete(&Path::from(format!("base/{key}")))
            .await
            .unwrap();
    }

    /// Certifies a trim up to `up_to`, resting on the two newest snapshots.
    async fn certify(&self, up_to: u64) {
        let pointer = self.other(5).pointer(P0).await.unwrap().unwrap().value;
        let draft = snapshot_store::CertificateDraft {
            cluster: self.record.cluster.clone(),
            partition: P0,
            incarnation: self.incarnation(),
            up_to: Lsn::new(up_to),
            snapshots: pointer.snapshots.iter().take(2).map(certified).collect(),
            issued_by: node("admin-1"),
        };
        self.repository.write_certificate(draft).await.unwrap();
    }

    /// Every key in the store, sorted.
    async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = object_store::ObjectStore::list(&self.memory, None)
            .try_collect()
            .await
            .unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    /// LSNs that the pointer retains, newest first.
    async fn retained(&self) -> Vec<u64> {
        let pointer = self.other(99).pointer(P0).await.unwrap();
        pointer
            .iter()
            .flat_map(|found| &found.value.snapshots)
            .map(|entry| entry.lsn.get())
            .collect()
    }
}

/// A folder with files of these sizes and reproducible content.
fn checkpoint(files: &[(&str, usize)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let content: Vec<u8> = (0..*bytes)
            .map(|position| (position % 251) as u8 ^ name.len() as u8)
            .collect();
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn upload(
    cluster: &ClusterIdentity,
    incarnation: Incarnation,
    checkpoint: &TempDir,
    lsn: u64,
    id: u128,
) -> SnapshotUpload {
    SnapshotUpload {
        cluster: cluster.clone(),
        partition: P0,
        incarnation,
        snapshot_id: snapshot_id(id),
        lsn: Lsn::new(lsn),
        chain: None,
        state_digest: None,
        leader: None,
        log_bytes: lsn * 100,
        state_machine: StateMachineVersion {
            name: "kv".to_owned(),
            version: 1,
        },
        key_range: KeyRange { partition: 0, of: 2 },
        producer: Producer {
            node: node("worker-1"),
            role: ReplicaRole::Follower,
        },
        request_id: None,
        created_at: at(lsn),
        dir: checkpoint.path().to_owned(),
        restorable_snapshots_min: None,
        lower_restorable_min: false,
        trimmed: None,
        distrusted: Vec::<SnapshotId>::new(),
    }
}

async fn publish(repository: &Repository, upload: &SnapshotUpload) -> Result<Published, PublishError> {
    repository
        .publish(upload, &NoProgress, &CancellationToken::new())
        .await
}
