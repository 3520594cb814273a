//! What the agent keeps of one partition.

use super::{
    archived::ArchivedRecord,
    export_job::{ExportJob, PublishedExport},
    host::PartitionHost,
    restore_job::RestoreJob,
};
use crate::core::{FinishedRestore, ReplicaStatus};
use snapshot_store::{Incarnation, Lsn, RequestId, SnapshotId};
use std::{collections::BTreeSet, sync::Arc};

/// One partition. The slot outlives the host: what was learnt about snapshots stays when a partition is closed
/// and opened again.
#[derive(Default)]
pub(super) struct Slot {
    /// Who owns the state; `None` while the partition is not hosted here.
    pub(super) host: Option<Arc<dyn PartitionHost>>,
    /// The snapshot being made.
    pub(super) export: Option<Arc<ExportJob>>,
    /// The last request that was answered with a published snapshot: repeating it gives the same answer.
    pub(super) published: Option<(RequestId, PublishedExport)>,
    /// The restore in progress.
    pub(super) restore: Option<Arc<RestoreJob>>,
    pub(super) last_restore: Option<FinishedRestore>,
    pub(super) archived: Option<ArchivedRecord>,
    pub(super) damaged: BTreeSet<SnapshotId>,
    /// The highest trim point the host told: a new pointer must not be below it.
    pub(super) trimmed: Option<(Incarnation, Lsn)>,
}

/// How many damaged snapshots are remembered: more than any pointer retains in practice.
const DAMAGED_MAX: usize = 64;

impl Slot {
    /// Adds to what the host says what the agent knows.
    pub(super) fn complete(&self, mut status: ReplicaStatus) -> ReplicaStatus {
        status.export = self.export.as_ref().map(|job| job.running());
        status.restore = self.restore.as_ref().map(|job| job.running());
        if let Some(job) = &self.restore {
            status.needed = job.needed();
        }
        status.last_restore = self.last_restore.clone();
        // What is known of another life of the log says nothing about this one.
        status.archived = self
            .archived
            .filter(|record| {
                status
                    .incarnation
                    .is_none_or(|incarnation| incarnation == record.incarnation)
            })
            .map(|record| record.snapshot());
        status.damaged = self.damaged.iter().copied().collect();
        status
    }

    /// Remembers that `snapshot_id` is damaged; the oldest attempts are forgotten first.
    pub(super) fn note_damaged(&mut self, snapshot_id: SnapshotId) {
        self.damaged.insert(snapshot_id);
        while self.damaged.len() > DAMAGED_MAX {
            self.damaged.pop_first();
        }
    }

    /// Remembers `record` unless something newer is known; says whether it was news.
    pub(super) fn note_archived(&mut self, record: ArchivedRecord) -> bool {
        let news = self.archived.is_none_or(|known| record.is_newer_than(&known));
        if news {
            self.archived = Some(record);
        }
        news
    }

    /// Remembers the trim point of the log, for as long as it is the same log.
    pub(super) fn note_trimmed(&mut self, incarnation: Incarnation, trim_point: Lsn) {
        self.trimmed = match self.trimmed {
            Some((known, floor)) if known == incarnation => Some((known, floor.max(trim_point))),
            _ => Some((incarnation, trim_point)),
        };
    }
}
