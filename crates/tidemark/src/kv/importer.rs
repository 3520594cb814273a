//! Storing many pairs at once: one reader, and one writer per partition.

use super::{
    client::KvClient,
    error::KvError,
    import::{ImportError, Pair},
    rules,
};
use snapshot_proto::kv::{Operation, operation::Change};
use snapshot_store::{PartitionId, format::KeyHash};
use std::sync::Arc;
use tokio::{sync::mpsc, task::JoinSet};

/// Size of an import's batches: large enough to share one fsync, small enough to be acknowledged quickly.
const IMPORT_BATCH: (usize, usize) = (256, 512 << 10);
/// Batches per partition that wait while one is being written.
const IMPORT_BATCHES_WAITING: usize = 2;

/// Told how far an import is.
pub trait ImportProgress: Send + Sync + 'static {
    /// `records` more pairs with `bytes` of keys and values are acknowledged.
    fn stored(&self, records: u64, bytes: u64);
}

impl<F: Fn(u64, u64) + Send + Sync + 'static> ImportProgress for F {
    fn stored(&self, records: u64, bytes: u64) {
        self(records, bytes);
    }
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImportReport {
    /// Pairs acknowledged, repeated keys included.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl KvClient {
    /// Stores all `pairs`, in order for each key. Partitions are written concurrently, in batches.
    ///
    /// # Errors
    /// With the first error of source or cluster; what was acknowledged until then stays.
    pub async fn import(
        &self,
        pairs: impl Iterator<Item = Result<Pair, ImportError>> + Send + 'static,
        progress: Arc<dyn ImportProgress>,
    ) -> Result<ImportReport, KvError> {
        let mut lanes = Vec::new();
        let mut writers = JoinSet::new();
        for number in 0..self.partitions() {
            let (sender, mut receiver) = mpsc::channel::<Vec<Operation>>(IMPORT_BATCHES_WAITING);
            lanes.push(Lane {
                batch: Vec::new(),
                bytes: 0,
                sender,
            });
            let (client, progress) = (self.clone(), Arc::clone(&progress));
            writers.spawn(async move {
                let mut report = ImportReport::default();
                while let Some(batch) = receiver.recv().await {
                    let records = batch.len() as u64;
                    let bytes = batch.iter().map(rules::operation_bytes).sum::<usize>() as u64;
                    client.write(PartitionId::new(number), batch).await?;
                    progress.stored(records, bytes);
                    report.records += records;
                    report.bytes += bytes;
                }
                Ok::<_, KvError>(report)
            });
        }
        let (key_hash, partitions) = (self.key_hash(), self.partitions());
        let reader = tokio::task::spawn_blocking(move || distribute(pairs, lanes, key_hash, partitions));

        let mut total = ImportReport::default();
        let mut failure = None;
        while let Some(finished) = writers.join_next().await {
            match finished.map_err(|error| KvError::Rejected {
                reason: String::new(),
                message: error.to_string(),
            }) {
                Ok(Ok(report)) => {
                    total.records += report.records;
                    total.bytes += report.bytes;
                }
                Ok(Err(error)) | Err(error) => failure = failure.or(Some(error)),
            }
        }
        // A writer that failed closed its lane, which ends the reader; so its error came first.
        let read = reader.await.unwrap_or_else(|error| {
            Err(ImportError::Line {
                line: 0,
                problem: format!("the reader ended early: {error}"),
            })
        });
        match failure {
            Some(error) => Err(error),
            None => read.map(|()| total).map_err(KvError::Import),
        }
    }
}

/// The pairs of one partition on their way to its writer.
struct Lane {
    batch: Vec<Operation>,
    bytes: usize,
    sender: mpsc::Sender<Vec<Operation>>,
}

impl Lane {
    /// Returns whether the writer is still there.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.batch.is_empty() || self.sender.blocking_send(std::mem::take(&mut self.batch)).is_ok()
    }
}

/// Reads `pairs` to their end and hands them to the partitions' writers; stops when a writer is gone.
fn distribute(
    pairs: impl Iterator<Item = Result<Pair, ImportError>>,
    mut lanes: Vec<Lane>,
    key_hash: KeyHash,
    partitions: u32,
) -> Result<(), ImportError> {
    let mut end = Ok(());
    for pair in pairs {
        let Pair { key, value } = match pair {
            Ok(pair) => pair,
            Err(error) => {
                end = Err(error);
                break;
            }
        };
        let lane = &mut lanes[key_hash.partition_of(&key, partitions).get() as usize];
        lane.bytes += key.len() + value.len();
        lane.batch.push(Operation {
            key,
            change: Some(Change::Put(value)),
        });
        if (lane.batch.len() >= IMPORT_BATCH.0 || lane.bytes >= IMPORT_BATCH.1) && !lane.flush() {
            return end;
        }
    }
    for lane in &mut lanes {
        if !lane.flush() {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_reach_their_lane_in_order_and_an_error_ends_them() {
        let (sender, mut receiver) = mpsc::channel(10);
        let lanes = vec![Lane {
            batch: Vec::new(),
            bytes: 0,
            sender,
        }];
        let pair = |value: &'static str| {
            Ok(Pair {
                key: "k".into(),
                value: value.into(),
            })
        };
        let bad = Err(ImportError::Line {
            line: 3,
            problem: "bad".into(),
        });
        let end = distribute(
            vec![pair("1"), pair("2"), bad, pair("3")].into_iter(),
            lanes,
            KeyHash::Blake3Mod,
            1,
        );
        assert!(matches!(end, Err(ImportError::Line { line: 3, .. })));
        let batch = receiver.try_recv().expect("what came before the error is stored");
        let values: Vec<_> = batch
            .into_iter()
            .filter_map(|operation| operation.change)
            .collect();
        assert_eq!(values, [Change::Put("1".into()), Change::Put("2".into())]);
        assert!(receiver.try_recv().is_err());
    }
}
