//! Brings the files of a finished checkpoint into the store, hashing each in the pass that reads it.
//!
//! Memory is bounded: a part lies in memory only while it has a place in the node's budget. Nothing is visible to others until
//! the pointer names the directory, so a file may be uploaded again from its beginning as often as needed. However an
//! upload ends, also when its future is dropped, an unfinished multipart upload is aborted.

use super::{
    Progress, Repository,
    error::StoreError,
    limits::Lane,
    publish::PublishError,
    read::is_file_name,
    request::{PART_DEADLINE, within},
    reuse::Reusable,
};
use crate::{
    format::{Manifest, ManifestFile},
    vocabulary::ContentHash,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::Either, stream, stream::FuturesUnordered};
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload, path::Path as StorePath};
use std::{
    fs::File,
    future::Future,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    pin::pin,
};
use tokio_util::sync::CancellationToken;

/// Size of a part: well above the 5 MiB that S3 demands, well within a request's deadline.
pub(super) const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts; a file that would have more gets larger ones.
const PARTS_MAX: u64 = 9_000;
/// How many files are on their way at once. Most files of a checkpoint are a single part.
const FILES_AT_ONCE: usize = 8;
/// How many parts of one file are under way at once.
const PARTS_AT_ONCE: usize = 4;
/// How often one file is tried; the client below repeats single parts besides.
const FILE_TRIES: usize = 3;

/// A file that is to be uploaded.
#[derive(Clone, Debug)]
pub(super) struct LocalFile {
    pub(super) name: String,
    path: PathBuf,
    pub(super) bytes: u64,
}

/// Why a file was not uploaded.
enum UploadError {
    Local(io::Error),
    Store(Error),
    Cancelled,
}

/// Returns the files of a finished checkpoint, sorted by name.
pub(super) async fn list_files(dir: &Path) -> Result<Vec<LocalFile>, PublishError> {
    let list = |dir: PathBuf| -> io::Result<Vec<LocalFile>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if !metadata.is_file() || !is_file_name(&name) {
                let detail = format!("{} cannot be part of a snapshot", entry.path().display());
                return Err(io::Error::new(ErrorKind::InvalidInput, detail));
            }
            files.push(LocalFile {
                name,
                path: entry.path(),
                bytes: metadata.len(),
            });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    };
    let owned = dir.to_owned();
    blocking(move || list(owned))
        .await
        .map_err(|source| PublishError::Local(at(dir, source)))
}

/// Names the file in an error.
pub(super) fn at(path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), format!("{}: {source}", path.display()))
}

/// Runs something that waits for the local disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// What all files of one upload share.
pub(super) struct UploadPlan<'a> {
    /// The directory they go to (a key).
    pub(super) directory: &'a str,
    /// What earlier snapshots hold.
    pub(super) reusable: &'a Reusable,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a CancellationToken,
}

impl Repository {
    /// Uploads `files`, or copies them inside the store, and returns them as the manifest lists them.
    pub(super) async fn upload_files(
        &self,
        plan: &UploadPlan<'_>,
        files: Vec<LocalFile>,
    ) -> Result<Vec<ManifestFile>, PublishError> {
        stream::iter(files)
            .map(|file| async move { self.place_file(plan, &file).await })
            .buffered(FILES_AT_ONCE)
            .try_collect()
            .await
    }

    /// Copies a file inside the store if an earlier snapshot holds the same bytes, else uploads it.
    async fn place_file(
        &self,
        plan: &UploadPlan<'_>,
        file: &LocalFile,
    ) -> Result<ManifestFile, PublishError> {
        let key = format!("{}/{}", plan.directory, file.name);
        // Without a candidate of the same size, the file is read only once: for its upload.
        if plan.reusable.has_size(file.bytes) {
            let hashed = plan.cancel.run_until_cancelled(hash_of(file)).await;
            let hash = hashed.ok_or(PublishError::Cancelled)?;
            let hash = hash.map_err(|source| PublishError::Local(at(&file.path, source)))?;
            if let Some(copies) = self.try_copy(plan, file, hash, &key).await? {
                plan.progress.copied(file.bytes);
                return Ok(ManifestFile {
                    name: file.name.clone(),
                    bytes: file.bytes,
                    hash,
                    copies,
                    unknown: Default::default(),
                });
            }
        }
        self.upload_file(plan, &key, file).await
    }

    /// Copies a file from an earlier snapshot; returns how often it was copied by now, `None` when it must be uploaded.
    async fn try_copy(
        &self,
        plan: &UploadPlan<'_>,
        file: &LocalFile,
        hash: ContentHash,
        key: &str,
    ) -> Result<Option<u32>, PublishError> {
        let Some(source) = plan.reusable.find(file.bytes, hash) else {
            return Ok(None);
        };
        let copy = self.copy_object(&source.key, key, file.bytes);
        match plan.cancel.run_until_cancelled(copy).await {
            None => Err(PublishError::Cancelled),
            Some(Ok(())) => Ok(Some(source.copies + 1)),
            Some(Err(error)) => {
                tracing::debug!(key, from = source.key, %error, "not copied inside the store: uploading");
                Ok(None)
            }
        }
    }

    async fn upload_file(
        &self,
        plan: &UploadPlan<'_>,
        key: &str,
        file: &LocalFile,
    ) -> Result<ManifestFile, PublishError> {
        let mut tries = 1;
        loop {
            match self.try_upload_file(plan, key, file).await {
                Ok(uploaded) => return Ok(uploaded),
                Err(UploadError::Cancelled) => return Err(PublishError::Cancelled),
                Err(UploadError::Local(source)) => {
                    return Err(PublishError::Local(at(&file.path, source)));
                }
                Err(UploadError::Store(source)) => {
                    let error = StoreError::from_client("upload", key, source);
                    if tries >= FILE_TRIES || !error.is_retryable() {
                        return Err(error.into());
                    }
                }
            }
            self.pause(tries).await;
            tries += 1;
        }
    }

    async fn try_upload_file(
        &self,
        plan: &UploadPlan<'_>,
        key: &str,
        file: &LocalFile,
    ) -> Result<ManifestFile, UploadError> {
        let mut source = Source::open(file).await?;
        let path = self.path(key);
        if file.bytes <= PART_BYTES {
            let single = self.put_single(&path, &mut source, plan.progress);
            let sent = plan.cancel.run_until_cancelled(single).await;
            sent.unwrap_or(Err(UploadError::Cancelled))?;
        } else {
            let begun = within(PART_DEADLINE, self.store().put_multipart(&path)).await;
            let mut upload = OpenUpload(Some(begun.map_err(UploadError::Store)?));
            let parts = self.send_parts(&mut upload, &mut source, plan.progress);
            let sent = plan.cancel.run_until_cancelled(parts).await;
            if let Err(error) = sent.unwrap_or(Err(UploadError::Cancelled)) {
                upload.abort().await;
                return Err(error);
            }
        }
        source.finish()
    }

    async fn put_single(
        &self,
        path: &StorePath,
        source: &mut Source,
        progress: &dyn Progress,
    ) -> Result<(), UploadError> {
        let _permit = self.0.limits.admit(Lane::Snapshot, source.remaining).await;
        let part = source.next_part().await?;
        let advanced = part.len() as u64;
        let write = self.store().put(path, PutPayload::from_bytes(part));
        within(PART_DEADLINE, write).await.map_err(UploadError::Store)?;
        progress.advanced(advanced);
        Ok(())
    }

    /// Sends all parts of a file, a few at once, and completes the upload.
    async fn send_parts(
        &self,
        upload: &mut OpenUpload,
        source: &mut Source,
        progress: &dyn Progress,
    ) -> Result<(), UploadError> {
        let mut sending = FuturesUnordered::new();
        while source.remaining > 0 {
            while sending.len() >= PARTS_AT_ONCE {
                sending
                    .next()
                    .await
                    .unwrap_or(Ok(()))
                    .map_err(UploadError::Store)?;
            }
            // Meanwhile the parts under way must move on: it may be one of them that holds the last permit.
            let admitted = self.0.limits.admit(Lane::Snapshot, source.next_part_bytes());
            let permit = while_sending(&mut sending, admitted).await?;
            let part = while_sending(&mut sending, source.next_part()).await??;
            let advanced = part.len() as u64;
            let sent = within(PART_DEADLINE, upload.put_part(part)?);
            sending.push(async move {
                let _permit = permit;
                sent.await?;
                progress.advanced(advanced);
                Ok(())
            });
        }
        while let Some(sent) = sending.next().await {
            sent.map_err(UploadError::Store)?;
        }
        drop(sending);
        upload.complete().await
    }
}

/// Waits for `wanted` while the parts in `sending` move on; fails with the first of them that does.
async fn while_sending<T, S: Future<Output = Result<(), Error>>>(
    sending: &mut FuturesUnordered<S>,
    wanted: impl Future<Output = T>,
) -> Result<T, UploadError> {
    let mut wanted = pin!(wanted);
    while !sending.is_empty() {
        match futures::future::select(wanted.as_mut(), sending.next()).await {
            Either::Left((value, _)) => return Ok(value),
            Either::Right((sent, _)) => sent.unwrap_or(Ok(())).map_err(UploadError::Store)?,
        }
    }
    Ok(wanted.await)
}

/// A multipart upload that is aborted unless it was completed. What an abort leaves, because the process died or the store
/// did not answer, costs space until the bucket's own rule for abandoned uploads removes it.
struct OpenUpload(Option<Box<dyn MultipartUpload>>);

impl OpenUpload {
    fn put_part(
        &mut self,
        part: Bytes,
    ) -> Result<impl Future<Output = Result<(), Error>> + use<>, UploadError> {
        match &mut self.0 {
            Some(upload) => Ok(upload.put_part(PutPayload::from_bytes(part))),
            None => Err(UploadError::Local(io::Error::other(
                "the upload has ended already",
            ))),
        }
    }

    async fn complete(&mut self) -> Result<(), UploadError> {
        if let Some(upload) = &mut self.0 {
            within(PART_DEADLINE, upload.complete())
                .await
                .map_err(UploadError::Store)?;
        }
        self.0 = None;
        Ok(())
    }

    async fn abort(&mut self) {
        // Taken only when it is done: dropping this future must not lose it.
        if let Some(upload) = &mut self.0 {
            let _ = within(PART_DEADLINE, upload.abort()).await;
        }
        self.0 = None;
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { within(PART_DEADLINE, upload.abort()).await });
        }
    }
}

/// Hashes a local file in one pass.
async fn hash_of(file: &LocalFile) -> io::Result<ContentHash> {
    let path = file.path.clone();
    let hash = move || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize().into())
    };
    blocking(hash).await
}

/// A local file that is read once, in parts, and hashed on the way.
struct Source {
    name: String,
    bytes: u64,
    remaining: u64,
    part_bytes: u64,
    /// Empty only while a part is being read.
    reader: Option<(File, blake3::Hasher)>,
}

impl Source {
    async fn open(file: &LocalFile) -> Result<Self, UploadError> {
        let path = file.path.clone();
        let opened = blocking(move || File::open(path))
            .await
            .map_err(UploadError::Local)?;
        Ok(Source {
            name: file.name.clone(),
            bytes: file.bytes,
            remaining: file.bytes,
            part_bytes: PART_BYTES.max(file.bytes.div_ceil(PARTS_MAX)),
            reader: Some((opened, blake3::Hasher::new())),
        })
    }

    fn next_part_bytes(&self) -> u64 {
        self.remaining.min(self.part_bytes)
    }

    async fn next_part(&mut self) -> Result<Bytes, UploadError> {
        let bytes = self.next_part_bytes();
        let lost = || UploadError::Local(io::Error::other("the file was abandoned after an error"));
        let (mut file, mut hasher) = self.reader.take().ok_or_else(lost)?;
        let read = move || {
            let mut part = Vec::with_capacity(usize::try_from(bytes).map_err(io::Error::other)?);
            (&mut file).take(bytes).read_to_end(&mut part)?;
            if part.len() as u64 != bytes {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the file became shorter",
                ));
            }
            hasher.update(&part);
            Ok((file, hasher, part))
        };
        let (file, hasher, part) = blocking(read).await.map_err(UploadError::Local)?;
        self.reader = Some((file, hasher));
        self.remaining -= bytes;
        Ok(part.into())
    }

    fn finish(self) -> Result<ManifestFile, UploadError> {
        let lost = || UploadError::Local(io::Error::other("the file was abandoned after an error"));
        let (_, hasher) = self.reader.ok_or_else(lost)?;
        Ok(ManifestFile {
            name: self.name,
            bytes: self.bytes,
            hash: hasher.finalize().into(),
            copies: 0,
            unknown: Default::default(),
        })
    }
}

/// Returns how many bytes a manifest's files have altogether.
pub(super) fn bytes_of(files: &[ManifestFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

/// Returns the key of a manifest below the directory `directory` (a key).
pub(super) fn manifest_key(directory: &str) -> String {
    format!("{directory}/{}", Manifest::FILE_NAME)
}
