//! An object store that counts the requests made to it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many requests of each kind there were.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    put: AtomicU64,
    multipart: AtomicU64,
    get: AtomicU64,
    list: AtomicU64,
    copy: AtomicU64,
}

impl Counts {
    fn all(&self) -> [(&'static str, &AtomicU64); 5] {
        [
            ("put", &self.put),
            ("multipart", &self.multipart),
            ("get", &self.get),
            ("list", &self.list),
            ("copy", &self.copy),
        ]
    }

    pub(crate) fn reset(&self) {
        self.all()
            .iter()
            .for_each(|(_, count)| count.store(0, Ordering::Relaxed));
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.all() {
            write!(f, "{name} {} ", count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug)]
pub(crate) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counts: Arc<Counts>,
}

impl CountingStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, counts: Arc<Counts>) -> Self {
        CountingStore { inner, counts }
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[derive(Debug)]
struct CountingUpload {
    inner: Box<dyn MultipartUpload>,
    counts: Arc<Counts>,
}

#[async_trait]
impl MultipartUpload for CountingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        count(&self.counts.multipart);
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        count(&self.counts.multipart);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        count(&self.counts.multipart);
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        count(&self.counts.put);
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        count(&self.counts.multipart);
        Ok(Box::new(CountingUpload {
            inner: self.inner.put_multipart_opts(path, options).await?,
            counts: Arc::clone(&self.counts),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        count(&self.counts.get);
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        count(&self.counts.list);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        count(&self.counts.list);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        count(&self.counts.copy);
        self.inner.copy_opts(from, to, options).await
    }
}
