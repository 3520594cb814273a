//! The key-value state machine as a newer version of the software has it: what it does is the same, and an older version does
//! not open what it wrote.

use bytes::Bytes;
use snapshot_store::Lsn;
use snapshot_worker::processor::{ApplyError, Keyspace, StateMachine, Transaction};
use tidemark::kv::machine::KvMachine;

/// The key-value state machine of a version.
pub(crate) struct VersionedMachine {
    /// How many versions it is newer than the shipped one.
    pub(crate) newer_by: u32,
}

impl StateMachine for VersionedMachine {
    fn name(&self) -> &'static str {
        KvMachine::NAME
    }

    fn version(&self) -> u32 {
        KvMachine::VERSION + self.newer_by
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        KvMachine.keyspaces()
    }

    fn apply(&self, lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
        KvMachine.apply(lsn, command, state)
    }
}
