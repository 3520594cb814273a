//! Looking at what is stored after a trim, and deleting what nothing depends on any more.

use super::STORE_TIMEOUT;
use crate::{
    archive,
    metrics::{self, StoredBytes},
    state::Context,
};
use snapshot_store::{DirectoryState, NoProgress, PartitionId, SweepMode, SweepReport, core::DeleteScope};
use tokio::time::timeout;

/// Step 8. Without `prune` it only looks: where the operator's bucket rules clean up, the bytes that wait for them are
/// what shows whether they do.
pub(super) async fn clean_up(ctx: &Context, id: PartitionId) {
    let mode = match ctx.prunes() {
        true => SweepMode::Delete,
        false => SweepMode::List,
    };
    let sweep = ctx
        .repository
        .sweep(id, DeleteScope::CurrentGeneration, mode, &NoProgress);
    match timeout(STORE_TIMEOUT, sweep).await {
        Ok(Ok(report)) => note(ctx, id, &report),
        // Orphans stay; the look after the next trim finds them.
        Ok(Err(error)) => {
            tracing::warn!(partition = %id, error = %archive::chain_text(&error), "what is stored could not be cleaned up");
        }
        Err(_) => tracing::warn!(partition = %id, "what is stored could not be cleaned up in time"),
    }
}

fn note(ctx: &Context, id: PartitionId, report: &SweepReport) {
    metrics::pruned(report.freed.bytes);
    if !report.deleted.is_empty() {
        let (deleted, bytes) = (report.deleted.len(), report.freed.bytes);
        tracing::info!(partition = %id, deleted, bytes, "pruned");
    }
    let left = |state| report.bytes_left(state);
    let stored = StoredBytes {
        retained: left(DirectoryState::Retained) + left(DirectoryState::Certified),
        evicted: left(DirectoryState::Evicted),
        unfinished: left(DirectoryState::Unfinished),
    };
    if let Some((_, memory)) = ctx.lock().partition(id) {
        memory.stored = Some(stored);
    }
}
