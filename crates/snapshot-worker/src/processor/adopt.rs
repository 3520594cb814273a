//! Making the state of a forked snapshot this cluster's own.
//!
//! The files of a forked snapshot are those of its source, so the state in them says that it belongs to the source's
//! cluster and log. Before it becomes the local state, that is rewritten, in the folder it was downloaded to:
//!
//! 1. Open the state in the staging folder, write the one metadata key, flush, close. A crash leaves a staging folder,
//!    which the next start removes, whatever is in it; the snapshot is downloaded again.
//! 2. Read it back read-only: what will be opened from now on is what was meant.
//! 3. Replace the local state (`layout`). Only now anybody sees it.
//!
//! Identity is one value under one key, so not even the staging folder ever holds half of it.

use super::{
    inspect::host_error,
    metadata::{METADATA_KEY, StateMetadata},
    state_machine::Changes,
    store::{StateEngine, StateError, read_metadata},
};
use crate::agent::HostError;
use snapshot_store::format::Manifest;
use std::path::Path;

/// Returns what the state of a forked snapshot says of itself once it is the fork's; `None` when the snapshot is no
/// fork and its state stays as it is.
///
/// Position, chain and leader epoch stay: the fork's log continues from them, and its terms come after the source's.
/// The address of the source's leader goes: it would send the clients of the fork to the source.
///
/// # Errors
/// When the state does not carry the identity that the manifest's origin names.
pub(super) fn adopted(
    found: &StateMetadata,
    manifest: &Manifest,
) -> Result<Option<StateMetadata>, HostError> {
    if manifest.origin.is_none() {
        return Ok(None);
    }
    let (fingerprint, incarnation) = manifest.state_identity();
    if (found.fingerprint, found.incarnation) != (fingerprint, incarnation) {
        return Err(HostError::Mismatch(format!(
            "the state is of cluster {} and incarnation {}, the snapshot was forked from cluster {fingerprint} and incarnation {incarnation}",
            found.fingerprint, found.incarnation
        )));
    }
    let leader = found
        .leader
        .as_ref()
        .map(|(term, _)| (term.clone(), String::new()));
    Ok(Some(StateMetadata {
        fingerprint: manifest.cluster.fingerprint,
        incarnation: manifest.incarnation,
        leader,
        ..found.clone()
    }))
}

/// Makes the verified state in `dir` that of the manifest's cluster and log, durably. Leaves `dir` as it is when the
/// snapshot is no fork. Blocks its thread.
///
/// # Errors
/// When the state is not the origin's, or cannot be read or written.
pub(super) fn adopt_state(
    engine: &dyn StateEngine,
    dir: &Path,
    manifest: &Manifest,
) -> Result<(), HostError> {
    if manifest.origin.is_none() {
        return Ok(());
    }
    let lost = || HostError::Corrupt("the state has no metadata".to_owned());
    let metadata_in =
        || -> Result<Option<StateMetadata>, StateError> { read_metadata(&*engine.open_read_only(dir)?) };
    let found = metadata_in().map_err(host_error)?.ok_or_else(lost)?;
    let Some(adopted) = adopted(&found, manifest)? else {
        return Ok(());
    };
    write(engine, dir, &adopted).map_err(host_error)?;
    let written = metadata_in().map_err(host_error)?.ok_or_else(lost)?;
    if written != adopted {
        return Err(HostError::Corrupt(
            "the state does not hold the identity that was written to it".to_owned(),
        ));
    }
    tracing::info!(
        partition = %manifest.partition, snapshot_id = %manifest.snapshot_id, lsn = %manifest.lsn,
        from = %found.incarnation, to = %adopted.incarnation, "the state of a forked snapshot was adopted"
    );
    Ok(())
}

/// Writes the metadata and closes the state again.
fn write(engine: &dyn StateEngine, dir: &Path, metadata: &StateMetadata) -> Result<(), StateError> {
    let store = engine.open(dir)?;
    store.write(&Changes::from([(
        METADATA_KEY.to_vec(),
        Some(metadata.encode().into()),
    )]))?;
    store.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::Chain, processor::tests::forked_manifest};
    use snapshot_store::{
        ChainHash, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, Leadership, Lsn, NodeId, RecordHash,
        format::{KeyRange, Origin, StateMachineVersion},
    };

    fn source() -> StateMetadata {
        let leader = Leadership {
            epoch: LeaderEpoch::new(4),
            node: NodeId::new("w1").expect("a name"),
        };
        StateMetadata {
            applied_lsn: Lsn::new(100),
            incarnation: Incarnation {
                generation: 1,
                id: IncarnationId::from_bytes([1; 16]),
            },
            fingerprint: Fingerprint::from_bytes([1; 16]),
            key_range: KeyRange { partition: 0, of: 2 },
            chain: Chain::starting_at(ChainHash::of(b"chain")),
            last_record: Some(RecordHash::of(b"record")),
            leader: Some((leader, "http://source".to_owned())),
            state_machine: StateMachineVersion {
                name: "test".to_owned(),
                version: 1,
            },
            log_bytes: 1000,
        }
    }

    #[test]
    fn identity_is_exchanged_and_the_source_is_no_longer_reached_and_all_else_stays() {
        let (source, manifest) = (source(), forked_manifest(&source()));
        let adopted = adopted(&source, &manifest)
            .expect("the origin's")
            .expect("a fork");
        let expected = StateMetadata {
            fingerprint: manifest.cluster.fingerprint,
            incarnation: manifest.incarnation,
            leader: source.leader.clone().map(|(term, _)| (term, String::new())),
            ..source.clone()
        };
        assert_eq!(adopted, expected);
        assert_ne!(adopted.fingerprint, source.fingerprint);
        assert_ne!(adopted.incarnation, source.incarnation);
    }

    #[test]
    fn what_was_not_forked_stays_as_it_is() {
        let manifest = Manifest {
            origin: None,
            ..forked_manifest(&source())
        };
        assert!(matches!(adopted(&source(), &manifest), Ok(None)));
    }

    #[test]
    fn a_state_of_anybody_else_is_refused() {
        let manifest = forked_manifest(&source());
        let origin = manifest.origin.clone().expect("a fork");
        let other_log = Incarnation {
            generation: 1,
            ..manifest.incarnation
        };
        let mut other_cluster = origin.cluster.clone();
        other_cluster.fingerprint = manifest.cluster.fingerprint;
        for wrong in [
            Origin {
                incarnation: other_log,
                ..origin.clone()
            },
            Origin {
                cluster: other_cluster,
                ..origin
            },
        ] {
            let manifest = Manifest {
                origin: Some(wrong),
                ..manifest.clone()
            };
            let refused = adopted(&source(), &manifest);
            assert!(matches!(refused, Err(HostError::Mismatch(_))), "{refused:?}");
        }
        // A state that was adopted already is none of the origin's either.
        let twice = StateMetadata {
            fingerprint: manifest.cluster.fingerprint,
            incarnation: manifest.incarnation,
            ..source()
        };
        assert!(adopted(&twice, &manifest).is_err());
    }
}
