//! `log provision`: creates logs that a cluster should have and has not, where nothing is lost by it.
//!
//! A log that is missing was either never created (`cluster init` broke off), or it was lost. Only in the first case may it
//! begin empty: an empty log in place of a lost one would make snapshots and replicas worthless. So it is refused wherever a
//! pointer, a certificate or a replica speaks of records.

use crate::{
    commands::{
        AdminArgs, StoreOptionArgs,
        cluster_init::{provision, registrations},
        exit,
        log_address::{self, NatsArgs},
        log_recover::look::{Workers, WorkersArgs},
    },
    output::{OutputFormat, table},
};
use anyhow::Context as _;
use clap::Args;
use partition_log::Registration;
use snapshot_store::{PartitionId, core::ReplicaClaim};
use std::{collections::BTreeMap, process::ExitCode};

pub(in crate::commands) const HELP: &str = "\
For a cluster whose creation broke off, or that gets logs on another engine before anything was written. A log is created at
LSN 1, in the life that the store's cluster.json names, and only where neither store nor workers know of any record of it.
Otherwise it was lost: `tidemark log recover` begins it anew from a snapshot, and `tidemark log copy` moves logs with their
records. Run it as often as you like: logs that are there stay as they are.

Exit code: 0 all logs are there; 1 some are missing and were not created.

Examples:
  tidemark log provision --store s3://bucket/prod --log-admin http://127.0.0.1:7301
  tidemark log provision --store file:///mnt/bucket --log-admin nats://10.0.0.4:4222 --nats-login admin.login --without-workers";

/// Arguments of `log provision`.
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// URL of the snapshot repository: file:///absolute/folder, s3://bucket/prefix and so on.
    #[arg(long, value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Address at which the log server accepts provisioning (`admin_listen`), or of NATS servers.
    #[arg(long, value_name = "URL")]
    log_admin: String,
    #[command(flatten)]
    workers: WorkersArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    There,
    Created,
    Refused(String),
}

/// Creates what is missing.
///
/// # Errors
/// When store, log or workers do not answer, or belong to different clusters.
pub(in crate::commands) async fn run(args: ProvisionArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let repository = args.options.open(&args.store)?;
    let ends = log_address::open("--log-admin", &args.log_admin, &args.admin.connection, &args.nats).await?;
    let record = repository
        .cluster()
        .await
        .context("the store cannot be read; check --store")?
        .with_context(|| {
            format!(
                "{} holds no cluster: create one with `tidemark cluster init`",
                repository.url()
            )
        })?;
    let workers = Workers::ask(&args.workers, &args.admin).await?;
    workers.check_cluster(&record.cluster)?;
    let claims = workers.claims();
    let found = registrations(ends.log.as_ref(), &record).await?;
    if let Some(foreign) = found
        .values()
        .find(|log| log.fingerprint != record.cluster.fingerprint)
    {
        anyhow::bail!(
            "the log of partition {} at {} belongs to cluster {}, but {} to {}: correct --log-admin or --store; nothing was changed",
            foreign.partition,
            ends.name,
            foreign.fingerprint,
            repository.url(),
            record.cluster
        );
    }
    let mut outcomes = BTreeMap::new();
    for wanted in Registration::of_new_cluster(&record) {
        let partition = wanted.partition;
        let outcome = match (found.contains_key(&partition), replica(&claims, partition)) {
            (true, _) => Outcome::There,
            (false, Some(refusal)) => Outcome::Refused(refusal),
            (false, None) => match repository.may_begin_empty(partition).await {
                Err(refusal) => Outcome::Refused(format!("{:#}", anyhow::Error::new(refusal))),
                Ok(()) => match provision(ends.admin.as_ref(), wanted).await {
                    Ok(()) => Outcome::Created,
                    Err(error) => Outcome::Refused(error.to_string()),
                },
            },
        };
        outcomes.insert(partition, outcome);
    }
    let objects = outcomes.iter().map(|(partition, outcome)| match outcome {
        Outcome::There => serde_json::json!({ "partition": partition, "outcome": "there" }),
        Outcome::Created => serde_json::json!({ "partition": partition, "outcome": "created" }),
        Outcome::Refused(why) => {
            serde_json::json!({ "partition": partition, "outcome": "refused", "reason": why })
        }
    });
    let well = outcomes
        .values()
        .all(|outcome| !matches!(outcome, Outcome::Refused(_)));
    let objects: Vec<_> = objects.collect();
    let answer = serde_json::json!({ "ok": well, "log": ends.name, "partitions": objects });
    output.print(&answer, || text(&ends.name, &outcomes))?;
    Ok(exit(well))
}

/// Says which replica has applied records of a partition, if any did.
fn replica(claims: &BTreeMap<PartitionId, Vec<ReplicaClaim>>, partition: PartitionId) -> Option<String> {
    let claim = claims
        .get(&partition)?
        .iter()
        .find(|claim| claim.applied_lsn > snapshot_store::Lsn::ZERO)?;
    Some(format!(
        "{} has applied its records up to LSN {}, so it was lost and not never created: bring its folder back, or begin it anew with `tidemark log recover`",
        claim.node, claim.applied_lsn
    ))
}

fn text(name: &str, outcomes: &BTreeMap<PartitionId, Outcome>) -> String {
    let rows = outcomes.iter().map(|(partition, outcome)| {
        let word = match outcome {
            Outcome::There => "there".to_owned(),
            Outcome::Created => "created".to_owned(),
            Outcome::Refused(why) => format!("not created: {why}"),
        };
        [partition.to_string(), word]
    });
    format!("{}\nlogs at {name}", table(["partition", "log"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{Incarnation, IncarnationId, Lsn};

    #[test]
    fn a_replica_with_records_says_that_the_log_was_lost() {
        let claim = |lsn| ReplicaClaim {
            node: "w1".to_owned(),
            incarnation: Incarnation {
                generation: 1,
                id: IncarnationId::from_bytes([1; 16]),
            },
            applied_lsn: Lsn::new(lsn),
            following: false,
        };
        let p0 = PartitionId::new(0);
        assert_eq!(replica(&BTreeMap::new(), p0), None);
        assert_eq!(replica(&BTreeMap::from([(p0, vec![claim(0)])]), p0), None);
        let said = replica(&BTreeMap::from([(p0, vec![claim(0), claim(7)])]), p0).unwrap();
        assert!(said.contains("w1") && said.contains("log recover"), "{said}");
    }
}
