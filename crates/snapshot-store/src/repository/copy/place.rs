//! Brings one snapshot to its place at the destination, verified.
//!
//! 1. List what lies in its directory. Files of the right size stay; unless the pointer names the snapshot already, they
//!    are read back, and stay only if their hash is right.
//! 2. Send the other files, each hashed on its way, then the manifest. A crash leaves a directory that no pointer names;
//!    the next run begins with step 1.
//! 3. Check that the manifest and all files are there with their sizes.
//!
//! The directory belongs to this snapshot alone and its content is immutable, so that sending a file again is harmless, and
//! so are two runs at once.

use super::{
    super::{
        Anomaly, CheckLevel, NoProgress, Repository,
        anomaly::AnomalyKind,
        buffers::PartBuffers,
        check::FILES_AT_ONCE,
        error::StoreError,
        reuse::Reusable,
        source::{SourceFault, SourceFile},
        upload::{UploadError, UploadPlan, manifest_key},
    },
    CopyFault, Run,
};
use crate::{
    format::{Keys, Manifest, ManifestFile, PointerEntry, SnapshotDirectory},
    vocabulary::{ClusterIdentity, ContentHash, PartitionId},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

/// A snapshot, and the place it is to have.
pub(super) struct Placement<'a> {
    pub(super) source: &'a Repository,
    /// Its directory there.
    pub(super) from: SnapshotDirectory,
    pub(super) destination: &'a Repository,
    pub(super) partition: PartitionId,
    /// How the destination's pointer will name it, or does.
    pub(super) entry: &'a PointerEntry,
    /// Its manifest at the destination.
    pub(super) manifest: &'a Manifest,
    /// The bytes of that, as the entry's hash has them.
    pub(super) manifest_bytes: Bytes,
    /// Whether the destination's pointer names it: what is there was verified before that.
    pub(super) published: bool,
}

/// What it took.
pub(super) struct Placed {
    pub(super) bytes_sent: u64,
    pub(super) bytes_read_back: u64,
}

impl From<UploadError> for CopyFault {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Source(SourceFault::Damaged(anomaly)) => CopyFault::Damaged(vec![anomaly]),
            UploadError::Source(SourceFault::Store(error)) => CopyFault::Source(error),
            // Nothing of a copy lies on the local disk: what is left is that this process cannot go on.
            UploadError::Source(SourceFault::Local(error)) => {
                let source = object_store::Error::Generic {
                    store: "copy",
                    source: Box::new(error),
                };
                CopyFault::Source(StoreError::from_client("hash", "a part", source))
            }
            UploadError::Store(error) => CopyFault::Destination(error),
            UploadError::Cancelled => CopyFault::Cancelled,
        }
    }
}

impl Placement<'_> {
    /// Puts the snapshot in its place, or completes what an earlier run began.
    pub(super) async fn place(&self, run: &Run<'_>) -> Result<Placed, CopyFault> {
        run.expect(self.manifest.bytes_total);
        let (kept, missing) = run.unless_cancelled(self.look(run)).await?;
        let directory = self.directory();
        let reusable = Reusable::default();
        let plan = UploadPlan {
            directory: &directory,
            reusable: &reusable,
            buffers: PartBuffers::default(),
            progress: run.progress,
            cancel: run.cancel,
        };
        let bytes_sent = missing.iter().map(|file| file.bytes).sum();
        // Not dropped when it is cancelled: it ends by itself, and leaves no open multipart upload.
        self.destination.upload_files(&plan, missing).await?;
        run.unless_cancelled(self.finish()).await?;
        Ok(Placed {
            bytes_sent,
            bytes_read_back: if self.published { 0 } else { kept },
        })
    }

    fn directory(&self) -> String {
        format!("{}/{}", self.partition, self.entry.path)
    }

    /// Step 1: returns how many bytes are there, and the files that are not.
    async fn look(&self, run: &Run<'_>) -> Result<(u64, Vec<SourceFile>), CopyFault> {
        let present = self.destination.list_directory(&self.directory()).await;
        let present = present.map_err(CopyFault::Destination)?;
        // By number: a closure that is handed borrowed files would keep the future from being `Send`.
        let mut looks = stream::iter(0..self.manifest.files.len())
            .map(|number| {
                let file = &self.manifest.files[number];
                let found = present.get(&file.name);
                self.is_right(file, found.is_some_and(|found| found.size == file.bytes), run)
            })
            .buffered(FILES_AT_ONCE);
        let (mut kept, mut missing) = (0, Vec::new());
        for file in &self.manifest.files {
            match looks.try_next().await? {
                Some(true) => kept += file.bytes,
                Some(false) | None => {
                    let key = Keys::file(self.partition, &self.from, &file.name);
                    missing.push(SourceFile::stored(self.source, key, file));
                }
            }
        }
        Ok((kept, missing))
    }

    /// Returns whether a file is at the destination, and is what it should be.
    async fn is_right(&self, file: &ManifestFile, there: bool, run: &Run<'_>) -> Result<bool, CopyFault> {
        if !there {
            return Ok(false);
        }
        if self.published {
            run.progress.advanced(file.bytes);
            return Ok(true);
        }
        let check = self
            .destination
            .check_file(self.partition, self.entry, file, &NoProgress)
            .await;
        let right = check.map_err(CopyFault::Destination)?.anomaly.is_none();
        if right {
            run.progress.advanced(file.bytes);
        }
        Ok(right)
    }

    /// The end of step 2, and step 3.
    async fn finish(&self) -> Result<(), CopyFault> {
        let key = manifest_key(&self.directory());
        let found = self.destination.get_document(&key).await;
        let found = found.map_err(CopyFault::Destination)?;
        if found.is_none_or(|(bytes, _)| ContentHash::of(&bytes) != self.entry.manifest_hash) {
            let written = self
                .destination
                .put_immutable(&key, self.manifest_bytes.clone())
                .await;
            written.map_err(CopyFault::Destination)?;
        }
        let anomalies = self.destination.check_presence(self.partition, self.entry).await;
        match anomalies.map_err(CopyFault::Destination)? {
            anomalies if anomalies.is_empty() => Ok(()),
            anomalies => Err(CopyFault::Incomplete(anomalies)),
        }
    }
}

impl Repository {
    /// Returns the manifest of a snapshot that is complete and belongs to `cluster`, and its bytes.
    ///
    /// # Errors
    /// `Damaged` when anything of it is missing or is not what it should be, as far as that shows without reading its files.
    pub(super) async fn sound_manifest(
        &self,
        cluster: &ClusterIdentity,
        partition: PartitionId,
        entry: &PointerEntry,
    ) -> Result<(Manifest, Bytes), CopyFault> {
        let check = self
            .check_snapshot(cluster, partition, entry, CheckLevel::Presence, &NoProgress)
            .await
            .map_err(CopyFault::Source)?;
        let manifest = match check.manifest {
            Some(manifest) if check.anomalies.is_empty() => manifest,
            _ => return Err(CopyFault::Damaged(check.anomalies)),
        };
        let key = Keys::manifest(partition, &entry.path);
        match self.get_document(&key).await.map_err(CopyFault::Source)? {
            Some((bytes, _)) if ContentHash::of(&bytes) == entry.manifest_hash => Ok((manifest, bytes)),
            _ => {
                let detail = "it changed while it was read";
                let anomaly = Anomaly::new(AnomalyKind::WrongHash, key, detail);
                Err(CopyFault::Damaged(vec![anomaly]))
            }
        }
    }
}
