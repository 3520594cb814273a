//! Looking whether a published snapshot is complete: manifest and files are there, with their sizes. Trims look right
//! before they rest on one, the audit looks at all of them.

use crate::{
    archive::{self, limited},
    metrics,
    state::Context,
};
use snapshot_store::{
    Anomaly, AnomalyKind, CheckLevel, ManifestError, NoProgress, PartitionId, StoreError,
    core::HoldReason,
    format::{Certificate, CertifiedSnapshot, PointerEntry},
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
    /// It is incomplete; that was noted, and holds the partition where the pointer names it.
    Damaged,
    /// What named it does not any more.
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
    let found = timeout(LOOK_TIMEOUT, anomaly_of(ctx, id, entry)).await;
    let anomaly = match found {
        Ok(Ok(None)) => return Presence::Complete,
        Ok(Ok(Some(anomaly))) => anomaly,
        Ok(Err(error)) => {
            let detail = format!("snapshot {}: {}", entry.snapshot_id, archive::chain_text(&error));
            return Presence::Unknown(archive::store_hold(&error), detail);
        }
        Err(_) => {
            let detail = format!("snapshot {}: the store did not answer", entry.snapshot_id);
            return Presence::Unknown(HoldReason::StoreUnavailable, detail);
        }
    };
    // One that is incomplete may have left retention, and been deleted, since the pointer was read.
    match limited(ctx.repository.pointer(id)).await {
        Err((reason, detail)) => return Presence::Unknown(reason, detail),
        Ok(pointer) => {
            if !pointer.is_some_and(|read| read.value.retains(entry.snapshot_id)) {
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

/// Looks at a snapshot that `certificate` names and the pointer does not. Restores fall back to it, trims do not rest on it
/// any more: damage is counted and said, and holds nothing. The certificate of the next trim names others.
pub(crate) async fn check_certified(
    ctx: &Context,
    id: PartitionId,
    certificate: &Certificate,
    snapshot: &CertifiedSnapshot,
) -> Presence {
    let unknown = |error: &StoreError| {
        let said = archive::chain_text(error);
        Presence::Unknown(archive::store_hold(error), said)
    };
    let look = async {
        match ctx.repository.certified_entry(certificate, snapshot).await {
            Ok(entry) => anomaly_of(ctx, id, &entry).await,
            Err(ManifestError::Damaged(anomaly)) => Ok(Some(anomaly)),
            Err(ManifestError::Store(error)) => Err(error),
        }
    };
    let anomaly = match timeout(LOOK_TIMEOUT, look).await {
        Ok(Ok(None)) => return Presence::Complete,
        Ok(Ok(Some(anomaly))) => anomaly,
        Ok(Err(error)) => return unknown(&error),
        Err(_) => {
            let said = format!("snapshot {}: the store did not answer", snapshot.snapshot_id);
            return Presence::Unknown(HoldReason::StoreUnavailable, said);
        }
    };
    match limited(ctx.repository.certificate(id)).await {
        Err((reason, detail)) => return Presence::Unknown(reason, detail),
        Ok(now) => {
            if !now.is_some_and(|now| now.value.names(snapshot.snapshot_id)) {
                return Presence::Left;
            }
        }
    }
    metrics::anomaly(anomaly.kind);
    tracing::error!(partition = %id, snapshot = %snapshot.snapshot_id, detail = %anomaly, "a snapshot that only the certificate names is damaged: restores do not fall back to it any more");
    Presence::Damaged
}

/// Returns what is wrong with a snapshot's presence.
async fn anomaly_of(
    ctx: &Context,
    id: PartitionId,
    entry: &PointerEntry,
) -> Result<Option<Anomaly>, StoreError> {
    let level = CheckLevel::Presence;
    let look = ctx
        .repository
        .check_snapshot(&ctx.cluster, id, entry, level, &NoProgress);
    Ok(look.await?.anomalies.into_iter().next())
}
