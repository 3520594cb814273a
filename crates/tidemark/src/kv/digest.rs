//! One digest over the whole cluster: the scans of all partitions, merged in key order.
//!
//! Partitions are read at different moments, so the digest describes one state only while nobody writes.

use super::{
    client::{KvClient, kv_service},
    error::KvError,
};
use snapshot_proto::kv::{Pair, ScanReply, ScanRequest};
use snapshot_store::{Lsn, PairDigest, PartitionId, StateDigest};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};
use tonic::Streaming;

/// How often the whole is read again after a replica failed in the middle.
const ATTEMPTS_MAX: u32 = 5;
/// How long the next part of a scan may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before reading again.
const PAUSE: Duration = Duration::from_millis(500);

/// The digest over all pairs of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ClusterDigest {
    /// BLAKE3 over all pairs in key order.
    pub digest: StateDigest,
    /// How many pairs there are.
    pub pairs: u64,
    /// What was read of each partition.
    pub partitions: Vec<PartitionScan>,
}

/// What was read of one partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PartitionScan {
    /// The partition.
    pub partition: PartitionId,
    /// Where it was read.
    pub address: String,
    /// The LSN of what was read.
    pub lsn: Lsn,
    /// How many pairs it holds.
    pub pairs: u64,
}

/// A scan that is being read.
struct Source {
    read: PartitionScan,
    stream: Streaming<ScanReply>,
    waiting: VecDeque<Pair>,
    last_key: Option<bytes::Bytes>,
}

impl Source {
    /// Returns the next pair; keys ascend strictly.
    async fn next(&mut self) -> Result<Option<Pair>, KvError> {
        let partition = self.read.partition;
        let broken = |detail: String| KvError::Inconsistent { partition, detail };
        while self.waiting.is_empty() {
            let message = tokio::time::timeout(MESSAGE_TIMEOUT, self.stream.message()).await;
            let message = message
                .map_err(|_| broken("the scan stands still".to_owned()))?
                .map_err(|status| broken(format!("the scan broke off: {}", status.message())))?;
            let Some(ScanReply { pairs, lsn }) = message else {
                return Ok(None);
            };
            self.read.lsn = Lsn::new(lsn);
            self.waiting = pairs.into();
        }
        let next = self.waiting.pop_front();
        if let Some(pair) = &next {
            if self.last_key.as_ref().is_some_and(|last| *last >= pair.key) {
                return Err(broken("the scan is not in key order".to_owned()));
            }
            self.last_key = Some(pair.key.clone());
            self.read.pairs += 1;
        }
        Ok(next)
    }
}

impl KvClient {
    /// Reads all pairs, each partition from its leader when there is one, and returns their digest.
    ///
    /// # Errors
    /// When a partition cannot be read, after a bounded number of attempts.
    pub async fn digest(&self) -> Result<ClusterDigest, KvError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.digest_once().await {
                Err(KvError::Inconsistent { .. } | KvError::Rejected { .. } | KvError::GaveUp { .. })
                    if attempts < ATTEMPTS_MAX =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn digest_once(&self) -> Result<ClusterDigest, KvError> {
        let leaders = self.find_leaders().await;
        let mut sources = Vec::new();
        for number in 0..self.partitions() {
            let partition = PartitionId::new(number);
            sources.push(self.open_scan(partition, leaders.get(&partition)).await?);
        }
        let mut heads = BinaryHeap::new();
        for (at, source) in sources.iter_mut().enumerate() {
            if let Some(pair) = source.next().await? {
                heads.push(Reverse((pair.key, at, pair.value)));
            }
        }
        let mut digest = PairDigest::new();
        while let Some(Reverse((key, at, value))) = heads.pop() {
            digest.pair(&key, &value);
            if let Some(pair) = sources[at].next().await? {
                heads.push(Reverse((pair.key, at, pair.value)));
            }
        }
        let partitions = sources.into_iter().map(|source| source.read).collect();
        Ok(ClusterDigest {
            digest: digest.finish(),
            pairs: digest.pairs(),
            partitions,
        })
    }

    /// Opens a scan at the leader, else at the first worker that has a replica.
    ///
    /// Each scan has a connection of its own: the merge reads whichever scan has the lowest key, and on a shared
    /// connection the unread rest of the others would fill its window and nothing would ever arrive.
    async fn open_scan(&self, partition: PartitionId, leader: Option<&String>) -> Result<Source, KvError> {
        let mut last = String::from("no worker is known");
        for address in leader.into_iter().chain(self.routes().endpoints()) {
            let mut service = kv_service(self.routes().own_channel(address)?);
            match service
                .scan(ScanRequest {
                    partition: partition.get(),
                })
                .await
            {
                Ok(answer) => {
                    let read = PartitionScan {
                        partition,
                        address: address.clone(),
                        lsn: Lsn::ZERO,
                        pairs: 0,
                    };
                    let stream = answer.into_inner();
                    return Ok(Source {
                        read,
                        stream,
                        waiting: VecDeque::new(),
                        last_key: None,
                    });
                }
                Err(status) => last = format!("{address}: {}", status.message()),
            }
        }
        Err(KvError::GaveUp {
            partition,
            attempts: 1,
            seconds: 0,
            last,
        })
    }
}
