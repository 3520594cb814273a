//! What can happen next, and what it does.

mod admin;
mod fault;
mod worker;

use super::{Archive, state::State};
use crate::product::Certified;

/// One step. Workers, admins and directories are named by their place in the state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// The leader's append.
    Append,
    /// A worker looks at its log: applies a record, or does what is needed before it can.
    Follow(usize),
    /// It makes applied records durable.
    Flush(usize),
    /// It begins an attempt.
    Export(usize),
    /// The same, with content that is wrong from birth.
    ExportRotten(usize),
    /// All of its files are there.
    FinishUpload(usize),
    /// It reads certificate and pointer, and decides.
    ReadPointer(usize),
    /// It swaps the pointer and learns what came of it.
    Swap(usize),
    /// It tries to, and learns nothing; the put may land later.
    SwapUnclear(usize),
    /// It downloads the best candidate.
    Restore(usize),
    /// An admin reads everything, and decides.
    Look(usize),
    /// It writes its certificate.
    Certify(usize),
    /// It tries to, and learns nothing.
    CertifyUnclear(usize),
    /// The log executes its trim.
    Trim(usize),
    /// A sweep decides about a directory.
    Doom(u8),
    /// The store deletes what was doomed.
    Delete,
    /// A put without an answer takes effect.
    LandPointer(usize),
    /// The same for the certificate.
    LandCertificate(usize),
    /// A worker's process ends.
    Crash(usize),
    /// A worker loses its disk.
    LoseDisk(usize),
    /// The store loses a snapshot.
    LoseSnapshot(u8),
    /// The store loses the pointer.
    LosePointer,
    /// The log is created anew.
    Recreate,
}

impl Archive {
    /// Does `step`; `None` when it changes nothing.
    pub(super) fn take(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Append => state.log.last += 1,
            Step::Follow(worker) => return self.follow(state, worker),
            Step::Flush(worker) => {
                let local = state.workers[worker].local.as_mut()?;
                local.durable = local.applied;
            }
            Step::Export(worker) => return self.export(state, worker, false),
            Step::ExportRotten(worker) => return self.export(state, worker, true),
            Step::FinishUpload(worker) => return self.finish_upload(state, worker),
            Step::ReadPointer(worker) => return self.read_pointer(state, worker),
            Step::Swap(worker) => return self.swap(state, worker),
            Step::SwapUnclear(worker) => return self.swap_unclear(state, worker),
            Step::Restore(worker) => return self.restore(state, worker),
            Step::Look(admin) => return self.look(state, admin),
            Step::Certify(admin) => return self.certify(state, admin),
            Step::CertifyUnclear(admin) => return self.certify_unclear(state, admin),
            Step::Trim(admin) => return self.trim(state, admin),
            Step::Doom(id) => return self.doom(state, id),
            Step::Delete => {
                let id = state.doomed.take()?;
                state.remove_directory(id);
            }
            Step::LandPointer(place) => {
                let (expected, latest) = state.late_latest.iter().nth(place)?.clone();
                state.late_latest.remove(&(expected, latest.clone()));
                self.put_latest(state, expected, latest);
            }
            Step::LandCertificate(place) => {
                let (expected, certificate): (u8, Certified) =
                    state.late_certificates.iter().nth(place)?.clone();
                state.late_certificates.remove(&(expected, certificate.clone()));
                self.put_certificate(state, expected, certificate);
            }
            Step::Crash(worker) => self.crash(state, worker),
            Step::LoseDisk(worker) => self.lose_disk(state, worker),
            Step::LoseSnapshot(id) => {
                state.spent.snapshot_losses += 1;
                state.lost.insert(id);
                state.remove_directory(id);
            }
            Step::LosePointer => {
                state.spent.pointer_losses += 1;
                state.latest = None;
                // What a new pointer must not fall below is what was trimmed or certified, not what the old one said.
                state.highest = state.highest_certified.max((state.log.inc, state.log.trim));
            }
            Step::Recreate => self.recreate(state),
        }
        Some(())
    }
}
