//! What a state in a folder is, without making it anybody's.

use super::{
    state_machine::StateMachine,
    store::{StateEngine, StateError, digest, read_metadata},
};
use crate::agent::{CheckpointFacts, HostError};
use snapshot_store::format::StateMachineVersion;
use std::path::Path;

/// Opens the state in `dir` read-only, reads all of it once, so that damaged blocks show, and returns its facts. Leaves
/// `dir` as it is. Blocks its thread.
///
/// # Errors
/// When it is damaged, is of another or a newer state machine than `machine`, or cannot be read now.
pub fn inspect_state(
    engine: &dyn StateEngine,
    machine: &dyn StateMachine,
    dir: &Path,
) -> Result<CheckpointFacts, HostError> {
    let snapshot = engine.open_read_only(dir).map_err(host_error)?;
    let metadata = read_metadata(&*snapshot)
        .map_err(host_error)?
        .ok_or_else(|| HostError::Corrupt("the state has no metadata".to_owned()))?;
    // Before the scan: keys that a newer version brought are no damage.
    if let Some(detail) = misfit(machine, &metadata.state_machine) {
        return Err(HostError::Mismatch(detail));
    }
    let (state_digest, _) = digest(&*snapshot, machine.keyspaces()).map_err(host_error)?;
    Ok(CheckpointFacts {
        lsn: metadata.applied_lsn,
        incarnation: metadata.incarnation,
        fingerprint: metadata.fingerprint,
        chain: Some(metadata.chain.trail(metadata.applied_lsn)),
        leader: metadata.leader.map(|(leader, _)| leader),
        log_bytes: metadata.log_bytes,
        state_machine: metadata.state_machine,
        state_digest: Some(state_digest),
        key_range: metadata.key_range,
    })
}

/// Returns what is wrong with a state for software that runs `machine`; `None` when it can be used.
pub(super) fn misfit(machine: &dyn StateMachine, found: &StateMachineVersion) -> Option<String> {
    let (name, version) = (machine.name(), machine.version());
    (found.name != name || found.version > version).then(|| {
        format!(
            "the state is of {} version {}, this node runs {name} version {version}",
            found.name, found.version
        )
    })
}

/// Says what a state's error means to the agent.
pub(crate) fn host_error(error: StateError) -> HostError {
    match error {
        StateError::Corrupt(detail) => HostError::Corrupt(detail),
        error @ StateError::Newer { .. } => HostError::Mismatch(error.to_string()),
        StateError::NoSpace(detail) => HostError::NoSpace(detail),
        StateError::Failed(detail) => HostError::Io(std::io::Error::other(detail)),
    }
}
