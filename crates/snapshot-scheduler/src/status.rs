//! The state of the cluster, as operators see it.

use crate::{
    core::{ControlView, Liveness, Moment, PartitionView, Plan, audit_progress},
    export, lease,
    state::{Context, PartitionMemory, State},
    wire,
};
use snapshot_proto::v1;
use snapshot_store::{Lsn, NodeId, PartitionId, core::SnapshotTrust, format::StickyReason};

/// Returns the guard as far as it is known: the lowest LSN of the newest snapshots, if all of them are verified.
pub(crate) fn guard(state: &State, partition: &PartitionView, memory: &PartitionMemory) -> Option<Lsn> {
    let wanted = state.restorable_min;
    let entries: Vec<_> = partition.entries().take(wanted).collect();
    let sound = entries
        .iter()
        .all(|entry| memory.checks.contains_key(&entry.snapshot_id));
    (entries.len() == wanted && sound)
        .then(|| entries.iter().map(|entry| entry.lsn).min())
        .flatten()
}

/// Returns the whole status.
pub(crate) fn cluster_status(ctx: &Context, state: &State, now: Moment) -> v1::ClusterStatus {
    let ids: Vec<PartitionId> = state.view.partitions.keys().copied().collect();
    v1::ClusterStatus {
        cluster: ctx.cluster.name.clone(),
        fingerprint: ctx.cluster.fingerprint.as_bytes().to_vec().into(),
        admin: ctx.admin.to_string(),
        nodes: ctx
            .workers()
            .keys()
            .map(|node| node_view(ctx, state, node, now))
            .collect(),
        partitions: ids
            .iter()
            .filter_map(|id| partition_view(state, *id, now))
            .collect(),
        pauses: match &state.view.control {
            ControlView::Known(control) => control.pauses.iter().map(wire::pause_to_wire).collect(),
            ControlView::Unread | ControlView::Unreadable(_) => Vec::new(),
        },
        tick: state.tick,
        lease: Some(admin_lease(ctx, state, now)),
        policy: Some(policy_state(ctx, state)),
        audit: Some(audit_state(ctx, state, now)),
        age: Some(age_to_wire(&export::view_age(state, now))),
    }
}

fn age_to_wire(age: &export::ViewAge) -> v1::ViewAge {
    v1::ViewAge {
        workers_ms: age.workers.map(millis),
        logs_ms: age.logs.map(millis),
        pointers_ms: age.pointers.map(millis),
        control_ms: age.control.map(millis),
        lease_ms: age.lease.map(millis),
    }
}

pub(crate) fn policy_state(ctx: &Context, state: &State) -> v1::PolicyState {
    v1::PolicyState {
        revision: state.policy.revision,
        since_ms: state.policy.since.as_millis(),
        refused: state.policy.refused.clone().unwrap_or_default(),
        json: serde_json::to_string(ctx.policy().as_ref()).unwrap_or_default(),
    }
}

fn admin_lease(ctx: &Context, state: &State, now: Moment) -> v1::AdminLease {
    let standing = lease::standing(ctx, state, now);
    let held = state.lease.lease.as_ref().filter(|lease| !lease.given_up);
    v1::AdminLease {
        active: standing.code.acts(),
        code: standing.code.as_str().to_owned(),
        detail: standing.detail,
        remedy: standing.code.remedy().to_owned(),
        holder: held.map(|lease| lease.holder.to_string()),
        address: held.and_then(|lease| lease.address.clone()).unwrap_or_default(),
        epoch: held.map_or(0, |lease| lease.epoch.get()),
        expires_at_ms: held.map_or(0, |lease| lease.expires_at.as_millis()),
    }
}

fn audit_state(ctx: &Context, state: &State, now: Moment) -> v1::AuditState {
    let progress = audit_progress(&state.view, state.audit.as_ref(), &ctx.policy(), now);
    let running = state.audit.filter(|pass| pass.took.is_none());
    let damaged = state
        .view
        .partitions
        .iter()
        .filter(|(_, partition)| partition.holds.contains_key(&StickyReason::DamagedSnapshot));
    v1::AuditState {
        passes: state.audited.map_or(0, |(passes, _)| passes),
        last_pass_ms: state.audited.map(|(_, took)| millis(took)),
        pass_age_ms: running.map(|pass| millis(now.since(pass.begun))),
        partitions_looked_at: u32::try_from(progress.looked_at).unwrap_or(u32::MAX),
        oldest_look_ms: millis(progress.oldest_look),
        oldest_read_ms: progress.oldest_read.map(millis),
        damaged_partitions: damaged.map(|(id, _)| id.get()).collect(),
    }
}

pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn node_view(ctx: &Context, state: &State, node: &NodeId, now: Moment) -> v1::NodeView {
    let view = state.view.nodes.get(node);
    v1::NodeView {
        node: node.to_string(),
        address: ctx
            .worker(node)
            .map(|worker| worker.address.clone())
            .unwrap_or_default(),
        liveness: wire::liveness_to_wire(state.view.liveness(node, now)).into(),
        age_ms: view
            .and_then(|view| view.heard_at)
            .map(|heard_at| millis(now.since(heard_at))),
        error: view.and_then(|view| view.error.clone()).unwrap_or_default(),
    }
}

/// Returns one partition; `None` when the cluster does not have it.
pub(crate) fn partition_view(state: &State, id: PartitionId, now: Moment) -> Option<v1::PartitionView> {
    let view = state.view.partitions.get(&id)?;
    let memory = state.memory.get(&id)?;
    let planned = state.plan.partitions.get(&id);
    let log = view.log;
    let leader = crate::core::live_leader(&state.view, view, now)
        .and_then(|node| state.view.leader(view, now).filter(|leader| leader.node == node));
    let replicas = state.nodes.iter().filter_map(|(node, known)| {
        let liveness = state.view.liveness(node, now);
        let expected = view.expected.contains(node);
        let status = known.replicas.get(&id).cloned();
        (expected || status.is_some()).then(|| v1::ReplicaView {
            node: node.to_string(),
            liveness: wire::liveness_to_wire(liveness).into(),
            status: status.filter(|_| liveness != Liveness::Unknown),
        })
    });
    let replicas: Vec<v1::ReplicaView> = replicas.collect();
    let leader_address = |node: &str| {
        let statuses = replicas
            .iter()
            .filter_map(|replica| replica.status.as_ref()?.leader.as_ref());
        statuses
            .filter(|leader| leader.node == node)
            .map(|leader| leader.address.clone())
            .next_back()
    };
    Some(v1::PartitionView {
        partition: id.get(),
        incarnation: log.map(|log| wire::incarnation_to_wire(&log.facts.incarnation)),
        trim_point: log.map(|log| log.facts.trim_point.get()),
        tail: log.map(|log| log.facts.tail.get()),
        held_bytes: log.and_then(|log| log.held_bytes),
        archived_lsn: view.archived().map(|entry| entry.lsn.get()),
        guard_lsn: guard(state, view, memory).map(Lsn::get),
        leader: leader.map(|leader| v1::Leadership {
            epoch: leader.epoch.get(),
            address: leader_address(leader.node.as_str()).unwrap_or_default(),
            node: leader.node.to_string(),
        }),
        replicas_expected: u32::try_from(view.expected.len()).unwrap_or(u32::MAX),
        snapshot: planned.map(|planned| {
            wire::reason_to_wire(
                planned.snapshot_reason(),
                millis(now.since(memory.snapshot_standing.since)),
            )
        }),
        trim: Some(wire::reason_to_wire(
            memory.trim.reason(),
            millis(now.since(memory.trim_standing.since)),
        )),
        leadership: planned.map(|planned| {
            let for_ms = millis(now.since(memory.leadership_standing.since));
            wire::reason_to_wire(planned.leadership_reason(), for_ms)
        }),
        snapshots: snapshots(view, memory, now),
        replicas,
        log_age_ms: log.map(|log| millis(now.since(log.heard_at))),
        pointer_age_ms: memory.pointer_read_at.map(|read_at| millis(now.since(read_at))),
        condition: crate::core::condition(&export::condition_facts(state, view, memory, now))
            .as_str()
            .to_owned(),
    })
}

fn snapshots(view: &PartitionView, memory: &PartitionMemory, now: Moment) -> Vec<v1::SnapshotView> {
    let entries = view.pointer().into_iter().flat_map(|pointer| &pointer.snapshots);
    let snapshot = |entry: &snapshot_store::format::PointerEntry| {
        let trust = view.trust.get(&entry.snapshot_id);
        let verified = match trust {
            Some(SnapshotTrust::Verified(level)) => wire::level_to_wire(*level),
            Some(SnapshotTrust::Damaged) | None => v1::VerifyLevel::Unspecified,
        };
        v1::SnapshotView {
            snapshot_id: entry.snapshot_id.to_string(),
            lsn: entry.lsn.get(),
            node: entry.node.to_string(),
            role: wire::role_to_wire(entry.role).into(),
            bytes_total: entry.bytes_total,
            bytes_uploaded: entry.bytes_uploaded,
            bytes_copied: entry.bytes_copied,
            created_at_ms: entry.created_at.as_millis(),
            verified: verified.into(),
            damaged: trust == Some(&SnapshotTrust::Damaged),
            read_age_ms: view
                .audit
                .read
                .get(&entry.snapshot_id)
                .map(|read| millis(read.age(now))),
            verified_by: memory
                .checks
                .get(&entry.snapshot_id)
                .map(|check| check.by.to_string())
                .unwrap_or_default(),
        }
    };
    entries.map(snapshot).collect()
}

/// Returns a plan in the form it travels in.
pub(crate) fn plan_to_wire(state: &State, plan: &Plan, now: Moment) -> v1::Plan {
    use crate::core::Command;
    let commands = plan.commands.iter().map(|command| {
        let (node, detail) = match command {
            Command::CreateSnapshot(command) => (
                command.node.to_string(),
                format!(
                    "at LSN {} or above, because of {}",
                    command.min_lsn, command.cause
                ),
            ),
            Command::AppendNoop { node, .. } => (node.to_string(), "so that the LSN moves".to_owned()),
            Command::Verify {
                node,
                snapshot_id,
                level,
                cause,
                ..
            } => (
                node.to_string(),
                format!("snapshot {snapshot_id}: {}, because of {cause}", level.as_str()),
            ),
            Command::Trim { hint, .. } => (
                String::new(),
                format!("look at it; it may be trimmed up to {}", hint.up_to),
            ),
            Command::Lead { node, .. } => (node.to_string(), String::new()),
        };
        v1::PlannedCommand {
            partition: command.partition().get(),
            action: command.action().to_owned(),
            node,
            detail,
        }
    });
    let partitions = plan.partitions.iter().map(|(id, planned)| {
        let memory = state.memory.get(id);
        let for_ms = |standing: Option<crate::state::Standing>, code: &str| match standing {
            Some(standing) if standing.code == code => millis(now.since(standing.since)),
            _ => 0,
        };
        let word = |reason: crate::core::Reason, standing| {
            let for_ms = for_ms(standing, reason.code);
            wire::reason_to_wire(reason, for_ms)
        };
        v1::PartitionPlan {
            partition: id.get(),
            snapshot: Some(word(
                planned.snapshot_reason(),
                memory.map(|memory| memory.snapshot_standing),
            )),
            trim: memory.map(|memory| word(memory.trim.reason(), Some(memory.trim_standing))),
            leadership: Some(word(
                planned.leadership_reason(),
                memory.map(|memory| memory.leadership_standing),
            )),
        }
    });
    v1::Plan {
        commands: commands.collect(),
        partitions: partitions.collect(),
    }
}
