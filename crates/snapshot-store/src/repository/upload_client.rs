//! The client through which uploads go, apart from that of all other requests.
//!
//! Signing, encrypting and sending a part keeps a processor busy for milliseconds, on a thread that others wait for. Where the
//! store is one of ours, that is done in the background, over connections of its own: none that a pointer, a restore or a
//! check would use later waits behind other work.

use super::open::Opened;
use crate::{Blocking, background::drive_in_background};
use bytes::Bytes;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, Result, path::Path};
use std::{future::Future, sync::Arc};

/// Sends files and their parts.
pub(super) struct UploadClient {
    store: Arc<dyn ObjectStore>,
    /// Whether that is done in the background, or where it is asked for.
    background: bool,
}

impl UploadClient {
    /// A store that somebody handed over may be bound to the runtime it was made on, and a simulation has one thread.
    pub(super) fn new(opened: &Opened, blocking: Blocking) -> Self {
        match &opened.uploads {
            Some(store) if blocking == Blocking::Threads => UploadClient {
                store: Arc::clone(store),
                background: true,
            },
            _ => UploadClient {
                store: Arc::clone(&opened.store),
                background: false,
            },
        }
    }

    /// Writes an object that is one part.
    pub(super) async fn put(&self, path: Path, part: Bytes) -> Result<()> {
        let store = Arc::clone(&self.store);
        self.run(async move { store.put(&path, PutPayload::from_bytes(part)).await })
            .await?;
        Ok(())
    }

    /// Begins an object of several parts.
    pub(super) async fn begin(&self, path: Path) -> Result<Box<dyn MultipartUpload>> {
        let store = Arc::clone(&self.store);
        self.run(async move { store.put_multipart(&path).await }).await
    }

    /// Sends a part of it. Dropping the future takes the part back.
    pub(super) fn put_part(
        &self,
        upload: &mut dyn MultipartUpload,
        part: Bytes,
    ) -> impl Future<Output = Result<()>> + use<'_> {
        self.run(upload.put_part(PutPayload::from_bytes(part)))
    }

    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if !self.background {
            return request.await;
        }
        match drive_in_background(request).await {
            Ok(answer) => answer,
            Err(source) => Err(Error::JoinError { source }),
        }
    }
}
