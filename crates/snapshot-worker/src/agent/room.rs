//! How much of the disk jobs may fill: each is promised its bytes before it writes them, and a reserve stays free.

use super::host::HostError;
use crate::{
    Blocking,
    core::{DiskFacts, room_for},
};
use snapshot_store::Progress;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// How often the free space is looked at while a checkpoint keeps files from being deleted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says how many bytes this process may still write to the file system of a folder.
type FreeBytes = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;

/// What was promised of one file system.
#[derive(Clone)]
pub(super) struct RoomLedger {
    folder: PathBuf,
    free: Arc<FreeBytes>,
    reserve: u64,
    /// Bytes promised and not written yet, of all jobs.
    promised: Arc<AtomicU64>,
    /// Held while deciding: two jobs must not both take the last room.
    deciding: Arc<Mutex<()>>,
    blocking: Blocking,
}

impl RoomLedger {
    pub(super) fn new(folder: PathBuf, reserve: u64, blocking: Blocking) -> Self {
        RoomLedger {
            folder,
            free: Arc::new(free_bytes),
            reserve,
            promised: Arc::default(),
            deciding: Arc::default(),
            blocking,
        }
    }

    /// Promises room for `bytes`.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<Room, HostError> {
        let _deciding = self.deciding.lock().await;
        self.check(bytes).await?;
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Ok(Room {
            promised: Arc::clone(&self.promised),
            left: AtomicU64::new(bytes),
        })
    }

    /// Waits until the reserve is touched; says how.
    pub(super) async fn until_short(&self) -> HostError {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(short @ HostError::NoSpace(_)) = self.check(0).await {
                return short;
            }
        }
    }

    async fn check(&self, wanted: u64) -> Result<(), HostError> {
        let (folder, free) = (self.folder.clone(), Arc::clone(&self.free));
        let free = self.blocking.run(move || free(&folder)).await?;
        let disk = DiskFacts {
            free,
            promised: self.promised.load(Ordering::Relaxed),
            reserve: self.reserve,
        };
        room_for(wanted, disk)
            .map_err(|short| HostError::NoSpace(format!("on the disk of {} {short}", self.folder.display())))
    }
}

/// A promise of room. What was written of it counts as used, the rest is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    promised: Arc<AtomicU64>,
    left: AtomicU64,
}

impl Room {
    fn written(&self, bytes: u64) {
        let take = |left: u64| Some(left.saturating_sub(bytes));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let used = before.map_or(0, |before| before.min(bytes));
        self.promised.fetch_sub(used, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.promised.fetch_sub(*self.left.get_mut(), Ordering::Relaxed);
    }
}

/// Passes progress on, and counts what is written against what was promised; `None` when nothing is to be written.
pub(super) struct WithRoom<'a, P> {
    pub(super) room: Option<&'a Room>,
    pub(super) progress: &'a P,
}

impl<P> WithRoom<'_, P> {
    fn written(&self, bytes: u64) {
        if let Some(room) = self.room {
            room.written(bytes);
        }
    }
}

impl<P: Progress> Progress for WithRoom<'_, P> {
    fn advanced(&self, bytes: u64) {
        self.written(bytes);
        self.progress.advanced(bytes);
    }

    fn resumed(&self, bytes: u64) {
        self.progress.resumed(bytes);
    }

    fn linked(&self, bytes: u64) {
        // Only what could not be linked and was copied is promised room, and then it was written.
        self.written(bytes);
        self.progress.linked(bytes);
    }

    fn total(&self, bytes: u64) {
        self.progress.total(bytes);
    }

    fn files(&self, files: u64) {
        self.progress.files(files);
    }

    fn file_done(&self) {
        self.progress.file_done();
    }
}

/// Bytes that this process may still write to the file system of `path`.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with as many free bytes as the test says, 100 of them reserved.
    fn disk(free: u64) -> (Arc<AtomicU64>, RoomLedger) {
        let free = Arc::new(AtomicU64::new(free));
        let told = Arc::clone(&free);
        let ledger = RoomLedger {
            folder: "/data".into(),
            free: Arc::new(move |_| Ok(told.load(Ordering::Relaxed))),
            reserve: 100,
            promised: Arc::default(),
            deciding: Arc::default(),
            blocking: Blocking::Inline,
        };
        (free, ledger)
    }

    #[tokio::test]
    async fn room_is_not_promised_twice() {
        let (free, ledger) = disk(1000);
        let room = ledger.reserve(600).await.unwrap();
        let refused = ledger.reserve(301).await.unwrap_err().to_string();
        assert!(
            refused.contains("/data") && refused.contains("disk_reserve_bytes"),
            "{refused}"
        );
        let other = ledger.reserve(300).await.unwrap();
        drop(other);

        // What is written shows on the disk, and is promised no more.
        room.written(500);
        free.store(500, Ordering::Relaxed);
        drop(ledger.reserve(300).await.unwrap());
        assert!(ledger.reserve(301).await.is_err());
        drop(room);
        drop(ledger.reserve(400).await.unwrap());
        assert_eq!(ledger.promised.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_learns_that_the_reserve_is_touched() {
        let (free, ledger) = disk(1000);
        let _room = ledger.reserve(800).await.unwrap();
        let waiting = ledger.until_short();
        tokio::pin!(waiting);
        let patience = Duration::from_secs(60);
        assert!(tokio::time::timeout(patience, &mut waiting).await.is_err());
        free.store(899, Ordering::Relaxed);
        let short = tokio::time::timeout(patience, &mut waiting).await.unwrap();
        assert!(matches!(short, HostError::NoSpace(_)), "{short}");
    }
}
