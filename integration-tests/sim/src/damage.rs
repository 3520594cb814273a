//! What becomes of stored snapshots: a byte flips, or files go.

use crate::{plan::FaultClass, plant, storm::Storm};
use bytes::Bytes;
use futures::FutureExt;
use object_store::ObjectStoreExt;
use snapshot_store::PartitionId;

impl Storm<'_> {
    /// Takes objects of one restorable snapshot away, or damages one of them, at most once for each partition.
    pub(crate) fn draw_damage(&mut self) {
        for class in [FaultClass::Flip, FaultClass::Lifecycle] {
            if !self.world.strikes(class, 0.006) {
                continue;
            }
            let partition = self.world.below(0..u64::from(self.world.plan().partitions)) as u32;
            let draw = self.world.below(0..1 << 20);
            let victim = self.world.oracle(|oracle| {
                oracle.choose_victim(PartitionId::new(partition), |bound| draw as usize % bound)
            });
            let Some(objects) = victim else { continue };
            self.world
                .counters()
                .count(&format!("damage done {}", class.as_str()));
            let first = draw as usize % objects.len();
            let raw = self.world.raw().clone();
            match class {
                FaultClass::Flip => {
                    let path = objects[first].clone();
                    let found = raw.get(&path).now_or_never().and_then(Result::ok);
                    let bytes = found.and_then(|found| found.bytes().now_or_never()?.ok());
                    let mut bytes = bytes.map(|bytes| bytes.to_vec()).unwrap_or_default();
                    let before = Bytes::from(bytes.clone());
                    let at = draw as usize % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << (draw % 8);
                    }
                    self.world.event(format!("a byte of {path} flips"));
                    let after = Bytes::from(bytes);
                    plant::note_flip(&self.world, &path, before, after.clone());
                    raw.put(&path, after.into()).now_or_never();
                    self.world.oracle(|oracle| oracle.after_write(&path));
                }
                _ => {
                    let count = if draw.is_multiple_of(2) { 1 } else { objects.len() };
                    for path in objects.iter().cycle().skip(first).take(count) {
                        self.world.event(format!("a lifecycle rule deletes {path}"));
                        raw.delete(path).now_or_never();
                        self.world.oracle(|oracle| oracle.after_write(path));
                    }
                }
            }
        }
    }
}
