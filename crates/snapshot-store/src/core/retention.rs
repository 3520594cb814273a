//! What a new pointer keeps.

use crate::format::{Certificate, Pointer, PointerEntry};

/// Returns the retained snapshots of the pointer that names `newest`, newest first: the `restorable_min` newest
/// and every one that the certificate in force names. The rest is evicted by the swap itself.
///
/// `restorable_min` counts at least as 1, so `newest` always stays.
pub fn retained_after(
    current: Option<&Pointer>,
    newest: PointerEntry,
    certificate: Option<&Certificate>,
    restorable_min: u32,
) -> Vec<PointerEntry> {
    let mut entries = vec![newest];
    entries.extend(
        current
            .into_iter()
            .flat_map(|pointer| pointer.snapshots.iter().cloned()),
    );
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.incarnation.generation, entry.lsn)));
    let mut position = 0;
    entries.retain(|entry| {
        position += 1;
        position <= restorable_min.max(1) as usize
            || certificate.is_some_and(|certificate| certificate.names(entry.snapshot_id))
    });
    entries
}
