//! What is looked at again although nobody asks for it, and when: damage done behind the system's back is found before
//! somebody needs the snapshot.
//!
//! ```text
//! pass    = every partition is looked at once: never looked at first, then the one that waited longest
//! begins  = audit.interval after the last one began, or when that one ends, whichever is later
//! content = of the restorable snapshots whose content was not read for audit.content_interval, the one that waited longest
//! ```
//!
//! A look asks for the pointer, and for manifest and listing of every snapshot it retains. Reading content is left to
//! workers. Not here: requests and their budget (`audit`), and what damage leads to (`decide_snapshot`, `trim_up_to`).

use super::{
    policy::{Policy, PolicyFault},
    view::{ClusterView, ControlView, Moment, PartitionView},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_store::{
    PartitionId, SnapshotId, Timestamp,
    core::SnapshotTrust,
    format::{PointerEntry, VerifyLevel},
};
use std::{collections::BTreeMap, time::Duration};

/// How published snapshots are audited: the `[policy.audit]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditPolicy {
    /// Distance of the beginnings of two passes over all partitions, in milliseconds; 0 switches them off. A pass that
    /// takes longer is followed by the next one without a pause.
    ///
    /// Safety does not rest on it: every trim looks for itself. It is how long a lost object goes unnoticed, and on a
    /// cloud store it is money: at ten minutes, 1000 partitions with two snapshots each cost some 720000 requests a day, two
    /// fifths of them listings. Default: 600000 (10 minutes). Since 0.1.
    pub interval_ms: u64,
    /// Requests to the store that an audit may make in a second. A partition costs one for its pointer, and two for each
    /// snapshot up to 1000 files, one more for every further 1000.
    ///
    /// 20 is a hundredth of what a prefix of S3 serves, and nothing that a restore would notice; it looks at four
    /// partitions in a second, at 2400 in the default interval. Default: 20. Since 0.1.
    pub requests_per_second: u32,
    /// How many partitions are looked at at the same time, at most 64.
    ///
    /// Four keep the default budget busy up to 200 ms for a request, and leave a slow store with four open requests.
    /// Default: 4. Since 0.1.
    pub concurrency_max: u32,
    /// How old a reading of a restorable snapshot's whole content may become before a worker reads it again, in
    /// milliseconds; 0 never has it read again.
    ///
    /// Only reading finds a changed byte. A week reads each stored byte about fifty times a year: a terabyte costs
    /// 1.7 MB/s on average. Default: 604800000 (7 days). Since 0.1.
    pub content_interval_ms: u64,
    /// How many snapshots are read again at the same time in the whole cluster; those that a trim waits for are not
    /// counted, and come first.
    ///
    /// One leaves disks and network of the workers to what is more urgent. Default: 1. Since 0.1.
    pub content_max: u32,
}

impl Default for AuditPolicy {
    fn default() -> Self {
        AuditPolicy {
            interval_ms: 600_000,
            requests_per_second: 20,
            concurrency_max: 4,
            content_interval_ms: 604_800_000,
            content_max: 1,
        }
    }
}

impl AuditPolicy {
    /// The most partitions that can be looked at at the same time.
    pub const CONCURRENCY_MAX: u32 = 64;

    pub(super) fn faults(&self) -> Vec<PolicyFault> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, key: &'static str, fault: &str| {
            if !ok {
                faults.push(PolicyFault::new(key, fault));
            }
        };
        check(
            self.requests_per_second >= 1,
            "policy.audit.requests_per_second",
            "is 0: nothing could ever be looked at; expected 1 or more, or interval_ms = 0 for no audit",
        );
        check(
            (1..=Self::CONCURRENCY_MAX).contains(&self.concurrency_max),
            "policy.audit.concurrency_max",
            "is not 1 to 64",
        );
        check(
            self.content_max >= 1,
            "policy.audit.content_max",
            "is 0: nothing could ever be read; expected 1 or more, or content_interval_ms = 0 for never",
        );
        faults
    }

    /// Returns the distance of two passes; `None` when there are none.
    pub fn interval(&self) -> Option<Duration> {
        (self.interval_ms > 0).then(|| Duration::from_millis(self.interval_ms))
    }

    /// Returns how old a reading may become; `None` when none is ever repeated.
    pub fn content_interval(&self) -> Option<Duration> {
        (self.content_interval_ms > 0).then(|| Duration::from_millis(self.content_interval_ms))
    }
}

/// The present moment by both clocks: the scheduler's own, and the one that stored objects are dated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instants {
    /// On the scheduler's monotonic clock.
    pub now: Moment,
    /// On the wall clock.
    pub clock: Timestamp,
}

/// When the whole content of a snapshot was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAge {
    learned: Moment,
    age_then: Duration,
}

impl ReadAge {
    /// A reading that was finished at `read_at` by the wall clock of whoever did it. One that lies ahead counts as read
    /// now: a clock that is wrong puts the next reading off by one interval at most.
    pub fn new(read_at: Timestamp, instants: Instants) -> Self {
        ReadAge {
            learned: instants.now,
            age_then: instants.clock.since(read_at),
        }
    }

    /// Returns how long ago it was.
    pub fn age(self, now: Moment) -> Duration {
        now.since(self.learned).saturating_add(self.age_then)
    }
}

/// What the audit remembers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditMemory {
    /// When the last look that came to a result began.
    pub looked_at: Option<Moment>,
    /// No look before this moment, because the store did not answer.
    pub not_before: Moment,
    /// Looks in a row that came to no result.
    pub failures: u32,
    /// When it was left to the next pass, after [`AUDIT_TRIES`] looks without a result.
    pub given_up_at: Option<Moment>,
    /// When the content of its snapshots was read last.
    pub read: BTreeMap<SnapshotId, ReadAge>,
    /// A worker reads one of them again now.
    pub reading: bool,
}

/// Looks at one partition without a result after which it is left to the next pass: one that cannot be looked at keeps no
/// other one from being looked at again.
pub const AUDIT_TRIES: u32 = 3;

impl AuditMemory {
    /// Notes a look that began at `begun` and came to a result.
    pub fn looked(&mut self, begun: Moment) {
        self.failures = 0;
        self.looked_at = Some(begun);
    }

    /// Notes a look that came to none; there is no other one for `pause`.
    pub fn failed(&mut self, now: Moment, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus(pause);
        if self.failures.is_multiple_of(AUDIT_TRIES) {
            self.given_up_at = Some(now);
        }
    }
}

/// One pass over all partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPass {
    /// When it began.
    pub begun: Moment,
    /// How long it took; `None` while it is under way.
    pub took: Option<Duration>,
}

/// What the audit does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditStep {
    /// Begin a pass.
    Begin,
    /// Look at these partitions, in this order.
    Look(Vec<PartitionId>),
    /// The pass is over.
    End {
        /// Whether every partition was looked at; otherwise some are left to the next one.
        complete: bool,
    },
    /// Nothing now.
    Wait(AuditWait),
}

/// Why the audit does nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditWait {
    /// Passes are switched off.
    Off,
    /// Another admin acts.
    Standby,
    /// The last pass is over, and the next one is not due.
    Resting,
    /// The rest of the pass waits for a store that did not answer.
    Retrying,
}

/// Decides what the audit does next. `pass` is the last one of this admin; a look at no more than `room` partitions is
/// begun.
pub fn decide_audit(
    view: &ClusterView,
    pass: Option<&AuditPass>,
    policy: &AuditPolicy,
    now: Moment,
    room: usize,
) -> AuditStep {
    let Some(interval) = policy.interval() else {
        return AuditStep::Wait(AuditWait::Off);
    };
    if view.standby.is_some() {
        return AuditStep::Wait(AuditWait::Standby);
    }
    let Some(pass) = pass else {
        return AuditStep::Begin;
    };
    if pass.took.is_some() {
        return match now.since(pass.begun) >= interval {
            true => AuditStep::Begin,
            false => AuditStep::Wait(AuditWait::Resting),
        };
    }
    let mut left: Vec<(Option<Moment>, PartitionId, Moment)> = view
        .partitions
        .iter()
        .filter(|(_, partition)| {
            let audit = &partition.audit;
            audit.looked_at.max(audit.given_up_at) < Some(pass.begun)
        })
        .map(|(id, partition)| (partition.audit.looked_at, *id, partition.audit.not_before))
        .collect();
    if left.is_empty() {
        let looked_at = |partition: &PartitionView| partition.audit.looked_at >= Some(pass.begun);
        let complete = view.partitions.values().all(looked_at);
        return AuditStep::End { complete };
    }
    left.retain(|(_, _, not_before)| now >= *not_before);
    if left.is_empty() {
        return AuditStep::Wait(AuditWait::Retrying);
    }
    left.sort_unstable();
    AuditStep::Look(left.into_iter().map(|(_, id, _)| id).take(room).collect())
}

/// Returns the restorable snapshot whose content waits longest for being read again, and how long ago it was read; one
/// that nobody has read comes first. `None` when none is due, or the partition is paused.
///
/// What a trim demands to be read is not its business, nor what was found damaged.
pub fn content_due<'a>(
    view: &ClusterView,
    id: PartitionId,
    partition: &'a PartitionView,
    policy: &Policy,
    now: Moment,
) -> Option<(Duration, &'a PointerEntry)> {
    let interval = policy.audit.content_interval()?;
    let paused = !matches!(&view.control, ControlView::Known(control) if control.pause_of(id).is_none());
    if paused || view.standby.is_some() || partition.verifying.is_some() {
        return None;
    }
    let wanted = policy.restorable_snapshots_min.max(1) as usize;
    let due = partition.entries().into_iter().take(wanted).filter_map(|entry| {
        let settled = match partition.trust.get(&entry.snapshot_id) {
            Some(SnapshotTrust::Damaged) => false,
            Some(SnapshotTrust::Verified(level)) => *level >= policy.verify_before_trim,
            None => policy.verify_before_trim == VerifyLevel::Presence,
        };
        let read = partition.audit.read.get(&entry.snapshot_id);
        let age = read.map_or(Duration::MAX, |read| read.age(now));
        (settled && age >= interval).then_some((age, entry))
    });
    due.max_by_key(|(age, _)| *age)
}

/// How far the audit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditProgress {
    /// How long ago the partition that waits longest was looked at; since the start where one never was.
    pub oldest_look: Duration,
    /// Partitions looked at in the present or last pass.
    pub looked_at: usize,
    /// How long ago the restorable snapshot that waits longest was read; `None` where one was not read yet, or there is none.
    pub oldest_read: Option<Duration>,
}

/// Returns how far the audit is.
pub fn audit_progress(
    view: &ClusterView,
    pass: Option<&AuditPass>,
    policy: &Policy,
    now: Moment,
) -> AuditProgress {
    let wanted = policy.restorable_snapshots_min.max(1) as usize;
    let mut progress = AuditProgress::default();
    let (mut oldest_read, mut all_read) = (None, true);
    for partition in view.partitions.values() {
        let looked_at = partition.audit.looked_at;
        progress.oldest_look = progress.oldest_look.max(now.since(looked_at.unwrap_or_default()));
        progress.looked_at += usize::from(pass.is_some_and(|pass| looked_at >= Some(pass.begun)));
        for entry in partition.entries().into_iter().take(wanted) {
            match partition.audit.read.get(&entry.snapshot_id) {
                Some(read) => oldest_read = oldest_read.max(Some(read.age(now))),
                None => all_read = false,
            }
        }
    }
    progress.oldest_read = oldest_read.filter(|_| all_read);
    progress
}
