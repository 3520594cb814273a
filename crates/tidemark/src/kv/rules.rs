//! What a key and a value may be. Checked by the client before sending, by the server before appending.

use snapshot_proto::kv::{Operation, operation::Change};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The most operations of one write. A log batch may hold a few more, but those are the leader's.
pub const WRITE_OPERATIONS_MAX: usize = 512;
/// The most bytes of keys and values of one write; leaves room for envelopes in a log batch of 4 MiB.
pub const WRITE_BYTES_MAX: usize = 3 << 20;
/// The largest gRPC message that client and server accept.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// An operation that is refused before it reaches the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Keys hold at least one byte.
    #[error("the key is empty: give it at least one byte")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {bytes} bytes, more than the {KEY_BYTES_MAX} allowed: shorten it, or hash it")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The value is too large.
    #[error(
        "the value of key {key:?} has {bytes} bytes, more than the {VALUE_BYTES_MAX} allowed: split it, or store it elsewhere and keep a reference here"
    )]
    ValueTooLarge {
        /// The key, shortened.
        key: String,
        /// Length of the value.
        bytes: usize,
    },
    /// Neither put nor delete.
    #[error("the operation on key {key:?} is neither put nor delete: update the client or this node")]
    NoChange {
        /// The key, shortened.
        key: String,
    },
    /// A write without operations, or with too many.
    #[error(
        "the write has {operations} operations of {bytes} bytes, expected 1 to {WRITE_OPERATIONS_MAX} of at most {WRITE_BYTES_MAX} bytes: send several smaller ones"
    )]
    WriteSize {
        /// Number of operations.
        operations: usize,
        /// Bytes of keys and values.
        bytes: usize,
    },
}

impl Refusal {
    /// Returns the stable word for it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refusal::EmptyKey => "empty-key",
            Refusal::KeyTooLong { .. } => "key-too-long",
            Refusal::ValueTooLarge { .. } => "value-too-large",
            Refusal::NoChange { .. } => "no-change",
            Refusal::WriteSize { .. } => "write-size",
        }
    }
}

/// Checks a key.
///
/// # Errors
/// When it is empty or too long.
pub fn check_key(key: &[u8]) -> Result<(), Refusal> {
    match key.len() {
        0 => Err(Refusal::EmptyKey),
        bytes if bytes > KEY_BYTES_MAX => Err(Refusal::KeyTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Checks one operation.
///
/// # Errors
/// When its key or value is out of bounds, or it changes nothing.
pub fn check_operation(operation: &Operation) -> Result<(), Refusal> {
    check_key(&operation.key)?;
    match &operation.change {
        Some(Change::Put(value)) if value.len() > VALUE_BYTES_MAX => Err(Refusal::ValueTooLarge {
            key: shown(&operation.key),
            bytes: value.len(),
        }),
        Some(Change::Put(_) | Change::Delete(true)) => Ok(()),
        Some(Change::Delete(false)) | None => Err(Refusal::NoChange {
            key: shown(&operation.key),
        }),
    }
}

/// Checks all operations of one write, and their sum.
///
/// # Errors
/// With the first refusal.
pub fn check_write(operations: &[Operation]) -> Result<(), Refusal> {
    operations.iter().try_for_each(check_operation)?;
    let bytes = operations.iter().map(operation_bytes).sum();
    if operations.is_empty() || operations.len() > WRITE_OPERATIONS_MAX || bytes > WRITE_BYTES_MAX {
        return Err(Refusal::WriteSize {
            operations: operations.len(),
            bytes,
        });
    }
    Ok(())
}

/// Returns the bytes of key and value.
pub fn operation_bytes(operation: &Operation) -> usize {
    let value = match &operation.change {
        Some(Change::Put(value)) => value.len(),
        Some(Change::Delete(_)) | None => 0,
    };
    operation.key.len() + value
}

/// Returns a key as people read it: at most 64 characters.
pub fn shown(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(&key[..key.len().min(256)]);
    let mut shortened: String = text.chars().take(64).collect();
    if shortened.len() < key.len() {
        shortened.push('…');
    }
    shortened
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: usize, value: usize) -> Operation {
        Operation {
            key: vec![b'k'; key].into(),
            change: Some(Change::Put(vec![0; value].into())),
        }
    }

    #[test]
    fn keys_and_values_are_bounded_on_both_sides() {
        let cases = [
            (put(1, 0), None),
            (put(KEY_BYTES_MAX, VALUE_BYTES_MAX), None),
            (put(0, 1), Some("empty-key")),
            (put(KEY_BYTES_MAX + 1, 1), Some("key-too-long")),
            (put(1, VALUE_BYTES_MAX + 1), Some("value-too-large")),
            (
                Operation {
                    key: Bytes::from_static(b"k"),
                    change: None,
                },
                Some("no-change"),
            ),
            (
                Operation {
                    key: Bytes::from_static(b"k"),
                    change: Some(Change::Delete(false)),
                },
                Some("no-change"),
            ),
            (
                Operation {
                    key: Bytes::from_static(b"k"),
                    change: Some(Change::Delete(true)),
                },
                None,
            ),
        ];
        for (operation, expected) in cases {
            let found = check_operation(&operation).err().map(|refusal| refusal.reason());
            assert_eq!(found, expected, "key of {} bytes", operation.key.len());
        }
    }

    #[test]
    fn a_write_is_bounded_in_number_and_bytes() {
        assert!(check_write(&vec![put(1, 1); WRITE_OPERATIONS_MAX]).is_ok());
        assert!(check_write(&vec![put(1, 1); WRITE_OPERATIONS_MAX + 1]).is_err());
        assert!(check_write(&[]).is_err());
        assert!(check_write(&vec![put(1, VALUE_BYTES_MAX); 4]).is_err());
    }

    #[test]
    fn a_long_key_is_shown_shortened() {
        assert_eq!(shown(b"abc"), "abc");
        assert_eq!(shown(&[b'a'; 4096]).chars().count(), 65);
    }
}
