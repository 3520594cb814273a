//! Moving logs to and from NATS.
//!
//! The passage of a log stands in its registry entry, and changes by compare-and-set. What leaves is also sealed by its
//! stream, before the entry says so: then nothing lands any more, whatever a writer knew of the entry. Taking it back goes the
//! other way round. A crash in between leaves a sealed log that is not leaving: a rerun goes on, and `--unseal` ends it.

use super::link::Failure;
use super::logs::Logs;
use super::place::{Place, unavailable};
use super::registry::{self, Entry, Swap};
use super::{NatsLog, reader};
use crate::position::check_incarnation;
use crate::{AppendError, LogError, LogInfo, LogMove, Passage, ReadError, RecordStream, Registration};
use async_trait::async_trait;
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};
use std::sync::Arc;

#[async_trait]
impl LogMove for NatsLog {
    async fn position(&self, partition: PartitionId, incarnation: Incarnation) -> Result<LogInfo, LogError> {
        let known = self.0.of(partition, incarnation).await?;
        let bounds = self.0.look(&known).await?.bounds;
        Ok(LogInfo {
            incarnation,
            trim_point: bounds.trim_point,
            tail: bounds.tail,
            held_bytes: None,
        })
    }

    async fn read_moving(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        let known = self.0.of(partition, incarnation).await?;
        reader::open(Arc::clone(&self.0), Arc::clone(&known.place), from, true).await
    }

    async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        self.0.import(partition, incarnation, batch, expected_tail).await
    }

    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        self.0
            .change_passage(partition, incarnation, from.as_ref(), to)
            .await
    }

    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        self.0.discard(partition, incarnation, id).await
    }
}

impl Logs {
    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<&Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        let entry = self.own_entry(partition, incarnation).await?;
        let mut registration = entry.registration.clone();
        let (changes, in_force) = registration.change_passage(from, to);
        if !changes {
            return Ok(in_force);
        }
        if matches!(in_force, Some(Passage::Leaving { .. })) {
            self.set_sealed(partition, incarnation, true).await?;
        }
        let in_force = self.replace(&entry, &registration).await?;
        if in_force.is_none() && matches!(from, Some(Passage::Leaving { .. })) {
            self.set_sealed(partition, incarnation, false).await?;
        }
        Ok(in_force)
    }

    /// Replaces an entry; returns the passage in force, which is another one when somebody was faster.
    async fn replace(&self, entry: &Entry, registration: &Registration) -> Result<Option<Passage>, LogError> {
        let limit = self.options.request_timeout;
        let swapped = registry::replace(&self.link, &self.names, entry, registration, limit).await;
        match swapped.map_err(|failure| unavailable(registration.partition, &failure))? {
            Swap::Done => {
                // Noted here at once.
                self.entry(registration.partition).await?;
                Ok(registration.passage.clone())
            }
            Swap::Raced => Ok(self.entry(registration.partition).await?.registration.passage),
        }
    }

    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        let entry = self.own_entry(partition, incarnation).await?;
        entry.registration.check_discard(id)?;
        let limit = self.options.request_timeout;
        let removed = registry::remove(&self.link, &self.names, &entry, limit).await;
        match removed.map_err(|failure| unavailable(partition, &failure))? {
            Swap::Done => {}
            Swap::Raced => {
                let failure =
                    Failure::NotSent("another one changes the registry at the same time".to_owned());
                return Err(unavailable(partition, &failure));
            }
        }
        // What is known of it goes with the entry. A crash here leaves its stream; the next copy removes that.
        match self.entry(partition).await {
            Ok(_) | Err(LogError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let place = Place::new(&self.names, &entry.registration);
        let deleted = self.remove_stream(&place).await;
        deleted.map_err(|failure| place.unavailable(&failure))
    }

    async fn own_entry(&self, partition: PartitionId, incarnation: Incarnation) -> Result<Entry, LogError> {
        let entry = self.entry(partition).await?;
        check_incarnation(&entry.registration, incarnation)?;
        Ok(entry)
    }
}
