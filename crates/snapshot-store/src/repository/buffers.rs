//! The memory that the parts of one upload lie in: a few buffers that are used again and again, so that an upload takes the
//! same memory whatever its size, and the allocator has nothing to keep of it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many parts of one upload lie in memory at once, and so how many are under way.
const PARTS_AT_ONCE: usize = 4;

/// The buffers of one upload.
pub(super) struct PartBuffers {
    places: Arc<Semaphore>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// An empty buffer for one part, and its place.
pub(super) struct PartBuffer {
    bytes: Vec<u8>,
    place: Place,
}

/// A part in memory. Its place is free again when this is dropped; its memory is used again unless the store keeps it.
pub(super) struct Part {
    bytes: Bytes,
    place: Place,
}

struct Place {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for PartBuffers {
    fn default() -> Self {
        Self::new(PARTS_AT_ONCE)
    }
}

impl PartBuffers {
    fn new(places: usize) -> Self {
        PartBuffers {
            places: Arc::new(Semaphore::new(places)),
            free: Arc::default(),
        }
    }

    /// Waits for a place, and returns it with an empty buffer. Cancel-safe.
    pub(super) async fn take(&self) -> PartBuffer {
        // The semaphore is never closed, so that acquiring does not fail.
        let permit = Arc::clone(&self.places).acquire_owned().await.ok();
        let bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        PartBuffer {
            bytes: bytes.unwrap_or_default(),
            place: Place {
                free: Arc::clone(&self.free),
                _permit: permit,
            },
        }
    }
}

impl PartBuffer {
    /// Returns the buffer to be filled.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes what it was filled with a part.
    pub(super) fn fill(self) -> Part {
        Part {
            bytes: self.bytes.into(),
            place: self.place,
        }
    }

    /// Makes bytes that lie elsewhere in memory a part, which takes the place of this buffer.
    pub(super) fn replace(self, bytes: Bytes) -> Part {
        Part {
            bytes,
            place: self.place,
        }
    }
}

impl Part {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_unique() {
            return;
        }
        let mut bytes = Vec::from(bytes);
        bytes.clear();
        let mut free = self.place.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn memory_is_used_again_once_nobody_refers_to_it() {
        let buffers = PartBuffers::new(1);
        let mut buffer = buffers.take().await;
        buffer.bytes_mut().extend_from_slice(b"first");
        let part = buffer.fill();
        let address = part.bytes().as_ptr();
        assert!(buffers.take().now_or_never().is_none());
        drop(part);
        let mut again = buffers.take().await;
        assert!(again.bytes_mut().is_empty());
        again.bytes_mut().extend_from_slice(b"next");
        assert_eq!(again.bytes_mut().as_ptr(), address);
    }

    #[tokio::test]
    async fn a_store_that_keeps_a_part_keeps_its_memory_and_not_its_place() {
        let buffers = PartBuffers::new(1);
        let mut buffer = buffers.take().await;
        buffer.bytes_mut().extend_from_slice(b"first");
        let part = buffer.fill();
        let kept = part.bytes().clone();
        drop(part);
        let mut again = buffers.take().now_or_never().unwrap();
        again.bytes_mut().extend_from_slice(b"again");
        assert_eq!(kept, "first");
    }

    #[tokio::test]
    async fn a_part_that_lies_elsewhere_takes_a_place_as_well() {
        let buffers = PartBuffers::new(1);
        let part = buffers.take().await.replace(Bytes::from_static(b"elsewhere"));
        assert_eq!(part.bytes(), "elsewhere");
        assert!(buffers.take().now_or_never().is_none());
        drop(part);
        assert!(buffers.take().now_or_never().is_some());
    }
}
