//! What becomes of a partition whose log is lost: which snapshot its next log continues, in which generation, and which
//! records nobody has any more.
//!
//! Nothing here destroys anything: a recovery publishes a copy of a snapshot ([`super::may_replace_pointer`] is asked like
//! for any other) and creates a log where there is none.

use crate::{
    format::{Certificate, Origin, Pointer, PointerEntry},
    vocabulary::{ClusterIdentity, Fingerprint, Incarnation, Lineage, Lsn, PartitionId, SnapshotId},
};
use std::collections::BTreeSet;

/// What the log server has registered for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredLog {
    /// Fingerprint of the cluster it belongs to.
    pub fingerprint: Fingerprint,
    /// Which life of the log.
    pub incarnation: Incarnation,
    /// First unwritten LSN, exclusive.
    pub tail: Lsn,
}

/// What a worker says of its replica of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaClaim {
    /// The worker, as a message names it.
    pub node: String,
    /// The log its state belongs to.
    pub incarnation: Incarnation,
    /// Highest LSN applied, inclusive.
    pub applied_lsn: Lsn,
    /// Whether it follows a log at this moment, so that there is one.
    pub following: bool,
}

/// What a recovery is decided on.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryFacts<'a> {
    /// The cluster whose log it is.
    pub cluster: &'a ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The first incarnation of its log, by `cluster.json`; `None` where that does not name it.
    pub first: Option<Incarnation>,
    /// Its pointer; `None` when there is none.
    pub pointer: Option<&'a Pointer>,
    /// Its certificate; `None` when there is none.
    pub certificate: Option<&'a Certificate>,
    /// Snapshots that the certificate names and the pointer does not ([`Certificate::unretained`]), as far as their
    /// manifests can be had.
    pub certified: &'a [PointerEntry],
    /// Whose state the latest snapshot holds, when it was forked; `None` also when its manifest cannot be had.
    pub latest_origin: Option<&'a Origin>,
    /// Snapshots that were read and are damaged.
    pub damaged: &'a BTreeSet<SnapshotId>,
    /// What is registered; `None` when the log is missing.
    pub log: Option<&'a RegisteredLog>,
    /// What the workers say of their replicas, in any order.
    pub replicas: &'a [ReplicaClaim],
}

/// What is done about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryStep {
    /// Its log is there: nothing.
    Keep {
        /// Which life of the log.
        incarnation: Incarnation,
    },
    /// A copy of a snapshot begins the next generation, and the log continues it.
    Fork {
        /// The snapshot, to be read through before anybody relies on it.
        from: Box<PointerEntry>,
        /// The generation of copy and log.
        generation: u64,
    },
    /// An earlier run published the copy: only the log is missing.
    Provision {
        /// The copy.
        entry: Box<PointerEntry>,
    },
    /// Nothing was ever archived: the log begins empty, at LSN 1. Only for a partition that an operator names.
    BeginEmpty {
        /// The generation of the log.
        generation: u64,
    },
}

impl RecoveryStep {
    /// Returns the word used in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            RecoveryStep::Keep { .. } => "keep",
            RecoveryStep::Fork { .. } => "fork",
            RecoveryStep::Provision { .. } => "provision",
            RecoveryStep::BeginEmpty { .. } => "begin-empty",
        }
    }
}

/// Which records are lost: all above an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The LSN up to which everything is kept, inclusive; 0 when nothing is.
    pub kept: Lsn,
    /// The highest LSN of the lost log that anything speaks of, and what; there may have been more. `None` when nothing
    /// speaks of any above `kept`.
    pub seen: Option<(Lsn, String)>,
}

/// What is done about a partition, and what is lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// What is done.
    pub step: RecoveryStep,
    /// What is lost; `None` when the log is there.
    pub loss: Option<Loss>,
}

/// Why nothing is done about a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryRefusal {
    /// Pointer or certificate are of another cluster or partition.
    #[error("{object} belongs to another cluster or partition ({found}): put the right object back first")]
    Foreign {
        /// Which object.
        object: &'static str,
        /// Fingerprint found.
        found: Fingerprint,
    },
    /// The log server holds a log of another cluster.
    #[error(
        "the log belongs to cluster {found}: correct --log-admin, or start the log server on an empty folder"
    )]
    OtherLog {
        /// Fingerprint found.
        found: Fingerprint,
    },
    /// The log that is there is not the one the latest snapshot continues or was made from.
    #[error(
        "the log is there, of incarnation {found}, and the latest snapshot is of {latest}: an older log folder was brought back; start the log server on the right one, or on an empty one"
    )]
    OtherLife {
        /// Incarnation of the log.
        found: Incarnation,
        /// That of the latest snapshot.
        latest: Incarnation,
    },
    /// The log that is there ends before what was archived of it.
    #[error(
        "the log is there and ends before {tail}, although {claim} was reached: it lost records; start the log server on an empty folder, keep the old one, and run this again"
    )]
    Regressed {
        /// First unwritten LSN.
        tail: Lsn,
        /// LSN of the latest snapshot.
        claim: Lsn,
    },
    /// A replica follows a log, so there is one.
    #[error(
        "worker {node} follows a log of incarnation {incarnation} at this moment: it is not lost, check --log-admin; if it is, stop that worker first"
    )]
    Followed {
        /// The worker.
        node: String,
        /// The log's incarnation.
        incarnation: Incarnation,
    },
    /// There is a certificate and no pointer: the log was trimmed, and what its start was is unknown.
    #[error(
        "latest.json is missing although trim.json exists: bring latest.json back (an older version of it, if need be), see the runbook for a lost bucket"
    )]
    PointerMissing,
    /// Pointer and certificate name only damaged snapshots, or none.
    #[error(
        "none of the {named} snapshots that pointer and certificate name is sound: bring the damaged objects back"
    )]
    NothingSound {
        /// How many they name, as far as manifests can be had.
        named: usize,
    },
}

/// Decides what is done about one partition. A snapshot that it names in [`RecoveryStep::Fork`] has to be read through: if
/// it is damaged, it joins `damaged`, and this is asked again.
///
/// # Errors
/// Why nothing is done: something has to be corrected first.
pub fn plan_recovery(facts: &RecoveryFacts<'_>) -> Result<Recovery, RecoveryRefusal> {
    check_owners(facts)?;
    let latest = facts.pointer.and_then(Pointer::latest);
    if let Some(log) = facts.log {
        let step = keep(facts, log, latest)?;
        return Ok(Recovery { step, loss: None });
    }
    if let Some(replica) = facts.replicas.iter().find(|replica| replica.following) {
        return Err(RecoveryRefusal::Followed {
            node: replica.node.clone(),
            incarnation: replica.incarnation,
        });
    }
    let generation = highest_generation(facts).saturating_add(1);
    let Some(pointer) = facts.pointer else {
        if facts.certificate.is_some() {
            return Err(RecoveryRefusal::PointerMissing);
        }
        return Ok(Recovery {
            step: RecoveryStep::BeginEmpty { generation },
            loss: Some(loss(facts, Lsn::ZERO, u64::MAX)),
        });
    };
    if let Some(entry) = latest.filter(|latest| awaits_its_log(facts, latest)) {
        return Ok(Recovery {
            step: RecoveryStep::Provision {
                entry: Box::new(entry.clone()),
            },
            loss: Some(loss(facts, entry.lsn, entry.incarnation.generation)),
        });
    }
    let sound = |entry: &&PointerEntry| !facts.damaged.contains(&entry.snapshot_id);
    // The pointer may have evicted one that is newer than the soundest of those it retains.
    let named = || facts.certified.iter().chain(&pointer.snapshots);
    let position = |entry: &&PointerEntry| (entry.incarnation.generation, entry.lsn);
    match named().filter(sound).max_by_key(position) {
        Some(from) => Ok(Recovery {
            step: RecoveryStep::Fork {
                from: Box::new(from.clone()),
                generation,
            },
            loss: Some(loss(facts, from.lsn, u64::MAX)),
        }),
        None => Err(RecoveryRefusal::NothingSound {
            named: named().count(),
        }),
    }
}

fn check_owners(facts: &RecoveryFacts<'_>) -> Result<(), RecoveryRefusal> {
    let pointer = facts
        .pointer
        .map(|pointer| ("latest.json", &pointer.cluster, pointer.partition));
    let certificate = facts
        .certificate
        .map(|certificate| ("trim.json", &certificate.cluster, certificate.partition));
    for (object, cluster, partition) in pointer.into_iter().chain(certificate) {
        if cluster.fingerprint != facts.cluster.fingerprint || partition != facts.partition {
            return Err(RecoveryRefusal::Foreign {
                object,
                found: cluster.fingerprint,
            });
        }
    }
    Ok(())
}

/// Decides about a log that is there: it is kept, or it is not the one that belongs to the snapshots.
fn keep(
    facts: &RecoveryFacts<'_>,
    log: &RegisteredLog,
    latest: Option<&PointerEntry>,
) -> Result<RecoveryStep, RecoveryRefusal> {
    if log.fingerprint != facts.cluster.fingerprint {
        return Err(RecoveryRefusal::OtherLog {
            found: log.fingerprint,
        });
    }
    if let Some(latest) = latest {
        match log.incarnation.compared_to(&latest.incarnation) {
            Lineage::Same if log.tail <= latest.lsn => {
                return Err(RecoveryRefusal::Regressed {
                    tail: log.tail,
                    claim: latest.lsn,
                });
            }
            Lineage::Same | Lineage::Newer => {}
            Lineage::Older | Lineage::Conflict => {
                return Err(RecoveryRefusal::OtherLife {
                    found: log.incarnation,
                    latest: latest.incarnation,
                });
            }
        }
    }
    Ok(RecoveryStep::Keep {
        incarnation: log.incarnation,
    })
}

/// Returns whether the latest snapshot is the copy of an earlier run whose log was never created, as far as anybody knows:
/// it is a fork of this very cluster, nothing was trimmed in its generation, and no replica ever had that log.
fn awaits_its_log(facts: &RecoveryFacts<'_>, latest: &PointerEntry) -> bool {
    let recovered = facts.latest_origin.is_some_and(|origin| {
        origin.cluster.fingerprint == facts.cluster.fingerprint
            && origin.incarnation.generation < latest.incarnation.generation
    });
    let generation = latest.incarnation.generation;
    let trimmed = facts
        .certificate
        .is_some_and(|certificate| certificate.incarnation.generation >= generation);
    let lived = facts
        .replicas
        .iter()
        .any(|replica| replica.incarnation.generation >= generation);
    recovered && !trimmed && !lived && !facts.damaged.contains(&latest.snapshot_id)
}

/// Every life of the log that anything speaks of, with the highest LSN it vouches for.
fn claims<'a>(facts: &RecoveryFacts<'a>) -> impl Iterator<Item = (Incarnation, Lsn, String)> + use<'a> {
    let retained = facts.pointer.into_iter().flat_map(|pointer| {
        let entries = pointer.snapshots.iter();
        entries.map(|entry| {
            (
                entry.incarnation,
                entry.lsn,
                format!("snapshot {}", entry.snapshot_id),
            )
        })
    });
    let published = facts.pointer.into_iter().flat_map(|pointer| {
        let history = pointer.history.iter();
        history.map(|past| {
            (
                past.incarnation,
                past.lsn,
                format!("snapshot {}", past.snapshot_id),
            )
        })
    });
    let certified = facts.certificate.into_iter().map(|certificate| {
        let what = "the certificate of the last trim".to_owned();
        (certificate.incarnation, certificate.up_to, what)
    });
    let replicas = facts.replicas.iter().map(|replica| {
        let what = format!("worker {}", replica.node);
        (replica.incarnation, replica.applied_lsn, what)
    });
    retained.chain(published).chain(certified).chain(replicas)
}

fn highest_generation(facts: &RecoveryFacts<'_>) -> u64 {
    claims(facts)
        .map(|(incarnation, _, _)| incarnation)
        .chain(facts.first)
        .map(|incarnation| incarnation.generation)
        .max()
        .unwrap_or(0)
}

/// Says what is lost of the newest life before generation `next` when everything up to `kept` is kept.
fn loss(facts: &RecoveryFacts<'_>, kept: Lsn, next: u64) -> Loss {
    let before = |(incarnation, _, _): &(Incarnation, Lsn, String)| incarnation.generation < next;
    let lost = claims(facts)
        .filter(before)
        .map(|(incarnation, _, _)| incarnation.generation)
        .max();
    let seen = claims(facts)
        .filter(|(incarnation, lsn, _)| Some(incarnation.generation) == lost && *lsn > kept)
        .max_by_key(|(_, lsn, _)| *lsn)
        .map(|(_, lsn, what)| (lsn, what));
    Loss { kept, seen }
}
