//! What an admin does: look and decide, certify, trim, sweep.

use super::Step;
use crate::{
    archive::{
        Archive,
        setup::Mutation,
        state::{Admin, State},
    },
    product::{Certified, Checked, Entry, Grant, LogView},
};

impl Archive {
    pub(in crate::archive) fn admin_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let bounds = &self.setup.bounds;
        for (number, admin) in state.admins.iter().enumerate() {
            if number > 0 && *admin == state.admins[number - 1] {
                continue;
            }
            match admin {
                Admin::Idle => steps.push(Step::Look(number)),
                Admin::Decided { .. } => {
                    steps.push(Step::Certify(number));
                    if state.spent.unclear_certificates < bounds.unclear_certificates {
                        steps.push(Step::CertifyUnclear(number));
                    }
                }
                Admin::Entitled { .. } => {
                    steps.push(Step::Trim(number));
                    steps.push(Step::Look(number));
                }
            }
        }
        if bounds.sweeps {
            match state.doomed {
                None => steps.extend(state.directories.iter().map(|found| Step::Doom(found.entry.id))),
                Some(_) => steps.push(Step::Delete),
            }
        }
    }

    /// Reads log, pointer and certificate afresh, looks at every snapshot that counts, and asks `trim_up_to`.
    pub(super) fn look(&self, state: &mut State, number: usize) -> Option<()> {
        let decided = match self.setup.mutation {
            _ if self.setup.trims_by_claim() => self.trim_by_claim(state)?,
            Some(Mutation::TrimsAtReplicas) => {
                let applied = state
                    .workers
                    .iter()
                    .map(|worker| worker.local.map_or(0, |l| l.applied));
                Admin::Entitled {
                    inc: state.log.inc,
                    up_to: applied.min()?,
                }
            }
            _ => self.decide(state)?,
        };
        let useless = match &decided {
            Admin::Entitled { up_to, .. } => *up_to <= state.log.trim,
            _ => false,
        };
        if useless || decided == state.admins[number] {
            return None;
        }
        state.admins[number] = decided;
        Some(())
    }

    fn decide(&self, state: &State) -> Option<Admin> {
        let grant = self.grant(state)?;
        let skips_certificate = self.breaks(Mutation::TrimsBeforeCertifying);
        Some(match grant.certified || skips_certificate {
            true => Admin::Entitled {
                inc: grant.inc,
                up_to: grant.up_to,
            },
            false => Admin::Decided {
                inc: grant.inc,
                up_to: grant.up_to,
                entries: grant.entries,
            },
        })
    }

    fn grant(&self, state: &State) -> Option<Grant> {
        let mut log = state.log;
        let mut latest = state.latest.clone();
        if let Some(latest) = latest.as_mut() {
            if self.breaks(Mutation::TrustsForeignPointer) {
                latest.foreign = false;
            }
            if self.breaks(Mutation::IgnoresIncarnationInTrim) {
                latest.entries.iter_mut().for_each(|entry| entry.inc = log.inc);
                // Nor does it hold for what lies above the tail: that is another rule.
                log.last = u8::MAX - 1;
            }
        }
        let checked = |entry: Entry| match state.directory(entry.id) {
            _ if self.breaks(Mutation::DoesNotCheckPresence) => Some(Checked::Sound),
            Some(directory) if directory.is_sound() => Some(Checked::Sound),
            _ => Some(Checked::Damaged),
        };
        let needs = state.workers.iter().map(|worker| {
            worker
                .local
                .map(|local| match self.breaks(Mutation::TrimsAtApplied) {
                    true => local.applied,
                    false => local.durable,
                })
        });
        let restorable_min = match self.setup.mutation {
            Some(Mutation::ReliesOnOneSnapshot) => 1,
            _ => self.setup.restorable_min,
        };
        let certificate = state.certificate.as_ref();
        let ask = |log: LogView, latest, min| {
            self.product
                .trim_up_to(log, latest, certificate, &checked, needs, min)
        };
        let mut grant = match self.setup.mutation {
            Some(Mutation::SkipsDamaged) => {
                // Damaged ones do not count, instead of holding: the guard may rest on fewer.
                if let Some(latest) = latest.as_mut() {
                    latest
                        .entries
                        .retain(|entry| checked(*entry) == Some(Checked::Sound));
                }
                let left = latest.as_ref().map_or(0, |latest| latest.entries.len() as u8);
                ask(log, latest.as_ref(), left.clamp(1, restorable_min))?
            }
            Some(Mutation::TrimsWithTooFew) => {
                let there = latest.as_ref().map_or(0, |latest| latest.entries.len() as u8);
                ask(log, latest.as_ref(), there.clamp(1, restorable_min))?
            }
            _ => ask(log, latest.as_ref(), restorable_min)?,
        };
        if self.breaks(Mutation::TrimsAtTheNewest) {
            grant.up_to = grant.entries.iter().map(|entry| entry.lsn).max()?;
        }
        Some(grant)
    }

    /// A status as the reason to trim: the highest claim of the log's incarnation.
    fn trim_by_claim(&self, state: &State) -> Option<Admin> {
        let claims = state.claims.iter().filter(|(inc, _)| *inc == state.log.inc);
        Some(Admin::Entitled {
            inc: state.log.inc,
            up_to: claims.map(|(_, lsn)| *lsn).max()?,
        })
    }

    /// Writes the certificate, only if `(generation, up_to)` grows.
    pub(super) fn certify(&self, state: &mut State, number: usize) -> Option<()> {
        let (expected, ours) = self.draft(state, number)?;
        let grows = self.certificate_grows(state, &ours);
        let written = grows && self.put_certificate(state, expected, ours.clone());
        let own = state.certificate.as_ref().is_some_and(|found| {
            (found.inc, found.up_to, &found.entries) == (ours.inc, ours.up_to, &ours.entries)
        });
        state.admins[number] = match written || own {
            true => Admin::Entitled {
                inc: ours.inc,
                up_to: ours.up_to,
            },
            false => Admin::Idle,
        };
        Some(())
    }

    /// The put may land later; the admin reads again, which is the same step once more.
    pub(super) fn certify_unclear(&self, state: &mut State, number: usize) -> Option<()> {
        let (expected, ours) = self.draft(state, number)?;
        if !self.certificate_grows(state, &ours) {
            return None;
        }
        state.spent.unclear_certificates += 1;
        state.late_certificates.insert((expected, ours));
        Some(())
    }

    fn draft(&self, state: &State, number: usize) -> Option<(u8, Certified)> {
        let Admin::Decided { inc, up_to, entries } = &state.admins[number] else {
            return None;
        };
        let ours = Certified {
            version: 0,
            inc: *inc,
            up_to: *up_to,
            entries: entries.clone(),
        };
        Some((state.certificate_version(), ours))
    }

    fn certificate_grows(&self, state: &State, ours: &Certified) -> bool {
        let found = state.certificate.as_ref().map(|found| (found.inc, found.up_to));
        found.is_none_or(|found| found < (ours.inc, ours.up_to))
            || self.breaks(Mutation::PutsCertificateBlindly)
    }

    /// The log executes a decided trim: inclusive, monotone, clamped to the tail, only for that incarnation.
    pub(super) fn trim(&self, state: &mut State, number: usize) -> Option<()> {
        let Admin::Entitled { inc, up_to } = state.admins[number] else {
            return None;
        };
        if inc != state.log.inc && !self.breaks(Mutation::TrimsAnyIncarnation) {
            return None;
        }
        let before = state.log.trim;
        state.log.trim = before.max(up_to.min(state.log.last));
        (state.log.trim != before).then_some(())
    }

    /// A sweep decides, on a fresh read, that a directory may go.
    pub(super) fn doom(&self, state: &mut State, id: u8) -> Option<()> {
        let mut entry = state.directory(id)?.entry;
        let latest = state.latest.as_ref();
        let named = latest.is_some_and(|latest| latest.entries.iter().any(|entry| entry.id == id));
        let may_go = match self.setup.mutation {
            Some(Mutation::DeletesUnreferenced) => !named,
            Some(Mutation::DeletesCertified) => {
                !named && latest.is_some_and(|latest| (entry.inc, entry.lsn) < latest.position())
            }
            Some(Mutation::DeletesWithoutIncarnation) => {
                // As if the directory's name did not say of which log it is: LSNs are all there is to compare.
                entry.inc = latest.map_or(entry.inc, |latest| latest.position().0);
                !named && latest.is_some_and(|latest| entry.lsn < latest.position().1)
            }
            _ => self.product.may_delete(entry, latest, state.certificate.as_ref()),
        };
        may_go.then(|| state.doomed = Some(id))
    }
}
