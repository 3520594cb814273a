//! What a new pointer keeps.

use crate::{
    format::{Certificate, Pointer, PointerEntry},
    vocabulary::Lsn,
};

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

/// Returns the retained snapshots of the pointer that takes the place of `current` when `moved`, the pointer of the same
/// partition in another repository, is brought here: those of `moved`, and of those that lie here already every one that
/// the certificate in force here names, because trims rest on it. Newest first.
pub fn retained_after_move(
    moved: &Pointer,
    current: Option<&Pointer>,
    certificate: Option<&Certificate>,
) -> Vec<PointerEntry> {
    let position = |entry: &PointerEntry| -> (u64, Lsn) { (entry.incarnation.generation, entry.lsn) };
    let named =
        |entry: &&PointerEntry| certificate.is_some_and(|certificate| certificate.names(entry.snapshot_id));
    let here = current.into_iter().flat_map(|pointer| &pointer.snapshots);
    let mut entries: Vec<PointerEntry> = here.filter(named).cloned().collect();
    for entry in &moved.snapshots {
        // Two snapshots of one position are the same state; the one that a trim rests on stays.
        if !entries.iter().any(|kept| position(kept) == position(entry)) {
            entries.push(entry.clone());
        }
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(position(entry)));
    entries
}
