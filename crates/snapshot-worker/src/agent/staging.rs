//! The folder in which snapshots are prepared: `<data_dir>/staging`, on the file system of the state, so that a
//! checkpoint is made of hard links and an install is a rename.
//!
//! Nothing in it is worth keeping: an export that died is begun anew under another id, and a download is read
//! again. So it is emptied at start, and each job removes its own folder at its end, however it ends.

use super::host::HostError;
use crate::Blocking;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a staging folder is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum StagingKind {
    /// Checkpoints on their way up.
    Export,
    /// Snapshots on their way into a partition.
    Download,
    /// Snapshots that are only looked at.
    Verify,
}

impl StagingKind {
    const ALL: &[StagingKind] = &[StagingKind::Export, StagingKind::Download, StagingKind::Verify];

    const fn folder(self) -> &'static str {
        match self {
            StagingKind::Export => "exports",
            StagingKind::Download => "downloads",
            StagingKind::Verify => "verifications",
        }
    }
}

/// The staging area of a node.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    root: PathBuf,
    reserve_bytes: u64,
    blocking: Blocking,
}

impl Staging {
    /// Empties what a crash left and returns the area. Only folders of the kinds known here are touched.
    pub(super) fn open(data_dir: &Path, reserve_bytes: u64, blocking: Blocking) -> io::Result<Self> {
        let root = data_dir.join("staging");
        for kind in StagingKind::ALL {
            let folder = root.join(kind.folder());
            remove_all(&folder)?;
            fs::create_dir_all(&folder)?;
        }
        Ok(Staging {
            root,
            reserve_bytes,
            blocking,
        })
    }

    /// Returns a folder for one job that does not exist yet; its parent does. It is removed with the value.
    pub(super) async fn folder(&self, kind: StagingKind, name: &str) -> io::Result<StagingFolder> {
        let folder = StagingFolder {
            path: self.root.join(kind.folder()).join(name),
            blocking: self.blocking,
            removed: false,
        };
        let path = folder.path.clone();
        self.blocking
            .run(move || {
                remove_all(&path)?;
                path.parent().map_or(Ok(()), fs::create_dir_all)
            })
            .await?;
        Ok(folder)
    }

    /// Checks that `bytes` more leave the disk reserve free.
    pub(super) async fn ensure_room(&self, bytes: u64) -> Result<(), HostError> {
        let root = self.root.clone();
        let free = self.blocking.run(move || free_bytes(&root)).await?;
        let wanted = bytes.saturating_add(self.reserve_bytes);
        if free < wanted {
            return Err(HostError::Unavailable(format!(
                "{} has {free} bytes free, and {bytes} for a snapshot plus the reserve of {} are needed: make room or lower disk_reserve_bytes",
                self.root.display(),
                self.reserve_bytes,
            )));
        }
        Ok(())
    }
}

/// One job's folder.
#[derive(Debug)]
pub(super) struct StagingFolder {
    path: PathBuf,
    blocking: Blocking,
    removed: bool,
}

impl StagingFolder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder. What cannot be removed is left to the sweep at the next start.
    pub(super) async fn remove(mut self) {
        self.removed = true;
        let path = self.path.clone();
        self.blocking.run(move || remove_or_say(&path)).await;
    }
}

impl Drop for StagingFolder {
    /// The path for a job that was given up in the middle: it has nobody to wait for the removal.
    fn drop(&mut self) {
        if !self.removed {
            remove_or_say(&self.path);
        }
    }
}

fn remove_or_say(path: &Path) {
    if let Err(error) = remove_all(path) {
        tracing::warn!(path = %path.display(), %error, "staging folder stays until the next start");
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes that this process may still write to the file system of `path`.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Replaces the file at `path` in one step that survives a crash.
pub(super) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::create_dir_all(parent)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = parent.join(name);
    let mut file = fs::File::create(&new)?;
    io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(parent)?.sync_all()
}
