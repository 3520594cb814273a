//! Brings files into the store, hashing each in the pass that reads it. Where they come from is the source's business.
//!
//! Memory is bounded: a part lies in memory only while it has one of the upload's buffers and a place in the node's budget. Nothing is visible to others until
//! the pointer names the directory, so a file may be uploaded again from its beginning as often as needed. However an
//! upload ends, also when its future is dropped, an unfinished multipart upload is aborted.

use super::{
    Progress, Repository,
    buffers::PartBuffers,
    error::StoreError,
    publish::PublishError,
    request::{PART_DEADLINE, within},
    reuse::Reusable,
    source::{Admitted, PART_BYTES, PartReader, SourceFault, SourceFile},
    upload_client::UploadClient,
};
use crate::{
    format::{Manifest, ManifestFile},
    vocabulary::ContentHash,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::Either, stream, stream::FuturesUnordered};
use object_store::{Error, MultipartUpload, path::Path as StorePath};
use std::{future::Future, io, pin::pin};
use tokio_util::sync::CancellationToken;

/// How many files are on their way at once. Most files of a checkpoint are a single part.
const FILES_AT_ONCE: usize = 8;
/// How often one file is tried; the client below repeats single parts besides.
const FILE_TRIES: usize = 3;

/// Why a file was not uploaded.
#[derive(Debug)]
pub(super) enum UploadError {
    /// It could not be read.
    Source(SourceFault),
    /// It could not be written.
    Store(StoreError),
    /// It was not wanted any more.
    Cancelled,
}

/// Why one try to upload a file failed.
enum TryError {
    Source(SourceFault),
    Store(Error),
    Cancelled,
}

impl From<SourceFault> for TryError {
    fn from(fault: SourceFault) -> Self {
        TryError::Source(fault)
    }
}

/// For uploads of a local checkpoint.
impl From<UploadError> for PublishError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Source(SourceFault::Local(source)) => PublishError::Local(source),
            UploadError::Source(fault) => PublishError::Local(io::Error::other(fault)),
            UploadError::Store(error) => PublishError::Store(error),
            UploadError::Cancelled => PublishError::Cancelled,
        }
    }
}

/// What all files of one upload share.
pub(super) struct UploadPlan<'a> {
    /// The directory they go to (a key).
    pub(super) directory: &'a str,
    /// What earlier snapshots hold.
    pub(super) reusable: &'a Reusable,
    /// What their parts lie in.
    pub(super) buffers: PartBuffers,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a CancellationToken,
}

impl Repository {
    /// Uploads `files`, or copies them inside the store, and returns them as the manifest lists them.
    pub(super) async fn upload_files(
        &self,
        plan: &UploadPlan<'_>,
        files: Vec<SourceFile>,
    ) -> Result<Vec<ManifestFile>, UploadError> {
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
        file: &SourceFile,
    ) -> Result<ManifestFile, UploadError> {
        let key = format!("{}/{}", plan.directory, file.name);
        // Without a candidate of the same size, the file is read only once: for its upload.
        if plan.reusable.has_size(file.bytes) {
            let hashed = plan.cancel.run_until_cancelled(file.hash()).await;
            let hash = hashed
                .ok_or(UploadError::Cancelled)?
                .map_err(UploadError::Source)?;
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
        file: &SourceFile,
        hash: ContentHash,
        key: &str,
    ) -> Result<Option<u32>, UploadError> {
        let Some(source) = plan.reusable.find(file.bytes, hash) else {
            return Ok(None);
        };
        let copy = self.copy_object(&source.key, key, file.bytes);
        match plan.cancel.run_until_cancelled(copy).await {
            None => Err(UploadError::Cancelled),
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
        file: &SourceFile,
    ) -> Result<ManifestFile, UploadError> {
        let mut tries = 1;
        loop {
            match self.try_upload_file(plan, key, file).await {
                Ok(hash) => {
                    return Ok(ManifestFile {
                        name: file.name.clone(),
                        bytes: file.bytes,
                        hash,
                        copies: 0,
                        unknown: Default::default(),
                    });
                }
                Err(TryError::Cancelled) => return Err(UploadError::Cancelled),
                Err(TryError::Source(fault)) => return Err(UploadError::Source(fault)),
                Err(TryError::Store(source)) => {
                    let error = StoreError::from_client("upload", key, source);
                    if tries >= FILE_TRIES || !error.is_retryable() {
                        return Err(UploadError::Store(error));
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
        file: &SourceFile,
    ) -> Result<ContentHash, TryError> {
        let mut reader = file.open().await?;
        let path = self.path(key);
        if file.bytes <= PART_BYTES {
            let single = self.put_single(plan, path, file, &mut reader);
            let sent = plan.cancel.run_until_cancelled(single).await;
            sent.unwrap_or(Err(TryError::Cancelled))?;
        } else {
            let begun = within(PART_DEADLINE, self.0.uploads.begin(path)).await;
            let mut upload = OpenUpload(Some(begun.map_err(TryError::Store)?));
            let parts = self.send_parts(plan, &mut upload, file, &mut reader);
            let sent = plan.cancel.run_until_cancelled(parts).await;
            if let Err(error) = sent.unwrap_or(Err(TryError::Cancelled)) {
                upload.abort().await;
                return Err(error);
            }
        }
        Ok(reader.hash()?)
    }

    async fn put_single(
        &self,
        plan: &UploadPlan<'_>,
        path: StorePath,
        file: &SourceFile,
        reader: &mut PartReader,
    ) -> Result<(), TryError> {
        let buffer = plan.buffers.take().await;
        let _admitted = file.admit(&self.0.limits, reader.next_part_bytes()).await;
        let part = reader.next_part(buffer).await?;
        reader.hash()?;
        let advanced = part.bytes().len() as u64;
        let write = self.0.uploads.put(path, part.bytes().clone());
        within(PART_DEADLINE, write).await.map_err(TryError::Store)?;
        plan.progress.advanced(advanced);
        Ok(())
    }

    /// Sends all parts of a file, a few at once, and completes the upload.
    async fn send_parts(
        &self,
        plan: &UploadPlan<'_>,
        upload: &mut OpenUpload,
        file: &SourceFile,
        reader: &mut PartReader,
    ) -> Result<(), TryError> {
        let mut sending = FuturesUnordered::new();
        while !reader.is_at_end() {
            // Meanwhile the parts under way must move on: it may be one of them that holds the last buffer or permit.
            let buffer = while_sending(&mut sending, plan.buffers.take()).await?;
            let admitted = file.admit(&self.0.limits, reader.next_part_bytes());
            let admitted: Admitted<'_> = while_sending(&mut sending, admitted).await?;
            let part = while_sending(&mut sending, reader.next_part(buffer)).await??;
            let advanced = part.bytes().len() as u64;
            let sent = upload.put_part(&self.0.uploads, part.bytes().clone())?;
            let sent = within(PART_DEADLINE, sent);
            sending.push(async move {
                let _held = (part, admitted);
                sent.await?;
                plan.progress.advanced(advanced);
                Ok(())
            });
        }
        // What is not what it should be is not completed.
        reader.hash()?;
        while let Some(sent) = sending.next().await {
            sent.map_err(TryError::Store)?;
        }
        drop(sending);
        upload.complete().await
    }
}

/// Waits for `wanted` while the parts in `sending` move on; fails with the first of them that does.
async fn while_sending<T, S: Future<Output = Result<(), Error>>>(
    sending: &mut FuturesUnordered<S>,
    wanted: impl Future<Output = T>,
) -> Result<T, TryError> {
    let mut wanted = pin!(wanted);
    while !sending.is_empty() {
        match futures::future::select(wanted.as_mut(), sending.next()).await {
            Either::Left((value, _)) => return Ok(value),
            Either::Right((sent, _)) => sent.unwrap_or(Ok(())).map_err(TryError::Store)?,
        }
    }
    Ok(wanted.await)
}

/// A multipart upload that is aborted unless it was completed. What an abort leaves, because the process died or the store
/// did not answer, costs space until the bucket's own rule for abandoned uploads removes it.
struct OpenUpload(Option<Box<dyn MultipartUpload>>);

impl OpenUpload {
    fn put_part<'a>(
        &mut self,
        client: &'a UploadClient,
        part: Bytes,
    ) -> Result<impl Future<Output = Result<(), Error>> + use<'a>, TryError> {
        match &mut self.0 {
            Some(upload) => Ok(client.put_part(upload.as_mut(), part)),
            None => Err(TryError::Store(Error::Generic {
                store: "upload",
                source: "the upload has ended already".into(),
            })),
        }
    }

    async fn complete(&mut self) -> Result<(), TryError> {
        if let Some(upload) = &mut self.0 {
            within(PART_DEADLINE, upload.complete())
                .await
                .map_err(TryError::Store)?;
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

/// Returns how many bytes a manifest's files have altogether.
pub(super) fn bytes_of(files: &[ManifestFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

/// Returns the key of a manifest below the directory `directory` (a key).
pub(super) fn manifest_key(directory: &str) -> String {
    format!("{directory}/{}", Manifest::FILE_NAME)
}
