//! The folder in which snapshots are prepared: `<data_dir>/staging`, on the file system of the state, so that a
//! checkpoint is made of hard links and an install is a rename.
//!
//! | Folder | Holds | After a crash |
//! |---|---|---|
//! | `exports/<snapshot id>` | a checkpoint on its way up | removed at start: the next export has another id |
//! | `verifications/<id>` | a snapshot that is only looked at | removed at start |
//! | `downloads/<partition>/<snapshot id>` | a snapshot on its way into a partition | kept: the next restore of the partition takes from it what is right |
//!
//! Downloads go when the restore succeeded, when the partition turns out to be in order without one, and when it is
//! not hosted any more. A folder that goes is renamed first, so that a new job never meets one that is half removed.

use super::{
    host::HostError,
    room::{Room, RoomLedger},
};
use crate::Blocking;
use snapshot_store::{PartitionId, SnapshotId};
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const DOWNLOADS: &str = "downloads";
/// Folders on their way out begin with this.
const DISCARDED: &str = ".discarded-";

/// What a staging folder is for that goes with its job.
#[derive(Clone, Copy, Debug)]
pub(super) enum StagingKind {
    /// Checkpoints on their way up.
    Export,
    /// Snapshots that are only looked at.
    Verify,
}

impl StagingKind {
    const ALL: &[StagingKind] = &[StagingKind::Export, StagingKind::Verify];

    const fn folder(self) -> &'static str {
        match self {
            StagingKind::Export => "exports",
            StagingKind::Verify => "verifications",
        }
    }
}

/// The staging area of a node.
#[derive(Clone)]
pub(super) struct Staging {
    root: PathBuf,
    room: RoomLedger,
    blocking: Blocking,
    discarded: Arc<AtomicU64>,
}

impl Staging {
    /// Empties what a crash left and returns the area. Downloads stay. Only folders of the kinds known here are touched.
    pub(super) fn open(data_dir: &Path, reserve_bytes: u64, blocking: Blocking) -> io::Result<Self> {
        let root = data_dir.join("staging");
        for kind in StagingKind::ALL {
            let folder = root.join(kind.folder());
            remove_all(&folder)?;
            fs::create_dir_all(&folder)?;
        }
        let downloads = root.join(DOWNLOADS);
        fs::create_dir_all(&downloads)?;
        for (path, partition) in partitions_in(&downloads)? {
            if partition.is_none() {
                remove_all(&path)?;
            }
        }
        Ok(Staging {
            room: RoomLedger::new(root.clone(), reserve_bytes, blocking),
            root,
            blocking,
            discarded: Arc::default(),
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

    /// Returns where `snapshot` is prepared for `partition`: possibly a folder with files of an earlier attempt. It
    /// stays until the partition's downloads are discarded.
    pub(super) async fn download(
        &self,
        partition: PartitionId,
        snapshot: SnapshotId,
    ) -> io::Result<DownloadFolder> {
        let parent = self.downloads_of(partition);
        let path = parent.join(snapshot.to_string());
        let own = path.clone();
        let siblings = self.blocking.run(move || {
            fs::create_dir_all(&own)?;
            let others = folders_in(&parent)?;
            Ok::<_, io::Error>(others.into_iter().filter(|other| *other != own).collect())
        });
        Ok(DownloadFolder {
            siblings: siblings.await?,
            path,
        })
    }

    /// Removes downloads that `folder` has taken over what it could from.
    pub(super) async fn drop_siblings(&self, folder: &DownloadFolder) {
        let siblings = folder.siblings.clone();
        self.blocking
            .run(move || siblings.iter().for_each(|path| remove_or_say(path)))
            .await;
    }

    /// Removes what restores of `partition` left; the caller sees to it that none is running.
    pub(super) async fn discard_downloads(&self, partition: PartitionId) {
        let staging = self.clone();
        self.blocking
            .run(move || {
                if let Some(path) = staging.set_aside(partition) {
                    remove_or_say(&path);
                }
            })
            .await;
    }

    /// Takes what restores of `partition` left out of the way at once, and returns what is to be removed: nothing in
    /// most cases, for the price of one failed rename.
    pub(super) fn set_aside(&self, partition: PartitionId) -> Option<PathBuf> {
        let number = self.discarded.fetch_add(1, Ordering::Relaxed);
        let away = self
            .root
            .join(DOWNLOADS)
            .join(format!("{DISCARDED}{partition}-{number}"));
        match fs::rename(self.downloads_of(partition), &away) {
            Ok(()) => Some(away),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%partition, %error, "what an interrupted restore left stays until the next start");
                None
            }
        }
    }

    /// Returns the partitions of which interrupted restores left something.
    pub(super) fn partitions_with_downloads(&self) -> io::Result<Vec<PartitionId>> {
        let found = partitions_in(&self.root.join(DOWNLOADS))?;
        Ok(found.into_iter().filter_map(|(_, partition)| partition).collect())
    }

    /// Removes `path`, which was set aside.
    pub(super) async fn remove(&self, path: PathBuf) {
        self.blocking.run(move || remove_or_say(&path)).await;
    }

    /// Promises room for `bytes` more, with the reserve left free, until the value is dropped.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<Room, HostError> {
        self.room.reserve(bytes).await
    }

    /// Waits until the disk reserve is touched; says how.
    pub(super) async fn until_short(&self) -> HostError {
        self.room.until_short().await
    }

    fn downloads_of(&self, partition: PartitionId) -> PathBuf {
        self.root.join(DOWNLOADS).join(partition.to_string())
    }
}

/// Where one snapshot is prepared for its partition.
#[derive(Debug)]
pub(super) struct DownloadFolder {
    /// The folder; exists.
    pub(super) path: PathBuf,
    /// What restores of other snapshots of the partition left.
    pub(super) siblings: Vec<PathBuf>,
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

/// Returns what lies in the folder of downloads, with the partition it belongs to; nothing else is known here.
fn partitions_in(downloads: &Path) -> io::Result<Vec<(PathBuf, Option<PartitionId>)>> {
    let number = |path: &Path| {
        path.file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.parse().ok())
    };
    let folders = folders_in(downloads)?;
    Ok(folders
        .into_iter()
        .map(|path| (path.clone(), number(&path)))
        .collect())
}

fn folders_in(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
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
