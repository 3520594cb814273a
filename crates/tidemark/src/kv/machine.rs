//! The state machine: one keyspace of pairs, changed by put and delete.

use super::rules;
use bytes::Bytes;
use prost::Message as _;
use snapshot_proto::kv::{KvCommand, Operation, operation::Change};
use snapshot_store::Lsn;
use snapshot_worker::processor::{ApplyError, Keyspace, StateMachine, Transaction};

/// The keyspace all pairs live in.
pub const PAIRS: Keyspace = Keyspace {
    name: "pairs",
    prefix: 1,
};

/// The key-value state machine. Deterministic: equal commands give equal states and replies on every replica.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvMachine;

impl KvMachine {
    /// Name in status and manifests.
    pub const NAME: &'static str = "kv";
    /// Grows with every change to what a command does.
    pub const VERSION: u32 = 1;
}

/// Encodes an operation as it stands in the log.
pub fn encode(operation: Operation) -> Bytes {
    KvCommand {
        operation: Some(operation),
    }
    .encode_to_vec()
    .into()
}

/// Decodes a command and checks it by the same rules as before it was appended: a command that breaks them was
/// written by something else, and what it means is not known.
fn decode(command: &Bytes) -> Result<(Bytes, Option<Bytes>), String> {
    let command =
        KvCommand::decode(command.clone()).map_err(|error| format!("not a key-value command: {error}"))?;
    let operation = command
        .operation
        .ok_or("a key-value command without an operation")?;
    rules::check_operation(&operation).map_err(|refusal| refusal.to_string())?;
    match operation.change {
        Some(Change::Put(value)) => Ok((operation.key, Some(value))),
        Some(Change::Delete(_)) => Ok((operation.key, None)),
        None => Err("a key-value operation without a change".to_owned()),
    }
}

impl StateMachine for KvMachine {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        const { &[PAIRS] }
    }

    fn apply(&self, _lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
        let (key, value) = decode(command).map_err(ApplyError::Poison)?;
        match value {
            Some(value) => state.put(&PAIRS, &key, value),
            None => state.delete(&PAIRS, &key),
        }
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(key: &'static [u8], change: Option<Change>) -> Operation {
        Operation {
            key: Bytes::from_static(key),
            change,
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_change() {
        let put = operation(b"a", Some(Change::Put(Bytes::from_static(b"1"))));
        assert_eq!(
            decode(&encode(put)),
            Ok((Bytes::from_static(b"a"), Some(Bytes::from_static(b"1"))))
        );
        let delete = operation(b"a", Some(Change::Delete(true)));
        assert_eq!(decode(&encode(delete)), Ok((Bytes::from_static(b"a"), None)));
    }

    #[test]
    fn what_no_client_may_send_is_poison() {
        let cases: [(&str, Bytes); 4] = [
            ("garbage", Bytes::from_static(&[0xff; 9])),
            ("empty", Bytes::new()),
            ("no change", encode(operation(b"a", None))),
            ("empty key", encode(operation(b"", Some(Change::Delete(true))))),
        ];
        for (what, command) in cases {
            assert!(decode(&command).is_err(), "{what}");
        }
    }
}
