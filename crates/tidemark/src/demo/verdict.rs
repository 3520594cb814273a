//! The comparison at the end: what is there against what must be there.

use super::{
    DemoError, DemoReport, PartitionReport, Recovery, RecoveryKind,
    expected::Expected,
    observer::History,
    report::{Check, human_bytes},
    scenario::{Run, STEP_WITHIN, all_active},
};
use crate::{
    cluster::{Endpoints, wait_for},
    kv::KvClient,
};
use snapshot_proto::{
    kv::{DigestReply, DigestRequest},
    v1::PartitionView,
};
use std::collections::BTreeMap;

/// State of one partition at the end: the admin's view, and what each node's replica holds.
#[derive(Debug)]
pub(super) struct Settled {
    view: PartitionView,
    replicas: BTreeMap<String, DigestReply>,
}

/// Waits until all replicas of all partitions are active at the last LSN of their log, and reads what they hold.
pub(super) async fn settled(
    endpoints: &Endpoints,
    partitions: u32,
) -> Result<BTreeMap<u32, Settled>, DemoError> {
    let settled = wait_for("all replicas to be at the same LSN", STEP_WITHIN, async || {
        for worker in 1..=endpoints.workers() {
            let status = all_active(endpoints, worker, partitions).await?;
            if let Some(busy) = status.partitions.iter().find(|replica| replica.export.is_some()) {
                return Err(format!(
                    "{} makes a snapshot of partition {}",
                    status.node, busy.partition
                ));
            }
        }
        let replicas = replicas(endpoints, partitions).await?;
        let status = endpoints
            .cluster_status()
            .await
            .map_err(|error| error.to_string())?;
        let mut settled = BTreeMap::new();
        for (number, replicas) in replicas {
            let view = status
                .partitions
                .iter()
                .find(|view| view.partition == number)
                .cloned();
            let view = view.ok_or_else(|| format!("partition {number} is not in the status"))?;
            let behind = replicas
                .iter()
                .find(|(_, reply)| Some(reply.lsn + 1) != view.tail);
            if let Some((node, reply)) = behind {
                return Err(format!(
                    "{node}: partition {number} is at {}, tail {:?}",
                    reply.lsn, view.tail
                ));
            }
            if view.guard_lsn.is_none() {
                return Err(format!("partition {number} has no guard yet"));
            }
            settled.insert(number, Settled { view, replicas });
        }
        Ok(settled)
    })
    .await?;
    Ok(settled)
}

/// Reads the digest of every replica.
async fn replicas(
    endpoints: &Endpoints,
    partitions: u32,
) -> Result<BTreeMap<u32, BTreeMap<String, DigestReply>>, String> {
    let mut replicas: BTreeMap<u32, BTreeMap<String, DigestReply>> = BTreeMap::new();
    for worker in 1..=endpoints.workers() {
        let node = crate::cluster::Node::Worker(worker).to_string();
        let mut service = endpoints.kv(worker).await.map_err(|error| error.to_string())?;
        for partition in 0..partitions {
            let answer = service.digest(DigestRequest { partition }).await;
            let reply = answer
                .map_err(|status| format!("{node}: {}", status.message()))?
                .into_inner();
            replicas.entry(partition).or_default().insert(node.clone(), reply);
        }
    }
    Ok(replicas)
}

/// Compares and reports.
pub(super) async fn reach(
    client: &KvClient,
    settled: BTreeMap<u32, Settled>,
    history: &History,
    expected: &Expected,
    run: Run,
) -> Result<DemoReport, DemoError> {
    let whole = client.digest().await?;
    let partitions: Vec<PartitionReport> = settled
        .iter()
        .map(|(number, end)| partition_report(*number, end, history, &run.recoveries))
        .collect();
    let (wanted, recovered) = wanted(&run);
    let mut checks = vec![
        Check::none_of(
            "the content is that of the input",
            content_faults(&whole, expected),
        ),
        Check::none_of("all replicas are equal", replica_faults(&settled)),
        Check::none_of(
            "every partition was snapshotted and trimmed at least twice",
            history_faults(&partitions),
        ),
        Check::none_of(
            "nothing was trimmed above the guard",
            guard_faults(&partitions, history),
        ),
        Check::none_of("followers made the snapshots", producer_faults(&partitions)),
        Check::none_of(recovered, recovery_faults(&wanted, &run.recoveries)),
    ];
    checks.extend(run.holes.map(|holes| Check::none_of("no log has a hole", holes)));
    let mut notes = notes(&partitions, run.fillers);
    notes.extend(run.notes);
    Ok(DemoReport {
        ok: checks.iter().all(|check| check.failure.is_none()),
        records: whole.pairs,
        digest: whole.digest.to_string(),
        partitions,
        recoveries: run.recoveries,
        checks,
        notes,
    })
}

fn notes(partitions: &[PartitionReport], fillers: u64) -> Vec<String> {
    let made = || partitions.iter().flat_map(|partition| &partition.snapshots);
    let followers = made().filter(|snapshot| snapshot.role == "follower").count();
    let mut notes = vec![format!(
        "{followers} of {} snapshots were made by followers; {fillers} filler records kept the logs moving",
        made().count()
    )];
    let copied: u64 = made().map(|snapshot| snapshot.bytes_copied).sum();
    if copied > 0 {
        let total: u64 = made().map(|snapshot| snapshot.bytes_total).sum();
        notes.push(format!(
            "of {} in snapshots, {} were uploaded and {} copied inside the store",
            human_bytes(total),
            human_bytes(made().map(|snapshot| snapshot.bytes_uploaded).sum()),
            human_bytes(copied)
        ));
    }
    notes
}

fn partition_report(
    number: u32,
    end: &Settled,
    history: &History,
    recoveries: &[Recovery],
) -> PartitionReport {
    let seen = history.partition(number);
    let restore = |recovery: &Recovery| {
        let restore = recovery.restores.get(&number).filter(|words| !words.is_empty())?;
        Some(format!("{} {} {restore}", recovery.kind.as_str(), recovery.node))
    };
    PartitionReport {
        partition: number,
        tail: end.view.tail,
        trim_point: end.view.trim_point,
        archived_lsn: end.view.archived_lsn,
        guard_lsn: end.view.guard_lsn,
        leader: end.view.leader.as_ref().map(|leader| leader.node.clone()),
        snapshots: seen.snapshots.into_values().collect(),
        digests: end
            .replicas
            .iter()
            .map(|(node, reply)| (node.clone(), hex::encode(&reply.digest)))
            .collect(),
        restores: recoveries.iter().filter_map(restore).collect(),
        trims: seen.trim_points.len(),
    }
}

fn content_faults(whole: &crate::kv::ClusterDigest, expected: &Expected) -> Vec<String> {
    let mut faults = Vec::new();
    if whole.pairs != expected.pairs {
        faults.push(format!("{} pairs instead of {}", whole.pairs, expected.pairs));
    }
    if whole.digest.as_bytes() != &expected.digest {
        faults.push(format!(
            "digest {} instead of {}",
            whole.digest,
            hex::encode(expected.digest)
        ));
    }
    faults
}

fn replica_faults(settled: &BTreeMap<u32, Settled>) -> Vec<String> {
    let differ = |(number, end): (&u32, &Settled)| {
        let mut replies = end.replicas.values();
        let first = replies.next()?;
        let equal = replies.all(|reply| reply == first);
        (!equal).then(|| format!("partition {number}: the replicas hold {:?}", end.replicas))
    };
    settled.iter().filter_map(differ).collect()
}

fn history_faults(partitions: &[PartitionReport]) -> Vec<String> {
    let too_few = |partition: &&PartitionReport| partition.snapshots.len() < 2 || partition.trims < 2;
    let say = |partition: &PartitionReport| {
        let (snapshots, trims) = (partition.snapshots.len(), partition.trims);
        format!(
            "partition {}: {snapshots} snapshots, {trims} trims",
            partition.partition
        )
    };
    partitions.iter().filter(too_few).map(say).collect()
}

fn guard_faults(partitions: &[PartitionReport], history: &History) -> Vec<String> {
    let mut faults = history.violations.clone();
    for partition in partitions {
        // Unknown values compare as lowest, and so does what they would have to be below.
        let PartitionReport {
            trim_point,
            guard_lsn,
            archived_lsn,
            tail,
            ..
        } = partition;
        if trim_point > guard_lsn || guard_lsn > archived_lsn || archived_lsn >= tail {
            faults.push(format!(
                "partition {}: trim point {trim_point:?}, guard {guard_lsn:?}, archived {archived_lsn:?}, tail {tail:?}",
                partition.partition
            ));
        }
    }
    faults
}

fn producer_faults(partitions: &[PartitionReport]) -> Vec<String> {
    let by_leaders = |partition: &&PartitionReport| {
        partition
            .snapshots
            .iter()
            .all(|snapshot| snapshot.role == "leader")
    };
    let say = |partition: &PartitionReport| format!("partition {}: none by a follower", partition.partition);
    partitions.iter().filter(by_leaders).map(say).collect()
}

/// Returns the recoveries that a run must have had, and what they are called together.
fn wanted(run: &Run) -> (Vec<RecoveryKind>, &'static str) {
    let mut wanted = vec![
        RecoveryKind::Bootstrap,
        RecoveryKind::TrimGap,
        RecoveryKind::Fallback,
    ];
    wanted.push(match run.two_admins {
        true => RecoveryKind::AdminTakeover,
        false => RecoveryKind::AdminRestart,
    });
    match run.holes {
        None => (wanted, "all four recoveries succeeded"),
        Some(_) => {
            wanted.push(RecoveryKind::ServerLoss);
            (wanted, "all five recoveries succeeded")
        }
    }
}

fn recovery_faults(wanted: &[RecoveryKind], recoveries: &[Recovery]) -> Vec<String> {
    let fault = |kind: RecoveryKind| match recoveries.iter().find(|recovery| recovery.kind == kind) {
        None => Some(format!("no {}", kind.as_str())),
        Some(recovery) if recovery.partitions < recovery.partitions_expected => Some(format!(
            "{} of {}: {} of {} partitions",
            kind.as_str(),
            recovery.node,
            recovery.partitions,
            recovery.partitions_expected
        )),
        Some(_) => None,
    };
    wanted.iter().copied().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(trim_point: u64, guard: u64, archived: u64, tail: u64) -> PartitionReport {
        PartitionReport {
            trim_point: Some(trim_point),
            guard_lsn: Some(guard),
            archived_lsn: Some(archived),
            tail: Some(tail),
            ..PartitionReport::default()
        }
    }

    #[test]
    fn the_chain_of_lsns_must_hold() {
        let cases = [
            (partition(10, 10, 20, 21), true),
            (partition(11, 10, 20, 21), false),
            (partition(10, 21, 20, 22), false),
            (partition(10, 10, 21, 21), false),
            (
                PartitionReport {
                    guard_lsn: None,
                    ..partition(1, 1, 2, 3)
                },
                false,
            ),
        ];
        for (partition, sound) in cases {
            let faults = guard_faults(std::slice::from_ref(&partition), &History::default());
            assert_eq!(faults.is_empty(), sound, "{partition:?}");
        }
    }

    #[test]
    fn every_recovery_must_be_there_and_complete() {
        let recovery = |kind, partitions| Recovery {
            kind,
            node: "worker-1".to_owned(),
            partitions,
            duration_ms: 1,
            partitions_expected: 8,
            restores: BTreeMap::new(),
        };
        let mut all = vec![
            recovery(RecoveryKind::Bootstrap, 8),
            recovery(RecoveryKind::TrimGap, 8),
            recovery(RecoveryKind::AdminRestart, 8),
        ];
        let embedded = Run::default();
        let faults = |run, all: &[Recovery]| recovery_faults(&wanted(run).0, all);
        assert_eq!(faults(&embedded, &all), ["no fallback"]);
        all.push(recovery(RecoveryKind::Fallback, 7));
        assert_eq!(
            faults(&embedded, &all),
            ["fallback of worker-1: 7 of 8 partitions"]
        );
        let on_nats = Run {
            holes: Some(Vec::new()),
            two_admins: true,
            ..Run::default()
        };
        all.truncate(2);
        all.push(recovery(RecoveryKind::Fallback, 8));
        assert_eq!(faults(&on_nats, &all), ["no admin-takeover", "no server-loss"]);
    }
}
