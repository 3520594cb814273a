//! What a trim frees, and which replicas would have to restore after it: for people. It decides nothing.

use snapshot_store::{
    Lsn, NodeId,
    core::{LogFacts, ReplicaNeed},
};
use std::collections::BTreeMap;

/// What a price is worked out from.
#[derive(Clone, Debug)]
pub struct PriceFacts<'a> {
    /// The log.
    pub log: LogFacts,
    /// Bytes of records in it, when it counts them.
    pub held_bytes: Option<u64>,
    /// Bytes of all records up to an LSN, inclusive, wherever that is known: at snapshots, and at replicas.
    pub known: BTreeMap<Lsn, u64>,
    /// The live replicas.
    pub replicas: &'a [ReplicaNeed],
    /// Nodes that should have a replica and are not live, with what it needed when they were heard last.
    pub away: Vec<(NodeId, Option<Lsn>)>,
    /// Bytes of the newest snapshot: what one restore reads at most.
    pub snapshot_bytes: Option<u64>,
}

/// Bytes that a trim frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedBytes {
    /// How many.
    pub bytes: u64,
    /// Whether that assumes records of equal size, because the positions are not known byte by byte.
    pub estimated: bool,
}

/// A replica that would have to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePrice {
    /// Its node.
    pub node: NodeId,
    /// Highest LSN it does not need any more; `None` when the node was not heard since the admin started.
    pub needed_lsn: Option<Lsn>,
    /// Whether the node is live; one that is not restores when it comes back.
    pub live: bool,
    /// What it reads from the store at most; `None` when that is not known.
    pub bytes: Option<u64>,
}

/// What a trim is worth and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimPrice {
    /// How far it goes, inclusive.
    pub up_to: Lsn,
    /// Records that it removes from the log.
    pub records: u64,
    /// Bytes of them; `None` when the log does not count bytes.
    pub bytes: Option<FreedBytes>,
    /// Replicas that would have to restore, live ones first.
    pub must_restore: Vec<RestorePrice>,
}

/// Works out what a trim up to `up_to` frees and costs.
pub fn price(facts: &PriceFacts<'_>, up_to: Lsn) -> TrimPrice {
    let restore = |node: &NodeId, needed_lsn: Option<Lsn>, live| RestorePrice {
        node: node.clone(),
        needed_lsn,
        live,
        bytes: facts.snapshot_bytes,
    };
    let live = facts.replicas.iter().filter_map(|replica| {
        // One that needs nothing that is left is restoring already.
        let needed = replica.needed_lsn.filter(|needed| *needed < up_to)?;
        Some(restore(&replica.node, Some(needed), true))
    });
    let away = facts
        .away
        .iter()
        .filter(|(_, needed)| needed.is_none_or(|needed| needed < up_to))
        .map(|(node, needed)| restore(node, *needed, false));
    TrimPrice {
        up_to,
        records: up_to.records_since(facts.log.trim_point),
        bytes: freed_bytes(facts, up_to),
        must_restore: live.chain(away).collect(),
    }
}

/// ```text
/// freed = bytes up to `up_to` - bytes up to the trim point
///       = bytes in the log - (bytes up to the last record - bytes up to `up_to`)
///       ≈ bytes in the log, in proportion to the records
/// ```
fn freed_bytes(facts: &PriceFacts<'_>, up_to: Lsn) -> Option<FreedBytes> {
    let (trim_point, last) = (facts.log.trim_point, facts.log.tail.prev());
    if up_to <= trim_point {
        return Some(FreedBytes {
            bytes: 0,
            estimated: false,
        });
    }
    let at = |lsn: Lsn| match lsn {
        Lsn::ZERO => Some(0),
        lsn => facts.known.get(&lsn).copied(),
    };
    let exact = |bytes| FreedBytes {
        bytes,
        estimated: false,
    };
    if let (Some(there), Some(here)) = (at(up_to), at(trim_point)) {
        return Some(exact(there.saturating_sub(here)));
    }
    let held = facts.held_bytes?;
    if let (Some(all), Some(there)) = (at(last), at(up_to)) {
        return Some(exact(held.saturating_sub(all.saturating_sub(there))));
    }
    let (going, all) = (up_to.records_since(trim_point), last.records_since(trim_point));
    let share = u128::from(held) * u128::from(going.min(all)) / u128::from(all.max(1));
    Some(FreedBytes {
        bytes: u64::try_from(share).unwrap_or(u64::MAX),
        estimated: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{Incarnation, IncarnationId};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn facts<'a>(
        replicas: &'a [ReplicaNeed],
        held_bytes: Option<u64>,
        known: &[(u64, u64)],
    ) -> PriceFacts<'a> {
        PriceFacts {
            log: LogFacts {
                incarnation: Incarnation {
                    generation: 1,
                    id: IncarnationId::from_bytes([1; 16]),
                },
                trim_point: Lsn::new(100),
                tail: Lsn::new(301),
            },
            held_bytes,
            known: known
                .iter()
                .map(|(lsn, bytes)| (Lsn::new(*lsn), *bytes))
                .collect(),
            replicas,
            away: Vec::new(),
            snapshot_bytes: Some(7),
        }
    }

    #[test]
    fn bytes_are_exact_where_positions_are_known_and_else_in_proportion() {
        let exact = |bytes| {
            Some(FreedBytes {
                bytes,
                estimated: false,
            })
        };
        let estimated = |bytes| {
            Some(FreedBytes {
                bytes,
                estimated: true,
            })
        };
        type Case<'a> = (&'a str, Option<u64>, &'a [(u64, u64)], u64, Option<FreedBytes>);
        let cases: [Case<'_>; 7] = [
            (
                "both ends known",
                None,
                &[(100, 1000), (200, 5000)],
                200,
                exact(4000),
            ),
            (
                "what stays is known",
                Some(9000),
                &[(200, 5000), (300, 6000)],
                200,
                exact(8000),
            ),
            ("nothing is known", Some(9000), &[], 200, estimated(4500)),
            (
                "only the end is known",
                Some(9000),
                &[(200, 5000)],
                200,
                estimated(4500),
            ),
            ("all of it goes", Some(9000), &[], 300, estimated(9000)),
            ("the log does not count", None, &[(200, 5000)], 200, None),
            ("nothing goes", None, &[], 100, exact(0)),
        ];
        for (what, held, known, up_to, expected) in cases {
            let price = price(&facts(&[], held, known), Lsn::new(up_to));
            assert_eq!(price.bytes, expected, "{what}");
            assert_eq!(price.records, up_to - 100, "{what}");
        }
    }

    #[test]
    fn replicas_below_the_new_trim_point_would_restore_and_those_away_are_told_apart() {
        let need = |name: &str, needed: Option<u64>| ReplicaNeed {
            node: node(name),
            needed_lsn: needed.map(Lsn::new),
            log_bytes: None,
        };
        let replicas = [
            need("w1", Some(199)),
            need("w2", Some(200)),
            need("w3", Some(300)),
            need("w4", None),
        ];
        let mut facts = facts(&replicas, None, &[]);
        facts.away = vec![
            (node("w5"), Some(Lsn::new(150))),
            (node("w6"), Some(Lsn::new(200))),
            (node("w7"), None),
        ];
        let price = price(&facts, Lsn::new(200));
        let found: Vec<_> = price
            .must_restore
            .iter()
            .map(|restore| {
                (
                    restore.node.as_str(),
                    restore.needed_lsn.map(Lsn::get),
                    restore.live,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("w1", Some(199), true),
                ("w5", Some(150), false),
                ("w7", None, false)
            ]
        );
        assert!(price.must_restore.iter().all(|restore| restore.bytes == Some(7)));
    }
}
