//! A folder as an object store with conditional updates.
//!
//! `object_store` reads and writes folders but refuses `PutMode::Update` there and makes hard links for copies, so this
//! wrapper adds the one and replaces the other. All
//! updates of one folder, from whichever process on this machine, go through one lock file that is never deleted:
//! lock, compare, write a temporary file, fsync, rename, fsync the folder. A crash in between leaves the object
//! as it was, and at most a temporary file that the next update overwrites. The lock goes with its process.
//!
//! The version of a small object is the hash of its bytes, not its inode and time: those repeat when a file is
//! replaced twice within one tick of the file system's clock. Mutable objects hold a write id, so equal bytes are
//! the same write. Larger objects are immutable and have no version; nor have parts, which only files of snapshots are
//! read in.
//!
//! The folder itself is never created here: one that is missing may be a mount that is missing. Until it exists,
//! reads find nothing and writes fail.

use crate::vocabulary::ContentHash;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UpdateVersion, local::LocalFileSystem, path::Path,
};
use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

/// The lock file, in the folder itself.
const LOCK_FILE: &str = ".lock";
/// Appended to the name of a temporary file. `LocalFileSystem` hides `#` and digits, and counts its own from 1.
const TEMPORARY_SUFFIX: &str = "#0";
/// Objects up to this size have a version; mutable ones are far below.
const VERSIONED_BYTES_MAX: u64 = 4 << 20;
/// How much of a file is copied at a time.
const COPY_BUFFER_BYTES: usize = 1 << 20;
/// How long to wait between two tries to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// How often to try: for 20 seconds. Holders need milliseconds.
const LOCK_TRIES_MAX: u32 = 10_000;

/// A folder on this machine. Not for folders that several machines share: locks may not reach across.
pub(super) struct LocalStore {
    folder: PathBuf,
    inner: OnceLock<LocalFileSystem>,
}

impl LocalStore {
    /// Uses `folder`, which need not exist yet.
    pub(super) fn new(folder: PathBuf) -> Self {
        LocalStore {
            folder,
            inner: OnceLock::new(),
        }
    }

    /// Returns the inner store; an error while the folder does not exist.
    fn inner(&self) -> Result<&LocalFileSystem> {
        if let Some(inner) = self.inner.get() {
            return Ok(inner);
        }
        let opened = LocalFileSystem::new_with_prefix(&self.folder).map_err(|source| {
            let detail = format!(
                "the folder {} cannot be opened: is it mounted?",
                self.folder.display()
            );
            generic(std::io::Error::new(
                ErrorKind::NotFound,
                format!("{detail} ({source})"),
            ))
        })?;
        Ok(self
            .inner
            .get_or_init(|| opened.with_fsync(true).with_automatic_cleanup(true)))
    }

    /// Returns the inner store for a read; `None` when there is no folder, and so nothing in it.
    fn readable(&self) -> Result<Option<&LocalFileSystem>> {
        match self.folder.try_exists() {
            Ok(false) if self.inner.get().is_none() => Ok(None),
            _ => self.inner().map(Some),
        }
    }

    /// Replaces the object at `location` if its version is still `expected`.
    async fn update(
        &self,
        location: &Path,
        payload: PutPayload,
        expected: UpdateVersion,
    ) -> Result<PutResult> {
        let path = self.inner()?.path_to_filesystem(location)?;
        let lock_path = self.folder.join(LOCK_FILE);
        let key = location.to_string();
        tokio::task::spawn_blocking(move || {
            let _lock = lock(&lock_path)?;
            let stale = |detail: &str| Error::Precondition {
                path: key.clone(),
                source: detail.into(),
            };
            let current = match std::fs::read(&path) {
                Ok(current) => current,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(stale("the object does not exist"));
                }
                Err(error) => return Err(generic(error)),
            };
            if expected.e_tag.as_deref() != Some(version_of(&current).as_str()) {
                return Err(stale("the object was changed since it was read"));
            }
            let bytes = Bytes::from(payload);
            write_in_place_of(&path, |file| file.write_all(&bytes)).map_err(generic)?;
            Ok(PutResult {
                e_tag: Some(version_of(&bytes)),
                version: None,
                extensions: Default::default(),
            })
        })
        .await?
    }
}

/// Takes the lock, for as long as the returned file is open.
fn lock(path: &std::path::Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(generic)?;
    for _ in 0..LOCK_TRIES_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(generic(error)),
        }
    }
    let detail = format!(
        "{} is held by another process that does not move on",
        path.display()
    );
    Err(generic(std::io::Error::new(ErrorKind::TimedOut, detail)))
}

/// Puts what `write` writes in place of the file at `path`, in one step that survives a power failure.
fn write_in_place_of(
    path: &std::path::Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn version_of(bytes: &[u8]) -> String {
    format!("\"{}\"", ContentHash::of(bytes))
}

fn generic(source: std::io::Error) -> Error {
    Error::Generic {
        store: "LocalStore",
        source: Box::new(source),
    }
}

/// Removes the version of the inner store, which repeats, from a listing's entry.
fn without_version(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta { e_tag: None, ..meta }
}

fn no_objects() -> ListResult {
    ListResult {
        common_prefixes: Vec::new(),
        objects: Vec::new(),
        extensions: Default::default(),
    }
}

fn is_lock(meta: &ObjectMeta) -> bool {
    meta.location.as_ref() == LOCK_FILE
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.folder.display())
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Update(expected) => self.update(location, payload, expected).await,
            // Creating is a hard link and overwriting a rename: both are atomic without the lock.
            PutMode::Create | PutMode::Overwrite => {
                let small = payload.content_length() as u64 <= VERSIONED_BYTES_MAX;
                let e_tag = small.then(|| version_of(&Bytes::from(payload.clone())));
                let written = self.inner()?.put_opts(location, payload, opts).await?;
                Ok(PutResult { e_tag, ..written })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner()?.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(inner) = self.readable()? else {
            let source = "the store's folder does not exist".into();
            return Err(Error::NotFound {
                path: location.to_string(),
                source,
            });
        };
        let found = inner.get_opts(location, options.clone()).await?;
        if found.meta.size > VERSIONED_BYTES_MAX || options.head || options.range.is_some() {
            return Ok(GetResult {
                meta: without_version(found.meta),
                ..found
            });
        }
        // The version and the bytes come out of one read of one open file: a rename in between cannot part them.
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let bytes = found.bytes().await?;
        Ok(GetResult {
            meta: ObjectMeta {
                e_tag: Some(version_of(&bytes)),
                ..meta
            },
            payload: GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed()),
            range,
            attributes,
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.inner() {
            Ok(inner) => inner.delete_stream(locations),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.readable() {
            Ok(None) => stream::empty().boxed(),
            Ok(Some(inner)) => inner
                .list(prefix)
                .filter(|found| std::future::ready(!found.as_ref().is_ok_and(is_lock)))
                .map(|found| found.map(without_version))
                .boxed(),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let Some(inner) = self.readable()? else {
            return Ok(no_objects());
        };
        let found = inner.list_with_delimiter(prefix).await?;
        let objects = found
            .objects
            .into_iter()
            .filter(|meta| !is_lock(meta))
            .map(without_version)
            .collect();
        Ok(ListResult { objects, ..found })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode != CopyMode::Overwrite {
            return Err(Error::NotImplemented {
                operation: "copy_if_not_exists".to_owned(),
                implementer: self.to_string(),
            });
        }
        let inner = self.inner()?;
        let source = inner.path_to_filesystem(from)?;
        let target = inner.path_to_filesystem(to)?;
        let missing = from.to_string();
        tokio::task::spawn_blocking(move || copy_bytes(&source, &target))
            .await?
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::NotFound {
                    path: missing,
                    source: Box::new(error),
                },
                _ => generic(error),
            })
    }
}

/// Copies a file byte by byte: a hard link, or a clone of its extents, would share one damage between two snapshots.
fn copy_bytes(source: &std::path::Path, target: &std::path::Path) -> std::io::Result<()> {
    let mut source = File::open(source)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    write_in_place_of(target, |file| {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(()),
                bytes => file.write_all(&buffer[..bytes])?,
            }
        }
    })
}
