//! Checks, before the first write of a process, that the store keeps the promises publishing rests on.
//!
//! A store that ignores write conditions gives no error anywhere: every writer believes that it won, and the last
//! one stands. So each process tries once, under a key of its own: create twice, update with the right and with
//! a stale version, and a small race. It cannot prove a store right; it catches those known to be wrong.

use super::{Repository, error::StoreError, request::within};
use crate::format::Keys;
use bytes::Bytes;
use futures::future::join_all;
use object_store::{Error, ObjectStoreExt, UpdateVersion};
use std::time::Duration;

/// How many writers race in one round.
const RACERS: usize = 8;
/// How many rounds before the first write of a process.
const RACES: usize = 3;
/// How long cleaning up may take; the check does not wait for more.
const CLEANUP_DEADLINE: Duration = Duration::from_secs(5);

const REMEDY: &str =
    "use a store with conditional writes (If-Match and If-None-Match), or file:// on a local disk";

impl Repository {
    /// Checks once per process that the store can be trusted with conditional writes; free afterwards.
    ///
    /// # Errors
    /// `Incapable` when it cannot be trusted, with the reason and the remedy; `Unavailable` when it did not answer,
    /// which the next call tries again.
    pub async fn ensure_capable(&self) -> Result<(), StoreError> {
        let probe = || self.try_conditional_writes(RACES);
        self.0.capable.get_or_try_init(probe).await.map(drop)
    }

    /// Checks once per process that objects can be deleted; free afterwards. Only what deletes asks for it: a cluster that leaves
    /// deletion to its operator needs no right to delete.
    ///
    /// # Errors
    /// `Denied` when the credentials do not allow it; `Unavailable` when the store did not answer.
    pub async fn ensure_deletable(&self) -> Result<(), StoreError> {
        self.0
            .deletable
            .get_or_try_init(|| self.probe_delete())
            .await
            .map(drop)
    }

    async fn probe_delete(&self) -> Result<(), StoreError> {
        let key = format!("{}/{}", Keys::PROBE, self.0.seams.ulid());
        self.put_immutable(&key, Bytes::from_static(b"may be deleted"))
            .await?;
        self.delete_object(&self.path(&key)).await?;
        if self.exists(&key).await? {
            return Err(StoreError::Incapable {
                detail: "an object that was deleted is still there: look for a retention rule or an object lock on the bucket, or switch prune off"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Makes the check again, with `races` rounds in which several writers race for one object. More rounds find stores that
    /// are wrong only seldom.
    ///
    /// # Errors
    /// As [`Repository::ensure_capable`].
    pub async fn try_conditional_writes(&self, races: usize) -> Result<(), StoreError> {
        let key = format!("{}/{}", Keys::PROBE, self.0.seams.ulid());
        let verdict = self.probe_with(&key, races).await;
        // A probe that stays behind is harmless and tiny.
        let path = self.path(&key);
        let _ = within(CLEANUP_DEADLINE, self.store().delete(&path)).await;
        if verdict.is_ok() {
            tracing::debug!(url = self.url(), "the store honours conditional writes");
        }
        verdict
    }

    async fn probe_with(&self, key: &str, races: usize) -> Result<(), StoreError> {
        let first = match self.put_if(key, b"first".to_vec(), None).await {
            Ok(version) => version,
            // Nobody else knows this key: the client repeated a request whose answer was lost.
            Err(Error::AlreadyExists { .. }) => self.probe_read(key, b"first").await?,
            Err(error) => return Err(unclear(key, error)),
        };
        match self.put_if(key, b"second".to_vec(), None).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Ok(_) => return Err(incapable("it created an object that existed already")),
            Err(error) => return Err(unclear(key, error)),
        }
        let current = match self.put_if(key, b"third".to_vec(), Some(first.clone())).await {
            Ok(version) => version,
            Err(Error::Precondition { .. }) => match self.probe_read(key, b"third").await {
                Ok(version) => version,
                Err(StoreError::Incapable { .. }) => {
                    return Err(incapable("it refused an update that named the right version"));
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(unclear(key, error)),
        };
        match self.put_if(key, b"fourth".to_vec(), Some(first)).await {
            Err(Error::Precondition { .. }) => {}
            Ok(_) => return Err(incapable("it let an update through that named a stale version")),
            Err(error) => return Err(unclear(key, error)),
        }
        let read = self.probe_read(key, b"third").await?;
        let mut current = same_version(read, &current)?;
        for round in 0..races {
            current = self.race(key, round, current).await?;
        }
        Ok(())
    }

    /// Lets several writers update one version at the same time; exactly one may win.
    async fn race(&self, key: &str, round: usize, from: UpdateVersion) -> Result<UpdateVersion, StoreError> {
        let content = |racer: usize| format!("race {round} racer {racer}").into_bytes();
        let racers = (0..RACERS).map(|racer| self.put_if(key, content(racer), Some(from.clone())));
        let mut winners = Vec::new();
        let mut fault = None;
        for (racer, outcome) in join_all(racers).await.into_iter().enumerate() {
            match outcome {
                Ok(version) => winners.push((racer, version)),
                Err(Error::Precondition { .. }) => {}
                Err(error) => fault = Some(error),
            }
        }
        match (winners.as_slice(), fault) {
            ([(racer, version)], _) => {
                let read = self.probe_read(key, &content(*racer)).await?;
                same_version(read, version)
            }
            ([], Some(error)) => Err(unclear(key, error)),
            // The winner may have lost its answer and then lost against itself: no verdict, try again later.
            ([], None) => Err(unclear(
                key,
                Error::Generic {
                    store: "probe",
                    source: "nobody won the race for an update".into(),
                },
            )),
            (many, _) => {
                let detail = format!(
                    "{} of {RACERS} concurrent updates of one version succeeded",
                    many.len()
                );
                Err(incapable(&detail))
            }
        }
    }

    /// Reads the probe back and returns its version.
    async fn probe_read(&self, key: &str, expected: &[u8]) -> Result<UpdateVersion, StoreError> {
        match self.get_document(key).await? {
            Some((bytes, version)) if bytes == Bytes::copy_from_slice(expected) => Ok(version),
            Some(_) => Err(incapable("a read does not return the last accepted write")),
            None => Err(incapable("an object that was just written is not there")),
        }
    }
}

/// Returns the version as read, which is what every update starts from, if it is the one the write returned.
fn same_version(read: UpdateVersion, written: &UpdateVersion) -> Result<UpdateVersion, StoreError> {
    match (&read.e_tag, &written.e_tag) {
        (Some(read), Some(written)) if read != written => {
            Err(incapable("a read does not return the version the write returned"))
        }
        _ => Ok(read),
    }
}

fn incapable(what: &str) -> StoreError {
    StoreError::Incapable {
        detail: format!("{what}; {REMEDY}"),
    }
}

fn unclear(key: &str, error: Error) -> StoreError {
    match StoreError::from_client("probe", key, error) {
        StoreError::Incapable { detail } => incapable(&detail),
        other => other,
    }
}
