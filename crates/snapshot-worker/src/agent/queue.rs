//! The turns of a node's exports: as many run at once as may, the others wait in the order in which they were asked for.
//!
//! An export keeps its place, the slot of its partition, from the request to its end, and has its turn when it begins.
//! How many places there are is decided in `core::decline`, under the lock of the slots; turns are given here, under the
//! same lock, when a place becomes free.

use super::{export_job::ExportJob, slot::Slot};
use snapshot_store::PartitionId;
use std::{collections::BTreeMap, sync::Arc};

/// How many exports a node has taken on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExportCounts {
    /// Their turn has come.
    pub(super) running: usize,
    /// They wait for it.
    pub(super) queued: usize,
}

impl ExportCounts {
    pub(super) fn of(slots: &BTreeMap<PartitionId, Slot>) -> Self {
        jobs(slots).fold(ExportCounts::default(), |mut counts, job| {
            match job.is_queued() {
                true => counts.queued += 1,
                false => counts.running += 1,
            }
            counts
        })
    }
}

/// Gives the turns that are free to those that wait longest, and tells the others how many are before them. Called when
/// an export left its place.
pub(super) fn give_turns(slots: &BTreeMap<PartitionId, Slot>, exports_max: usize) {
    let free = exports_max.saturating_sub(ExportCounts::of(slots).running);
    let mut waiting: Vec<_> = jobs(slots).filter(|job| job.is_queued()).collect();
    waiting.sort_unstable_by_key(|job| job.number);
    for (position, job) in waiting.into_iter().enumerate() {
        match position.checked_sub(free) {
            None => job.take_turn(),
            Some(ahead) => job.queue_behind(ahead),
        }
    }
}

fn jobs(slots: &BTreeMap<PartitionId, Slot>) -> impl Iterator<Item = &Arc<ExportJob>> {
    slots.values().filter_map(|slot| slot.export.as_ref())
}
