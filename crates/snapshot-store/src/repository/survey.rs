//! What lies in the store: one listing, every object of it named.
//!
//! A survey only looks. Of each snapshot directory it says what it is to its partition and whether it may be deleted;
//! whatever Tidemark did not write is unknown, is named, and is never touched.
//!
//! The listing comes before the pointer is read: a snapshot that is published in between is then seen as what the
//! pointer makes of it, and not as an upload that nobody wants.

use super::{
    Repository,
    error::StoreError,
    local_remains::{self, Part},
    read::is_file_name,
};
use crate::{
    core::{DeleteFacts, DeleteScope, KeepReason, may_delete},
    format::{Certificate, Keys, Manifest, Pointer, SnapshotDirectory},
    vocabulary::{ClusterIdentity, Lsn, PartitionId},
};
use object_store::path::Path;
use std::{collections::BTreeMap, iter::Sum, ops::AddAssign, time::Duration};

/// How long the listing of the base may take, which has one entry per partition.
const BASE_DEADLINE: Duration = Duration::from_secs(120);

/// A number of objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredSize {
    /// How many.
    pub objects: u64,
    /// Their sizes altogether.
    pub bytes: u64,
}

impl StoredSize {
    /// Adds one object of `bytes`.
    pub(super) fn add(&mut self, bytes: u64) {
        *self += StoredSize { objects: 1, bytes };
    }
}

impl AddAssign for StoredSize {
    fn add_assign(&mut self, other: StoredSize) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

impl Sum for StoredSize {
    fn sum<I: Iterator<Item = StoredSize>>(sizes: I) -> Self {
        sizes.fold(StoredSize::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// What a snapshot directory is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirectoryState {
    /// The pointer names it.
    Retained,
    /// The pointer does not name it any more, and the certificate in force does.
    Certified,
    /// It has a manifest, and nothing names it: it left retention, or lost the race for the pointer.
    Evicted,
    /// It has no manifest, or lies above the pointer: an upload in progress, or one that ended early.
    Unfinished,
}

impl DirectoryState {
    /// Every state.
    pub const ALL: &[DirectoryState] = &[
        DirectoryState::Retained,
        DirectoryState::Certified,
        DirectoryState::Evicted,
        DirectoryState::Unfinished,
    ];

    /// Returns the word used in status and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            DirectoryState::Retained => "retained",
            DirectoryState::Certified => "certified",
            DirectoryState::Evicted => "evicted",
            DirectoryState::Unfinished => "unfinished",
        }
    }
}

/// One snapshot directory as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyedDirectory {
    /// Its name.
    pub directory: SnapshotDirectory,
    /// What it is to the partition.
    pub state: DirectoryState,
    /// All that lies in it, `unfinished_parts` included.
    pub size: StoredSize,
    /// What killed uploads left in a local folder, where the store's client does not see it.
    pub unfinished_parts: StoredSize,
    /// Whether it may be deleted, and if not, why.
    pub verdict: Result<(), KeepReason>,
}

/// An object, or a folder of them, that Tidemark did not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownObject {
    /// Its key, relative to the repository's base; a folder ends in `/`.
    pub key: String,
    /// Its size; `None` for a folder that was not looked into.
    pub bytes: Option<u64>,
}

/// Everything below a partition's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The partition.
    pub partition: PartitionId,
    /// Snapshot directories, sorted by generation and LSN.
    pub directories: Vec<SurveyedDirectory>,
    /// Pointer and certificate.
    pub documents: StoredSize,
    /// Everything else.
    pub unknown: Vec<UnknownObject>,
}

impl Survey {
    /// Returns what the directories of one state hold.
    pub fn size_of(&self, state: DirectoryState) -> StoredSize {
        let of_state = self
            .directories
            .iter()
            .filter(|directory| directory.state == state);
        of_state.map(|directory| directory.size).sum()
    }

    /// Returns the directories that may be deleted.
    pub fn deletable(&self) -> impl Iterator<Item = &SurveyedDirectory> {
        self.directories
            .iter()
            .filter(|directory| directory.verdict.is_ok())
    }
}

/// What lies directly below the repository's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseSurvey {
    /// Partitions of the cluster of which anything is stored.
    pub partitions: Vec<PartitionId>,
    /// Everything that belongs neither to a partition nor to the cluster as a whole.
    pub unknown: Vec<UnknownObject>,
}

/// The objects of one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// The manifest, if it is there.
    pub(super) manifest: Option<(Path, u64)>,
    /// Data files.
    pub(super) files: Vec<(Path, u64)>,
    /// Files that a killed upload left in a local folder.
    pub(super) parts: Vec<Part>,
}

impl Contents {
    pub(super) fn size(&self) -> StoredSize {
        let mut size = self.parts_size();
        for (_, bytes) in self.manifest.iter().chain(&self.files) {
            size.add(*bytes);
        }
        size
    }

    fn parts_size(&self) -> StoredSize {
        let mut size = StoredSize::default();
        for part in &self.parts {
            size.add(part.bytes);
        }
        size
    }
}

/// A listing of one partition, sorted into what its keys alone say.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventory {
    pub(super) directories: BTreeMap<SnapshotDirectory, Contents>,
    pub(super) has_certificate: bool,
    pub(super) documents: StoredSize,
    pub(super) unknown: Vec<UnknownObject>,
}

/// Pointer and certificate as just read, and what is asked of them.
pub(super) struct Judge<'a> {
    pub(super) cluster: &'a ClusterIdentity,
    pub(super) partition: PartitionId,
    pub(super) pointer: Option<Pointer>,
    pub(super) certificate: Option<Certificate>,
    pub(super) scope: DeleteScope,
}

impl Judge<'_> {
    pub(super) fn verdict(&self, directory: &SnapshotDirectory) -> Result<(), KeepReason> {
        let facts = DeleteFacts {
            cluster: self.cluster,
            partition: self.partition,
            pointer: self.pointer.as_ref(),
            certificate: self.certificate.as_ref(),
        };
        may_delete(directory, &facts, self.scope)
    }

    /// Says what the directory is; `complete` is whether it has a manifest.
    pub(super) fn state(&self, directory: &SnapshotDirectory, complete: bool) -> DirectoryState {
        let id = directory.snapshot_id;
        let mut named = self.pointer.iter().flat_map(|pointer| &pointer.snapshots);
        if named.any(|entry| entry.snapshot_id == id) {
            return DirectoryState::Retained;
        }
        if self
            .certificate
            .as_ref()
            .is_some_and(|certificate| certificate.names(id))
        {
            return DirectoryState::Certified;
        }
        let above = self.latest().is_some_and(|latest| position(directory) > latest);
        match complete && !above {
            true => DirectoryState::Evicted,
            false => DirectoryState::Unfinished,
        }
    }

    /// Returns where the pointer's latest snapshot stands.
    pub(super) fn latest(&self) -> Option<(u64, Lsn)> {
        let latest = self.pointer.as_ref()?.latest()?;
        Some((latest.incarnation.generation, latest.lsn))
    }

    /// Judges everything that was found.
    pub(super) fn survey(&self, inventory: &Inventory) -> Survey {
        let surveyed = |(directory, contents): (&SnapshotDirectory, &Contents)| SurveyedDirectory {
            directory: *directory,
            state: self.state(directory, contents.manifest.is_some()),
            size: contents.size(),
            unfinished_parts: contents.parts_size(),
            verdict: self.verdict(directory),
        };
        Survey {
            partition: self.partition,
            directories: inventory.directories.iter().map(surveyed).collect(),
            documents: inventory.documents,
            unknown: inventory.unknown.clone(),
        }
    }
}

/// Returns where a directory's snapshot stands among those of its partition.
pub(super) fn position(directory: &SnapshotDirectory) -> (u64, Lsn) {
    (directory.generation, directory.lsn)
}

impl Repository {
    /// Says what lies below the prefix of `partition`, and what of it may be deleted: one listing and three GETs.
    /// Changes nothing.
    ///
    /// # Errors
    /// When the store did not answer, or cluster, pointer or certificate cannot be understood.
    pub async fn survey(&self, partition: PartitionId) -> Result<Survey, StoreError> {
        let cluster = self.owner().await?;
        let inventory = self.inventory(partition).await?;
        let scope = DeleteScope::CurrentGeneration;
        Ok(self.judge(&cluster, partition, scope).await?.survey(&inventory))
    }

    /// Says what lies directly below the base of a cluster with `partitions` partitions: one listing.
    ///
    /// # Errors
    /// When the store did not answer.
    pub async fn survey_base(&self, partitions: u32) -> Result<BaseSurvey, StoreError> {
        let base = (!self.0.base.as_ref().is_empty()).then(|| self.0.base.clone());
        let list = || self.store().list_with_delimiter(base.as_ref());
        let found = match self.repeat(BASE_DEADLINE, list).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(BaseSurvey {
                    partitions: Vec::new(),
                    unknown: Vec::new(),
                });
            }
            Err(source) => return Err(StoreError::from_client("list", "the base", source)),
        };
        let mut survey = BaseSurvey {
            partitions: Vec::new(),
            unknown: Vec::new(),
        };
        for folder in found.common_prefixes.iter().filter_map(Path::filename) {
            match partition_named(folder).filter(|partition| partition.get() < partitions) {
                Some(partition) => survey.partitions.push(partition),
                None if Some(folder) == Keys::CONTROL.split('/').next() => {}
                None => survey.unknown.push(UnknownObject {
                    key: format!("{folder}/"),
                    bytes: None,
                }),
            }
        }
        for object in &found.objects {
            let name = object.location.filename().unwrap_or_default();
            if name != Keys::CLUSTER {
                survey.unknown.push(UnknownObject {
                    key: name.to_owned(),
                    bytes: Some(object.size),
                });
            }
        }
        survey.partitions.sort_unstable();
        survey.unknown.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(survey)
    }

    /// Returns whose repository this is.
    pub(super) async fn owner(&self) -> Result<ClusterIdentity, StoreError> {
        let record = self.cluster().await?;
        let missing = || StoreError::Missing {
            key: Keys::CLUSTER.to_owned(),
        };
        Ok(record.ok_or_else(missing)?.cluster)
    }

    /// Lists everything below a partition's prefix.
    pub(super) async fn inventory(&self, partition: PartitionId) -> Result<Inventory, StoreError> {
        let prefix = partition.to_string();
        let mut inventory = Inventory::default();
        for (name, meta) in self.list_directory(&prefix).await? {
            let key = format!("{prefix}/{name}");
            if key == Keys::pointer(partition) {
                inventory.documents.add(meta.size);
            } else if key == Keys::certificate(partition) {
                inventory.has_certificate = true;
                inventory.documents.add(meta.size);
            } else if let Some((directory, file)) = in_directory(&name) {
                let contents = inventory.directories.entry(directory).or_default();
                match file == Manifest::FILE_NAME {
                    true => contents.manifest = Some((meta.location, meta.size)),
                    false => contents.files.push((meta.location, meta.size)),
                }
            } else {
                inventory.unknown.push(UnknownObject {
                    key,
                    bytes: Some(meta.size),
                });
            }
        }
        if let Some(folder) = &self.0.folder {
            let folder = folder.join(&prefix);
            let remains = local_remains::below(folder, self.0.blocking)
                .await
                .map_err(|source| local_remains::store_error("list", &prefix, source))?;
            for (directory, parts) in remains {
                inventory.directories.entry(directory).or_default().parts = parts;
            }
        }
        Ok(inventory)
    }

    /// Reads what deletions are decided on.
    pub(super) async fn judge<'a>(
        &self,
        cluster: &'a ClusterIdentity,
        partition: PartitionId,
        scope: DeleteScope,
    ) -> Result<Judge<'a>, StoreError> {
        let pointer = self.pointer(partition).await?.map(|found| found.value);
        let certificate = self.certificate(partition).await?.map(|found| found.value);
        Ok(Judge {
            cluster,
            partition,
            pointer,
            certificate,
            scope,
        })
    }
}

/// Returns the directory and the file that `name`, relative to a partition's prefix, stands for; `None` when
/// Tidemark writes no such name.
fn in_directory(name: &str) -> Option<(SnapshotDirectory, &str)> {
    let (directory, file) = name.split_once('/')?;
    let directory = directory.parse().ok()?;
    (file == Manifest::FILE_NAME || is_file_name(file)).then_some((directory, file))
}

/// Returns the partition whose prefix has this name.
fn partition_named(name: &str) -> Option<PartitionId> {
    let partition = PartitionId::new(name.parse().ok()?);
    // Printing it again must give the same text: `007` is not ours.
    (partition.to_string() == name).then_some(partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_tidemark_writes_are_its_own() {
        let directory = "0000000001-00000000000000000100_00000000000000000000000001";
        for (name, file) in [
            ("metadata.json", true),
            ("000007.sst", true),
            ("a/b", false),
            (".x", false),
        ] {
            assert_eq!(
                in_directory(&format!("{directory}/{name}")).is_some(),
                file,
                "{name}"
            );
        }
        for name in ["latest.json", "1-100_old/data", "notes/readme.txt", directory] {
            assert!(in_directory(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_partition_is_named_by_its_number_alone() {
        assert_eq!(partition_named("7"), Some(PartitionId::new(7)));
        for name in ["007", "+7", "7a", "admin", "", "99999999999"] {
            assert_eq!(partition_named(name), None, "{name}");
        }
    }
}
