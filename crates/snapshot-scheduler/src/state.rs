//! What the running parts of the scheduler share. The lock is held for short, synchronous sections only.

use crate::{
    client::WorkerSpec,
    cluster_log::ClusterLog,
    core::{
        ArchiveView, AuditPass, Candidate, ClusterView, ControlView, Instants, LeaseView, Moment, NodeView,
        PartitionView, Plan, Policy, ReadAge, SchedulerOptions, TrimStatus,
    },
    metrics::StoredBytes,
    reload::{PolicySource, PolicyState},
    verify,
    workers::{self, Workers},
};
use snapshot_proto::v1;
use snapshot_store::{
    ClusterIdentity, Lsn, NodeId, PartitionId, Repository, Seams, SnapshotId, StoreKind, Timestamp,
    Versioned,
    core::{HoldReason, SnapshotTrust},
    format::{Certificate, Control, Lease, Pointer, StickyReason, VerifyLevel},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// First wait after a failure; doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// How long a pointer that is not ours is believed to be there still.
const FOREIGN_AGE_MAX: Duration = Duration::from_secs(5);
/// Longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Everything the parts of one scheduler share.
pub(crate) struct Context {
    pub(crate) admin: NodeId,
    /// Where operators reach this admin, if that is known.
    pub(crate) address: Option<String>,
    /// Who it is to the lease; `None` where none is used.
    pub(crate) candidate: Option<Candidate>,
    pub(crate) cluster: ClusterIdentity,
    pub(crate) log: Arc<dyn ClusterLog>,
    pub(crate) repository: Repository,
    pub(crate) seams: Seams,
    pub(crate) options: SchedulerOptions,
    /// The policy in force; replaced as a whole.
    pub(crate) policy: RwLock<Arc<Policy>>,
    pub(crate) policy_source: Option<Arc<dyn PolicySource>>,
    /// The workers; replaced as a whole, under the lock of `state`.
    pub(crate) workers: RwLock<Arc<Workers>>,
    pub(crate) started: Instant,
    pub(crate) state: Mutex<State>,
    /// One trim at a time for each partition, by policy and by operators together.
    pub(crate) trim_locks: BTreeMap<PartitionId, tokio::sync::Mutex<()>>,
    /// Brings the next plan forward.
    pub(crate) wake: Notify,
    /// Brings the next polls of workers forward.
    pub(crate) poll_wake: Notify,
    /// Brings the next store reads forward.
    pub(crate) store_wake: Notify,
    /// Number of the last tick.
    pub(crate) ticks: watch::Sender<u64>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    pub(crate) fn instants(&self) -> Instants {
        Instants {
            now: self.now(),
            clock: self.seams.clock.now(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the policy in force. Whoever decides several things by it asks once.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Returns the wait after `failures` failures in a row, jittered.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(BACKOFF_MAX).mul_f64(self.seams.entropy.jitter(0.2))
    }

    /// Returns whether snapshots that nothing depends on are deleted after a trim.
    pub(crate) fn prunes(&self) -> bool {
        self.policy()
            .prune
            .unwrap_or_else(|| self.repository.kind() == StoreKind::File)
    }

    /// Returns the workers there are now.
    pub(crate) fn workers(&self) -> Arc<Workers> {
        self.workers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn worker(&self, node: &NodeId) -> Option<WorkerSpec> {
        self.workers().get(node).cloned()
    }

    pub(crate) fn replace_workers(&self, workers: Workers) {
        *self.workers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(workers);
    }
}

/// A word and since when it has been the answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) code: &'static str,
    pub(crate) since: Moment,
}

impl Standing {
    /// Notes the answer of this tick; returns whether it is a new one.
    pub(crate) fn note(&mut self, code: &'static str, now: Moment) -> bool {
        let changed = self.code != code;
        if changed {
            *self = Standing { code, since: now };
        }
        changed
    }
}

/// A check that a snapshot passed.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) level: VerifyLevel,
    pub(crate) by: NodeId,
    pub(crate) at: Timestamp,
}

/// What is remembered of a worker between polls.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMemory {
    pub(crate) generation: String,
    /// Generations this node had before; their late replies are dropped.
    pub(crate) retired: VecDeque<String>,
    pub(crate) version: u64,
    pub(crate) polling: bool,
    pub(crate) replicas: BTreeMap<PartitionId, v1::ReplicaStatus>,
}

/// What is remembered of a partition besides the view.
#[derive(Clone, Debug)]
pub(crate) struct PartitionMemory {
    /// The pointer is to be read.
    pub(crate) pointer_wanted: bool,
    pub(crate) pointer_not_before: Moment,
    pub(crate) pointer_failures: u32,
    pub(crate) pointer_read_at: Option<Moment>,
    /// Highest archived LSN that was followed to the pointer.
    pub(crate) pointer_hint: Lsn,
    /// Trim point of the certificate as read last.
    pub(crate) certified: Option<Lsn>,
    /// The certificate as read last, where it names snapshots that the pointer does not.
    pub(crate) unretained: Option<Arc<Certificate>>,
    /// Passed checks of the snapshots in the pointer.
    pub(crate) checks: BTreeMap<SnapshotId, Check>,
    /// What was found wrong with damaged ones.
    pub(crate) damage: BTreeMap<SnapshotId, String>,
    /// Reports of damage that a check refuted.
    pub(crate) dismissed: BTreeSet<(SnapshotId, NodeId)>,
    /// Times in a row the log was found to end below what replicas hold.
    pub(crate) regressed: u32,
    /// Failures in a row of each node to make a snapshot of this partition.
    pub(crate) failures: BTreeMap<NodeId, u32>,
    /// What the store held of it after the last trim.
    pub(crate) stored: Option<StoredBytes>,
    /// The reason it is exported as held for.
    pub(crate) exported_hold: Option<HoldReason>,
    pub(crate) trim: TrimStatus,
    pub(crate) trim_lines: Vec<String>,
    pub(crate) snapshot_standing: Standing,
    pub(crate) trim_standing: Standing,
    pub(crate) leadership_standing: Standing,
}

impl Default for PartitionMemory {
    fn default() -> Self {
        PartitionMemory {
            pointer_wanted: true,
            pointer_not_before: Moment::default(),
            pointer_failures: 0,
            pointer_read_at: None,
            pointer_hint: Lsn::ZERO,
            certified: None,
            unretained: None,
            checks: BTreeMap::new(),
            damage: BTreeMap::new(),
            dismissed: BTreeSet::new(),
            regressed: 0,
            failures: BTreeMap::new(),
            stored: None,
            exported_hold: None,
            trim: TrimStatus::Pending,
            trim_lines: Vec::new(),
            snapshot_standing: Standing::default(),
            trim_standing: Standing::default(),
            leadership_standing: Standing::default(),
        }
    }
}

/// The changing part.
pub(crate) struct State {
    pub(crate) view: ClusterView,
    pub(crate) nodes: BTreeMap<NodeId, NodeMemory>,
    pub(crate) memory: BTreeMap<PartitionId, PartitionMemory>,
    /// Sticky holds that are not in control.json yet.
    pub(crate) pending_holds: BTreeMap<(PartitionId, StickyReason), String>,
    pub(crate) control_read_at: Option<Moment>,
    pub(crate) lease: LeaseView,
    /// The lease as read or written last, with what a conditional put needs.
    pub(crate) lease_version: Option<Versioned<Lease>>,
    /// When the lease was read or written last.
    pub(crate) lease_read_at: Option<Moment>,
    /// How many of the newest snapshots a trim rests on, by the policy.
    pub(crate) restorable_min: usize,
    pub(crate) policy: PolicyState,
    /// The present pass of the audit, or the last one.
    pub(crate) audit: Option<AuditPass>,
    /// The last pass of the audit that was completed, and how many were.
    pub(crate) audited: Option<(u64, Duration)>,
    pub(crate) plan: Plan,
    pub(crate) tick: u64,
    /// Whether gauges of the whole cluster were exported by the last tick.
    pub(crate) exported: bool,
}

impl State {
    pub(crate) fn new(
        cluster: &ClusterIdentity,
        partitions: u32,
        workers: &Workers,
        options: &SchedulerOptions,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let mut expected = workers::expected(workers);
        let mut partition = |id| PartitionView::new(expected.remove(&id).unwrap_or_default());
        let ids = || (0..partitions).map(PartitionId::new);
        State {
            view: ClusterView {
                fingerprint: cluster.fingerprint,
                timing: options.timing(),
                assign_leaders: options.assign_leaders,
                standby: None,
                nodes: workers
                    .keys()
                    .map(|node| (node.clone(), NodeView::default()))
                    .collect(),
                partitions: ids().map(|id| (id, partition(id))).collect(),
                control: ControlView::Unread,
            },
            nodes: workers
                .keys()
                .map(|node| (node.clone(), NodeMemory::default()))
                .collect(),
            memory: ids().map(|id| (id, PartitionMemory::default())).collect(),
            pending_holds: BTreeMap::new(),
            control_read_at: None,
            lease: LeaseView::default(),
            lease_version: None,
            lease_read_at: None,
            restorable_min: policy.restorable_snapshots_min.max(1) as usize,
            policy: PolicyState {
                revision: 1,
                since: now,
                refused: None,
            },
            audit: None,
            audited: None,
            plan: Plan::default(),
            tick: 0,
            exported: false,
        }
    }

    /// Returns view and memory of a partition together; `None` when there is no such partition.
    pub(crate) fn partition(
        &mut self,
        id: PartitionId,
    ) -> Option<(&mut PartitionView, &mut PartitionMemory)> {
        Some((self.view.partitions.get_mut(&id)?, self.memory.get_mut(&id)?))
    }

    /// Asks for the pointer to be read again, if `archived` is news; returns whether it is.
    pub(crate) fn follow_archived(&mut self, id: PartitionId, archived: Lsn) -> bool {
        let Some((view, memory)) = self.partition(id) else {
            return false;
        };
        let known = view
            .pointer()
            .and_then(|pointer| pointer.latest())
            .map_or(Lsn::ZERO, |entry| entry.lsn);
        let news = archived > known && archived > memory.pointer_hint;
        if news {
            memory.pointer_hint = archived;
            memory.pointer_wanted = true;
            memory.pointer_not_before = Moment::default();
            view.archive_stale = true;
        }
        news
    }

    /// Takes over pointer and certificate as just read.
    pub(crate) fn apply_pointer(
        &mut self,
        id: PartitionId,
        pointer: Option<Pointer>,
        certificate: Option<&Certificate>,
        instants: Instants,
    ) {
        let ours = self.view.fingerprint;
        let Some((view, memory)) = self.partition(id) else {
            return;
        };
        // Nothing is ordered by what is not ours, and so nobody would report that it was taken away.
        memory.pointer_wanted = pointer
            .as_ref()
            .is_some_and(|pointer| pointer.cluster.fingerprint != ours || pointer.partition != id);
        if memory.pointer_wanted {
            memory.pointer_not_before = instants.now.plus(FOREIGN_AGE_MAX);
        }
        memory.pointer_failures = 0;
        memory.pointer_read_at = Some(instants.now);
        memory.certified = certificate.map(|certificate| certificate.up_to);
        memory.unretained = certificate
            .filter(|certificate| certificate.unretained(pointer.as_ref()).next().is_some())
            .map(|certificate| Arc::new(certificate.clone()));
        view.archive_stale = false;
        let kept: BTreeSet<SnapshotId> = pointer
            .iter()
            .flat_map(|pointer| &pointer.snapshots)
            .map(|entry| entry.snapshot_id)
            .collect();
        memory.checks.retain(|snapshot, _| kept.contains(snapshot));
        memory.damage.retain(|snapshot, _| kept.contains(snapshot));
        memory.dismissed.retain(|(snapshot, _)| kept.contains(snapshot));
        view.trust.retain(|snapshot, _| kept.contains(snapshot));
        view.manifests.retain(|snapshot, _| kept.contains(snapshot));
        view.audit.read.retain(|snapshot, _| kept.contains(snapshot));
        if let (Some(pointer), Some(certificate)) = (&pointer, certificate) {
            verify::trust_certificate(view, memory, pointer, certificate, instants);
        }
        view.archive = ArchiveView::Known(pointer);
        self.refresh_suspected(id);
    }

    /// Looks again at which retained snapshots workers report as damaged and nobody has checked since.
    pub(crate) fn refresh_suspected(&mut self, id: PartitionId) {
        let Some((view, memory)) = self.partition(id) else {
            return;
        };
        let retained: BTreeSet<SnapshotId> = view.entries().map(|entry| entry.snapshot_id).collect();
        view.suspected = view
            .replicas
            .iter()
            .flat_map(|(node, report)| report.damaged.iter().map(move |snapshot| (*snapshot, node)))
            .filter(|(snapshot, node)| {
                retained.contains(snapshot)
                    && !view.is_damaged(*snapshot)
                    && !memory.dismissed.contains(&(*snapshot, (*node).clone()))
            })
            .map(|(snapshot, _)| snapshot)
            .collect();
    }

    /// Notes that `snapshot` passed a check; every report of damage so far is thereby refuted.
    pub(crate) fn note_verified(&mut self, id: PartitionId, snapshot: SnapshotId, check: Check, now: Moment) {
        let Some((view, memory)) = self.partition(id) else {
            return;
        };
        if check.level >= VerifyLevel::Content {
            let clock = check.at;
            let read = ReadAge::new(clock, Instants { now, clock });
            view.audit.read.insert(snapshot, read);
        }
        let better = memory
            .checks
            .get(&snapshot)
            .is_none_or(|known| known.level <= check.level);
        if better {
            view.trust.insert(snapshot, SnapshotTrust::Verified(check.level));
            memory.checks.insert(snapshot, check);
        }
        memory.damage.remove(&snapshot);
        let reporters = view
            .replicas
            .iter()
            .filter(|(_, report)| report.damaged.contains(&snapshot));
        memory
            .dismissed
            .extend(reporters.map(|(node, _)| (snapshot, node.clone())));
        self.refresh_suspected(id);
    }

    /// Notes that a check found `snapshot` damaged, and holds the partition until that is repaired. One that no trim rests
    /// on any more is only marked: whether the log may be trimmed does not depend on it.
    pub(crate) fn note_damaged(&mut self, id: PartitionId, snapshot: SnapshotId, detail: String) {
        let restorable = self.restorable_min;
        let Some((view, memory)) = self.partition(id) else {
            return;
        };
        view.trust.insert(snapshot, SnapshotTrust::Damaged);
        memory.checks.remove(&snapshot);
        let said = format!("snapshot {snapshot}: {detail}");
        memory.damage.insert(snapshot, detail);
        let older = view
            .entries()
            .skip(restorable)
            .any(|entry| entry.snapshot_id == snapshot);
        self.refresh_suspected(id);
        if !older {
            self.set_hold(id, StickyReason::DamagedSnapshot, said);
        }
    }

    /// Sets a sticky hold, at once in memory and with the next store round in control.json.
    pub(crate) fn set_hold(&mut self, id: PartitionId, reason: StickyReason, detail: String) {
        let Some((view, _)) = self.partition(id) else {
            return;
        };
        if view.holds.contains_key(&reason) {
            return;
        }
        view.holds.insert(reason, detail.clone());
        self.pending_holds.insert((id, reason), detail);
    }

    /// Takes over the control state as just read or written.
    pub(crate) fn apply_control(&mut self, control: ControlView) {
        if let ControlView::Known(control) = &control {
            self.apply_holds(control);
        }
        self.view.control = control;
    }

    fn apply_holds(&mut self, control: &Control) {
        for (id, partition) in &mut self.view.partitions {
            let stored = control
                .holds_of(*id)
                .map(|hold| (hold.reason, hold.detail.clone()));
            let pending = self
                .pending_holds
                .iter()
                .filter(|((held, _), _)| held == id)
                .map(|((_, reason), detail)| (*reason, detail.clone()));
            let before = std::mem::replace(&mut partition.holds, stored.chain(pending).collect());
            let damage = StickyReason::DamagedSnapshot;
            if partition.holds.contains_key(&damage) && !before.contains_key(&damage) {
                // Somebody else found damage: what was checked before that proves nothing.
                partition
                    .trust
                    .retain(|_, trust| *trust == SnapshotTrust::Damaged);
                if let Some(memory) = self.memory.get_mut(id) {
                    memory.checks.clear();
                }
            }
        }
    }
}
