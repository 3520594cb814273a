//! Acknowledged writes while things happen to the cluster.
//!
//! Each scenario writes its share of the records. When that is done before the scenario is, fillers follow: a key
//! outside the input is put and deleted again in one batch, so that the log of every partition moves on and the
//! content at the end is that of the input.

use super::{DemoError, input::Input, progress::Progress};
use crate::kv::{ImportProgress, KvClient, import::Pair};
use bytes::Bytes;
use snapshot_proto::kv::{Operation, operation::Change};
use snapshot_store::PartitionId;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Pause between two batches: nodes that fail are to meet writes, not the end of them.
const PACE: Duration = Duration::from_millis(30);
/// Pause between two rounds of fillers.
const FILLER_PACE: Duration = Duration::from_millis(150);
/// Keys tried until one falls to a given partition; with 64 partitions it takes 64 on average.
const FILLER_KEYS_MAX: u32 = 100_000;

/// Writes records in order and counts what was acknowledged.
pub(super) struct Load<'a> {
    client: KvClient,
    records: Vec<Pair>,
    next: usize,
    fillers: Vec<Bytes>,
    /// Pairs of put and delete per round and partition.
    filler_pairs: u64,
    filler_records: u64,
    acknowledged: Arc<AtomicU64>,
    progress: &'a Progress,
}

impl<'a> Load<'a> {
    /// `snapshot_after_records` sets the speed of the fillers.
    pub(super) fn new(
        client: KvClient,
        input: Input,
        snapshot_after_records: u64,
        progress: &'a Progress,
    ) -> Self {
        let taken: BTreeSet<&Bytes> = input.records.iter().map(|pair| &pair.key).collect();
        let key = |number: u32| Bytes::from(format!("~demo-filler-{number}"));
        let filler = |partition: u32| {
            let fits = |key: &Bytes| client.partition_of(key).get() == partition && !taken.contains(key);
            (0..FILLER_KEYS_MAX).map(key).find(fits)
        };
        let fillers = (0..client.partitions()).filter_map(filler).collect();
        Load {
            fillers,
            records: input.records,
            client,
            next: 0,
            filler_pairs: (snapshot_after_records / 12).clamp(1, 100),
            filler_records: 0,
            acknowledged: Arc::new(AtomicU64::new(0)),
            progress,
        }
    }

    /// Returns how many records were acknowledged, fillers not counted.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns how many filler records were acknowledged.
    pub(super) fn filler_records(&self) -> u64 {
        self.filler_records
    }

    /// Writes the records up to `percent` of all, and goes on with fillers until `meanwhile` is done.
    pub(super) async fn write_while<T>(
        &mut self,
        percent: usize,
        meanwhile: impl Future<Output = Result<T, DemoError>>,
    ) -> Result<T, DemoError> {
        let done = AtomicBool::new(false);
        let meanwhile = async {
            let answer = meanwhile.await?;
            done.store(true, Ordering::Relaxed);
            Ok(answer)
        };
        let end = self.records.len() * percent.min(100) / 100;
        let ((), answer) = tokio::try_join!(self.write(end, &done), meanwhile)?;
        Ok(answer)
    }

    async fn write(&mut self, end: usize, done: &AtomicBool) -> Result<(), DemoError> {
        let batch = (self.records.len() / 150).clamp(8, 1000);
        while self.next < end {
            let until = end.min(self.next + batch);
            let part: Vec<Pair> = self.records[self.next..until].to_vec();
            self.client
                .import(part.into_iter().map(Ok), self.counter())
                .await?;
            self.progress.acknowledged(until - self.next);
            self.next = until;
            tokio::time::sleep(PACE).await;
        }
        while !done.load(Ordering::Relaxed) {
            self.write_fillers().await?;
            tokio::time::sleep(FILLER_PACE).await;
        }
        Ok(())
    }

    fn counter(&self) -> Arc<dyn ImportProgress> {
        let acknowledged = self.acknowledged.clone();
        Arc::new(move |records, _bytes| {
            acknowledged.fetch_add(records, Ordering::Relaxed);
        })
    }

    /// Moves every partition on by one round. The last operation of each batch is a delete, also when a batch is
    /// sent twice.
    async fn write_fillers(&mut self) -> Result<(), DemoError> {
        let rounds = self.fillers.iter().enumerate().map(|(number, key)| {
            let put = Operation {
                key: key.clone(),
                change: Some(Change::Put(Bytes::from_static(b"filler"))),
            };
            let delete = Operation {
                key: key.clone(),
                change: Some(Change::Delete(true)),
            };
            let batch: Vec<Operation> = (0..self.filler_pairs)
                .flat_map(|_| [put.clone(), delete.clone()])
                .collect();
            let partition = PartitionId::new(u32::try_from(number).unwrap_or(u32::MAX));
            self.client.write(partition, batch)
        });
        futures::future::try_join_all(rounds).await?;
        self.filler_records += 2 * self.filler_pairs * self.fillers.len() as u64;
        Ok(())
    }
}
