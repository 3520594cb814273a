//! What an operator orders when a partition cannot help itself, and why it is not done.

use super::{
    published::PublishedSnapshots,
    restore_job::{RestoreError, RestoreRequest},
    snapshot_agent::Shared,
};
use crate::core::{PartitionState, RebuildPlan, SKIP_REASON_BYTES_MAX, SkipRefusal};
use snapshot_store::{
    Anomaly, Lsn, PartitionId, RecordHash, SnapshotId,
    format::{Keys, PointerEntry},
};

/// The order to pass over a record that no replica can apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipOrder {
    /// Where the record stands.
    pub lsn: Lsn,
    /// Hash of its bytes, as the operator was shown it.
    pub hash: RecordHash,
    /// Why, in the operator's words: 1 to [`SKIP_REASON_BYTES_MAX`] bytes. It is kept in the log.
    pub reason: String,
}

impl SkipOrder {
    /// Returns what is wrong with the reason; `None` when it can be kept.
    pub fn fault(&self) -> Option<String> {
        let length = self.reason.len();
        if self.reason.trim().is_empty() {
            return Some("say why: others will read it".to_owned());
        }
        (length > SKIP_REASON_BYTES_MAX)
            .then(|| format!("{length} bytes are too long: at most {SKIP_REASON_BYTES_MAX}"))
    }
}

/// Why a record was not ordered to be passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipError {
    /// This replica is not the one to say so. Nothing was appended.
    #[error(transparent)]
    Refused(#[from] SkipRefusal),
    /// The log takes no appends, or cannot be read. Nothing was appended: try again.
    #[error("the log is in the way: {0}")]
    Unavailable(String),
    /// The order may stand in the log, or may still come to. Asking again finds out, and never appends it twice
    /// where it can be seen.
    #[error("the order may or may not have been appended ({0}): ask again")]
    Unknown(String),
    /// The host never does this.
    #[error("not supported by this service")]
    Unsupported,
}

/// Why a local state was not set aside. It is in use as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// The replica is about to get its state anyway, or the node is stopping.
    #[error("the replica is {state}: wait until it is active or blocked")]
    NotNow {
        /// Where it is in its life.
        state: PartitionState,
    },
    /// An earlier rebuild has not ended.
    #[error("the state of an earlier rebuild is still set aside: wait until the replica is active")]
    UnderWay,
    /// No state could take its place.
    #[error("nothing could take the place of the present state: {0}")]
    NoSource(String),
    /// What could take its place is not known now: try again.
    #[error("what could take the place of the present state is not known now: {0}")]
    Unavailable(String),
    /// The host never does this.
    #[error("not supported by this service")]
    Unsupported,
}

impl RebuildError {
    /// Returns the stable word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            RebuildError::NotNow { .. } => "not-now",
            RebuildError::UnderWay => "rebuild-under-way",
            RebuildError::NoSource(_) => "no-covering-snapshot",
            RebuildError::Unavailable(_) => "unavailable",
            RebuildError::Unsupported => "unsupported",
        }
    }
}

/// What a host answers when it is asked to rebuild a partition.
pub type RebuildAnswer = Result<RebuildPlan, RebuildError>;

/// The snapshot a replica without any state would restore now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covering {
    /// It covers what the log no longer has, and all of it is there.
    Snapshot {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// Its LSN.
        lsn: Lsn,
    },
    /// There is none.
    Nothing {
        /// What was found instead.
        detail: String,
    },
}

/// Looks for the snapshot that a restore would choose: one GET, and a GET and a listing per candidate; another GET, and
/// one more per candidate, where nothing that the pointer retains helps. Content is checked by the restore itself.
pub(super) async fn covering(
    shared: &Shared,
    partition: PartitionId,
    request: &RestoreRequest,
) -> Result<Covering, RestoreError> {
    let published = PublishedSnapshots {
        shared,
        partition,
        request,
    };
    let mut look = Look {
        published,
        useless: Vec::new(),
    };
    let pointer = published.pointer().await?;
    let mut candidates = published.candidates(pointer.as_ref(), None)?;
    for entry in &candidates.entries {
        if let Some(found) = look.at(entry).await? {
            return Ok(found);
        }
    }
    if let Some(certificate) = published.certificate().await? {
        candidates = published.candidates(pointer.as_ref(), Some(&certificate))?;
        for snapshot in &candidates.certified {
            match published.entry(&certificate, snapshot).await? {
                Ok(entry) => {
                    if let Some(found) = look.at(&entry).await? {
                        return Ok(found);
                    }
                }
                Err(anomaly) => look.damaged(snapshot.snapshot_id, snapshot.lsn, &anomaly),
            }
        }
    }
    let passed = candidates.passed_over.iter();
    let found: Vec<_> = passed
        .map(|(id, lsn, reason)| format!("{id} at {lsn} is {}", reason.as_str()))
        .chain(look.useless)
        .collect();
    let key = Keys::pointer(partition);
    let detail = match (pointer, found.as_slice()) {
        (None, []) => format!("the store has no {key}"),
        (Some(_), []) => format!("{key} names no snapshot"),
        (_, found) => found.join("; "),
    };
    Ok(Covering::Nothing { detail })
}

/// A look at the candidates, one after the other.
struct Look<'a> {
    published: PublishedSnapshots<'a>,
    /// Those that do not help, and why.
    useless: Vec<String>,
}

impl Look<'_> {
    async fn at(&mut self, entry: &PointerEntry) -> Result<Option<Covering>, RestoreError> {
        let PublishedSnapshots {
            shared, partition, ..
        } = self.published;
        let (snapshot_id, lsn) = (entry.snapshot_id, entry.lsn);
        if shared.with_slot(partition, |slot| slot.damaged.contains(&snapshot_id)) {
            self.useless
                .push(format!("{snapshot_id} at {lsn} was found damaged"));
            return Ok(None);
        }
        let anomalies = shared.repository.check_presence(partition, entry).await;
        let anomalies = anomalies.map_err(|error| RestoreError::store(partition, error))?;
        match anomalies.first() {
            None => Ok(Some(Covering::Snapshot { snapshot_id, lsn })),
            Some(anomaly) => {
                self.damaged(snapshot_id, lsn, anomaly);
                Ok(None)
            }
        }
    }

    fn damaged(&mut self, id: SnapshotId, lsn: Lsn, anomaly: &Anomaly) {
        self.useless.push(format!("{id} at {lsn} is damaged ({anomaly})"));
    }
}
