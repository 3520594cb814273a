//! Trimming the log of a partition: the only destructive act on the log.
//!
//! 1. What the view forbids by itself is a hold, without a request: another admin acts, warming up, stale.
//! 2. Read `control.json`, `latest.json` and `trim.json` afresh, and ask the log. What cannot be read is a hold.
//! 3. Check that every restorable snapshot has its manifest and its files, with their sizes. Their content was
//!    checked once before, by a worker; that is remembered, or stands in the certificate in force.
//! 4. Repaired damage: once all restorable snapshots are verified, the sticky hold goes. A crash after that leaves
//!    what the proof says: a partition without damage.
//! 5. `snapshot_store::core::trim_up_to` decides. Nothing is decided around it.
//! 6. Write the certificate, by a conditional put and only if `(generation, up_to)` grows, unless the one in force
//!    covers it. A crash after that leaves a certificate that entitles any admin to go on with step 7. Who loses the
//!    race does not trim.
//! 7. Trim the log, and ask it what is in force now. A crash after that leaves nothing to do.
//! 8. Look at what is stored, and where `prune` is on delete what `may_delete` allows, nothing else. A crash in
//!    between leaves orphans, which the next look finds.
//!
//! Invariants:
//! - The log is trimmed only up to what a certificate covers whose snapshots were present in this very pass.
//! - Nothing read before this pass enters the decision, except checks of immutable content.
//! - Not knowing means hold.
//!
//! Not here: when to look (`core::plan`), and how content is checked (`execute`).

mod clean;
mod report;

pub use report::{TrimMode, TrimReport, TrimResult};
use report::{describe, explain, price_of, price_text};

use crate::{
    archive::{self, limited},
    core::{self, ControlView, Policy},
    lease,
    metrics::{self, RequestKind},
    observe,
    presence::{self, Presence},
    state::Context,
};
use snapshot_store::{
    CertificateDraft, CertificateError, Lsn, PartitionId, SnapshotId,
    core::{
        HoldReason, LogFacts, ReplicaNeed, SnapshotTrust, TrimDecision, TrimFacts, TrimGrant, trim_up_to,
    },
    format::{Certificate, CertifiedSnapshot, Pointer, PointerEntry, StickyReason, Unknown, VerifyLevel},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the log may take to trim; it may have to delete many files.
const TRIM_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a certificate or a look at all that is stored may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// A hold, on its way out of the protocol.
struct Hold(HoldReason, String);

impl From<(HoldReason, String)> for Hold {
    fn from((reason, detail): (HoldReason, String)) -> Self {
        Hold(reason, detail)
    }
}

/// What one pass has read.
struct Reads {
    /// The policy in force when the pass began.
    policy: Arc<Policy>,
    log: Option<LogFacts>,
    log_error: Option<String>,
    /// Bytes of records in the log, when it counts them.
    held_bytes: Option<u64>,
    pointer: Option<Pointer>,
    certificate: Option<Certificate>,
    trust: BTreeMap<SnapshotId, SnapshotTrust>,
    replicas: Vec<ReplicaNeed>,
}

/// Runs the protocol once. Two passes over one partition never overlap within an admin.
pub(crate) async fn trim_partition(ctx: &Context, id: PartitionId, mode: TrimMode) -> TrimReport {
    let _request = metrics::request(RequestKind::Trim);
    let mut report = TrimReport {
        partition: id,
        result: TrimResult::Failed,
        detail: String::new(),
        guard_lsn: None,
        trim_point: None,
        left_behind: Vec::new(),
        price: None,
        lines: Vec::new(),
    };
    let Some(lock) = ctx.trim_locks.get(&id) else {
        report.detail = format!("partition {id} does not exist");
        return report;
    };
    let _alone = lock.lock().await;
    let mut reads = Reads {
        policy: ctx.policy(),
        log: None,
        log_error: None,
        held_bytes: None,
        pointer: None,
        certificate: None,
        trust: BTreeMap::new(),
        replicas: Vec::new(),
    };
    let passed = pass(ctx, id, mode, &mut reads, &mut report).await;
    report.trim_point = reads.log.map(|log| log.trim_point);
    if let Err(Hold(reason, detail)) = passed {
        // What is held for another reason than a dry run frees nothing.
        report.price = report.price.filter(|_| reason == HoldReason::DryRun);
        report.result = TrimResult::Held(reason);
        report.detail = detail;
    }
    report.lines = explain(ctx, &reads, &report);
    report
}

async fn pass(
    ctx: &Context,
    id: PartitionId,
    mode: TrimMode,
    reads: &mut Reads,
    report: &mut TrimReport,
) -> Result<(), Hold> {
    hold_by_lease(ctx, mode)?;
    hold_by_view(ctx, id)?;
    read_all(ctx, id, reads).await?;
    check_restorable(ctx, id, reads).await?;
    let rule = reads.policy.trim_rule(mode.force);
    let now = ctx.now();
    let decision = {
        let state = ctx.lock();
        // Taken last, so that a replica that reported meanwhile is seen.
        if let Some(partition) = state.view.partitions.get(&id) {
            reads.replicas = state.view.replica_needs(partition, now);
        }
        let facts = TrimFacts {
            cluster: &ctx.cluster,
            partition: id,
            log: reads.log,
            pointer: reads.pointer.as_ref(),
            certificate: reads.certificate.as_ref(),
            trust: &reads.trust,
            replicas: &reads.replicas,
            now: ctx.seams.clock.now(),
        };
        trim_up_to(&facts, &rule)
    };
    let grant = match decision {
        TrimDecision::Trim(grant) => grant,
        TrimDecision::Hold {
            reason,
            guard_lsn,
            detail,
        } => {
            report.guard_lsn = guard_lsn;
            let detail = match (reason, &reads.log_error) {
                (HoldReason::LogUnavailable, Some(error)) => error.clone(),
                _ => detail,
            };
            clear_repaired(ctx, id, mode, reads).await?;
            return Err(Hold(reason, detail));
        }
    };
    report.guard_lsn = Some(grant.guard_lsn);
    report.left_behind = grant.left_behind.clone();
    report.price = price_of(&ctx.lock(), id, reads, &grant, now);
    clear_repaired(ctx, id, mode, reads).await?;
    // Evidence may have come up while the store was being read.
    hold_by_view(ctx, id)?;
    if !mode.force {
        hold_by_version(ctx, id, &reads.policy)?;
    }
    if mode.dry_run {
        report.result = TrimResult::WouldTrim { up_to: grant.up_to };
        report.detail = describe(&grant);
        return Ok(());
    }
    if reads.policy.dry_run {
        return Err(Hold(
            HoldReason::DryRun,
            match &report.price {
                Some(price) => format!("would trim: {}; {}", describe(&grant), price_text(price)),
                None => format!("would trim: {}", describe(&grant)),
            },
        ));
    }
    // Not for safety: another admin that took over meanwhile does the same, and one of the two would lose.
    hold_by_lease(ctx, mode)?;
    certify(ctx, id, &grant, reads).await?;
    execute(ctx, id, &grant, reads, report).await;
    Ok(())
}

/// Step 1, and again right before the point of no return.
fn hold_by_view(ctx: &Context, id: PartitionId) -> Result<(), Hold> {
    let now = ctx.now();
    let state = ctx.lock();
    let Some(partition) = state.view.partitions.get(&id) else {
        return Ok(());
    };
    // A new mismatch is evidence even before the next tick has made it sticky.
    if let Some(detail) = core::chain_mismatch(&state.view, partition, now) {
        return Err(Hold(HoldReason::ChainMismatch, detail));
    }
    let looked = core::Looked::at(&state.view, partition, now);
    let evidence = core::evidence_hold(&looked).or_else(|| core::view_hold(&looked));
    evidence.map_or(Ok(()), |hold| Err(hold.into()))
}

/// Leaves the trim to the admin that acts. Looking is everybody's.
fn hold_by_lease(ctx: &Context, mode: TrimMode) -> Result<(), Hold> {
    let standby = lease::standby(ctx, &ctx.lock(), ctx.now()).filter(|_| !mode.dry_run);
    standby.map_or(Ok(()), |detail| Err(Hold(HoldReason::Standby, detail)))
}

fn hold_by_version(ctx: &Context, id: PartitionId, policy: &Policy) -> Result<(), Hold> {
    let now = ctx.now();
    let state = ctx.lock();
    let Some(partition) = state.view.partitions.get(&id) else {
        return Ok(());
    };
    let wanted = policy.restorable_snapshots_min.max(1) as usize;
    match core::version_hold(&state.view, partition, now, wanted) {
        Some(detail) => Err(Hold(HoldReason::VersionUnsupported, detail)),
        None => Ok(()),
    }
}

/// Step 2.
async fn read_all(ctx: &Context, id: PartitionId, reads: &mut Reads) -> Result<(), Hold> {
    match archive::read_control(ctx).await {
        ControlView::Known(control) => {
            if let Some(pause) = control.pause_of(id) {
                let detail = format!("{} paused by {}: {}", pause.scope, pause.by, pause.reason);
                return Err(Hold(HoldReason::Paused, detail));
            }
        }
        ControlView::Unreadable(detail) => return Err(Hold(HoldReason::ControlUnreadable, detail)),
        ControlView::Unread => {
            return Err(Hold(
                HoldReason::ControlUnreadable,
                "control.json was not read".to_owned(),
            ));
        }
    }
    // The control state that was just read may hold the partition.
    hold_by_view(ctx, id)?;
    reads.pointer = limited(ctx.repository.pointer(id)).await?.map(|read| read.value);
    reads.certificate = limited(ctx.repository.certificate(id))
        .await?
        .map(|read| read.value);
    // After the pointer: else a snapshot published meanwhile would lie above the tail, as if the log had lost records.
    match observe::read_log(ctx, id).await {
        Ok((facts, held_bytes)) => {
            reads.log = Some(facts);
            reads.held_bytes = held_bytes;
        }
        Err(error) => reads.log_error = Some(error.to_string()),
    }
    let instants = ctx.instants();
    ctx.lock()
        .apply_pointer(id, reads.pointer.clone(), reads.certificate.as_ref(), instants);
    archive::read_manifests(ctx, id).await;
    Ok(())
}

/// Returns the snapshots that a trim would rest on.
fn restorable(ctx: &Context, reads: &Reads) -> Vec<PointerEntry> {
    let (Some(pointer), Some(log)) = (&reads.pointer, reads.log) else {
        return Vec::new();
    };
    // What is not ours is refused by the rule, and not looked at.
    if pointer.cluster.fingerprint != ctx.cluster.fingerprint {
        return Vec::new();
    }
    pointer
        .restorable(&log.incarnation, reads.policy.restorable_snapshots_min.max(1))
        .cloned()
        .collect()
}

/// Step 3.
async fn check_restorable(ctx: &Context, id: PartitionId, reads: &mut Reads) -> Result<(), Hold> {
    for entry in restorable(ctx, reads) {
        let trust = match presence::check(ctx, id, &entry).await {
            Presence::Complete => trust_of(ctx, id, entry.snapshot_id),
            Presence::Damaged => Some(SnapshotTrust::Damaged),
            Presence::Left => {
                let detail = format!("snapshot {} left the pointer meanwhile", entry.snapshot_id);
                return Err(Hold(HoldReason::LostRace, detail));
            }
            Presence::Unknown(reason, detail) => return Err(Hold(reason, detail)),
        };
        if let Some(trust) = trust {
            reads.trust.insert(entry.snapshot_id, trust);
        }
    }
    Ok(())
}

/// Returns what is known of the content of a snapshot that is present. What a worker reports as damaged, and
/// nobody has checked since, is not known.
fn trust_of(ctx: &Context, id: PartitionId, snapshot: SnapshotId) -> Option<SnapshotTrust> {
    let state = ctx.lock();
    let partition = state.view.partitions.get(&id)?;
    if partition.suspected.contains(&snapshot) {
        return None;
    }
    Some(
        partition
            .trust
            .get(&snapshot)
            .copied()
            .unwrap_or(SnapshotTrust::Verified(VerifyLevel::Presence)),
    )
}

/// Step 4: all restorable snapshots verified at content or above is the proof of repair.
async fn clear_repaired(ctx: &Context, id: PartitionId, mode: TrimMode, reads: &Reads) -> Result<(), Hold> {
    let held = {
        let state = ctx.lock();
        state
            .view
            .partitions
            .get(&id)
            .and_then(|p| p.holds.get(&StickyReason::DamagedSnapshot).cloned())
    };
    let Some(detail) = held else { return Ok(()) };
    let entries = restorable(ctx, reads);
    let demanded = reads.policy.verify_before_trim.max(VerifyLevel::Content);
    let sound = |entry: &PointerEntry| match reads.trust.get(&entry.snapshot_id) {
        Some(SnapshotTrust::Verified(level)) => *level >= demanded,
        Some(SnapshotTrust::Damaged) | None => false,
    };
    let enough = entries.len() >= reads.policy.restorable_snapshots_min.max(1) as usize;
    if !enough || !entries.iter().all(sound) {
        return Err(Hold(HoldReason::DamagedSnapshot, detail));
    }
    if mode.dry_run || reads.policy.dry_run {
        return Ok(());
    }
    let cleared = archive::clear_holds(ctx, id, |reason| reason == StickyReason::DamagedSnapshot).await;
    match cleared {
        Ok(_) => {
            tracing::info!(partition = %id, "all restorable snapshots are verified again: the hold for damage is over");
            Ok(())
        }
        Err(error) => Err(Hold(HoldReason::ControlUnreadable, archive::chain_text(&error))),
    }
}

/// Step 6.
async fn certify(ctx: &Context, id: PartitionId, grant: &TrimGrant, reads: &Reads) -> Result<(), Hold> {
    if grant.certified {
        return Ok(());
    }
    let snapshots = {
        let state = ctx.lock();
        let checks = state.memory.get(&id).map(|memory| &memory.checks);
        let certified = |entry: &PointerEntry| {
            let check = checks.and_then(|checks| checks.get(&entry.snapshot_id));
            let level = match reads.trust.get(&entry.snapshot_id) {
                Some(SnapshotTrust::Verified(level)) => *level,
                Some(SnapshotTrust::Damaged) | None => VerifyLevel::Presence,
            };
            CertifiedSnapshot {
                snapshot_id: entry.snapshot_id,
                lsn: entry.lsn,
                path: entry.path,
                manifest_hash: entry.manifest_hash,
                verified: level,
                // Presence is checked by the admin itself, a moment ago.
                verified_by: check.map_or_else(|| ctx.admin.clone(), |check| check.by.clone()),
                verified_at: check.map_or_else(|| ctx.seams.clock.now(), |check| check.at),
                unknown: Unknown::default(),
            }
        };
        grant.snapshots.iter().map(certified).collect()
    };
    let draft = CertificateDraft {
        cluster: ctx.cluster.clone(),
        partition: id,
        incarnation: grant.incarnation,
        up_to: grant.up_to,
        snapshots,
        issued_by: ctx.admin.clone(),
    };
    let written = timeout(STORE_TIMEOUT, ctx.repository.write_certificate(draft)).await;
    match written {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let reason = match &error {
                CertificateError::Store(error) => archive::store_hold(error),
                CertificateError::Incarnation { .. } => HoldReason::IncarnationMismatch,
                CertificateError::LostRace { .. } | CertificateError::Unfounded { .. } => {
                    HoldReason::LostRace
                }
            };
            Err(Hold(reason, archive::chain_text(&error)))
        }
        Err(_) => Err(Hold(
            HoldReason::StoreUnavailable,
            "the store did not take the certificate".to_owned(),
        )),
    }
}

/// Steps 7 and 8.
async fn execute(ctx: &Context, id: PartitionId, grant: &TrimGrant, reads: &Reads, report: &mut TrimReport) {
    let before = reads.log.map_or(Lsn::ZERO, |log| log.trim_point);
    let trim = timeout(TRIM_TIMEOUT, ctx.log.trim(id, grant.incarnation, grant.up_to)).await;
    let answered = match trim {
        Ok(Ok(after)) => after,
        Ok(Err(error)) => {
            report.detail = error.to_string();
            metrics::trim_failed();
            return;
        }
        Err(_) => {
            report.detail = format!("the log did not confirm the trim to {}", grant.up_to);
            metrics::trim_failed();
            return;
        }
    };
    // What really happened is what the log says when asked again.
    let begun = ctx.now();
    let after = match observe::read_log(ctx, id).await {
        Ok((facts, held_bytes)) => {
            if let Some((view, _)) = ctx.lock().partition(id) {
                view.log = Some(core::LogView {
                    facts,
                    held_bytes,
                    heard_at: begun,
                });
            }
            facts.trim_point.max(answered)
        }
        Err(_) => answered,
    };
    // The price was worked out for this very trim, unless the log went another way meanwhile.
    let bytes = report.price.as_ref().and_then(|price| price.bytes);
    metrics::trimmed(after.records_since(before), bytes.map_or(0, |freed| freed.bytes));
    tracing::info!(
        partition = %id, %before, %after, guard = %grant.guard_lsn, left_behind = ?grant.left_behind,
        "log trimmed"
    );
    report.result = TrimResult::Trimmed { before, after };
    report.detail = format!("from {before} to {after}: {}", describe(grant));
    clean::clean_up(ctx, id).await;
}
