//! What can happen in the leadership model.

use super::{Fold, InFlight, Leaders, Mutation, Replica, State, Written};

/// One step; replicas are named by their node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A replica is told to lead and announces its next term.
    Announce(usize),
    /// The same, without an answer from the log.
    AnnounceUnclear(usize),
    /// A leader appends a client's write.
    Propose(usize),
    /// The same, without an answer.
    ProposeUnclear(usize),
    /// It repeats what is still in doubt after all that was read.
    Repeat(usize),
    /// An unanswered append takes effect.
    Land(usize),
    /// A replica applies the next record.
    Apply(usize),
    /// A replica's state becomes the latest snapshot, and the log is trimmed there.
    Publish(usize),
    Restore(usize),
    /// A replica's process ends, and comes back with the state it had made durable at this LSN.
    Crash(usize, u8),
    LoseDisk(usize),
}

impl Leaders {
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let bounds = &self.setup.bounds;
        let room = state.log.len() < usize::from(bounds.records);
        let doubt = state.unknown < bounds.unknown;
        for (node, replica) in state.replicas.iter().enumerate() {
            let below = replica.fold.applied < state.trim;
            let leads = replica.leads();
            if room && !leads && replica.pending.is_none() && !below && state.announced < bounds.terms {
                steps.push(Step::Announce(node));
                if doubt {
                    steps.push(Step::AnnounceUnclear(node));
                }
            }
            if room && leads && replica.pending.is_none() && !below && state.proposed < bounds.commands {
                steps.push(Step::Propose(node));
                if doubt {
                    steps.push(Step::ProposeUnclear(node));
                }
            }
            if room && replica.pending.is_some() && bounds.expects_tail {
                steps.push(Step::Repeat(node));
            }
            match below {
                true => steps.push(Step::Restore(node)),
                false => steps.push(Step::Apply(node)),
            }
            steps.push(Step::Publish(node));
            if state.crashes < bounds.crashes {
                steps.extend((0..=replica.fold.applied).map(|durable| Step::Crash(node, durable)));
            }
            if state.disk_losses < bounds.disk_losses {
                steps.push(Step::LoseDisk(node));
            }
        }
        if room {
            steps.extend((0..state.late.len()).map(Step::Land));
        }
    }

    pub(super) fn take(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Announce(node) => self.announce(state, node, false),
            Step::AnnounceUnclear(node) => self.announce(state, node, true),
            Step::Propose(node) => self.propose(state, node, false),
            Step::ProposeUnclear(node) => self.propose(state, node, true),
            Step::Repeat(node) => self.repeat(state, node),
            Step::Land(place) => {
                let append = *state.late.iter().nth(place)?;
                state.late.remove(&append);
                self.land(state, append, None);
                Some(())
            }
            Step::Apply(node) => self.apply_next(state, node),
            Step::Publish(node) => self.publish(state, node),
            Step::Restore(node) => {
                let snapshot = state.snapshot.clone()?;
                let replica = &mut state.replicas[node];
                *replica = Replica {
                    fold: snapshot,
                    own: replica.own,
                    pending: None,
                };
                Some(())
            }
            Step::Crash(node, durable) => {
                state.crashes += 1;
                state.replicas[node] = Replica {
                    fold: self.recovered(state, durable),
                    own: None,
                    pending: None,
                };
                Some(())
            }
            Step::LoseDisk(node) => {
                state.disk_losses += 1;
                state.replicas[node] = Replica::default();
                Some(())
            }
        }
    }

    /// Announces the term after the one in force, right after what was applied.
    fn announce(&self, state: &mut State, node: usize, unclear: bool) -> Option<()> {
        let epoch = self.next_epoch(&state.replicas[node].fold);
        let term = (epoch, u8::try_from(node).ok()?);
        let append = InFlight {
            record: Written { term, command: None },
            after: state.replicas[node].fold.applied,
        };
        if self.refuses(state, append) && !unclear {
            return None;
        }
        state.announced += 1;
        state.replicas[node].own = Some(term);
        self.send(state, node, append, unclear)
    }

    fn propose(&self, state: &mut State, node: usize, unclear: bool) -> Option<()> {
        let replica = &state.replicas[node];
        let append = InFlight {
            record: Written {
                term: replica.own?,
                command: Some(state.proposed),
            },
            after: replica.fold.applied,
        };
        if self.refuses(state, append) && !unclear {
            // The tail is another one: nothing lands, and the leader reads on first.
            return None;
        }
        state.proposed += 1;
        self.send(state, node, append, unclear)
    }

    /// Whether the log does not take an append, because its tail is not the one that was expected.
    fn refuses(&self, state: &State, append: InFlight) -> bool {
        self.setup.bounds.expects_tail && usize::from(append.after) != state.log.len()
    }

    fn send(&self, state: &mut State, node: usize, append: InFlight, unclear: bool) -> Option<()> {
        if unclear {
            state.unknown += 1;
            state.late.insert(append);
            if self.breaks(Mutation::UnknownIsFailure) {
                state.failed.extend(append.record.command);
                return Some(());
            }
        } else {
            self.land(state, append, Some(node));
        }
        state.replicas[node].pending = Some(append);
        Some(())
    }

    /// The log takes an append, if its tail is the one that was expected.
    fn land(&self, state: &mut State, append: InFlight, sender: Option<usize>) {
        if !self.refuses(state, append) || self.breaks(Mutation::RepeatsWithoutExpectedTail) {
            state.log.push(append.record);
            let ignores_verdict = self.breaks(Mutation::AcknowledgesIgnored);
            if sender.is_some() && ignores_verdict {
                state.acknowledged.extend(append.record.command);
            }
        }
        if self.setup.bounds.expects_tail && !self.breaks(Mutation::RepeatsWithoutExpectedTail) {
            // Tails only grow: what expects an older one never lands.
            let last = state.log.len();
            state.late.retain(|late| usize::from(late.after) >= last);
        }
    }

    /// Appends again what is in doubt, once all there is was read and the record was not found.
    fn repeat(&self, state: &mut State, node: usize) -> Option<()> {
        let replica = &state.replicas[node];
        let append = replica.pending?;
        let (applied, last) = (usize::from(replica.fold.applied), state.log.len());
        if self.breaks(Mutation::RepeatsWithoutExpectedTail) {
            state.log.push(append.record);
            return Some(());
        }
        // A record that was sent at all may be repeated only in its own term.
        let still_own = replica.leads() || append.record.command.is_none();
        if applied != last || !still_own {
            return None;
        }
        let again = InFlight {
            after: replica.fold.applied,
            ..append
        };
        state.replicas[node].pending = Some(again);
        self.land(state, again, Some(node));
        Some(())
    }

    fn apply_next(&self, state: &mut State, node: usize) -> Option<()> {
        let replica = &mut state.replicas[node];
        let written = *state.log.get(usize::from(replica.fold.applied))?;
        let accepted = self.apply(&mut replica.fold, &written);
        let at = replica.fold.applied;
        let Some(pending) = replica.pending else {
            return Some(());
        };
        if pending.record == written {
            replica.pending = None;
            if accepted || self.breaks(Mutation::AcknowledgesIgnored) {
                state.acknowledged.extend(written.command);
            }
        } else if self.breaks(Mutation::AcknowledgesByPosition) && at == pending.after + 1 {
            replica.pending = None;
            state.acknowledged.extend(pending.record.command);
        } else if replica
            .fold
            .leader
            .is_some_and(|leader| leader.0 >= pending.record.term.0 && leader != pending.record.term)
        {
            // Its term is over: records of it are ignored wherever they land.
            replica.pending = None;
            state.failed.extend(pending.record.command);
        }
        Some(())
    }

    /// What a replica finds on its disk that had made the first `durable` records safe.
    fn recovered(&self, state: &State, durable: u8) -> Fold {
        let mut fold = Fold::default();
        for written in state.log.iter().take(usize::from(durable)) {
            self.apply(&mut fold, written);
        }
        if self.breaks(Mutation::PersistsWithoutLeader) {
            fold.leader = None;
        }
        fold
    }

    fn publish(&self, state: &mut State, node: usize) -> Option<()> {
        let mut fold = state.replicas[node].fold.clone();
        let current = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.applied);
        if fold.applied <= current {
            return None;
        }
        if self.breaks(Mutation::SnapshotWithoutLeader) {
            fold.leader = None;
        }
        state.trim = fold.applied;
        state.snapshot = Some(fold);
        Some(())
    }
}

impl Replica {
    /// Whether its own announcement is in force by what it applied.
    fn leads(&self) -> bool {
        self.own.is_some() && self.fold.leader == self.own
    }
}
