//! Applying a run of records to a state, in one write.

use super::{
    metadata::{METADATA_KEY, StateMetadata},
    skip::SkipMark,
    state_machine::{ApplyError, Changes, StateMachine, Transaction},
    store::{StateError, StateStore},
};
use crate::{
    core::{Outcome, PoisonRecord, Record, Verdict, judge},
    failpoint,
};
use bytes::Bytes;
use snapshot_store::{Leadership, Lsn, RecordHash};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of one record.
#[derive(Clone, Debug)]
pub(super) struct AppliedRecord {
    pub(super) lsn: Lsn,
    /// The term it was written in and its number there; `None` for a record without leader.
    pub(super) author: Option<(Leadership, u64)>,
    pub(super) outcome: Outcome,
    /// Address of the leader whose term began with this record; `None` for any other record.
    pub(super) announced: Option<String>,
    /// What the state machine answered; empty for anything but an accepted command.
    pub(super) reply: Bytes,
}

/// What became of a run of records.
#[derive(Debug)]
pub(super) struct AppliedRun {
    /// The metadata after the last record applied, as written.
    pub(super) metadata: StateMetadata,
    pub(super) records: Vec<AppliedRecord>,
    /// The record that stopped the run; `None` when all were applied.
    pub(super) poison: Option<PoisonRecord>,
}

/// Applies `records`, the first of which follows the one that `metadata` was applied up to, and writes all changes
/// and the new metadata at once. The record `skip` names is passed over untried. Blocks its thread.
pub(super) fn apply_run(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    mut metadata: StateMetadata,
    records: &[Bytes],
    skip: Option<SkipMark>,
) -> Result<AppliedRun, StateError> {
    let mut changes = Changes::new();
    let mut applied = Vec::with_capacity(records.len());
    let mut poison = None;
    for bytes in records {
        let lsn = metadata.applied_lsn.next();
        let to_skip = skip.is_some_and(|mark| mark.lsn == lsn && mark.hash == RecordHash::of(bytes));
        let result = if to_skip {
            Ok(passed_over(lsn, bytes))
        } else {
            apply_record(store, machine, &mut metadata, &mut changes, lsn, bytes)
        };
        let record = match result {
            Ok(record) => record,
            Err(ApplyError::State(error)) => return Err(error),
            Err(ApplyError::Poison(detail)) => {
                poison = Some(PoisonRecord {
                    lsn,
                    bytes: bytes.len() as u64,
                    hash: RecordHash::of(bytes),
                    author: passed_over(lsn, bytes).author.map(|(author, _)| author),
                    detail,
                });
                break;
            }
        };
        metadata.applied_lsn = lsn;
        metadata.chain.extend(lsn, record.outcome, bytes);
        metadata.log_bytes = metadata.log_bytes.saturating_add(bytes.len() as u64);
        applied.push(record);
    }
    if let Some(last) = applied.len().checked_sub(1) {
        metadata.last_record = records.get(last).map(|bytes| RecordHash::of(bytes));
        metadata.state_machine.version = machine.version();
        changes.insert(METADATA_KEY.to_vec(), Some(metadata.encode()));
        failpoint::reached("apply: before the write");
        store.write(&changes)?;
        failpoint::reached("apply: written");
    }
    Ok(AppliedRun {
        metadata,
        records: applied,
        poison,
    })
}

fn apply_record(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    metadata: &mut StateMetadata,
    changes: &mut Changes,
    lsn: Lsn,
    bytes: &Bytes,
) -> Result<AppliedRecord, ApplyError> {
    let record = Record::decode(bytes).map_err(|error| ApplyError::Poison(error.to_string()))?;
    let verdict = judge(metadata.leader.as_ref().map(|(leader, _)| leader), &record);
    let outcome = verdict.outcome();
    let mut reply = Bytes::new();
    let mut announced = None;
    match verdict {
        Verdict::Apply(command) => {
            let (answer, own) = apply_command(store, machine, changes, lsn, command)?;
            reply = answer;
            changes.extend(own);
        }
        Verdict::TakeLead { leadership, address } => {
            metadata.leader = Some((leadership.clone(), address.to_owned()));
            announced = Some(address.to_owned());
        }
        Verdict::Pass | Verdict::Ignore | Verdict::Note => {}
    }
    let author = match record {
        Record::Led {
            leadership, sequence, ..
        } => Some((leadership, sequence)),
        Record::Skip { .. } => None,
    };
    Ok(AppliedRecord {
        lsn,
        author,
        outcome,
        announced,
        reply,
    })
}

/// Returns what becomes of a record that an operator has passed over; also one that cannot be parsed.
fn passed_over(lsn: Lsn, bytes: &Bytes) -> AppliedRecord {
    let author = match Record::decode(bytes) {
        Ok(Record::Led {
            leadership, sequence, ..
        }) => Some((leadership, sequence)),
        Ok(Record::Skip { .. }) | Err(_) => None,
    };
    AppliedRecord {
        lsn,
        author,
        outcome: Outcome::Skipped,
        announced: None,
        reply: Bytes::new(),
    }
}

/// Runs the state machine. One that panics has met a record it cannot apply: the partition is blocked, the node and
/// its other partitions go on.
fn apply_command(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    batch: &Changes,
    lsn: Lsn,
    command: &[u8],
) -> Result<(Bytes, Changes), ApplyError> {
    let attempt = AssertUnwindSafe(|| {
        let mut transaction = Transaction::new(store, batch);
        let reply = machine.apply(lsn, command, &mut transaction)?;
        Ok((reply, transaction.into_changes()))
    });
    catch_unwind(attempt).unwrap_or_else(|_| Err(ApplyError::Poison("the state machine panicked".to_owned())))
}
