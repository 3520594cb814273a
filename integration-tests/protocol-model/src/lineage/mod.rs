//! A log that is lost, loses its newest records, or is forked, and the states that remember it.
//!
//! Every record has a number of its own and knows its predecessor, so that the number of the last one applied (the *tip*)
//! stands for a whole history, as the chain hash does in the product. Publishing is one step here; how it comes about is
//! the archive model's matter.
//!
//! A log that loses acknowledged records breaks its contract, and three things are taken for granted where it does, which
//! in the product chain hashes show only afterwards: while a connected replica or the pointer is above the tail, nobody
//! appends (the admin names no leader); such a log is not trimmed until an operator forks it; and no export that began
//! before the loss is published after it.

mod setup;
mod steps;

pub use setup::{Bounds, Mutation, Setup, mutants, safe, safe_long};

use crate::{
    check::{Outcome, explore},
    product::{Certified, Entry, Latest, LogView, Product},
};
use stateright::{Model, Property};
use steps::Step;

/// One life of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Life {
    inc: u8,
    base: u8,
    /// Records in order, those that were trimmed included.
    records: Vec<u8>,
    trim: u8,
}

impl Life {
    fn last(&self) -> u8 {
        self.base + u8::try_from(self.records.len()).expect("logs of the model are short")
    }

    fn view(&self) -> LogView {
        LogView {
            inc: self.inc,
            base: self.base,
            last: self.last(),
            trim: self.trim,
        }
    }

    /// The record at `lsn`, also when it was trimmed.
    fn at(&self, lsn: u8) -> Option<u8> {
        let place = lsn.checked_sub(self.base + 1)?;
        self.records.get(usize::from(place)).copied()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Local {
    inc: u8,
    applied: u8,
    tip: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Replica {
    local: Option<Local>,
    /// Whether it reads the log; after a change of the log it has to look again.
    connected: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    log: Option<Life>,
    /// The generation that the registry would name for the log.
    inc: u8,
    /// The predecessor of each record; record n is at n - 1.
    parents: Vec<u8>,
    replicas: Vec<Replica>,
    latest: Option<Latest>,
    certificate: Option<Certified>,
    /// The tip of each snapshot; snapshot n is at n - 1.
    tips: Vec<u8>,
    /// The sticky hold: the log is known to have regressed.
    noticed: bool,
    /// Whether it has regressed, known or not, since the last fork.
    regressed: bool,
    /// A replica applied a record that does not follow its state.
    mixed: bool,
    /// A pointer's latest snapshot was displaced by one that does not continue it.
    displaced: bool,
    highest: (u8, u8),
    forks: u8,
    disk_losses: u8,
    regressions: u8,
    log_losses: u8,
}

impl State {
    fn tip_of(&self, entry: Entry) -> u8 {
        self.tips[usize::from(entry.id - 1)]
    }

    /// Whether the history that ends with `tip` contains `record`; 0 is the empty history.
    fn contains(&self, tip: u8, record: u8) -> bool {
        let mut at = tip;
        while at != record && at != 0 {
            at = self.parents[usize::from(at - 1)];
        }
        at == record
    }
}

/// The model of one configuration.
#[derive(Debug)]
pub(crate) struct Lineage {
    setup: Setup,
    product: Product,
}

impl Lineage {
    fn breaks(&self, mutation: Mutation) -> bool {
        self.setup.mutation == Some(mutation)
    }
}

/// Explores one configuration.
pub fn run(setup: Setup, threads: usize) -> Outcome {
    let (name, is_mutant) = (setup.name, setup.mutation.is_some());
    let model = Lineage {
        setup,
        product: Product::default(),
    };
    explore(name, is_mutant, model, threads)
}

impl Model for Lineage {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let empty = Replica {
            local: Some(Local {
                inc: 1,
                applied: 0,
                tip: 0,
            }),
            connected: true,
        };
        vec![State {
            log: Some(Life {
                inc: 1,
                base: 0,
                records: Vec::new(),
                trim: 0,
            }),
            inc: 1,
            parents: Vec::new(),
            replicas: vec![empty; usize::from(self.setup.bounds.replicas)],
            latest: None,
            certificate: None,
            tips: Vec::new(),
            noticed: false,
            regressed: false,
            mixed: false,
            displaced: false,
            highest: (0, 0),
            forks: 0,
            disk_losses: 0,
            regressions: 0,
            log_losses: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step)?;
        state.replicas.sort_unstable();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no replica mixes two histories", |_, state: &State| !state.mixed),
            Property::always(
                "every replica of the log has the log's history",
                |_, state: &State| {
                    let Some(log) = state.log.as_ref().filter(|_| !state.regressed) else {
                        return true;
                    };
                    let of_log = |local: &Local| local.inc == log.inc && local.applied > log.base;
                    let locals = state.replicas.iter().filter_map(|replica| replica.local);
                    locals
                        .filter(of_log)
                        .all(|local| log.at(local.applied) == Some(local.tip))
                },
            ),
            Property::always(
                "a pointer is displaced only by what continues it",
                |_, state: &State| !state.displaced,
            ),
            Property::always("the pointer never goes back", |_, state: &State| {
                state
                    .latest
                    .as_ref()
                    .is_none_or(|latest| latest.position() >= state.highest)
            }),
            Property::always(
                "every trimmed record is in a snapshot of the log's incarnation",
                covered,
            ),
            Property::sometimes("witness: a trim", |_, state: &State| {
                state.log.as_ref().is_some_and(|log| log.trim > log.base)
            }),
            Property::sometimes("witness: a trim after a fork", |_, state: &State| {
                state
                    .log
                    .as_ref()
                    .is_some_and(|log| log.inc > 1 && log.trim > log.base)
            }),
            Property::sometimes(
                "witness: the pointer at the last record",
                |model: &Lineage, state: &State| {
                    let all = state.parents.len() == usize::from(model.setup.bounds.records);
                    let at = state.log.as_ref().map(|log| (log.inc, log.last()));
                    all && at.is_some() && state.latest.as_ref().map(Latest::position) == at
                },
            ),
        ]
    }
}

/// The last trimmed record stands in the history of a snapshot that the pointer names for this log.
fn covered(_: &Lineage, state: &State) -> bool {
    let Some(log) = state.log.as_ref() else {
        return true;
    };
    let Some(record) = log.at(log.trim) else {
        return true;
    };
    let named = state.latest.iter().flat_map(|latest| &latest.entries);
    named
        .filter(|entry| entry.inc == log.inc)
        .any(|entry| state.contains(state.tip_of(*entry), record))
}
