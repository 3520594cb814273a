//! Where an upload takes its files from: a finished checkpoint on this machine, or a snapshot in another repository.
//!
//! Either way a file is read once, in parts, and hashed on the way. What a stored file must hash to is known, and compared
//! before its upload is completed: damage is not carried on.

use super::{
    Anomaly, Repository,
    anomaly::AnomalyKind,
    buffers::{Part, PartBuffer},
    check::{unreadable_part, wrong_hash},
    error::StoreError,
    limits::{Lane, Limits, Permit},
    read::is_file_name,
};
use crate::{Blocking, format::ManifestFile, vocabulary::ContentHash};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// Size of a part: well above the 5 MiB that S3 demands, well within a request's deadline.
pub(super) const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts; a file that would have more gets larger ones.
const PARTS_MAX: u64 = 9_000;

/// Why the source of an upload could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceFault {
    /// The local disk failed. The error names the file.
    #[error(transparent)]
    Local(io::Error),
    /// The other repository answered, and holds something else than its manifest says.
    #[error("{0}")]
    Damaged(Anomaly),
    /// The other repository did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file that is to be uploaded.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    place: Place,
    /// Where it is read and hashed.
    blocking: Blocking,
}

#[derive(Clone, Debug)]
enum Place {
    Local(PathBuf),
    Stored(StoredFile),
}

/// An object of another repository, and what it must hash to.
#[derive(Clone, Debug)]
struct StoredFile {
    repository: Repository,
    key: String,
    hash: ContentHash,
}

/// The right to have one part in memory and under way, at both ends.
pub(super) struct Admitted<'a> {
    _to: Permit<'a>,
    _from: Option<Permit<'a>>,
}

/// Returns the files of a finished checkpoint, sorted by name.
///
/// # Errors
/// When the folder cannot be read, or holds what cannot be part of a snapshot; the error names it.
pub(super) async fn list_files(dir: &Path, blocking: Blocking) -> io::Result<Vec<SourceFile>> {
    let list = move |dir: PathBuf| -> io::Result<Vec<SourceFile>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if !metadata.is_file() || !is_file_name(&name) {
                let detail = format!("{} cannot be part of a snapshot", entry.path().display());
                return Err(io::Error::new(ErrorKind::InvalidInput, detail));
            }
            files.push(SourceFile {
                name,
                bytes: metadata.len(),
                place: Place::Local(entry.path()),
                blocking,
            });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    };
    let owned = dir.to_owned();
    blocking
        .files(move || list(owned))
        .await
        .map_err(|source| at(dir, source))
}

/// Names the file in an error.
pub(super) fn at(path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), format!("{}: {source}", path.display()))
}

impl SourceFile {
    /// Names a file of a snapshot in `repository`.
    pub(super) fn stored(repository: &Repository, key: String, file: &ManifestFile) -> Self {
        SourceFile {
            name: file.name.clone(),
            bytes: file.bytes,
            place: Place::Stored(StoredFile {
                repository: repository.clone(),
                key,
                hash: file.hash,
            }),
            blocking: repository.0.blocking,
        }
    }

    /// Returns the hash of its content: a local file is read for it, in one pass.
    pub(super) async fn hash(&self) -> Result<ContentHash, SourceFault> {
        let path = match &self.place {
            Place::Local(path) => path.clone(),
            Place::Stored(stored) => return Ok(stored.hash),
        };
        let read = path.clone();
        let hash = move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(read)?)?;
            Ok(hasher.finalize().into())
        };
        self.blocking
            .files_in_background(hash)
            .await
            .map_err(|source| SourceFault::Local(at(&path, source)))
    }

    /// Waits until a part of `bytes` may be read, and sent to where `to` counts. Cancel-safe.
    pub(super) async fn admit<'a>(&'a self, to: &'a Limits, bytes: u64) -> Admitted<'a> {
        let Place::Stored(StoredFile { repository, .. }) = &self.place else {
            return Admitted {
                _to: to.admit(Lane::Snapshot, bytes).await,
                _from: None,
            };
        };
        let from = &repository.0.limits;
        if std::ptr::eq(from, to) {
            // A copy inside one repository: one place for the part, or many copies would wait for each other's second one.
            return Admitted {
                _to: to.admit(Lane::Snapshot, bytes).await,
                _from: None,
            };
        }
        // In one order everywhere, so that copies in both directions never wait for each other.
        if std::ptr::from_ref(from) < std::ptr::from_ref(to) {
            let from = from.admit(Lane::Check, bytes).await;
            Admitted {
                _to: to.admit(Lane::Snapshot, bytes).await,
                _from: Some(from),
            }
        } else {
            let to = to.admit(Lane::Snapshot, bytes).await;
            Admitted {
                _to: to,
                _from: Some(from.admit(Lane::Check, bytes).await),
            }
        }
    }

    /// Begins to read it from its start.
    pub(super) async fn open(&self) -> Result<PartReader, SourceFault> {
        let input = match &self.place {
            Place::Local(path) => {
                let (opened, shown) = (path.clone(), path.clone());
                let file = self.blocking.files(move || File::open(opened)).await;
                let file = file.map_err(|source| SourceFault::Local(at(&shown, source)))?;
                Input::Local(file, shown)
            }
            Place::Stored(stored) => Input::Stored(stored.clone()),
        };
        Ok(PartReader {
            bytes: self.bytes,
            remaining: self.bytes,
            part_bytes: PART_BYTES.max(self.bytes.div_ceil(PARTS_MAX)),
            input: Some((input, blake3::Hasher::new())),
            blocking: self.blocking,
        })
    }
}

/// A file that is being read.
pub(super) struct PartReader {
    bytes: u64,
    remaining: u64,
    part_bytes: u64,
    /// Empty only while a part is being read, and after that failed.
    input: Option<(Input, blake3::Hasher)>,
    blocking: Blocking,
}

enum Input {
    Local(File, PathBuf),
    Stored(StoredFile),
}

fn abandoned() -> SourceFault {
    SourceFault::Local(io::Error::other("the file was abandoned after an error"))
}

impl PartReader {
    /// Returns whether nothing is left to read.
    pub(super) fn is_at_end(&self) -> bool {
        self.remaining == 0
    }

    /// Returns the size of the part that comes next; 0 at the end.
    pub(super) fn next_part_bytes(&self) -> u64 {
        self.remaining.min(self.part_bytes)
    }

    /// Reads the next part, into `buffer` or in its place, and hashes it.
    pub(super) async fn next_part(&mut self, mut buffer: PartBuffer) -> Result<Part, SourceFault> {
        let bytes = self.next_part_bytes();
        let start = self.bytes - self.remaining;
        let (input, mut hasher) = self.input.take().ok_or_else(abandoned)?;
        let (input, hasher, part) = match input {
            Input::Local(mut file, path) => {
                let read = move || {
                    let part = buffer.bytes_mut();
                    part.reserve_exact(usize::try_from(bytes).map_err(io::Error::other)?);
                    (&mut file).take(bytes).read_to_end(part)?;
                    if part.len() as u64 != bytes {
                        return Err(io::Error::new(
                            ErrorKind::UnexpectedEof,
                            "the file became shorter",
                        ));
                    }
                    hasher.update(part);
                    Ok((file, hasher, buffer.fill()))
                };
                let read = self.blocking.files_in_background(read).await;
                let (file, hasher, part) = read.map_err(|source| SourceFault::Local(at(&path, source)))?;
                (Input::Local(file, path), hasher, part)
            }
            Input::Stored(stored) => {
                let part = buffer.replace(stored.read(start, bytes).await?);
                let hashed = part.bytes().clone();
                let hash = move || {
                    hasher.update(&hashed);
                    Ok(hasher)
                };
                let hashed = self.blocking.files_in_background(hash).await;
                let hasher = hashed.map_err(SourceFault::Local)?;
                (Input::Stored(stored), hasher, part)
            }
        };
        self.input = Some((input, hasher));
        self.remaining -= bytes;
        Ok(part)
    }

    /// Returns the hash of all that was read.
    ///
    /// # Errors
    /// `Damaged` when the file is stored with another hash in its manifest.
    pub(super) fn hash(&self) -> Result<ContentHash, SourceFault> {
        let (input, hasher) = self.input.as_ref().ok_or_else(abandoned)?;
        let found = ContentHash::from(hasher.finalize());
        match input {
            Input::Stored(stored) if stored.hash != found => {
                Err(SourceFault::Damaged(wrong_hash(&stored.key, stored.hash, found)))
            }
            Input::Stored(_) | Input::Local(..) => Ok(found),
        }
    }
}

impl StoredFile {
    async fn read(&self, start: u64, bytes: u64) -> Result<Bytes, SourceFault> {
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let part = match self.repository.get_range(&self.key, start..start + bytes).await {
            Ok(part) => part,
            Err(error) => return Err(SourceFault::Damaged(unreadable_part(&self.key, error)?)),
        };
        if part.len() as u64 == bytes {
            return Ok(part);
        }
        let detail = format!("it ends before {} bytes", start + bytes);
        let shorter = Anomaly::new(AnomalyKind::WrongSize, &self.key, detail);
        Err(SourceFault::Damaged(shorter))
    }
}
