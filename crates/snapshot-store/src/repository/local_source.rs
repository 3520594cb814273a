//! Takes files of a download from the local disk.
//!
//! What is kept was hashed in this pass, from its bytes. A file is linked into the target first and hashed there, so that
//! what was hashed is what stays, whatever happens to the source meanwhile. Nothing here writes into a file that exists:
//! it may be a hard link to a state that is still in use.

use super::source::at;
use crate::{
    core::{Candidate, Listing},
    format::ManifestFile,
    vocabulary::ContentHash,
};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// What became of the search for one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was in the target already.
    InTarget,
    /// It is linked into the target.
    Linked,
    /// It lies here and cannot be linked, because it is on another file system or has too many links.
    Elsewhere(PathBuf),
    /// It is not here.
    Nowhere,
}

/// Returns names and sizes of the files in `dir`; of a folder that does not exist, none.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Listing::new()),
        entries => entries.map_err(|error| at(dir, error))?,
    };
    let mut listing = Listing::new();
    for entry in entries {
        let entry = entry.map_err(|error| at(dir, error))?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                if let Ok(name) = entry.file_name().into_string() {
                    listing.insert(name, metadata.len());
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(at(&entry.path(), error)),
        }
    }
    Ok(listing)
}

/// Looks for `file` at its `candidates`, in their order. Candidates that turn out wrong are removed from `target`, and
/// nowhere else.
pub(super) fn find(
    file: &ManifestFile,
    candidates: &[Candidate],
    target: &Path,
    sources: &[PathBuf],
) -> io::Result<Found> {
    let own = target.join(&file.name);
    for candidate in candidates {
        match candidate {
            Candidate::Target => {
                if is_right(file, &own) {
                    sync(&own)?;
                    return Ok(Found::InTarget);
                }
                remove(&own)?;
            }
            Candidate::Source { folder, name } => {
                let Some(source) = sources.get(*folder).map(|folder| folder.join(name)) else {
                    continue;
                };
                match fs::hard_link(&source, &own) {
                    Ok(()) if is_right(file, &own) => {
                        sync(&own)?;
                        return Ok(Found::Linked);
                    }
                    Ok(()) => remove(&own)?,
                    // The source is gone, as files of a database that is in use may be at any time.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(_) if is_right(file, &source) => return Ok(Found::Elsewhere(source)),
                    Err(_) => {}
                }
            }
        }
    }
    Ok(Found::Nowhere)
}

/// Copies `source` to `path`, a new file, and returns the hash of what was written.
pub(super) fn copy(source: &Path, path: &Path) -> io::Result<ContentHash> {
    let mut reader = File::open(source).map_err(|error| at(source, error))?;
    let mut sink = create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let bytes = reader.read(&mut buffer).map_err(|error| at(source, error))?;
        if bytes == 0 {
            break;
        }
        hasher.update(&buffer[..bytes]);
        sink.write_all(&buffer[..bytes])
            .map_err(|error| at(path, error))?;
    }
    sink.sync_all().map_err(|error| at(path, error))?;
    Ok(hasher.finalize().into())
}

/// Creates a new file at `path`. A file of that name is unlinked first and never written to.
pub(super) fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    File::create_new(path).map_err(|error| at(path, error))
}

/// Removes the file at `path`; one that is gone is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| at(path, error)),
    }
}

/// Whether the file at `path` has the size and the hash of `file`. One that cannot be read has not.
fn is_right(file: &ManifestFile, path: &Path) -> bool {
    let hash = || -> io::Result<Option<ContentHash>> {
        let opened = File::open(path)?;
        if opened.metadata()?.len() != file.bytes {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(opened)?;
        Ok(Some(hasher.finalize().into()))
    };
    matches!(hash(), Ok(Some(found)) if found == file.hash)
}

/// What a process that was killed had written may not be on the disk yet.
fn sync(path: &Path) -> io::Result<()> {
    let sync = File::open(path).and_then(|file| file.sync_all());
    sync.map_err(|error| at(path, error))
}
