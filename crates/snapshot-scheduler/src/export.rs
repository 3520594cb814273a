//! Exports what the view says as gauges, once per tick. An admin that only watches exports its lease, its polls and the
//! age of its view; what is said of the cluster is said by the one that acts.

use crate::{
    core::{self, ConditionFacts, Liveness, Moment, PartitionView, ReplicaState},
    lease,
    metrics::{self, PartitionGauges},
    state::{Context, PartitionMemory, State},
    status,
};
use snapshot_store::{core::HoldReason, format::StickyReason};
use std::time::Duration;

/// Exports all gauges.
pub(crate) fn export(ctx: &Context, state: &mut State, now: Moment) {
    for liveness in Liveness::ALL {
        let count = state
            .view
            .nodes
            .keys()
            .filter(|node| state.view.liveness(node, now) == *liveness)
            .count();
        metrics::nodes(*liveness, count);
    }
    let epoch = state.lease.lease.as_ref().map(|lease| lease.epoch);
    let standing = lease::standing(ctx, state, now);
    metrics::lease(standing.code, epoch.unwrap_or_default());
    for (part, age) in view_age(state, now).by_part() {
        metrics::view_age(part, age);
    }
    // A dry run acts on nothing, and says all it sees.
    let speaks = standing.code.acts() || standing.code == core::LeaseCode::DryRun;
    if speaks {
        export_cluster(ctx, state, now);
    } else if state.exported {
        withdraw(ctx, state);
    }
    state.exported = speaks;
}

fn export_cluster(ctx: &Context, state: &mut State, now: Moment) {
    if let core::ControlView::Known(control) = &state.view.control {
        metrics::pauses(control.pauses.len());
    }
    let progress = core::audit_progress(&state.view, state.audit.as_ref(), &ctx.policy(), now);
    let damaged = |partition: &&PartitionView| partition.holds.contains_key(&StickyReason::DamagedSnapshot);
    metrics::audit(
        progress.oldest_look,
        state.view.partitions.values().filter(damaged).count(),
    );
    let series = state.view.partitions.len() <= ctx.options.partition_series_max;
    let mut all = Vec::with_capacity(state.view.partitions.len());
    let mut held = Vec::new();
    for (id, partition) in &state.view.partitions {
        let Some(memory) = state.memory.get(id) else {
            continue;
        };
        let values = gauges(state, partition, memory, now);
        if series {
            metrics::partition(&id.to_string(), &values, memory.exported_hold);
            if memory.exported_hold != values.hold {
                held.push((*id, values.hold));
            }
        }
        all.push(values);
    }
    for (id, hold) in held {
        if let Some(memory) = state.memory.get_mut(&id) {
            memory.exported_hold = hold;
        }
    }
    metrics::totals(&all);
}

fn withdraw(ctx: &Context, state: &mut State) {
    metrics::withdraw_totals();
    if state.view.partitions.len() <= ctx.options.partition_series_max {
        for (id, memory) in &mut state.memory {
            metrics::withdraw_partition(&id.to_string(), memory.exported_hold.take());
        }
    }
}

fn gauges(
    state: &State,
    partition: &PartitionView,
    memory: &PartitionMemory,
    now: Moment,
) -> PartitionGauges {
    let facts = partition.log.map(|log| log.facts);
    let hold = hold_named(memory.trim_standing.code);
    PartitionGauges {
        archived: partition.archived().map(|entry| entry.lsn.get()),
        guard: status::guard(state, partition, memory).map(|lsn| lsn.get()),
        trim_point: facts.map(|facts| facts.trim_point.get()),
        tail: facts.map(|facts| facts.tail.get()),
        held_bytes: partition.log.and_then(|log| log.held_bytes),
        stored: memory.stored,
        hold,
        hold_age: hold.map_or(Duration::ZERO, |_| now.since(memory.trim_standing.since)),
        held_back: hold.is_some_and(|reason| reason != HoldReason::NothingToTrim),
        facts: condition_facts(state, partition, memory, now),
    }
}

/// Returns what the partition's condition is found by.
pub(crate) fn condition_facts(
    state: &State,
    partition: &PartitionView,
    memory: &PartitionMemory,
    now: Moment,
) -> ConditionFacts {
    let looked = core::Looked::at(&state.view, partition, now);
    let live = |replica: &&core::CountedReplica<'_>| replica.liveness == Liveness::Live;
    let active = |replica: &&core::CountedReplica<'_>| replica.report.state == ReplicaState::Active;
    ConditionFacts {
        known: partition.log.is_some() && matches!(partition.archive, core::ArchiveView::Known(_)),
        expected: partition.expected.len(),
        live: looked.replicas.iter().filter(live).count(),
        active: looked.replicas.iter().filter(live).filter(active).count(),
        led: core::live_leader_of(&looked).is_some(),
        held: hold_named(memory.trim_standing.code),
    }
}

fn hold_named(code: &str) -> Option<HoldReason> {
    HoldReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == code)
}

/// How old the parts of the view are; `None` for a part of which nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ViewAge {
    /// The oldest report of a node that counts.
    pub(crate) workers: Option<Duration>,
    /// The oldest answer of a log.
    pub(crate) logs: Option<Duration>,
    /// The pointer that was read longest ago.
    pub(crate) pointers: Option<Duration>,
    /// The control state.
    pub(crate) control: Option<Duration>,
    /// The lease.
    pub(crate) lease: Option<Duration>,
}

impl ViewAge {
    fn by_part(&self) -> [(&'static str, Option<Duration>); 5] {
        [
            ("workers", self.workers),
            ("logs", self.logs),
            ("pointers", self.pointers),
            ("control", self.control),
            ("lease", self.lease),
        ]
    }
}

/// Works out how old the view is.
pub(crate) fn view_age(state: &State, now: Moment) -> ViewAge {
    let age = |since: Option<Moment>| since.map(|since| now.since(since));
    let view = &state.view;
    let counted = view
        .nodes
        .iter()
        .filter(|(node, _)| view.liveness(node, now).counts());
    ViewAge {
        workers: age(counted.filter_map(|(_, node)| node.heard_at).min()),
        logs: age(view
            .partitions
            .values()
            .filter_map(|partition| Some(partition.log?.heard_at))
            .min()),
        pointers: age(state
            .memory
            .values()
            .filter_map(|memory| memory.pointer_read_at)
            .min()),
        control: age(state.control_read_at),
        lease: age(state.lease_read_at),
    }
}
