//! Between the messages of `proto/` and the values of `core`. Whatever a worker sends is checked here.

use crate::core::{Liveness, Reason, ReplicaReport, ReplicaState};
use snapshot_proto::v1;
use snapshot_store::{
    ChainHash, Incarnation, IncarnationId, LeaderEpoch, Leadership, Lsn, NodeId, PartitionId, ReplicaRole,
    SnapshotId,
    core::HoldReason,
    format::{ChainPoint, ChainTrail, Pause, PauseScope, StateMachineVersion, VerifyLevel},
};

/// Something in a message has not the form it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fault}")]
pub(crate) struct WireFault {
    pub(crate) field: &'static str,
    pub(crate) fault: String,
}

fn fault(field: &'static str, fault: impl Into<String>) -> WireFault {
    WireFault {
        field,
        fault: fault.into(),
    }
}

pub(crate) fn incarnation(wire: &v1::Incarnation) -> Result<Incarnation, WireFault> {
    let id =
        IncarnationId::from_slice(&wire.id).ok_or_else(|| fault("incarnation.id", "has not 16 bytes"))?;
    Ok(Incarnation {
        generation: wire.generation,
        id,
    })
}

pub(crate) fn incarnation_to_wire(incarnation: &Incarnation) -> v1::Incarnation {
    v1::Incarnation {
        generation: incarnation.generation,
        id: incarnation.id.as_bytes().to_vec().into(),
    }
}

fn chain(points: &[v1::ChainPoint]) -> Result<ChainTrail, WireFault> {
    // One more than the multiples: the applied LSN itself.
    if points.len() > ChainTrail::LENGTH_MAX + 1 {
        return Err(fault("chain", format!("has {} points", points.len())));
    }
    let point = |point: &v1::ChainPoint| {
        let hash =
            ChainHash::from_slice(&point.hash).ok_or_else(|| fault("chain.hash", "has not 32 bytes"))?;
        Ok(ChainPoint {
            lsn: Lsn::new(point.lsn),
            hash,
        })
    };
    let mut points = points.iter().map(point).collect::<Result<Vec<_>, _>>()?;
    points.sort_unstable_by_key(|point| point.lsn);
    Ok(ChainTrail(points))
}

/// The most damaged snapshots one report may name: more than any pointer retains.
const DAMAGED_MAX: usize = 128;

/// Reads what a worker says of one replica.
pub(crate) fn replica_report(wire: &v1::ReplicaStatus) -> Result<(PartitionId, ReplicaReport), WireFault> {
    use v1::PartitionState as State;
    let state = match wire.state() {
        State::Unspecified | State::Opening => ReplicaState::Opening,
        State::Restoring => ReplicaState::Restoring,
        State::CatchingUp => ReplicaState::CatchingUp,
        State::Active => ReplicaState::Active,
        State::Blocked => ReplicaState::Blocked,
    };
    let role = match wire.role() {
        v1::ReplicaRole::Leader => ReplicaRole::Leader,
        v1::ReplicaRole::Follower | v1::ReplicaRole::Unspecified => ReplicaRole::Follower,
    };
    let leader = match &wire.leader {
        None => None,
        Some(leader) => Some(Leadership {
            epoch: LeaderEpoch::new(leader.epoch),
            node: NodeId::new(leader.node.clone())
                .map_err(|error| fault("leader.node", error.to_string()))?,
        }),
    };
    let damaged = wire
        .damaged_snapshots
        .iter()
        .take(DAMAGED_MAX)
        .map(|id| {
            id.parse::<SnapshotId>()
                .map_err(|error| fault("damaged_snapshots", error))
        })
        .collect::<Result<_, _>>()?;
    let state_machine = wire.state_machine.clone().unwrap_or_default();
    // The word is the same as that of the hold.
    let regressed =
        state == ReplicaState::Blocked && wire.blocked_reason == HoldReason::LogRegressed.as_str();
    let report = ReplicaReport {
        state,
        role,
        leader,
        incarnation: wire.incarnation.as_ref().map(incarnation).transpose()?,
        applied_lsn: wire.applied_lsn.map(Lsn::new),
        needed_lsn: wire.needed_lsn.map(Lsn::new),
        log_bytes: wire.log_bytes,
        needed_log_bytes: wire.needed_log_bytes,
        archived_lsn: wire.archived.as_ref().map(|archived| Lsn::new(archived.lsn)),
        chain: chain(&wire.chain)?,
        state_machine: StateMachineVersion {
            name: state_machine.name,
            version: state_machine.version,
        },
        exporting: wire.export.is_some(),
        damaged,
        log_regressed: regressed.then(|| wire.blocked_detail.clone()),
    };
    Ok((PartitionId::new(wire.partition), report))
}

pub(crate) fn level_to_wire(level: VerifyLevel) -> v1::VerifyLevel {
    match level {
        VerifyLevel::Presence => v1::VerifyLevel::Presence,
        VerifyLevel::Content => v1::VerifyLevel::Content,
        VerifyLevel::Restore => v1::VerifyLevel::Restore,
    }
}

pub(crate) fn level(wire: v1::VerifyLevel) -> Option<VerifyLevel> {
    match wire {
        v1::VerifyLevel::Unspecified => None,
        v1::VerifyLevel::Presence => Some(VerifyLevel::Presence),
        v1::VerifyLevel::Content => Some(VerifyLevel::Content),
        v1::VerifyLevel::Restore => Some(VerifyLevel::Restore),
    }
}

pub(crate) fn liveness_to_wire(liveness: Liveness) -> v1::Liveness {
    match liveness {
        Liveness::Live => v1::Liveness::Live,
        Liveness::Suspect => v1::Liveness::Suspect,
        Liveness::Gone => v1::Liveness::Gone,
        Liveness::Unknown => v1::Liveness::Unknown,
    }
}

pub(crate) fn role_to_wire(role: ReplicaRole) -> v1::ReplicaRole {
    match role {
        ReplicaRole::Leader => v1::ReplicaRole::Leader,
        ReplicaRole::Follower => v1::ReplicaRole::Follower,
    }
}

pub(crate) fn reason_to_wire(reason: Reason, for_ms: u64) -> v1::Reason {
    v1::Reason {
        code: reason.code.to_owned(),
        detail: reason.detail,
        remedy: reason.remedy.to_owned(),
        for_ms,
    }
}

pub(crate) fn pause_to_wire(pause: &Pause) -> v1::PauseEntry {
    v1::PauseEntry {
        partition: match pause.scope {
            PauseScope::Cluster => None,
            PauseScope::Partition(partition) => Some(partition.get()),
        },
        by: pause.by.clone(),
        at_ms: pause.at.as_millis(),
        reason: pause.reason.clone(),
    }
}

/// Returns the stable word of a decline, and whether the node as a whole is to blame.
pub(crate) fn decline_word(reason: v1::DeclineReason) -> &'static str {
    match reason {
        v1::DeclineReason::Unspecified => "unspecified",
        v1::DeclineReason::UnknownPartition => "unknown-partition",
        v1::DeclineReason::Behind => "behind",
        v1::DeclineReason::Running => "running",
        v1::DeclineReason::NotActive => "not-active",
        v1::DeclineReason::Covered => "covered",
        v1::DeclineReason::Busy => "busy",
        v1::DeclineReason::Stopping => "stopping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_broken_field_is_refused_and_names_it() {
        let good = v1::ReplicaStatus {
            partition: 3,
            applied_lsn: Some(7),
            ..Default::default()
        };
        let (partition, report) = replica_report(&good).unwrap();
        assert_eq!(
            (partition, report.applied_lsn),
            (PartitionId::new(3), Some(Lsn::new(7)))
        );

        let broken = [
            (
                v1::ReplicaStatus {
                    incarnation: Some(v1::Incarnation {
                        generation: 1,
                        id: vec![1; 3].into(),
                    }),
                    ..good.clone()
                },
                "incarnation.id",
            ),
            (
                v1::ReplicaStatus {
                    damaged_snapshots: vec!["nonsense".to_owned()],
                    ..good.clone()
                },
                "damaged_snapshots",
            ),
            (
                v1::ReplicaStatus {
                    leader: Some(v1::Leadership {
                        epoch: 1,
                        node: "No Node".to_owned(),
                        ..Default::default()
                    }),
                    ..good.clone()
                },
                "leader.node",
            ),
            (
                v1::ReplicaStatus {
                    chain: vec![v1::ChainPoint {
                        lsn: 1,
                        hash: vec![0; 31].into(),
                    }],
                    ..good
                },
                "chain.hash",
            ),
        ];
        for (status, field) in broken {
            assert_eq!(replica_report(&status).unwrap_err().field, field);
        }
    }
}
