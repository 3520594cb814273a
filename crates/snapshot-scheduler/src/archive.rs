//! What the admin reads from the store outside a trim: the control state at intervals, pointers at the start and
//! whenever a newer snapshot is heard of. What is read here is a hint; a trim reads everything again.

use crate::{
    core::{ArchiveView, ControlView, ManifestFacts},
    metrics::{self, RequestKind},
    state::Context,
};
use futures::{StreamExt, stream};
use snapshot_store::{
    PartitionId, StoreError,
    core::HoldReason,
    format::{Certificate, Control, Pointer, PointerEntry, StickyHold, StickyReason, Unknown},
};
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How many pointers are read at a time.
const READS_MAX: usize = 16;
/// How old the control state may get between two trims; each trim reads it again.
const CONTROL_AGE_MAX: Duration = Duration::from_secs(5);
/// How long one read of a small object may take, with the repository's own retries.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads what is wanted from the store until the scheduler stops.
pub(crate) async fn keep_reading(ctx: Arc<Context>) {
    loop {
        tokio::select! {
            () = round(&ctx) => {}
            () = ctx.shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(ctx.options.poll_interval()) => {}
            () = ctx.store_wake.notified() => {}
            () = ctx.shutdown.cancelled() => return,
        }
    }
}

async fn round(ctx: &Context) {
    // Sticky holds must be known before snapshots are trusted on the word of a certificate.
    let now = ctx.now();
    let control_due = {
        let state = ctx.lock();
        let known = matches!(state.view.control, ControlView::Known(_));
        !known
            || state
                .control_read_at
                .is_none_or(|read_at| now.since(read_at) >= CONTROL_AGE_MAX)
    };
    if control_due {
        read_control(ctx).await;
    }
    write_holds(ctx).await;
    let wanted: Vec<PartitionId> = {
        let state = ctx.lock();
        let due = state
            .memory
            .iter()
            .filter(|(_, memory)| memory.pointer_wanted && ctx.now() >= memory.pointer_not_before);
        due.map(|(id, _)| *id).collect()
    };
    stream::iter(wanted)
        .map(|id| read_pointer(ctx, id))
        .buffer_unordered(READS_MAX)
        .for_each(|()| std::future::ready(()))
        .await;
}

/// Waits for a read no longer than is reasonable.
pub(crate) async fn limited<T>(
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, (HoldReason, String)> {
    match timeout(READ_TIMEOUT, read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err((store_hold(&error), chain_text(&error))),
        Err(_) => {
            let detail = format!("the store did not answer within {} s", READ_TIMEOUT.as_secs());
            Err((HoldReason::StoreUnavailable, detail))
        }
    }
}

/// Returns the error with all its sources, for people.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Returns the hold that a failed read of pointer or certificate means.
pub(crate) fn store_hold(error: &StoreError) -> HoldReason {
    if error.is_retryable() {
        return HoldReason::StoreUnavailable;
    }
    match error {
        StoreError::Foreign { .. } => HoldReason::ForeignIdentity,
        StoreError::Incapable { .. } => HoldReason::StoreUnavailable,
        _ => HoldReason::PointerUnreadable,
    }
}

/// Reads control.json and takes it over; anything but a readable one of this cluster counts as unreadable.
pub(crate) async fn read_control(ctx: &Context) -> ControlView {
    let read = match limited(ctx.repository.control()).await {
        Ok(Some(control)) if control.value.cluster.fingerprint != ctx.cluster.fingerprint => {
            ControlView::Unreadable(format!("control.json belongs to {}", control.value.cluster))
        }
        Ok(Some(control)) => ControlView::Known(control.value),
        Ok(None) => ControlView::Unreadable("admin/control.json is missing".to_owned()),
        Err((_, detail)) => ControlView::Unreadable(detail),
    };
    let now = ctx.now();
    let mut state = ctx.lock();
    if let ControlView::Unreadable(detail) = &read
        && state.view.control != read
    {
        tracing::warn!(%detail, "control state cannot be read; nothing is snapshotted or trimmed");
    }
    state.control_read_at = Some(now);
    state.apply_control(read.clone());
    read
}

/// Writes sticky holds that are so far only in memory.
async fn write_holds(ctx: &Context) {
    let pending = ctx.lock().pending_holds.clone();
    // A dry run keeps them to itself; they hold its own plan.
    if pending.is_empty() || ctx.policy().dry_run {
        return;
    }
    let since = ctx.seams.clock.now();
    let add = |control: &mut Control| {
        for ((partition, reason), detail) in &pending {
            if !control.holds_of(*partition).any(|hold| hold.reason == *reason) {
                let (partition, reason, detail) = (*partition, *reason, detail.clone());
                control.holds.push(StickyHold {
                    partition,
                    reason,
                    since,
                    detail,
                    unknown: Unknown::default(),
                });
            }
        }
    };
    match change_control(ctx, add).await {
        Ok(_) => tracing::warn!(holds = pending.len(), "sticky holds were written to control.json"),
        // They stay in force in memory, and are written with the next round.
        Err(error) => tracing::warn!(error = %chain_text(&error), "sticky holds could not be written"),
    }
}

/// Changes control.json and takes the outcome over. Holds that were pending and are now stored stop pending.
pub(crate) async fn change_control(
    ctx: &Context,
    change: impl FnMut(&mut Control),
) -> Result<Control, StoreError> {
    let control = ctx.repository.update_control(&ctx.cluster, change).await?;
    let now = ctx.now();
    let mut state = ctx.lock();
    state
        .pending_holds
        .retain(|(partition, reason), _| !control.holds_of(*partition).any(|hold| hold.reason == *reason));
    state.control_read_at = Some(now);
    state.apply_control(ControlView::Known(control.clone()));
    Ok(control)
}

/// Clears a sticky hold: on a proof of repair, or by an operator.
pub(crate) async fn clear_holds(
    ctx: &Context,
    id: PartitionId,
    clears: impl Fn(StickyReason) -> bool,
) -> Result<Control, StoreError> {
    ctx.lock()
        .pending_holds
        .retain(|(partition, reason), _| *partition != id || !clears(*reason));
    change_control(ctx, |control| {
        control
            .holds
            .retain(|hold| hold.partition != id || !clears(hold.reason))
    })
    .await
}

/// Reads pointer and certificate of a partition and takes them over.
pub(crate) async fn read_pointer(ctx: &Context, id: PartitionId) {
    match read_both(ctx, id).await {
        Ok((pointer, certificate)) => {
            let foreign = pointer
                .as_ref()
                .is_some_and(|p| p.cluster.fingerprint != ctx.cluster.fingerprint);
            let instants = ctx.instants();
            ctx.lock()
                .apply_pointer(id, pointer, certificate.as_ref(), instants);
            if !foreign {
                read_manifests(ctx, id).await;
            }
        }
        Err((reason, detail)) => {
            let now = ctx.now();
            let mut state = ctx.lock();
            let Some((view, memory)) = state.partition(id) else {
                return;
            };
            memory.pointer_failures = memory.pointer_failures.saturating_add(1);
            memory.pointer_not_before = now.plus(ctx.backoff(memory.pointer_failures));
            memory.pointer_wanted = true;
            if memory.pointer_failures == 1 {
                tracing::warn!(partition = %id, %reason, %detail, "pointer cannot be read");
            }
            // What was known stays known while the store is merely away; it is stale, so nothing is ordered.
            if reason == HoldReason::StoreUnavailable && matches!(view.archive, ArchiveView::Known(_)) {
                view.archive_stale = true;
            } else {
                view.archive = ArchiveView::Unreadable { reason, detail };
            }
        }
    }
    ctx.wake.notify_one();
}

async fn read_both(
    ctx: &Context,
    id: PartitionId,
) -> Result<(Option<Pointer>, Option<Certificate>), (HoldReason, String)> {
    let _request = metrics::request(RequestKind::ReadPointer);
    let pointer = limited(ctx.repository.pointer(id)).await?;
    let certificate = limited(ctx.repository.certificate(id)).await?;
    Ok((pointer.map(|read| read.value), certificate.map(|read| read.value)))
}

/// Reads the manifests of the newest snapshots once each, to compare them with replicas.
pub(crate) async fn read_manifests(ctx: &Context, id: PartitionId) {
    let missing: Vec<PointerEntry> = {
        let state = ctx.lock();
        let Some(view) = state.view.partitions.get(&id) else {
            return;
        };
        let Some(pointer) = view.pointer() else { return };
        let newest = pointer
            .snapshots
            .iter()
            .take(ctx.policy().restorable_snapshots_min.max(1) as usize);
        newest
            .filter(|entry| !view.manifests.contains_key(&entry.snapshot_id))
            .cloned()
            .collect()
    };
    let mut facts = BTreeMap::new();
    for entry in missing {
        // A manifest that cannot be read is found by the presence check before a trim.
        if let Ok(Ok(manifest)) = timeout(READ_TIMEOUT, ctx.repository.manifest(id, &entry)).await {
            let of = ManifestFacts {
                incarnation: manifest.incarnation,
                chain: manifest.chain,
                state_machine: manifest.state_machine,
            };
            facts.insert(entry.snapshot_id, of);
        }
    }
    if let Some(view) = ctx.lock().view.partitions.get_mut(&id) {
        view.manifests.extend(facts);
    }
}
