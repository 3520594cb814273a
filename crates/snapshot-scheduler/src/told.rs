//! What workers are told with each poll: the policy as far as they need it, and what keeps them from acting on it.

use crate::{
    core::{ClusterView, ControlView, Moment, PartitionView, Policy, PolicyOverride, reported_regression},
    lease,
    state::Context,
};
use snapshot_proto::v1;
use snapshot_store::{
    PartitionId,
    format::{PauseScope, StickyReason},
};

/// Returns what workers are told of the policy: by the admin that acts, so that two with different ones do not
/// contradict each other.
pub(crate) fn worker_policy(ctx: &Context) -> Option<v1::WorkerPolicy> {
    let state = ctx.lock();
    if !lease::standing(ctx, &state, ctx.now()).code.acts() {
        return None;
    }
    let (paused, paused_partitions) = pauses(&state.view, ctx.now());
    let policy = ctx.policy();
    Some(v1::WorkerPolicy {
        snapshot_after_records: policy.snapshot_after_records,
        snapshot_after_bytes: policy.snapshot_after_bytes,
        restorable_snapshots_min: policy.restorable_snapshots_min,
        paused,
        paused_partitions,
        overrides: policy.overrides.iter().map(|rule| told(&policy, rule)).collect(),
    })
}

/// Says an override with all its values: a worker need not know what it leaves out.
fn told(policy: &Policy, rule: &PolicyOverride) -> v1::ThresholdOverride {
    let thresholds = policy.thresholds(PartitionId::new(rule.first_partition));
    v1::ThresholdOverride {
        first_partition: rule.first_partition,
        last_partition: rule.last_partition,
        snapshot_after_records: thresholds.records,
        snapshot_after_bytes: thresholds.bytes,
    }
}

/// Returns whether the whole cluster is paused, and which partitions are for themselves. What keeps the admin from having
/// snapshots made also keeps workers from making them unasked.
fn pauses(view: &ClusterView, now: Moment) -> (bool, Vec<u32>) {
    let ControlView::Known(control) = &view.control else {
        // Not knowing counts as paused.
        return (true, Vec::new());
    };
    let cluster = control
        .pauses
        .iter()
        .any(|pause| pause.scope == PauseScope::Cluster);
    let is_paused = |(id, partition): &(&PartitionId, &PartitionView)| {
        let held = [StickyReason::LogRegressed, StickyReason::ChainMismatch];
        control.pause_of(**id).is_some()
            || held.iter().any(|reason| partition.holds.contains_key(reason))
            || reported_regression(view, partition, now).is_some()
    };
    let paused = view.partitions.iter().filter(is_paused);
    (cluster, paused.map(|(id, _)| id.get()).collect())
}
