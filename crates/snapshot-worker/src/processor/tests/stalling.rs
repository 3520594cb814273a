//! A log whose readers can be stopped.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use partition_log::{
    AppendError, Log, LogError, LogInfo, ReadError, RecordStream, Registration, memory::MemoryLog,
};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// A log in memory whose readers can be stopped: with what they have just read in their hands, or before they read
/// on.
pub(super) struct StallingLog {
    inner: MemoryLog,
    stalled: watch::Sender<bool>,
    frozen: watch::Sender<bool>,
    appends: AtomicUsize,
}

impl StallingLog {
    pub(super) fn new(inner: MemoryLog) -> Self {
        StallingLog {
            inner,
            stalled: watch::Sender::new(false),
            frozen: watch::Sender::new(false),
            appends: AtomicUsize::new(0),
        }
    }

    /// Readers keep the next batch to themselves for as long as this holds.
    pub(super) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Readers do not look at the log for as long as this holds, not even those that wait at its end.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Returns how many appends were answered.
    pub(super) fn appends(&self) -> usize {
        self.appends.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Log for StallingLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.inner.registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        self.inner.info(partition).await
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let result = self
            .inner
            .append(partition, incarnation, batch, expected_tail)
            .await;
        self.appends.fetch_add(1, Ordering::SeqCst);
        result
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        let records = self.inner.read(partition, incarnation, from).await?;
        let gates = (self.frozen.subscribe(), self.stalled.subscribe());
        let gated = stream::unfold((records, gates), |(mut records, mut gates)| async move {
            let item = loop {
                drop(gates.0.wait_for(|frozen| !frozen).await);
                tokio::select! {
                    biased;
                    Ok(_) = gates.0.wait_for(|frozen| *frozen) => {}
                    item = records.next() => break item?,
                }
            };
            drop(gates.1.wait_for(|stalled| !stalled).await);
            Some((item, (records, gates)))
        });
        Ok(gated.boxed())
    }
}
