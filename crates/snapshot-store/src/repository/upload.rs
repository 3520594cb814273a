//! Uploads the files of a finished checkpoint, hashing each in the pass that reads it.
//!
//! Memory is constant: a few files at once, each with a few parts. Nothing is visible to others until the pointer
//! names the directory, so a file may be uploaded again from its beginning as often as needed.

use super::{
    Progress, Repository,
    error::StoreError,
    publish::PublishError,
    read::is_file_name,
    request::{PART_DEADLINE, within},
};
use crate::format::{Manifest, ManifestFile};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::FuturesUnordered};
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload};
use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// Size of a part: well above the 5 MiB that S3 demands, well within a request's deadline.
pub(super) const PART_BYTES: u64 = 8 << 20;
/// How many files are uploaded at once.
const FILES_AT_ONCE: usize = 4;
/// How many parts of one file are under way at once.
const PARTS_AT_ONCE: usize = 2;
/// How often one file is tried.
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

impl Repository {
    /// Uploads `files` below `directory` (a key) and returns them as the manifest lists them.
    pub(super) async fn upload_files(
        &self,
        directory: &str,
        files: Vec<LocalFile>,
        progress: &dyn Progress,
    ) -> Result<Vec<ManifestFile>, PublishError> {
        stream::iter(files)
            .map(|file| async move {
                let key = format!("{directory}/{}", file.name);
                self.upload_file(&key, &file, progress).await
            })
            .buffered(FILES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn upload_file(
        &self,
        key: &str,
        file: &LocalFile,
        progress: &dyn Progress,
    ) -> Result<ManifestFile, PublishError> {
        let mut tries = 1;
        loop {
            match self.try_upload_file(key, file, progress).await {
                Ok(uploaded) => return Ok(uploaded),
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
        key: &str,
        file: &LocalFile,
        progress: &dyn Progress,
    ) -> Result<ManifestFile, UploadError> {
        let mut source = Source::open(file).await?;
        let path = self.path(key);
        if file.bytes <= PART_BYTES {
            let part = source.next_part().await?;
            let advanced = part.len() as u64;
            let write = self.store().put(&path, PutPayload::from_bytes(part));
            within(PART_DEADLINE, write).await.map_err(UploadError::Store)?;
            progress.advanced(advanced);
        } else {
            let mut upload = within(PART_DEADLINE, self.store().put_multipart(&path))
                .await
                .map_err(UploadError::Store)?;
            if let Err(error) = send_parts(upload.as_mut(), &mut source, progress).await {
                // Parts that stay behind cost space until the bucket's own rule for abandoned uploads removes them.
                let _ = within(PART_DEADLINE, upload.abort()).await;
                return Err(error);
            }
        }
        source.finish()
    }
}

/// Sends all parts of a file, a few at once, and completes the upload.
async fn send_parts(
    upload: &mut dyn MultipartUpload,
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
        let part = source.next_part().await?;
        let advanced = part.len() as u64;
        let sent = within(PART_DEADLINE, upload.put_part(PutPayload::from_bytes(part)));
        sending.push(async move {
            sent.await?;
            progress.advanced(advanced);
            Ok(())
        });
    }
    while let Some(sent) = sending.next().await {
        sent.map_err(UploadError::Store)?;
    }
    within(PART_DEADLINE, upload.complete())
        .await
        .map(drop)
        .map_err(UploadError::Store)
}

/// A local file that is read once, in parts, and hashed on the way.
struct Source {
    name: String,
    bytes: u64,
    remaining: u64,
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
            reader: Some((opened, blake3::Hasher::new())),
        })
    }

    async fn next_part(&mut self) -> Result<Bytes, UploadError> {
        let bytes = self.remaining.min(PART_BYTES);
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
