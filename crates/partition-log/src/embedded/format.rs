//! What is stored, and nothing else: alone in building and parsing keys and values. Golden tests below.
//!
//! | Column family | Key | Value |
//! |---|---|---|
//! | `data` | partition (4 bytes) LSN (8) | version (1), log bytes up to and with this record (8), record |
//! | `meta` | `r` partition (4) | version (1), registration as JSON |
//! | `meta` | `s` partition (4) | version (1), trim point (8), tail (8), log bytes at the trim point (8), at the tail (8) |
//!
//! Numbers are big-endian, so that keys sort by partition and LSN. Log bytes are cumulative: what a trim frees is
//! known from one record.

use crate::Registration;
use snapshot_store::{Lsn, PartitionId};

/// Version of every value below.
const VALUE_VERSION: u8 = 1;
const RECORD_HEAD: usize = 9;

/// A stored value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("is of version {found}, this build reads version {VALUE_VERSION}")]
    Version { found: u8 },
    #[error("is not readable: {detail}")]
    Malformed { detail: String },
}

/// Where the log of a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Highest LSN removed, inclusive.
    pub(super) trim_point: Lsn,
    /// First unwritten LSN, exclusive.
    pub(super) tail: Lsn,
    /// Bytes of all records the log ever had up to the trim point.
    pub(super) bytes_at_trim_point: u64,
    /// Bytes of all records the log ever had.
    pub(super) bytes_at_tail: u64,
}

impl Position {
    /// Returns where a new log stands.
    pub(super) fn of_new(registration: &Registration) -> Self {
        let trim_point = registration.first_trim_point();
        let bytes = registration.base.map_or(0, |base| base.log_bytes);
        Position {
            trim_point,
            tail: trim_point.next(),
            bytes_at_trim_point: bytes,
            bytes_at_tail: bytes,
        }
    }

    /// Returns the bytes of the records still in the log.
    pub(super) fn held_bytes(&self) -> u64 {
        self.bytes_at_tail.saturating_sub(self.bytes_at_trim_point)
    }
}

pub(super) fn data_key(partition: PartitionId, lsn: Lsn) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.get().to_be_bytes());
    key[4..].copy_from_slice(&lsn.get().to_be_bytes());
    key
}

/// Returns the LSN in a data key; `None` when it is not a data key of `partition`.
pub(super) fn lsn_of(key: &[u8], partition: PartitionId) -> Option<Lsn> {
    let lsn = key.strip_prefix(&partition.get().to_be_bytes())?;
    Some(Lsn::new(u64::from_be_bytes(lsn.try_into().ok()?)))
}

pub(super) fn registration_key(partition: PartitionId) -> [u8; 5] {
    meta_key(b'r', partition)
}

pub(super) fn position_key(partition: PartitionId) -> [u8; 5] {
    meta_key(b's', partition)
}

fn meta_key(kind: u8, partition: PartitionId) -> [u8; 5] {
    let mut key = [kind, 0, 0, 0, 0];
    key[1..].copy_from_slice(&partition.get().to_be_bytes());
    key
}

/// Whether a meta key is that of a registration.
pub(super) fn is_registration_key(key: &[u8]) -> bool {
    key.len() == 5 && key[0] == b'r'
}

pub(super) fn encode_record(bytes_at: u64, record: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(RECORD_HEAD + record.len());
    value.push(VALUE_VERSION);
    value.extend_from_slice(&bytes_at.to_be_bytes());
    value.extend_from_slice(record);
    value
}

/// Returns the cumulative log bytes and the record.
pub(super) fn decode_record(value: &[u8]) -> Result<(u64, &[u8]), ValueError> {
    let body = body(value)?;
    let (bytes, record) = body
        .split_first_chunk::<8>()
        .ok_or_else(|| malformed("it is too short"))?;
    Ok((u64::from_be_bytes(*bytes), record))
}

pub(super) fn encode_registration(registration: &Registration) -> Vec<u8> {
    let mut value = vec![VALUE_VERSION];
    let json = serde_json::to_vec(registration).expect("plain values always have a JSON form");
    value.extend_from_slice(&json);
    value
}

pub(super) fn decode_registration(value: &[u8]) -> Result<Registration, ValueError> {
    serde_json::from_slice(body(value)?).map_err(|error| malformed(&error.to_string()))
}

pub(super) fn encode_position(position: &Position) -> [u8; 33] {
    let mut value = [VALUE_VERSION; 33];
    let numbers = [
        position.trim_point.get(),
        position.tail.get(),
        position.bytes_at_trim_point,
        position.bytes_at_tail,
    ];
    for (place, number) in value[1..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    value
}

pub(super) fn decode_position(value: &[u8]) -> Result<Position, ValueError> {
    let (numbers, rest) = body(value)?.as_chunks::<8>();
    let [trim_point, tail, bytes_at_trim_point, bytes_at_tail] = <[[u8; 8]; 4]>::try_from(numbers)
        .map_err(|_| malformed("it is of another length"))?
        .map(u64::from_be_bytes);
    let (trim_point, tail) = (Lsn::new(trim_point), Lsn::new(tail));
    if !rest.is_empty() || trim_point >= tail || bytes_at_trim_point > bytes_at_tail {
        return Err(malformed("its numbers contradict each other"));
    }
    Ok(Position {
        trim_point,
        tail,
        bytes_at_trim_point,
        bytes_at_tail,
    })
}

fn body(value: &[u8]) -> Result<&[u8], ValueError> {
    match value.split_first() {
        Some((&VALUE_VERSION, body)) => Ok(body),
        Some((&found, _)) => Err(ValueError::Version { found }),
        None => Err(malformed("it is empty")),
    }
}

fn malformed(detail: &str) -> ValueError {
    ValueError::Malformed {
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Base;
    use snapshot_store::{ChainHash, Fingerprint, Incarnation, IncarnationId};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_and_values_are_stored_as_they_always_were() {
        let (partition, lsn) = (PartitionId::new(0x0102), Lsn::new(0x0304));
        assert_eq!(hex(&data_key(partition, lsn)), "000001020000000000000304");
        assert_eq!(hex(&registration_key(partition)), "7200000102");
        assert_eq!(hex(&position_key(partition)), "7300000102");
        assert_eq!(hex(&encode_record(258, b"abc")), "010000000000000102616263");
        let position = Position {
            trim_point: Lsn::new(1),
            tail: Lsn::new(2),
            bytes_at_trim_point: 3,
            bytes_at_tail: 4,
        };
        assert_eq!(
            hex(&encode_position(&position)),
            "010000000000000001000000000000000200000000000000030000000000000004"
        );
    }

    #[test]
    fn a_registration_is_stored_as_it_always_was() {
        let registration = Registration {
            partition: PartitionId::new(7),
            incarnation: Incarnation {
                generation: 2,
                id: IncarnationId::from_bytes([0xab; 16]),
            },
            fingerprint: Fingerprint::from_bytes([0xcd; 16]),
            base: Some(Base {
                lsn: Lsn::new(9),
                chain_hash: Some(ChainHash::from_bytes([0xef; 32])),
                log_bytes: 10,
            }),
            sealed: false,
            passage: None,
        };
        let value = encode_registration(&registration);
        let expected = format!(
            "\u{1}{{\"partition\":7,\"incarnation\":{{\"generation\":2,\"id\":\"{}\"}},\"fingerprint\":\"{}\",\
             \"base\":{{\"lsn\":9,\"chain_hash\":\"{}\",\"log_bytes\":10}},\"sealed\":false}}",
            "ab".repeat(16),
            "cd".repeat(16),
            "ef".repeat(32)
        );
        assert_eq!(String::from_utf8(value.clone()).unwrap(), expected);
        assert_eq!(decode_registration(&value), Ok(registration));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let partition = PartitionId::new(3);
        assert_eq!(
            lsn_of(&data_key(partition, Lsn::new(5)), partition),
            Some(Lsn::new(5))
        );
        assert_eq!(
            lsn_of(&data_key(partition, Lsn::new(5)), PartitionId::new(4)),
            None
        );
        assert_eq!(decode_record(&encode_record(7, b"")), Ok((7, &b""[..])));
        let position = Position {
            trim_point: Lsn::new(8),
            tail: Lsn::new(9),
            bytes_at_trim_point: 10,
            bytes_at_tail: 10,
        };
        assert_eq!(decode_position(&encode_position(&position)), Ok(position));
    }

    #[test]
    fn a_newer_or_broken_value_is_refused() {
        assert_eq!(decode_record(&[2, 0, 0]), Err(ValueError::Version { found: 2 }));
        assert!(matches!(decode_record(&[]), Err(ValueError::Malformed { .. })));
        assert!(matches!(
            decode_record(&[1, 0]),
            Err(ValueError::Malformed { .. })
        ));
        assert!(matches!(
            decode_registration(b"\x01{}"),
            Err(ValueError::Malformed { .. })
        ));
        // A tail at or below the trim point.
        assert!(matches!(
            decode_position(&[1; 33]),
            Err(ValueError::Malformed { .. })
        ));
    }
}
