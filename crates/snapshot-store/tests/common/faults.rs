//! An object store with faults: errors before and after the effect, writes that land late, a crash, a store that
//! ignores conditions. All of them are switched by the test, none by chance.

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
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

struct LatePut(Path, PutPayload, PutOptions);

#[derive(Default)]
struct State {
    put_faults: VecDeque<(&'static str, Fault)>,
    read_faults: VecDeque<&'static str>,
    late: Vec<LatePut>,
    writes_left: Option<usize>,
    crashed: bool,
    ignores_conditions: bool,
    puts: Vec<String>,
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

    /// After `writes` more writes, every request fails: the process is dead.
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
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
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
        match self.alive() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
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
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
