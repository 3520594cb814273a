//! A worker that hosts nothing, reports what a test tells it, and publishes for real.

use crate::cluster::{Shared, node, p};
use async_trait::async_trait;
use futures::StreamExt;
use snapshot_proto::v1::{self, create_snapshot_event::Event};
use snapshot_scheduler::{SnapshotEvents, WorkerClient, WorkerError};
use snapshot_store::{
    ChainHash, Incarnation, Lsn, NoProgress, NodeId, PartitionId, PublishError, ReplicaRole, SnapshotId,
    SnapshotUpload,
    format::{KeyRange, Producer, StateMachineVersion},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

pub(crate) struct WorkerState {
    pub(crate) up: bool,
    pub(crate) generation: u64,
    pub(crate) version: u64,
    pub(crate) state_machine: u32,
    pub(crate) replicas: BTreeMap<PartitionId, v1::ReplicaStatus>,
    pub(crate) ordered: Vec<v1::CreateSnapshotRequest>,
    pub(crate) verified: Vec<v1::VerifySnapshotRequest>,
    /// How often it was polled, and how often it said all it knows.
    pub(crate) polls: u64,
    pub(crate) full_reports: u64,
    /// What the last poll carried.
    pub(crate) policy: Option<v1::WorkerPolicy>,
    pub(crate) noops: u64,
    /// What the next requests for snapshots are answered with, instead of making one.
    pub(crate) declines: Vec<v1::SnapshotDeclined>,
    /// How often it says that a request for a snapshot waits, each time after [`QUEUED_SAID_EVERY`].
    pub(crate) queued_said: usize,
    pub(crate) exports_queued: u32,
    pub(crate) fail_snapshots: bool,
    pub(crate) fail_verify: bool,
}

/// Longer than a poll, shorter than the silence after which a worker counts as lost.
pub(crate) const QUEUED_SAID_EVERY: Duration = Duration::from_secs(100);

pub(crate) struct FakeWorker {
    pub(crate) node: NodeId,
    pub(crate) state: Mutex<WorkerState>,
    pub(crate) cluster: Arc<Shared>,
}

/// The chain hash every healthy fake replica has at `lsn`.
pub(crate) fn chain_at(lsn: u64) -> ChainHash {
    ChainHash::of(&lsn.to_be_bytes())
}

impl FakeWorker {
    pub(crate) fn new(name: &str, shared: &Arc<Shared>) -> Self {
        let replica = |(id, incarnation): (&PartitionId, &Incarnation)| {
            let status = v1::ReplicaStatus {
                partition: id.get(),
                state: v1::PartitionState::Active.into(),
                incarnation: Some(v1::Incarnation {
                    generation: incarnation.generation,
                    id: incarnation.id.as_bytes().to_vec().into(),
                }),
                applied_lsn: Some(0),
                durable_lsn: Some(0),
                needed_lsn: Some(0),
                log_bytes: Some(0),
                needed_log_bytes: Some(0),
                state_machine: Some(v1::StateMachineVersion {
                    name: "fake".to_owned(),
                    version: 1,
                }),
                ..Default::default()
            };
            (*id, status)
        };
        FakeWorker {
            node: node(name),
            state: Mutex::new(WorkerState {
                up: true,
                generation: 1,
                version: 1,
                state_machine: 1,
                replicas: shared.record.incarnations.iter().map(replica).collect(),
                ordered: Vec::new(),
                verified: Vec::new(),
                polls: 0,
                full_reports: 0,
                policy: None,
                noops: 0,
                declines: Vec::new(),
                queued_said: 0,
                exports_queued: 0,
                fail_snapshots: false,
                fail_verify: false,
            }),
            cluster: shared.clone(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, WorkerState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn change(&self, id: PartitionId, change: impl FnOnce(&mut v1::ReplicaStatus)) {
        let mut state = self.lock();
        state.version += 1;
        change(state.replicas.get_mut(&id).unwrap());
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.lock().up = up;
    }

    /// Applies and flushes up to `lsn`.
    pub(crate) fn apply(&self, id: PartitionId, lsn: Lsn) {
        self.change(id, |status| {
            status.applied_lsn = Some(lsn.get());
            status.durable_lsn = Some(lsn.get());
            status.needed_lsn = Some(lsn.get());
            status.log_bytes = Some(lsn.get() * 10);
            status.needed_log_bytes = Some(lsn.get() * 10);
            status.chain = vec![v1::ChainPoint {
                lsn: lsn.get(),
                hash: chain_at(lsn.get()).as_bytes().to_vec().into(),
            }];
        });
    }

    fn check_up(&self) -> Result<(), WorkerError> {
        if self.lock().up {
            return Ok(());
        }
        Err(WorkerError::Unreachable {
            detail: "connection refused".to_owned(),
        })
    }

    pub(crate) async fn publish(
        &self,
        request: &v1::CreateSnapshotRequest,
        lsn: Lsn,
    ) -> Result<v1::SnapshotPublished, PublishError> {
        let cluster = &self.cluster;
        let id = p(request.partition);
        let dir = tempfile::tempdir().unwrap();
        let number = cluster.snapshots.fetch_add(1, Ordering::SeqCst);
        std::fs::write(dir.path().join("state.sst"), format!("state {number} at {lsn}")).unwrap();
        let role = match self.lock().replicas[&id].role() {
            v1::ReplicaRole::Leader => ReplicaRole::Leader,
            _ => ReplicaRole::Follower,
        };
        let version = self.lock().state_machine;
        let upload = SnapshotUpload {
            cluster: cluster.record.cluster.clone(),
            partition: id,
            incarnation: cluster.record.incarnations[&id],
            snapshot_id: SnapshotId::new(cluster.seams.ulid()),
            lsn,
            chain: None,
            state_digest: None,
            leader: None,
            log_bytes: lsn.get() * 10,
            state_machine: StateMachineVersion {
                name: "fake".to_owned(),
                version,
            },
            key_range: KeyRange {
                partition: id.get(),
                of: cluster.record.partitions,
            },
            producer: Producer {
                node: self.node.clone(),
                role,
            },
            request_id: request.request_id.parse().ok(),
            created_at: cluster.seams.clock.now(),
            dir: dir.path().to_owned(),
            restorable_snapshots_min: Some(request.restorable_snapshots_min),
            lower_restorable_min: true,
            trimmed: None,
            distrusted: Vec::new(),
        };
        let published = cluster
            .repository
            .publish(&upload, &NoProgress, &CancellationToken::new())
            .await?;
        let entry = published.entry;
        self.change(id, |status| {
            status.archived = Some(v1::ArchivedSnapshot {
                snapshot_id: entry.snapshot_id.to_string(),
                lsn: entry.lsn.get(),
                log_bytes: entry.log_bytes,
            });
        });
        Ok(v1::SnapshotPublished {
            snapshot_id: entry.snapshot_id.to_string(),
            lsn: entry.lsn.get(),
            bytes_total: entry.bytes_total,
            bytes_uploaded: entry.bytes_uploaded,
            ..Default::default()
        })
    }

    async fn answer(&self, request: &v1::CreateSnapshotRequest) -> Event {
        self.lock().ordered.push(request.clone());
        if let Some(declined) = self.lock().declines.pop() {
            return Event::Declined(declined);
        }
        let failed = |reason: &str| {
            Event::Failed(v1::SnapshotFailed {
                reason: reason.to_owned(),
                message: "in a test".to_owned(),
            })
        };
        if self.lock().fail_snapshots {
            return failed("disk-full");
        }
        let applied = self.lock().replicas[&p(request.partition)]
            .applied_lsn
            .unwrap_or(0);
        if applied < request.min_lsn {
            return Event::Declined(v1::SnapshotDeclined {
                reason: v1::DeclineReason::Behind.into(),
                applied_lsn: Some(applied),
                min_lsn: Some(request.min_lsn),
                ..Default::default()
            });
        }
        match self.publish(request, Lsn::new(applied)).await {
            Ok(published) => Event::Published(published),
            Err(error) => failed(error.kind()),
        }
    }
}

#[async_trait]
impl WorkerClient for FakeWorker {
    async fn status(&self, request: v1::GetStatusRequest) -> Result<v1::WorkerStatus, WorkerError> {
        self.check_up()?;
        let mut state = self.lock();
        state.policy = request.policy;
        let unchanged = request.known_version == state.version;
        state.polls += 1;
        state.full_reports += u64::from(!unchanged);
        Ok(v1::WorkerStatus {
            node: self.node.to_string(),
            node_generation: state.generation.to_string(),
            fingerprint: self.cluster.record.cluster.fingerprint.as_bytes().to_vec().into(),
            version: state.version,
            unchanged,
            partitions: if unchanged {
                Vec::new()
            } else {
                state.replicas.values().cloned().collect()
            },
            exports_max: 4,
            exports_queued: state.exports_queued,
            ..Default::default()
        })
    }

    async fn create_snapshot(
        &self,
        request: v1::CreateSnapshotRequest,
    ) -> Result<SnapshotEvents, WorkerError> {
        self.check_up()?;
        let outcome = self.answer(&request).await;
        let sent = |event| Ok(v1::CreateSnapshotEvent { event: Some(event) });
        let queued = futures::stream::iter(0..self.lock().queued_said).then(move |_| async move {
            tokio::time::sleep(QUEUED_SAID_EVERY).await;
            sent(Event::Queued(v1::SnapshotQueued { ahead: 1 }))
        });
        let accepted = Event::Accepted(v1::SnapshotAccepted::default());
        let rest = futures::stream::iter([accepted, outcome].map(sent));
        Ok(queued.chain(rest).boxed())
    }

    async fn verify(
        &self,
        request: v1::VerifySnapshotRequest,
    ) -> Result<v1::VerifySnapshotReply, WorkerError> {
        self.check_up()?;
        if self.lock().fail_verify {
            let detail = "the disk is full".to_owned();
            return Err(WorkerError::Refused {
                reason: "io".to_owned(),
                detail,
            });
        }
        self.lock().verified.push(request.clone());
        let id = p(request.partition);
        let pointer = self.cluster.repository.pointer(id).await.unwrap().unwrap().value;
        let entry = pointer
            .snapshots
            .iter()
            .find(|entry| entry.snapshot_id.to_string() == request.snapshot_id);
        let Some(entry) = entry else {
            let detail = "the pointer does not name it".to_owned();
            return Err(WorkerError::Refused {
                reason: "unknown-snapshot".to_owned(),
                detail,
            });
        };
        let check = self
            .cluster
            .repository
            .check_content(id, entry, &NoProgress)
            .await
            .unwrap();
        let anomaly = |anomaly: &snapshot_store::Anomaly| v1::SnapshotAnomaly {
            kind: anomaly.kind.as_str().to_owned(),
            key: anomaly.key.clone(),
            message: anomaly.detail.clone(),
        };
        Ok(v1::VerifySnapshotReply {
            ok: check.anomalies.is_empty(),
            level: request.level,
            anomalies: check.anomalies.iter().map(anomaly).collect(),
            node: self.node.to_string(),
            ..Default::default()
        })
    }

    async fn lead(&self, partition: PartitionId) -> Result<v1::LeadReply, WorkerError> {
        self.check_up()?;
        let peers = self.cluster.peers.lock().unwrap().clone();
        let epochs = peers.iter().map(|peer| {
            peer.lock().replicas[&partition]
                .leader
                .as_ref()
                .map_or(0, |l| l.epoch)
        });
        let epoch = epochs.max().unwrap_or(0) + 1;
        for peer in peers {
            let own = peer.node == self.node;
            if !peer.lock().up {
                continue;
            }
            peer.change(partition, |status| {
                status.leader = Some(v1::Leadership {
                    epoch,
                    node: self.node.to_string(),
                    address: String::new(),
                });
                status.set_role(if own {
                    v1::ReplicaRole::Leader
                } else {
                    v1::ReplicaRole::Follower
                });
            });
        }
        Ok(v1::LeadReply { epoch })
    }

    async fn append_noop(&self, partition: PartitionId) -> Result<v1::AppendNoopReply, WorkerError> {
        self.check_up()?;
        self.lock().noops += 1;
        let lsn = self.cluster.append(partition, 1).await;
        Ok(v1::AppendNoopReply { lsn: lsn.get() })
    }
}
