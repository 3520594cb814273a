//! What one plan costs, over clusters of 1,000, 10,000 and 100,000 partitions with three replicas each on 1,000 nodes.
//!
//! ```text
//! cargo bench -p snapshot-scheduler --bench plan                    # --profile dev: without compiling anything anew
//! cargo bench -p snapshot-scheduler --bench plan -- --partitions 5000 --plans 50
//! ```
//!
//! Every size is measured in a process of its own, on one thread. Prints for each the median time of a plan by replica
//! with the spread over the plans, what a plan takes of memory by replica (the highest resident size while it is made,
//! less that before), and what the view takes. Nothing is due in most partitions, as in a cluster that keeps up; one in a
//! hundred is asked for a snapshot as far as the limits allow. Replicas and manifests carry all 64 chain hashes.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use snapshot_scheduler::core::{
    ArchiveView, ClusterView, ControlView, LogView, Looked, ManifestFacts, Moment, NodeView, PartitionView,
    Policy, ReplicaReport, ReplicaState, SchedulerOptions, plan, trim_hint,
};
use snapshot_store::{
    ChainHash, ClusterIdentity, ContentHash, Entropy, Fingerprint, Incarnation, IncarnationId, LeaderEpoch,
    Leadership, Lsn, NodeId, PartitionId, ReplicaRole, SnapshotId, Timestamp, WriteId,
    core::{LogFacts, SnapshotTrust},
    format::{
        ChainPoint, ChainTrail, Control, Pointer, PointerEntry, SnapshotDirectory, StateMachineVersion,
        Unknown, VerifyLevel,
    },
};
use std::{collections::BTreeMap, env, fs, hint::black_box, process::Command, time::Duration};
use tokio::time::Instant;

const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
const NODES: u32 = 1_000;
const REPLICAS: u32 = 3;
/// Applied LSN of the freshest replicas.
const APPLIED: u64 = 10_000_000;
const NOW: Moment = Moment(Duration::from_secs(1000));

fn main() {
    let args: Vec<String> = env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u32>().ok()
    };
    let plans = value("--plans").unwrap_or(21);
    if let Some(partitions) = value("--one") {
        measure(partitions, plans);
        return;
    }
    println!(
        "partitions  replicas  ns by replica, median (spread)  plan KiB by replica  view KiB by replica"
    );
    let sizes = value("--partitions").map_or(SIZES.to_vec(), |size| vec![size]);
    for size in sizes {
        let own = env::current_exe().unwrap();
        let run = Command::new(own)
            .args(["--one", &size.to_string(), "--plans", &plans.to_string()])
            .status();
        assert!(
            run.unwrap().success(),
            "the measurement of {size} partitions failed"
        );
    }
}

/// Measures one size and prints a line.
fn measure(partitions: u32, plans: u32) {
    let policy = Policy::default();
    let entropy = Entropy::seeded(1);
    let before = resident_bytes();
    let view = cluster(partitions, &policy);
    let view_bytes = resident_bytes() - before;
    let replicas = u64::from(partitions * REPLICAS);

    let before = resident_bytes();
    // Resets the highest resident size of this process.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let first = plan(&view, &policy, NOW, &entropy);
    let plan_bytes = highest_resident_bytes().saturating_sub(before);
    assert_eq!(first.partitions.len(), partitions as usize);
    assert_eq!(
        first.commands.len(),
        due(partitions).min(policy.snapshots_max) as usize
    );
    drop(first);

    let mut times: Vec<f64> = (0..plans)
        .map(|_| {
            let began = Instant::now();
            let made = black_box(plan(black_box(&view), &policy, NOW, &entropy));
            let took = began.elapsed();
            drop(made);
            took.as_secs_f64() * 1e9 / replicas as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let kib = |bytes: u64| bytes as f64 / 1024.0 / replicas as f64;
    println!(
        "{partitions:>10}  {replicas:>8}  {:>13.0} ({:.0}–{:.0})  {:>19.2}  {:>19.2}",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1],
        kib(plan_bytes),
        kib(view_bytes),
    );
}

fn due(partitions: u32) -> u32 {
    partitions.div_ceil(100)
}

fn resident_bytes() -> u64 {
    field("VmRSS:")
}

fn highest_resident_bytes() -> u64 {
    field("VmHWM:")
}

fn field(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn node(number: u32) -> NodeId {
    NodeId::new(format!("worker-{number:04}")).unwrap()
}

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "bench".to_owned(),
        fingerprint: Fingerprint::from_bytes([5; 16]),
    }
}

fn cluster(partitions: u32, policy: &Policy) -> ClusterView {
    let entropy = Entropy::seeded(2);
    let heard = NodeView {
        heard_at: Some(NOW),
        exports_max: 4,
        ..NodeView::default()
    };
    let options = SchedulerOptions::default();
    let mut view = ClusterView {
        fingerprint: identity().fingerprint,
        timing: options.timing(),
        assign_leaders: true,
        standby: None,
        nodes: (0..NODES).map(|number| (node(number), heard.clone())).collect(),
        partitions: (0..partitions)
            .map(|number| (PartitionId::new(number), partition(number, &entropy)))
            .collect(),
        control: ControlView::Known(Control::empty(
            identity(),
            WriteId::new(entropy.ulid(Timestamp::default())),
        )),
    };
    // All logs were looked at a moment ago.
    let hints: Vec<_> = view
        .partitions
        .iter()
        .map(|(id, partition)| (*id, trim_hint(&Looked::at(&view, partition, NOW), policy)))
        .collect();
    for (id, hint) in hints {
        if let Some(partition) = view.partitions.get_mut(&id) {
            partition.trim.looked = Some((NOW, hint));
        }
    }
    view
}

fn partition(number: u32, entropy: &Entropy) -> PartitionView {
    let incarnation = Incarnation {
        generation: 1,
        id: IncarnationId::from_bytes(entropy.bytes_16()),
    };
    let nodes: Vec<NodeId> = (0..REPLICAS)
        .map(|at| node((number * 7 + at * 331) % NODES))
        .collect();
    let mut view = PartitionView::new(nodes.iter().cloned().collect());
    let due = number.is_multiple_of(100);
    let archived = if due {
        APPLIED - 1_500_000
    } else {
        APPLIED - 500_000
    };
    view.log = Some(LogView {
        facts: LogFacts {
            incarnation,
            trim_point: Lsn::new(archived - 1_000_000),
            tail: Lsn::new(APPLIED + 1),
        },
        held_bytes: Some(1_500_000_000),
        heard_at: NOW,
    });
    for (at, name) in (0..).zip(&nodes) {
        view.replicas.insert(
            name.clone(),
            replica(number, APPLIED - at, at == 0, &nodes[0], incarnation),
        );
    }
    let mut entry = |lsn: u64| {
        let snapshot_id = SnapshotId::new(entropy.ulid(Timestamp::default()));
        view.trust
            .insert(snapshot_id, SnapshotTrust::Verified(VerifyLevel::Content));
        let facts = ManifestFacts {
            incarnation,
            chain: Some(chain(number, lsn)),
            state_machine: state_machine(),
        };
        view.manifests.insert(snapshot_id, facts);
        PointerEntry {
            snapshot_id,
            incarnation,
            lsn: Lsn::new(lsn),
            path: SnapshotDirectory {
                generation: 1,
                lsn: Lsn::new(lsn),
                snapshot_id,
            },
            log_bytes: lsn * 100,
            files: 10,
            bytes_total: 1 << 30,
            bytes_uploaded: 1 << 28,
            bytes_copied: 0,
            created_at: Timestamp::default(),
            node: nodes[1].clone(),
            role: ReplicaRole::Follower,
            manifest_hash: ContentHash::of(&lsn.to_be_bytes()),
            unknown: Unknown::default(),
        }
    };
    let snapshots = vec![entry(archived), entry(archived - 1_000_000)];
    view.archive = ArchiveView::Known(Some(Pointer {
        cluster: identity(),
        partition: PartitionId::new(number),
        write_id: WriteId::new(entropy.ulid(Timestamp::default())),
        restorable_snapshots_min: 2,
        snapshots,
        history: Vec::new(),
        unknown: Unknown::default(),
    }));
    view
}

fn replica(
    number: u32,
    applied: u64,
    leads: bool,
    leader: &NodeId,
    incarnation: Incarnation,
) -> ReplicaReport {
    ReplicaReport {
        state: ReplicaState::Active,
        role: if leads {
            ReplicaRole::Leader
        } else {
            ReplicaRole::Follower
        },
        leader: Some(Leadership {
            epoch: LeaderEpoch::new(3),
            node: leader.clone(),
        }),
        incarnation: Some(incarnation),
        applied_lsn: Some(Lsn::new(applied)),
        needed_lsn: Some(Lsn::new(applied - 1000)),
        log_bytes: Some(applied * 100),
        needed_log_bytes: Some((applied - 1000) * 100),
        archived_lsn: None,
        chain: chain(number, applied),
        state_machine: state_machine(),
        exporting: false,
        damaged: Vec::new(),
        log_regressed: None,
    }
}

fn state_machine() -> StateMachineVersion {
    StateMachineVersion {
        name: "bench".to_owned(),
        version: 1,
    }
}

/// The hashes at the last multiples of the spacing and at `lsn` itself, equal for all replicas of a partition.
fn chain(number: u32, lsn: u64) -> ChainTrail {
    let newest = lsn / ChainTrail::SPACING;
    let multiples = (newest + 1 - ChainTrail::LENGTH_MAX as u64..=newest).map(|at| at * ChainTrail::SPACING);
    let point = |lsn: u64| ChainPoint {
        lsn: Lsn::new(lsn),
        hash: ChainHash::of(&[u64::from(number).to_be_bytes(), lsn.to_be_bytes()].concat()),
    };
    let mut points: BTreeMap<u64, ChainPoint> = multiples.map(|lsn| (lsn, point(lsn))).collect();
    points.insert(lsn, point(lsn));
    ChainTrail(points.into_values().collect())
}
