//! Which files of earlier snapshots an upload may copy inside the store instead of sending them again.
//!
//! Successive snapshots of one replica share most of their files. A snapshot directory stays self-contained all the same:
//! such a file is copied into it, bytes and all. Only the hash decides that two files are the same; names and sizes of
//! different replicas coincide all the time.
//!
//! The same bytes are copied at most [`COPIES_MAX`] times in a row: then they are uploaded anew, so that no snapshot
//! rests for ever on what the store once received.

use super::{Repository, snapshot_upload::SnapshotUpload};
use crate::{
    format::{Keys, Manifest, Pointer},
    vocabulary::ContentHash,
};
use std::collections::BTreeMap;

/// How often in a row a file is copied before it is uploaded anew.
const COPIES_MAX: u32 = 8;
/// Below this, a copy saves nothing: it is one request like the upload, and the bytes are about those of its headers.
const COPY_BYTES_MIN: u64 = 4 << 10;

/// A file that a retained snapshot holds.
pub(super) struct ReusableFile {
    /// Its key.
    pub(super) key: String,
    /// How often in a row it was copied so far.
    pub(super) copies: u32,
    hash: ContentHash,
}

/// The files of retained snapshots, by size.
#[derive(Default)]
pub(super) struct Reusable(BTreeMap<u64, Vec<ReusableFile>>);

impl Reusable {
    /// Returns whether a file of this size could be one of them.
    pub(super) fn has_size(&self, bytes: u64) -> bool {
        self.0.contains_key(&bytes)
    }

    /// Returns the file with these bytes that was copied least often.
    pub(super) fn find(&self, bytes: u64, hash: ContentHash) -> Option<&ReusableFile> {
        let files = self.0.get(&bytes)?.iter();
        files
            .filter(|file| file.hash == hash)
            .min_by_key(|file| file.copies)
    }

    fn add(&mut self, manifest: &Manifest) {
        let directory = manifest.directory();
        let worth_it = |bytes: u64, copies: u32| bytes >= COPY_BYTES_MIN && copies < COPIES_MAX;
        for file in &manifest.files {
            if worth_it(file.bytes, file.copies) {
                self.0.entry(file.bytes).or_default().push(ReusableFile {
                    key: Keys::file(manifest.partition, &directory, &file.name),
                    copies: file.copies,
                    hash: file.hash,
                });
            }
        }
    }
}

impl Repository {
    /// Returns what the snapshots that `pointer` retains hold, except for those known to be damaged. One GET for each;
    /// a manifest that cannot be had only means that its files are uploaded.
    pub(super) async fn reusable(&self, upload: &SnapshotUpload, pointer: Option<&Pointer>) -> Reusable {
        let mut reusable = Reusable::default();
        if !self.0.incremental {
            return reusable;
        }
        let retained = pointer.into_iter().flat_map(|pointer| &pointer.snapshots);
        for entry in retained.filter(|entry| !upload.distrusted.contains(&entry.snapshot_id)) {
            match self.manifest(upload.partition, entry).await {
                Ok(manifest) => reusable.add(&manifest),
                Err(error) => {
                    tracing::debug!(snapshot_id = %entry.snapshot_id, %error, "nothing is reused of this snapshot");
                }
            }
        }
        reusable
    }
}
