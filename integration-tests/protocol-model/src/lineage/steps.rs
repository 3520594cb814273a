//! What can happen in the lineage model.

use super::{Life, Lineage, Local, Mutation, State};
use crate::product::{Certified, Checked, Entry, Latest, Next, may_replay_from_first, next_step};

/// One step; replicas are named by their place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A leader that has read everything appends.
    Append,
    /// A connected replica applies the next record.
    Apply(usize),
    /// A replica looks at the log, and goes on, restores, sets its state aside, or waits.
    Connect(usize),
    /// A replica's state becomes the latest snapshot; also that of a replica nobody hears of any more.
    Publish(usize),
    /// The admin certifies and trims.
    Trim,
    LoseDisk(usize),
    /// The log loses its newest record. Its readers are cut off.
    Regress,
    /// The log is gone, with its registry.
    LoseLog,
    /// An operator forks the snapshot at this place of the pointer into the next generation.
    Fork(usize),
}

impl Lineage {
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let bounds = &self.setup.bounds;
        steps.push(Step::Append);
        for (number, replica) in state.replicas.iter().enumerate() {
            match replica.connected {
                true => steps.push(Step::Apply(number)),
                false => steps.push(Step::Connect(number)),
            }
            if state.tips.len() < usize::from(bounds.snapshots) {
                steps.push(Step::Publish(number));
            }
            if state.disk_losses < bounds.disk_losses {
                steps.push(Step::LoseDisk(number));
            }
        }
        steps.push(Step::Trim);
        if state.regressions < bounds.regressions {
            steps.push(Step::Regress);
        }
        if state.log_losses < bounds.log_losses && state.log.is_some() {
            steps.push(Step::LoseLog);
        }
        // An operator forks where the log is gone, or known to have regressed.
        if (state.log.is_none() || state.noticed) && state.tips.len() < usize::from(bounds.snapshots) {
            let entries = state.latest.as_ref().map_or(0, |latest| latest.entries.len());
            steps.extend((0..entries).map(Step::Fork));
        }
    }

    pub(super) fn take(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Append => self.append(state),
            Step::Apply(number) => apply(state, number),
            Step::Connect(number) => self.connect(state, number),
            Step::Publish(number) => self.publish(state, number),
            Step::Trim => self.trim(state),
            Step::LoseDisk(number) => {
                state.disk_losses += 1;
                state.replicas[number].local = None;
                state.replicas[number].connected = false;
                Some(())
            }
            Step::Regress => {
                let log = state.log.as_mut()?;
                if log.last() <= log.trim {
                    return None;
                }
                log.records.pop();
                state.regressions += 1;
                state.regressed = true;
                cut_off(state);
                Some(())
            }
            Step::LoseLog => {
                state.log_losses += 1;
                state.log = None;
                cut_off(state);
                let inc = match self.setup.mutation {
                    Some(Mutation::ProvisionsLostLogAnew) => state.inc,
                    Some(Mutation::ProvisionsEmptyNextGeneration) => state.inc + 1,
                    _ => return Some(()),
                };
                state.inc = inc;
                state.log = Some(Life {
                    inc,
                    base: 0,
                    records: Vec::new(),
                    trim: 0,
                });
                Some(())
            }
            Step::Fork(place) => self.fork(state, place),
        }
    }

    fn append(&self, state: &mut State) -> Option<()> {
        if state.parents.len() >= usize::from(self.setup.bounds.records) {
            return None;
        }
        let above = evidence(state);
        let log = state.log.as_mut()?;
        let at = (log.inc, log.last());
        let leads = |local: &Local| (local.inc, local.applied) == at;
        let mut connected = state.replicas.iter().filter(|replica| replica.connected);
        let leader = connected.find_map(|replica| replica.local.filter(leads))?;
        if (above || state.noticed) && !self.breaks(Mutation::ForgetsRegression) {
            return None;
        }
        state.parents.push(leader.tip);
        log.records.push(u8::try_from(state.parents.len()).ok()?);
        Some(())
    }

    fn connect(&self, state: &mut State, number: usize) -> Option<()> {
        let log = state.log.clone()?;
        let local = state.replicas[number].local;
        let asked = match self.breaks(Mutation::TakesStateOfAnyIncarnation) {
            true => local.map(|local| Local {
                inc: log.inc,
                ..local
            }),
            false => local,
        };
        match next_step(asked.map(|local| (local.inc, local.applied)), log.view()) {
            Next::Compare | Next::ReadOn if asked?.applied > log.last() => {
                // The reader is told that the log ends below what it asks for.
                state.noticed = true;
                state.regressed = true;
                return Some(());
            }
            Next::Compare => {
                let local = asked?;
                let same = log.at(local.applied) == Some(local.tip);
                if !same && !self.breaks(Mutation::DoesNotCompareAtStart) {
                    return None;
                }
                state.replicas[number].local = Some(local);
            }
            Next::ReadOn => state.replicas[number].local = asked,
            Next::Restore => return self.restore(state, number, &log),
            Next::SetAside => {
                state.replicas[number].local = None;
                return Some(());
            }
            Next::Blocked => return None,
        }
        state.replicas[number].connected = true;
        Some(())
    }

    fn restore(&self, state: &mut State, number: usize, log: &Life) -> Option<()> {
        let applied = state.replicas[number].local.map(|local| local.applied);
        let latest = state.latest.clone();
        let best = match latest {
            Some(latest) if self.breaks(Mutation::RestoresNewestOfAnyIncarnation) => {
                latest.entries.iter().copied().max_by_key(|entry| entry.lsn)
            }
            Some(latest) => self
                .product
                .candidates(Some(&latest), None, log.view(), applied)
                .first()
                .copied(),
            None => None,
        };
        let (applied, tip) = match best {
            Some(entry) => (entry.lsn, state.tip_of(entry)),
            None if applied.is_none() && may_replay_from_first(log.view()) => (0, 0),
            None => return None,
        };
        state.replicas[number].local = Some(Local {
            inc: log.inc,
            applied,
            tip,
        });
        Some(())
    }

    fn publish(&self, state: &mut State, number: usize) -> Option<()> {
        let local = state.replicas[number].local.filter(|local| local.applied > 0)?;
        // A replica that is cut off exports nothing; what it began before a regression is assumed not to finish.
        if state.regressed && !state.replicas[number].connected {
            return None;
        }
        // Under the hold nothing of this log is published.
        let held = state.noticed && local.inc == state.inc && !self.breaks(Mutation::ForgetsRegression);
        if held {
            return None;
        }
        let inc = match self.breaks(Mutation::LabelsWithTheLogsIncarnation) {
            true => state.log.as_ref()?.inc,
            false => local.inc,
        };
        let id = u8::try_from(state.tips.len()).ok()? + 1;
        let entry = Entry {
            inc,
            lsn: local.applied,
            id,
        };
        self.replace(state, entry, local.tip)
    }

    /// Swaps the pointer, if `may_replace_pointer` allows it.
    fn replace(&self, state: &mut State, entry: Entry, tip: u8) -> Option<()> {
        let (latest, certificate) = (state.latest.as_ref(), state.certificate.as_ref());
        self.product.may_replace(latest, entry, certificate, None).ok()?;
        let entries = self.product.retained(latest, entry, certificate, 2);
        if let Some(old) = latest.and_then(|latest| latest.entries.first()) {
            state.displaced |= !state.contains(tip, state.tip_of(*old));
        }
        state.tips.push(tip);
        let latest = Latest {
            version: entry.id,
            foreign: false,
            history: entries.iter().map(|entry| entry.id).collect(),
            entries,
        };
        state.highest = state.highest.max(latest.position());
        state.latest = Some(latest);
        Some(())
    }

    /// Certifies and trims; two admins and late trims are the archive model's matter.
    fn trim(&self, state: &mut State) -> Option<()> {
        let log = state.log.clone()?;
        if state.regressed && !self.breaks(Mutation::ForgetsRegression) {
            return None;
        }
        let checked = |_| Some(Checked::Sound);
        let needs = state.replicas.iter().map(|replica| {
            let local = replica.local.filter(|local| local.inc == log.inc);
            local.map(|local| local.applied)
        });
        let (latest, certificate) = (state.latest.as_ref(), state.certificate.as_ref());
        let grant = self
            .product
            .trim_up_to(log.view(), latest, certificate, &checked, needs, 1)?;
        state.certificate = Some(Certified {
            version: 0,
            inc: grant.inc,
            up_to: grant.up_to,
            entries: grant.entries,
        });
        state.log.as_mut()?.trim = grant.up_to;
        Some(())
    }

    /// Copies a snapshot into the next generation, publishes it, and only then provisions the log after it.
    fn fork(&self, state: &mut State, place: usize) -> Option<()> {
        let origin = *state.latest.as_ref()?.entries.get(place)?;
        let tip = state.tip_of(origin);
        let inc = state.inc + 1;
        let id = u8::try_from(state.tips.len()).ok()? + 1;
        let displaced = state.displaced;
        self.replace(
            state,
            Entry {
                inc,
                lsn: origin.lsn,
                id,
            },
            tip,
        )?;
        // The operator was told which records are lost, and has agreed.
        state.displaced = displaced;
        state.inc = inc;
        state.log = Some(Life {
            inc,
            base: origin.lsn,
            records: Vec::new(),
            trim: origin.lsn,
        });
        state.noticed = false;
        state.regressed = false;
        state.forks += 1;
        cut_off(state);
        Some(())
    }
}

fn apply(state: &mut State, number: usize) -> Option<()> {
    let log = state.log.as_ref()?;
    let local = state.replicas[number].local.as_mut()?;
    if local.applied < log.trim {
        // The reader is told of the gap, and looks again.
        state.replicas[number].connected = false;
        return Some(());
    }
    let record = log.at(local.applied + 1)?;
    state.mixed |= state.parents[usize::from(record - 1)] != local.tip;
    local.applied += 1;
    local.tip = record;
    Some(())
}

fn cut_off(state: &mut State) {
    for replica in &mut state.replicas {
        replica.connected = false;
    }
}

/// Whether the pointer shows that the log has lost records.
fn evidence(state: &State) -> bool {
    let Some(log) = state.log.as_ref() else {
        return false;
    };
    let mut named = state.latest.iter().flat_map(|latest| &latest.entries);
    named.any(|entry| entry.inc == log.inc && entry.lsn > log.last())
}
