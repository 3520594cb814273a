//! The calm after a storm, in which all must become well again.

use crate::{
    harm::{self, Harm},
    oracle::Oracle,
    storm::Storm,
    world::World,
};
use futures::FutureExt;
use snapshot_store::{Lsn, PartitionId};
use snapshot_worker::core::PartitionState;
use std::time::Duration;

/// How long clients go on writing in the calm, at least.
const CALM_WRITES: Duration = Duration::from_secs(12);
/// How long the calm may take until everything is well.
const CALM_MAX: Duration = Duration::from_secs(150);

impl Storm<'_> {
    /// Rule 3: compares every open replica with what its log amounts to. Returns what keeps the cluster from being well.
    pub(crate) fn compare(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let workers = self.world.workers();
        for (name, worker) in &workers {
            for partition in worker.partitions() {
                let is_helpless = self.is_helpless(partition);
                let Some(handle) = worker.partition(partition) else {
                    continue;
                };
                let state = handle.status().state;
                let digest = handle.digest().now_or_never();
                let Some(Ok(facts)) = digest else {
                    if is_helpless {
                        continue;
                    }
                    wrong.push(format!("{name} has partition {partition} {state}"));
                    continue;
                };
                let (right, last) = self
                    .world
                    .oracle(|oracle| {
                        let history = oracle.history(partition)?;
                        let digests = (facts.chain_hash, facts.digest);
                        let right = history.find_digests(facts.lsn, digests).is_some();
                        Some((right, history.current().last()))
                    })
                    .unwrap_or((false, Lsn::ZERO));
                if !right {
                    self.world.violate(format!(
                        "rule 3: partition {partition} on {name} at {} is not what the log amounts to",
                        facts.lsn
                    ));
                }
                if !is_helpless && (facts.lsn != last || state != PartitionState::Active) {
                    wrong.push(format!(
                        "{name} has partition {partition} {state} at {}, the log is at {last}",
                        facts.lsn
                    ));
                }
            }
        }
        for name in self.world.plan().worker_names() {
            if !workers.contains_key(&name) {
                wrong.push(format!("{name} does not run"));
            }
        }
        wrong
    }

    /// Returns whether nothing can be expected of a partition but that it waits for a person.
    fn is_helpless(&self, partition: PartitionId) -> bool {
        self.world
            .oracle(|oracle| oracle.harm(partition).is_some_and(Harm::needs_help))
    }

    /// Ends the storm, and waits until all is well. Returns how long that took.
    pub(crate) fn calm_down(&mut self) -> anyhow::Result<Duration> {
        let begun = self.now;
        self.world.event("the storm is over");
        self.world.calm();
        self.end_phases();
        harm::undo(&self.world);
        self.end_what_is_over(true);
        let partitions = (0..self.world.plan().partitions).map(PartitionId::new);
        let partitions: Vec<PartitionId> = partitions
            .filter(|partition| !self.is_helpless(*partition))
            .collect();
        let trimmed = |world: &World| -> Vec<Lsn> {
            let trim_point = |partition: &PartitionId| world.oracle(|oracle| oracle.trim_point(*partition));
            partitions.iter().map(trim_point).collect()
        };
        let before = trimmed(&self.world);
        let mut wrong = vec!["clients still write".to_owned()];
        while self.now < begun + CALM_MAX {
            self.step()?;
            if !self.is_every(1000) {
                continue;
            }
            let after = trimmed(&self.world);
            let held: Vec<String> = partitions
                .iter()
                .zip(before.iter().zip(&after))
                .filter(|(_, (before, after))| after <= before)
                .map(|(partition, (before, _))| format!("partition {partition} is still trimmed to {before}"))
                .collect();
            if held.is_empty() && self.now >= begun + CALM_WRITES {
                self.world.stop_writing();
            }
            if !self.world.writing_is_over() {
                wrong = held;
                continue;
            }
            wrong = self.compare();
            if wrong.is_empty() {
                break;
            }
        }
        for what in &wrong {
            self.world.violate(format!(
                "not well {} s after the storm: {what}",
                CALM_MAX.as_secs()
            ));
        }
        let writes = self.world.oracle(Oracle::check_acknowledged);
        self.world
            .event(format!("{writes} acknowledged writes are there"));
        Ok(self.now - begun)
    }
}
