//! What the store does with puts.

use super::{Archive, setup::Mutation, state::State};
use crate::product::{Certified, Entry, Latest};

impl Archive {
    /// The pointer that a publisher writes over what it read.
    pub(super) fn next_latest(
        &self,
        current: Option<&Latest>,
        certificate: Option<&Certified>,
        entry: Entry,
    ) -> Latest {
        let kept_for = certificate.filter(|_| !self.breaks(Mutation::EvictsBeforeCertification));
        let mut entries = self
            .product
            .retained(current, entry, kept_for, self.setup.restorable_min);
        if self.breaks(Mutation::RetriesWithoutComparing) {
            // Whoever does not compare takes its own snapshot for the newest.
            entries.retain(|other| *other != entry);
            entries.insert(0, entry);
            entries.truncate(usize::from(self.setup.restorable_min));
        }
        let mut history = vec![entry.id];
        history.extend(
            current
                .into_iter()
                .flat_map(|latest| latest.history.iter().copied()),
        );
        Latest {
            version: 0,
            foreign: false,
            entries,
            history,
        }
    }

    /// Puts the pointer if its version is still `expected`; returns whether it did.
    pub(super) fn put_latest(&self, state: &mut State, expected: u8, mut latest: Latest) -> bool {
        if state.latest_version() != expected && !self.breaks(Mutation::PutsPointerBlindly) {
            return false;
        }
        state.versions.0 += 1;
        latest.version = state.versions.0;
        state.highest = state.highest.max(latest.position());
        state.latest = Some(latest);
        if !self.breaks(Mutation::PutsPointerBlindly) {
            // Nobody can land any more who asked for another version: versions are never used twice.
            let now = state.latest_version();
            let may_go = state.spent.pointer_losses < self.setup.bounds.pointer_losses;
            state
                .late_latest
                .retain(|(expected, _)| *expected == now || (*expected == 0 && may_go));
        }
        true
    }

    /// Puts the certificate if its version is still `expected`; returns whether it did.
    pub(super) fn put_certificate(
        &self,
        state: &mut State,
        expected: u8,
        mut certificate: Certified,
    ) -> bool {
        if state.certificate_version() != expected && !self.breaks(Mutation::PutsCertificateBlindly) {
            return false;
        }
        state.versions.1 += 1;
        certificate.version = state.versions.1;
        state.highest_certified = state.highest_certified.max((certificate.inc, certificate.up_to));
        state.certificate = Some(certificate);
        if !self.breaks(Mutation::PutsCertificateBlindly) {
            let now = state.certificate_version();
            state.late_certificates.retain(|(expected, _)| *expected == now);
        }
        true
    }
}
