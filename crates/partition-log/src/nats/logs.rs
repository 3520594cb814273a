//! The logs of a connection: which ones are known, and what lives as long as they are.

use super::appender::{Appender, Closed, Limits, NotAppended, Pending};
use super::link::Link;
use super::names::Names;
use super::options::{NatsOptions, NatsOptionsError};
use super::place::{Look, Place, STREAM_NOT_FOUND, unavailable};
use super::registry::{self, Entry};
use super::{core::settings, link::Failure};
use crate::position::{check_batch, check_incarnation};
use crate::{AppendError, LogError, Registration};
use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// Appends that wait for the one writer of a log; more of them wait in their callers.
const QUEUE_MAX: usize = 1024;

/// What is known of one log. Its registration never changes while the log exists.
pub(super) struct Known {
    registration: Registration,
    pub(super) place: Arc<Place>,
    appends: OnceLock<mpsc::Sender<Pending>>,
}

impl Known {
    pub(super) fn incarnation(&self) -> Incarnation {
        self.registration.incarnation
    }
}

/// The logs reached over one connection.
pub(super) struct Logs {
    pub(super) link: Link,
    pub(super) names: Names,
    pub(super) options: NatsOptions,
    known: Mutex<BTreeMap<PartitionId, Arc<Known>>>,
}

impl Logs {
    pub(super) async fn connect(options: NatsOptions) -> Result<Self, NatsOptionsError> {
        Ok(Logs {
            link: Link::connect(&options).await?,
            names: Names::new(&options.prefix),
            options,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<PartitionId, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the registry says of a partition now.
    pub(super) async fn entry(&self, partition: PartitionId) -> Result<Entry, LogError> {
        let found = registry::load(&self.link, &self.names, partition).await;
        let found = found.map_err(|failure| unavailable(partition, &failure))?;
        let mut known = self.known();
        let Some(entry) = found else {
            known.remove(&partition);
            return Err(LogError::Missing { partition });
        };
        let current = known.get(&partition);
        if current.is_none_or(|current| current.registration != entry.registration) {
            let fresh = Known {
                registration: entry.registration.clone(),
                place: Arc::new(Place::new(&self.names, &entry.registration)),
                appends: OnceLock::new(),
            };
            known.insert(partition, Arc::new(fresh));
        }
        Ok(entry)
    }

    /// Returns the log of a partition, whatever its incarnation.
    pub(super) async fn any(&self, partition: PartitionId) -> Result<Arc<Known>, LogError> {
        if let Some(known) = self.known().get(&partition) {
            return Ok(Arc::clone(known));
        }
        self.entry(partition).await?;
        let known = self.known().get(&partition).cloned();
        known.ok_or(LogError::Missing { partition })
    }

    /// Returns the log of a partition if it is of that incarnation. What the registry said before is believed only
    /// where it is that: the stream of another incarnation is another one.
    pub(super) async fn of(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
    ) -> Result<Arc<Known>, LogError> {
        let known = self.any(partition).await?;
        if known.registration.incarnation == incarnation {
            return Ok(known);
        }
        self.entry(partition).await?;
        let known = self.any(partition).await?;
        check_incarnation(&known.registration, incarnation)?;
        Ok(known)
    }

    /// Returns a log as its passage is now: one that is on its way may have got somewhere since it was known.
    pub(super) async fn current(&self, known: Arc<Known>) -> Result<Arc<Known>, LogError> {
        if known.registration.passage.is_none() {
            return Ok(known);
        }
        let partition = known.registration.partition;
        self.entry(partition).await?;
        self.any(partition).await
    }

    /// Refuses a log whose passage lets nobody use it.
    pub(super) async fn check_use(&self, known: Arc<Known>) -> Result<Arc<Known>, LogError> {
        let known = self.current(known).await?;
        known.registration.check_use()?;
        Ok(known)
    }

    /// Returns the log of a partition, whatever its incarnation, if it may be used.
    pub(super) async fn usable(&self, partition: PartitionId) -> Result<Arc<Known>, LogError> {
        let known = self.any(partition).await?;
        self.check_use(known).await
    }

    /// Refuses a log that left, by what the registry says now: whatever is known of it, what leaves is sealed by its stream.
    pub(super) async fn check_sealed(&self, partition: PartitionId, config: &Config) -> Result<(), LogError> {
        if settings::is_sealed(config) {
            self.entry(partition).await?.registration.check_use()?;
        }
        Ok(())
    }

    /// Asks how a log stands.
    pub(super) async fn look(&self, known: &Known) -> Result<Look, LogError> {
        match known.place.look(&self.link).await {
            Ok(look) => Ok(look),
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => Err(self.why_gone(&known.place).await),
            Err(failure) => Err(known.place.unavailable(&failure)),
        }
    }

    /// Returns the error for a log whose stream is not there.
    pub(super) async fn why_gone(&self, place: &Place) -> LogError {
        let partition = place.partition;
        let entry = match self.entry(partition).await {
            Ok(entry) => entry,
            Err(error) => return error,
        };
        let found = Place::new(&self.names, &entry.registration);
        let detail = if found.stream == place.stream {
            let stream = &place.stream;
            format!(
                "the registry has it, and its stream {stream} is gone: its records are lost, recover the partition"
            )
        } else {
            let found = entry.registration.incarnation;
            format!("the log was replaced by one of incarnation {found}")
        };
        LogError::Unavailable { partition, detail }
    }

    /// Returns the registration of a partition, as registry and stream have it now.
    pub(super) async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        let entry = self.entry(partition).await?;
        let known = self.any(partition).await?;
        let look = self.look(&known).await?;
        Ok(Registration {
            sealed: settings::is_sealed(&look.config),
            ..entry.registration
        })
    }

    pub(super) async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let bytes = check_batch(&batch)?;
        let known = self.of(partition, incarnation).await?;
        let known = self.current(known).await?;
        known.registration.check_append()?;
        self.append_to(known, batch, bytes, expected_tail).await
    }

    /// Appends records that come from the place that the log is moved from.
    pub(super) async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        let bytes = check_batch(&batch)?;
        let known = self.of(partition, incarnation).await?;
        let known = self.current(known).await?;
        known.registration.check_import()?;
        self.append_to(known, batch, bytes, Some(expected_tail)).await
    }

    async fn append_to(
        &self,
        known: Arc<Known>,
        batch: Vec<Bytes>,
        bytes: usize,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let (partition, incarnation) = (known.registration.partition, known.incarnation());
        let (reply, outcome) = oneshot::channel();
        let pending = Pending {
            batch,
            bytes,
            expected_tail,
            reply,
        };
        let appends = known.appends.get_or_init(|| self.start_appender(&known));
        let ended = |sent| match sent {
            false => AppendError::Unavailable {
                detail: "its writer ended".to_owned(),
            },
            true => AppendError::Unknown {
                detail: "its writer ended".to_owned(),
            },
        };
        appends.send(pending).await.map_err(|_| ended(false))?;
        match outcome.await.map_err(|_| ended(true))? {
            Ok(last) => Ok(last),
            Err(NotAppended::Error(error)) => Err(error),
            Err(NotAppended::Closed(closed)) => {
                let entry = self.entry(partition).await?;
                check_incarnation(&entry.registration, incarnation)?;
                entry.registration.check_use()?;
                match closed {
                    Closed::Sealed => Err(AppendError::Sealed),
                    Closed::Gone => Err(self.why_gone(&known.place).await.into()),
                }
            }
        }
    }

    fn start_appender(&self, known: &Known) -> mpsc::Sender<Pending> {
        let (appends, queue) = mpsc::channel(QUEUE_MAX);
        let appender = Appender {
            link: self.link.clone(),
            place: Arc::clone(&known.place),
            limits: Limits {
                attempt: self.options.request_timeout,
                batch: self.options.append_timeout,
            },
            queue,
            tail: None,
        };
        tokio::spawn(appender.run());
        appends
    }
}
