//! A store that counts requests, and in which others can act in the middle of one.

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};
use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct CountingStore {
    inner: InMemory,
    requests: AtomicUsize,
    surprise: Mutex<Option<Surprise>>,
    reads: Mutex<Vec<String>>,
    failing: Mutex<Option<&'static str>>,
    held: watch::Sender<Option<&'static str>>,
}

/// What somebody else does right before an object is read.
#[derive(Debug)]
pub(crate) struct Surprise {
    pub(crate) before_reading: Path,
    /// Written then.
    pub(crate) put: (Path, Vec<u8>),
}

impl CountingStore {
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Lets `surprise` happen once; the object whose reading triggers it is deleted too.
    pub(crate) fn arm(&self, surprise: Surprise) {
        *self.surprise.lock().unwrap() = Some(surprise);
    }

    /// From now on reading keys that end in `suffix` fails; with `None` nothing does.
    pub(crate) fn fail_reads(&self, suffix: Option<&'static str>) {
        *self.failing.lock().unwrap() = suffix;
    }

    /// From now on reading keys that end in `suffix` waits; with `None` nothing does, also what waits already.
    pub(crate) fn hold_reads(&self, suffix: Option<&'static str>) {
        self.held.send_replace(suffix);
    }

    /// Returns the keys that were read and end in `suffix`, in that order.
    pub(crate) fn reads(&self, suffix: &str) -> Vec<String> {
        let reads = self.reads.lock().unwrap();
        reads
            .iter()
            .filter(|key| key.ends_with(suffix))
            .cloned()
            .collect()
    }

    async fn read(&self, location: &Path) -> Result<()> {
        let key = location.as_ref();
        self.reads.lock().unwrap().push(key.to_owned());
        let free = |held: &Option<&str>| held.is_none_or(|suffix| !key.ends_with(suffix));
        drop(self.held.subscribe().wait_for(free).await);
        if self
            .failing
            .lock()
            .unwrap()
            .is_some_and(|suffix| key.ends_with(suffix))
        {
            return Err(object_store::Error::Generic {
                store: "counting",
                source: "the test wants this".into(),
            });
        }
        Ok(())
    }

    fn due(&self, location: &Path) -> Option<Surprise> {
        self.surprise
            .lock()
            .unwrap()
            .take_if(|surprise| surprise.before_reading == *location)
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait::async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.count();
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.count();
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count();
        self.read(location).await?;
        if let Some(Surprise {
            put: (path, bytes), ..
        }) = self.due(location)
        {
            self.inner.put(&path, bytes.into()).await?;
            self.inner.delete(location).await?;
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.count();
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count();
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count();
        self.inner.copy_opts(from, to, options).await
    }
}
