//! Looking whether a published snapshot is complete: manifest and files are there, with their sizes. Trims look right
//! before they rest on one, the audit looks at all of them.

use crate::{
    archive::{self, limited},
    metrics,
    state::Context,
};
use snapshot_store::{
    AnomalyKind, CheckLevel, NoProgress, PartitionId, core::HoldReason, format::PointerEntry,
};
use std::time::Duration;
use tokio::time::timeout;

/// How long a look at one snapshot may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);
/// How many objects one page of a listing names, in every kind of store.
const LISTING_PAGE: u64 = 1000;

/// What a look at a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// All of it is there.
    Complete,
    /// It is incomplete; that was noted, and holds the partition.
    Damaged,
    /// The pointer does not name it any more.
    Left,
    /// Whether it is complete is not known, or says nothing here; in the words of a hold.
    Unknown(HoldReason, String),
}

/// Returns how many requests a look takes: the manifest, and a listing.
pub(crate) fn requests(entry: &PointerEntry) -> u32 {
    let pages = u64::from(entry.files) / LISTING_PAGE + 1;
    u32::try_from(1 + pages).unwrap_or(u32::MAX)
}

/// Looks at one snapshot, and notes damage.
pub(crate) async fn check(ctx: &Context, id: PartitionId, entry: &PointerEntry) -> Presence {
    let level = CheckLevel::Presence;
    let look = ctx
        .repository
        .check_snapshot(&ctx.cluster, id, entry, level, &NoProgress);
    let anomalies = match timeout(LOOK_TIMEOUT, look).await {
        Ok(Ok(check)) => check.anomalies,
        Ok(Err(error)) => {
            let detail = format!("snapshot {}: {}", entry.snapshot_id, archive::chain_text(&error));
            return Presence::Unknown(archive::store_hold(&error), detail);
        }
        Err(_) => {
            let detail = format!("snapshot {}: the store did not answer", entry.snapshot_id);
            return Presence::Unknown(HoldReason::StoreUnavailable, detail);
        }
    };
    let Some(anomaly) = anomalies.first() else {
        return Presence::Complete;
    };
    // One that is incomplete may have left retention, and been deleted, since the pointer was read.
    match limited(ctx.repository.pointer(id)).await {
        Err((reason, detail)) => return Presence::Unknown(reason, detail),
        Ok(pointer) => {
            let mut named = pointer.iter().flat_map(|read| &read.value.snapshots);
            if !named.any(|now| now.snapshot_id == entry.snapshot_id) {
                return Presence::Left;
            }
        }
    }
    metrics::anomaly(anomaly.kind);
    let said = format!("{}: {}", anomaly.key, anomaly.detail);
    match anomaly.kind {
        // Neither says anything about the bytes.
        AnomalyKind::ForeignCluster => Presence::Unknown(HoldReason::ForeignIdentity, said),
        AnomalyKind::NewerFormat => Presence::Unknown(HoldReason::VersionUnsupported, said),
        kind => {
            let said = format!("{} ({}: {})", anomaly.key, kind.as_str(), anomaly.detail);
            tracing::error!(partition = %id, snapshot = %entry.snapshot_id, detail = %said, "snapshot is damaged");
            ctx.lock().note_damaged(id, entry.snapshot_id, said);
            ctx.store_wake.notify_one();
            Presence::Damaged
        }
    }
}
