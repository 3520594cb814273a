//! Deletes the snapshot directories that [`may_delete`](crate::core::may_delete) allows to go, and nothing else.
//!
//! 1. List the partition. What the keys alone do not make Tidemark's is not looked at again.
//! 2. Read pointer and certificate, and judge every directory.
//! 3. For each that may go: read pointer and certificate again, judge it again, and delete its objects, the manifest
//!    first, so that whoever reads it meanwhile sees at once that it is gone. A crash leaves a part of a directory
//!    that stays deletable: the next sweep finishes.
//!
//! What is allowed once stays allowed: pointers and certificates only grow, and what is not retained never becomes so
//! again. An upload that runs beside a sweep lies above the pointer and is left alone; one that fell below it can
//! never be published, whether its objects are there or not.
//!
//! Prune, which the admin does after each trim, is this and nothing more.

use super::{
    NoProgress, Progress, Repository,
    error::StoreError,
    local_remains,
    survey::{Contents, DirectoryState, StoredSize, Survey, SurveyedDirectory},
};
use crate::{core::DeleteScope, format::SnapshotDirectory, vocabulary::PartitionId};
use futures::{StreamExt, TryStreamExt, stream};

/// How many objects are deleted at once.
const DELETES_AT_ONCE: usize = 8;

/// What a sweep does with what may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepMode {
    /// Says so.
    List,
    /// Deletes it.
    Delete,
}

/// What a sweep found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepReport {
    /// What lay there before, with the verdict on each directory.
    pub survey: Survey,
    /// Directories that were deleted.
    pub deleted: Vec<SnapshotDirectory>,
    /// What they held.
    pub freed: StoredSize,
}

impl SweepReport {
    /// Returns the directories that are still there.
    pub fn left(&self) -> impl Iterator<Item = &SurveyedDirectory> {
        self.survey
            .directories
            .iter()
            .filter(|found| !self.deleted.contains(&found.directory))
    }

    /// Returns how many bytes the directories of one state hold that are still there.
    pub fn bytes_left(&self, state: DirectoryState) -> u64 {
        let of_state = self.left().filter(|found| found.state == state);
        of_state.map(|found| found.size.bytes).sum()
    }
}

impl Repository {
    /// Deletes the snapshots and unfinished uploads of `partition` that may go: what the admin does after a trim.
    ///
    /// # Errors
    /// As [`Repository::sweep`].
    pub async fn prune(&self, partition: PartitionId) -> Result<SweepReport, StoreError> {
        let scope = DeleteScope::CurrentGeneration;
        self.sweep(partition, scope, SweepMode::Delete, &NoProgress).await
    }

    /// Lists what lies below the prefix of `partition`, and with [`SweepMode::Delete`] deletes the directories that
    /// may go. Progress counts the bytes that are deleted. Can be interrupted at any time, and repeated.
    ///
    /// # Errors
    /// When the store did not answer, or cluster, pointer or certificate cannot be understood; what was deleted until
    /// then stays deleted.
    pub async fn sweep(
        &self,
        partition: PartitionId,
        scope: DeleteScope,
        mode: SweepMode,
        progress: &dyn Progress,
    ) -> Result<SweepReport, StoreError> {
        let cluster = self.owner().await?;
        let inventory = self.inventory(partition).await?;
        let survey = self.judge(&cluster, partition, scope).await?.survey(&inventory);
        let mut report = SweepReport {
            survey,
            deleted: Vec::new(),
            freed: StoredSize::default(),
        };
        if mode == SweepMode::List || report.survey.deletable().next().is_none() {
            return Ok(report);
        }
        // A pointer that could go back would make what is allowed once forbidden later.
        self.ensure_capable().await?;
        self.ensure_deletable().await?;
        progress.total(report.survey.deletable().map(|found| found.size.bytes).sum());
        for found in &mut report.survey.directories {
            let Some(contents) = inventory.directories.get(&found.directory) else {
                continue;
            };
            if found.verdict.is_err() {
                continue;
            }
            // The point of no return looks again.
            found.verdict = self
                .judge(&cluster, partition, scope)
                .await?
                .verdict(&found.directory);
            if found.verdict.is_ok() {
                report.freed += self
                    .delete_directory(partition, &found.directory, contents, progress)
                    .await?;
                report.deleted.push(found.directory);
            }
        }
        Ok(report)
    }

    /// Deletes what was found in a directory, the manifest first. Returns what that was.
    async fn delete_directory(
        &self,
        partition: PartitionId,
        directory: &SnapshotDirectory,
        contents: &Contents,
        progress: &dyn Progress,
    ) -> Result<StoredSize, StoreError> {
        let mut freed = StoredSize::default();
        if let Some((manifest, bytes)) = &contents.manifest {
            self.delete_object(manifest).await?;
            freed.add(*bytes);
            progress.advanced(*bytes);
        }
        // By number: a closure that is handed borrowed files would keep the future from being `Send`.
        let delete = async |number: usize| {
            let (path, bytes) = &contents.files[number];
            self.delete_object(path).await.map(|()| *bytes)
        };
        let mut deletions = stream::iter(0..contents.files.len())
            .map(delete)
            .buffer_unordered(DELETES_AT_ONCE);
        while let Some(bytes) = deletions.try_next().await? {
            freed.add(bytes);
            progress.advanced(bytes);
        }
        if let Some(folder) = &self.0.folder {
            let key = format!("{partition}/{directory}");
            let removed = local_remains::remove(folder.join(&key), self.0.blocking)
                .await
                .map_err(|source| local_remains::store_error("delete", &key, source))?;
            freed += removed;
            progress.advanced(removed.bytes);
        }
        tracing::info!(%partition, %directory, bytes = freed.bytes, "deleted a snapshot directory that nothing depends on");
        Ok(freed)
    }
}
