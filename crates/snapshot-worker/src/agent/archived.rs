//! `<data_dir>/archived/<partition>.json`: the newest published snapshot this node knows of, kept over restarts.
//!
//! It is a hint for the admin on when to look, so a file that cannot be read is left out, not fatal.

use super::staging::write_durably;
use crate::{Blocking, core::ArchivedSnapshot};
use serde::{Deserialize, Serialize};
use snapshot_store::{Incarnation, Lsn, PartitionId, SnapshotId, format::Stored};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchivedRecord {
    pub(super) incarnation: Incarnation,
    snapshot_id: SnapshotId,
    lsn: Lsn,
    log_bytes: u64,
}

impl Stored for ArchivedRecord {
    const WHAT: &'static str = "archived snapshot";
    const FORMAT: u32 = 1;
}

impl ArchivedRecord {
    pub(super) fn new(incarnation: Incarnation, archived: ArchivedSnapshot) -> Self {
        let ArchivedSnapshot {
            snapshot_id,
            lsn,
            log_bytes,
        } = archived;
        ArchivedRecord {
            incarnation,
            snapshot_id,
            lsn,
            log_bytes,
        }
    }

    pub(super) fn snapshot(&self) -> ArchivedSnapshot {
        ArchivedSnapshot {
            snapshot_id: self.snapshot_id,
            lsn: self.lsn,
            log_bytes: self.log_bytes,
        }
    }

    /// Whether `self` speaks of a newer snapshot than `other`.
    pub(super) fn is_newer_than(&self, other: &ArchivedRecord) -> bool {
        (self.incarnation.generation, self.lsn) > (other.incarnation.generation, other.lsn)
    }
}

/// The folder of these files.
#[derive(Debug)]
pub(super) struct ArchivedFolder {
    path: PathBuf,
    blocking: Blocking,
    /// One write at a time, because all writes of a file use the same temporary name.
    writing: tokio::sync::Mutex<()>,
}

impl ArchivedFolder {
    pub(super) fn new(data_dir: &Path, blocking: Blocking) -> Self {
        ArchivedFolder {
            path: data_dir.join("archived"),
            blocking,
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Reads what is known of all partitions.
    pub(super) fn load(&self) -> io::Result<BTreeMap<PartitionId, ArchivedRecord>> {
        let mut known = BTreeMap::new();
        let files = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(known),
            files => files?,
        };
        for file in files {
            let path = file?.path();
            let partition = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let (Some(partition), Some("json")) = (partition, path.extension().and_then(|e| e.to_str()))
            else {
                continue;
            };
            match ArchivedRecord::decode(&path.to_string_lossy(), &fs::read(&path)?) {
                Ok(record) => {
                    known.insert(partition, record);
                }
                Err(error) => tracing::warn!(%error, "the archived LSN is unknown until the next snapshot"),
            }
        }
        Ok(known)
    }

    /// Keeps `record`.
    pub(super) async fn write(&self, partition: PartitionId, record: ArchivedRecord) -> io::Result<()> {
        let path = self.path.join(format!("{partition}.json"));
        let _one_at_a_time = self.writing.lock().await;
        self.blocking
            .run(move || write_durably(&path, &record.encode()))
            .await
    }
}
