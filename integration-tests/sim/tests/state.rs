//! The simulation's database against the one it stands for: the same random sequence of what a partition does to its state
//! leaves the same pairs, digests and LSNs in both.
//!
//! A crash takes the folder as it lies on disk while the database is open, which is what `kill -9` leaves. A database that is
//! merely dropped differs on purpose: RocksDB writes down what it has in memory when it is closed, the simulation's does not.
//! The product flushes before it closes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use simulation::MemoryEngine;
use snapshot_store::{
    ChainHash, Fingerprint, Incarnation, IncarnationId, Lsn,
    format::{KeyRange, StateMachineVersion},
};
use snapshot_worker::{
    agent::CheckpointFacts,
    core::{Chain, Outcome},
    processor::{
        Changes, RocksEngine, RocksOptions, StateEngine, StateError, StateMetadata, StateSnapshot,
        StateStore, StoredPair, inspect_state,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;
use tidemark::kv::machine::KvMachine;

/// Key of the metadata in a state.
const METADATA_KEY: &[u8] = &[0];

/// What happens to a state.
#[derive(Clone, Debug)]
enum Step {
    /// A record is applied: pairs are put, or removed, together with the metadata.
    Apply(Vec<(u8, Option<u16>)>),
    /// What was applied is made durable.
    Flush,
    /// A snapshot is exported, and kept.
    Export,
    /// A kept snapshot takes the place of the state.
    Restore(prop::sample::Index),
    /// The process is killed and started again.
    Crash,
    /// The process is stopped and started again.
    Restart,
    /// Somebody begins to read, in place of whoever read before.
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop::option::weighted(0.7, any::<u16>());
    let step = prop_oneof![
        8 => prop::collection::vec((0u8..12, value), 0..5).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        2 => Just(Step::Export),
        1 => any::<prop::sample::Index>().prop_map(Step::Restore),
        2 => Just(Step::Crash),
        1 => Just(Step::Restart),
        2 => Just(Step::Read),
    ];
    prop::collection::vec(step, 1..40)
}

/// Metadata of a state that has applied nothing.
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
            name: KvMachine::NAME.to_owned(),
            version: KvMachine::VERSION,
        },
        log_bytes: 0,
    }
}

/// What a step leaves to be seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    pairs: Vec<StoredPair>,
    applied: Lsn,
    /// What the reader sees, who began earlier.
    read: Option<Vec<StoredPair>>,
    has_snapshots: bool,
    /// What is in the snapshot that was exported last.
    exported: Option<CheckpointFacts>,
}

/// A partition's state below one engine.
struct Partition {
    engine: Arc<dyn StateEngine>,
    dir: TempDir,
    store: Option<Arc<dyn StateStore>>,
    metadata: StateMetadata,
    /// What a crash leaves: applied LSN at the last flush, export or restore.
    durable: Lsn,
    reader: Option<Box<dyn StateSnapshot>>,
    exports: Vec<(PathBuf, CheckpointFacts)>,
}

impl Partition {
    fn new(engine: Arc<dyn StateEngine>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut partition = Partition {
            engine,
            dir,
            store: None,
            metadata: empty(),
            durable: Lsn::ZERO,
            reader: None,
            exports: Vec::new(),
        };
        partition.open();
        partition.write(Changes::new());
        partition.store().flush().unwrap();
        partition
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn store(&self) -> &Arc<dyn StateStore> {
        self.store.as_ref().unwrap()
    }

    fn open(&mut self) {
        let store = self.engine.open(&self.state()).unwrap();
        if let Some(metadata) = store.get(METADATA_KEY).unwrap() {
            self.metadata = StateMetadata::decode(&metadata).unwrap();
        }
        self.store = Some(store);
    }

    fn write(&self, mut changes: Changes) {
        changes.insert(METADATA_KEY.to_vec(), Some(self.metadata.encode().into()));
        self.store().write(&changes).unwrap();
    }

    fn close(&mut self) {
        self.reader = None;
        self.store = None;
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Apply(pairs) => {
                let record = format!("{pairs:?}");
                let lsn = self.metadata.applied_lsn.next();
                self.metadata
                    .chain
                    .extend(lsn, Outcome::Accepted, record.as_bytes());
                self.metadata.applied_lsn = lsn;
                self.metadata.log_bytes += record.len() as u64;
                let pair = |(key, value): &(u8, Option<u16>)| {
                    let value = value.map(|value| value.to_be_bytes().to_vec().into());
                    (vec![1, *key], value)
                };
                self.write(pairs.iter().map(pair).collect());
            }
            Step::Flush => {
                self.store().flush().unwrap();
                self.durable = self.metadata.applied_lsn;
            }
            Step::Export => {
                let dir = self.dir.path().join(format!("export-{}", self.exports.len()));
                self.store().checkpoint(&dir).unwrap();
                self.durable = self.metadata.applied_lsn;
                let facts = self.inspect(&dir);
                assert_eq!(facts.lsn, self.metadata.applied_lsn);
                self.exports.push((dir, facts));
            }
            Step::Restore(pick) => {
                if self.exports.is_empty() {
                    return;
                }
                let (from, facts) = self.exports[pick.index(self.exports.len())].clone();
                self.close();
                fs::remove_dir_all(self.state()).unwrap();
                copy(&from, &self.state());
                self.open();
                assert_eq!(self.metadata.applied_lsn, facts.lsn);
                self.durable = facts.lsn;
            }
            Step::Crash => {
                let image = self.dir.path().join("image");
                copy(&self.state(), &image);
                self.close();
                fs::remove_dir_all(self.state()).unwrap();
                fs::rename(&image, self.state()).unwrap();
                self.open();
                assert_eq!(
                    self.metadata.applied_lsn, self.durable,
                    "the tail that was not flushed is lost"
                );
            }
            Step::Restart => {
                self.store().flush().unwrap();
                self.durable = self.metadata.applied_lsn;
                self.close();
                self.open();
                assert_eq!(self.metadata.applied_lsn, self.durable);
            }
            Step::Read => self.reader = Some(Arc::clone(self.store()).snapshot()),
        }
    }

    fn inspect(&self, dir: &Path) -> CheckpointFacts {
        inspect_state(&*self.engine, &KvMachine, dir).unwrap()
    }

    fn see(&self) -> Seen {
        let all = |snapshot: &dyn StateSnapshot| {
            let pairs: Result<Vec<StoredPair>, StateError> = snapshot.scan(&[]).collect();
            pairs.unwrap()
        };
        let has_snapshots = self.store().has_snapshots();
        assert_eq!(has_snapshots, self.reader.is_some());
        let metadata = self.store().get(METADATA_KEY).unwrap().unwrap();
        Seen {
            pairs: all(&*Arc::clone(self.store()).snapshot()),
            applied: StateMetadata::decode(&metadata).unwrap().applied_lsn,
            read: self.reader.as_ref().map(|reader| all(&**reader)),
            has_snapshots,
            exported: self.exports.last().map(|(_, facts)| facts.clone()),
        }
    }
}

/// How often a copy is begun again because the database changed its files meanwhile.
const COPIES_MAX: usize = 1_000;

/// Copies a folder as it is at one moment. RocksDB compacts in the background, which replaces files: then it is copied anew.
fn copy(from: &Path, to: &Path) {
    for _ in 0..COPIES_MAX {
        let before = listing(from);
        fs::create_dir(to).unwrap();
        let mut copies = before
            .iter()
            .map(|(name, _)| fs::copy(from.join(name), to.join(name)));
        if copies.all(|copied| copied.is_ok()) && listing(from) == before {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
    panic!("{} never stands still", from.display());
}

/// Names and lengths of the files of a state, its lock and RocksDB's own log aside.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let files = fs::read_dir(dir).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let length = entry.metadata().ok()?.len();
        (!name.starts_with("LO")).then_some((name, length))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

proptest! {
    // A part of what is asked for: each case opens databases, and waits for their threads again and again.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.div_ceil(16),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_simulated_database_does_what_rocksdb_does(steps in steps()) {
        let rocks = RocksEngine::new(&RocksOptions::default()).unwrap();
        let mut real = Partition::new(Arc::new(rocks));
        let mut simulated = Partition::new(Arc::new(MemoryEngine));
        for (number, step) in steps.iter().enumerate() {
            real.take(step);
            simulated.take(step);
            prop_assert_eq!(real.see(), simulated.see(), "after step {}: {:?}", number, step);
            prop_assert_eq!(&real.metadata, &simulated.metadata);
            prop_assert_eq!(real.durable, simulated.durable);
        }
        // What was exported stands still, whatever came after; and no chain or digest depends on the engine.
        for (real_export, simulated_export) in real.exports.iter().zip(&simulated.exports) {
            let (found, expected) = (real.inspect(&real_export.0), simulated.inspect(&simulated_export.0));
            prop_assert_eq!(&found, &real_export.1);
            prop_assert_eq!(&found, &expected);
        }
        prop_assert_eq!(real.exports.len(), simulated.exports.len());
    }
}

/// What the simulation relies on where it damages stored files: both engines notice.
#[test]
fn both_databases_notice_a_flipped_byte_and_a_missing_file() {
    let rocks = || Arc::new(RocksEngine::new(&RocksOptions::default()).unwrap()) as Arc<dyn StateEngine>;
    let memory = || Arc::new(MemoryEngine) as Arc<dyn StateEngine>;
    for engine in [&rocks as &dyn Fn() -> Arc<dyn StateEngine>, &memory] {
        let mut partition = Partition::new(engine());
        partition.take(&Step::Apply((0..12).map(|key| (key, Some(7))).collect()));
        partition.take(&Step::Export);
        let export = partition.exports[0].0.clone();
        // The newest one with content: older ones may hold nothing but metadata that is out of date, which nobody reads.
        let names = fs::read_dir(&export).unwrap().map(|entry| entry.unwrap().path());
        let is_table = |path: &PathBuf| path.extension().is_some_and(|end| end == "sst" || end == "tbl");
        let mut tables: Vec<PathBuf> = names
            .filter(|path| is_table(path) && fs::metadata(path).unwrap().len() > 20)
            .collect();
        tables.sort();
        let table = tables.pop().unwrap();
        let mut bad = fs::read(&table).unwrap();
        bad[10] ^= 1;
        // A new file: the state shares the old one by a link.
        for content in [Some(bad), None] {
            fs::remove_file(&table).unwrap();
            if let Some(content) = content {
                fs::write(&table, content).unwrap();
            }
            // By an engine of its own: RocksDB's would answer from the blocks that it has in memory.
            let found = inspect_state(&*engine(), &KvMachine, &export);
            assert!(found.is_err(), "{table:?}: {found:?}");
        }
        partition.see();
    }
}

/// Returns the names of the tables in `dir`.
fn tables(dir: &Path) -> Vec<String> {
    let names = listing(dir).into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".tbl")).collect()
}

/// What uploads inside the store rest on: the simulation copies files only where snapshots share them.
#[test]
fn successive_exports_share_the_large_tables_and_there_are_few_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryEngine.open(&folder.path().join("state")).unwrap();
    let write = |key: u8, value: Option<u8>| {
        let value = value.map(|byte| vec![byte; 100].into());
        store.write(&Changes::from([(vec![key], value)])).unwrap();
    };
    let export = |name: &str| {
        let dir = folder.path().join(name);
        store.checkpoint(&dir).unwrap();
        dir
    };
    (0..100).for_each(|key| write(key, Some(key)));
    let first = tables(&export("first"));
    write(7, None);
    let second = export("second");
    assert_eq!((first.len(), tables(&second).len()), (1, 2));
    assert_eq!(first[0], tables(&second)[0]);
    for key in 100..200 {
        write(key, Some(key));
        store.flush().unwrap();
    }
    let third = export("third");
    assert!(tables(&third).len() <= 8, "{:?}", tables(&third));
    for (dir, expected) in [(second, 99), (third, 199)] {
        let state = MemoryEngine.open_read_only(&dir).unwrap();
        assert_eq!(state.scan(&[]).count(), expected);
        assert_eq!(state.get(&[7]).unwrap(), None);
    }
}
