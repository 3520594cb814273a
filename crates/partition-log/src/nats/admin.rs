//! What only admins may do: provision, seal, trim, retire. The servers refuse all of it to a worker's credentials.
//!
//! Provisioning, in order:
//! 1. Create the bucket of the registry, unless it is there.
//! 2. Create the stream, with the registration in its metadata. A crash after that leaves a stream that nobody uses; a
//!    repetition finds it, and another registration has a stream of another name.
//! 3. Create the entry, by compare-and-set. From here on the log exists.
//!
//! So an entry whose stream is missing means that records were lost, and no repetition hides that.

use super::core::position::Bounds;
use super::core::settings;
use super::link::Failure;
use super::logs::Logs;
use super::place::{Place, STREAM_NOT_FOUND, unavailable};
use super::registry::{self, Swap};
use crate::position::{check_base, check_incarnation, check_same};
use crate::{LogError, Passage, ProvisionError, Registration};
use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, Info};
use bytes::Bytes;
use serde::Deserialize;
use snapshot_store::{Incarnation, Lsn, PartitionId};

/// The key of a stream's metadata that holds the registration it was created for.
pub(super) const REGISTRATION: &str = "tidemark.registration";
const STREAM_NAME_IN_USE: u64 = 10058;
/// How often a change is tried again that other admins were in the way of.
const RACES_MAX: u32 = 3;

#[derive(Deserialize)]
struct Purged {
    success: bool,
}

impl Logs {
    /// Removes what a discarded copy left: a stream that was made for a log that arrives, and that no entry names.
    async fn remove_leftover(
        &self,
        place: &Place,
        registration: &Registration,
    ) -> Result<(), ProvisionError> {
        if !matches!(registration.passage, Some(Passage::Arriving { .. })) {
            return Ok(());
        }
        let failed = |failure: Failure| ProvisionError::Log(place.unavailable(&failure));
        let look = match place.look_at_any(&self.link).await {
            Ok(look) => look,
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => return Ok(()),
            Err(failure) => return Err(failed(failure)),
        };
        let found = look.config.metadata.get(REGISTRATION);
        let found: Option<Registration> = found.and_then(|text| serde_json::from_str(text).ok());
        match found.and_then(|found| found.passage) {
            Some(Passage::Arriving { .. }) => self.remove_stream(place).await.map_err(failed),
            _ => Ok(()),
        }
    }

    /// Deletes the stream of a copy that was given up.
    pub(super) async fn remove_stream(&self, place: &Place) -> Result<(), Failure> {
        let subject = format!("STREAM.DELETE.{}", place.stream);
        match self.link.api::<serde_json::Value>(&subject, &()).await {
            Ok(_)
            | Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn provision(&self, registration: &Registration) -> Result<(), ProvisionError> {
        check_base(registration)?;
        let partition = registration.partition;
        let failed = |failure: Failure| ProvisionError::Log(unavailable(partition, &failure));
        let replicas = self.options.replicas;
        registry::create_bucket(&self.link, &self.names, replicas)
            .await
            .map_err(failed)?;
        for _ in 0..RACES_MAX {
            match self.entry(partition).await {
                Ok(entry) => return check_same(&entry.registration, registration),
                Err(LogError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let place = Place::new(&self.names, registration);
            self.remove_leftover(&place, registration).await?;
            self.create_stream(&place, registration).await?;
            let limit = self.options.request_timeout;
            match registry::create(&self.link, &self.names, registration, limit).await {
                Ok(Swap::Done) if registration.sealed => {
                    return Ok(self.set_sealed(partition, registration.incarnation, true).await?);
                }
                Ok(Swap::Done) => return Ok(()),
                Ok(Swap::Raced) => {}
                Err(failure) => return Err(failed(failure)),
            }
        }
        Err(failed(Failure::NotSent(
            "other admins change the registry at the same time: try again".to_owned(),
        )))
    }

    async fn create_stream(&self, place: &Place, registration: &Registration) -> Result<(), ProvisionError> {
        let partition = place.partition;
        let failed = |failure: Failure| ProvisionError::Log(place.unavailable(&failure));
        let first = registration.first_trim_point().next().get();
        let mut config = settings::log_stream(
            place.stream.clone(),
            place.subject.clone(),
            self.options.replicas,
            first,
        );
        let identity = Registration {
            sealed: false,
            ..registration.clone()
        };
        let identity =
            serde_json::to_string(&identity).map_err(|error| failed(Failure::NotSent(error.to_string())))?;
        config.metadata.insert(REGISTRATION.to_owned(), identity);
        let subject = format!("STREAM.CREATE.{}", place.stream);
        match self.link.api::<Info>(&subject, &config).await {
            // One that is there already with the very same settings is answered like a new one.
            Ok(_)
            | Err(Failure::Refused {
                code: STREAM_NAME_IN_USE,
                ..
            }) => {}
            Err(failure) => return Err(failed(failure)),
        }
        let look = place.look(&self.link).await.map_err(failed)?;
        let found = look
            .config
            .metadata
            .get(REGISTRATION)
            .and_then(|text| serde_json::from_str(text).ok());
        let Some(found) = found else {
            let stream = &place.stream;
            return Err(failed(Failure::NotSent(format!(
                "the stream {stream} is there and was not made for a log: remove it, or choose another prefix"
            ))));
        };
        check_same(&found, registration).map_err(|_| ProvisionError::Exists {
            partition,
            found: found.incarnation,
        })?;
        // Its records may begin elsewhere: a stream that is there keeps its place.
        let trim_point = look.bounds.trim_point;
        if registration.passage.is_some() && trim_point != registration.first_trim_point() {
            let stream = &place.stream;
            return Err(failed(Failure::NotSent(format!(
                "the stream {stream} is there and begins elsewhere: remove it"
            ))));
        }
        Ok(())
    }

    /// Seals a log or takes that back: one setting of its stream, which its leader checks with every message. So nothing
    /// lands afterwards, of whatever writer; the records and their trims are not concerned.
    pub(super) async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        let entry = self.entry(partition).await?;
        check_incarnation(&entry.registration, incarnation)?;
        let place = Place::new(&self.names, &entry.registration);
        let mut config = self.config(&place).await?;
        if settings::is_sealed(&config) != sealed {
            settings::set_sealed(&mut config, sealed);
            let subject = format!("STREAM.UPDATE.{}", place.stream);
            let updated = self.link.api::<Info>(&subject, &config).await;
            updated.map_err(|failure| place.unavailable(&failure))?;
        }
        if sealed {
            self.confirm_sealed(&place).await?;
        }
        Ok(())
    }

    async fn config(&self, place: &Place) -> Result<Config, LogError> {
        match place.look_at_any(&self.link).await {
            Ok(look) => Ok(look.config),
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => Err(self.why_gone(place).await),
            Err(failure) => Err(place.unavailable(&failure)),
        }
    }

    /// Makes sure that the leader of a stream refuses appends: one that could not land anyway must be refused for its
    /// length, and not for the place it asks for.
    async fn confirm_sealed(&self, place: &Place) -> Result<(), LogError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", u64::MAX.to_string());
        let limit = self.options.request_timeout;
        let answer = self
            .link
            .request(&place.subject, Some(headers), Bytes::new(), limit)
            .await
            .map_err(|failure| place.unavailable(&failure))?;
        match super::link::understand::<serde_json::Value>(&answer.payload) {
            Err(Failure::Refused { code, text })
                if super::core::group::Refusal::of(code, &text) == super::core::group::Refusal::Sealed =>
            {
                Ok(())
            }
            answer => Err(place.unavailable(&Failure::Unclear(format!(
                "its leader does not refuse appends yet: seal it again (it answered {answer:?})"
            )))),
        }
    }

    pub(super) async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let entry = self.entry(partition).await?;
        check_incarnation(&entry.registration, incarnation)?;
        entry.registration.check_trim()?;
        let known = self.of(partition, incarnation).await?;
        let Bounds { trim_point, tail } = self.look(&known).await?.bounds;
        // The servers would move the tail for a trim beyond it.
        let up_to = up_to.min(tail.prev());
        if up_to <= trim_point {
            return Ok(trim_point);
        }
        let place = &known.place;
        let subject = format!("STREAM.PURGE.{}", place.stream);
        let request = serde_json::json!({ "seq": up_to.next().get() });
        let purged: Purged = self
            .link
            .api(&subject, &request)
            .await
            .map_err(|failure| place.unavailable(&failure))?;
        if !purged.success {
            let failure = Failure::Unclear("the servers did not purge its stream".to_owned());
            return Err(place.unavailable(&failure));
        }
        Ok(self.look(&known).await?.bounds.trim_point)
    }

    pub(super) async fn retire(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
    ) -> Result<(), LogError> {
        let entry = match self.entry(partition).await {
            Err(LogError::Missing { .. }) => return Ok(()),
            entry => entry?,
        };
        check_incarnation(&entry.registration, incarnation)?;
        match self.set_sealed(partition, incarnation, true).await {
            Err(error) if !self.is_gone(&entry.registration).await => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let limit = self.options.request_timeout;
        let removed = registry::remove(&self.link, &self.names, &entry, limit).await;
        match removed.map_err(|failure| unavailable(partition, &failure))? {
            Swap::Done => {}
            Swap::Raced => {
                let detail = "another admin changes the registry at the same time: try again".to_owned();
                return Err(LogError::Unavailable { partition, detail });
            }
        }
        // What is known of it goes with the entry.
        match self.entry(partition).await {
            Ok(_) | Err(LogError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a log's stream is certainly not there.
    async fn is_gone(&self, registration: &Registration) -> bool {
        let looked = Place::new(&self.names, registration)
            .look_at_any(&self.link)
            .await;
        matches!(
            looked,
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            })
        )
    }
}
