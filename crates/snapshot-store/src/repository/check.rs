//! Verifies a snapshot in the store, without a local copy.
//!
//! An answer is either what is wrong (empty when nothing is) or, as an error, that it is not known: a store that
//! does not answer is never taken for a damaged snapshot.

use super::{
    Progress, Repository,
    anomaly::{Anomaly, AnomalyKind},
    error::{ContentCheck, ManifestError, StoreError},
    limits::Lane,
    source::PART_BYTES,
};
use crate::{
    format::{Keys, Manifest, ManifestFile, PointerEntry},
    vocabulary::{ContentHash, PartitionId},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::ops::Range;

/// How many files are read at once. Most files of a snapshot are a single part; the node's budget bounds how many parts are
/// under way in all, and keeps them in memory only one after the other per file.
pub(super) const FILES_AT_ONCE: usize = 8;
/// How many parts of one file are asked for at once.
pub(super) const PARTS_AT_ONCE: usize = 4;

/// Returns the ranges in which a file is read.
pub(super) fn parts_of(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes.div_ceil(PART_BYTES)).map(move |part| {
        let start = part * PART_BYTES;
        start..(start + PART_BYTES).min(bytes)
    })
}

/// Returns what a file with another hash than the manifest says is called.
pub(super) fn wrong_hash(key: &str, expected: ContentHash, found: ContentHash) -> Anomaly {
    Anomaly::new(
        AnomalyKind::WrongHash,
        key,
        format!("expected hash {expected}, found {found}"),
    )
}

/// What S3 and Azure say of an object that must be brought back from an archive class before it can be read.
const ARCHIVED: &[&str] = &["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"];

/// Returns whether the store says that an object is there and its storage class does not let it be read. It says so
/// only in words: the client knows no such error.
pub(super) fn is_archived(error: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain
        .map(ToString::to_string)
        .any(|text| ARCHIVED.iter().any(|word| text.contains(word)))
}

/// Returns what an object in an archive class is called.
pub(super) fn not_readable(key: &str) -> Anomaly {
    let detail = "its storage class does not let it be read at once";
    Anomaly::new(AnomalyKind::NotReadable, key, detail)
}

/// Returns what a file is called that was gone, or cannot be had, when it was read.
pub(super) fn unreadable_part(key: &str, error: object_store::Error) -> Result<Anomaly, StoreError> {
    match error {
        object_store::Error::NotFound { .. } => Ok(Anomaly::new(
            AnomalyKind::MissingFile,
            key,
            "it was gone when it was read",
        )),
        error if is_archived(&error) => Ok(not_readable(key)),
        error => Err(StoreError::from_client("read", key, error)),
    }
}

impl Repository {
    /// Checks that a snapshot's manifest is the one the pointer names, and that all its files are there with their
    /// sizes: one GET and one listing. Returns what is wrong; nothing means that it is complete.
    ///
    /// # Errors
    /// Only when the store did not answer: then nothing is known.
    pub async fn check_presence(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
    ) -> Result<Vec<Anomaly>, StoreError> {
        match self.present_manifest(partition, entry).await? {
            (_, anomalies) if !anomalies.is_empty() => Ok(anomalies),
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the manifest, where it can be had, and what is wrong with the snapshot's presence.
    pub(super) async fn present_manifest(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
    ) -> Result<(Option<Manifest>, Vec<Anomaly>), StoreError> {
        let directory = format!("{partition}/{}", entry.path);
        let manifest = match self.manifest(partition, entry).await {
            Ok(manifest) => manifest,
            Err(ManifestError::Damaged(anomaly)) => {
                let anomaly = self.name_missing(&directory, anomaly).await?;
                return Ok((None, vec![anomaly]));
            }
            Err(ManifestError::Store(error)) if is_archived(&error) => {
                return Ok((None, vec![not_readable(&Keys::manifest(partition, &entry.path))]));
            }
            Err(ManifestError::Store(error)) => return Err(error),
        };
        let present = self.list_directory(&directory).await?;
        let mut anomalies = Vec::new();
        for file in &manifest.files {
            let key = Keys::file(partition, &entry.path, &file.name);
            match present.get(&file.name) {
                None => {
                    let detail = format!("expected {} bytes", file.bytes);
                    anomalies.push(Anomaly::new(AnomalyKind::MissingFile, key, detail));
                }
                Some(found) if found.size != file.bytes => {
                    let detail = format!("expected {} bytes, found {}", file.bytes, found.size);
                    anomalies.push(Anomaly::new(AnomalyKind::WrongSize, key, detail));
                }
                Some(_) => {}
            }
        }
        Ok((Some(manifest), anomalies))
    }

    /// Tells a directory without its manifest from one of which nothing is left.
    async fn name_missing(&self, directory: &str, anomaly: Anomaly) -> Result<Anomaly, StoreError> {
        let missing = anomaly.kind == AnomalyKind::MissingManifest;
        if missing && self.list_directory(directory).await?.is_empty() {
            let key = format!("{directory}/");
            return Ok(Anomaly::new(AnomalyKind::PointerToNothing, key, anomaly.detail));
        }
        Ok(anomaly)
    }

    /// Checks presence, and reads every file once to compare its hash.
    ///
    /// # Errors
    /// Only when the store did not answer: then nothing is known.
    pub async fn check_content(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        progress: &dyn Progress,
    ) -> Result<ContentCheck, StoreError> {
        let (manifest, mut anomalies) = self.present_manifest(partition, entry).await?;
        let mut bytes_read = 0;
        if let (Some(manifest), true) = (&manifest, anomalies.is_empty()) {
            progress.total(manifest.bytes_total);
            // By number: a closure that is handed borrowed files would keep the future from being `Send`.
            let mut checks = stream::iter(0..manifest.files.len())
                .map(|number| self.check_file(partition, entry, &manifest.files[number], progress))
                .buffered(FILES_AT_ONCE);
            while let Some(found) = checks.try_next().await? {
                bytes_read += found.bytes_read;
                anomalies.extend(found.anomaly);
            }
        }
        Ok(ContentCheck {
            anomalies,
            bytes_read,
            manifest,
        })
    }

    /// Reads one file and compares its hash.
    pub(super) async fn check_file(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
        file: &ManifestFile,
        progress: &dyn Progress,
    ) -> Result<CheckedFile, StoreError> {
        let key = Keys::file(partition, &entry.path, &file.name);
        let mut hasher = blake3::Hasher::new();
        let mut bytes_read = 0;
        let mut parts = stream::iter(parts_of(file.bytes))
            .map(|range| self.get_part(Lane::Check, &key, range))
            .buffered(PARTS_AT_ONCE);
        while let Some(part) = parts.next().await {
            let (part, _permit) = match part {
                Ok(part) => part,
                Err(error) => {
                    return Ok(CheckedFile {
                        bytes_read,
                        anomaly: Some(unreadable_part(&key, error)?),
                    });
                }
            };
            let part_bytes = part.len() as u64;
            let hash = move || {
                hasher.update(&part);
                Ok(hasher)
            };
            let hashed = self.0.blocking.files_in_background(hash).await;
            hasher = hashed.map_err(|error| {
                let source = object_store::Error::Generic {
                    store: "hash",
                    source: Box::new(error),
                };
                StoreError::from_client("hash", &key, source)
            })?;
            bytes_read += part_bytes;
            progress.advanced(part_bytes);
        }
        let found = ContentHash::from(hasher.finalize());
        let anomaly = (found != file.hash).then(|| wrong_hash(&key, file.hash, found));
        Ok(CheckedFile { bytes_read, anomaly })
    }
}

/// What a check of one file came to.
pub(super) struct CheckedFile {
    bytes_read: u64,
    /// What is wrong with it.
    pub(super) anomaly: Option<Anomaly>,
}
