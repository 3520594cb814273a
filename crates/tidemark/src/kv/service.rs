//! The key-value service of a worker.

use super::{
    machine::{self, PAIRS},
    rules::{self, Refusal},
};
use bytes::Bytes;
use snapshot_proto::kv::{
    DescribeRequest, Description, DigestReply, DigestRequest, GetReply, GetRequest, Pair, ScanReply,
    ScanRequest, WriteReply, WriteRequest,
    kv_service_server::{KvService, KvServiceServer},
};
use snapshot_store::{Leadership, PartitionId, ReplicaRole, format::KeyHash};
use snapshot_worker::{
    agent::LocalIdentity,
    processor::{PartitionHandle, ProposeError, StateView, ViewError, Worker},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Reasons in error answers, as machines read them.
pub mod reason {
    /// Another replica leads; `node` and `address` say which, when that is known.
    pub const NOT_LEADER: &str = "not-leader";
    /// The replica cannot serve now; `state` says why.
    pub const NOT_ACTIVE: &str = "not-active";
    /// The partition is not hosted by this node.
    pub const UNKNOWN_PARTITION: &str = "unknown-partition";
    /// A key does not belong to the partition it was sent to.
    pub const WRONG_PARTITION: &str = "wrong-partition";
    /// The write may or may not have taken effect.
    pub const UNKNOWN_OUTCOME: &str = "unknown-outcome";
    /// The write could not be applied by any replica, and an operator had it passed over: it has no effect.
    pub const SKIPPED: &str = "skipped";
    /// The node is stopping.
    pub const STOPPING: &str = "stopping";
    /// Too many writes wait already.
    pub const OVERLOADED: &str = "overloaded";
    /// The log refuses appends.
    pub const LOG_UNAVAILABLE: &str = "log-unavailable";
    /// The local state cannot be read.
    pub const LOCAL_STATE: &str = "local-state";
}

/// How many bytes of pairs one message of a scan holds at most, one pair more or less.
const SCAN_MESSAGE_BYTES: usize = 256 << 10;
/// How many messages of a scan wait for a slow reader.
const SCAN_MESSAGES_MAX: usize = 4;

/// How long a reader may stand still before its scan ends: the view it holds keeps the state from being closed.
const SCAN_STALL_MAX: Duration = Duration::from_secs(30);

/// Serves keys of the partitions that a [`Worker`] hosts.
#[derive(Clone)]
pub struct KvServer {
    worker: Arc<Worker>,
    identity: LocalIdentity,
}

impl KvServer {
    /// Serves what `worker` hosts.
    pub fn new(worker: Arc<Worker>, identity: LocalIdentity) -> Self {
        KvServer { worker, identity }
    }

    /// Returns the gRPC service.
    pub fn into_service(self) -> KvServiceServer<Self> {
        KvServiceServer::new(self)
            .max_decoding_message_size(rules::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(rules::MESSAGE_BYTES_MAX)
    }

    fn partition(&self, partition: PartitionId) -> Result<PartitionHandle, Status> {
        self.worker.partition(partition).ok_or_else(|| {
            let node = &self.identity.node;
            let message = if partition.get() < self.identity.partitions {
                format!("node {node} has no replica of partition {partition}: ask another worker")
            } else {
                let highest = self.identity.partitions.saturating_sub(1);
                format!("the cluster has no partition {partition}: its partitions are 0 to {highest}")
            };
            refused(Code::NotFound, reason::UNKNOWN_PARTITION, message, &[])
        })
    }

    fn partition_of(&self, key: &[u8]) -> PartitionId {
        self.identity.key_hash.partition_of(key, self.identity.partitions)
    }
}

/// Returns the word for a key hash, as it stands in `cluster.json`.
pub fn key_hash_word(key_hash: KeyHash) -> &'static str {
    match key_hash {
        KeyHash::Blake3Mod => "blake3-mod",
    }
}

fn refused(code: Code, reason: &str, message: impl Into<String>, metadata: &[(&str, String)]) -> Status {
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    let details = ErrorDetails::with_error_info(reason, "tidemark", metadata);
    Status::with_error_details(code, message, details)
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refused(Code::InvalidArgument, refusal.reason(), refusal.to_string(), &[])
    }
}

fn not_leader(partition: PartitionId, leader: Option<(Leadership, String)>) -> Status {
    // A term without an address is one of the cluster this one was forked from.
    let leader = leader.filter(|(_, address)| !address.is_empty());
    let message = match &leader {
        Some((leadership, address)) => {
            format!(
                "partition {partition} is led by {} at {address}: ask there",
                leadership.node
            )
        }
        None => format!("partition {partition} has no leader yet: try again shortly"),
    };
    let metadata = leader.map_or_else(Vec::new, |(leadership, address)| {
        let epoch = leadership.epoch.get().to_string();
        vec![
            ("node", leadership.node.to_string()),
            ("address", address),
            ("epoch", epoch),
        ]
    });
    refused(Code::FailedPrecondition, reason::NOT_LEADER, message, &metadata)
}

fn propose_status(partition: PartitionId, error: ProposeError) -> Status {
    let message = format!("partition {partition}: {error}");
    match error {
        ProposeError::NotLeader { leader } => not_leader(partition, leader),
        ProposeError::NotActive { .. } => refused(Code::Unavailable, reason::NOT_ACTIVE, message, &[]),
        ProposeError::TooLarge { .. } => refused(Code::InvalidArgument, "write-size", message, &[]),
        ProposeError::Overloaded => refused(Code::ResourceExhausted, reason::OVERLOADED, message, &[]),
        ProposeError::Unavailable { .. } => refused(Code::Unavailable, reason::LOG_UNAVAILABLE, message, &[]),
        ProposeError::Unknown { .. } => refused(Code::Unknown, reason::UNKNOWN_OUTCOME, message, &[]),
        ProposeError::Skipped { .. } => refused(Code::Aborted, reason::SKIPPED, message, &[]),
        ProposeError::Stopping => refused(Code::Unavailable, reason::STOPPING, message, &[]),
    }
}

fn view_status(partition: PartitionId, error: &ViewError) -> Status {
    let message = format!("partition {partition}: {error}");
    refused(Code::Unavailable, reason::LOCAL_STATE, message, &[])
}

#[tonic::async_trait]
impl KvService for KvServer {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        Ok(Response::new(Description {
            node: self.identity.node.to_string(),
            cluster: self.identity.cluster.name.clone(),
            fingerprint: Bytes::copy_from_slice(self.identity.cluster.fingerprint.as_bytes()),
            partitions: self.identity.partitions,
            key_hash: key_hash_word(self.identity.key_hash).to_owned(),
        }))
    }

    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteReply>, Status> {
        let WriteRequest {
            partition,
            operations,
        } = request.into_inner();
        let partition = PartitionId::new(partition);
        let handle = self.partition(partition)?;
        rules::check_write(&operations)?;
        if let Some(stray) = operations
            .iter()
            .find(|operation| self.partition_of(&operation.key) != partition)
        {
            let owner = self.partition_of(&stray.key);
            let key = rules::shown(&stray.key);
            let message = format!("key {key:?} belongs to partition {owner}, not {partition}: send it there");
            return Err(refused(
                Code::InvalidArgument,
                reason::WRONG_PARTITION,
                message,
                &[],
            ));
        }
        let commands = operations.into_iter().map(machine::encode).collect();
        let applied = handle
            .propose(commands)
            .await
            .map_err(|error| propose_status(partition, error))?;
        let last_lsn = applied.last().map_or(0, |applied| applied.lsn.get());
        Ok(Response::new(WriteReply { last_lsn }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let GetRequest { key } = request.into_inner();
        rules::check_key(&key)?;
        let partition = self.partition_of(&key);
        let view = self
            .partition(partition)?
            .view()
            .map_err(|error| view_status(partition, &error))?;
        let value = view
            .get(&PAIRS, &key)
            .map_err(|error| view_status(partition, &error.into()))?;
        Ok(Response::new(GetReply {
            value: value.map(Bytes::from),
            leader: view.role() == ReplicaRole::Leader,
            node: self.identity.node.to_string(),
            lsn: view.applied_lsn().get(),
            partition: partition.get(),
        }))
    }

    async fn digest(&self, request: Request<DigestRequest>) -> Result<Response<DigestReply>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let handle = self.partition(partition)?;
        let facts = handle
            .digest()
            .await
            .map_err(|error| view_status(partition, &error))?;
        Ok(Response::new(DigestReply {
            digest: Bytes::copy_from_slice(facts.digest.as_bytes()),
            pairs: facts.pairs,
            lsn: facts.lsn.get(),
            chain_hash: Bytes::copy_from_slice(facts.chain_hash.as_bytes()),
        }))
    }

    type ScanStream = ReceiverStream<Result<ScanReply, Status>>;

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let view = self
            .partition(partition)?
            .view()
            .map_err(|error| view_status(partition, &error))?;
        let (sender, receiver) = mpsc::channel(SCAN_MESSAGES_MAX);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let send = |message| {
                runtime
                    .block_on(sender.send_timeout(message, SCAN_STALL_MAX))
                    .is_ok()
            };
            if let Err(error) = send_pairs(&view, |reply| send(Ok(reply))) {
                send(Err(view_status(partition, &error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Sends all pairs of `view` in key order until `send` says that nobody reads on. The last message may be empty,
/// so that an empty partition tells its LSN too.
fn send_pairs(view: &StateView, send: impl Fn(ScanReply) -> bool) -> Result<(), ViewError> {
    let lsn = view.applied_lsn().get();
    let mut pairs = Vec::new();
    let mut bytes = 0;
    for pair in view.scan(&PAIRS, &[]) {
        let (key, value) = pair?;
        bytes += key.len() + value.len();
        pairs.push(Pair {
            key: key.into(),
            value: value.into(),
        });
        if bytes >= SCAN_MESSAGE_BYTES {
            bytes = 0;
            if !send(ScanReply {
                pairs: std::mem::take(&mut pairs),
                lsn,
            }) {
                return Ok(());
            }
        }
    }
    send(ScanReply { pairs, lsn });
    Ok(())
}
