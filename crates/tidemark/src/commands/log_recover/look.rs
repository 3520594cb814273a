//! What the workers have of the lost log: they may know of more records, and of a higher generation, than the store.

use crate::commands::AdminArgs;
use anyhow::{Context as _, bail};
use snapshot_proto::v1::{GetStatusRequest, PartitionState, ReplicaStatus, WorkerStatus};
use snapshot_store::{
    ClusterIdentity, Fingerprint, Incarnation, IncarnationId, Lsn, PartitionId, core::ReplicaClaim,
};
use std::{collections::BTreeMap, time::Duration};

/// How long a worker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which workers are asked.
#[derive(Debug, clap::Args)]
pub(in crate::commands) struct WorkersArgs {
    /// Address of a worker to ask what it has, instead of all that the admin knows; may be repeated.
    #[arg(long = "worker", value_name = "URL")]
    workers: Vec<String>,
    /// Go on without asking any worker: what only they know of, records and generations of logs, then stays unknown.
    #[arg(long, conflicts_with = "workers")]
    without_workers: bool,
}

/// What was asked, and what came of it.
#[derive(Debug, Default)]
pub(in crate::commands) struct Workers {
    /// Those that answered.
    pub(super) answered: Vec<WorkerStatus>,
    /// Those that did not, and why.
    pub(super) silent: Vec<(String, String)>,
}

async fn workers(args: &WorkersArgs, admin: &AdminArgs) -> anyhow::Result<Workers> {
    if args.without_workers {
        return Ok(Workers::default());
    }
    let addresses = match args.workers.as_slice() {
        [] => {
            let status = admin.cluster_status().await.context(
                "the workers are asked what they have: name them with --worker, or go on without them (--without-workers)",
            )?;
            status.nodes.into_iter().map(|node| node.address).collect()
        }
        named => named.to_vec(),
    };
    let mut workers = Workers::default();
    for address in addresses {
        match ask(admin, &address).await {
            Ok(status) => workers.answered.push(status),
            Err(error) if args.workers.is_empty() => workers.silent.push((address, format!("{error:#}"))),
            Err(error) => {
                return Err(error.context(format!(
                    "the worker {address} does not answer: start it, or leave it out if its disk is lost"
                )));
            }
        }
    }
    Ok(workers)
}

async fn ask(admin: &AdminArgs, address: &str) -> anyhow::Result<WorkerStatus> {
    let mut worker = admin.worker_client(address)?;
    let question = worker.get_status(GetStatusRequest::default());
    match tokio::time::timeout(ANSWER_TIMEOUT, question).await {
        Ok(answer) => Ok(answer
            .map_err(|status| anyhow::anyhow!("{}", status.message()))?
            .into_inner()),
        Err(_) => bail!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
    }
}

impl Workers {
    /// Asks the workers that were named, or all that the admin knows.
    ///
    /// # Errors
    /// When nobody is named and no admin answers, or a worker that was named does not answer.
    pub(in crate::commands) async fn ask(args: &WorkersArgs, admin: &AdminArgs) -> anyhow::Result<Self> {
        workers(args, admin).await
    }

    /// Refuses workers of another cluster: what they have says nothing of this one.
    pub(in crate::commands) fn check_cluster(&self, cluster: &ClusterIdentity) -> anyhow::Result<()> {
        for worker in &self.answered {
            let found = Fingerprint::from_slice(&worker.fingerprint);
            if found.is_some_and(|found| found != cluster.fingerprint) {
                bail!(
                    "worker {} at {} belongs to another cluster than the store ({cluster}): correct --store or --worker",
                    worker.node,
                    worker.address
                );
            }
        }
        Ok(())
    }

    /// Returns what the workers say of their replicas.
    pub(in crate::commands) fn claims(&self) -> BTreeMap<PartitionId, Vec<ReplicaClaim>> {
        let mut claims: BTreeMap<PartitionId, Vec<ReplicaClaim>> = BTreeMap::new();
        for worker in &self.answered {
            for replica in &worker.partitions {
                let partition = PartitionId::new(replica.partition);
                claims
                    .entry(partition)
                    .or_default()
                    .extend(claim(&worker.node, replica));
            }
        }
        claims
    }
}

/// Returns what a replica that has a state says of it.
fn claim(node: &str, replica: &ReplicaStatus) -> Option<ReplicaClaim> {
    let incarnation = replica.incarnation.as_ref()?;
    Some(ReplicaClaim {
        node: node.to_owned(),
        incarnation: Incarnation {
            generation: incarnation.generation,
            id: IncarnationId::from_slice(&incarnation.id)?,
        },
        applied_lsn: Lsn::new(replica.applied_lsn?),
        following: matches!(
            replica.state(),
            PartitionState::Active | PartitionState::CatchingUp
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_proto::v1;

    fn status(state: PartitionState, incarnation: Option<v1::Incarnation>) -> ReplicaStatus {
        ReplicaStatus {
            partition: 3,
            state: state.into(),
            incarnation,
            applied_lsn: Some(70),
            ..ReplicaStatus::default()
        }
    }

    #[test]
    fn a_worker_speaks_of_the_states_it_has_and_of_no_others() {
        let life = v1::Incarnation {
            generation: 4,
            id: vec![1; 16].into(),
        };
        let worker = WorkerStatus {
            node: "w1".to_owned(),
            fingerprint: vec![1; 16].into(),
            partitions: vec![
                status(PartitionState::Blocked, Some(life.clone())),
                status(PartitionState::Active, Some(life)),
                status(PartitionState::Restoring, None),
            ],
            ..WorkerStatus::default()
        };
        let workers = Workers {
            answered: vec![worker],
            silent: Vec::new(),
        };
        let claims = workers.claims();
        let found: Vec<_> = claims[&PartitionId::new(3)]
            .iter()
            .map(|claim| {
                (
                    claim.incarnation.generation,
                    claim.applied_lsn.get(),
                    claim.following,
                )
            })
            .collect();
        assert_eq!(found, [(4, 70, false), (4, 70, true)]);
        let cluster = |byte| ClusterIdentity {
            name: "shop".to_owned(),
            fingerprint: Fingerprint::from_bytes([byte; 16]),
        };
        assert!(workers.check_cluster(&cluster(1)).is_ok());
        assert!(workers.check_cluster(&cluster(2)).is_err());
    }
}
