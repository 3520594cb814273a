//! Many restores at once.

use crate::{
    fixture::{Cluster, P, staged},
    host::FakeHost,
};
use async_trait::async_trait;
use futures::future::join_all;
use snapshot_store::{Lsn, PartitionId, RequestId, format::Manifest};
use snapshot_worker::{
    agent::{
        CheckpointFacts, CreateSnapshot, ExportEvent, HostError, PartitionHost, RestoreOutcome,
        RestoreRequest, ReuseLocal, SnapshotAgent,
    },
    core::{ReplicaStatus, RestoreKind, RestorePhase},
};
use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

const PARTITIONS: u32 = 100;
const AT_ONCE: usize = 4;

/// A host that looks around while it checks what was downloaded for it.
struct Watching {
    host: Arc<FakeHost>,
    agent: OnceLock<SnapshotAgent>,
    most: Arc<AtomicUsize>,
    queued: Arc<AtomicUsize>,
}

#[async_trait]
impl PartitionHost for Watching {
    fn status(&self) -> ReplicaStatus {
        self.host.status()
    }

    async fn checkpoint(&self, dir: &Path) -> Result<(), HostError> {
        self.host.checkpoint(dir).await
    }

    async fn inspect(&self, dir: &Path) -> Result<CheckpointFacts, HostError> {
        let statuses = self.agent.get().unwrap().status();
        let (waiting, running): (Vec<_>, Vec<_>) = statuses
            .iter()
            .filter_map(|status| status.restore)
            .partition(|restore| restore.phase == RestorePhase::Queued);
        self.most.fetch_max(running.len(), Ordering::SeqCst);
        self.queued.fetch_max(waiting.len(), Ordering::SeqCst);
        self.host.inspect(dir).await
    }

    async fn install(&self, dir: &Path, manifest: &Manifest) -> Result<(), HostError> {
        self.host.install(dir, manifest).await
    }
}

#[tokio::test]
async fn a_storm_of_restores_is_queued_in_order_and_all_of_it_passes() {
    let (store, cluster) = Cluster::counted(PARTITIONS).await;
    let all: Vec<PartitionId> = (0..PARTITIONS).map(PartitionId::new).collect();
    let producer = cluster.node("a").agent;
    for partition in &all {
        let host = cluster.host("a", *partition);
        host.apply(20);
        producer.attach(*partition, host);
        let request = CreateSnapshot {
            partition: *partition,
            min_lsn: Lsn::new(20),
            request_id: RequestId::new(cluster.seams.ulid()),
            distrusted: vec![],
            restorable_snapshots_min: None,
        };
        let events: Vec<_> = futures::StreamExt::collect(producer.create_snapshot(request)).await;
        assert!(
            matches!(events.last(), Some(ExportEvent::Published(_))),
            "{events:?}"
        );
    }
    let published = store.reads("latest.json").len();

    let mut config = cluster.config("b");
    config.restores_max = AT_ONCE;
    let node = cluster.node_with(config);
    let (most, queued) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    for partition in &all {
        let host = Arc::new(Watching {
            host: cluster.host("b", *partition),
            agent: OnceLock::new(),
            most: Arc::clone(&most),
            queued: Arc::clone(&queued),
        });
        assert!(host.agent.set(node.agent.clone()).is_ok());
        node.agent.attach(*partition, host);
    }
    let restores = all.iter().map(|partition| {
        let request = RestoreRequest {
            kind: RestoreKind::Bootstrap,
            incarnation: cluster.record.incarnations[partition],
            trim_point: Lsn::new(10),
            applied_lsn: None,
            reuse: ReuseLocal::Allowed,
        };
        node.agent.restore(*partition, request)
    });
    for outcome in join_all(restores).await {
        assert!(matches!(outcome, Ok(RestoreOutcome::Restored(_))), "{outcome:?}");
    }

    assert_eq!(
        most.load(Ordering::SeqCst),
        AT_ONCE,
        "as many as allowed, never more"
    );
    assert!(queued.load(Ordering::SeqCst) >= PARTITIONS as usize - 2 * AT_ONCE);
    // A restore reads the pointer when its turn has come.
    let turns: Vec<String> = store.reads("latest.json").split_off(published);
    let expected: Vec<String> = all
        .iter()
        .map(|partition| format!("{partition}/latest.json"))
        .collect();
    assert_eq!(turns, expected, "first come, first served");
    assert_eq!(staged(&cluster, "b"), Vec::<std::path::PathBuf>::new());
    assert_eq!(node.agent.replica(P).unwrap().restore, None);
}
