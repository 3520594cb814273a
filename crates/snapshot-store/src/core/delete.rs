//! Whether a snapshot directory may be deleted.

use crate::{
    format::{Certificate, Pointer, PointerEntry, SnapshotDirectory},
    vocabulary::{ClusterIdentity, Lsn, PartitionId},
};

macro_rules! keep_reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal, $words:literal;)*) => {
        /// Why a directory stays.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum KeepReason { $($(#[$doc])* $variant,)* }

        impl KeepReason {
            /// Every reason.
            pub const ALL: &[KeepReason] = &[$(KeepReason::$variant,)*];

            /// Returns the word used in metrics, status and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(KeepReason::$variant => $label,)* }
            }

            /// Returns the reason in words.
            pub const fn in_words(self) -> &'static str {
                match self { $(KeepReason::$variant => $words,)* }
            }
        }
    };
}

keep_reasons! {
    /// Without a pointer nothing is known to be superseded.
    NoPointer = "no-pointer", "there is no pointer, so nothing is known to be superseded";
    /// Without a certificate nothing is deleted.
    NoCertificate = "no-certificate", "there is no certificate: the log was not trimmed yet, and nothing is deleted before";
    /// Pointer and certificate do not speak of this partition of this cluster, or not of the same log.
    Inconsistent = "inconsistent", "pointer and certificate do not speak of this cluster's partition, or not of the same log";
    /// The pointer retains it.
    Retained = "retained", "the pointer retains it";
    /// The certificate rests on it.
    Certified = "certified", "the certificate of the last trim rests on it";
    /// It is of another generation than the one asked for: only an explicit command deletes older ones.
    OtherGeneration = "other-generation", "it is of another generation; an older one goes only by the explicit command --generation";
    /// The generation asked for is not older than the pointer's.
    NotOlder = "not-older", "only generations older than the pointer's go by the explicit command";
    /// It may still become the pointer: an upload in progress looks like this.
    NotBelowPointer = "not-below-pointer", "it may still become the pointer: an upload in progress looks like this";
    /// It is not below the certificate's `up_to`.
    NotBelowCertificate = "not-below-certificate", "it is not below what the last trim was certified for";
    /// It is not below the oldest snapshot the certificate names.
    NotBelowCertified = "not-below-certified", "it is not below the oldest snapshot that the certificate of the last trim names";
}

/// Which life of the log a deletion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteScope {
    /// That of the pointer's latest snapshot: what prune and sweep look at by themselves.
    CurrentGeneration,
    /// An older one, which an operator names. Nothing of it can be restored into the present log, and nothing of it
    /// can become the pointer any more.
    OlderGeneration(u64),
}

/// What a deletion is decided on: read afresh for each directory.
#[derive(Clone, Copy, Debug)]
pub struct DeleteFacts<'a> {
    /// The cluster whose objects these are.
    pub cluster: &'a ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// Its pointer; `None` when there is none.
    pub pointer: Option<&'a Pointer>,
    /// Its certificate in force; `None` when there is none.
    pub certificate: Option<&'a Certificate>,
}

/// Decides whether the snapshot or unfinished upload in `directory` may be deleted. No clock takes part.
///
/// "Not referenced" alone is the state of an upload in progress; only what can never become the pointer any more,
/// and what no trimmed record depends on, may go.
///
/// # Errors
/// The reason why it stays.
pub fn may_delete(
    directory: &SnapshotDirectory,
    facts: &DeleteFacts<'_>,
    scope: DeleteScope,
) -> Result<(), KeepReason> {
    let pointer = facts.pointer.ok_or(KeepReason::NoPointer)?;
    let latest = pointer.latest().ok_or(KeepReason::NoPointer)?;
    let certificate = facts.certificate.ok_or(KeepReason::NoCertificate)?;
    let oldest_certified = certificate.oldest_lsn().ok_or(KeepReason::NoCertificate)?;

    if !speak_of_one_log(facts, pointer, latest, certificate) {
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
    let current = latest.incarnation.generation;
    match scope {
        DeleteScope::OlderGeneration(asked_for) if asked_for >= current => Err(KeepReason::NotOlder),
        DeleteScope::OlderGeneration(asked_for) if directory.generation == asked_for => Ok(()),
        DeleteScope::CurrentGeneration if directory.generation == current => {
            let below = |bound: Lsn, reason| (directory.lsn < bound).then_some(()).ok_or(reason);
            below(latest.lsn, KeepReason::NotBelowPointer)?;
            below(certificate.up_to, KeepReason::NotBelowCertificate)?;
            below(oldest_certified, KeepReason::NotBelowCertified)
        }
        DeleteScope::OlderGeneration(_) | DeleteScope::CurrentGeneration => Err(KeepReason::OtherGeneration),
    }
}

fn speak_of_one_log(
    facts: &DeleteFacts<'_>,
    pointer: &Pointer,
    latest: &PointerEntry,
    certificate: &Certificate,
) -> bool {
    let ours = |cluster: &ClusterIdentity, partition: PartitionId| {
        cluster.fingerprint == facts.cluster.fingerprint && partition == facts.partition
    };
    ours(&pointer.cluster, pointer.partition)
        && ours(&certificate.cluster, certificate.partition)
        && latest.incarnation == certificate.incarnation
}
