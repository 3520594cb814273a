//! A client that writes pairs: each key once, so that an acknowledged write is there in the end or was lost.

use crate::{net, oracle::Acknowledged, world::World};
use bytes::Bytes;
use snapshot_proto::kv::{Operation, WriteRequest, kv_service_client::KvServiceClient, operation::Change};
use snapshot_store::{Lsn, PartitionId, format::KeyHash};
use std::{collections::BTreeMap, time::Duration};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Keys that are written again and again, whose values are not remembered.
const HOT_KEYS: u64 = 20;
/// How seldom a value is so many times as long as most: a few of them make tables that are worth being copied.
const LONG_EVERY: u64 = 8;
const LONG_TIMES: usize = 20;

struct Client {
    world: World,
    workers: Vec<String>,
    channels: BTreeMap<String, KvServiceClient<Channel>>,
    leaders: BTreeMap<PartitionId, String>,
    name: String,
    written: u64,
}

/// Writes until the writing is over.
pub(crate) async fn write(world: World, name: String) -> turmoil::Result {
    let mut client = Client {
        workers: world.plan().worker_names(),
        channels: BTreeMap::new(),
        leaders: BTreeMap::new(),
        name,
        written: 0,
        world: world.clone(),
    };
    let pause_ms = 200 / u64::from(world.plan().partitions) + 5;
    while !world.writing_is_over() {
        client.write_once().await?;
        tokio::time::sleep(Duration::from_millis(world.below(1..2 * pause_ms))).await;
    }
    Ok(())
}

fn put(key: &str, value: String) -> Operation {
    Operation {
        key: key.to_owned().into(),
        change: Some(Change::Put(value.into())),
    }
}

impl Client {
    fn partition_of(&self, key: &str) -> PartitionId {
        KeyHash::Blake3Mod.partition_of(key.as_bytes(), self.world.plan().partitions)
    }

    /// Returns the operations of one write; the first is a key that was never written before.
    fn draw(&mut self) -> (PartitionId, Vec<Operation>) {
        self.written += 1;
        let key = format!("{}-{}", self.name, self.written);
        let partition = self.partition_of(&key);
        let length = match self.world.below(0..LONG_EVERY) {
            0 => LONG_TIMES,
            _ => 1,
        };
        let value = format!("{:016x}", self.world.below(0..u64::MAX)).repeat(length);
        let mut operations = vec![put(&key, value)];
        for _ in 0..self.world.below(0..3) {
            let hot = format!("hot-{}", self.world.below(0..HOT_KEYS));
            if self.partition_of(&hot) == partition {
                let value = format!("{:08x}", self.world.below(0..1 << 32));
                operations.push(match self.world.below(0..4) {
                    0 => Operation {
                        key: hot.into(),
                        change: Some(Change::Delete(true)),
                    },
                    _ => put(&hot, value),
                });
            }
        }
        (partition, operations)
    }

    fn service(&mut self, worker: &str) -> anyhow::Result<KvServiceClient<Channel>> {
        if let Some(client) = self.channels.get(worker) {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(net::url(worker))?
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let client = KvServiceClient::new(net::channel(endpoint));
        self.channels.insert(worker.to_owned(), client.clone());
        Ok(client)
    }

    async fn write_once(&mut self) -> turmoil::Result {
        let (partition, operations) = self.draw();
        let any = self.world.below(0..self.workers.len() as u64) as usize;
        let worker = match self.leaders.get(&partition) {
            Some(leader) => leader.clone(),
            None => self.workers[any].clone(),
        };
        let request = WriteRequest {
            partition: partition.get(),
            operations: operations.clone(),
        };
        let mut service = self.service(&worker)?;
        match tokio::time::timeout(PATIENCE, service.write(request)).await {
            Ok(Ok(reply)) => {
                self.leaders.insert(partition, worker);
                self.acknowledged(partition, &operations, Lsn::new(reply.into_inner().last_lsn));
            }
            Ok(Err(status)) => {
                self.world.counters().count("write refused");
                match hint(&status).filter(|hint| self.workers.contains(hint)) {
                    Some(leader) => self.leaders.insert(partition, leader),
                    None => self.leaders.remove(&partition),
                };
            }
            Err(_) => {
                self.world.counters().count("write unanswered");
                self.leaders.remove(&partition);
            }
        }
        Ok(())
    }

    fn acknowledged(&self, partition: PartitionId, operations: &[Operation], last: Lsn) {
        self.world.counters().count("write acknowledged");
        self.world
            .event(format!("{}-{} acknowledged at {last}", self.name, self.written));
        if let Some(Operation {
            key,
            change: Some(Change::Put(value)),
        }) = operations.first()
        {
            let write = Acknowledged {
                partition,
                key: key.clone(),
                value: Bytes::clone(value),
            };
            self.world.oracle(|oracle| oracle.acknowledge(write, last));
        }
    }
}

/// Returns the node that a refusal names as the leader.
fn hint(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    info.metadata.get("node").cloned()
}
