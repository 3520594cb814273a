//! Values as messages, both ways.

use crate::{Base, LogInfo, Passage, Registration};
use bytes::Bytes;
use snapshot_proto::v1::{self, passage::Stage};
use snapshot_store::{ChainHash, Fingerprint, Incarnation, IncarnationId, Lsn, PartitionId, WriteId};

/// A message that breaks the rules; says which one.
pub(super) type Malformed = &'static str;

pub(super) fn incarnation_to_wire(incarnation: Incarnation) -> v1::Incarnation {
    v1::Incarnation {
        generation: incarnation.generation,
        id: Bytes::copy_from_slice(incarnation.id.as_bytes()),
    }
}

pub(super) fn incarnation_from_wire(message: Option<v1::Incarnation>) -> Result<Incarnation, Malformed> {
    let message = message.ok_or("the incarnation is missing")?;
    let id = IncarnationId::from_slice(&message.id).ok_or("an incarnation id has 16 bytes")?;
    Ok(Incarnation {
        generation: message.generation,
        id,
    })
}

pub(super) fn registration_to_wire(registration: &Registration) -> v1::Registration {
    v1::Registration {
        partition: registration.partition.get(),
        incarnation: Some(incarnation_to_wire(registration.incarnation)),
        fingerprint: Bytes::copy_from_slice(registration.fingerprint.as_bytes()),
        base: registration.base.map(|base| v1::LogBase {
            lsn: base.lsn.get(),
            chain_hash: base
                .chain_hash
                .map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(hash.as_bytes())),
            log_bytes: base.log_bytes,
        }),
        sealed: registration.sealed,
        passage: registration.passage.as_ref().map(passage_to_wire),
    }
}

pub(super) fn registration_from_wire(message: v1::Registration) -> Result<Registration, Malformed> {
    let fingerprint =
        Fingerprint::from_slice(&message.fingerprint).ok_or("a cluster fingerprint has 16 bytes")?;
    Ok(Registration {
        partition: PartitionId::new(message.partition),
        incarnation: incarnation_from_wire(message.incarnation)?,
        fingerprint,
        base: message.base.map(base_from_wire).transpose()?,
        sealed: message.sealed,
        passage: message.passage.map(passage_from_wire).transpose()?,
    })
}

pub(super) fn passage_to_wire(passage: &Passage) -> v1::Passage {
    let stage = match passage {
        Passage::Leaving { to, .. } => Stage::Leaving(v1::Leaving { to: to.clone() }),
        Passage::Left { to, .. } => Stage::Left(v1::Left { to: to.clone() }),
        Passage::Arriving { from, trim_point, .. } => Stage::Arriving(v1::Arriving {
            from: from.clone(),
            trim_point: trim_point.get(),
        }),
    };
    v1::Passage {
        id: passage.id().to_string(),
        stage: Some(stage),
    }
}

pub(super) fn passage_from_wire(message: v1::Passage) -> Result<Passage, Malformed> {
    let id = id_from_wire(&message.id)?;
    Ok(match message.stage.ok_or("the passage names no stage")? {
        Stage::Leaving(v1::Leaving { to }) => Passage::Leaving { id, to },
        Stage::Left(v1::Left { to }) => Passage::Left { id, to },
        Stage::Arriving(v1::Arriving { from, trim_point }) => Passage::Arriving {
            id,
            from,
            trim_point: Lsn::new(trim_point),
        },
    })
}

pub(super) fn id_from_wire(text: &str) -> Result<WriteId, Malformed> {
    text.parse().map_err(|_| "the id of a passage is a ULID")
}

fn base_from_wire(message: v1::LogBase) -> Result<Base, Malformed> {
    let chain_hash = if message.chain_hash.is_empty() {
        None
    } else {
        Some(ChainHash::from_slice(&message.chain_hash).ok_or("a chain hash has 32 bytes, or none")?)
    };
    Ok(Base {
        lsn: Lsn::new(message.lsn),
        chain_hash,
        log_bytes: message.log_bytes,
    })
}

pub(super) fn info_to_wire(info: &LogInfo) -> v1::LogInfo {
    v1::LogInfo {
        incarnation: Some(incarnation_to_wire(info.incarnation)),
        trim_point: info.trim_point.get(),
        tail: info.tail.get(),
        held_bytes: info.held_bytes,
    }
}

pub(super) fn info_from_wire(message: v1::LogInfo) -> Result<LogInfo, Malformed> {
    let (trim_point, tail) = (Lsn::new(message.trim_point), Lsn::new(message.tail));
    if trim_point >= tail {
        return Err("the trim point lies below the tail");
    }
    Ok(LogInfo {
        incarnation: incarnation_from_wire(message.incarnation)?,
        trim_point,
        tail,
        held_bytes: message.held_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_comes_out_of_the_wire_as_it_went_in() {
        for base in [
            None,
            Some(Base {
                lsn: Lsn::new(9),
                chain_hash: None,
                log_bytes: 7,
            }),
            Some(Base {
                lsn: Lsn::new(9),
                chain_hash: Some(ChainHash::of(b"x")),
                log_bytes: 7,
            }),
        ] {
            let registration = Registration {
                partition: PartitionId::new(5),
                incarnation: Incarnation {
                    generation: 2,
                    id: IncarnationId::from_bytes([1; 16]),
                },
                fingerprint: Fingerprint::from_bytes([2; 16]),
                base,
                sealed: true,
                passage: None,
            };
            let id: WriteId = "00000000000000000000000007".parse().unwrap();
            let (to, from) = ("b".to_owned(), "a".to_owned());
            let trim_point = Lsn::new(3);
            for passage in [
                None,
                Some(Passage::Leaving { id, to: to.clone() }),
                Some(Passage::Left { id, to }),
                Some(Passage::Arriving { id, from, trim_point }),
            ] {
                let registration = Registration {
                    passage,
                    ..registration.clone()
                };
                assert_eq!(
                    registration_from_wire(registration_to_wire(&registration)),
                    Ok(registration)
                );
            }
        }
    }

    #[test]
    fn a_message_with_parts_missing_or_of_the_wrong_length_is_malformed() {
        assert!(registration_from_wire(v1::Registration::default()).is_err());
        assert!(incarnation_from_wire(None).is_err());
        assert!(
            incarnation_from_wire(Some(v1::Incarnation {
                generation: 1,
                id: Bytes::new()
            }))
            .is_err()
        );
        assert!(info_from_wire(v1::LogInfo::default()).is_err());
    }
}
