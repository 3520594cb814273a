//! What to do next, and for every partition why the rest is not done.

use super::{
    audit, evidence,
    leadership::{self, LeadershipDecision},
    looked::{Looked, Nodes},
    policy::Policy,
    reason::{LeadershipCode, Reason, SnapshotCode, VerifyCause},
    snapshot::{self, Budget, SnapshotCommand, SnapshotDecision, SnapshotStep},
    view::{ClusterView, ControlView, Liveness, Moment, PartitionView, TrimHint},
};
use snapshot_store::{
    Entropy, Lsn, NodeId, PartitionId, SnapshotId,
    core::{HoldReason, SnapshotTrust},
    format::{PointerEntry, StickyReason, VerifyLevel},
};
use std::{collections::BTreeMap, time::Duration};

/// How many verifications run at a time in the whole cluster: each reads a whole snapshot on some worker.
pub const VERIFIES_MAX: usize = 4;
/// How many trims run at a time.
pub const TRIMS_MAX: usize = 8;
/// Shortest distance of two looks at the same snapshots, so that a slowly advancing replica does not cause a
/// certificate with every tick.
pub const TRIM_SPACING: Duration = Duration::from_secs(5);
/// Longest distance of two looks, so that a change nobody reported is found.
pub const TRIM_RECHECK: Duration = Duration::from_secs(60);
/// The same where there was nothing to trim and nothing was wrong. Changes in the store are the audit's to find, within
/// its budget; most partitions of a large cluster are idle.
pub const TRIM_RECHECK_IDLE: Duration = Duration::from_secs(3600);

/// One thing to do. Leaves the executor nothing to choose, and can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask a worker for a snapshot.
    CreateSnapshot(SnapshotCommand),
    /// Let the leader append a record that changes nothing.
    AppendNoop {
        /// The partition.
        partition: PartitionId,
        /// Its leader.
        node: NodeId,
    },
    /// Let a worker check a published snapshot.
    Verify {
        /// The partition.
        partition: PartitionId,
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// Who checks it.
        node: NodeId,
        /// How thoroughly.
        level: VerifyLevel,
        /// Why.
        cause: VerifyCause,
    },
    /// Read everything afresh and trim as far as the rule then allows.
    Trim {
        /// The partition.
        partition: PartitionId,
        /// What made it worthwhile.
        hint: TrimHint,
    },
    /// Ask a node to announce itself as leader.
    Lead {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
}

impl Command {
    /// Returns the partition it is for.
    pub fn partition(&self) -> PartitionId {
        match self {
            Command::CreateSnapshot(command) => command.partition,
            Command::AppendNoop { partition, .. }
            | Command::Verify { partition, .. }
            | Command::Trim { partition, .. }
            | Command::Lead { partition, .. } => *partition,
        }
    }

    /// Returns the word used in plan previews.
    pub const fn action(&self) -> &'static str {
        match self {
            Command::CreateSnapshot(_) => "create-snapshot",
            Command::AppendNoop { .. } => "append-noop",
            Command::Verify { .. } => "verify",
            Command::Trim { .. } => "trim",
            Command::Lead { .. } => "lead",
        }
    }
}

/// The decisions about one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlan {
    /// About a snapshot.
    pub snapshot: SnapshotDecision,
    /// About who leads.
    pub leadership: LeadershipDecision,
    /// What keeps the log from being looked at for trimming; `None` when nothing does.
    pub trim_hold: Option<(HoldReason, String)>,
    /// Sticky holds that the view newly justifies.
    pub new_hold: Option<(StickyReason, String)>,
}

impl PartitionPlan {
    /// Returns the snapshot decision in words.
    pub fn snapshot_reason(&self) -> Reason {
        let code = self.snapshot.code;
        Reason {
            code: code.as_str(),
            detail: self.snapshot.detail.clone(),
            remedy: code.remedy(),
        }
    }

    /// Returns the leadership decision in words.
    pub fn leadership_reason(&self) -> Reason {
        let code: LeadershipCode = self.leadership.code;
        Reason {
            code: code.as_str(),
            detail: self.leadership.detail.clone(),
            remedy: code.remedy(),
        }
    }

    /// Returns whether a snapshot is due and no non-leader could be asked.
    pub fn followers_unavailable(&self) -> bool {
        matches!(
            self.snapshot.code,
            SnapshotCode::FollowersBusy | SnapshotCode::FollowersBehind
        )
    }
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub commands: Vec<Command>,
    /// Why, for every partition.
    pub partitions: BTreeMap<PartitionId, PartitionPlan>,
}

/// Decides what to do next. Changes nothing: equal arguments (and an equally seeded `entropy`) give equal plans.
pub fn plan(view: &ClusterView, policy: &Policy, now: Moment, entropy: &Entropy) -> Plan {
    let mut plan = Plan::default();
    let mut budget = Budget::new(view, policy);
    let nodes = Nodes::of(view, now);
    let mut counts = leadership::Counts::default();
    let look = |(id, partition): (&PartitionId, _)| {
        let looked = nodes.look(partition);
        counts.note(&looked);
        (snapshot::records_due(&looked), *id, looked)
    };
    let mut order: Vec<(u64, PartitionId, Looked<'_>)> = view.partitions.iter().map(look).collect();
    let running = |count: fn(&PartitionView) -> bool| view.partitions.values().filter(|p| count(p)).count();
    let mut verifies_left = VERIFIES_MAX.saturating_sub(running(|p| p.verifying.is_some()));
    let mut trims_left = TRIMS_MAX.saturating_sub(running(|p| p.trim.running));

    let reading = running(|p| p.audit.reading);
    let mut rereads: Vec<(Duration, PartitionId, &Looked<'_>, &PointerEntry)> = Vec::new();

    // The partition with the most to replay comes first; with equal ones, the lower number.
    order.sort_by_key(|(records, _, _)| std::cmp::Reverse(*records));

    let mut planned = Vec::with_capacity(order.len());
    for (_, id, looked) in &order {
        let (id, partition) = (*id, looked.partition);
        let snapshot = snapshot::decide_looked(looked, id, policy, &mut budget, entropy, None);
        match &snapshot.step {
            SnapshotStep::Order(command) => plan.commands.push(Command::CreateSnapshot(command.clone())),
            SnapshotStep::AppendNoop { node } if !policy.dry_run => {
                plan.commands.push(Command::AppendNoop {
                    partition: id,
                    node: node.clone(),
                });
            }
            SnapshotStep::AppendNoop { .. } | SnapshotStep::Wait => {}
        }
        let mut leadership = leadership::decide_leadership(looked, &mut counts, entropy);
        if policy.dry_run && leadership.node.take().is_some() {
            leadership.code = LeadershipCode::DryRun;
        }
        if let Some(node) = &leadership.node {
            plan.commands.push(Command::Lead {
                partition: id,
                node: node.clone(),
            });
        }
        if verifies_left > 0 {
            if let Some(command) = verification(looked, id, policy, entropy) {
                verifies_left -= 1;
                plan.commands.push(command);
            } else if let Some((age, entry)) = audit::content_due(view, id, partition, policy, now) {
                rereads.push((age, id, looked, entry));
            }
        }
        let trim_hold = local_hold(looked, id);
        if trims_left > 0 && trim_hold.is_none() && !partition.trim.running {
            let hint = trim_hint(looked, policy);
            if worth_a_look(partition, &hint, now) {
                trims_left -= 1;
                plan.commands.push(Command::Trim { partition: id, hint });
            }
        }
        let new_hold =
            snapshot::new_chain_mismatch(looked).map(|detail| (StickyReason::ChainMismatch, detail));
        let decisions = PartitionPlan {
            snapshot,
            leadership,
            trim_hold,
            new_hold,
        };
        planned.push((id, decisions));
    }
    // What a trim waits for comes first; the audit takes what is left, longest unread first.
    rereads.sort_by_key(|(age, id, ..)| (std::cmp::Reverse(*age), *id));
    let room = (policy.audit.content_max as usize).saturating_sub(reading);
    let level = policy.verify_before_trim.max(VerifyLevel::Content);
    let commands = rereads.into_iter().filter_map(|(_, id, looked, entry)| {
        Some(Command::Verify {
            partition: id,
            snapshot_id: entry.snapshot_id,
            node: checker(looked, entry, entropy)?,
            level,
            cause: VerifyCause::Audit,
        })
    });
    plan.commands.extend(commands.take(room.min(verifies_left)));
    plan.partitions = planned.into_iter().collect();
    plan
}

/// Returns why the log is not even looked at: reasons that need no request to the store.
fn local_hold(looked: &Looked<'_>, id: PartitionId) -> Option<(HoldReason, String)> {
    let (view, partition) = (looked.view, looked.partition);
    if let Some(detail) = &view.standby {
        return Some((HoldReason::Standby, detail.clone()));
    }
    match &view.control {
        ControlView::Unread => {
            return Some((
                HoldReason::ControlUnreadable,
                "control.json was not read yet".to_owned(),
            ));
        }
        ControlView::Unreadable(detail) => return Some((HoldReason::ControlUnreadable, detail.clone())),
        ControlView::Known(control) => {
            if let Some(pause) = control.pause_of(id) {
                let detail = format!("{} paused by {}: {}", pause.scope, pause.by, pause.reason);
                return Some((HoldReason::Paused, detail));
            }
        }
    }
    if let Some(hold) = evidence::evidence_hold(looked) {
        return Some(hold);
    }
    if let Some(hold) = evidence::view_hold(looked) {
        return Some(hold);
    }
    if let Some(error) = &partition.log_error {
        return Some((HoldReason::LogUnavailable, error.clone()));
    }
    if looked.replicas.is_empty() {
        let detail = format!("none of {} expected replicas is live", partition.expected.len());
        return Some((HoldReason::NoLiveReplica, detail));
    }
    None
}

/// Returns the newest snapshots that a trim would rest on.
fn restorable<'a>(
    partition: &'a PartitionView,
    policy: &Policy,
) -> impl Iterator<Item = &'a PointerEntry> + use<'a> {
    let wanted = policy.restorable_snapshots_min.max(1) as usize;
    partition.entries().take(wanted)
}

/// Returns the next check of a restorable snapshot that is needed before a trim may rest on it.
fn verification(looked: &Looked<'_>, id: PartitionId, policy: &Policy, entropy: &Entropy) -> Option<Command> {
    let (view, partition) = (looked.view, looked.partition);
    let paused = !matches!(&view.control, ControlView::Known(control) if control.pause_of(id).is_none());
    if partition.verifying.is_some() || paused || view.standby.is_some() {
        return None;
    }
    let (entry, level, cause) = restorable(partition, policy).find_map(|entry| {
        // What a worker reports as damaged is looked at in full, whatever the policy.
        if partition.suspected.contains(&entry.snapshot_id) {
            let level = policy.verify_before_trim.max(VerifyLevel::Content);
            return Some((entry, level, VerifyCause::Report));
        }
        let wanted = policy.verify_before_trim;
        let settled = match partition.trust.get(&entry.snapshot_id) {
            Some(SnapshotTrust::Verified(level)) => *level >= wanted,
            Some(SnapshotTrust::Damaged) => true,
            // Presence is checked by the admin itself, right before each trim.
            None => wanted == VerifyLevel::Presence,
        };
        (!settled).then_some((entry, wanted, VerifyCause::Trim))
    })?;
    Some(Command::Verify {
        partition: id,
        snapshot_id: entry.snapshot_id,
        node: checker(looked, entry, entropy)?,
        level,
        cause,
    })
}

/// Returns who checks a snapshot: a live worker that did not make it, else the one that did.
fn checker(looked: &Looked<'_>, entry: &PointerEntry, entropy: &Entropy) -> Option<NodeId> {
    let (partition, now) = (looked.partition, looked.now);
    let askable = |node: &&NodeId| {
        looked.liveness(node) == Liveness::Live
            && partition
                .verify_backoff
                .get(*node)
                .is_none_or(|not_before| now >= *not_before)
    };
    let others: Vec<&NodeId> = partition
        .expected
        .iter()
        .filter(|node| **node != entry.node)
        .filter(askable)
        .collect();
    match entropy.below(others.len()) {
        Some(index) => Some(others[index].clone()),
        None => partition
            .expected
            .iter()
            .filter(askable)
            .find(|node| **node == entry.node)
            .cloned(),
    }
}

/// Returns how far the cached values would allow a trim. Only a hint for when to look.
pub fn trim_hint(looked: &Looked<'_>, policy: &Policy) -> TrimHint {
    let partition = looked.partition;
    let restorable = || restorable(partition, policy);
    let enough = restorable().count() >= policy.restorable_snapshots_min.max(1) as usize;
    let guard_lsn = restorable().map(|entry| entry.lsn).min().filter(|_| enough);
    let needed = looked
        .replicas
        .iter()
        .filter_map(|replica| replica.report.needed_lsn)
        .filter(|needed| {
            guard_lsn.is_none_or(|guard| guard.records_since(*needed) <= policy.held_records_max)
        })
        .min();
    let last = partition
        .log
        .map(|log| log.facts.tail.prev().minus(policy.retain_records));
    let up_to = [guard_lsn, needed.or(guard_lsn), last]
        .into_iter()
        .flatten()
        .min()
        .filter(|_| enough);
    let trusted = |entry: &&PointerEntry| match partition.trust.get(&entry.snapshot_id) {
        Some(SnapshotTrust::Verified(level)) => *level >= policy.verify_before_trim,
        Some(SnapshotTrust::Damaged) | None => false,
    };
    TrimHint {
        write_id: partition.pointer().map(|pointer| pointer.write_id),
        verified: restorable().filter(trusted).count(),
        damaged: restorable()
            .filter(|entry| partition.is_damaged(entry.snapshot_id))
            .count(),
        guard_lsn,
        up_to: up_to.unwrap_or(Lsn::ZERO),
        holds: partition.holds.len(),
    }
}

/// Returns whether reading everything afresh may lead to another answer than last time.
fn worth_a_look(partition: &PartitionView, hint: &TrimHint, now: Moment) -> bool {
    let memory = &partition.trim;
    if now < memory.not_before {
        return false;
    }
    let Some((looked_at, last)) = &memory.looked else {
        return true;
    };
    let snapshots_changed = (hint.write_id, hint.verified, hint.damaged, hint.holds)
        != (last.write_id, last.verified, last.damaged, last.holds);
    let trim_point = partition.log.map_or(Lsn::ZERO, |log| log.facts.trim_point);
    let reaches_guard =
        hint.guard_lsn == Some(hint.up_to) && last.up_to < hint.up_to && hint.up_to > trim_point;
    let silence = now.since(*looked_at);
    let silence_max = match memory.idle {
        true => TRIM_RECHECK_IDLE,
        false => TRIM_RECHECK,
    };
    snapshots_changed
        || reaches_guard
        || (hint.up_to > trim_point && silence >= TRIM_SPACING)
        || silence >= silence_max
}
