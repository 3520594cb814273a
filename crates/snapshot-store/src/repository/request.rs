//! Single requests: each with a deadline, and repeated a bounded number of times where repeating is harmless.

use super::{
    Repository,
    error::StoreError,
    limits::{Lane, Permit},
};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use std::{collections::BTreeMap, future::Future, ops::Range, time::Duration};

/// How long a small request may take. The client's own retries happen within it.
pub(super) const SMALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long the transfer of one part may take: 8 MiB at 70 KiB/s.
pub(super) const PART_DEADLINE: Duration = Duration::from_secs(120);
/// How long one listing may take.
const LIST_DEADLINE: Duration = Duration::from_secs(120);
/// How often a request is repeated after the first time; a cloud client has retried below this already.
pub(super) const REPEATS_MAX: usize = 3;
/// The first pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Larger than any manifest: 100,000 files give 15 MiB.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct DeadlineExceeded(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the object has {bytes} bytes, more than the {bytes_max} that are read")]
struct TooLarge {
    bytes: u64,
    bytes_max: u64,
}

/// Bounds the time a request may take. After that its outcome is unclear.
pub(super) async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, request).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Generic {
            store: "deadline",
            source: Box::new(DeadlineExceeded(deadline)),
        }),
    }
}

/// Returns whether asking again may help.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

/// What the error of a conditional put says.
pub(super) enum PutFault {
    /// The version was another one: this try did not land, or it landed and its own repetition lost. Reading again
    /// tells which.
    Lost,
    /// It may have landed, or may land later.
    Unclear(Box<Error>),
    /// It was refused; another try will be, too.
    Refused(StoreError),
}

impl PutFault {
    /// Sorts the error of a conditional put to `key`.
    pub(super) fn of(key: &str, error: Error) -> Self {
        match error {
            Error::Precondition { .. } | Error::AlreadyExists { .. } => PutFault::Lost,
            error => match StoreError::from_client("update", key, error) {
                StoreError::Unavailable { source, .. } => PutFault::Unclear(source),
                refused => PutFault::Refused(refused),
            },
        }
    }
}

impl Repository {
    /// Returns the pauses between tries, with jitter from the seam.
    pub(super) fn pauses(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(REPEATS_MAX)
            .with_jitter()
            .with_jitter_seed(self.0.seams.entropy.next_u64())
    }

    /// Waits before try number `tries` (counted from 1) of a loop that decides anew each time.
    pub(super) async fn pause(&self, tries: usize) {
        let doubled = PAUSE_MIN.saturating_mul(1 << tries.min(8));
        tokio::time::sleep(doubled.min(PAUSE_MAX).mul_f64(self.0.seams.entropy.jitter(0.5))).await;
    }

    /// Makes a request that may be repeated without harm.
    pub(super) async fn repeat<T, F>(&self, deadline: Duration, request: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        (|| within(deadline, request()))
            .retry(self.pauses())
            .when(is_transient)
            .await
    }

    /// Reads a whole small object; `None` when there is none.
    pub(super) async fn get_document(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>, StoreError> {
        let path = self.path(key);
        let read = || async {
            let found = self.store().get_opts(&path, GetOptions::default()).await?;
            let version = UpdateVersion {
                e_tag: found.meta.e_tag.clone(),
                version: found.meta.version.clone(),
            };
            let bytes = found.meta.size;
            if bytes > DOCUMENT_BYTES_MAX {
                let source = Box::new(TooLarge {
                    bytes,
                    bytes_max: DOCUMENT_BYTES_MAX,
                });
                return Err(Error::NotSupported { source });
            }
            Ok((found.bytes().await?, version))
        };
        match self.repeat(SMALL_DEADLINE, read).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::from_client("read", key, source)),
        }
    }

    /// Reads a range of an object. The permit says that the part lies in memory: it is dropped with it.
    pub(super) async fn get_part(
        &self,
        lane: Lane,
        key: &str,
        range: Range<u64>,
    ) -> Result<(Bytes, Permit<'_>), Error> {
        let permit = self.0.limits.admit(lane, range.end - range.start).await;
        Ok((self.get_range(key, range).await?, permit))
    }

    /// Reads a range of an object for which the caller holds a permit.
    pub(super) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let path = self.path(key);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..Default::default()
        };
        let read = || async { self.store().get_opts(&path, options.clone()).await?.bytes().await };
        self.repeat(PART_DEADLINE, read).await
    }

    /// Copies an object of `bytes` inside the store. After an error nothing is known of `to`, which nobody else uses: it is
    /// uploaded instead.
    pub(super) async fn copy_object(&self, from: &str, to: &str, bytes: u64) -> Result<(), Error> {
        let (from, to) = (self.path(from), self.path(to));
        let _permit = self.0.limits.admit(Lane::Snapshot, 0).await;
        within(PART_DEADLINE, self.store().copy(&from, &to)).await?;
        if !self.0.kind.copies_later() {
            return Ok(());
        }
        // Until such a copy is done, the object is shorter; the caller's check of all files would find it incomplete.
        let arrived = || async {
            match self.store().head(&to).await?.size {
                size if size == bytes => Ok(()),
                size => Err(Error::Generic {
                    store: "copy",
                    source: format!("{size} of {bytes} bytes are there").into(),
                }),
            }
        };
        self.repeat(SMALL_DEADLINE, arrived).await
    }

    /// Writes an object that has only this content, ever: repeating it is harmless.
    pub(super) async fn put_immutable(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key);
        let write = || self.store().put(&path, PutPayload::from_bytes(bytes.clone()));
        self.repeat(PART_DEADLINE, write)
            .await
            .map(drop)
            .map_err(|source| StoreError::from_client("write", key, source))
    }

    /// Writes an object if it still is the version `expected` (`None`: if there is none), in a single try.
    ///
    /// No error of it proves that the write did not happen: the client below may have repeated a request whose
    /// answer was lost, and then lost against itself. The caller reads again.
    pub(super) async fn put_if(
        &self,
        key: &str,
        bytes: Vec<u8>,
        expected: Option<UpdateVersion>,
    ) -> Result<UpdateVersion, Error> {
        let path = self.path(key);
        let mode = expected.map_or(PutMode::Create, PutMode::Update);
        let options = PutOptions {
            mode,
            ..Default::default()
        };
        let written = within(
            SMALL_DEADLINE,
            self.store().put_opts(&path, bytes.into(), options),
        )
        .await?;
        Ok(written.into())
    }

    /// Lists the objects below a directory: name relative to it, and metadata.
    pub(super) async fn list_directory(
        &self,
        directory: &str,
    ) -> Result<BTreeMap<String, ObjectMeta>, StoreError> {
        let prefix = self.path(directory);
        let list = || async {
            let found: Vec<ObjectMeta> = self.store().list(Some(&prefix)).try_collect().await?;
            Ok(found)
        };
        let found = match self.repeat(LIST_DEADLINE, list).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(source) => return Err(StoreError::from_client("list", directory, source)),
        };
        let relative = |meta: ObjectMeta| {
            let name = meta
                .location
                .as_ref()
                .strip_prefix(prefix.as_ref())?
                .trim_start_matches('/');
            Some((name.to_owned(), meta.clone()))
        };
        Ok(found.into_iter().filter_map(relative).collect())
    }

    /// Lists the names of the folders right below `directory` (the base itself when empty).
    pub(super) async fn list_folders(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let prefix = if directory.is_empty() {
            self.0.base.clone()
        } else {
            self.path(directory)
        };
        let list = || async {
            let prefix = (!prefix.as_ref().is_empty()).then_some(&prefix);
            self.store().list_with_delimiter(prefix).await
        };
        match self.repeat(LIST_DEADLINE, list).await {
            Ok(found) => {
                let name = |path: &object_store::path::Path| path.filename().map(str::to_owned);
                Ok(found.common_prefixes.iter().filter_map(name).collect())
            }
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(StoreError::from_client("list", directory, source)),
        }
    }

    /// Returns whether an object is there.
    pub(super) async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let path = self.path(key);
        match self.repeat(SMALL_DEADLINE, || self.store().head(&path)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::from_client("look for", key, source)),
        }
    }

    /// Deletes an object; one that is gone already is fine.
    pub(super) async fn delete_object(&self, path: &object_store::path::Path) -> Result<(), StoreError> {
        match self.repeat(SMALL_DEADLINE, || self.store().delete(path)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::from_client("delete", path.as_ref(), source)),
        }
    }
}
