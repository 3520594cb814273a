//! Moving logs from one engine to another: the same lives, LSNs and records in another place.
//!
//! For all partitions together, so that the copy can be taken back until the first of them is switched:
//!
//! 1. *Seal* the source against appends and trims. A crash leaves it sealed: a rerun goes on, [`take_back`] ends it.
//! 2. *Provision* the log at the destination from the source's trim point on, in the state "arriving", and *import* the
//!    records. A crash leaves a part of them, which nobody can use; a rerun goes on at its tail.
//! 3. *Verify*: both are read from the trim point to the tail and compared record by record. A rerun does it again.
//! 4. *Leave*: the source's registry is switched by compare-and-set and names the new place. From now on nothing can be
//!    taken back. A crash leaves some partitions that nobody serves; a rerun completes them.
//! 5. *Arrive*: the destination's registry is switched by compare-and-set.
//!
//! At no moment may both be used; `Passage` has the table. Each step is chosen by looking at both registries (`plan`), so
//! it does not matter who did the ones before it. Not here: which places there are, and telling the nodes of the new one.

mod one;
mod plan;

use crate::{AppendError, ProvisionError};
use crate::{Log, LogAdmin, LogError, LogMove, ReadError};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use one::Mover;
pub use plan::CopyRefusal;
use plan::{Names, Step};
use snapshot_store::{ContentHash, Incarnation, Lsn, PartitionId, Seams};
use std::sync::Arc;

/// The most partitions that are looked at; as many as a cluster may have.
const PARTITIONS_MAX: u32 = 10_000;
/// How many partitions are under way at once.
const PARTITIONS_AT_ONCE: usize = 4;

/// One end of a copy.
#[derive(Clone)]
pub struct Place {
    /// What people and the other registry call it: its address.
    pub name: String,
    /// As readers see it.
    pub log: Arc<dyn Log>,
    /// As admins see it.
    pub admin: Arc<dyn LogAdmin>,
    /// As this module sees it.
    pub mover: Arc<dyn LogMove>,
}

/// Is told how far it is.
pub trait CopyProgress: Send + Sync {
    /// So many records more have to be copied, and compared afterwards.
    fn planned(&self, records: u64);
    /// So many records were copied or compared.
    fn advanced(&self, records: u64);
}

/// What became of one partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The partition.
    pub partition: PartitionId,
    /// Which life of its log; the same in both places.
    pub incarnation: Incarnation,
    /// Trim point of the source.
    pub trim_point: Lsn,
    /// Tail of the source.
    pub tail: Lsn,
    /// What was compared; `None` when an earlier run had done it.
    pub compared: Option<Compared>,
}

/// All records of a log, as both places have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Number of records.
    pub records: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// BLAKE3 over all of them in order: each hashed with its LSN and the hash before it.
    pub digest: ContentHash,
}

/// A copy did not get to its end. Repeating it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It must not, or need not, be done.
    #[error(transparent)]
    Refused(#[from] CopyRefusal),
    /// One of the places does not answer, or not as it should.
    #[error("{place}: {source}; run this again to go on")]
    Log {
        /// Which one.
        place: String,
        /// What happened.
        source: LogError,
    },
    /// A log could not be read.
    #[error("{place}, partition {partition}: {source}; run this again to go on")]
    Read {
        /// Which one.
        place: String,
        /// The partition.
        partition: PartitionId,
        /// What happened.
        source: ReadError,
    },
    /// The destination did not take the records.
    #[error("{place}, partition {partition}: {source}; run this again to go on")]
    Import {
        /// Which one.
        place: String,
        /// The partition.
        partition: PartitionId,
        /// What happened.
        source: AppendError,
    },
    /// The destination did not create the log.
    #[error("{place}: {source}; run this again to go on")]
    Provision {
        /// Which one.
        place: String,
        /// What happened.
        source: ProvisionError,
    },
    /// The same step was tried again and again.
    #[error("partition {partition} gets no further ({step}): does another `tidemark log copy` run?")]
    Stuck {
        /// The partition.
        partition: PartitionId,
        /// Where it stands.
        step: String,
    },
}

/// Moves all logs of `source` to `destination`; goes on where an earlier run ended. When it returns, the nodes can be told
/// of the new place.
///
/// # Errors
/// With the first partition that could not be done; the others are left where they are, and a rerun goes on.
pub async fn copy(
    source: &Place,
    destination: &Place,
    seams: &Seams,
    progress: &dyn CopyProgress,
) -> Result<Vec<Copied>, CopyError> {
    let mover = Mover::new(source, destination, seams, progress);
    let partitions = mover.partitions().await?;
    // Whatever is refused is refused before anything is sealed.
    for partition in &partitions {
        mover.plan(*partition, None).await?;
    }
    let stages: Vec<_> = stream::iter(partitions)
        .map(|partition| mover.run(partition, None, |step| matches!(step, Step::Leave { .. })))
        .buffered(PARTITIONS_AT_ONCE)
        .try_collect()
        .await?;
    stream::iter(stages)
        .map(|stage| mover.run(stage.copied.partition, Some(stage), |_| false))
        .buffered(PARTITIONS_AT_ONCE)
        .map_ok(|stage| stage.copied)
        .try_collect()
        .await
}

/// Takes a copy back that was not switched: the source takes appends and trims again, and what was copied is deleted. With
/// no `destination`, because it does not answer, the latter is left to the next copy. Returns the partitions that were
/// sealed.
///
/// # Errors
/// When a log lives at the destination by now (then nothing is changed), or a place does not answer.
pub async fn take_back(source: &Place, destination: Option<&Place>) -> Result<Vec<PartitionId>, CopyError> {
    one::take_back(source, destination).await
}

impl Place {
    fn names<'a>(&'a self, destination: &'a Place) -> Names<'a> {
        Names {
            from: &self.name,
            to: &destination.name,
        }
    }

    fn log_error(&self, source: LogError) -> CopyError {
        CopyError::Log {
            place: self.name.clone(),
            source,
        }
    }
}
