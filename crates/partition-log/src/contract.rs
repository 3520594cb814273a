//! The contract between a partition's log and everybody who reads, appends or trims.

use crate::{AppendError, LogError, Passage, ProvisionError, ReadError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use snapshot_store::{ChainHash, Fingerprint, Incarnation, Lsn, PartitionId, format::ClusterRecord};

/// The longest record, in bytes: a value of 1 MiB with its key and envelope.
pub const RECORD_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// The longest batch of one append, in bytes over all its records.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// The longest batch of one append, in records.
pub const BATCH_RECORDS_MAX: usize = 1000;

/// Where a log begins that continues another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The LSN whose state the log continues from; the first record is the one after it, and the trim point is
    /// this LSN from birth.
    pub lsn: Lsn,
    /// Chain hash at `lsn`; absent when the snapshot it was forked from has none.
    pub chain_hash: Option<ChainHash>,
    /// Bytes of all records up to `lsn`.
    pub log_bytes: u64,
}

/// What the registry knows of a partition's log. Kept with the log, created only by explicit commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The partition.
    pub partition: PartitionId,
    /// Which life of its log.
    pub incarnation: Incarnation,
    /// Fingerprint of the cluster it belongs to.
    pub fingerprint: Fingerprint,
    /// What it continues; `None` for a log that begins at LSN 1.
    pub base: Option<Base>,
    /// Whether appends are refused.
    pub sealed: bool,
    /// How far it is on its way to another place; `None` for a log that stays where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage: Option<Passage>,
}

impl Registration {
    /// Returns the registrations of all logs of a cluster that was just created, each beginning at LSN 1. Where logs or
    /// snapshots may be there already, [`snapshot_store::Repository::may_begin_empty`] must be asked first.
    pub fn of_new_cluster(cluster: &ClusterRecord) -> impl Iterator<Item = Registration> + '_ {
        let logs = cluster.incarnations.iter();
        logs.map(|(partition, incarnation)| Registration {
            partition: *partition,
            incarnation: *incarnation,
            fingerprint: cluster.cluster.fingerprint,
            base: None,
            sealed: false,
            passage: None,
        })
    }

    /// Returns the LSN of the first record the log ever had or will have.
    pub fn first_lsn(&self) -> Lsn {
        self.base.map_or(Lsn::FIRST, |base| base.lsn.next())
    }
}

/// State of a log; may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Which life of the log.
    pub incarnation: Incarnation,
    /// Highest LSN removed, inclusive; [`Lsn::ZERO`] when none.
    pub trim_point: Lsn,
    /// First unwritten LSN, exclusive.
    pub tail: Lsn,
    /// Bytes of all records still in the log, as appended; `None` when the engine does not count them.
    pub held_bytes: Option<u64>,
}

/// Consecutive records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    /// LSN of the first record.
    pub first: Lsn,
    /// The records, at `first`, `first + 1`, …; never empty.
    pub records: Vec<Bytes>,
}

impl RecordBatch {
    /// Returns the LSN after the last record.
    pub fn end(&self) -> Lsn {
        self.first.plus(self.records.len() as u64)
    }
}

/// Records in order without a gap, then waiting for more; ends only with an error.
pub type RecordStream = BoxStream<'static, Result<RecordBatch, ReadError>>;

/// What readers and writers of a partition's log may do.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Returns what the registry knows of `partition`.
    ///
    /// # Errors
    /// [`LogError::Missing`] when no log was provisioned; it is never created silently.
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError>;

    /// Returns trim point and tail; they may be a little old.
    ///
    /// # Errors
    /// [`LogError::Missing`], [`LogError::Unavailable`].
    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError>;

    /// Appends `batch` (not empty) as one unit: all of it lands at consecutive LSNs, or nothing. With
    /// `expected_tail` it lands only if the tail is exactly that. Returns the LSN of the last record, durable.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] means it may have landed, or may still: read before deciding. After any other
    /// error nothing of the batch has landed, nor ever will.
    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError>;

    /// Reads from `from` on (at least 1). The first item begins at exactly `from`, or is an error; a trim that
    /// overtakes the reader reaches it as [`ReadError::Trimmed`], also while it waits at an emptied log.
    ///
    /// # Errors
    /// The same that the stream ends with.
    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError>;
}

/// What only the admin may do. The scheduler needs [`Log::info`] and [`LogAdmin::trim`], the rest belongs to
/// explicit commands.
#[async_trait]
pub trait LogAdmin: Send + Sync + 'static {
    /// Creates the log of a partition. Repeating it with the same registration changes nothing.
    ///
    /// # Errors
    /// [`ProvisionError::Exists`] when another one is registered.
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError>;

    /// Refuses (`sealed`) or accepts appends from now on.
    ///
    /// # Errors
    /// When the log is missing, of another incarnation, or does not answer.
    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError>;

    /// Removes all records up to `up_to`, inclusive: idempotent, monotone, clamped to the tail, and executed only
    /// for that incarnation. Returns the trim point now in force. After everything is trimmed the next append
    /// still gets the next LSN, also after a restart.
    ///
    /// # Errors
    /// When the log is missing, of another incarnation, or does not answer.
    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError>;
}
