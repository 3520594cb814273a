//! Copying the snapshots of a cluster to another repository, of whatever kind.
//!
//! | Module | What it does |
//! |---|---|
//! | `report` | what came of it, partition by partition |
//! | `place` | brings one snapshot to its place, verified |
//! | `moving` | another place for the same cluster: the source is sealed first |
//! | `fork` | another cluster: new ids, and each snapshot says where it came from |
//! | `recover` | the same place and cluster, in the next generation: its logs are lost |
//! | `seal` | the seal, and the identity of a destination |
//!
//! Both ways keep the order of publishing: files, manifest, a check that all is there, and the pointer last. A run that
//! ends early leaves directories that no pointer names, and the next run goes on with what it finds in them. Nothing is
//! ever deleted, at either end. Partitions are independent of each other: what fails in one is said, and the others go on.
//!
//! Invariants:
//! - Every byte below a pointer that is written here was hashed on its way by the run that sent it, or read back by the
//!   run that wrote the pointer.
//! - A destination's pointer never goes back, and never names what is not complete.
//!
//! Not here: logs (`cluster init --from-fork`, `log recover`), and which repository a node uses (its configuration).

mod fork;
mod moving;
mod place;
mod recover;
mod report;
mod seal;

pub use fork::ForkRequest;
pub use moving::MoveRequest;
pub use recover::{PlannedRecovery, RecoveredLog, RecoveryFault, RecoveryPlan, RecoveryRequest};
pub use report::{
    CopiedPartition, CopiedSnapshot, CopyError, CopyFault, CopyOutcome, CopyReport, PassedOver,
};

use super::{Progress, Repository, StoreKind};
use crate::{format::ClusterRecord, vocabulary::PartitionId};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio_util::sync::CancellationToken;

/// How many partitions are under way at once; the budgets of both repositories bound what they transfer together.
const PARTITIONS_AT_ONCE: usize = 4;

/// What one run is told about: how far it has come, and whether it is still wanted.
struct Run<'a> {
    progress: &'a dyn Progress,
    cancel: &'a CancellationToken,
    /// What is to be transferred, as far as it is known: it grows as partitions are looked at.
    bytes: AtomicU64,
}

impl<'a> Run<'a> {
    fn new(progress: &'a dyn Progress, cancel: &'a CancellationToken) -> Self {
        Run {
            progress,
            cancel,
            bytes: AtomicU64::new(0),
        }
    }

    /// Adds to what is to be transferred.
    fn expect(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.total(before + bytes);
    }

    /// Waits for `work` unless the run is cancelled.
    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, CopyFault>>,
    ) -> Result<T, CopyFault> {
        let done = self.cancel.run_until_cancelled(work).await;
        done.unwrap_or(Err(CopyFault::Cancelled))
    }
}

/// Runs `work`, a few at once, in order.
async fn a_few_at_once<T>(work: Vec<impl Future<Output = T>>) -> Vec<T> {
    stream::iter(work).buffered(PARTITIONS_AT_ONCE).collect().await
}

/// Returns the partitions asked for, all of the cluster's when none is named.
fn selected(
    record: &ClusterRecord,
    asked_for: Option<&BTreeSet<PartitionId>>,
) -> Result<Vec<PartitionId>, CopyError> {
    let Some(asked_for) = asked_for else {
        return Ok((0..record.partitions).map(PartitionId::new).collect());
    };
    match asked_for
        .iter()
        .find(|partition| partition.get() >= record.partitions)
    {
        Some(stray) => Err(CopyError::NoSuchPartition {
            partition: *stray,
            partitions: record.partitions,
        }),
        None => Ok(asked_for.iter().copied().collect()),
    }
}

impl Repository {
    /// Returns the identity of the cluster that is to be copied.
    async fn copied_cluster(&self) -> Result<ClusterRecord, CopyError> {
        let record = self.cluster().await.map_err(CopyError::Source)?;
        record.ok_or_else(|| CopyError::NoCluster {
            url: self.url().to_owned(),
        })
    }

    /// Refuses to copy a repository onto itself, or into itself.
    fn refuse_overlap(&self, destination: &Repository) -> Result<(), CopyError> {
        let overlap = match (self.kind(), destination.kind()) {
            // Their URLs say nothing: another store has the same one.
            (StoreKind::Memory | StoreKind::Custom, _) | (_, StoreKind::Memory | StoreKind::Custom) => {
                Arc::ptr_eq(&self.0.store, &destination.0.store)
                    && within(self.0.base.as_ref(), destination.0.base.as_ref())
            }
            _ => within(self.url(), destination.url()),
        };
        match overlap {
            true => Err(CopyError::Overlap {
                from: self.url().to_owned(),
                to: destination.url().to_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// Returns whether two folders are the same, or one lies in the other.
fn within(one: &str, other: &str) -> bool {
    let folder = |text: &str| format!("{}/", text.trim_end_matches('/'));
    let (one, other) = (folder(one), folder(other));
    one.starts_with(&other) || other.starts_with(&one)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_folder_within_the_other_is_no_other_place() {
        for (one, other, expected) in [
            ("s3://bucket/a", "s3://bucket/a/", true),
            ("s3://bucket", "s3://bucket/a", true),
            ("s3://bucket/a/b", "s3://bucket/a", true),
            ("s3://bucket/a", "s3://bucket/ab", false),
            ("file:///a", "s3://a", false),
        ] {
            assert_eq!(within(one, other), expected, "{one} {other}");
            assert_eq!(within(other, one), expected, "{other} {one}");
        }
    }
}
