//! Creating the identity of a cluster.
//!
//! 1. `cluster.json`, only if there is none. A crash after it leaves an identity without control state, which every
//!    admin treats as unreadable and so does nothing. A rerun completes it, with the same ids.
//! 2. An empty `admin/control.json`, only if there is none.
//!
//! Neither is written where a pointer or a trim certificate exists: an empty identity or control state next to
//! somebody's only copies could displace them, or forget a hold. Creating the logs comes after, and is the caller's:
//! it asks [`Repository::may_begin_empty`] before it creates a log that is missing beside an identity that was there,
//! for the same reason. Where the logs of a fork begin: `fork_point`.

use super::{Repository, error::StoreError, read::check_owner};
use crate::{
    format::{ClusterRecord, Control, KeyHash, Keys, Stored, Unknown},
    vocabulary::{ClusterIdentity, Fingerprint, Incarnation, IncarnationId, PartitionId, Seams, WriteId},
};
use futures::{StreamExt, TryStreamExt, stream};

/// The shape of a cluster that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// How keys are spread over them.
    pub key_hash: KeyHash,
}

/// Why no identity was created.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The name cannot be used.
    #[error("{name:?} cannot name a cluster: expected 1 to 64 printable characters")]
    Name {
        /// What was given.
        name: String,
    },
    /// The number of partitions cannot be used.
    #[error("a cluster has 1 to {max} partitions, not {partitions}")]
    Partitions {
        /// What was given.
        partitions: u32,
        /// The most there can be.
        max: u32,
    },
    /// The store holds another cluster.
    #[error("the store already holds cluster {found} with {partitions} partitions: use another URL")]
    Occupied {
        /// The cluster found.
        found: ClusterIdentity,
        /// Its partitions.
        partitions: u32,
    },
    /// The store holds snapshots or certificates, and the identity that belongs to them is incomplete.
    #[error("{key} exists although {missing} does not: restore {missing}, or use another URL")]
    InUse {
        /// The object that must not be there.
        key: String,
        /// The object that is missing.
        missing: &'static str,
    },
    /// Something of a partition was archived, so that its log must not begin empty.
    #[error(
        "{key} exists, so the log of partition {partition} must not begin empty: {}",
        if *forked {
            "it is a fork, create its logs with `tidemark cluster init --from-fork`"
        } else {
            "check the log's address and data folder, or recover it (`tidemark log recover`)"
        }
    )]
    Archived {
        /// The partition.
        partition: PartitionId,
        /// What exists.
        key: String,
        /// Whether its latest snapshot was forked from another cluster.
        forked: bool,
    },
    /// The folder of a `file://` store could not be created.
    #[error("the folder {folder} cannot be created")]
    Folder {
        /// The folder.
        folder: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The store did not answer, or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks that `name` can name a cluster.
pub(super) fn check_name(name: &str) -> Result<(), InitError> {
    const NAME_MAX: usize = 64;
    let printable = name.chars().all(|c| !c.is_control()) && !name.trim().is_empty();
    if printable && name.chars().count() <= NAME_MAX {
        return Ok(());
    }
    Err(InitError::Name {
        name: name.chars().take(80).collect(),
    })
}

impl ClusterSpec {
    /// Describes a cluster of `partitions`, over which keys are spread by the default hash.
    pub fn new(name: impl Into<String>, partitions: u32) -> Self {
        ClusterSpec {
            name: name.into(),
            partitions,
            key_hash: KeyHash::Blake3Mod,
        }
    }

    /// The most partitions a cluster can have.
    pub const PARTITIONS_MAX: u32 = 65_536;

    fn check(&self) -> Result<(), InitError> {
        check_name(&self.name)?;
        if !(1..=Self::PARTITIONS_MAX).contains(&self.partitions) {
            return Err(InitError::Partitions {
                partitions: self.partitions,
                max: Self::PARTITIONS_MAX,
            });
        }
        Ok(())
    }
}

/// How many partitions are looked at together.
const LOOKS_AT_ONCE: usize = 16;

impl Repository {
    /// Creates the identity of a cluster and its empty control state, or completes what an interrupted run began.
    /// Returns the same record however often it is called with the same name and partitions.
    ///
    /// # Errors
    /// When the store holds another cluster, or snapshots without an identity; when it does not answer.
    pub async fn init(&self, spec: &ClusterSpec) -> Result<ClusterRecord, InitError> {
        spec.check()?;
        self.create_folder().await?;
        self.ensure_capable().await?;
        let record = match self.cluster().await? {
            Some(record) => record,
            None => {
                self.refuse_if_in_use(Keys::CLUSTER).await?;
                self.create_cluster(self.draw_identity(spec)).await?
            }
        };
        let same_shape = record.cluster.name == spec.name
            && record.partitions == spec.partitions
            && record.key_hash == spec.key_hash;
        if !same_shape {
            return Err(InitError::Occupied {
                found: record.cluster,
                partitions: record.partitions,
            });
        }
        let control = Control::empty(record.cluster.clone(), WriteId::new(self.0.seams.ulid()));
        self.create_control(control).await?;
        Ok(record)
    }

    /// Checks that a log that is missing may be created empty, at LSN 1: nothing of its partition was ever archived.
    /// An empty log in place of a lost one, or of one that continues a fork, would make its only copies worthless.
    ///
    /// # Errors
    /// [`InitError::Archived`], with the remedy; when the store does not answer or an object cannot be understood.
    pub async fn may_begin_empty(&self, partition: PartitionId) -> Result<(), InitError> {
        let archived = |key, forked| InitError::Archived {
            partition,
            key,
            forked,
        };
        if let Some(pointer) = self.pointer(partition).await? {
            let forked = match pointer.value.latest() {
                // A manifest that cannot be had says nothing of a fork.
                Some(latest) => self
                    .manifest(partition, latest)
                    .await
                    .is_ok_and(|manifest| manifest.origin.is_some()),
                None => false,
            };
            return Err(archived(Keys::pointer(partition), forked));
        }
        let certificate = Keys::certificate(partition);
        match self.exists(&certificate).await? {
            true => Err(archived(certificate, false)),
            false => Ok(()),
        }
    }

    /// Creates the folder of a `file://` store.
    pub(super) async fn create_folder(&self) -> Result<(), InitError> {
        match &self.0.folder {
            None => Ok(()),
            Some(folder) => tokio::fs::create_dir_all(folder)
                .await
                .map_err(|source| InitError::Folder {
                    folder: folder.display().to_string(),
                    source,
                }),
        }
    }

    /// Creates `cluster.json` and returns what is in force: ours, or that of somebody who was faster.
    pub(super) async fn create_cluster(&self, record: ClusterRecord) -> Result<ClusterRecord, InitError> {
        match self.put_if(Keys::CLUSTER, record.encode(), None).await {
            Ok(_) => Ok(record),
            Err(source) => match self.cluster().await? {
                Some(found) => Ok(found),
                None => Err(StoreError::from_client("create", Keys::CLUSTER, source).into()),
            },
        }
    }

    fn draw_identity(&self, spec: &ClusterSpec) -> ClusterRecord {
        let Seams { clock, entropy } = &self.0.seams;
        let fingerprint = Fingerprint::from_bytes(entropy.bytes_16());
        let first_life = || Incarnation {
            generation: 1,
            id: IncarnationId::from_bytes(entropy.bytes_16()),
        };
        ClusterRecord {
            cluster: ClusterIdentity {
                name: spec.name.clone(),
                fingerprint,
            },
            partitions: spec.partitions,
            key_hash: spec.key_hash,
            incarnations: (0..spec.partitions)
                .map(|p| (PartitionId::new(p), first_life()))
                .collect(),
            created_at: clock.now(),
            forked_from: None,
            unknown: Unknown::default(),
        }
    }

    /// Creates `control.json` if there is none, and returns whether there was none.
    pub(super) async fn create_control(&self, control: Control) -> Result<bool, InitError> {
        let cluster = &control.cluster;
        if let Some(found) = self.control().await? {
            check_owner(Keys::CONTROL, &found.value.cluster, cluster)?;
            return Ok(false);
        }
        self.refuse_if_in_use(Keys::CONTROL).await?;
        match self.put_if(Keys::CONTROL, control.encode(), None).await {
            Ok(_) => Ok(true),
            Err(source) => match self.control().await? {
                Some(found) => {
                    check_owner(Keys::CONTROL, &found.value.cluster, cluster)?;
                    Ok(found.value.write_id == control.write_id)
                }
                None => Err(StoreError::from_client("create", Keys::CONTROL, source).into()),
            },
        }
    }

    /// Refuses when any partition found in the store has a pointer or a certificate.
    pub(super) async fn refuse_if_in_use(&self, missing: &'static str) -> Result<(), InitError> {
        let partitions: Vec<PartitionId> = self
            .list_folders("")
            .await?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();

        stream::iter(partitions)
            .flat_map(|partition| stream::iter([Keys::pointer(partition), Keys::certificate(partition)]))
            .map(|key| async move {
                match self.exists(&key).await? {
                    true => Err(InitError::InUse { key, missing }),
                    false => Ok(()),
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }
}
