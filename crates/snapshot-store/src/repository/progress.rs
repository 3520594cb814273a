//! How far a long transfer has come.

/// Is told how far an upload, a download or a check has come. Called often: must be cheap and must not block.
pub trait Progress: Send + Sync {
    /// `bytes` more were transferred. Bytes that had to be sent again are counted again.
    fn advanced(&self, bytes: u64);

    /// `bytes` more were copied inside the store, instead of being transferred.
    fn copied(&self, bytes: u64) {
        self.advanced(bytes);
    }

    /// A download found a file of `bytes` complete where an earlier attempt left it.
    fn resumed(&self, bytes: u64) {
        self.advanced(bytes);
    }

    /// A download took a file of `bytes` from another local folder.
    fn linked(&self, bytes: u64) {
        self.advanced(bytes);
    }

    /// There are `bytes` to transfer altogether.
    fn total(&self, bytes: u64) {
        let _ = bytes;
    }

    /// A download consists of `files`.
    fn files(&self, files: u64) {
        let _ = files;
    }

    /// One file of a download is complete and right.
    fn file_done(&self) {}
}

/// Does not want to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn advanced(&self, _bytes: u64) {}
}
