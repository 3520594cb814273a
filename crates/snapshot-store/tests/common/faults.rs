//! An object store with faults: errors before and after the effect, writes that land late, a crash, a store that
//! ignores conditions. All of them are switched by the test, none by chance.

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

/// What happens to one put of a matching key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error, and nothing was written.
    Before,
    /// It was written, and the answer is an error.
    After,
    /// It was written, and the answer is that somebody else was faster: a client that repeated the request.
    FalseLoser,
    /// An error; it is written when [`FaultyStore::land`] is called, under the condition it came with.
    Late,
}

/// Which store refuses to read what it moved to an archive class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    S3,
    Azure,
}

impl Archive {
    /// The answer as the client passes it on.
    fn refusal(self, path: String) -> Error {
        match self {
            Archive::S3 => Error::PermissionDenied {
                path,
                source: "403 Forbidden: <Error><Code>InvalidObjectState</Code></Error>".into(),
            },
            Archive::Azure => Error::AlreadyExists {
                path,
                source: "409 Conflict: <Error><Code>BlobArchived</Code></Error>".into(),
            },
        }
    }
}

struct LatePut(Path, PutPayload, PutOptions);

#[derive(Default)]
struct State {
    put_faults: VecDeque<(&'static str, Fault)>,
    read_faults: VecDeque<&'static str>,
    archived: Option<(&'static str, Archive)>,
    late: Vec<LatePut>,
    writes_left: Option<usize>,
    crashed: bool,
    ignores_conditions: bool,
    puts: Vec<String>,
    copies: Vec<String>,
    open_multiparts: usize,
}

/// Counts as open until it was completed or aborted.
#[derive(Debug)]
struct CountedUpload {
    upload: Box<dyn MultipartUpload>,
    store: FaultyStore,
}

impl CountedUpload {
    fn closed(&self) {
        self.store.with(|state| state.open_multiparts -= 1);
    }
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.store.count_write() {
            Ok(()) => self.upload.put_part(data),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.count_write()?;
        let done = self.upload.complete().await?;
        self.closed();
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.alive()?;
        self.upload.abort().await?;
        self.closed();
        Ok(())
    }
}

/// A store with faults around another one. Clones share the faults.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

impl FaultyStore {
    pub(crate) fn around(inner: Arc<dyn ObjectStore>) -> Self {
        FaultyStore {
            inner,
            state: Arc::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// The next put of a key that ends in `suffix` has `fault`; called several times, one after the other.
    pub(crate) fn fail_put(&self, suffix: &'static str, fault: Fault) {
        self.with(|state| state.put_faults.push_back((suffix, fault)));
    }

    /// The next reads of a key that ends in `suffix` fail, `times` times.
    pub(crate) fn fail_reads(&self, suffix: &'static str, times: usize) {
        self.with(|state| state.read_faults.extend(std::iter::repeat_n(suffix, times)));
    }

    /// From now on keys that end in `suffix` are listed and cannot be read.
    pub(crate) fn archive(&self, suffix: &'static str, archive: Archive) {
        self.with(|state| state.archived = Some((suffix, archive)));
    }

    /// After `writes` more writes and deletions, every request fails: the process is dead.
    pub(crate) fn crash_after(&self, writes: usize) {
        self.with(|state| state.writes_left = Some(writes));
    }

    pub(crate) fn ignore_conditions(&self) {
        self.with(|state| state.ignores_conditions = true);
    }

    /// Lets the late writes arrive; returns how many of them took effect.
    pub(crate) async fn land(&self) -> usize {
        let mut landed = 0;
        for LatePut(path, payload, options) in self.with(|state| std::mem::take(&mut state.late)) {
            landed += usize::from(self.inner.put_opts(&path, payload, options).await.is_ok());
        }
        landed
    }

    /// Keys of all puts so far that end in `suffix`.
    pub(crate) fn puts(&self, suffix: &str) -> usize {
        self.with(|state| state.puts.iter().filter(|key| key.ends_with(suffix)).count())
    }

    /// How many copies inside the store there were so far to keys that end in `suffix`.
    pub(crate) fn copies(&self, suffix: &str) -> usize {
        self.with(|state| state.copies.iter().filter(|key| key.ends_with(suffix)).count())
    }

    /// How many multipart uploads were begun, and neither completed nor aborted.
    pub(crate) fn open_multiparts(&self) -> usize {
        self.with(|state| state.open_multiparts)
    }

    fn alive(&self) -> Result<()> {
        if self.with(|state| state.crashed) {
            Err(fault("the process is dead"))
        } else {
            Ok(())
        }
    }

    /// Counts one write, and dies when it was one too many.
    fn count_write(&self) -> Result<()> {
        let died = self.with(|state| match &mut state.writes_left {
            Some(0) => {
                state.crashed = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        });
        if died {
            Err(fault("the process died"))
        } else {
            self.alive()
        }
    }
}

fn fault(detail: &'static str) -> Error {
    Error::Generic {
        store: "FaultyStore",
        source: detail.into(),
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        self.count_write()?;
        let planned = self.with(|state| {
            state.puts.push(path.to_string());
            if state.ignores_conditions {
                options.mode = PutMode::Overwrite;
            }
            match state.put_faults.front() {
                Some((suffix, fault)) if path.as_ref().ends_with(suffix) => {
                    let fault = *fault;
                    state.put_faults.pop_front();
                    Some(fault)
                }
                _ => None,
            }
        });
        match planned {
            None => self.inner.put_opts(path, payload, options).await,
            Some(Fault::Before) => Err(fault("it was not written")),
            Some(Fault::After) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(fault("the answer was lost"))
            }
            Some(Fault::FalseLoser) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(Error::Precondition {
                    path: path.to_string(),
                    source: "it was changed".into(),
                })
            }
            Some(Fault::Late) => {
                self.with(|state| state.late.push(LatePut(path.clone(), payload, options)));
                Err(fault("no answer in time"))
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.count_write()?;
        let upload = self.inner.put_multipart_opts(path, options).await?;
        self.with(|state| state.open_multiparts += 1);
        Ok(Box::new(CountedUpload {
            upload,
            store: self.clone(),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        let archived = self.with(|state| state.archived);
        if let Some((suffix, archive)) = archived
            && path.as_ref().ends_with(suffix)
        {
            return Err(archive.refusal(path.to_string()));
        }
        let planned = self.with(|state| {
            let hit = state
                .read_faults
                .front()
                .is_some_and(|suffix| path.as_ref().ends_with(suffix));
            hit.then(|| state.read_faults.pop_front()).is_some()
        });
        if planned {
            Err(fault("it could not be read"))
        } else {
            self.inner.get_opts(path, options).await
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let counted = locations.map(move |location| {
            let location = location?;
            store.count_write()?;
            Ok(location)
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count_write()?;
        self.with(|state| state.copies.push(to.to_string()));
        self.inner.copy_opts(from, to, options).await
    }
}
