//! The log's folder: who owns it, and which format it is of.
//!
//! `lock` is locked by the process that owns the folder and never deleted. `format.json` says what the folder is; it
//! is written before the database is created, and read before RocksDB touches anything. `db/` is RocksDB's.

use super::OpenError;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

const LOCK_FILE: &str = "lock";
const FORMAT_FILE: &str = "format.json";
const FORMAT_DRAFT: &str = "format.json.new";
const FORMAT_NAME: &str = "tidemark-log";
/// Version of the folder's layout that this build writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Says what a folder is. Fields that a newer version adds are passed over, so that its version can be told.
#[derive(Serialize, Deserialize)]
struct FolderFormat {
    format: String,
    version: u32,
}

/// A folder that this process owns as long as this value lives.
#[derive(Debug)]
pub(super) struct LogFolder {
    pub(super) database: PathBuf,
    _lock: File,
}

impl LogFolder {
    /// Takes the folder at `dir`, and makes one there if it is missing or empty.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io {
            dir: dir.to_owned(),
            source,
        };
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(io_error)?;
            dir.parent().map_or(Ok(()), sync_dir).map_err(io_error)?;
        }
        let lock = lock(dir)?;
        match fs::read(dir.join(FORMAT_FILE)) {
            Ok(bytes) => check_format(dir, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_unused(dir)?;
                write_format(dir).map_err(io_error)?;
            }
            Err(error) => return Err(io_error(error)),
        }
        Ok(LogFolder {
            database: dir.join("db"),
            _lock: lock,
        })
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let io_error = |source| OpenError::Io {
        dir: dir.to_owned(),
        source,
    };
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

fn check_format(dir: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let foreign = |detail: String| OpenError::Foreign {
        dir: dir.to_owned(),
        detail,
    };
    let found: FolderFormat =
        serde_json::from_slice(bytes).map_err(|error| foreign(format!("{FORMAT_FILE}: {error}")))?;
    if found.format != FORMAT_NAME {
        return Err(foreign(format!(
            "{FORMAT_FILE} names the format {:?}",
            found.format
        )));
    }
    if found.version != FORMAT_VERSION {
        let dir = dir.to_owned();
        return Err(OpenError::NewerFormat {
            dir,
            found: found.version,
            supported: FORMAT_VERSION,
        });
    }
    Ok(())
}

fn check_unused(dir: &Path) -> Result<(), OpenError> {
    let io_error = |source| OpenError::Io {
        dir: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        if name != LOCK_FILE && name != FORMAT_DRAFT {
            let detail = format!("it holds {name:?} and no {FORMAT_FILE}");
            return Err(OpenError::Foreign {
                dir: dir.to_owned(),
                detail,
            });
        }
    }
    Ok(())
}

fn write_format(dir: &Path) -> io::Result<()> {
    let format = FolderFormat {
        format: FORMAT_NAME.to_owned(),
        version: FORMAT_VERSION,
    };
    let draft = dir.join(FORMAT_DRAFT);
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(&format)?)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(FORMAT_FILE))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // The parent of a relative path of one component is empty: the working directory.
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_says_what_it_is_as_it_always_did() {
        let dir = tempfile::tempdir().unwrap();
        LogFolder::take(dir.path()).unwrap();
        let stored = fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap();
        assert_eq!(stored, r#"{"format":"tidemark-log","version":1}"#);
        LogFolder::take(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let owner = LogFolder::take(dir.path()).unwrap();
        let refused = LogFolder::take(dir.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Locked { dir: named } if named == dir.path()),
            "{refused}"
        );
        drop(owner);
        LogFolder::take(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_of_a_newer_format_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let newer = r#"{"format":"tidemark-log","version":2,"shards":4}"#;
        fs::write(dir.path().join(FORMAT_FILE), newer).unwrap();
        let refused = LogFolder::take(dir.path()).unwrap_err();
        assert!(
            matches!(
                refused,
                OpenError::NewerFormat {
                    found: 2,
                    supported: 1,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), newer);
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photo.jpeg"), "").unwrap();
        let refused = LogFolder::take(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("photo.jpeg"), "{refused}");
    }
}
