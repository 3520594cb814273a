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

#[derive(Debug, Default)]
pub(crate) struct CountingStore {
    inner: InMemory,
    requests: AtomicUsize,
    surprise: Mutex<Option<Surprise>>,
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
