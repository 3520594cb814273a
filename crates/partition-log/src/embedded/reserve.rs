//! Room on the disk that the log keeps for itself.
//!
//! Two bounds keep a full disk from taking away the one thing that gives room back, the trim:
//!
//! - Appends are refused while less than [`Reserve::free_min`] is free, before a write fails.
//! - A file of [`EmbeddedOptions::disk_reserve_bytes`](super::EmbeddedOptions) holds room that nobody else can take. It is
//!   given up to trim, or to open the database again, on a disk that others have filled, and taken again afterwards. While
//!   it is missing, appends are refused.

use super::committer::GROUP_BYTES_MAX;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const FILE: &str = "reserve";
const DRAFT: &str = "reserve.new";

/// The reserve of one log folder.
pub(super) struct Reserve {
    dir: PathBuf,
    /// Bytes of the file; 0 means that there is none.
    bytes: u64,
    /// Bytes that stay free.
    free_min: u64,
    held: bool,
}

/// What is known of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DiskFacts {
    /// What this process may still write.
    free: u64,
    /// What stays free.
    free_min: u64,
    /// Whether the file with the reserve is there.
    held: bool,
}

/// Decides whether there is room for records; says what is missing.
fn room_for_records(disk: DiskFacts) -> Result<(), String> {
    let DiskFacts { free, free_min, held } = disk;
    if !held {
        return Err(format!(
            "{free} bytes are free, and the log's reserve could not be taken again"
        ));
    }
    if free < free_min {
        return Err(format!(
            "{free} bytes are free, and {free_min} are kept for trims"
        ));
    }
    Ok(())
}

impl Reserve {
    /// Takes the reserve as far as there is room for it.
    pub(super) fn new(dir: &Path, bytes: u64, write_buffer_bytes: usize) -> Self {
        let mut reserve = Reserve {
            dir: dir.to_owned(),
            bytes,
            free_min: match bytes {
                0 => 0,
                // A flush of what is in memory, and the largest group, may still come.
                _ => (write_buffer_bytes + GROUP_BYTES_MAX) as u64,
            },
            held: false,
        };
        reserve.hold();
        reserve
    }

    /// Takes the reserve, unless it is held.
    pub(super) fn hold(&mut self) {
        if self.held {
            return;
        }
        match self.allocate() {
            Ok(()) => self.held = true,
            Err(error) => {
                fs::remove_file(self.dir.join(DRAFT)).ok();
                tracing::debug!(dir = %self.dir.display(), %error, "the log's reserve is not taken");
            }
        }
    }

    /// Gives the room of the reserve free, for what has to be written now.
    pub(super) fn give_up(&mut self) {
        match fs::remove_file(self.dir.join(FILE)) {
            Ok(()) => self.held = self.bytes == 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.held = self.bytes == 0,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "the log's reserve cannot be used");
            }
        }
    }

    /// Returns why no records are taken; `None` when they are. Takes the reserve again where that has become possible.
    pub(super) fn shortage(&mut self) -> Option<String> {
        if self.bytes == 0 {
            return None;
        }
        self.hold();
        let free = match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(error) => return Some(format!("its free space is unknown: {error}")),
        };
        let disk = DiskFacts {
            free,
            free_min: self.free_min,
            held: self.held,
        };
        let short = room_for_records(disk).err()?;
        Some(format!(
            "the disk of the log in {} is full: {short}; trims are still done, make room",
            self.dir.display()
        ))
    }

    /// Makes the file, in two steps so that a crash leaves none that is too small.
    fn allocate(&self) -> io::Result<()> {
        let path = self.dir.join(FILE);
        let present = fs::metadata(&path).map_or(0, |file| file.len());
        if self.bytes == 0 || present == self.bytes {
            return if self.bytes == 0 && present > 0 {
                fs::remove_file(path)
            } else {
                Ok(())
            };
        }
        let draft = self.dir.join(DRAFT);
        let mut file = File::create(&draft)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {}
            // The file system cannot promise room: bytes are the next best thing.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                io::copy(&mut io::Read::take(io::repeat(0), self.bytes), &mut file)?;
                file.flush()?;
            }
            Err(error) => return Err(error.into()),
        }
        file.sync_all()?;
        fs::rename(draft, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_only_while_the_reserve_is_held_and_enough_is_free() {
        let check = |free, held| {
            room_for_records(DiskFacts {
                free,
                free_min: 10,
                held,
            })
            .is_ok()
        };
        assert!(check(10, true));
        assert!(!check(9, true));
        assert!(!check(1000, false));
    }

    #[test]
    fn the_reserve_is_a_file_that_comes_and_goes_and_follows_the_options() {
        let dir = tempfile::tempdir().unwrap();
        let size = || fs::metadata(dir.path().join(FILE)).map(|file| file.len()).ok();
        let mut reserve = Reserve::new(dir.path(), 1 << 20, 0);
        assert_eq!(size(), Some(1 << 20));
        reserve.give_up();
        assert_eq!(size(), None);
        assert!(!reserve.held);
        reserve.hold();
        assert_eq!((size(), reserve.held), (Some(1 << 20), true));
        // Another size, and none, as of the next start.
        drop(Reserve::new(dir.path(), 2 << 20, 0));
        assert_eq!(size(), Some(2 << 20));
        assert_eq!(Reserve::new(dir.path(), 0, 0).shortage(), None);
        assert_eq!(size(), None);
    }

    #[test]
    fn more_than_the_disk_has_is_not_held_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(dir.path(), 1 << 60, 0);
        assert!(!reserve.held);
        assert!(reserve.shortage().is_some_and(|short| short.contains("is full")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
