//! The distributed log: NATS JetStream, one replicated stream per partition and incarnation.
//!
//! - [`NatsLog`]: connect, the contract, and what a deployment lacks.
//! - [`NatsOptions`]: how to reach the servers.

mod check;
mod moving;
mod options;

use crate::{AppendError, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration};
use crate::{Log, LogAdmin};
use async_trait::async_trait;
use bytes::Bytes;
pub use check::{Finding, FindingLevel};
pub use options::{NatsCredentials, NatsOptions, NatsOptionsError, NatsTls};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{sync::Arc, time::Duration};

/// The logs of one cluster on NATS servers. Clones share the connection.
///
/// It is both sides of the contract: what it may do is decided by the servers, by the credentials it was given. A
/// worker's are refused trims, sealing and provisioning.
#[derive(Clone)]
pub struct NatsLog(Arc<Inner>);

struct Inner {
    options: NatsOptions,
}

impl NatsLog {
    /// Prepares the connection, which is made in the background, and made again whenever it breaks. Servers that
    /// cannot be reached, that are too old or refuse the credentials are no error here: requests are answered
    /// "unavailable" with the reason until that is mended. To be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the options do not fit together, or a file that they name cannot be read.
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsOptionsError> {
        let faults = options.faults();
        if !faults.is_empty() {
            return Err(NatsOptionsError::new(faults.join("; ")));
        }
        Ok(NatsLog(Arc::new(Inner { options })))
    }

    /// Waits until the connection stands to a server that can keep logs, for `limit` at most.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ready(&self, limit: Duration) -> Result<(), NatsOptionsError> {
        let _ = (limit, &self.0.options);
        Err(NatsOptionsError::new("the engine is not there yet"))
    }

    /// Returns what the deployment has and lacks, for the logs of `partitions` and the servers as a whole. Changes
    /// nothing. A request that fails is a finding, too.
    pub async fn check(&self, partitions: &[PartitionId]) -> Vec<Finding> {
        let _ = partitions;
        Vec::new()
    }

    /// Takes a log out of the registry, so that another one can be provisioned in its place: seals its stream, which
    /// stays as it is with all records, and removes its registration. For recoveries alone, with admin credentials.
    /// Repeating it changes nothing.
    ///
    /// # Errors
    /// When the log is of another incarnation, or the servers do not answer.
    pub async fn retire(&self, partition: PartitionId, incarnation: Incarnation) -> Result<(), LogError> {
        let _ = incarnation;
        Err(unfinished(partition))
    }
}

fn unfinished(partition: PartitionId) -> LogError {
    LogError::Unavailable {
        partition,
        detail: "the engine is not there yet".to_owned(),
    }
}

#[async_trait]
impl Log for NatsLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        Err(unfinished(partition))
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        Err(unfinished(partition))
    }

    async fn append(
        &self,
        partition: PartitionId,
        _incarnation: Incarnation,
        _batch: Vec<Bytes>,
        _expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        Err(unfinished(partition).into())
    }

    async fn read(
        &self,
        partition: PartitionId,
        _incarnation: Incarnation,
        _from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        Err(unfinished(partition).into())
    }
}

#[async_trait]
impl LogAdmin for NatsLog {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        Err(unfinished(registration.partition).into())
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        _incarnation: Incarnation,
        _sealed: bool,
    ) -> Result<(), LogError> {
        Err(unfinished(partition))
    }

    async fn trim(
        &self,
        partition: PartitionId,
        _incarnation: Incarnation,
        _up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        Err(unfinished(partition))
    }
}
