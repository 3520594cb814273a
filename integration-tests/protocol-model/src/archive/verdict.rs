//! What must hold everywhere, and what must be reached somewhere.

use super::{
    Archive,
    state::{Directory, State},
};
use stateright::Property;

pub(super) fn properties() -> Vec<Property<Archive>> {
    vec![
        Property::always(
            "every trimmed record is covered by a sound snapshot that a restore finds",
            found_by_restores,
        ),
        Property::always(
            "every trimmed record is covered by a sound snapshot in the store",
            |_, state: &State| {
                state.log.trim == 0 || state.directories.iter().any(|found| covers(state, found))
            },
        ),
        // A restore would find it without the pointer. Copies, audits and people look there.
        Property::always(
            "no swap evicts what its publisher knows to be certified",
            |_, state: &State| !state.evicted_knowingly,
        ),
        Property::always("the pointer never goes back", |_, state: &State| {
            let latest = state.latest.as_ref();
            latest.is_none_or(|latest| latest.position() >= state.highest)
        }),
        Property::always("the pointer names only complete snapshots", named_are_complete),
        Property::always("every replica equals the fold of its log", |_, state: &State| {
            state
                .workers
                .iter()
                .all(|worker| worker.local.is_none_or(|local| local.sound))
        }),
        Property::always(
            "no trim takes what a live replica still needs",
            |_, state: &State| {
                state.workers.iter().all(|worker| {
                    let local = worker
                        .local
                        .filter(|local| worker.intact && local.inc == state.log.inc);
                    local.is_none_or(|local| local.durable >= state.log.trim)
                })
            },
        ),
        Property::always(
            "every trim has a certificate, whose snapshots are there",
            certified,
        ),
        Property::sometimes("witness: a trim", |_, state: &State| state.log.trim > 0),
        Property::sometimes(
            "witness: the pointer at the last record",
            |model: &Archive, state: &State| {
                let last = model.setup.bounds.records;
                state
                    .latest
                    .as_ref()
                    .is_some_and(|latest| latest.position() == (state.log.inc, last))
            },
        ),
    ]
}

fn covers(state: &State, directory: &Directory) -> bool {
    let of_this_log = directory.entry.inc == state.log.inc && !directory.is_foreign();
    directory.is_sound() && of_this_log && directory.entry.lsn >= state.log.trim
}

/// Among what a worker without any state would try is a sound snapshot of the log's incarnation at or above the trim
/// point.
fn found_by_restores(model: &Archive, state: &State) -> bool {
    let candidates = || model.candidates(state, None);
    state.log.trim == 0
        || candidates().iter().any(|entry| {
            let found = state.directory(entry.id);
            found.is_some_and(|found| found.entry == *entry && covers(state, found))
        })
}

fn named_are_complete(_: &Archive, state: &State) -> bool {
    state
        .latest
        .iter()
        .flat_map(|latest| &latest.entries)
        .all(|entry| {
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
