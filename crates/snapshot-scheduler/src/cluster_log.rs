//! The seam between the admin and the logs of a cluster: all that it needs of them.

use async_trait::async_trait;
use futures::StreamExt;
use partition_log::{Log, LogAdmin, LogError, LogInfo, ReadError};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::sync::Arc;

/// What the admin asks of the logs: where they begin and end, and to remove records. The caller sets all time limits.
///
/// Whatever implements [`Log`] and [`LogAdmin`] is one; [`LogParts`] makes one of two clients with credentials of their
/// own. A host whose log speaks neither implements these two methods, and the third where it can.
#[async_trait]
pub trait ClusterLog: Send + Sync + 'static {
    /// Returns trim point and tail; they may be a little old.
    ///
    /// # Errors
    /// When there is no such log, or it does not answer.
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError>;

    /// Removes all records up to `up_to`, inclusive, as [`LogAdmin::trim`] does: idempotent, monotone, clamped to the
    /// tail, and executed only for that incarnation. Returns the trim point now in force.
    ///
    /// # Errors
    /// When the log is missing, of another incarnation, or does not answer. It may have been trimmed all the same.
    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError>;

    /// Returns the tail if the log, read linearizably, ends at or below `claimed`: then it lost records that a replica
    /// or a snapshot vouches for. `None` when it does not, or when that cannot be told; no answer at all means the same.
    ///
    /// A log that cannot tell keeps the default. Lost records then hold a trim only while the newest snapshot lies above
    /// the tail, and nothing makes the hold sticky.
    async fn tail_below(
        &self,
        _partition: PartitionId,
        _incarnation: Incarnation,
        _claimed: Lsn,
    ) -> Option<Lsn> {
        None
    }
}

#[async_trait]
impl<T: Log + LogAdmin> ClusterLog for T {
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        Log::info(self, partition).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        LogAdmin::trim(self, partition, incarnation, up_to).await
    }

    async fn tail_below(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        claimed: Lsn,
    ) -> Option<Lsn> {
        tail_told_to_a_reader(self, partition, incarnation, claimed).await
    }
}

/// One log behind two clients: one that reads, and one with the credentials to trim.
#[derive(Clone)]
pub struct LogParts {
    /// Reads.
    pub log: Arc<dyn Log>,
    /// Trims.
    pub admin: Arc<dyn LogAdmin>,
}

#[async_trait]
impl ClusterLog for LogParts {
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        self.log.info(partition).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        self.admin.trim(partition, incarnation, up_to).await
    }

    async fn tail_below(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        claimed: Lsn,
    ) -> Option<Lsn> {
        tail_told_to_a_reader(self.log.as_ref(), partition, incarnation, claimed).await
    }
}

/// A reader is told the tail linearizably. One at the tail waits for the next record: the caller's limit ends that.
async fn tail_told_to_a_reader(
    log: &dyn Log,
    partition: PartitionId,
    incarnation: Incarnation,
    claimed: Lsn,
) -> Option<Lsn> {
    let first = match log.read(partition, incarnation, claimed.next()).await {
        Err(error) => Some(Err(error)),
        Ok(mut records) => records.next().await,
    };
    match first {
        Some(Err(ReadError::Regressed { tail })) => Some(tail),
        _ => None,
    }
}
