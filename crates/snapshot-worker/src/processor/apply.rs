//! Applying runs of records to a state, each in one write; while one is written, the next is prepared.

use super::{
    judged::{AppliedRecord, Judged, judge_run, poison_record},
    metadata::{METADATA_KEY, StateMetadata},
    skip::SkipMark,
    state_machine::{ApplyError, Changes, StateMachine, Transaction},
    store::{StateError, StateStore},
};
use crate::{
    Blocking,
    core::{Outcome, PoisonRecord},
    failpoint,
};
use bytes::Bytes;
use snapshot_store::{Lsn, RecordHash};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of the records of all runs.
#[derive(Debug)]
pub(super) struct AppliedRuns {
    /// The metadata after the last record applied, as written.
    pub(super) metadata: StateMetadata,
    pub(super) records: Vec<AppliedRecord>,
    /// Why not all were applied; `None` when they were.
    pub(super) stop: Option<Stop>,
}

/// Why applying ended before the last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The next record cannot be applied.
    Poison(PoisonRecord),
    /// The state could not be read or written.
    Failed(StateError),
}

impl AppliedRuns {
    fn add(&mut self, run: PreparedRun) {
        self.metadata = run.metadata;
        self.records
            .extend(run.judged.into_iter().map(|judged| judged.record));
        self.stop = run.poison.map(Stop::Poison);
    }

    fn stopped(self, error: StateError) -> Self {
        let stop = Some(Stop::Failed(error));
        AppliedRuns { stop, ..self }
    }
}

/// Smaller runs are not worth a thread: neither to be hashed apart, nor to be written while the next is prepared.
const APART_MIN_BYTES: usize = 128 << 10;

/// Applies `runs`, the first record of which follows the one that `metadata` was applied up to, and writes for each all
/// changes and the new metadata at once. The record `skip` names is passed over untried. Blocks its thread.
pub(super) fn apply_runs(
    store: &dyn StateStore,
    machine: &dyn StateMachine,
    metadata: StateMetadata,
    runs: &[&[Bytes]],
    skip: Option<SkipMark>,
    blocking: Blocking,
) -> AppliedRuns {
    let preparation = Preparation {
        store,
        machine,
        skip,
        blocking,
    };
    let mut applied = AppliedRuns {
        metadata,
        records: Vec::new(),
        stop: None,
    };
    let mut runs = runs.iter().copied();
    // Prepared, and written while the next is prepared.
    let mut ready: Option<PreparedRun> = None;
    loop {
        let (written, next) = match &ready {
            None => {
                let prepare = |run| preparation.prepare(&applied.metadata, None, run);
                (Ok(()), runs.next().map(prepare))
            }
            Some(last) => {
                // What stands behind a record that cannot be applied waits with it.
                let next = runs.next().filter(|_| last.poison.is_none());
                let prepare =
                    || next.map(|run| preparation.prepare(&last.metadata, Some(&last.changes), run));
                match next.is_none() || last.bytes < APART_MIN_BYTES {
                    true => (last.write(store), prepare()),
                    false => blocking.both(|| last.write(store), prepare),
                }
            }
        };
        if let Err(error) = written {
            return applied.stopped(error);
        }
        if let Some(written) = ready.take() {
            applied.add(written);
        }
        match next {
            None => return applied,
            Some(Ok(next)) => ready = Some(next),
            Some(Err(error)) => return applied.stopped(error),
        }
    }
}

/// A run whose changes are known and not written yet.
struct PreparedRun {
    /// As it is after the run.
    metadata: StateMetadata,
    /// Of the state, with the metadata.
    changes: Changes,
    judged: Vec<Judged>,
    /// Bytes of its records.
    bytes: usize,
    /// The record that ended it early.
    poison: Option<PoisonRecord>,
}

impl PreparedRun {
    fn write(&self, store: &dyn StateStore) -> Result<(), StateError> {
        if self.judged.is_empty() {
            return Ok(());
        }
        failpoint::reached("apply: before the write");
        store.write(&self.changes)?;
        failpoint::reached("apply: written");
        Ok(())
    }
}

/// What runs are prepared with.
struct Preparation<'a> {
    store: &'a dyn StateStore,
    machine: &'a dyn StateMachine,
    skip: Option<SkipMark>,
    blocking: Blocking,
}

impl Preparation<'_> {
    /// Finds out what `records` change. They follow the one that `metadata` was applied up to; `under_way` are the changes
    /// of those before them, as far as the store may lack them.
    fn prepare(
        &self,
        metadata: &StateMetadata,
        under_way: Option<&Changes>,
        records: &[Bytes],
    ) -> Result<PreparedRun, StateError> {
        let mut after = metadata.clone();
        let (mut judged, poison) = judge_run(&mut after, records, self.skip);
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
        let mut execute = || self.execute(under_way, &mut changes, &mut judged);
        let (chain, executed) = match bytes < APART_MIN_BYTES {
            true => (hash(), execute()),
            false => self.blocking.both(hash, execute),
        };
        match executed {
            Ok(()) => {}
            Err((_, ApplyError::State(error))) => return Err(error),
            Err((index, ApplyError::Poison(detail))) => {
                // What comes before it is applied by itself: these changes may hold a part of what it did.
                let lsn = judged[index].record.lsn;
                let before = self.prepare(metadata, under_way, &records[..index])?;
                let poison = before
                    .poison
                    .or_else(|| Some(poison_record(lsn, &records[index], detail)));
                return Ok(PreparedRun { poison, ..before });
            }
        }
        if let Some(last) = applied.last() {
            after.chain = chain;
            after.log_bytes = after.log_bytes.saturating_add(bytes as u64);
            after.last_record = Some(RecordHash::of(last));
            after.state_machine.version = self.machine.version();
            changes.insert(METADATA_KEY.to_vec(), Some(after.encode().into()));
        }
        Ok(PreparedRun {
            metadata: after,
            changes,
            judged,
            bytes,
            poison,
        })
    }

    /// Runs all commands, collects what they change, and notes their replies. Stops at the first that cannot be applied,
    /// and returns its place.
    fn execute(
        &self,
        under_way: Option<&Changes>,
        changes: &mut Changes,
        judged: &mut [Judged],
    ) -> Result<(), (usize, ApplyError)> {
        let mut transaction = Transaction::new(self.store, under_way, changes);
        for (index, Judged { record, command }) in judged.iter_mut().enumerate() {
            if let Some(command) = command {
                record.reply = apply_command(self.machine, record.lsn, command, &mut transaction)
                    .map_err(|error| (index, error))?;
            }
        }
        Ok(())
    }
}

/// Runs the state machine. One that panics has met a record it cannot apply: the partition is blocked, the node and
/// its other partitions go on.
fn apply_command(
    machine: &dyn StateMachine,
    lsn: Lsn,
    command: &Bytes,
    transaction: &mut Transaction<'_>,
) -> Result<Bytes, ApplyError> {
    let attempt = AssertUnwindSafe(|| machine.apply(lsn, command, transaction));
    catch_unwind(attempt).unwrap_or_else(|_| Err(ApplyError::Poison("the state machine panicked".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{Chain, LedBody, Record},
        processor::{Keyspace, RocksEngine, RocksOptions, StateEngine as _, StateSnapshot},
    };
    use snapshot_store::{
        ChainHash, Fingerprint, Incarnation, IncarnationId, LeaderEpoch, Leadership, NodeId,
        format::{KeyRange, StateMachineVersion},
    };
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    const ALL: Keyspace = Keyspace {
        name: "all",
        prefix: 1,
    };

    /// Stores each command under its LSN, answers with the number of bytes stored so far, which it reads and counts on, and
    /// knows one that it cannot apply, as it finds out late.
    struct Keeper;

    const COUNT: &[u8] = b"count";

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
            let count = state.get(&ALL, COUNT)?.map_or(0, |count| {
                u64::from_be_bytes(count.try_into().expect("eight bytes were stored"))
            });
            let count = (count + command.len() as u64).to_be_bytes().to_vec();
            state.put(&ALL, COUNT, count.clone());
            state.put(&ALL, &lsn.get().to_be_bytes(), command.clone());
            if command.starts_with(b"poison") {
                return Err(ApplyError::Poison("as the test wants it".to_owned()));
            }
            Ok(count.into())
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

    /// What came of it: the metadata, the replies, why it stopped, and the values stored.
    #[derive(Debug, PartialEq)]
    struct Outcomes {
        metadata: StateMetadata,
        replies: Vec<Bytes>,
        stop: Option<Stop>,
        values: Vec<Vec<u8>>,
    }

    /// A store whose writes after the first `left` fail.
    struct Failing {
        store: Arc<dyn StateStore>,
        left: AtomicUsize,
    }

    impl StateStore for Failing {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
            self.store.get(key)
        }

        fn write(&self, changes: &Changes) -> Result<(), StateError> {
            let left = self
                .left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            left.map_err(|_| StateError::NoSpace("as the test wants it".to_owned()))?;
            self.store.write(changes)
        }

        fn flush(&self) -> Result<(), StateError> {
            self.store.flush()
        }

        fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
            self.store.checkpoint(dir)
        }

        fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
            Arc::clone(&self.store).snapshot()
        }

        fn has_snapshots(&self) -> bool {
            self.store.has_snapshots()
        }
    }

    /// Applies `records` in runs of so many, so many runs at a time, to a store that takes so many writes.
    fn applied(records: &[Bytes], per_run: usize, runs: usize, writes: usize) -> Outcomes {
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::new(&RocksOptions::default()).unwrap();
        let store = Arc::new(Failing {
            store: engine.open(&dir.path().join("state")).unwrap(),
            left: AtomicUsize::new(writes),
        });
        let mut outcomes = Outcomes {
            metadata: empty(),
            replies: Vec::new(),
            stop: None,
            values: Vec::new(),
        };
        for some in records.chunks(per_run * runs) {
            let runs: Vec<&[Bytes]> = some.chunks(per_run).collect();
            let metadata = outcomes.metadata.clone();
            let done = apply_runs(&*store, &Keeper, metadata, &runs, None, Blocking::Threads);
            outcomes.metadata = done.metadata;
            let replies = done.records.into_iter().map(|record| record.reply);
            outcomes.replies.extend(replies);
            outcomes.stop = done.stop;
            if outcomes.stop.is_some() {
                break;
            }
        }
        let stored = Arc::clone(&store).snapshot();
        let metadata = stored.get(METADATA_KEY).unwrap().unwrap();
        assert_eq!(StateMetadata::decode(&metadata).unwrap(), outcomes.metadata);
        let values = stored.scan(&[ALL.prefix]).map(|pair| pair.unwrap().1.to_vec());
        outcomes.values = values.collect();
        outcomes
    }

    const NEVER: usize = usize::MAX;

    /// 3 MiB in 3,000 commands: above the size from which a run is hashed on a thread of its own.
    fn commands() -> Vec<Vec<u8>> {
        (0..3000u32)
            .map(|number| vec![number as u8; 1000 + number as usize % 90])
            .collect()
    }

    #[test]
    fn large_and_small_runs_lead_to_the_same_state() {
        let records = records(commands());
        let one = applied(&records, records.len(), 1, NEVER);
        assert_eq!(one.metadata.applied_lsn, Lsn::new(3001));
        // All commands, and their number of bytes.
        assert_eq!(one.values.len(), 3001);
        let bytes: usize = commands().iter().map(Vec::len).sum();
        assert_eq!(one.values.last(), Some(&bytes.to_be_bytes().to_vec()));
        for (per_run, runs) in [(7, 1), (7, 20), (400, 3), (1500, 2)] {
            assert_eq!(applied(&records, per_run, runs, NEVER), one, "{per_run} {runs}");
        }
    }

    #[test]
    fn what_comes_before_a_record_that_cannot_be_applied_is_kept_and_nothing_of_it() {
        let mut commands = commands();
        commands[2000] = b"poison".to_vec();
        commands[2500] = b"poison".to_vec();
        let records = records(commands);
        let one = applied(&records, records.len(), 1, NEVER);
        assert_eq!(one.metadata.applied_lsn, Lsn::new(2001));
        assert!(matches!(&one.stop, Some(Stop::Poison(record)) if record.lsn == Lsn::new(2002)));
        for (per_run, runs) in [(1, 1), (7, 20), (400, 8), (2001, 2), (2002, 2)] {
            assert_eq!(applied(&records, per_run, runs, NEVER), one, "{per_run} {runs}");
        }
    }

    #[test]
    fn runs_written_before_a_write_that_failed_count_and_none_after_it() {
        let records = records(commands());
        let whole = applied(&records, 400, 8, NEVER);
        let failed = applied(&records, 400, 8, 3);
        assert!(matches!(failed.stop, Some(Stop::Failed(StateError::NoSpace(_)))));
        assert_eq!(failed.metadata.applied_lsn, Lsn::new(1200));
        assert_eq!(failed.replies, whole.replies[..1200]);
    }
}
