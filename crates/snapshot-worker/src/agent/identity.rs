//! `<data_dir>/identity.json`: which cluster a node belongs to, as it learnt it once.
//!
//! Identity is anchored here and in the log's registry, not in the bucket that is being checked: after the first
//! start a node never asks the store who it is.

use super::staging::write_durably;
use serde::{Deserialize, Serialize};
use snapshot_store::{
    ClusterIdentity, NodeId, PartitionId, Repository, StoreError,
    format::{FormatError, KeyHash, KeyRange, Stored},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a node knows of its cluster and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalIdentity {
    /// The cluster.
    pub cluster: ClusterIdentity,
    /// How many partitions it has.
    pub partitions: u32,
    /// How keys are spread over them.
    pub key_hash: KeyHash,
    /// The node this folder belongs to.
    pub node: NodeId,
}

impl Stored for LocalIdentity {
    const WHAT: &'static str = "node identity";
    const FORMAT: u32 = 1;
}

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder belongs to another node.
    #[error(
        "{} belongs to node {found}, not to {expected}: give each node its own data_dir, or correct node_id",
        folder.display()
    )]
    OtherNode {
        /// The data folder.
        folder: PathBuf,
        /// The node it belongs to.
        found: NodeId,
        /// The node that was to use it.
        expected: NodeId,
    },
    /// The store has no cluster.
    #[error(
        "{url} holds no cluster (cluster.json): run `tidemark cluster init` first, or correct [store] url"
    )]
    NotInitialised {
        /// The store.
        url: String,
    },
    /// The store did not answer, or not with a readable `cluster.json`.
    #[error("the cluster's identity cannot be read from {url}")]
    Store {
        /// The store.
        url: String,
        /// What happened.
        #[source]
        source: Box<StoreError>,
    },
    /// The file in the data folder cannot be understood.
    #[error("{}: the node's identity cannot be understood", folder.display())]
    Unreadable {
        /// The data folder.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// The data folder cannot be used.
    #[error("{}: the data folder cannot be read or written", folder.display())]
    Io {
        /// The data folder.
        folder: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl LocalIdentity {
    /// Name of the file in the data folder.
    pub const FILE_NAME: &'static str = "identity.json";

    /// Returns the part of the key space that `partition` owns.
    pub fn key_range(&self, partition: PartitionId) -> KeyRange {
        KeyRange {
            partition: partition.get(),
            of: self.partitions,
        }
    }

    /// Reads the identity from `data_dir`; `None` when it was never written.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let bytes = match fs::read(data_dir.join(Self::FILE_NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(IdentityError::Io {
                    folder: data_dir.to_owned(),
                    source,
                });
            }
        };
        Self::decode(Self::FILE_NAME, &bytes)
            .map(Some)
            .map_err(|source| IdentityError::Unreadable {
                folder: data_dir.to_owned(),
                source,
            })
    }

    /// Returns the identity in `data_dir`; on the first start reads `cluster.json` once and keeps what it says.
    ///
    /// # Errors
    /// When the folder belongs to another node, or when the store, needed on the first start only, has no cluster
    /// or does not answer.
    pub async fn adopt(
        data_dir: &Path,
        node: &NodeId,
        repository: &Repository,
    ) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(data_dir)? {
            if identity.node != *node {
                return Err(IdentityError::OtherNode {
                    folder: data_dir.to_owned(),
                    found: identity.node,
                    expected: node.clone(),
                });
            }
            return Ok(identity);
        }
        let url = || repository.url().to_owned();
        let record = repository
            .cluster()
            .await
            .map_err(|source| IdentityError::Store {
                url: url(),
                source: Box::new(source),
            })?
            .ok_or_else(|| IdentityError::NotInitialised { url: url() })?;
        let identity = LocalIdentity {
            cluster: record.cluster,
            partitions: record.partitions,
            key_hash: record.key_hash,
            node: node.clone(),
        };
        write_durably(&data_dir.join(Self::FILE_NAME), &identity.encode()).map_err(|source| {
            IdentityError::Io {
                folder: data_dir.to_owned(),
                source,
            }
        })?;
        Ok(identity)
    }
}
