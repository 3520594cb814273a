//! Applying a run of records to a state, in one write.

use super::{
    metadata::{METADATA_KEY, StateMetadata},
    skip::SkipMark,
    state_machine::{ApplyError, Changes, StateMachine, Transaction},
    store::{StateError, StateStore},
};
use crate::{
    Blocking,
    core::{Outcome, PoisonRecord, Record, RecordError, Verdict, judge},
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

/// Runs of fewer bytes are hashed on the thread that applies them.
const HASHED_APART_MIN_BYTES: usize = 256 << 10;

/// Applies `records`, the first of which follows the one that `metadata` was applied up to, and writes all changes
/// and the new metadata at once. The record `skip` names is passed over untried. Blocks its thread.
pub(super) fn apply_run(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    metadata: StateMetadata,
    records: &[Bytes],
    skip: Option<SkipMark>,
    blocking: Blocking,
) -> Result<AppliedRun, StateError> {
    let mut after = metadata.clone();
    let (mut judged, poison) = judge_run(&mut after, records, skip);
    let applied = &records[..judged.len()];
    let bytes: usize = applied.iter().map(Bytes::len).sum();
    let mut changes = Changes::new();

    // The chain hash takes about as long as all else that is done before the write, and needs nothing of it.
    let outcomes: Vec<Outcome> = judged.iter().map(|judged| judged.record.outcome).collect();
    let hash = || {
        let mut chain = metadata.chain.clone();
        let lsns = (metadata.applied_lsn.next().get()..).map(Lsn::new);
        for ((lsn, outcome), bytes) in lsns.zip(&outcomes).zip(applied) {
            chain.extend(lsn, *outcome, bytes);
        }
        chain
    };
    let mut execute = || execute_run(store, machine, &mut changes, &mut judged);
    let (chain, executed) = match bytes < HASHED_APART_MIN_BYTES {
        true => (hash(), execute()),
        false => blocking.both(hash, execute),
    };
    match executed {
        Ok(()) => {}
        Err((_, ApplyError::State(error))) => return Err(error),
        Err((index, ApplyError::Poison(detail))) => {
            let lsn = judged[index].record.lsn;
            // What comes before it is applied by itself; this was not written.
            let before = apply_run(store, machine, metadata, &records[..index], skip, blocking)?;
            let poison = before
                .poison
                .or_else(|| Some(poison_record(lsn, &records[index], detail)));
            return Ok(AppliedRun { poison, ..before });
        }
    }
    if let Some(last) = applied.last() {
        after.chain = chain;
        after.log_bytes = after.log_bytes.saturating_add(bytes as u64);
        after.last_record = Some(RecordHash::of(last));
        after.state_machine.version = machine.version();
        changes.insert(METADATA_KEY.to_vec(), Some(after.encode().into()));
        failpoint::reached("apply: before the write");
        store.write(&changes)?;
        failpoint::reached("apply: written");
    }
    Ok(AppliedRun {
        metadata: after,
        records: judged.into_iter().map(|judged| judged.record).collect(),
        poison,
    })
}

/// A record, what becomes of it, and the command to run if it holds one that counts.
struct Judged {
    record: AppliedRecord,
    command: Option<Bytes>,
}

/// Decides what becomes of each record, up to the first that cannot be parsed, and moves the leader and the applied LSN in
/// `metadata` past them.
fn judge_run(
    metadata: &mut StateMetadata,
    records: &[Bytes],
    skip: Option<SkipMark>,
) -> (Vec<Judged>, Option<PoisonRecord>) {
    let mut judged = Vec::with_capacity(records.len());
    for bytes in records {
        let lsn = metadata.applied_lsn.next();
        if skip.is_some_and(|mark| mark.lsn == lsn && mark.hash == RecordHash::of(bytes)) {
            judged.push(passed_over(lsn, bytes));
        } else {
            match judge_record(metadata, lsn, bytes) {
                Ok(record) => judged.push(record),
                Err(error) => return (judged, Some(poison_record(lsn, bytes, error.to_string()))),
            }
        }
        metadata.applied_lsn = lsn;
    }
    (judged, None)
}

fn judge_record(metadata: &mut StateMetadata, lsn: Lsn, bytes: &Bytes) -> Result<Judged, RecordError> {
    let record = Record::decode(bytes)?;
    let verdict = judge(metadata.leader.as_ref().map(|(leader, _)| leader), &record);
    let outcome = verdict.outcome();
    let mut announced = None;
    let mut command = None;
    match verdict {
        Verdict::Apply(bytes) => command = Some(bytes.clone()),
        Verdict::TakeLead { leadership, address } => {
            metadata.leader = Some((leadership.clone(), address.to_owned()));
            announced = Some(address.to_owned());
        }
        Verdict::Pass | Verdict::Ignore | Verdict::Note => {}
    }
    let record = AppliedRecord {
        lsn,
        author: author(record),
        outcome,
        announced,
        reply: Bytes::new(),
    };
    Ok(Judged { record, command })
}

fn author(record: Record) -> Option<(Leadership, u64)> {
    match record {
        Record::Led {
            leadership, sequence, ..
        } => Some((leadership, sequence)),
        Record::Skip { .. } => None,
    }
}

/// Runs all commands, collects what they change, and notes their replies. Stops at the first that cannot be applied, and
/// returns its place.
fn execute_run(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    changes: &mut Changes,
    judged: &mut [Judged],
) -> Result<(), (usize, ApplyError)> {
    for (index, Judged { record, command }) in judged.iter_mut().enumerate() {
        if let Some(command) = command {
            let (reply, own) = apply_command(store, machine, changes, record.lsn, command)
                .map_err(|error| (index, error))?;
            record.reply = reply;
            changes.extend(own);
        }
    }
    Ok(())
}

fn poison_record(lsn: Lsn, bytes: &Bytes, detail: String) -> PoisonRecord {
    PoisonRecord {
        lsn,
        bytes: bytes.len() as u64,
        hash: RecordHash::of(bytes),
        author: passed_over(lsn, bytes).record.author.map(|(author, _)| author),
        detail,
    }
}

/// Returns what becomes of a record that an operator has passed over; also one that cannot be parsed.
fn passed_over(lsn: Lsn, bytes: &Bytes) -> Judged {
    let record = AppliedRecord {
        lsn,
        author: Record::decode(bytes).ok().and_then(author),
        outcome: Outcome::Skipped,
        announced: None,
        reply: Bytes::new(),
    };
    Judged {
        record,
        command: None,
    }
}

/// Runs the state machine. One that panics has met a record it cannot apply: the partition is blocked, the node and
/// its other partitions go on.
fn apply_command(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    batch: &Changes,
    lsn: Lsn,
    command: &Bytes,
) -> Result<(Bytes, Changes), ApplyError> {
    let attempt = AssertUnwindSafe(|| {
        let mut transaction = Transaction::new(store, batch);
        let reply = machine.apply(lsn, command, &mut transaction)?;
        Ok((reply, transaction.into_changes()))
    });
    catch_unwind(attempt).unwrap_or_else(|_| Err(ApplyError::Poison("the state machine panicked".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{Chain, LedBody},
        processor::{Keyspace, RocksEngine, RocksOptions, StateEngine as _},
    };
    use snapshot_store::{
        ChainHash, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, NodeId,
        format::{KeyRange, StateMachineVersion},
    };

    const ALL: Keyspace = Keyspace {
        name: "all",
        prefix: 1,
    };

    /// Stores each command under its LSN, and knows one that it cannot apply.
    struct Keeper;

    impl StateMachine for Keeper {
        fn name(&self) -> &'static str {
            "keeper"
        }

        fn version(&self) -> u32 {
            1
        }

        fn keyspaces(&self) -> &'static [Keyspace] {
            &[ALL]
        }

        fn apply(&self, lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
            if command.starts_with(b"poison") {
                return Err(ApplyError::Poison("as the test wants it".to_owned()));
            }
            state.put(&ALL, &lsn.get().to_be_bytes(), command.clone());
            Ok(Bytes::copy_from_slice(&command[..1]))
        }
    }

    fn empty() -> StateMetadata {
        StateMetadata {
            applied_lsn: Lsn::ZERO,
            incarnation: Incarnation {
                generation: 1,
                id: IncarnationId::from_bytes([1; 16]),
            },
            fingerprint: Fingerprint::from_bytes([2; 16]),
            key_range: KeyRange { partition: 0, of: 1 },
            chain: Chain::starting_at(ChainHash::from_bytes([3; 32])),
            last_record: None,
            leader: None,
            state_machine: StateMachineVersion {
                name: "keeper".to_owned(),
                version: 1,
            },
            log_bytes: 0,
        }
    }

    /// An announcement and `commands` of that leader.
    fn records(commands: impl IntoIterator<Item = Vec<u8>>) -> Vec<Bytes> {
        let leadership = Leadership {
            epoch: LeaderEpoch::new(1),
            node: NodeId::new("w1").unwrap(),
        };
        let announce = LedBody::Announce {
            address: "http://w1".to_owned(),
        };
        let commands = commands
            .into_iter()
            .map(|command| LedBody::Command(command.into()));
        let bodies = std::iter::once(announce).chain(commands);
        let records = (1..).zip(bodies).map(|(sequence, body)| Record::Led {
            leadership: leadership.clone(),
            sequence,
            body,
        });
        records.map(|record| record.encode()).collect()
    }

    /// Applies `records` in runs of so many, and returns the metadata, the replies, what stopped it, and the values stored.
    fn applied(records: &[Bytes], per_run: usize) -> (StateMetadata, Vec<Bytes>, Option<Lsn>, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksEngine::new(&RocksOptions::default())
            .unwrap()
            .open(&dir.path().join("state"))
            .unwrap();
        let (mut metadata, mut replies, mut poison) = (empty(), Vec::new(), None);
        for run in records.chunks(per_run) {
            let done = apply_run(&*store, &Keeper, metadata, run, None, Blocking::Threads).unwrap();
            metadata = done.metadata;
            replies.extend(done.records.into_iter().map(|record| record.reply));
            if let Some(found) = done.poison {
                poison = Some(found.lsn);
                break;
            }
        }
        let stored = store.snapshot();
        let values = stored.scan(&[ALL.prefix]).map(|pair| pair.unwrap().1.to_vec());
        let values = values.collect();
        (metadata, replies, poison, values)
    }

    /// 3 MiB in 3,000 commands: above the size from which a run is hashed on a thread of its own.
    fn commands() -> Vec<Vec<u8>> {
        (0..3000u32)
            .map(|number| vec![number as u8; 1000 + number as usize % 90])
            .collect()
    }

    #[test]
    fn large_and_small_runs_lead_to_the_same_state() {
        let records = records(commands());
        let large = applied(&records, records.len());
        assert_eq!(large.0.applied_lsn, Lsn::new(3001));
        assert_eq!(large.3, commands());
        assert_eq!(large, applied(&records, 7));
    }

    #[test]
    fn a_large_run_keeps_what_comes_before_the_record_that_cannot_be_applied() {
        let mut commands = commands();
        commands[2000] = b"poison".to_vec();
        commands[2500] = b"poison".to_vec();
        let records = records(commands);
        let large = applied(&records, records.len());
        assert_eq!(
            (large.0.applied_lsn, large.2),
            (Lsn::new(2001), Some(Lsn::new(2002)))
        );
        assert_eq!(large, applied(&records, 1));
    }
}
