//! The distributed log: NATS JetStream, one replicated stream per partition and incarnation.
//!
//! - [`NatsLog`]: connect, the contract, and what a deployment lacks.
//! - [`NatsOptions`]: how to reach the servers.
//! - `link`: the connection, and requests that fail in three ways told apart. `names`: of streams and subjects.
//! - `logs`: which logs are known. `registry`: which ones exist. `place`: how one stands.
//! - `appender`: batches, one at a time. `reader` and `consumer`: read streams. `admin`: provision, seal, trim.
//!   `moving`: what moving a log to or from another engine needs.
//! - `core`: settings, positions and groups, decided on plain values.
//!
//! Invariants:
//! - A batch carries the last sequence it was made for, so it lands there once, as a whole, or never.
//! - The incarnation is part of a stream's name: a late request of an old life cannot touch a new one.
//! - A reader takes only the record that is next; what a server skips, it asks about.
//! - A log whose stream is not there was lost: it is never created again silently.
//!
//! What the servers acknowledge is durable when they say `sync_interval: always` (docs/engines.md).

mod admin;
mod appender;
mod check;
mod consumer;
mod core;
mod link;
mod logs;
pub mod metrics;
mod moving;
mod names;
mod options;
mod place;
mod reader;
mod registry;

use crate::{AppendError, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration};
use crate::{Log, LogAdmin};
use async_trait::async_trait;
use bytes::Bytes;
pub use check::{Finding, FindingLevel};
use logs::Logs;
pub use options::{NatsCredentials, NatsOptions, NatsOptionsError, NatsTls};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{sync::Arc, time::Duration};

/// How often a connection that is being made is looked at.
const READY_POLL: Duration = Duration::from_millis(10);

/// The logs of one cluster on NATS servers. Clones share the connection.
///
/// It is both sides of the contract: what it may do is decided by the servers, by the credentials it was given. A
/// worker's are refused trims, sealing and provisioning.
#[derive(Clone)]
pub struct NatsLog(Arc<Logs>);

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
        metrics::describe();
        Ok(NatsLog(Arc::new(Logs::connect(options).await?)))
    }

    /// Waits until the connection stands to a server that can keep logs, for `limit` at most.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ready(&self, limit: Duration) -> Result<(), NatsOptionsError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.0.link.check() {
                Ok(()) => return Ok(()),
                Err(detail) if tokio::time::Instant::now() >= deadline => {
                    return Err(NatsOptionsError::new(detail));
                }
                Err(_) => tokio::time::sleep(READY_POLL).await,
            }
        }
    }

    /// Returns what the deployment has and lacks, for the logs of `partitions` and the servers as a whole. Changes
    /// nothing. A request that fails is a finding, too.
    pub async fn check(&self, partitions: &[PartitionId]) -> Vec<Finding> {
        self.0.check(partitions).await
    }

    /// Makes a stream with as many replicas as `servers`, unless it is there, for tests.
    #[cfg(feature = "conformance")]
    pub(crate) async fn create_probe(&self, servers: usize) -> Result<(), String> {
        self.0.create_probe(servers).await
    }

    /// Checks that all of that stream's servers are there and up to date.
    #[cfg(feature = "conformance")]
    pub(crate) async fn check_probe(&self, servers: usize) -> Result<(), String> {
        self.0.check_probe(servers).await
    }

    /// Deletes that stream, if it is there.
    #[cfg(feature = "conformance")]
    pub(crate) async fn delete_probe(&self) -> Result<(), String> {
        self.0.delete_probe().await
    }

    /// Takes a log out of the registry, so that another one can be provisioned in its place: seals its stream, which
    /// stays as it is with all records, and removes its registration. For recoveries alone, with admin credentials.
    /// Repeating it changes nothing.
    ///
    /// # Errors
    /// When the log is of another incarnation, or the servers do not answer.
    pub async fn retire(&self, partition: PartitionId, incarnation: Incarnation) -> Result<(), LogError> {
        self.0.retire(partition, incarnation).await
    }
}

#[async_trait]
impl Log for NatsLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.0.registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let known = self.0.usable(partition).await?;
        let incarnation = known.incarnation();
        let look = self.0.look(&known).await?;
        self.0.check_sealed(partition, &look.config).await?;
        let bounds = look.bounds;
        Ok(LogInfo {
            incarnation,
            trim_point: bounds.trim_point,
            tail: bounds.tail,
            // The servers count bytes with all that they store beside the records.
            held_bytes: None,
        })
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        self.0.append(partition, incarnation, batch, expected_tail).await
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        let known = self.0.of(partition, incarnation).await?;
        let known = self.0.check_use(known).await?;
        reader::open(Arc::clone(&self.0), Arc::clone(&known.place), from, false).await
    }
}

#[async_trait]
impl LogAdmin for NatsLog {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        self.0.provision(&registration).await
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        self.0.set_sealed(partition, incarnation, sealed).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        self.0.trim(partition, incarnation, up_to).await
    }
}
