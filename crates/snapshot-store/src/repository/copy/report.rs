//! What came of a copy: the whole, each partition, each snapshot.

use super::super::{
    Anomaly, CertificateError, InitError, PublishError, anomaly::FirstFew, error::StoreError,
};
use crate::{
    format::Pause,
    vocabulary::{ClusterIdentity, Lsn, PartitionId, SnapshotId},
};

/// Why nothing was copied at all.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Both URLs name the same place, or one lies within the other.
    #[error("{from} and {to} are the same place, or one lies in the other: name another destination")]
    Overlap {
        /// URL of the source.
        from: String,
        /// URL of the destination.
        to: String,
    },
    /// The source holds no cluster.
    #[error("{url} holds no cluster: check the URL of the source")]
    NoCluster {
        /// URL of the source.
        url: String,
    },
    /// The cluster has no such partition.
    #[error("the cluster has no partition {partition}: it has {partitions}, numbered from 0")]
    NoSuchPartition {
        /// The partition.
        partition: PartitionId,
        /// How many there are.
        partitions: u32,
    },
    /// The source was moved elsewhere already.
    #[error(
        "the source was moved to {to} by {by} already: copy from there, or take the seal back with `tidemark resume` if the cluster still uses the source"
    )]
    MovedElsewhere {
        /// Where to.
        to: String,
        /// Who did it.
        by: String,
    },
    /// The destination holds the cluster that is to be forked.
    #[error(
        "the destination holds the same cluster {cluster}: a fork needs a place of its own, --move copies the cluster itself"
    )]
    SameCluster {
        /// The cluster.
        cluster: ClusterIdentity,
    },
    /// The destination holds something else.
    #[error("the destination holds cluster {found}, which is {what}: use another URL")]
    Occupied {
        /// The cluster found there.
        found: ClusterIdentity,
        /// What it is instead of what was expected.
        what: &'static str,
    },
    /// A fork into an empty destination needs a name.
    #[error("the destination is empty: the new cluster needs a name (--name)")]
    Nameless,
    /// The source did not answer, or cannot be used.
    #[error("the source cannot be used")]
    Source(#[source] StoreError),
    /// The identity could not be created at the destination.
    #[error("the destination cannot be used")]
    Destination(#[source] InitError),
    /// It was cancelled before anything was copied.
    #[error("the copy was cancelled; running it again goes on")]
    Cancelled,
}

/// Why a partition was not copied. What was copied so far stays, and the next run goes on with it.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// The source answered, and something in it is not what it should be.
    #[error("the source is damaged: {}", FirstFew(.0))]
    Damaged(Vec<Anomaly>),
    /// The source did not answer, or cannot be understood.
    #[error("the source cannot be read")]
    Source(#[source] StoreError),
    /// The destination did not answer, or cannot be understood.
    #[error("the destination cannot be used")]
    Destination(#[source] StoreError),
    /// What was sent is not there, or is not complete.
    #[error("the copy is incomplete: {}", FirstFew(.0))]
    Incomplete(Vec<Anomaly>),
    /// The destination has something in this place that a copy must not displace.
    #[error("{key} is at the destination, and no pointer is: something else lives there, use another URL")]
    Occupied {
        /// The object.
        key: String,
    },
    /// The pointer was not written.
    #[error(transparent)]
    Pointer(#[from] PublishError),
    /// The certificate was not written.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The source kept changing, sealed as it is.
    #[error(
        "the source changed during each of {rounds} rounds: an admin or a worker still uses it and does not obey the seal, stop it and run the copy again"
    )]
    Unstable {
        /// How often it was copied.
        rounds: usize,
    },
    /// It was not wanted any more.
    #[error("the copy was cancelled; running it again goes on")]
    Cancelled,
}

impl CopyFault {
    /// Returns the word used in JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            CopyFault::Damaged(_) => "source-damaged",
            CopyFault::Source(_) => "source-unreadable",
            CopyFault::Destination(_) => "destination-unusable",
            CopyFault::Incomplete(_) => "incomplete",
            CopyFault::Occupied { .. } => "occupied",
            CopyFault::Pointer(_) => "pointer-not-written",
            CopyFault::Certificate(_) => "certificate-not-written",
            CopyFault::Unstable { .. } => "unstable-source",
            CopyFault::Cancelled => "cancelled",
        }
    }
}

/// How the copy of one partition ended.
#[derive(Debug)]
pub enum CopyOutcome {
    /// The destination's pointer names what was copied.
    Copied,
    /// The destination had it all before: nothing was written.
    AlreadyThere,
    /// There is no snapshot to copy.
    NoSnapshot,
    /// It was not copied.
    Failed(CopyFault),
}

impl CopyOutcome {
    /// Returns the word used in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            CopyOutcome::Copied => "copied",
            CopyOutcome::AlreadyThere => "already-there",
            CopyOutcome::NoSnapshot => "no-snapshot",
            CopyOutcome::Failed(_) => "failed",
        }
    }
}

/// One snapshot at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedSnapshot {
    /// Its id at the source.
    pub source: SnapshotId,
    /// Its id at the destination: the same after a move.
    pub snapshot_id: SnapshotId,
    /// Its LSN.
    pub lsn: Lsn,
    /// Sum of its file sizes.
    pub bytes_total: u64,
    /// How much of it was sent by this run.
    pub bytes_sent: u64,
    /// How much of it was there already, and was read back and found right.
    pub bytes_read_back: u64,
}

/// A snapshot that a fork passed over for an older one, because it is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Its LSN.
    pub lsn: Lsn,
    /// What is wrong with it.
    pub anomalies: Vec<Anomaly>,
}

/// What came of one partition.
#[derive(Debug)]
pub struct CopiedPartition {
    /// The partition.
    pub partition: PartitionId,
    /// How it ended.
    pub outcome: CopyOutcome,
    /// The snapshots that this run looked after, oldest first.
    pub snapshots: Vec<CopiedSnapshot>,
    /// Damaged snapshots that were passed over, newest first.
    pub passed_over: Vec<PassedOver>,
}

impl CopiedPartition {
    pub(super) fn new(partition: PartitionId, outcome: CopyOutcome) -> Self {
        CopiedPartition {
            partition,
            outcome,
            snapshots: Vec::new(),
            passed_over: Vec::new(),
        }
    }

    /// Takes over what an earlier round did.
    pub(super) fn after(mut self, earlier: Option<CopiedPartition>) -> Self {
        let Some(earlier) = earlier else { return self };
        if matches!(
            (&self.outcome, &earlier.outcome),
            (CopyOutcome::AlreadyThere, CopyOutcome::Copied)
        ) {
            self.outcome = CopyOutcome::Copied;
        }
        for before in earlier.snapshots {
            let found = self
                .snapshots
                .iter_mut()
                .find(|now| now.snapshot_id == before.snapshot_id);
            match found {
                Some(now) => {
                    now.bytes_sent += before.bytes_sent;
                    now.bytes_read_back += before.bytes_read_back;
                }
                None => self.snapshots.push(before),
            }
        }
        self.snapshots
            .sort_by_key(|snapshot| (snapshot.lsn, snapshot.snapshot_id));
        self
    }

    /// Returns how many bytes this run sent.
    pub fn bytes_sent(&self) -> u64 {
        self.snapshots.iter().map(|snapshot| snapshot.bytes_sent).sum()
    }

    /// Returns how many bytes this run found there, read back, and found right.
    pub fn bytes_read_back(&self) -> u64 {
        let read_back = self.snapshots.iter().map(|snapshot| snapshot.bytes_read_back);
        read_back.sum()
    }
}

/// What came of a copy.
#[derive(Debug)]
pub struct CopyReport {
    /// The cluster at the destination: the same after a move.
    pub cluster: ClusterIdentity,
    /// Every partition that was asked for, in order.
    pub partitions: Vec<CopiedPartition>,
    /// The seal that now lies on the source; `None` for a fork.
    pub seal: Option<Pause>,
    /// A seal that lies on the destination since it was itself moved elsewhere once: `tidemark resume` takes it back when
    /// the cluster uses it again. It holds everything until then.
    pub destination_seal: Option<Pause>,
}

impl CopyReport {
    /// Returns whether every partition is at the destination, or has nothing to be copied.
    pub fn all_well(&self) -> bool {
        !self
            .partitions
            .iter()
            .any(|one| matches!(one.outcome, CopyOutcome::Failed(_)))
    }

    /// Returns whether nothing had to be done.
    pub fn nothing_to_do(&self) -> bool {
        self.partitions
            .iter()
            .all(|one| matches!(one.outcome, CopyOutcome::AlreadyThere | CopyOutcome::NoSnapshot))
    }
}
