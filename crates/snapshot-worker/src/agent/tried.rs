//! What becomes of the candidates of a restore.

use super::host::HostError;
use snapshot_store::{Anomaly, AnomalyKind, DownloadError, format::PointerEntry};

/// How going through the candidates ended.
pub(super) enum Pass {
    Restored(Box<PointerEntry>),
    ChooseAgain,
    /// None of them helped.
    Exhausted,
}

/// Why the host does not have the state of a candidate.
pub(super) enum NotUsed {
    /// Its objects or its content are not what was published.
    Damaged(String),
    /// This node's software cannot read it.
    Unfit(String),
    /// Neither pointer nor certificate name it any more: choose again.
    Evicted,
}

/// Why a candidate did not help.
pub(super) enum Fault {
    Damaged(String),
    Unfit(String),
}

/// Why a download did not end in a snapshot.
pub(super) enum Missed {
    Download(DownloadError),
    /// The disk has too little room for it.
    NoRoom(HostError),
}

impl From<DownloadError> for Missed {
    fn from(error: DownloadError) -> Self {
        Missed::Download(error)
    }
}

/// Says what anomalies mean: a manifest of a newer format is no damage.
pub(super) fn damage(anomalies: &[Anomaly]) -> NotUsed {
    let texts: Vec<_> = anomalies.iter().map(ToString::to_string).collect();
    if !anomalies.is_empty()
        && anomalies
            .iter()
            .all(|anomaly| anomaly.kind == AnomalyKind::NewerFormat)
    {
        return NotUsed::Unfit(texts.join("; "));
    }
    NotUsed::Damaged(texts.join("; "))
}
