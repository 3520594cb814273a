//! What must hold everywhere, and what must be reached somewhere.

use super::{
    Archive,
    state::{Directory, State},
};
use stateright::Property;

pub(super) fn properties() -> Vec<Property<Archive>> {
    vec![
        Property::always("every trimmed record is covered by a restorable snapshot", covered),
        Property::always("the pointer never goes back", |_, state: &State| {
            let latest = state.latest.as_ref();
            latest.is_none_or(|latest| latest.position() >= state.highest)
        }),
        Property::always("the pointer names only complete snapshots", named_are_complete),
        Property::always("every replica equals the fold of its log", |_, state: &State| {
            state.workers.iter().all(|worker| worker.local.is_none_or(|local| local.sound))
        }),
        Property::always("no trim takes what a live replica still needs", |_, state: &State| {
            state.workers.iter().all(|worker| {
                let local = worker.local.filter(|local| worker.intact && local.inc == state.log.inc);
                local.is_none_or(|local| local.durable >= state.log.trim)
            })
        }),
        Property::always("every trim has a certificate, whose snapshots are there", certified),
        Property::sometimes("witness: a trim", |_, state: &State| state.log.trim > 0),
        Property::sometimes("witness: the pointer at the last record", |model: &Archive, state: &State| {
            let last = model.setup.bounds.records;
            state.latest.as_ref().is_some_and(|latest| latest.position() == (state.log.inc, last))
        }),
    ]
}

/// A sound snapshot of the log's incarnation at or above the trim point, which the pointer names: a restore falls
/// back to it. Without a pointer, which only the store itself can have lost, it lies in the store for the operator.
fn covered(_: &Archive, state: &State) -> bool {
    let covers = |directory: &Directory| {
        directory.is_sound() && directory.entry.inc == state.log.inc && directory.entry.lsn >= state.log.trim
    };
    if state.log.trim == 0 {
        return true;
    }
    match state.latest.as_ref() {
        Some(latest) => latest.entries.iter().any(|entry| {
            // A foreign entry says something else of the directory than the directory itself.
            let found = state.directory(entry.id);
            !latest.foreign && found.is_some_and(|found| found.entry == *entry && covers(found))
        }),
        None => state.directories.iter().any(covers),
    }
}

fn named_are_complete(_: &Archive, state: &State) -> bool {
    state.latest.iter().flat_map(|latest| &latest.entries).all(|entry| {
        state.lost.contains(&entry.id) || state.directory(entry.id).is_some_and(Directory::is_complete)
    })
}

fn certified(model: &Archive, state: &State) -> bool {
    // Rules that do without a certificate are judged by what they lose.
    if !model.setup.certifies() {
        return true;
    }
    let Some(certificate) = state.certificate.as_ref() else {
        return state.log.trim == 0;
    };
    let covers =
        state.log.trim == 0 || (certificate.inc == state.log.inc && certificate.up_to >= state.log.trim);
    let there = certificate.entries.iter().all(|entry| {
        state.lost.contains(&entry.id) || state.directory(entry.id).is_some_and(Directory::is_complete)
    });
    covers && there && (certificate.inc, certificate.up_to) >= state.highest_certified
}
