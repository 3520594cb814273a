//! Whether a snapshot directory may be deleted.

use crate::{
    format::{Certificate, Pointer, SnapshotDirectory},
    vocabulary::Lsn,
};

/// Why a directory stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepReason {
    /// Without a pointer nothing is known to be superseded.
    NoPointer,
    /// Without a certificate nothing is deleted.
    NoCertificate,
    /// Pointer and certificate do not speak of the same log.
    Inconsistent,
    /// The pointer retains it.
    Retained,
    /// The certificate rests on it.
    Certified,
    /// It is of another generation: only an explicit command deletes those.
    OtherGeneration,
    /// It may still become the pointer: an upload in progress looks like this.
    NotBelowPointer,
    /// It is not below the certificate's `up_to`.
    NotBelowCertificate,
    /// It is not below the oldest snapshot the certificate names.
    NotBelowCertified,
}

impl KeepReason {
    /// Returns the word used in metrics, status and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeepReason::NoPointer => "no-pointer",
            KeepReason::NoCertificate => "no-certificate",
            KeepReason::Inconsistent => "inconsistent",
            KeepReason::Retained => "retained",
            KeepReason::Certified => "certified",
            KeepReason::OtherGeneration => "other-generation",
            KeepReason::NotBelowPointer => "not-below-pointer",
            KeepReason::NotBelowCertificate => "not-below-certificate",
            KeepReason::NotBelowCertified => "not-below-certified",
        }
    }
}

/// Decides whether the snapshot or unfinished upload in `directory` may be deleted, given pointer and certificate
/// as just read. No clock takes part.
///
/// "Not referenced" alone is the state of an upload in progress; only what can never become the pointer any more,
/// and what no trimmed record depends on, may go.
///
/// # Errors
/// The reason why it stays.
pub fn may_delete(
    directory: &SnapshotDirectory,
    pointer: Option<&Pointer>,
    certificate: Option<&Certificate>,
) -> Result<(), KeepReason> {
    let latest = pointer.and_then(Pointer::latest).ok_or(KeepReason::NoPointer)?;
    let pointer = pointer.ok_or(KeepReason::NoPointer)?;
    let certificate = certificate.ok_or(KeepReason::NoCertificate)?;
    let oldest_certified = certificate.oldest_lsn().ok_or(KeepReason::NoCertificate)?;

    if pointer.cluster.fingerprint != certificate.cluster.fingerprint
        || pointer.partition != certificate.partition
        || latest.incarnation != certificate.incarnation
    {
        return Err(KeepReason::Inconsistent);
    }
    if pointer
        .snapshots
        .iter()
        .any(|entry| entry.snapshot_id == directory.snapshot_id)
    {
        return Err(KeepReason::Retained);
    }
    if certificate.names(directory.snapshot_id) {
        return Err(KeepReason::Certified);
    }
    if directory.generation != latest.incarnation.generation {
        return Err(KeepReason::OtherGeneration);
    }
    let below = |bound: Lsn, reason| {
        if directory.lsn < bound {
            Ok(())
        } else {
            Err(reason)
        }
    };
    below(latest.lsn, KeepReason::NotBelowPointer)?;
    below(certificate.up_to, KeepReason::NotBelowCertificate)?;
    below(oldest_certified, KeepReason::NotBelowCertified)
}
