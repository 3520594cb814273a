//! What can go wrong with a log. Variants follow what the caller does next.

use snapshot_store::{Incarnation, Lsn, PartitionId};

/// An administrative or informational request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No log was ever provisioned for the partition here.
    #[error(
        "partition {partition} has no log here: check that the log's address and data folder are the right ones; logs are created only by `tidemark cluster init`"
    )]
    Missing {
        /// The partition.
        partition: PartitionId,
    },
    /// The log is of another incarnation than the one asked for.
    #[error("partition {partition}: the log is of incarnation {found}, not {expected}")]
    OtherIncarnation {
        /// The partition.
        partition: PartitionId,
        /// What the log is.
        found: Incarnation,
        /// What was asked for.
        expected: Incarnation,
    },
    /// The log was moved to another place, and lives there.
    #[error(
        "partition {partition}: its log was moved to {to}: let every node's configuration name that (section `log`), and start the node again"
    )]
    Moved {
        /// The partition.
        partition: PartitionId,
        /// Where it lives.
        to: String,
    },
    /// The log did not answer; certainly nothing was done, or doing it again is harmless.
    #[error("partition {partition}: the log is unavailable: {detail}")]
    Unavailable {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        detail: String,
    },
}

/// An append did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The tail is not the expected one. Nothing landed.
    #[error("the tail is {tail}, not the expected one")]
    TailMismatch {
        /// The present tail.
        tail: Lsn,
    },
    /// It may have landed, or may still land.
    #[error("the append may or may not have landed: {detail}")]
    Unknown {
        /// What happened.
        detail: String,
    },
    /// Nothing landed; try again later.
    #[error("the log is unavailable: {detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
    /// A record or the batch is too large, or the batch is empty. Nothing landed.
    #[error("{bytes} bytes in {records} records do not fit one append")]
    TooLarge {
        /// Bytes over all records.
        bytes: usize,
        /// Number of records.
        records: usize,
    },
    /// The log is sealed. Nothing landed.
    #[error("the log is sealed")]
    Sealed,
    /// The log is missing or of another incarnation. Nothing landed.
    #[error(transparent)]
    Log(LogError),
}

/// Reading cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The next record was trimmed: the reader needs a snapshot.
    #[error("the log is trimmed up to {trim_point}")]
    Trimmed {
        /// The trim point.
        trim_point: Lsn,
    },
    /// The reader is above the tail: the log lost records.
    #[error("the log ends before {tail}, below where reading was to go on")]
    Regressed {
        /// The tail, read linearizably.
        tail: Lsn,
    },
    /// A record in the middle is missing: the log is damaged.
    #[error("the record at {at} is missing in the middle of the log")]
    Hole {
        /// The missing record.
        at: Lsn,
    },
    /// The log is missing, of another incarnation, or does not answer.
    #[error(transparent)]
    Log(LogError),
}

/// A log was not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// Another registration is in place.
    #[error("partition {partition} already has a log, of incarnation {found}")]
    Exists {
        /// The partition.
        partition: PartitionId,
        /// What is there.
        found: Incarnation,
    },
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable { detail, .. } => AppendError::Unavailable { detail },
            other => AppendError::Log(other),
        }
    }
}

impl From<LogError> for ReadError {
    fn from(error: LogError) -> Self {
        ReadError::Log(error)
    }
}
