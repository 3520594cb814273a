//! `cluster init --from-fork`: the logs of a cloned cluster, each beginning after the copied snapshot.
//!
//! The store holds all of the clone but its logs (`tidemark snapshots copy --fork`): identity, control state, and in each
//! partition a snapshot that was copied ([`Repository::fork`]).
//!
//! 1. Look at store and log, and decide for each partition. One refusal, and nothing is created.
//! 2. Provision the missing logs one by one. A crash leaves some missing; a rerun completes them, with the same ids,
//!    also when the others were used meanwhile.
//!
//! The store is only read.

use super::cluster_init::{provision, registrations};
use crate::output::{OutputFormat, table};
use anyhow::Context as _;
use partition_log::{Base, Log, LogAdmin, Registration};
use snapshot_store::{
    ForkPoint, ForkRefusal, Incarnation, Lsn, PartitionId, Repository, StoreError, format::ClusterRecord,
};
use std::{collections::BTreeMap, process::ExitCode};

/// How many faults are listed; a message about thousands of partitions helps nobody.
const LISTED_MAX: usize = 20;

/// A clone whose logs are all there.
#[derive(Debug)]
pub(crate) struct StartedClone {
    record: ClusterRecord,
    logs: BTreeMap<PartitionId, Step>,
}

/// What is done about one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The log is created.
    Provision(Registration),
    /// An earlier run created it.
    Keep(Registration),
}

impl Step {
    fn registration(&self) -> &Registration {
        match self {
            Step::Provision(registration) | Step::Keep(registration) => registration,
        }
    }
}

/// Why a log cannot be created, or cannot be the fork's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Store(#[from] ForkRefusal),
    #[error(
        "the log of partition {partition} belongs to another cluster or life (incarnation {found}): use an empty data folder for the log of a clone"
    )]
    OtherLog {
        partition: PartitionId,
        found: Incarnation,
    },
    #[error(
        "the log of partition {partition} begins at {found}, the forked snapshot ends at {snapshot}: use an empty data folder for the log of a clone"
    )]
    OtherBase {
        partition: PartitionId,
        found: Lsn,
        snapshot: Lsn,
    },
    #[error(
        "the log of partition {partition} begins at {}, it continues no snapshot: use an empty data folder for the log of a clone",
        Lsn::FIRST
    )]
    NoBase { partition: PartitionId },
}

/// Decides what is done about `partition`, from what the registry knows of it and what the store says.
fn decide(
    record: &ClusterRecord,
    partition: PartitionId,
    found: Option<&Registration>,
    point: &Result<ForkPoint, ForkRefusal>,
) -> Result<Step, Refusal> {
    let Some(found) = found else {
        return match point {
            Ok(point) => Ok(Step::Provision(registration_after(record, point))),
            Err(refusal) => Err(refusal.clone().into()),
        };
    };
    let ours = found.fingerprint == record.cluster.fingerprint
        && record.incarnations.get(&partition) == Some(&found.incarnation);
    if !ours {
        let found = found.incarnation;
        return Err(Refusal::OtherLog { partition, found });
    }
    let Some(base) = found.base else {
        return Err(Refusal::NoBase { partition });
    };
    match point {
        Ok(point) if base != self::base(point) => Err(Refusal::OtherBase {
            partition,
            found: found.first_lsn(),
            snapshot: point.lsn,
        }),
        Err(refusal) if !refusal.has_lived_on() => Err(refusal.clone().into()),
        Ok(_) | Err(_) => Ok(Step::Keep(found.clone())),
    }
}

fn base(point: &ForkPoint) -> Base {
    Base {
        lsn: point.lsn,
        chain_hash: point.chain_hash,
        log_bytes: point.log_bytes,
    }
}

/// Returns the registration of the log that begins at `point`.
pub(super) fn registration_after(record: &ClusterRecord, point: &ForkPoint) -> Registration {
    Registration {
        partition: point.partition,
        incarnation: point.incarnation,
        fingerprint: record.cluster.fingerprint,
        base: Some(base(point)),
        sealed: false,
        passage: None,
    }
}

/// Creates the logs of the clone in the store, or completes what an earlier run began. `name`, when given, must be
/// the clone's.
///
/// # Errors
/// When the store holds no clone, or one that is not complete; when the log belongs to something else, or one of
/// them does not answer.
pub(crate) async fn init(
    repository: &Repository,
    log: &dyn Log,
    admin: &dyn LogAdmin,
    name: Option<&str>,
) -> anyhow::Result<StartedClone> {
    let store = repository.url();
    let fork = match repository.fork().await {
        Err(StoreError::Missing { key }) => anyhow::bail!(
            "{store} holds no clone ({key} is missing): fill it with `tidemark snapshots copy --fork` first, or leave out --from-fork for a new cluster"
        ),
        other => other.context("the store cannot be read; check its URL")?,
    };
    let record = fork.record;
    if name.is_some_and(|name| name != record.cluster.name) {
        anyhow::bail!(
            "{store} holds cluster {}: leave out --name, or correct --store; nothing was changed",
            record.cluster
        );
    }
    let found = registrations(log, &record).await?;
    let mut logs = BTreeMap::new();
    let mut refusals = Vec::new();
    for (partition, point) in &fork.points {
        match decide(&record, *partition, found.get(partition), point) {
            Ok(step) => drop(logs.insert(*partition, step)),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if !refusals.is_empty() {
        anyhow::bail!("{}; no log was created", listed(&refusals));
    }
    for (partition, step) in &logs {
        if let Step::Provision(registration) = step {
            provision(admin, registration.clone()).await.with_context(|| {
                format!("the log of partition {partition} was not created; run the same command again to complete it")
            })?;
        }
    }
    Ok(StartedClone { record, logs })
}

fn listed(refusals: &[Refusal]) -> String {
    let mut texts: Vec<_> = refusals
        .iter()
        .take(LISTED_MAX)
        .map(ToString::to_string)
        .collect();
    if refusals.len() > LISTED_MAX {
        texts.push(format!("and {} more", refusals.len() - LISTED_MAX));
    }
    texts.join("; ")
}

/// Prints what there is now.
pub(super) fn print(clone: &StartedClone, store: &str, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let StartedClone { record, logs } = clone;
    let objects = logs.values().map(|step| {
        let log = step.registration();
        serde_json::json!({
            "partition": log.partition,
            "incarnation": log.incarnation,
            "base": log.base,
            "first_lsn": log.first_lsn(),
            "created": matches!(step, Step::Provision(_)),
        })
    });
    let answer = serde_json::json!({
        "ok": true,
        "cluster": record.cluster,
        "partitions": record.partitions,
        "store": store,
        "logs": objects.collect::<Vec<_>>(),
    });
    output.print(&answer, || {
        let rows = logs.values().map(|step| {
            let log = step.registration();
            [
                log.partition.to_string(),
                log.incarnation.to_string(),
                log.first_lsn().to_string(),
            ]
        });
        let table = table(["partition", "incarnation of its log", "first LSN"], rows);
        format!("{table}\nclone {} is ready in {store}", record.cluster)
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{
        ChainHash, ClusterIdentity, Fingerprint, IncarnationId, SnapshotId, Timestamp,
        format::{KeyHash, Origin},
    };

    const P0: PartitionId = PartitionId::new(0);

    fn incarnation(generation: u64) -> Incarnation {
        Incarnation {
            generation,
            id: IncarnationId::from_bytes([1; 16]),
        }
    }

    fn identity(name: &str, byte: u8) -> ClusterIdentity {
        ClusterIdentity {
            name: name.to_owned(),
            fingerprint: Fingerprint::from_bytes([byte; 16]),
        }
    }

    fn record() -> ClusterRecord {
        serde_json::from_value(serde_json::json!({
            "cluster": identity("clone", 2),
            "partitions": 1,
            "key_hash": KeyHash::Blake3Mod,
            "incarnations": { "0": incarnation(2) },
            "created_at": Timestamp::from_millis(0),
        }))
        .expect("a record")
    }

    fn point() -> ForkPoint {
        ForkPoint {
            partition: P0,
            incarnation: incarnation(2),
            snapshot_id: snapshot_id(),
            lsn: Lsn::new(100),
            chain_hash: Some(ChainHash::of(b"chain")),
            log_bytes: 1000,
            origin: Origin {
                cluster: identity("source", 1),
                incarnation: incarnation(1),
                snapshot_id: snapshot_id(),
            },
        }
    }

    fn snapshot_id() -> SnapshotId {
        "00000000000000000000000005".parse().expect("an id")
    }

    #[test]
    fn a_missing_log_is_created_after_the_snapshot() {
        let step = decide(&record(), P0, None, &Ok(point()));
        let Ok(Step::Provision(log)) = &step else {
            panic!("{step:?}")
        };
        assert_eq!(log.first_lsn(), Lsn::new(101));
        assert_eq!(log.incarnation, incarnation(2));
        assert_eq!(log.fingerprint, record().cluster.fingerprint);
        let base = log.base.expect("a base");
        assert_eq!(
            (base.chain_hash, base.log_bytes),
            (Some(ChainHash::of(b"chain")), 1000)
        );
        assert!(!log.sealed);
    }

    #[test]
    fn a_log_that_is_there_is_kept_however_far_its_partition_has_come() {
        let log = registration_after(&record(), &point());
        let sealed = Registration {
            sealed: true,
            ..log.clone()
        };
        let lived_on = ForkRefusal::NotForked {
            partition: P0,
            snapshot_id: snapshot_id(),
        };
        for point in [
            Ok(point()),
            Err(lived_on),
            Err(ForkRefusal::Trimmed { partition: P0 }),
        ] {
            let step = decide(&record(), P0, Some(&log), &point);
            assert_eq!(step, Ok(Step::Keep(log.clone())), "{point:?}");
        }
        let step = decide(&record(), P0, Some(&sealed), &Ok(point()));
        assert_eq!(step, Ok(Step::Keep(sealed)));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let log = registration_after(&record(), &point());
        let absent = ForkRefusal::NoPointer { partition: P0 };
        let lived_on = ForkRefusal::Trimmed { partition: P0 };
        let foreign = Registration {
            fingerprint: Fingerprint::from_bytes([7; 16]),
            ..log.clone()
        };
        let other_life = Registration {
            incarnation: incarnation(3),
            ..log.clone()
        };
        let empty = Registration {
            base: None,
            ..log.clone()
        };
        let elsewhere = Registration {
            base: log.base.map(|base| Base {
                lsn: Lsn::new(90),
                ..base
            }),
            ..log.clone()
        };
        let cases = [
            (None, Err(absent.clone()), "partition 0 has no pointer"),
            (None, Err(lived_on), "no fresh fork"),
            (Some(log), Err(absent), "partition 0 has no pointer"),
            (Some(foreign), Ok(point()), "belongs to another cluster"),
            (Some(other_life), Ok(point()), "incarnation 3:"),
            (Some(empty), Ok(point()), "begins at 1"),
            (
                Some(elsewhere),
                Ok(point()),
                "begins at 91, the forked snapshot ends at 100",
            ),
        ];
        for (found, point, expected) in cases {
            let refusal = decide(&record(), P0, found.as_ref(), &point).expect_err(expected);
            let text = refusal.to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_long_list_of_faults_is_cut() {
        let refusals: Vec<_> = (0..25)
            .map(|number| Refusal::NoBase {
                partition: PartitionId::new(number),
            })
            .collect();
        let text = listed(&refusals);
        assert!(
            text.contains("partition 19 ") && !text.contains("partition 20 "),
            "{text}"
        );
        assert!(text.ends_with("and 5 more"), "{text}");
    }
}
