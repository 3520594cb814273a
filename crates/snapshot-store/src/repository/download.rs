//! Brings a snapshot back into a local folder, verified.
//!
//! 1. Read the manifest and check that all files are there: damage shows before anything is transferred.
//! 2. Where reuse is allowed: keep files that an earlier attempt left in the folder, link those that other folders have.
//!    Name and size choose them (`core::plan_reuse`), a hash over their bytes decides. A crash leaves files in the
//!    folder, which is the caller's staging; the next attempt keeps those that are right.
//! 3. Read the other files, several at once, large ones in ranged parts and several of these at once; hash, write and
//!    fsync each.
//! 4. fsync the folder. Only now the folder holds the snapshot.
//!
//! Memory is constant: a file lies in memory piece by piece, a large one part by part, and only while it has a place in the
//! node's budget. A piece is hashed and written while the next one arrives. Every byte is hashed in this pass.

use super::{
    Progress, Repository,
    anomaly::{Anomaly, AnomalyKind, FirstFew},
    check::{FILES_AT_ONCE, PARTS_AT_ONCE, parts_of, unreadable_part, wrong_hash},
    error::StoreError,
    limits::{Lane, Permit},
    local_source::{self, Found},
    pieces::Piece,
    source::{PART_BYTES, at},
};
use crate::{
    Blocking,
    core::{Candidate, plan_reuse},
    format::{Keys, Manifest, ManifestFile, PointerEntry},
    vocabulary::{ContentHash, PartitionId},
};
use futures::{
    StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};
use std::{
    cmp::Reverse,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// How many files are on their way at once: twice what a check reads, because a file that is being fsynced holds no place
/// in the node's budget, which bounds requests and memory.
const DOWNLOADS_AT_ONCE: usize = 2 * FILES_AT_ONCE;
/// Up to this size, a file is read in one request, and so in small pieces: RocksDB's tables are, also those that are flushed
/// from a write buffer of 16 MiB, which are a little larger than that.
const ONE_REQUEST_BYTES_MAX: u64 = 3 * PART_BYTES;

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

/// What a download may take from the local disk instead of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Nothing: every file is read from the store. Other files in the folder stay.
    #[default]
    Nothing,
    /// What is right in the folder itself, which is staging and nothing else: whatever does not belong to the snapshot
    /// is removed from it. And immutable files (`.sst`, `.blob`) of other folders, which stay as they are; those that
    /// do not exist are passed over.
    Allowed {
        /// The other folders, for example a stale state.
        sources: Vec<PathBuf>,
    },
}

/// A snapshot on its way into a folder: what can be had locally is there, the rest is known and missing.
pub struct Download<'a> {
    repository: &'a Repository,
    entry: &'a PointerEntry,
    dir: &'a Path,
    manifest: Manifest,
    missing: Vec<Missing>,
}

/// A file that is not in the folder yet.
struct Missing {
    file: ManifestFile,
    /// Where a right copy lies that could not be linked.
    copy_from: Option<PathBuf>,
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
        self.begin_download(partition, entry, dir, &Reuse::Nothing, progress)
            .await?
            .finish(progress)
            .await
    }

    /// Begins a download into `dir`, which is created: checks that the snapshot is complete in the store, and keeps or
    /// links what `reuse` allows and a hash over the bytes confirms. Writes no file.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn begin_download<'a>(
        &'a self,
        partition: PartitionId,
        entry: &'a PointerEntry,
        dir: &'a Path,
        reuse: &Reuse,
        progress: &dyn Progress,
    ) -> Result<Download<'a>, DownloadError> {
        let manifest = match self.present_manifest(partition, entry).await? {
            (Some(manifest), anomalies) if anomalies.is_empty() => manifest,
            (_, anomalies) => return Err(DownloadError::Damaged(anomalies)),
        };
        progress.total(manifest.bytes_total);
        progress.files(manifest.files.len() as u64);
        let (blocking, created) = (self.0.blocking, dir.to_owned());
        blocking
            .files(move || std::fs::create_dir_all(created))
            .await
            .map_err(|source| DownloadError::Local(at(dir, source)))?;
        let missing = match reuse {
            Reuse::Nothing => manifest.files.iter().cloned().map(Missing::unseen).collect(),
            Reuse::Allowed { sources } => keep_local(&manifest.files, dir, sources, blocking, progress)
                .await
                .map_err(DownloadError::Local)?,
        };
        Ok(Download {
            repository: self,
            entry,
            dir,
            manifest,
            missing,
        })
    }
}

impl Missing {
    fn unseen(file: ManifestFile) -> Self {
        Missing {
            file,
            copy_from: None,
        }
    }
}

/// Makes what the local disk has of `files` part of `dir`, removes from `dir` what does not belong there, and returns
/// what is missing.
async fn keep_local(
    files: &[ManifestFile],
    dir: &Path,
    sources: &[PathBuf],
    blocking: Blocking,
    progress: &dyn Progress,
) -> io::Result<Vec<Missing>> {
    let (target, folders, wanted) = (dir.to_owned(), sources.to_vec(), files.to_vec());
    let plan = move || {
        let listings: Vec<_> = folders
            .iter()
            .map(|folder| local_source::list(folder))
            .collect::<io::Result<_>>()?;
        let plan = plan_reuse(&wanted, &local_source::list(&target)?, &listings);
        for name in &plan.unwanted {
            local_source::remove(&target.join(name))?;
        }
        Ok(plan)
    };
    let plan = blocking.files(plan).await?;

    let (target, sources): (Arc<Path>, Arc<[PathBuf]>) = (dir.into(), sources.into());
    let mut searches = stream::iter(files.iter().cloned().zip(plan.candidates))
        .map(|(file, candidates)| {
            search(
                file,
                candidates,
                Arc::clone(&target),
                Arc::clone(&sources),
                blocking,
            )
        })
        .buffer_unordered(FILES_AT_ONCE);
    let mut missing = Vec::new();
    while let Some((file, found)) = searches.try_next().await? {
        let copy_from = match found {
            Found::InTarget => {
                progress.resumed(file.bytes);
                progress.file_done();
                continue;
            }
            Found::Linked => {
                progress.linked(file.bytes);
                progress.file_done();
                continue;
            }
            Found::Elsewhere(path) => Some(path),
            Found::Nowhere => None,
        };
        missing.push(Missing { file, copy_from });
    }
    Ok(missing)
}

async fn search(
    file: ManifestFile,
    candidates: Vec<Candidate>,
    target: Arc<Path>,
    sources: Arc<[PathBuf]>,
    blocking: Blocking,
) -> io::Result<(ManifestFile, Found)> {
    if candidates.is_empty() {
        return Ok((file, Found::Nowhere));
    }
    blocking
        .files(move || {
            let found = local_source::find(&file, &candidates, &target, &sources)?;
            Ok((file, found))
        })
        .await
}

impl Download<'_> {
    /// Returns how many bytes are still to be written into the folder.
    pub fn bytes_missing(&self) -> u64 {
        self.missing.iter().map(|missing| missing.file.bytes).sum()
    }

    /// Returns the manifest of the snapshot.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Brings what is missing, and returns the manifest. All files are verified and fsynced when it returns; after an
    /// error the folder holds what was there so far. Dropping the future cancels.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn finish(mut self, progress: &dyn Progress) -> Result<Manifest, DownloadError> {
        // The largest first, so that no large one is left alone at the end.
        self.missing.sort_by_key(|missing| Reverse(missing.file.bytes));
        // By number: a closure that is handed borrowed files would keep the future from being `Send`.
        let mut downloads = stream::iter(0..self.missing.len())
            .map(|number| self.bring(&self.missing[number], progress))
            .buffer_unordered(DOWNLOADS_AT_ONCE);
        while let Some(anomaly) = downloads.try_next().await? {
            if let Some(anomaly) = anomaly {
                return Err(DownloadError::Damaged(vec![anomaly]));
            }
            progress.file_done();
        }
        drop(downloads);
        let folder = self.dir.to_owned();
        let blocking = self.repository.0.blocking;
        blocking
            .files(move || File::open(folder)?.sync_all())
            .await
            .map_err(|source| DownloadError::Local(at(self.dir, source)))?;
        Ok(self.manifest)
    }

    /// Brings one file; returns what is wrong with it.
    async fn bring(
        &self,
        missing: &Missing,
        progress: &dyn Progress,
    ) -> Result<Option<Anomaly>, DownloadError> {
        let path = self.dir.join(&missing.file.name);
        if let Some(source) = missing.copy_from.clone() {
            let target = path.clone();
            // Whatever goes wrong with a local copy, the store has the file.
            let blocking = self.repository.0.blocking;
            let copied = blocking.files(move || local_source::copy(&source, &target)).await;
            if copied.is_ok_and(|found| found == missing.file.hash) {
                progress.linked(missing.file.bytes);
                return Ok(None);
            }
        }
        self.fetch(&missing.file, path, progress).await
    }

    /// Reads one file from the store; returns what is wrong with it.
    async fn fetch(
        &self,
        file: &ManifestFile,
        path: PathBuf,
        progress: &dyn Progress,
    ) -> Result<Option<Anomaly>, DownloadError> {
        let key = Keys::file(self.manifest.partition, &self.entry.path, &file.name);
        let (blocking, created) = (self.repository.0.blocking, path.clone());
        let mut sink = blocking
            .files(move || local_source::create(&created))
            .await
            .map_err(DownloadError::Local)?;
        let mut hasher = blake3::Hasher::new();
        let mut pieces = self.pieces(&key, file.bytes);
        let mut next = pieces.next().await;
        while let Some(piece) = next {
            let (piece, permit) = match piece {
                Ok(piece) => piece,
                Err(error) => return Ok(Some(unreadable_part(&key, error)?)),
            };
            let piece_bytes = piece.iter().map(|chunk| chunk.len() as u64).sum();
            let write = async {
                let written = blocking.files(move || {
                    for chunk in piece {
                        hasher.update(&chunk);
                        sink.write_all(&chunk)?;
                    }
                    Ok((sink, hasher))
                });
                let written = written.await;
                drop(permit);
                written
            };
            let (written, following) = future::join(write, pieces.next()).await;
            (sink, hasher) = written.map_err(|source| DownloadError::Local(at(&path, source)))?;
            progress.advanced(piece_bytes);
            next = following;
        }
        blocking
            .files(move || sink.sync_all())
            .await
            .map_err(|source| DownloadError::Local(at(&path, source)))?;
        let found = ContentHash::from(hasher.finalize());
        Ok((found != file.hash).then(|| wrong_hash(&key, file.hash, found)))
    }

    /// Reads a file from its beginning. A large one is read in parts, several at once, which lie in memory as a whole, each
    /// with its place in the node's budget; others in one request.
    fn pieces<'a>(
        &'a self,
        key: &'a str,
        bytes: u64,
    ) -> BoxStream<'a, Result<(Piece, Option<Permit<'a>>), object_store::Error>> {
        let repository = self.repository;
        if bytes <= ONE_REQUEST_BYTES_MAX {
            let pieces = repository.pieces(Lane::Restore, key, 0..bytes);
            return pieces.map_ok(|piece| (piece, None)).boxed();
        }
        stream::iter(parts_of(bytes))
            .map(move |range| repository.get_part(Lane::Restore, key, range))
            .buffered(PARTS_AT_ONCE)
            .map_ok(|(part, permit)| (vec![part], Some(permit)))
            .boxed()
    }
}
