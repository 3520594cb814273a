//! What goes wrong, each within its budget.

use super::Step;
use crate::{
    archive::{
        Archive,
        state::{Local, Phase, State, Worker},
    },
    product::LogView,
};

impl Archive {
    pub(in crate::archive) fn faults(&self, state: &State, steps: &mut Vec<Step>) {
        let (bounds, spent) = (&self.setup.bounds, &state.spent);
        steps.extend((0..state.late_latest.len()).map(Step::LandPointer));
        steps.extend((0..state.late_certificates.len()).map(Step::LandCertificate));
        for (number, worker) in state.workers.iter().enumerate() {
            if number > 0 && *worker == state.workers[number - 1] {
                continue;
            }
            if spent.crashes < bounds.crashes {
                steps.push(Step::Crash(number));
            }
            if spent.disk_losses < bounds.disk_losses && worker.local.is_some() {
                steps.push(Step::LoseDisk(number));
            }
        }
        if spent.snapshot_losses < bounds.snapshot_losses {
            let complete = state.directories.iter().filter(|found| found.is_complete());
            steps.extend(complete.map(|found| Step::LoseSnapshot(found.entry.id)));
        }
        // A publisher that found no pointer cannot tell one that went from one that never was.
        let found_none = |worker: &Worker| matches!(worker.phase, Phase::Swapping { latest: None, .. });
        let in_flight = state.workers.iter().any(found_none)
            || state.late_latest.iter().any(|(expected, _)| *expected == 0);
        if spent.pointer_losses < bounds.pointer_losses && state.latest.is_some() && !in_flight {
            steps.push(Step::LosePointer);
        }
        if spent.recreations < bounds.recreations && state.log.last > 0 {
            steps.push(Step::Recreate);
        }
    }

    pub(super) fn crash(&self, state: &mut State, number: usize) {
        state.spent.crashes += 1;
        let worker = &mut state.workers[number];
        worker.phase = Phase::Idle;
        if let Some(local) = worker.local.as_mut() {
            local.applied = local.durable;
        }
    }

    pub(super) fn lose_disk(&self, state: &mut State, number: usize) {
        state.spent.disk_losses += 1;
        let worker = &mut state.workers[number];
        worker.local = None;
        worker.intact = false;
        worker.phase = Phase::Idle;
    }

    /// The log begins again under the next generation. What is on its way for the old one stays on its way.
    pub(super) fn recreate(&self, state: &mut State) {
        state.spent.recreations += 1;
        state.log = LogView {
            inc: state.log.inc + 1,
            base: 0,
            last: 0,
            trim: 0,
        };
        // A wiped or replaced machine begins with the new log; the others still have the old state.
        if let Some(worker) = state.workers.first_mut() {
            worker.intact = false;
            worker.local = Some(Local {
                inc: state.log.inc,
                applied: 0,
                durable: 0,
                sound: true,
            });
        }
    }
}
