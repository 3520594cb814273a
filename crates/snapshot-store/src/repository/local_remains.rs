//! What a killed upload leaves in a local folder, where the store's client does not see it.
//!
//! The client writes `NAME` as `NAME#N` and renames it when it is complete. A process that dies in between leaves the
//! `#N` file, and possibly a folder with nothing else in it; listings hide both. Here they are found, and removed
//! together with a directory that is deleted. Nothing else is ever removed.

use super::{error::StoreError, source::at, survey::StoredSize};
use crate::{Blocking, format::SnapshotDirectory};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// A file that was never completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Returns every snapshot directory in a partition's `folder` with the unfinished files in it; of many there are
/// none. A folder that does not exist has no directories.
pub(super) async fn below(
    folder: PathBuf,
    blocking: Blocking,
) -> io::Result<BTreeMap<SnapshotDirectory, Vec<Part>>> {
    let look = move || {
        let mut found = BTreeMap::new();
        for entry in entries(&folder)? {
            let name = entry.file_name();
            let Some(directory) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if entry.file_type()?.is_dir() {
                found.insert(directory, parts_in(&entry.path())?);
            }
        }
        Ok(found)
    };
    blocking.files(look).await
}

/// Removes the unfinished files in `folder`, a snapshot directory, and the folder itself if nothing else is in it.
/// Returns what was removed.
pub(super) async fn remove(folder: PathBuf, blocking: Blocking) -> io::Result<StoredSize> {
    let remove = move || {
        let mut removed = StoredSize::default();
        for part in parts_in(&folder)? {
            match fs::remove_file(&part.path) {
                Ok(()) => removed.add(part.bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(at(&part.path, error)),
            }
        }
        match fs::remove_dir(&folder) {
            Ok(()) => Ok(removed),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Ok(removed)
            }
            Err(error) => Err(at(&folder, error)),
        }
    };
    blocking.files(remove).await
}

/// Says of the local disk what is said of a store.
pub(super) fn store_error(action: &'static str, key: &str, source: io::Error) -> StoreError {
    let source = object_store::Error::Generic {
        store: "LocalStore",
        source: Box::new(source),
    };
    StoreError::from_client(action, key, source)
}

fn parts_in(folder: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for entry in entries(folder)? {
        if !entry.file_name().to_str().is_some_and(is_part) {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => parts.push(Part {
                path: entry.path(),
                bytes: metadata.len(),
            }),
            Ok(_) => {}
            // It was completed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(at(&entry.path(), error)),
        }
    }
    Ok(parts)
}

/// Returns whether the store's client gives this name to a file that is not complete.
fn is_part(name: &str) -> bool {
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(folder, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_names() {
        for (name, expected) in [
            ("000007.sst#1", true),
            ("metadata.json#12", true),
            ("000007.sst", false),
            ("000007.sst#", false),
            ("a#b", false),
            ("a#1b", false),
        ] {
            assert_eq!(is_part(name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn only_parts_and_an_empty_folder_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir
            .path()
            .join("0000000001-00000000000000000100_00000000000000000000000001");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.sst#1"), b"12345").unwrap();
        fs::write(folder.join("notes"), b"1").unwrap();
        fs::create_dir(dir.path().join("notes")).unwrap();

        let found = below(dir.path().to_owned(), Blocking::Threads).await.unwrap();
        assert_eq!(found.values().map(Vec::len).collect::<Vec<_>>(), [1]);
        let five = StoredSize { objects: 1, bytes: 5 };
        assert_eq!(remove(folder.clone(), Blocking::Threads).await.unwrap(), five);
        assert!(folder.join("notes").exists());
        fs::remove_file(folder.join("notes")).unwrap();
        assert_eq!(
            remove(folder.clone(), Blocking::Threads).await.unwrap(),
            StoredSize::default()
        );
        assert!(!folder.exists());
        assert!(below(folder, Blocking::Threads).await.unwrap().is_empty());
    }
}
