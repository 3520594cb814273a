//! Deletes the directories that [`may_delete`] allows to go, after a fresh read of pointer and certificate.
//!
//! What is allowed once stays allowed: pointers and certificates only grow, and what is not retained never becomes
//! so again. A crash leaves a part of a directory that stays deletable. Names that do not parse are never touched.

use super::{Repository, error::StoreError};
use crate::{
    core::{KeepReason, may_delete},
    format::{Manifest, SnapshotDirectory},
    vocabulary::PartitionId,
};

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Directories that were deleted.
    pub deleted: Vec<SnapshotDirectory>,
    /// Directories that stayed, and why.
    pub kept: Vec<(SnapshotDirectory, KeepReason)>,
    /// How many bytes were deleted.
    pub bytes: u64,
}

impl Repository {
    /// Deletes the snapshots and unfinished uploads of `partition` that may go.
    ///
    /// # Errors
    /// When the store did not answer; what was deleted until then stays deleted.
    pub async fn prune(&self, partition: PartitionId) -> Result<PruneReport, StoreError> {
        self.ensure_capable().await?;
        let pointer = self.pointer(partition).await?.map(|found| found.value);
        let certificate = self.certificate(partition).await?.map(|found| found.value);
        let mut report = PruneReport::default();
        // A pointer that was copied here from another partition judges nothing.
        let of_partition = |found: Option<PartitionId>| found.is_none_or(|found| found == partition);
        let trusted = of_partition(pointer.as_ref().map(|pointer| pointer.partition))
            && of_partition(certificate.as_ref().map(|certificate| certificate.partition));

        let mut directories: Vec<SnapshotDirectory> = self
            .list_folders(&partition.to_string())
            .await?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        directories.sort_unstable();
        for directory in directories {
            let verdict = match trusted {
                true => may_delete(&directory, pointer.as_ref(), certificate.as_ref()),
                false => Err(KeepReason::Inconsistent),
            };
            match verdict {
                Ok(()) => {
                    report.bytes += self.delete_directory(partition, &directory).await?;
                    report.deleted.push(directory);
                }
                Err(reason) => report.kept.push((directory, reason)),
            }
        }
        Ok(report)
    }

    /// Deletes the objects of a directory, the manifest first, so that whoever reads it meanwhile sees at once that
    /// it is gone. Returns their bytes.
    async fn delete_directory(
        &self,
        partition: PartitionId,
        directory: &SnapshotDirectory,
    ) -> Result<u64, StoreError> {
        let mut objects = self.list_directory(&format!("{partition}/{directory}")).await?;
        let manifest = objects.remove(Manifest::FILE_NAME);
        let mut bytes = 0;
        for object in manifest.into_iter().chain(objects.into_values()) {
            self.delete_object(&object.location).await?;
            bytes += object.size;
        }
        tracing::info!(%partition, %directory, bytes, "deleted a snapshot that left retention");
        Ok(bytes)
    }
}
