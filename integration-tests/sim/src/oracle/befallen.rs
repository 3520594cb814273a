//! What befell partitions and objects from outside, as far as the oracle has to know: what a fault may still take, and what
//! nobody can be blamed for.

use super::{Oracle, partition_of, snapshot_directory};
use crate::harm::Harm;
use bytes::Bytes;
use object_store::path::Path;
use snapshot_store::{ContentHash, PartitionId};

impl Oracle {
    /// Returns the objects of one of the two newest snapshots of a partition that has lost none so far: what a fault may
    /// take away. `pick` draws a number below its argument.
    pub(crate) fn choose_victim(
        &mut self,
        partition: PartitionId,
        pick: impl FnOnce(usize) -> usize,
    ) -> Option<Vec<Path>> {
        if self.damaged.contains(&partition) {
            return None;
        }
        let pointer = self.pointer(partition)?;
        if pointer.snapshots.len() < 2 {
            return None;
        }
        let entry = &pointer.snapshots[pick(2)];
        let published = self
            .partitions
            .get(&partition)?
            .published
            .get(&entry.snapshot_id)?;
        let objects: Vec<Path> = published.objects.keys().cloned().collect();
        if objects.is_empty() {
            return None;
        }
        self.damaged.insert(partition);
        Some(objects)
    }

    /// Returns whether a partition may be harmed: it has enough snapshots, nothing befell it so far, and fewer than `most`
    /// partitions were harmed before.
    pub(crate) fn may_harm(&self, partition: PartitionId, most: usize) -> bool {
        let harmed = self.partitions.values().filter(|known| known.harm.is_some());
        !self.damaged.contains(&partition)
            && harmed.count() < most
            && self
                .pointer(partition)
                .is_some_and(|pointer| pointer.snapshots.len() > 1)
    }

    /// Remembers what was done to a partition.
    pub(crate) fn set_harm(&mut self, partition: PartitionId, harm: Option<Harm>) {
        self.damaged.insert(partition);
        let certified = self.certificate(partition);
        if let Some(known) = self.partitions.get_mut(&partition) {
            if harm == Some(Harm::PointerDeleted) {
                // All that holds a new pointer up now.
                known.highest =
                    certified.map(|certificate| (certificate.incarnation.generation, certificate.up_to));
            }
            known.harm = harm;
        }
    }

    /// Returns the latest pointer of a partition that was its own, as it was stored.
    pub(crate) fn own_pointer(&self, partition: PartitionId) -> Option<Bytes> {
        let known = self.partitions.get(&partition)?;
        known.versions.last().map(|(bytes, _)| bytes.clone())
    }

    /// Returns the object that a pointer was before its latest change, while all is well with it.
    pub(crate) fn pointer_before(&self, path: &Path) -> Option<(Bytes, Option<String>)> {
        let known = self.partitions.get(&partition_of(path)?)?;
        match (&known.harm, known.versions.as_slice()) {
            (Some(Harm::PointerDeleted | Harm::PointerForeign { .. }), _) => None,
            (_, [before, _]) => Some(before.clone()),
            _ => None,
        }
    }

    /// Looks at a copy that was made inside the store: one of a damaged object is damaged, too.
    pub(crate) fn after_copy(&mut self, from: &Path, to: &Path) {
        match self.is_damaged(from) {
            true => self.damaged_copies.insert(to.clone()),
            false => self.damaged_copies.remove(to),
        };
        self.after_write(to);
    }

    /// Returns whether a fault has changed an object of a published snapshot, or the one that it was copied from.
    fn is_damaged(&self, path: &Path) -> bool {
        let changed = |published: ContentHash| {
            self.get(path)
                .is_some_and(|(bytes, _)| ContentHash::of(&bytes) != published)
        };
        self.damaged_copies.contains(path) || self.published_as(path).is_some_and(changed)
    }

    /// Returns what an object of a snapshot held when the pointer began to name the snapshot.
    pub(super) fn published_as(&self, path: &Path) -> Option<ContentHash> {
        let (partition, directory) = snapshot_directory(path)?;
        let known = self.partitions.get(&partition)?;
        let (_, hash) = known.published.get(&directory.snapshot_id)?.objects.get(path)?;
        Some(*hash)
    }
}
