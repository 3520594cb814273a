//! What a partition's state says about itself, under one key, written in the same batch as the data: so every
//! flush, checkpoint and snapshot carries it, exactly in step.

use super::store::StateError;
use crate::core::Chain;
use prost::Message;
use snapshot_store::{
    ChainHash, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, Leadership, Lsn, NodeId, RecordHash,
    format::{ChainPoint, KeyRange, StateMachineVersion},
};

/// The key of the metadata: the prefix no keyspace has.
pub(super) const METADATA_KEY: &[u8] = &[0];

/// The format this version writes, and the highest it reads.
const FORMAT: u32 = 1;

/// What a partition's state says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMetadata {
    /// Highest LSN applied.
    pub applied_lsn: Lsn,
    /// The log its records came from.
    pub incarnation: Incarnation,
    /// The cluster it belongs to.
    pub fingerprint: Fingerprint,
    /// The partition, and how many there are.
    pub key_range: KeyRange,
    /// Chain hash at the applied LSN and before.
    pub chain: Chain,
    /// Hash of the record at the applied LSN; `None` when none was applied yet.
    pub last_record: Option<RecordHash>,
    /// The term in force, and where clients reach its leader.
    pub leader: Option<(Leadership, String)>,
    /// The state machine that wrote the state.
    pub state_machine: StateMachineVersion,
    /// Bytes of all records up to the applied LSN.
    pub log_bytes: u64,
}

/// The stored form.
#[derive(Clone, PartialEq, Message)]
struct StoredMetadata {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    applied_lsn: u64,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(bytes = "vec", tag = "4")]
    incarnation_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    fingerprint: Vec<u8>,
    #[prost(uint32, tag = "6")]
    partition: u32,
    #[prost(uint32, tag = "7")]
    partitions: u32,
    #[prost(bytes = "vec", tag = "8")]
    chain_hash: Vec<u8>,
    #[prost(uint64, repeated, tag = "9")]
    trail_lsns: Vec<u64>,
    /// Hashes at `trail_lsns`, 32 bytes each.
    #[prost(bytes = "vec", tag = "10")]
    trail_hashes: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "11")]
    last_record: Option<Vec<u8>>,
    /// 0 when nobody leads.
    #[prost(uint64, tag = "12")]
    leader_epoch: u64,
    #[prost(string, tag = "13")]
    leader_node: String,
    #[prost(string, tag = "14")]
    leader_address: String,
    #[prost(string, tag = "15")]
    machine_name: String,
    #[prost(uint32, tag = "16")]
    machine_version: u32,
    #[prost(uint64, tag = "17")]
    log_bytes: u64,
}

impl StateMetadata {
    /// Returns the stored form.
    pub fn encode(&self) -> Vec<u8> {
        let (leader, address) = match &self.leader {
            Some((leader, address)) => (Some(leader), address.clone()),
            None => (None, String::new()),
        };
        let points = &self.chain.points;
        StoredMetadata {
            format: FORMAT,
            applied_lsn: self.applied_lsn.get(),
            generation: self.incarnation.generation,
            incarnation_id: self.incarnation.id.as_bytes().to_vec(),
            fingerprint: self.fingerprint.as_bytes().to_vec(),
            partition: self.key_range.partition,
            partitions: self.key_range.of,
            chain_hash: self.chain.hash.as_bytes().to_vec(),
            trail_lsns: points.iter().map(|point| point.lsn.get()).collect(),
            trail_hashes: points.iter().flat_map(|point| *point.hash.as_bytes()).collect(),
            last_record: self.last_record.map(|hash| hash.as_bytes().to_vec()),
            leader_epoch: leader.map_or(0, |leader| leader.epoch.get()),
            leader_node: leader.map_or_else(String::new, |leader| leader.node.to_string()),
            leader_address: address,
            machine_name: self.state_machine.name.clone(),
            machine_version: self.state_machine.version,
            log_bytes: self.log_bytes,
        }
        .encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When it is damaged, or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = |what: &str| StateError::Corrupt(format!("the state's metadata has an invalid {what}"));
        let stored = StoredMetadata::decode(bytes).map_err(|_| damaged("encoding"))?;
        if stored.format > FORMAT {
            return Err(StateError::Newer {
                found: stored.format,
                known: FORMAT,
            });
        }
        if stored.format == 0 {
            return Err(damaged("format number"));
        }
        let hashes = stored.trail_hashes.chunks_exact(32);
        if hashes.len() != stored.trail_lsns.len() || !hashes.remainder().is_empty() {
            return Err(damaged("chain trail"));
        }
        let points = stored.trail_lsns.iter().zip(hashes).map(|(lsn, hash)| {
            Some(ChainPoint {
                lsn: Lsn::new(*lsn),
                hash: ChainHash::from_slice(hash)?,
            })
        });
        let points: Option<Vec<ChainPoint>> = points.collect();
        let leader = match stored.leader_epoch {
            0 => None,
            epoch => {
                let node = NodeId::new(stored.leader_node).map_err(|_| damaged("leader"))?;
                Some((
                    Leadership {
                        epoch: LeaderEpoch::new(epoch),
                        node,
                    },
                    stored.leader_address,
                ))
            }
        };
        let last_record = match stored.last_record {
            None => None,
            Some(hash) => Some(RecordHash::from_slice(&hash).ok_or_else(|| damaged("record hash"))?),
        };
        Ok(StateMetadata {
            applied_lsn: Lsn::new(stored.applied_lsn),
            incarnation: Incarnation {
                generation: stored.generation,
                id: IncarnationId::from_slice(&stored.incarnation_id)
                    .ok_or_else(|| damaged("incarnation"))?,
            },
            fingerprint: Fingerprint::from_slice(&stored.fingerprint)
                .ok_or_else(|| damaged("fingerprint"))?,
            key_range: KeyRange {
                partition: stored.partition,
                of: stored.partitions,
            },
            chain: Chain {
                hash: ChainHash::from_slice(&stored.chain_hash).ok_or_else(|| damaged("chain hash"))?,
                points: points.ok_or_else(|| damaged("chain trail"))?,
            },
            last_record,
            leader,
            state_machine: StateMachineVersion {
                name: stored.machine_name,
                version: stored.machine_version,
            },
            log_bytes: stored.log_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StateMetadata {
        StateMetadata {
            applied_lsn: Lsn::new(1030),
            incarnation: Incarnation {
                generation: 2,
                id: IncarnationId::from_bytes([0x11; 16]),
            },
            fingerprint: Fingerprint::from_bytes([0x22; 16]),
            key_range: KeyRange { partition: 3, of: 8 },
            chain: Chain {
                hash: ChainHash::from_bytes([0x33; 32]),
                points: vec![ChainPoint {
                    lsn: Lsn::new(1024),
                    hash: ChainHash::from_bytes([0x44; 32]),
                }],
            },
            last_record: Some(RecordHash::from_bytes([0x55; 32])),
            leader: Some((
                Leadership {
                    epoch: LeaderEpoch::new(4),
                    node: NodeId::new("w1").unwrap(),
                },
                "http://w1".to_owned(),
            )),
            state_machine: StateMachineVersion {
                name: "kv".to_owned(),
                version: 1,
            },
            log_bytes: 99_000,
        }
    }

    /// What version 1 has on disk. When this fails, stored states of released versions would not open any more:
    /// raise the format number and keep reading this one.
    const GOLDEN: &str = concat!(
        "0801",
        "108608",
        "1802",
        "221011111111111111111111111111111111",
        "2a1022222222222222222222222222222222",
        "3003",
        "3808",
        "42203333333333333333333333333333333333333333333333333333333333333333",
        "4a028008",
        "52204444444444444444444444444444444444444444444444444444444444444444",
        "5a205555555555555555555555555555555555555555555555555555555555555555",
        "6004",
        "6a027731",
        "7209687474703a2f2f7731",
        "7a026b76",
        "800101",
        "8801b88506",
    );

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_stored_form_is_the_golden_one() {
        assert_eq!(hex(&sample().encode()), GOLDEN);
        assert_eq!(StateMetadata::decode(&sample().encode()).unwrap(), sample());
    }

    #[test]
    fn a_state_without_leader_and_records_survives_encoding() {
        let fresh = StateMetadata {
            leader: None,
            last_record: None,
            applied_lsn: Lsn::ZERO,
            ..sample()
        };
        assert_eq!(StateMetadata::decode(&fresh.encode()).unwrap(), fresh);
    }

    #[test]
    fn a_newer_or_damaged_form_is_refused() {
        let newer = StoredMetadata {
            format: 2,
            ..StoredMetadata::decode(&*sample().encode()).unwrap()
        };
        assert!(matches!(
            StateMetadata::decode(&newer.encode_to_vec()),
            Err(StateError::Newer { found: 2, known: 1 })
        ));
        for damaged in [&b""[..], b"\xff", &sample().encode()[..40]] {
            assert!(matches!(
                StateMetadata::decode(damaged),
                Err(StateError::Corrupt(_))
            ));
        }
        type Change = fn(&mut StoredMetadata);
        let cases: [(&str, Change); 9] = [
            ("format number", |stored| stored.format = 0),
            ("chain trail", |stored| stored.trail_lsns.push(2048)),
            ("chain trail", |stored| stored.trail_hashes.push(0x44)),
            ("chain trail", |stored| stored.trail_hashes.clear()),
            ("chain hash", |stored| stored.chain_hash.truncate(31)),
            ("record hash", |stored| stored.last_record = Some(vec![0x55; 31])),
            ("incarnation", |stored| stored.incarnation_id.clear()),
            ("fingerprint", |stored| stored.fingerprint.clear()),
            ("leader", |stored| stored.leader_node.clear()),
        ];
        for (what, change) in cases {
            let mut stored = StoredMetadata::decode(&*sample().encode()).unwrap();
            change(&mut stored);
            match StateMetadata::decode(&stored.encode_to_vec()) {
                Err(StateError::Corrupt(said)) => assert!(said.ends_with(what), "{what}: {said}"),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}
