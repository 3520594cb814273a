//! Leadership from the log, acknowledged writes, and the state that a snapshot carries.
//!
//! The log keeps every record it ever had as the measure of things; replicas read only what is above the trim point. A
//! replica's state is what `judge` made of the records: the term in force, and the commands accepted. It is persisted
//! with the applied LSN (a crash falls back to any earlier one), and travels in a snapshot, at which the log is trimmed. Appends
//! may be answered or not, and an unanswered one may land later. Those that name the tail they expect land only there; in
//! other configurations they name none, land anywhere, and `judge` alone keeps the terms apart.

mod setup;
mod steps;

pub use setup::{Bounds, Mutation, Setup, mutants, safe, safe_long};

use crate::check::{Outcome, explore};
use bytes::Bytes;
use snapshot_store::{LeaderEpoch, Leadership, NodeId};
use snapshot_worker::core::{LedBody, Record, Verdict, judge, next_epoch};
use stateright::{Model, Property};
use std::collections::BTreeSet;
use steps::Step;

/// A term: epoch and node.
type Term = (u8, u8);

/// One record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Written {
    term: Term,
    /// The command's number; `None` for an announcement.
    command: Option<u8>,
}

/// What a replica has made of the records up to `applied`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Fold {
    applied: u8,
    leader: Option<Term>,
    accepted: Vec<u8>,
}

/// An append whose answer is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InFlight {
    record: Written,
    /// The last LSN that it expects the log to have.
    after: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Replica {
    fold: Fold,
    /// The term it announced in this life of its process; it leads once that is in force by its own fold.
    own: Option<Term>,
    /// The append it waits for, and repeats while its fate is unknown.
    pending: Option<InFlight>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    log: Vec<Written>,
    trim: u8,
    replicas: Vec<Replica>,
    /// Appends that were sent and not answered; each may land once.
    late: BTreeSet<InFlight>,
    snapshot: Option<Fold>,
    acknowledged: BTreeSet<u8>,
    /// Answered as certainly not written.
    failed: BTreeSet<u8>,
    proposed: u8,
    /// Announcements so far.
    announced: u8,
    crashes: u8,
    disk_losses: u8,
    unknown: u8,
}

/// The model of one configuration.
#[derive(Debug)]
pub(crate) struct Leaders {
    setup: Setup,
    /// All terms that can occur, by epoch and node.
    terms: Vec<Vec<Leadership>>,
    /// All records that can occur, by epoch, node, and the command's number plus one; 0 is the announcement.
    records: Vec<Vec<Vec<Record>>>,
}

impl Leaders {
    fn breaks(&self, mutation: Mutation) -> bool {
        self.setup.mutation == Some(mutation)
    }

    fn new(setup: Setup) -> Self {
        let (epochs, nodes, commands) = (
            0..=setup.bounds.records + 1,
            0..setup.bounds.replicas,
            0..=setup.bounds.commands,
        );
        let leadership = |(epoch, node): Term| Leadership {
            epoch: LeaderEpoch::new(u64::from(epoch)),
            node: NodeId::new(format!("n{node}")).expect("this names a node"),
        };
        let record = |term, number: u8| Record::Led {
            leadership: leadership(term),
            sequence: 1,
            body: match number.checked_sub(1) {
                Some(command) => LedBody::Command(Bytes::copy_from_slice(&[command])),
                None => LedBody::Announce {
                    address: String::new(),
                },
            },
        };
        let terms = |epoch| nodes.clone().map(|node| leadership((epoch, node))).collect();
        let of_term = |term| commands.clone().map(|number| record(term, number)).collect();
        let of_epoch = |epoch| nodes.clone().map(|node| of_term((epoch, node))).collect();
        Leaders {
            terms: epochs.clone().map(terms).collect(),
            records: epochs.clone().map(of_epoch).collect(),
            setup,
        }
    }

    fn leadership(&self, (epoch, node): Term) -> &Leadership {
        &self.terms[usize::from(epoch)][usize::from(node)]
    }

    fn record(&self, written: &Written) -> &Record {
        let (epoch, node) = written.term;
        let number = written.command.map_or(0, |command| command + 1);
        &self.records[usize::from(epoch)][usize::from(node)][usize::from(number)]
    }

    /// Applies one record by `judge`; returns whether it was accepted.
    fn apply(&self, fold: &mut Fold, written: &Written) -> bool {
        fold.applied += 1;
        let leader = fold.leader.map(|term| self.leadership(term));
        let record = self.record(written);
        let lead = leader.map_or(0, |leader| leader.epoch.get());
        let epoch = u64::from(written.term.0);
        let mut accepted = false;
        match judge(leader, record) {
            Verdict::TakeLead { .. } => fold.leader = Some(written.term),
            Verdict::Apply(_) | Verdict::Pass => accepted = true,
            Verdict::Ignore | Verdict::Note => {
                let announces = written.command.is_none();
                if announces && epoch == lead && self.breaks(Mutation::EqualEpochTakesLead)
                    || announces && self.breaks(Mutation::AnyAnnouncementTakesLead)
                {
                    fold.leader = Some(written.term);
                }
                accepted = !announces && epoch < lead && self.breaks(Mutation::AcceptsOlderEpochs);
            }
        }
        if accepted && let Some(command) = written.command {
            fold.accepted.push(command);
        }
        accepted
    }

    /// The fold of the first `applied` records, by the product's rule.
    fn fold(&self, state: &State, applied: u8) -> Fold {
        let mut fold = Fold::default();
        for written in state.log.iter().take(usize::from(applied)) {
            fold.applied += 1;
            let leader = fold.leader.map(|term| self.leadership(term));
            match judge(leader, self.record(written)) {
                Verdict::TakeLead { .. } => fold.leader = Some(written.term),
                Verdict::Apply(_) => fold.accepted.extend(written.command),
                Verdict::Pass | Verdict::Ignore | Verdict::Note => {}
            }
        }
        fold
    }

    /// The epoch that a candidate announces.
    fn next_epoch(&self, fold: &Fold) -> u8 {
        let leader = fold.leader.map(|term| self.leadership(term));
        u8::try_from(next_epoch(leader).get()).expect("epochs of the model are small")
    }
}

/// Explores one configuration.
pub fn run(setup: Setup, threads: usize) -> Outcome {
    let (name, is_mutant) = (setup.name, setup.mutation.is_some());
    explore(name, is_mutant, Leaders::new(setup), threads)
}

impl Model for Leaders {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Vec::new(),
            trim: 0,
            replicas: vec![Replica::default(); usize::from(self.setup.bounds.replicas)],
            late: BTreeSet::new(),
            snapshot: None,
            acknowledged: BTreeSet::new(),
            failed: BTreeSet::new(),
            proposed: 0,
            announced: 0,
            crashes: 0,
            disk_losses: 0,
            unknown: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "every replica and snapshot equals the fold of the log",
                |model: &Leaders, state: &State| {
                    let folds = state.replicas.iter().map(|replica| &replica.fold);
                    let mut folds = folds.chain(&state.snapshot);
                    folds.all(|fold| *fold == model.fold(state, fold.applied))
                },
            ),
            Property::always(
                "an acknowledged write is in the log's fold",
                |model: &Leaders, state: &State| {
                    let all = model.fold(state, u8::MAX);
                    state
                        .acknowledged
                        .iter()
                        .all(|command| all.accepted.contains(command))
                },
            ),
            Property::always(
                "a write answered as failed is never applied",
                |model: &Leaders, state: &State| {
                    let all = model.fold(state, u8::MAX);
                    !state.failed.iter().any(|command| all.accepted.contains(command))
                },
            ),
            Property::always("no write is applied twice", |model: &Leaders, state: &State| {
                let mut accepted = model.fold(state, u8::MAX).accepted;
                accepted.sort_unstable();
                accepted.windows(2).all(|pair| pair[0] != pair[1])
            }),
            Property::sometimes("witness: a trim", |_, state: &State| state.trim > 0),
            Property::sometimes(
                "witness: a snapshot at the last record",
                |model: &Leaders, state: &State| {
                    let full = state.log.len() == usize::from(model.setup.bounds.records);
                    full && state
                        .snapshot
                        .as_ref()
                        .is_some_and(|fold| fold.applied == model.setup.bounds.records)
                },
            ),
            Property::sometimes(
                "witness: writes of two terms are acknowledged",
                |_, state: &State| {
                    let acknowledged = |written: &&Written| {
                        written
                            .command
                            .is_some_and(|command| state.acknowledged.contains(&command))
                    };
                    let terms: BTreeSet<Term> = state
                        .log
                        .iter()
                        .filter(acknowledged)
                        .map(|written| written.term)
                        .collect();
                    terms.len() > 1
                },
            ),
            Property::sometimes(
                "witness: a record is ignored",
                |model: &Leaders, state: &State| {
                    let commands = state
                        .log
                        .iter()
                        .filter(|written| written.command.is_some())
                        .count();
                    // Where appends name the tail they expect, whoever can append has seen that it leads no more.
                    model.setup.bounds.expects_tail || model.fold(state, u8::MAX).accepted.len() < commands
                },
            ),
        ]
    }
}
