//! What a worker does: follow its log, export, publish, restore.

use super::Step;
use crate::{
    archive::{
        Archive,
        setup::Mutation,
        state::{Directory, Local, Phase, State, Upload},
    },
    product::{Entry, Latest, Next, may_replay_from_first, next_step},
};
use snapshot_store::core::ReplaceRefusal;

impl Archive {
    pub(in crate::archive) fn worker_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let bounds = &self.setup.bounds;
        if state.log.last < bounds.records {
            steps.push(Step::Append);
        }
        for (number, worker) in state.workers.iter().enumerate() {
            // Workers are alike, and sorted: what an equal neighbour does is done.
            if number > 0 && *worker == state.workers[number - 1] {
                continue;
            }
            steps.push(Step::Follow(number));
            if bounds.flushes && worker.local.is_some_and(|local| local.durable < local.applied) {
                steps.push(Step::Flush(number));
            }
            match &worker.phase {
                Phase::Idle => {
                    if state.spent.attempts < bounds.attempts {
                        steps.push(Step::Export(number));
                        if state.spent.rotten < bounds.rotten {
                            steps.push(Step::ExportRotten(number));
                        }
                    }
                }
                Phase::Uploading { .. } => steps.push(Step::FinishUpload(number)),
                Phase::Uploaded { .. } => steps.push(Step::ReadPointer(number)),
                Phase::Swapping { .. } => {
                    steps.push(Step::Swap(number));
                    if state.spent.unclear_swaps < bounds.unclear_swaps {
                        steps.push(Step::SwapUnclear(number));
                    }
                }
                Phase::Restoring { .. } => steps.push(Step::Restore(number)),
            }
        }
    }

    /// One look at the log, by `next_step`.
    pub(super) fn follow(&self, state: &mut State, number: usize) -> Option<()> {
        let log = state.log;
        let local = state.workers[number].local;
        let next = next_step(local.map(|local| (local.inc, local.applied)), log);
        let candidates = match next {
            Next::Restore => self.candidates(state, local.map(|local| local.applied)),
            Next::Compare | Next::ReadOn | Next::SetAside | Next::Blocked => Vec::new(),
        };
        let worker = &mut state.workers[number];
        match next {
            Next::Compare | Next::ReadOn => {
                let local = worker.local.as_mut()?;
                if local.applied >= log.last {
                    return None;
                }
                local.applied += 1;
                if !self.setup.bounds.flushes {
                    local.durable = local.applied;
                }
            }
            Next::Restore => {
                if self.breaks(Mutation::SkipsTrimGap) && log.trim > 0 {
                    worker.local = Some(Local {
                        inc: log.inc,
                        applied: log.trim,
                        durable: log.trim,
                        sound: false,
                    });
                    return Some(());
                }
                if worker.phase != Phase::Idle {
                    return None;
                }
                match candidates.as_slice() {
                    [_, ..] => worker.phase = Phase::Restoring { candidates },
                    [] if worker.local.is_none() && may_replay_from_first(log) => {
                        worker.local = Some(Local {
                            inc: log.inc,
                            applied: 0,
                            durable: 0,
                            sound: true,
                        });
                    }
                    [] => return None,
                }
            }
            Next::SetAside => {
                worker.local = None;
                worker.intact = false;
                if matches!(worker.phase, Phase::Restoring { .. }) {
                    worker.phase = Phase::Idle;
                }
            }
            Next::Blocked => return None,
        }
        Some(())
    }

    /// What a restore tries, best first, by `restore_candidates`.
    pub(in crate::archive) fn candidates(&self, state: &State, applied: Option<u8>) -> Vec<Entry> {
        let ignored = self.breaks(Mutation::RestoresByThePointerAlone);
        let certificate = state.certificate.as_ref().filter(|_| !ignored);
        self.product
            .candidates(state.latest.as_ref(), certificate, state.log, applied)
    }

    /// Takes a checkpoint and begins an attempt, if the pointer does not cover it already.
    pub(super) fn export(&self, state: &mut State, number: usize, rotten: bool) -> Option<()> {
        let log = state.log;
        let local = state.workers[number].local.as_mut()?;
        if local.applied == 0 {
            return None;
        }
        local.durable = local.applied;
        let attempt = state.spent.attempts + 1;
        let entry = Entry {
            inc: local.inc,
            lsn: local.applied,
            id: match self.breaks(Mutation::ReusesAttemptId) {
                true => 50 + local.applied,
                false => attempt,
            },
        };
        let trim = if local.inc == log.inc { log.trim } else { 0 };
        let upload = Upload {
            entry,
            attempt,
            rotten,
            trim,
        };
        self.may_publish(state.latest.as_ref(), &upload, state.certificate.as_ref())
            .ok()?;
        state.spent.attempts = attempt;
        state.spent.rotten += u8::from(rotten);
        let earlier = state.directory(entry.id).and_then(|earlier| earlier.manifest_of);
        state.remove_directory(entry.id);
        if self.breaks(Mutation::PublishesBeforeUpload) {
            state.workers[number].phase = Phase::Uploaded {
                upload,
                unclear: false,
            };
            return Some(());
        }
        state.directories.push(Directory {
            entry,
            data_of: attempt,
            manifest_of: earlier,
            rotten,
            foreign: false,
        });
        state.workers[number].phase = Phase::Uploading { upload };
        Some(())
    }

    /// `may_replace_pointer`, as the publisher asks it.
    fn may_publish(
        &self,
        latest: Option<&Latest>,
        upload: &Upload,
        certificate: Option<&crate::product::Certified>,
    ) -> Result<(), ReplaceRefusal> {
        let (certificate, trimmed) = match self.breaks(Mutation::ForgetsTheFloor) {
            true => (None, None),
            false => (certificate, Some((upload.entry.inc, upload.trim))),
        };
        self.product
            .may_replace(latest, upload.entry, certificate, trimmed)
    }

    pub(super) fn finish_upload(&self, state: &mut State, number: usize) -> Option<()> {
        let Phase::Uploading { upload } = state.workers[number].phase else {
            return None;
        };
        let place = state
            .directories
            .iter_mut()
            .find(|directory| directory.entry.id == upload.entry.id);
        match place {
            Some(directory) => directory.manifest_of = Some(upload.attempt),
            // Somebody deleted the files meanwhile: the check before the swap finds it.
            None => {
                state.workers[number].phase = Phase::Idle;
                return Some(());
            }
        }
        if self.breaks(Mutation::ReportsBeforePointer) {
            self.claim(state, upload.entry);
        }
        state.workers[number].phase = Phase::Uploaded {
            upload,
            unclear: false,
        };
        Some(())
    }

    /// A worker reports that all up to here is archived. Only rules that listen to it keep it in mind.
    fn claim(&self, state: &mut State, entry: Entry) {
        if self.setup.trims_by_claim() {
            state.claims.insert((entry.inc, entry.lsn));
        }
    }

    /// Reads certificate and pointer, and decides on what was read.
    pub(super) fn read_pointer(&self, state: &mut State, number: usize) -> Option<()> {
        let Phase::Uploaded { upload, unclear } = state.workers[number].phase else {
            return None;
        };
        let latest = state.latest.clone();
        let answer = self.may_publish(latest.as_ref(), &upload, state.certificate.as_ref());
        let go_on = match answer {
            Ok(()) => true,
            Err(ReplaceRefusal::AlreadyPublished) => {
                self.claim(state, upload.entry);
                false
            }
            Err(ReplaceRefusal::Superseded { .. }) => self.breaks(Mutation::RetriesWithoutComparing),
            Err(ReplaceRefusal::NewerIncarnation { .. } | ReplaceRefusal::BelowFloor { .. }) => {
                self.breaks(Mutation::RetriesWithoutComparing)
            }
            Err(_) => false,
        };
        if go_on && unclear && self.breaks(Mutation::DeletesOwnAfterReadingAgain) {
            state.remove_directory(upload.entry.id);
            state.workers[number].phase = Phase::Idle;
            return Some(());
        }
        state.workers[number].phase = match go_on {
            true => Phase::Swapping {
                upload,
                latest,
                certificate: state.certificate.clone(),
            },
            false => Phase::Idle,
        };
        Some(())
    }

    pub(super) fn swap(&self, state: &mut State, number: usize) -> Option<()> {
        let Phase::Swapping {
            upload,
            latest,
            certificate,
        } = state.workers[number].phase.clone()
        else {
            return None;
        };
        let expected = latest.as_ref().map_or(0, |latest| latest.version);
        let next = self.next_latest(latest.as_ref(), certificate.as_ref(), upload.entry);
        let certified = certificate.iter().flat_map(|known| &known.entries);
        let retained = |entry: &&Entry| latest.as_ref().is_some_and(|read| read.entries.contains(entry));
        let evicts = certified
            .filter(retained)
            .any(|entry| !next.entries.contains(entry));
        let swapped = self.put_latest(state, expected, next);
        state.evicted_knowingly |= swapped && evicts;
        let done = swapped || self.breaks(Mutation::ReportsAfterLostRace);
        if done {
            self.claim(state, upload.entry);
        }
        state.workers[number].phase = match done {
            true if self.breaks(Mutation::PublishesBeforeUpload) => {
                state.directories.push(Directory {
                    entry: upload.entry,
                    data_of: upload.attempt,
                    manifest_of: None,
                    rotten: upload.rotten,
                    foreign: false,
                });
                Phase::Uploading { upload }
            }
            true => Phase::Idle,
            false => Phase::Uploaded {
                upload,
                unclear: false,
            },
        };
        Some(())
    }

    /// The put may land later; the publisher reads again.
    pub(super) fn swap_unclear(&self, state: &mut State, number: usize) -> Option<()> {
        let Phase::Swapping {
            upload,
            latest,
            certificate,
        } = state.workers[number].phase.clone()
        else {
            return None;
        };
        state.spent.unclear_swaps += 1;
        let expected = latest.as_ref().map_or(0, |latest| latest.version);
        let next = self.next_latest(latest.as_ref(), certificate.as_ref(), upload.entry);
        if expected == state.latest_version() || self.breaks(Mutation::PutsPointerBlindly) {
            state.late_latest.insert((expected, next));
        }
        state.workers[number].phase = Phase::Uploaded {
            upload,
            unclear: true,
        };
        if self.breaks(Mutation::DeletesOwnAtOnce) {
            state.remove_directory(upload.entry.id);
            state.workers[number].phase = Phase::Idle;
        }
        Some(())
    }

    /// Tries the best candidate; the local state goes only when all of it was verified.
    pub(super) fn restore(&self, state: &mut State, number: usize) -> Option<()> {
        let Phase::Restoring { candidates } = state.workers[number].phase.clone() else {
            return None;
        };
        let (entry, rest) = candidates.split_first()?;
        let found = state.directory(entry.id).copied().filter(Directory::is_complete);
        let usable = found.filter(|found| !found.rotten || self.breaks(Mutation::RestoresUnverified));
        let worker = &mut state.workers[number];
        worker.phase = match usable {
            Some(directory) => {
                worker.local = Some(Local {
                    inc: entry.inc,
                    applied: entry.lsn,
                    durable: entry.lsn,
                    sound: directory.is_sound(),
                });
                Phase::Idle
            }
            // None left: pointer and certificate are read again at the next look.
            None if rest.is_empty() => Phase::Idle,
            None => Phase::Restoring {
                candidates: rest.to_vec(),
            },
        };
        Some(())
    }
}
