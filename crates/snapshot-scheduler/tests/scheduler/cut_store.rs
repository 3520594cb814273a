//! A store that can be cut off from one admin, while others still reach it, or lets another one be faster.

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use snapshot_store::{CertificateDraft, Repository};
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Clone, Debug)]
pub(crate) struct CutStore {
    inner: Arc<InMemory>,
    cut: Arc<AtomicBool>,
    /// The name of the objects that cannot be read, while all others can.
    unreadable: Arc<Mutex<Option<&'static str>>>,
    /// What somebody else certifies right before the next certificate arrives.
    rival: Arc<Mutex<Option<Rival>>>,
}

#[derive(Debug)]
struct Rival(Repository, CertificateDraft);

impl CutStore {
    pub(crate) fn around(inner: Arc<InMemory>) -> Self {
        CutStore {
            inner,
            cut: Arc::default(),
            unreadable: Arc::default(),
            rival: Arc::default(),
        }
    }

    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// Lets no object of this name be read any more; `None` takes it back.
    pub(crate) fn cut_reads_of(&self, name: Option<&'static str>) {
        *self.unreadable.lock().unwrap() = name;
    }

    /// Lets `draft` be written by another process right before the next certificate.
    pub(crate) fn certify_first(&self, repository: Repository, draft: CertificateDraft) {
        *self.rival.lock().unwrap() = Some(Rival(repository, draft));
    }

    async fn let_the_rival(&self, path: &Path) {
        if path.filename() != Some("trim.json") {
            return;
        }
        let rival = self.rival.lock().unwrap().take();
        if let Some(Rival(repository, draft)) = rival {
            repository.write_certificate(draft).await.unwrap();
        }
    }

    fn check(&self) -> Result<()> {
        match self.cut.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(no_route()),
        }
    }

    fn check_read(&self, path: &Path) -> Result<()> {
        let name = *self.unreadable.lock().unwrap();
        match name.is_some() && path.filename() == name {
            false => self.check(),
            true => Err(no_route()),
        }
    }
}

fn no_route() -> Error {
    Error::Generic {
        store: "cut",
        source: "no route to the store".into(),
    }
}

impl fmt::Display for CutStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for CutStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check()?;
        self.let_the_rival(path).await;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_read(path)?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.check() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check()?;
        self.inner.copy_opts(from, to, options).await
    }
}
