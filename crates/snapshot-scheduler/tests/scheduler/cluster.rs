//! A cluster in one process: a log in memory, a store in memory, and workers that publish for real.

use crate::worker::{FakeWorker, chain_at};
use bytes::Bytes;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use partition_log::{Base, Log, LogAdmin, Registration, memory::MemoryLog};
use snapshot_proto::v1;
use snapshot_scheduler::{
    AuditPolicy, Policy, Scheduler, SchedulerBuilder, SchedulerHandle, SchedulerOptions, WorkerClient,
    WorkerSpec,
};
use snapshot_store::{
    ClusterIdentity, ClusterSpec, ContentHash, Entropy, Fingerprint, Incarnation, IncarnationId, Lsn,
    ManualClock, NodeId, PartitionId, Repository, Seams, SnapshotId, Timestamp,
    core::HoldReason,
    format::{Certificate, ClusterRecord, KeyHash, Keys, Origin, Pointer, Stored},
};
use std::{
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) fn p(number: u32) -> PartitionId {
    PartitionId::new(number)
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// Thresholds low enough for tests, and an audit twice a minute; everything else as by default.
pub(crate) fn policy() -> Policy {
    Policy {
        snapshot_after_records: 100,
        snapshot_after_bytes: 0,
        lag_records_max: 50,
        audit: AuditPolicy {
            interval_ms: 30_000,
            ..AuditPolicy::default()
        },
        ..Policy::default()
    }
}

/// What workers and tests share.
pub(crate) struct Shared {
    pub(crate) log: MemoryLog,
    pub(crate) store: Arc<InMemory>,
    pub(crate) repository: Repository,
    pub(crate) record: ClusterRecord,
    pub(crate) seams: Seams,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) peers: Mutex<Vec<Arc<FakeWorker>>>,
    pub(crate) snapshots: AtomicU64,
}

pub(crate) struct Cluster {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Arc<FakeWorker>>,
}

pub(crate) struct Running {
    pub(crate) handle: SchedulerHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(crate) fn partition(&self, id: u32) -> v1::PartitionView {
        self.handle.status().partitions[id as usize].clone()
    }

    pub(crate) fn trim_code(&self, id: u32) -> String {
        self.partition(id).trim.unwrap().code
    }

    pub(crate) fn snapshot_code(&self, id: u32) -> String {
        self.partition(id)
            .snapshot
            .map(|reason| reason.code)
            .unwrap_or_default()
    }

    /// Waits, at most two minutes of the paused clock, until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Running) -> bool) {
        for _ in 0..1200 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{what} did not come about: {:#?}", self.handle.status());
    }

    pub(crate) async fn until_held(&self, id: u32, reason: HoldReason) {
        self.until(reason.as_str(), |running| {
            running.trim_code(id) == reason.as_str()
        })
        .await;
    }
}

impl Cluster {
    /// Three workers `w1` to `w3` that host all partitions; `w1` leads.
    pub(crate) async fn new(partitions: u32) -> Self {
        Self::beginning_after(partitions, None).await
    }

    /// The same as a fork: generation 2, and logs that continue a snapshot at `base`, which is all the store holds.
    pub(crate) async fn forked(partitions: u32, base: Lsn) -> Self {
        let cluster = Self::beginning_after(partitions, Some(base)).await;
        for id in (0..partitions).map(p) {
            cluster.publish("w1", id, base).await;
            let mut pointer = cluster.pointer(id).await.unwrap();
            let latest = &mut pointer.snapshots[0];
            let mut manifest = cluster.shared.repository.manifest(id, latest).await.unwrap();
            manifest.origin = Some(Origin {
                cluster: ClusterIdentity {
                    name: "source".to_owned(),
                    fingerprint: Fingerprint::from_bytes([9; 16]),
                },
                incarnation: Incarnation {
                    generation: 1,
                    id: IncarnationId::from_bytes([9; 16]),
                },
                snapshot_id: latest.snapshot_id,
            });
            latest.manifest_hash = ContentHash::of(&manifest.encode());
            cluster
                .put(&Keys::manifest(id, &latest.path), manifest.encode())
                .await;
            cluster.put(&Keys::pointer(id), pointer.encode()).await;
        }
        cluster
    }

    async fn beginning_after(partitions: u32, base: Option<Lsn>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let seams = Seams {
            clock: clock.clone(),
            entropy: Entropy::seeded(7),
        };
        let store = Arc::new(InMemory::new());
        let repository = Repository::with_store(store.clone(), Path::default(), seams.clone());
        let spec = ClusterSpec {
            name: "test".to_owned(),
            partitions,
            key_hash: KeyHash::Blake3Mod,
        };
        let mut record = repository.init(&spec).await.unwrap();
        if base.is_some() {
            for incarnation in record.incarnations.values_mut() {
                incarnation.generation = 2;
            }
            let key = Path::from(Keys::CLUSTER);
            store.put(&key, record.encode().into()).await.unwrap();
        }
        let log = MemoryLog::new();
        for (partition, incarnation) in &record.incarnations {
            let registration = Registration {
                partition: *partition,
                incarnation: *incarnation,
                fingerprint: record.cluster.fingerprint,
                base: base.map(|lsn| Base {
                    lsn,
                    chain_hash: Some(chain_at(lsn.get())),
                    log_bytes: lsn.get() * 10,
                }),
                sealed: false,
                passage: None,
            };
            log.provision(registration).await.unwrap();
        }
        let shared = Arc::new(Shared {
            log,
            store,
            repository,
            record,
            seams,
            clock,
            peers: Mutex::default(),
            snapshots: AtomicU64::new(0),
        });
        let workers: Vec<_> = ["w1", "w2", "w3"]
            .map(|name| Arc::new(FakeWorker::new(name, &shared)))
            .into();
        *shared.peers.lock().unwrap() = workers.clone();
        let cluster = Cluster { shared, workers };
        for id in 0..partitions {
            cluster.set_leader(p(id), "w1", 1);
            for worker in cluster.workers.iter().filter(|_| base.is_some()) {
                worker.apply(p(id), base.unwrap_or_default());
            }
        }
        cluster
    }

    pub(crate) fn start(&self, policy: Policy) -> Running {
        self.start_as("admin", policy, SchedulerOptions::default())
    }

    pub(crate) fn start_as(&self, name: &str, policy: Policy, options: SchedulerOptions) -> Running {
        self.start_with(name, policy, options, |builder| builder)
    }

    /// Starts an admin that reaches the store through a repository of its own.
    pub(crate) fn start_on(
        &self,
        name: &str,
        policy: Policy,
        options: SchedulerOptions,
        repository: Repository,
    ) -> Running {
        self.start_with(name, policy, options, |builder| builder.store(repository))
    }

    /// Starts an admin with whatever else a test gives it.
    pub(crate) fn start_with(
        &self,
        name: &str,
        policy: Policy,
        options: SchedulerOptions,
        more: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder,
    ) -> Running {
        let ids: Vec<_> = self.shared.record.incarnations.keys().copied().collect();
        let workers = self.workers.iter().map(|worker| WorkerSpec {
            node: worker.node.clone(),
            address: format!("http://{}", worker.node),
            partitions: ids.clone(),
            client: worker.clone() as Arc<dyn WorkerClient>,
        });
        let builder = Scheduler::builder(policy)
            .admin(node(name))
            .cluster(&self.shared.record)
            .log(Arc::new(self.shared.log.clone()))
            .store(self.shared.repository.clone())
            .workers(workers.collect())
            .options(options);
        let scheduler = more(builder).build().unwrap();
        let handle = scheduler.handle();
        let stop = CancellationToken::new();
        let task = tokio::spawn(scheduler.run(stop.clone()));
        Running { handle, stop, task }
    }

    /// Appends records, and lets every worker that is up apply and flush them.
    pub(crate) async fn append(&self, id: PartitionId, records: usize) -> Lsn {
        self.shared.append(id, records).await
    }

    pub(crate) fn worker(&self, name: &str) -> &FakeWorker {
        self.workers
            .iter()
            .find(|worker| worker.node.as_str() == name)
            .unwrap()
    }

    pub(crate) fn set_leader(&self, id: PartitionId, name: &str, epoch: u64) {
        for worker in &self.workers {
            worker.change(id, |status| {
                status.leader = Some(v1::Leadership {
                    epoch,
                    node: name.to_owned(),
                    address: String::new(),
                });
                let role = if worker.node.as_str() == name {
                    v1::ReplicaRole::Leader
                } else {
                    v1::ReplicaRole::Follower
                };
                status.set_role(role);
            });
        }
    }

    pub(crate) async fn pointer(&self, id: PartitionId) -> Option<Pointer> {
        self.shared
            .repository
            .pointer(id)
            .await
            .unwrap()
            .map(|read| read.value)
    }

    pub(crate) async fn certificate(&self, id: PartitionId) -> Option<Certificate> {
        self.shared
            .repository
            .certificate(id)
            .await
            .unwrap()
            .map(|read| read.value)
    }

    pub(crate) async fn trim_point(&self, id: PartitionId) -> Lsn {
        self.shared.log.info(id).await.unwrap().trim_point
    }

    /// Overwrites an object behind everybody's back.
    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.shared
            .store
            .put(&Path::from(key), bytes.into())
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.shared.store.delete(&Path::from(key)).await.unwrap();
    }

    /// Changes one byte of the only data file of the newest snapshot; its size stays.
    pub(crate) async fn flip_newest(&self, id: PartitionId) -> SnapshotId {
        let entry = self.pointer(id).await.unwrap().snapshots[0].clone();
        let key = Path::from(Keys::file(id, &entry.path, "state.sst"));
        let mut bytes = self
            .shared
            .store
            .get(&key)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec();
        bytes[0] ^= 0xff;
        self.put(key.as_ref(), bytes).await;
        entry.snapshot_id
    }

    /// All requests for snapshots so far, with who got them.
    pub(crate) fn orders(&self) -> Vec<(NodeId, v1::CreateSnapshotRequest)> {
        let of = |worker: &Arc<FakeWorker>| {
            let state = worker.lock();
            state
                .ordered
                .iter()
                .map(|order| (worker.node.clone(), order.clone()))
                .collect::<Vec<_>>()
        };
        self.workers.iter().flat_map(of).collect()
    }

    /// Publishes a snapshot without any admin, as `name`.
    pub(crate) async fn publish(&self, name: &str, id: PartitionId, lsn: Lsn) {
        let request = v1::CreateSnapshotRequest {
            partition: id.get(),
            restorable_snapshots_min: 2,
            ..Default::default()
        };
        self.worker(name).publish(&request, lsn).await.unwrap();
    }

    pub(crate) async fn overwrite_pointer(&self, id: PartitionId, change: impl FnOnce(&mut Pointer)) {
        let mut pointer = self.pointer(id).await.unwrap();
        change(&mut pointer);
        self.put(&Keys::pointer(id), pointer.encode()).await;
    }
}

impl Shared {
    pub(crate) async fn append(&self, id: PartitionId, records: usize) -> Lsn {
        let mut last = Lsn::ZERO;
        for chunk in vec![Bytes::from_static(b"0123456789"); records].chunks(1000) {
            last = self
                .log
                .append(id, self.record.incarnations[&id], chunk.to_vec(), None)
                .await
                .unwrap();
        }
        for worker in self.peers.lock().unwrap().iter() {
            if worker.lock().up {
                worker.apply(id, last);
            }
        }
        last
    }
}
