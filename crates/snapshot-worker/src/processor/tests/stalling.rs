//! A log that can be made to stand still.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use partition_log::{
    AppendError, Log, LogError, LogInfo, ReadError, RecordStream, Registration, memory::MemoryLog,
};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// A log whose readers can be stopped.
pub(super) struct StallingLog {
    inner: MemoryLog,
    stalled: watch::Sender<bool>,
    appends: AtomicUsize,
}

impl StallingLog {
    pub(super) fn new(inner: MemoryLog) -> Self {
        StallingLog {
            inner,
            stalled: watch::Sender::new(false),
            appends: AtomicUsize::new(0),
        }
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Returns how many appends were answered.
    pub(super) fn appends(&self) -> usize {
        self.appends.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Log for StallingLog {
    async fn registration(&self, partition: PartitionId) -> std::result::Result<Registration, LogError> {
        self.inner.registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> std::result::Result<LogInfo, LogError> {
        self.inner.info(partition).await
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> std::result::Result<Lsn, AppendError> {
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
    ) -> std::result::Result<RecordStream, ReadError> {
        let records = self.inner.read(partition, incarnation, from).await?;
        let stalled = self.stalled.subscribe();
        Ok(records
            .then(move |item| {
                let mut stalled = stalled.clone();
                async move {
                    drop(stalled.wait_for(|stalled| !stalled).await);
                    item
                }
            })
            .boxed())
    }
}
