//! The embedded log: all partitions in one RocksDB of its own, changed by one committer thread.
//!
//! - [`EmbeddedLog`]: open, close, and the contract.
//! - `folder`: who owns the folder, and which format it is of.
//! - `format`: what is stored. `store`: where.
//! - `committer`: group commit with fsync; the only place that changes anything.
//! - `reserve`: room on the disk for trims. `reopen`: the way back after the disk failed.
//! - `moving`: what moving a log to or from another engine needs.
//! - `reader`: read streams; they wait on a partition's position and read in bounded chunks.
//!
//! Invariants:
//! - Nobody is answered before what the answer rests on is on the disk.
//! - Trim point and removal of the records are one write; the position keeps the tail when every record is gone.
//! - A log exists only because it was provisioned; an empty folder has none.
//!
//! Its disk is the only copy of what was not snapshotted: for more than one machine's worth of safety, a
//! distributed engine takes its place behind the same traits.

mod committer;
mod folder;
mod format;
mod moving;
mod reader;
mod reopen;
mod request;
mod reserve;
mod shared;
mod store;

use crate::position::check_batch;
use crate::{AppendError, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration};
use crate::{Log, LogAdmin};
use async_trait::async_trait;
use bytes::Bytes;
use folder::LogFolder;
use reopen::Keeper;
use request::{Append, Request};
use shared::{Cell, Shared};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use store::Store;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the committer at most; more of them wait in their callers.
const QUEUE_REQUESTS_MAX: usize = 1024;

/// How an embedded log uses memory and disk.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Bytes of records kept in memory before they are written to a file. Default: 32 MiB.
    pub write_buffer_bytes: usize,
    /// Bytes of RocksDB's write-ahead log at most; more of them make a start after a crash slower. Default: 128 MiB.
    pub wal_bytes_max: u64,
    /// Bytes of the file `reserve` in the log's folder. Its room is used to trim on a disk that is full otherwise; appends are
    /// refused while it cannot be had. 0: there is none, and the disk is filled to its end. Default: 64 MiB.
    pub disk_reserve_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            write_buffer_bytes: 32 << 20,
            wal_bytes_max: 128 << 20,
            disk_reserve_bytes: 64 << 20,
        }
    }
}

/// A log folder was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error(
        "the log folder {} is open elsewhere: stop the other process or choose another data folder",
        dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A newer version of Tidemark wrote it.
    #[error(
        "the log folder {} is of format {found}, this version reads {supported}: use the version that wrote it or a newer one",
        dir.display()
    )]
    NewerFormat {
        /// The folder.
        dir: PathBuf,
        /// The format it is of.
        found: u32,
        /// The format this build reads.
        supported: u32,
    },
    /// It holds something else.
    #[error("the folder {} is not a log: {detail}; choose an empty folder or the log's own", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// What is stored there contradicts itself.
    #[error("the log in {} is damaged: {detail}; nothing was changed", dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file system refused.
    #[error("the log folder {} cannot be used", dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// RocksDB refused.
    #[error("the database of the log in {} cannot be opened", dir.display())]
    Engine {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: rocksdb::Error,
    },
}

/// The embedded log. Clones share it; it ends with [`EmbeddedLog::close`], or when the last clone is dropped.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// `None` only while the handle is dropped.
    requests: Option<mpsc::Sender<Request>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedLog {
    /// Opens the log in the folder `dir`, which is created when it is missing. A new folder holds no log of any
    /// partition. Blocks; after a crash as long as it takes to replay `wal_bytes_max`.
    ///
    /// # Errors
    /// When the folder is open elsewhere, of a newer format, damaged, not a log, or not usable.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, OpenError> {
        let folder = LogFolder::take(dir)?;
        let store = Store::open(&folder.database, &options).map_err(|source| OpenError::Engine {
            dir: dir.to_owned(),
            source,
        })?;
        let logs = store.load(dir)?;
        let keeper = Keeper::new(dir, &folder.database, options);
        let shared = Arc::new(Shared::new(store, folder, logs));
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let committer = std::thread::Builder::new()
            .name("log-committer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || committer::run(&shared, queue, keeper)
            })
            .map_err(|source| OpenError::Io {
                dir: dir.to_owned(),
                source,
            })?;
        let committer = Mutex::new(Some(committer));
        Ok(EmbeddedLog(Arc::new(Handle {
            shared,
            requests: Some(requests),
            committer,
        })))
    }

    /// Commits what waits in the queue, ends all streams, and gives the folder free. Later requests are answered
    /// "unavailable".
    ///
    /// Nothing that was acknowledged depends on it: it only spares the next start the replay.
    pub async fn close(&self) {
        if let Some(requests) = &self.0.requests {
            // Fails when it was stopped before.
            requests.send(Request::Stop).await.ok();
        }
        let log = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || log.0.finish()).await {
            tracing::error!(%error, "the log was not closed in order");
        }
    }

    /// Returns why the log takes nothing now; `None` as long as it does. It tries to get over it by itself; where that
    /// cannot help, the text says so.
    pub fn failure(&self) -> Option<String> {
        self.0.shared.failure()
    }

    /// Hands a request to the committer and waits for the answer: as long as the disk takes to sync, which nothing
    /// can cut short. Returns `Err(sent)` when there was none.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let requests = self.0.requests.as_ref().ok_or(NoAnswer { sent: false })?;
        requests
            .send(request(reply))
            .await
            .map_err(|_| NoAnswer { sent: false })?;
        answer.await.map_err(|_| NoAnswer { sent: true })
    }

    async fn ask_append(&self, append: Append) -> Result<Lsn, AppendError> {
        match self.ask(|reply| Request::Append(append, reply)).await {
            Ok(result) => result,
            Err(NoAnswer { sent: false }) => Err(AppendError::Unavailable {
                detail: CLOSED.to_owned(),
            }),
            Err(NoAnswer { sent: true }) => Err(AppendError::Unknown {
                detail: "the log's committer ended".to_owned(),
            }),
        }
    }

    /// Gives disk space back once enough was trimmed; off the committer's path.
    fn reclaim(&self) {
        let shared = Arc::clone(&self.0.shared);
        if shared.take_reclaim() {
            tokio::task::spawn_blocking(move || shared.reclaim());
        }
    }
}

/// The committer did not answer a request.
struct NoAnswer {
    /// Whether it had the request.
    sent: bool,
}

const CLOSED: &str = "the log is closed";

fn closed(partition: PartitionId) -> LogError {
    LogError::Unavailable {
        partition,
        detail: CLOSED.to_owned(),
    }
}

impl Handle {
    /// Waits until the committer has ended, and closes the database.
    fn finish(&self) {
        let committer = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if committer.is_some_and(|committer| committer.join().is_err()) {
            tracing::error!("the log's committer panicked");
        }
        self.shared.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.requests = None;
        self.finish();
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        Ok(self.0.shared.open_cell(partition)?.registration())
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let cell = self.0.shared.open_cell(partition)?;
        cell.registration().check_use()?;
        Ok(cell.info())
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let bytes = check_batch(&batch)?;
        let append = Append {
            partition,
            incarnation,
            batch,
            bytes,
            expected_tail,
            imported: false,
        };
        self.ask_append(append).await
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        reader::open(&self.0.shared, partition, incarnation, from, false)
    }
}

#[async_trait]
impl LogAdmin for EmbeddedLog {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        let partition = registration.partition;
        self.ask(|reply| Request::Provision { registration, reply })
            .await
            .unwrap_or_else(|_| Err(closed(partition).into()))
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        self.ask(|reply| Request::Seal {
            partition,
            incarnation,
            sealed,
            reply,
        })
        .await
        .unwrap_or_else(|_| Err(closed(partition)))
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let trimmed = self
            .ask(|reply| Request::Trim {
                partition,
                incarnation,
                up_to,
                reply,
            })
            .await
            .unwrap_or_else(|_| Err(closed(partition)));
        if trimmed.is_ok() {
            self.reclaim();
        }
        trimmed
    }
}
