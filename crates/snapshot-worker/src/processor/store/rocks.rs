//! The state engine over RocksDB: one database per partition, one column family, its write-ahead log off.
//!
//! Block cache, write buffers and threads are shared by all databases of a node, so that hundreds of partitions
//! stay within one budget.

use super::{Changes, StateEngine, StateError, StateSnapshot, StateStore, StoredPair, Visit};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, Direction, Env, ErrorKind, IteratorMode,
    LogLevel, Options, ReadOptions, Snapshot, WriteBatch, WriteBufferManager, WriteOptions,
    checkpoint::Checkpoint, properties,
};
use std::{path::Path, sync::Arc, thread, time::Duration};

/// Memory and threads of all states of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Memory for blocks read, over all partitions.
    pub block_cache_bytes: usize,
    /// Memory for changes not flushed yet, over all partitions; above it, flushes come earlier.
    pub write_buffers_bytes: usize,
    /// Threads for compaction, over all partitions. Flushes have [`FLUSH_THREADS`] of their own, so that none waits
    /// behind a compaction.
    pub background_threads: i32,
    /// Tables that one partition keeps open at most. The worker lowers it when the limit of open files demands that.
    pub tables_open_max: u32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions {
            block_cache_bytes: 64 << 20,
            write_buffers_bytes: 128 << 20,
            background_threads: 2,
            tables_open_max: 1024,
        }
    }
}

/// Threads for flushes, over all partitions of all engines of a process.
pub const FLUSH_THREADS: i32 = 2;

/// Changes of one partition not flushed yet, above which RocksDB flushes by itself.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// Write buffers are accounted in blocks of this size: small, or hundreds of idle partitions fill the budget.
const ARENA_BLOCK_BYTES: usize = 128 << 10;
/// Small files and a small base level make successive snapshots share most of their files.
const FILE_BYTES: u64 = 8 << 20;
const BASE_LEVEL_BYTES: u64 = 16 << 20;
/// A manifest grows with every flush and is part of every snapshot: above this it is written anew.
const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// How the system says that a disk or a quota is full; RocksDB passes the words on, and no code.
const NO_SPACE: &[&str] = &["No space left on device", "Disk quota exceeded"];
/// Files that RocksDB sets aside for itself from the number of files it may open.
const OTHER_FILES: u32 = 10;

/// How long a write pauses that RocksDB does not take yet, because flushes or compactions are behind.
const HELD_BACK_PAUSE: Duration = Duration::from_millis(1);

/// What is read at once by a scan, and the memory for indexes of tables: it needs that of one table on each level, once.
const SCAN_AHEAD_BYTES: usize = 1 << 20;
const SCAN_CACHE_BYTES: usize = 1 << 20;
/// Tables that a scan keeps open: it reads one after the other on each level.
const SCAN_TABLES_OPEN: i32 = 64;

/// Tables that are opened at once when a database is: each has a buffer of its own meanwhile, and by default there would be 16.
const TABLES_OPENING: i32 = 2;

/// Opens RocksDB databases that share memory and threads.
pub struct RocksEngine {
    /// Of states that are written.
    options: Options,
    /// Of states that are read through once: they take no room from the blocks that others read again.
    read_once: Options,
}

impl RocksEngine {
    /// Prepares what all databases of a node share. The threads are RocksDB's own, shared by the whole process; the last
    /// engine made says how many there are.
    ///
    /// # Errors
    /// When RocksDB cannot set up its environment.
    pub fn new(options: &RocksOptions) -> Result<Self, StateError> {
        let mut env = Env::new()?;
        env.set_background_threads(options.background_threads.max(1));
        env.set_high_priority_background_threads(FLUSH_THREADS);
        // No stall: a partition that writes too much must not hold up its neighbours.
        let buffers = WriteBufferManager::new_write_buffer_manager(options.write_buffers_bytes, false);

        let blocks = blocks_in(options.block_cache_bytes);

        let mut database = Options::default();
        database.create_if_missing(true);
        database.set_env(&env);
        database.set_write_buffer_manager(&buffers);
        database.set_write_buffer_size(WRITE_BUFFER_BYTES);
        database.set_arena_block_size(ARENA_BLOCK_BYTES);
        database.set_compression_type(DBCompressionType::Lz4);
        database.set_target_file_size_base(FILE_BYTES);
        database.set_max_bytes_for_level_base(BASE_LEVEL_BYTES);
        database.set_max_background_jobs(2);
        let files = options.tables_open_max.saturating_add(OTHER_FILES);
        let files = i32::try_from(files).unwrap_or(i32::MAX);
        database.set_max_open_files(files);
        database.set_max_file_opening_threads(TABLES_OPENING);
        database.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
        // Of hundreds of databases, each would wake up to write statistics that nobody reads.
        database.set_stats_dump_period_sec(0);
        database.set_stats_persist_period_sec(0);
        database.set_keep_log_file_num(1);
        database.set_log_level(LogLevel::Warn);
        database.set_block_based_table_factory(&blocks);

        let mut read_once = database.clone();
        read_once.set_block_based_table_factory(&blocks_in(SCAN_CACHE_BYTES));
        read_once.set_max_open_files(files.min(SCAN_TABLES_OPEN));
        read_once.set_skip_stats_update_on_db_open(true);
        Ok(RocksEngine {
            options: database,
            read_once,
        })
    }
}

/// How tables are laid out, and a cache of their blocks.
fn blocks_in(cache_bytes: usize) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_bloom_filter(10.0, false);
    blocks
}

impl StateEngine for RocksEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError> {
        let database = DB::open(&self.options, dir)?;
        Ok(Arc::new(RocksStore(Arc::new(database))))
    }

    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError> {
        let database = DB::open_for_read_only(&self.read_once, dir, false)?;
        Ok(Box::new(ReadOnly(database)))
    }
}

struct RocksStore(Arc<DB>);

impl RocksStore {
    /// Returns what to make of writes that are held back after a flush or a compaction failed: it does not say why.
    fn failed_in_background(&self) -> Result<Option<StateError>, StateError> {
        if self.0.property_int_value(properties::BACKGROUND_ERRORS)? == Some(0) {
            return Ok(None);
        }
        let detail = "RocksDB takes no writes: a flush or a compaction failed in the background".to_owned();
        let free_bytes = rustix::fs::statvfs(self.0.path()).map(|disk| disk.f_bavail * disk.f_frsize);
        Ok(Some(match free_bytes {
            Ok(bytes) if bytes < WRITE_BUFFER_BYTES as u64 => StateError::NoSpace(detail),
            _ => StateError::Failed(detail),
        }))
    }
}

fn batch_of(changes: &Changes) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    batch
}

impl StateStore for RocksStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(key)?)
    }

    fn write(&self, changes: &Changes) -> Result<(), StateError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        // A writer that waits inside RocksDB keeps out the flush by which it recovers from a full disk: for good.
        options.set_no_slowdown(true);
        loop {
            match self.0.write_opt(batch_of(changes), &options) {
                Err(held_back) if held_back.kind() == ErrorKind::Incomplete => {}
                result => return Ok(result?),
            }
            if let Some(failed) = self.failed_in_background()? {
                return Err(failed);
            }
            thread::sleep(HELD_BACK_PAUSE);
        }
    }

    fn flush(&self) -> Result<(), StateError> {
        Ok(self.0.flush()?)
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        Ok(Checkpoint::new(&self.0)?.create_checkpoint(dir)?)
    }

    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
        Box::new(Pinned::new(Arc::clone(&self.0), |database| database.snapshot()))
    }

    fn has_snapshots(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

self_cell::self_cell!(
    /// A snapshot together with the database it borrows.
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl StateSnapshot for Pinned {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.borrow_dependent().get(key)?)
    }

    fn scan<'a>(&'a self, from: &[u8]) -> Box<dyn Iterator<Item = Result<StoredPair, StateError>> + 'a> {
        let mode = IteratorMode::From(from, Direction::Forward);
        let pairs = self.borrow_dependent().iterator_opt(mode, scan_options());
        Box::new(pairs.map(|pair| pair.map_err(StateError::from)))
    }

    fn visit(&self, visit: Visit<'_>) -> Result<(), StateError> {
        visit_all(self.borrow_dependent().raw_iterator_opt(visit_options()), visit)
    }
}

struct ReadOnly(DB);

impl StateSnapshot for ReadOnly {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(key)?)
    }

    fn scan<'a>(&'a self, from: &[u8]) -> Box<dyn Iterator<Item = Result<StoredPair, StateError>> + 'a> {
        let mode = IteratorMode::From(from, Direction::Forward);
        Box::new(
            self.0
                .iterator_opt(mode, scan_options())
                .map(|pair| pair.map_err(StateError::from)),
        )
    }

    fn visit(&self, visit: Visit<'_>) -> Result<(), StateError> {
        visit_all(self.0.raw_iterator_opt(visit_options()), visit)
    }
}

fn visit_all(mut pairs: DBRawIterator<'_>, visit: Visit<'_>) -> Result<(), StateError> {
    pairs.seek_to_first();
    while let Some((key, value)) = pairs.item() {
        visit(key, value)?;
        pairs.next();
    }
    Ok(pairs.status()?)
}

/// A scan reads everything once: it checks every block and leaves the cache to those who read again.
fn scan_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(false);
    options
}

/// The same for all pairs: what lies ahead is wanted for certain.
fn visit_options() -> ReadOptions {
    let mut options = scan_options();
    options.set_readahead_size(SCAN_AHEAD_BYTES);
    options
}

impl From<rocksdb::Error> for StateError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => {
                StateError::Corrupt(error.to_string())
            }
            // A file that the database should have is gone: no trouble with the disk, and trying again is no use.
            ErrorKind::IOError if error.as_ref().contains("No such file or directory") => {
                StateError::Corrupt(error.to_string())
            }
            // Also what is refused after a flush or compaction in the background met the full disk.
            ErrorKind::IOError if NO_SPACE.iter().any(|words| error.as_ref().contains(words)) => {
                StateError::NoSpace(error.to_string())
            }
            _ => StateError::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::{
        Keyspace,
        store::{digest, read_metadata},
    };
    use bytes::Bytes;
    use snapshot_store::PairDigest;
    use std::fs;

    const ONE: &[Keyspace] = &[Keyspace {
        name: "one",
        prefix: 1,
    }];
    const THREE: &[Keyspace] = &[
        Keyspace {
            name: "one",
            prefix: 1,
        },
        Keyspace {
            name: "two",
            prefix: 2,
        },
        Keyspace {
            name: "three",
            prefix: 3,
        },
    ];

    fn engine() -> RocksEngine {
        RocksEngine::new(&RocksOptions::default()).unwrap()
    }

    fn changes(pairs: &[(&[u8], &[u8])]) -> Changes {
        pairs
            .iter()
            .map(|(key, value)| (key.to_vec(), Some(Bytes::copy_from_slice(value))))
            .collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_holds_what_was_written_and_inspecting_leaves_it_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (state, copy) = (dir.path().join("state"), dir.path().join("copy"));
        let store = engine().open(&state).unwrap();
        store
            .write(&changes(&[(b"\x01a", b"1"), (b"\x01b", b"2"), (b"\x00", b"m")]))
            .unwrap();
        store.checkpoint(&copy).unwrap();
        store.write(&changes(&[(b"\x01c", b"3")])).unwrap();

        let before = names(&copy);
        let snapshot = engine().open_read_only(&copy).unwrap();
        let mut expected = PairDigest::new();
        expected.pair(b"a", b"1");
        expected.pair(b"b", b"2");
        assert_eq!(digest(&*snapshot, ONE).unwrap(), (expected.finish(), 2));
        drop(snapshot);
        assert_eq!(names(&copy), before);
    }

    #[test]
    fn a_flipped_byte_shows_when_the_state_is_read_through() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let store = engine().open(&dir.path().join("state")).unwrap();
        store.write(&changes(&[(b"\x01a", &[7; 5000])])).unwrap();
        store.checkpoint(&copy).unwrap();
        let sst = names(&copy)
            .into_iter()
            .find(|name| name.ends_with(".sst"))
            .unwrap();
        // A checkpoint shares its files with the state by hard links: the copy gets its own before it is damaged.
        let mut bytes = fs::read(copy.join(&sst)).unwrap();
        bytes[10] ^= 1;
        fs::remove_file(copy.join(&sst)).unwrap();
        fs::write(copy.join(&sst), bytes).unwrap();
        let read = engine()
            .open_read_only(&copy)
            .and_then(|snapshot| digest(&*snapshot, ONE));
        assert!(matches!(read, Err(StateError::Corrupt(_))), "{read:?}");
    }

    #[test]
    fn a_missing_file_or_an_empty_folder_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(
            engine().open_read_only(&empty),
            Err(StateError::Corrupt(_))
        ));
    }

    #[test]
    fn empty_keyspaces_count_in_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let store = engine().open(dir.path()).unwrap();
        store.write(&changes(&[(b"\x02a", b"1")])).unwrap();
        let mut expected = PairDigest::new();
        expected.next_keyspace(2);
        expected.pair(b"a", b"1");
        expected.next_keyspace(3);
        assert_eq!(digest(&*store.snapshot(), THREE).unwrap(), (expected.finish(), 1));
    }

    #[test]
    fn a_key_of_an_unknown_keyspace_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let store = engine().open(dir.path()).unwrap();
        store.write(&changes(&[(b"\x02a", b"1")])).unwrap();
        assert!(matches!(
            digest(&*store.snapshot(), ONE),
            Err(StateError::Corrupt(_))
        ));
    }

    #[test]
    fn a_snapshot_stands_still_and_outlives_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = engine().open(dir.path()).unwrap();
        store.write(&changes(&[(b"\x01a", b"1")])).unwrap();
        let snapshot = Arc::clone(&store).snapshot();
        store.write(&changes(&[(b"\x01a", b"2")])).unwrap();
        drop(store);
        assert_eq!(snapshot.get(b"\x01a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(read_metadata(&*snapshot).unwrap(), None);
    }

    #[test]
    fn what_was_not_flushed_is_lost_and_what_was_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (state, crashed) = (dir.path().join("state"), dir.path().join("crashed"));
        let store = engine().open(&state).unwrap();
        store.write(&changes(&[(b"\x01a", b"1")])).unwrap();
        store.flush().unwrap();
        store.write(&changes(&[(b"\x01a", b"2")])).unwrap();
        // What is on disk now is what a crash would leave.
        fs::create_dir(&crashed).unwrap();
        for name in names(&state) {
            fs::copy(state.join(&name), crashed.join(&name)).unwrap();
        }
        let found = engine().open_read_only(&crashed).unwrap().get(b"\x01a").unwrap();
        assert_eq!(found, Some(b"1".to_vec()));
    }
}
