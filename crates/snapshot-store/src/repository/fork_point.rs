//! Where the logs of a forked cluster begin.
//!
//! A fork is a store with an identity of its own, to which snapshots of another cluster were copied: each partition
//! has a pointer whose latest snapshot belongs to the new cluster and to the incarnation that `cluster.json` names,
//! and carries its [`Origin`]. The log of such a partition is created at the snapshot's LSN + 1, with the snapshot as
//! its base. Nothing here writes; whoever creates the logs does so after reading this, and may repeat it.
//!
//! Not here: copying the snapshots, and creating the logs.

use super::{Repository, error::StoreError, read::check_owner};
use crate::{
    format::{ClusterRecord, KeyRange, Keys, Manifest, Origin, Pointer, PointerEntry},
    vocabulary::{ChainHash, Incarnation, Lsn, PartitionId, SnapshotId},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;

/// Where the log of one partition begins: right after a forked snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkPoint {
    /// The partition.
    pub partition: PartitionId,
    /// The life of the log that is to be created.
    pub incarnation: Incarnation,
    /// The forked snapshot.
    pub snapshot_id: SnapshotId,
    /// Its LSN: the base of the log, and its trim point from birth. The first record is the one after it.
    pub lsn: Lsn,
    /// Chain hash at `lsn`, which the log's chain continues from; `None` when the source's host keeps none.
    pub chain_hash: Option<ChainHash>,
    /// Bytes of all records up to `lsn`.
    pub log_bytes: u64,
    /// Whose state it is.
    pub origin: Origin,
}

/// Why no log can be created for a partition of a fork.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkRefusal {
    /// Nothing was copied.
    #[error(
        "partition {partition} has no pointer: copy its snapshot first (`tidemark snapshots copy --fork`)"
    )]
    NoPointer {
        /// The partition.
        partition: PartitionId,
    },
    /// The latest snapshot is of another life of the log than the one that is to be created.
    #[error(
        "partition {partition}: the latest snapshot is of incarnation {found}, cluster.json names {expected}: copy it again, to an empty store"
    )]
    OtherIncarnation {
        /// The partition.
        partition: PartitionId,
        /// The snapshot's.
        found: Incarnation,
        /// The one in `cluster.json`.
        expected: Incarnation,
    },
    /// `cluster.json` does not know the partition's log.
    #[error(
        "partition {partition}: cluster.json names no incarnation of its log: copy again, to an empty store"
    )]
    Unnamed {
        /// The partition.
        partition: PartitionId,
    },
    /// The partition has lived on: its log was trimmed.
    #[error("partition {partition} has a trim certificate, so its log existed: it is no fresh fork")]
    Trimmed {
        /// The partition.
        partition: PartitionId,
    },
    /// The latest snapshot was made by the cluster itself.
    #[error(
        "partition {partition}: the latest snapshot {snapshot_id} was not forked from another cluster: its log existed"
    )]
    NotForked {
        /// The partition.
        partition: PartitionId,
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// The new generation does not lie above the source's, so that their LSNs could be mistaken for each other.
    #[error("partition {partition}: generation {ours} does not lie above the source's {source_generation}")]
    NotAbove {
        /// The partition.
        partition: PartitionId,
        /// Of the log that is to be created.
        ours: u64,
        /// Of the log the snapshot was made from.
        source_generation: u64,
    },
    /// Source and fork spread their keys differently.
    #[error(
        "partition {partition}: the snapshot holds partition {} of {}, the cluster has {partitions}: a fork has as many partitions as its source",
        found.partition, found.of
    )]
    OtherShape {
        /// The partition.
        partition: PartitionId,
        /// What the snapshot holds.
        found: KeyRange,
        /// How many partitions the fork has.
        partitions: u32,
    },
    /// The snapshot is not complete.
    #[error(
        "partition {partition}: the forked snapshot is damaged ({detail}): copy it again, to an empty store"
    )]
    Damaged {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        detail: String,
    },
}

impl ForkRefusal {
    /// Returns whether the partition has moved on since its log was created: no fault where the log is there.
    pub fn has_lived_on(&self) -> bool {
        matches!(self, ForkRefusal::Trimmed { .. } | ForkRefusal::NotForked { .. })
    }
}

/// A forked cluster, and where each of its logs begins.
#[derive(Clone, Debug)]
pub struct Fork {
    /// Its identity.
    pub record: ClusterRecord,
    /// Where the log of each partition begins, or why it cannot.
    pub points: BTreeMap<PartitionId, Result<ForkPoint, ForkRefusal>>,
}

/// How many partitions are looked at together.
const LOOKS_AT_ONCE: usize = 16;

impl Repository {
    /// Reads where the logs of a forked cluster begin, and checks that all objects of the forked snapshots are
    /// there. For embedders as for `cluster init --from-fork`: create each log at its [`ForkPoint`], unless it is
    /// there already, and none at all while one partition without a log is refused.
    ///
    /// # Errors
    /// When `cluster.json` or `control.json` is missing, an object is foreign or cannot be understood, or the store
    /// does not answer. What stands against one partition is in the answer.
    pub async fn fork(&self) -> Result<Fork, StoreError> {
        let missing = |key: &str| StoreError::Missing { key: key.to_owned() };
        let record = self.cluster().await?.ok_or_else(|| missing(Keys::CLUSTER))?;
        let control = self.control().await?.ok_or_else(|| missing(Keys::CONTROL))?;
        check_owner(Keys::CONTROL, &control.value.cluster, &record.cluster)?;
        let points = stream::iter((0..record.partitions).map(PartitionId::new))
            .map(|partition| {
                let record = &record;
                async move { Ok::<_, StoreError>((partition, self.fork_point(record, partition).await?)) }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(Fork { record, points })
    }

    async fn fork_point(
        &self,
        record: &ClusterRecord,
        partition: PartitionId,
    ) -> Result<Result<ForkPoint, ForkRefusal>, StoreError> {
        let Some(pointer) = self.pointer(partition).await? else {
            return Ok(Err(ForkRefusal::NoPointer { partition }));
        };
        let pointer = pointer.value;
        check_owner(&Keys::pointer(partition), &pointer.cluster, &record.cluster)?;
        let latest = match forked_entry(record, partition, &pointer) {
            Ok(latest) => latest,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.certificate(partition).await?.is_some() {
            return Ok(Err(ForkRefusal::Trimmed { partition }));
        }
        let (manifest, anomalies) = self.present_manifest(partition, latest).await?;
        let damaged = || {
            let texts: Vec<_> = anomalies.iter().map(ToString::to_string).collect();
            let detail = texts.join("; ");
            ForkRefusal::Damaged { partition, detail }
        };
        // What lived on may be damaged as well; that is a matter of its own.
        Ok(match manifest {
            None => Err(damaged()),
            Some(manifest) => fork_point(record, partition, &manifest).and_then(|point| {
                if anomalies.is_empty() {
                    Ok(point)
                } else {
                    Err(damaged())
                }
            }),
        })
    }
}

/// Returns the snapshot that the log of `partition` would continue.
fn forked_entry<'a>(
    record: &ClusterRecord,
    partition: PartitionId,
    pointer: &'a Pointer,
) -> Result<&'a PointerEntry, ForkRefusal> {
    let latest = pointer.latest().ok_or(ForkRefusal::NoPointer { partition })?;
    match record.incarnations.get(&partition) {
        Some(expected) if *expected == latest.incarnation => Ok(latest),
        Some(expected) => Err(ForkRefusal::OtherIncarnation {
            partition,
            found: latest.incarnation,
            expected: *expected,
        }),
        None => Err(ForkRefusal::Unnamed { partition }),
    }
}

/// Decides where the log of `partition` begins, whose latest snapshot, of the log's own incarnation, `manifest`
/// describes.
fn fork_point(
    record: &ClusterRecord,
    partition: PartitionId,
    manifest: &Manifest,
) -> Result<ForkPoint, ForkRefusal> {
    let Some(origin) = &manifest.origin else {
        return Err(ForkRefusal::NotForked {
            partition,
            snapshot_id: manifest.snapshot_id,
        });
    };
    let (ours, source_generation) = (manifest.incarnation.generation, origin.incarnation.generation);
    if ours <= source_generation {
        return Err(ForkRefusal::NotAbove {
            partition,
            ours,
            source_generation,
        });
    }
    let found = manifest.key_range;
    if (found.partition, found.of) != (partition.get(), record.partitions) {
        return Err(ForkRefusal::OtherShape {
            partition,
            found,
            partitions: record.partitions,
        });
    }
    Ok(ForkPoint {
        partition,
        incarnation: manifest.incarnation,
        snapshot_id: manifest.snapshot_id,
        lsn: manifest.lsn,
        chain_hash: manifest.chain_hash(),
        log_bytes: manifest.log_bytes,
        origin: origin.clone(),
    })
}
