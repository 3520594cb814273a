//! The registry: a key-value bucket with one entry per partition, created, changed and removed by compare-and-set.
//!
//! Nothing but a log's passage to another place changes in its entry: whether a log is sealed is a setting of its stream,
//! so that there is one place that says it, and it is the one that refuses the appends.

use super::core::settings;
use super::link::{Failure, Link, understand};
use super::names::Names;
use super::place::STREAM_NOT_FOUND;
use crate::Registration;
use async_nats::HeaderMap;
use async_nats::jetstream::{
    message::StreamMessage,
    publish::PublishAck,
    stream::{Info, RawMessage},
};
use bytes::Bytes;
use serde::Deserialize;
use snapshot_store::PartitionId;
use std::time::Duration;

const EXPECTED_REVISION: &str = "Nats-Expected-Last-Subject-Sequence";
const OPERATION: &str = "KV-Operation";
const MESSAGE_NOT_FOUND: u64 = 10037;

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) registration: Registration,
    pub(super) revision: u64,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    Done,
    /// The entry is not the one that was expected.
    Raced,
}

#[derive(Deserialize)]
struct Stored {
    message: RawMessage,
}

/// Reads the message of a stream from its leader; `None` when it is not there.
pub(super) async fn stored_message(
    link: &Link,
    stream: &str,
    which: serde_json::Value,
) -> Result<Option<StreamMessage>, Failure> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    match link.api::<Stored>(&subject, &which).await {
        Ok(Stored { message }) => {
            let message = StreamMessage::try_from(message);
            message
                .map(Some)
                .map_err(|error| Failure::Unclear(error.to_string()))
        }
        Err(Failure::Refused {
            code: MESSAGE_NOT_FOUND,
            ..
        }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Reads the entry of a partition.
pub(super) async fn load(
    link: &Link,
    names: &Names,
    partition: PartitionId,
) -> Result<Option<Entry>, Failure> {
    let subject = names.registry_subject(Some(partition));
    let which = serde_json::json!({ "last_by_subj": subject });
    let message = match stored_message(link, &names.registry_stream(), which).await {
        // No log was ever provisioned here.
        Err(Failure::Refused {
            code: STREAM_NOT_FOUND,
            ..
        }) => return Ok(None),
        message => message?,
    };
    let Some(message) = message.filter(|message| message.headers.get(OPERATION).is_none()) else {
        return Ok(None);
    };
    let registration = serde_json::from_slice(&message.payload).map_err(|error| {
        Failure::Unclear(format!("its entry in the registry cannot be understood: {error}"))
    })?;
    Ok(Some(Entry {
        registration,
        revision: message.sequence,
    }))
}

/// Creates the bucket, unless it is there.
pub(super) async fn create_bucket(link: &Link, names: &Names, replicas: u8) -> Result<(), Failure> {
    let stream = names.registry_stream();
    match link.api::<Info>(&format!("STREAM.INFO.{stream}"), &()).await {
        Err(Failure::Refused {
            code: STREAM_NOT_FOUND,
            ..
        }) => {}
        found => return found.map(drop),
    }
    let config = settings::registry_stream(stream.clone(), names.registry_subject(None), replicas);
    let created = link
        .api::<Info>(&format!("STREAM.CREATE.{stream}"), &config)
        .await;
    created.map(drop)
}

/// Creates the entry of a partition that has none.
pub(super) async fn create(
    link: &Link,
    names: &Names,
    registration: &Registration,
    limit: Duration,
) -> Result<Swap, Failure> {
    let registration = Registration {
        sealed: false,
        ..registration.clone()
    };
    let value = serde_json::to_vec(&registration).map_err(|error| Failure::NotSent(error.to_string()))?;
    let partition = registration.partition;
    let subject = names.registry_subject(Some(partition));
    let last = {
        let which = serde_json::json!({ "last_by_subj": subject });
        stored_message(link, &names.registry_stream(), which).await?
    };
    let revision = match last {
        Some(message) if message.headers.get(OPERATION).is_none() => return Ok(Swap::Raced),
        // The entry was removed: the mark of that is what to replace.
        Some(message) => message.sequence,
        None => 0,
    };
    swap(link, &subject, revision, HeaderMap::new(), value.into(), limit).await
}

/// Replaces an entry.
pub(super) async fn replace(
    link: &Link,
    names: &Names,
    entry: &Entry,
    registration: &Registration,
    limit: Duration,
) -> Result<Swap, Failure> {
    let registration = Registration {
        sealed: false,
        ..registration.clone()
    };
    let value = serde_json::to_vec(&registration).map_err(|error| Failure::NotSent(error.to_string()))?;
    let subject = names.registry_subject(Some(registration.partition));
    swap(
        link,
        &subject,
        entry.revision,
        HeaderMap::new(),
        value.into(),
        limit,
    )
    .await
}

/// Removes an entry.
pub(super) async fn remove(
    link: &Link,
    names: &Names,
    entry: &Entry,
    limit: Duration,
) -> Result<Swap, Failure> {
    let subject = names.registry_subject(Some(entry.registration.partition));
    let mut headers = HeaderMap::new();
    headers.insert(OPERATION, "DEL");
    swap(link, &subject, entry.revision, headers, Bytes::new(), limit).await
}

async fn swap(
    link: &Link,
    subject: &str,
    revision: u64,
    mut headers: HeaderMap,
    value: Bytes,
    limit: Duration,
) -> Result<Swap, Failure> {
    headers.insert(EXPECTED_REVISION, revision.to_string().as_str());
    let answer = link.request(subject, Some(headers), value, limit).await?;
    match understand::<PublishAck>(&answer.payload) {
        Ok(_) => Ok(Swap::Done),
        Err(Failure::Refused {
            code: 10071 | 10164, ..
        }) => Ok(Swap::Raced),
        Err(failure) => Err(failure),
    }
}
