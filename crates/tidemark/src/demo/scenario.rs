//! What happens to the cluster while the import runs.

use super::{
    DemoError, DemoReport, Recovery, RecoveryKind, input::Input, load::Load, observer::Observer,
    progress::Progress, verdict,
};
use crate::{
    cluster::{Endpoints, Engine, LocalCluster, Node, wait_for},
    kv::KvClient,
    roles::LogEnds,
};
use snapshot_proto::v1::{
    ClusterStatus, FinishedRestore, PartitionState, ReplicaStatus, RestoreKind, WorkerStatus,
};
use snapshot_store::{Repository, Seams};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long one step may take.
pub(super) const STEP_WITHIN: Duration = Duration::from_secs(120);
/// How long writes go on against a node that is gone before it comes back.
pub(super) const AWAY: Duration = Duration::from_millis(1500);

/// The worker that is killed and wiped, the one that is stopped for a while, and the one that meets a damaged
/// snapshot.
const KILLED: u32 = 1;
const STOPPED: u32 = 2;
const MISLED: u32 = 3;

/// Plays all scenarios and compares at the end.
pub(super) async fn play(
    cluster: &mut LocalCluster,
    input: Input,
    progress: &Progress,
) -> Result<DemoReport, DemoError> {
    let expected = input.expected.clone();
    let (partitions, threshold) = (
        cluster.spec().partitions,
        cluster.spec().settings.snapshot_after_records,
    );
    progress.say(format_args!(
        "{} records, {partitions} partitions; a snapshot is due every {threshold} records of a partition",
        input.records.len()
    ));
    let endpoints = cluster.endpoints().clone();
    let settings = &cluster.spec().settings;
    let (engine, two_admins) = (settings.engine.clone(), settings.second_admin);
    start(cluster, progress).await?;
    let repository = cluster.store().open(Seams::real());
    let repository = repository.map_err(|error| DemoError::Bucket(error.to_string()))?;
    let observer = Observer::start(endpoints.clone(), repository.clone(), partitions);
    let client = KvClient::connect(endpoints.worker_urls()).await?;
    let mut load = Load::new(client.clone(), input, threshold, progress);
    let mut stage = Stage {
        logs: cluster.open_logs().await?,
        cluster,
        endpoints,
        repository,
        partitions,
        progress,
        recoveries: Vec::new(),
        notes: Vec::new(),
    };

    load.write_while(
        30,
        stage.until_trimmed_past("every partition to be trimmed", BTreeMap::new()),
    )
    .await?;
    load.write_while(45, stage.bootstrap()).await?;
    if engine != Engine::Embedded {
        load.write_while(55, stage.server_loss()).await?;
    }
    load.write_while(60, stage.trim_gap()).await?;
    match two_admins {
        true => load.write_while(70, stage.admin_takeover()).await?,
        false => load.write_while(70, stage.admin_restart()).await?,
    }
    load.write_while(80, stage.fallback()).await?;
    load.write_while(100, stage.until_trimmed_twice(&observer))
        .await?;
    progress.say(format_args!(
        "{} records and {} fillers acknowledged; waiting until all replicas are at the same LSN",
        load.acknowledged(),
        load.filler_records()
    ));
    let end = verdict::settled(&stage.endpoints, partitions).await?;
    let run = Run {
        holes: match engine {
            Engine::Embedded => None,
            Engine::Nats { .. } => Some(stage.holes().await),
        },
        recoveries: stage.recoveries,
        notes: stage.notes,
        fillers: load.filler_records(),
        two_admins,
    };
    verdict::reach(&client, end, &observer.history(), &expected, run).await
}

/// What a run has left to judge, beside the state of the cluster.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) recoveries: Vec<Recovery>,
    pub(super) notes: Vec<String>,
    /// Filler records that were acknowledged.
    pub(super) fillers: u64,
    /// What is missing in the logs of NATS servers, in sentences; `None` with the log server, whose logs are not read.
    pub(super) holes: Option<Vec<String>>,
    pub(super) two_admins: bool,
}

/// Starts all nodes and waits until every partition is active everywhere and led.
async fn start(cluster: &mut LocalCluster, progress: &Progress) -> Result<(), DemoError> {
    cluster.start_store().await?;
    let logs = match cluster.spec().settings.engine {
        Engine::Embedded => "the log",
        Engine::Nats { .. } => "three NATS servers",
    };
    progress.say(format_args!(
        "starting {logs} and creating the cluster, with its snapshots in {}",
        cluster.store().url
    ));
    cluster.start_logs().await?;
    cluster.init().await?;
    progress.say(match cluster.spec().settings.second_admin {
        true => "starting workers and two admins",
        false => "starting workers and admin",
    });
    cluster.start_rest().await?;
    let (endpoints, partitions) = (cluster.endpoints().clone(), cluster.spec().partitions);
    wait_for(
        "every partition to be led and active on every worker",
        STEP_WITHIN,
        async || {
            for number in 1..=endpoints.workers() {
                all_active(&endpoints, number, partitions).await?;
            }
            let status = endpoints
                .cluster_status()
                .await
                .map_err(|error| error.to_string())?;
            every_partition(&status, partitions, |view| match &view.leader {
                Some(leader) if !leader.node.is_empty() => Ok(()),
                _ => Err("has no leader".to_owned()),
            })
        },
    )
    .await?;
    Ok(())
}

/// Looks at every partition of `status`; the first that is not as wanted is the answer.
pub(super) fn every_partition(
    status: &ClusterStatus,
    partitions: u32,
    check: impl Fn(&snapshot_proto::v1::PartitionView) -> Result<(), String>,
) -> Result<(), String> {
    for number in 0..partitions {
        let view = status.partitions.iter().find(|view| view.partition == number);
        let view = view.ok_or_else(|| format!("partition {number} is not in the status"))?;
        check(view).map_err(|fault| format!("partition {number} {fault}"))?;
    }
    Ok(())
}

/// Returns the status of a worker on which all partitions are active.
pub(super) async fn all_active(
    endpoints: &Endpoints,
    worker: u32,
    partitions: u32,
) -> Result<WorkerStatus, String> {
    let status = endpoints
        .worker_status(worker)
        .await
        .map_err(|error| error.to_string())?;
    for number in 0..partitions {
        let replica = status
            .partitions
            .iter()
            .find(|replica| replica.partition == number);
        let replica = replica.ok_or_else(|| format!("{}: partition {number} is not there", status.node))?;
        if replica.state() != PartitionState::Active {
            let state = replica.state().as_str_name();
            return Err(format!(
                "{}: partition {number} is {state} {}",
                status.node, replica.blocked_detail
            ));
        }
    }
    Ok(status)
}

/// The cluster and what has happened to it.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a mut LocalCluster,
    pub(super) endpoints: Endpoints,
    pub(super) repository: Repository,
    pub(super) partitions: u32,
    pub(super) progress: &'a Progress,
    pub(super) logs: LogEnds,
    recoveries: Vec<Recovery>,
    notes: Vec<String>,
}

impl Stage<'_> {
    /// Waits until the log of every partition is trimmed beyond the LSN given for it, or beyond 0.
    pub(super) async fn until_trimmed_past(
        &self,
        what: &str,
        beyond: BTreeMap<u32, u64>,
    ) -> Result<(), DemoError> {
        self.progress.say(format_args!("waiting for {what}"));
        wait_for(what, STEP_WITHIN, async || {
            let status = self
                .endpoints
                .cluster_status()
                .await
                .map_err(|error| error.to_string())?;
            every_partition(&status, self.partitions, |view| {
                let bound = beyond.get(&view.partition).copied().unwrap_or(0);
                match view.trim_point {
                    Some(trim_point) if trim_point > bound => Ok(()),
                    trim_point => Err(format!(
                        "is trimmed up to {trim_point:?}, not beyond {bound}; trim: {}; snapshot: {}",
                        reason(view.trim.as_ref()),
                        reason(view.snapshot.as_ref())
                    )),
                }
            })
        })
        .await?;
        Ok(())
    }

    async fn until_trimmed_twice(&self, observer: &Observer) -> Result<(), DemoError> {
        wait_for(
            "every partition to be snapshotted and trimmed at least twice",
            STEP_WITHIN,
            async || {
                let history = observer.history();
                for number in 0..self.partitions {
                    let seen = history.partition(number);
                    let (snapshots, trims) = (seen.snapshots.len(), seen.trim_points.len());
                    if snapshots < 2 || trims < 2 {
                        return Err(format!(
                            "partition {number}: {snapshots} snapshots, {trims} trims"
                        ));
                    }
                }
                Ok(())
            },
        )
        .await?;
        Ok(())
    }

    /// Kills a worker while writes go on, wipes its folder and starts it again.
    async fn bootstrap(&mut self) -> Result<(), DemoError> {
        let node = Node::Worker(KILLED);
        self.progress.say(format_args!(
            "killing {node} while writes go on, and wiping its folder"
        ));
        self.cluster.kill(node)?;
        tokio::time::sleep(AWAY).await;
        self.cluster.wipe(node)?;
        let (status, duration) = self.bring_back(KILLED).await?;
        let restores = restores_by(&status, |restore, _| restore.kind() == RestoreKind::Bootstrap);
        self.recovered(
            RecoveryKind::Bootstrap,
            node,
            duration,
            self.partitions as usize,
            restores,
        );
        Ok(())
    }

    /// Stops a worker until the log no longer has what it needs, and starts it again.
    async fn trim_gap(&mut self) -> Result<(), DemoError> {
        let node = Node::Worker(STOPPED);
        self.progress.say(format_args!("stopping {node}"));
        self.cluster.stop(node).await?;
        let tails = self.tails().await?;
        self.until_trimmed_past("the log to be trimmed past the stopped worker", tails)
            .await?;
        let (status, duration) = self.bring_back(STOPPED).await?;
        let restores = restores_by(&status, |restore, _| restore.kind() == RestoreKind::TrimGap);
        self.recovered(
            RecoveryKind::TrimGap,
            node,
            duration,
            self.partitions as usize,
            restores,
        );
        Ok(())
    }

    /// Damages the newest snapshot of one partition and wipes a worker, which then must take an older one.
    async fn fallback(&mut self) -> Result<(), DemoError> {
        let node = Node::Worker(MISLED);
        let partition = self.partition_led_elsewhere(node).await?;
        self.pause(partition).await?;
        let (damaged_id, damaged_lsn) = self.damage_newest(partition).await?;
        self.progress
            .say(format_args!("killing {node} and wiping its folder"));
        self.cluster.kill(node)?;
        self.cluster.wipe(node)?;
        let (status, duration) = self.bring_back(MISLED).await?;
        let restores = restores_by(&status, |restore, replica| {
            replica.partition == partition
                && restore.damaged.contains(&damaged_id)
                && restore.lsn < damaged_lsn
        });
        self.recovered(RecoveryKind::Fallback, node, duration, 1, restores);
        self.resume(partition).await?;
        self.until_sound(partition, damaged_lsn).await
    }

    /// Keeps something for the end that a person may want to know.
    pub(super) fn note(&mut self, note: String) {
        self.progress.say(&note);
        self.notes.push(note);
    }

    /// Starts a worker and measures the time until all its partitions are active.
    async fn bring_back(&mut self, worker: u32) -> Result<(WorkerStatus, Duration), DemoError> {
        let node = Node::Worker(worker);
        self.progress.say(format_args!("starting {node} again"));
        let started = Instant::now();
        self.cluster.start(node).await?;
        let status = wait_for(&format!("{node} to be active again"), STEP_WITHIN, async || {
            all_active(&self.endpoints, worker, self.partitions).await
        })
        .await?;
        Ok((status, started.elapsed()))
    }

    pub(super) fn recovered(
        &mut self,
        kind: RecoveryKind,
        node: Node,
        duration: Duration,
        partitions_expected: usize,
        restores: BTreeMap<u32, String>,
    ) {
        let (word, partitions) = (kind.as_str(), restores.len());
        self.progress.say(format_args!(
            "{node} is back after {} ms: {word} of {partitions} of {partitions_expected} partitions",
            duration.as_millis()
        ));
        self.recoveries.push(Recovery {
            kind,
            node: node.to_string(),
            partitions,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            partitions_expected,
            restores,
        });
    }
}

/// Returns the last restores that are as wanted, in words, by partition.
fn restores_by(
    status: &WorkerStatus,
    wanted: impl Fn(&FinishedRestore, &ReplicaStatus) -> bool,
) -> BTreeMap<u32, String> {
    let restore = |replica: &ReplicaStatus| {
        let restore = replica
            .last_restore
            .as_ref()
            .filter(|restore| wanted(restore, replica))?;
        Some((
            replica.partition,
            format!("at {} in {} ms", restore.lsn, restore.duration_ms),
        ))
    };
    status.partitions.iter().filter_map(restore).collect()
}

pub(super) fn reason(reason: Option<&snapshot_proto::v1::Reason>) -> String {
    reason.map_or_else(
        || "unknown".to_owned(),
        |reason| format!("{} ({})", reason.code, reason.detail),
    )
}
