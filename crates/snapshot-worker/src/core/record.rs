//! What one log record holds: the envelope around commands, in the bytes that the log carries.

use bytes::Bytes;
use prost::Message;
use snapshot_proto::v1::{self, log_record};
use snapshot_store::{LeaderEpoch, Leadership, Lsn, NodeId, RecordHash};

/// One log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A record that counts only if its term is the one in force.
    Led {
        /// The term it was written in.
        leadership: Leadership,
        /// Its number within the term, from 1; tells a writer which of its records landed.
        sequence: u64,
        /// What it says.
        body: LedBody,
    },
    /// Lets replicas pass over a record that none can apply. Valid without leader or epoch.
    Skip {
        /// The record to pass over.
        lsn: Lsn,
        /// Hash of that record's bytes.
        hash: RecordHash,
        /// Why, in the operator's words; decides nothing.
        reason: String,
    },
}

/// What a record of a leader, or of a candidate, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedBody {
    /// A command for the state machine.
    Command(Bytes),
    /// Takes leadership for the record's own term.
    Announce {
        /// Where clients reach the new leader.
        address: String,
    },
    /// Moves the LSN and changes nothing.
    NoOp,
}

/// Why the bytes of a record make no sense to this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the envelope.
    #[error("the record cannot be parsed: {0}")]
    Unparsable(String),
    /// Written by a newer version, or empty.
    #[error("the record holds nothing this version knows: update this node")]
    UnknownBody,
    /// A field holds what it cannot hold.
    #[error("the record's {field} is invalid")]
    Invalid {
        /// The field.
        field: &'static str,
    },
}

impl Record {
    /// Reads the bytes of a record.
    ///
    /// # Errors
    /// When this version cannot understand them.
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        // Decoding from `Bytes` shares the command's bytes instead of copying them.
        let record = v1::LogRecord::decode(bytes.clone())
            .map_err(|error| RecordError::Unparsable(error.to_string()))?;
        let body = match record.body.ok_or(RecordError::UnknownBody)? {
            log_record::Body::Skip(skip) => {
                let hash = RecordHash::from_slice(&skip.record_hash)
                    .ok_or(RecordError::Invalid { field: "record hash" })?;
                return Ok(Record::Skip {
                    lsn: Lsn::new(skip.lsn),
                    hash,
                    reason: skip.reason,
                });
            }
            log_record::Body::Command(command) => LedBody::Command(command),
            log_record::Body::AnnounceLeader(announce) => LedBody::Announce {
                address: announce.address,
            },
            log_record::Body::NoOp(_) => LedBody::NoOp,
        };
        let node = NodeId::new(record.node).map_err(|_| RecordError::Invalid { field: "node" })?;
        let leadership = Leadership {
            epoch: LeaderEpoch::new(record.epoch),
            node,
        };
        Ok(Record::Led {
            leadership,
            sequence: record.sequence,
            body,
        })
    }

    /// Returns the bytes of the record.
    pub fn encode(&self) -> Bytes {
        let record = match self {
            Record::Led {
                leadership,
                sequence,
                body,
            } => v1::LogRecord {
                epoch: leadership.epoch.get(),
                node: leadership.node.to_string(),
                sequence: *sequence,
                body: Some(match body {
                    LedBody::Command(command) => log_record::Body::Command(command.clone()),
                    LedBody::Announce { address } => log_record::Body::AnnounceLeader(v1::AnnounceLeader {
                        address: address.clone(),
                    }),
                    LedBody::NoOp => log_record::Body::NoOp(v1::NoOp {}),
                }),
            },
            Record::Skip { lsn, hash, reason } => v1::LogRecord {
                epoch: 0,
                node: String::new(),
                sequence: 0,
                body: Some(log_record::Body::Skip(v1::Skip {
                    lsn: lsn.get(),
                    record_hash: Bytes::copy_from_slice(hash.as_bytes()),
                    reason: reason.clone(),
                })),
            },
        };
        record.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(record: Record) {
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn every_kind_of_record_survives_encoding() {
        let leadership = Leadership {
            epoch: LeaderEpoch::new(3),
            node: NodeId::new("w1").unwrap(),
        };
        for body in [
            LedBody::Command(Bytes::from_static(b"put")),
            LedBody::Command(Bytes::new()),
            LedBody::Announce {
                address: "http://127.0.0.1:7300".to_owned(),
            },
            LedBody::NoOp,
        ] {
            check(Record::Led {
                leadership: leadership.clone(),
                sequence: 7,
                body,
            });
        }
        check(Record::Skip {
            lsn: Lsn::new(12),
            hash: RecordHash::of(b"poison"),
            reason: "written by a broken client".to_owned(),
        });
    }

    #[test]
    fn senseless_bytes_are_an_error_and_never_a_panic() {
        assert!(matches!(
            Record::decode(&Bytes::from_static(b"\xff\xff\xff")),
            Err(RecordError::Unparsable(_))
        ));
        assert_eq!(Record::decode(&Bytes::new()), Err(RecordError::UnknownBody));
        let nameless = v1::LogRecord {
            body: Some(log_record::Body::NoOp(v1::NoOp {})),
            ..Default::default()
        };
        assert_eq!(
            Record::decode(&nameless.encode_to_vec().into()),
            Err(RecordError::Invalid { field: "node" })
        );
    }
}
