//! An upload in several parts, on its way to the store: parts take long, and what completes it may fail before or after
//! its effect, or take effect after its caller gave up.

use crate::{plan::FaultClass, sim_store::SimStore};
use async_trait::async_trait;
use bytes::BytesMut;
use futures::FutureExt;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart, path::Path};
use std::fmt;

/// How often a part, or the end, is slow.
const SLOW_CHANCE: f64 = 0.4;
/// How slow, in milliseconds.
const SLOW_MS: std::ops::Range<u64> = 1000..8000;
/// How often the end takes effect after its caller gave up.
const LATE_CHANCE: f64 = 0.15;

/// An upload in several parts.
pub(crate) struct SlowParts {
    store: SimStore,
    path: Path,
    /// `None` once it has ended.
    inner: Option<Box<dyn MultipartUpload>>,
    content: BytesMut,
}

impl SlowParts {
    pub(crate) fn new(store: SimStore, path: Path, inner: Box<dyn MultipartUpload>) -> Self {
        SlowParts {
            store,
            path,
            inner: Some(inner),
            content: BytesMut::new(),
        }
    }

    fn ended(&self) -> Error {
        Error::NotFound {
            path: self.path.to_string(),
            source: "this upload has ended".into(),
        }
    }
}

impl fmt::Debug for SlowParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowParts({})", self.path)
    }
}

#[async_trait]
impl MultipartUpload for SlowParts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        for piece in data.iter() {
            self.content.extend_from_slice(piece);
        }
        let Some(inner) = &mut self.inner else {
            return std::future::ready(Err(self.ended())).boxed();
        };
        let (store, part) = (self.store.clone(), inner.put_part(data));
        async move {
            store.there().await?;
            if store.world.strikes(FaultClass::Multipart, SLOW_CHANCE) {
                store.world.lag(SLOW_MS).await;
            }
            let done = part.await;
            store.back(done).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.there().await?;
        let world = self.store.world.clone();
        if world.strikes(FaultClass::Multipart, SLOW_CHANCE) {
            world.lag(SLOW_MS).await;
        }
        let mut inner = self.inner.take().ok_or_else(|| self.ended())?;
        let content = std::mem::take(&mut self.content).freeze();
        let path = self.path.clone();
        if world.strikes(FaultClass::Multipart, LATE_CHANCE) {
            world.event(format!("store holds the end of the upload of {path} up"));
            world.later(50..8000, move |world| {
                world.oracle(|oracle| oracle.before_overwrite(&path, &content));
                let done = inner.complete().now_or_never();
                world.event(format!("store completed {path}: {}", matches!(done, Some(Ok(_)))));
                world.oracle(|oracle| oracle.after_write(&path));
            });
            return Err(crate::sim_store::fault());
        }
        world.oracle(|oracle| oracle.before_overwrite(&path, &content));
        let done = inner.complete().await;
        world.counters().count("upload of several parts completed");
        world.event(format!("store completed {path}"));
        world.oracle(|oracle| oracle.after_write(&path));
        self.store.back(done).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.there().await?;
        match self.inner.take() {
            Some(mut inner) => inner.abort().await,
            None => Ok(()),
        }
    }
}
