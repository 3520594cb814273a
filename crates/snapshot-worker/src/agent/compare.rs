//! Whether a state that was opened is the one its manifest describes.
//!
//! The files of a forked snapshot are those of its source, and so is the identity in the state: it is compared with
//! what the manifest says of the origin. Everything else of a fork is compared as ever.

use super::host::CheckpointFacts;
use snapshot_store::format::Manifest;
use std::fmt::Display;

/// Returns what differs, one phrase each; empty when the state is the described one.
///
/// Hashes prove that the files are the uploaded ones; this proves that they hold what the manifest says, which is
/// what trimming relies on. Facts that one side does not have are not compared.
pub fn differences(facts: &CheckpointFacts, manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, state: &dyn Display, manifest: &dyn Display, equal: bool| {
        if !equal {
            found.push(format!(
                "{what} is {state} in the state and {manifest} in the manifest"
            ));
        }
    };
    compare("the LSN", &facts.lsn, &manifest.lsn, facts.lsn == manifest.lsn);
    let (fingerprint, incarnation) = manifest.state_identity();
    compare(
        "the incarnation",
        &facts.incarnation,
        &incarnation,
        facts.incarnation == incarnation,
    );
    compare(
        "the cluster",
        &facts.fingerprint,
        &fingerprint,
        facts.fingerprint == fingerprint,
    );
    compare(
        "the log's size",
        &facts.log_bytes,
        &manifest.log_bytes,
        facts.log_bytes == manifest.log_bytes,
    );
    let (ours, theirs) = (&facts.state_machine, &manifest.state_machine);
    compare(
        "the state machine",
        &ours.name,
        &theirs.name,
        ours.name == theirs.name,
    );
    compare(
        "the state's version",
        &ours.version,
        &theirs.version,
        ours.version == theirs.version,
    );
    let (ours, theirs) = (facts.key_range, manifest.key_range);
    compare(
        "the partition",
        &ours.partition,
        &theirs.partition,
        ours.partition == theirs.partition,
    );
    compare("the partition count", &ours.of, &theirs.of, ours.of == theirs.of);
    if let (Some(ours), Some(theirs)) = (facts.state_digest, manifest.state_digest) {
        compare("the digest", &ours, &theirs, ours == theirs);
    }
    if let (Some(ours), Some(theirs)) = (&facts.chain, &manifest.chain)
        && let Some(lsn) = ours.first_mismatch(theirs)
    {
        found.push(format!(
            "the chain hash at {lsn} differs between state and manifest"
        ));
    }
    found
}
