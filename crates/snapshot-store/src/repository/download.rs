//! Brings a snapshot back into a local folder, verified.
//!
//! 1. Read the manifest and check that all files are there: damage shows before anything is transferred.
//! 2. Read the files in ranged parts, a few at once; hash, write and fsync each. A crash leaves files in the folder,
//!    which is the caller's staging and swept by it.
//! 3. fsync the folder. Only now the folder holds the snapshot.
//!
//! Memory is constant. Every byte is hashed in the pass that writes it.

use super::{
    Progress, Repository,
    anomaly::{Anomaly, AnomalyKind, FirstFew},
    check::{FILES_AT_ONCE, PARTS_AT_ONCE, parts_of, unreadable_part, wrong_hash},
    error::StoreError,
    limits::Lane,
    source::{at, blocking},
};
use crate::{
    format::{Keys, Manifest, ManifestFile, PointerEntry},
    vocabulary::{ContentHash, PartitionId},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Why a snapshot could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The store answered, and the snapshot is not what the pointer says. When something is missing, the caller
    /// reads the pointer again first: the snapshot may have left retention meanwhile.
    #[error("the snapshot is damaged: {}", FirstFew(.0))]
    Damaged(Vec<Anomaly>),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local folder cannot be written. The error names the file.
    #[error("the downloaded snapshot cannot be written")]
    Local(#[source] io::Error),
}

impl DownloadError {
    /// Returns whether objects were missing, as they are after the snapshot left retention.
    pub fn is_missing(&self) -> bool {
        let missing = [
            AnomalyKind::MissingManifest,
            AnomalyKind::MissingFile,
            AnomalyKind::PointerToNothing,
        ];
        matches!(self, DownloadError::Damaged(anomalies)
            if anomalies.iter().any(|anomaly| missing.contains(&anomaly.kind)))
    }
}

impl Repository {
    /// Downloads a snapshot into `dir`, which is created, and returns its manifest. All files are verified and
    /// fsynced when it returns; after an error `dir` holds what was there so far. Dropping the future cancels.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn download(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Manifest, DownloadError> {
        let manifest = match self.present_manifest(partition, entry).await? {
            (Some(manifest), anomalies) if anomalies.is_empty() => manifest,
            (_, anomalies) => return Err(DownloadError::Damaged(anomalies)),
        };
        progress.total(manifest.bytes_total);
        let local = |source| DownloadError::Local(at(dir, source));
        tokio::fs::create_dir_all(dir).await.map_err(local)?;

        // Collected first: a closure over borrowed files inside the stream would keep the future from being `Send`.
        let downloads: Vec<_> = manifest
            .files
            .iter()
            .map(|file| self.download_file(partition, entry, file, dir, progress))
            .collect();
        let mut downloads = stream::iter(downloads).buffered(FILES_AT_ONCE);
        let mut anomalies = Vec::new();
        while let Some(anomaly) = downloads.try_next().await? {
            anomalies.extend(anomaly);
            if !anomalies.is_empty() {
                return Err(DownloadError::Damaged(anomalies));
            }
        }
        drop(downloads);
        let folder = dir.to_owned();
        blocking(move || File::open(folder)?.sync_all())
            .await
            .map_err(local)?;
        Ok(manifest)
    }

    /// Downloads one file; returns what is wrong with it.
    async fn download_file(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        file: &ManifestFile,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<Anomaly>, DownloadError> {
        let key = Keys::file(partition, &entry.path, &file.name);
        let path = dir.join(&file.name);
        let local = |source| DownloadError::Local(at(&path, source));
        let created = path.clone();
        let mut sink = blocking(move || File::create(created)).await.map_err(local)?;
        let mut hasher = blake3::Hasher::new();
        let mut parts = stream::iter(parts_of(file.bytes))
            .map(|range| self.get_part(Lane::Restore, &key, range))
            .buffered(PARTS_AT_ONCE);
        while let Some(part) = parts.next().await {
            let (part, _permit) = match part {
                Ok(part) => part,
                Err(error) => return Ok(Some(unreadable_part(&key, error)?)),
            };
            let part_bytes = part.len() as u64;
            let write = move || {
                hasher.update(&part);
                sink.write_all(&part)?;
                Ok((sink, hasher))
            };
            (sink, hasher) = blocking(write).await.map_err(local)?;
            progress.advanced(part_bytes);
        }
        blocking(move || sink.sync_all()).await.map_err(local)?;
        let found = ContentHash::from(hasher.finalize());
        Ok((found != file.hash).then(|| wrong_hash(&key, file.hash, found)))
    }
}
