//! The database below a partition, in memory over plain files: what was not flushed is lost with the process.
//!
//! Like RocksDB's, its tables are immutable files that checkpoints link. A flush writes what changed since the one before
//! into a new table, and merges tables that are not much larger into it: successive snapshots of one node share the large
//! ones. A table's name holds the hash of its content.

use snapshot_worker::processor::{
    Changes, StateEngine, StateError, StateSnapshot, StateStore, StoredPair, Visit,
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Lists the tables of a state, the oldest first.
const CURRENT: &str = "CURRENT";
/// A table that is less than so many times as large as what is flushed is merged with it: a state has few tables, and each
/// pair is written few times.
const MERGE_BELOW: u64 = 2;
/// In the place of a value's length: the key was removed.
const REMOVED: u32 = u32::MAX;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
/// What a table holds: values, and keys that are gone.
type Delta = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Opens states that are kept in memory, and on disk when they are flushed.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryEngine;

struct MemoryState {
    dir: PathBuf,
    content: Mutex<Content>,
    snapshots: Arc<()>,
}

/// What a state holds, in memory and on disk.
#[derive(Default)]
struct Content {
    pairs: Arc<Pairs>,
    /// What is not in a table yet.
    unflushed: Delta,
    /// The tables, the oldest first; `None` when nothing lists them yet.
    tables: Option<Vec<Table>>,
}

struct Table {
    name: String,
    bytes: u64,
}

struct StandingStill {
    pairs: Arc<Pairs>,
    _counted: Arc<()>,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |error| StateError::Failed(format!("{}: {error}", path.display()))
}

fn corrupt(path: &Path, what: &str) -> StateError {
    StateError::Corrupt(format!("{}: {what}", path.display()))
}

fn encode(delta: &Delta) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in delta {
        bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
        bytes.extend_from_slice(key);
        let length = value.as_ref().map_or(REMOVED, |value| value.len() as u32);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    bytes
}

/// Reads a table; `None` when it is none.
fn decode(mut bytes: &[u8]) -> Option<Delta> {
    fn length(bytes: &mut &[u8]) -> Option<u32> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        Some(u32::from_be_bytes(*length))
    }
    fn part(bytes: &mut &[u8], length: u32) -> Option<Vec<u8>> {
        let (part, rest) = bytes.split_at_checked(length as usize)?;
        *bytes = rest;
        Some(part.to_vec())
    }
    let mut delta = Delta::new();
    while !bytes.is_empty() {
        let key_bytes = length(&mut bytes)?;
        let key = part(&mut bytes, key_bytes)?;
        let value = match length(&mut bytes)? {
            REMOVED => None,
            value_bytes => Some(part(&mut bytes, value_bytes)?),
        };
        delta.insert(key, value);
    }
    Some(delta)
}

/// Returns whether `bytes` are a table, of whatever content.
pub(crate) fn is_table(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

/// Returns the name of the table `number` with this content.
pub(crate) fn table_name(number: &str, bytes: &[u8]) -> String {
    format!("{number}-{}.tbl", blake3::hash(bytes).to_hex())
}

/// Returns the number in a table's name.
pub(crate) fn table_number(name: &str) -> &str {
    name.split('-').next().unwrap_or_default()
}

fn read_table(path: &Path, name: &str) -> Result<(Delta, u64), StateError> {
    let bytes = fs::read(path).map_err(|error| corrupt(path, &error.to_string()))?;
    if table_name(table_number(name), &bytes) != name {
        return Err(corrupt(path, "its content is not what its name says"));
    }
    let delta = decode(&bytes).ok_or_else(|| corrupt(path, "it ends in the middle of a pair"))?;
    Ok((delta, bytes.len() as u64))
}

/// Reads the state in `dir`.
fn read(dir: &Path) -> Result<Content, StateError> {
    let current = dir.join(CURRENT);
    let names = match fs::read_to_string(&current) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(error) => return Err(failed(&current)(error)),
    };
    let (mut pairs, mut tables) = (Pairs::new(), Vec::new());
    for name in names.lines() {
        let (delta, bytes) = read_table(&dir.join(name), name)?;
        for (key, value) in delta {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        tables.push(Table {
            name: name.to_owned(),
            bytes,
        });
    }
    Ok(Content {
        pairs: Arc::new(pairs),
        unflushed: Delta::new(),
        tables: Some(tables),
    })
}

impl Content {
    /// Returns the names of the tables, one a line.
    fn list(&self) -> String {
        let names: Vec<&str> = self.tables.iter().flatten().map(|table| &*table.name).collect();
        names.join("\n")
    }

    /// Writes what is not in a table yet into one, and then the list of them. What is replaced goes last.
    fn flush(&mut self, dir: &Path) -> Result<(), StateError> {
        if self.unflushed.is_empty() && self.tables.is_some() {
            return Ok(());
        }
        let mut delta = self.unflushed.clone();
        let mut bytes = encode(&delta);
        let tables = self.tables.get_or_insert_default();
        let mut kept = tables.len();
        while let Some(older) = tables[..kept].last()
            && older.bytes < MERGE_BELOW * bytes.len() as u64
        {
            kept -= 1;
            let (mut merged, _) = read_table(&dir.join(&older.name), &older.name)?;
            merged.append(&mut delta);
            if kept == 0 {
                merged.retain(|_, value| value.is_some());
            }
            delta = merged;
            bytes = encode(&delta);
        }
        let next = tables
            .last()
            .and_then(|newest| table_number(&newest.name).parse::<u64>().ok());
        let name = table_name(&format!("{:06}", next.map_or(0, |number| number + 1)), &bytes);
        let path = dir.join(&name);
        fs::write(&path, &bytes).map_err(failed(&path))?;
        let replaced = tables.split_off(kept);
        tables.push(Table {
            name,
            bytes: bytes.len() as u64,
        });
        self.unflushed.clear();
        let (current, new) = (dir.join(CURRENT), dir.join("CURRENT.new"));
        fs::write(&new, self.list()).map_err(failed(&new))?;
        fs::rename(&new, &current).map_err(failed(&current))?;
        for table in replaced {
            let path = dir.join(&table.name);
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok(())
    }
}

impl StateEngine for MemoryEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        Ok(Arc::new(MemoryState {
            dir: dir.to_owned(),
            content: Mutex::new(read(dir)?),
            snapshots: Arc::default(),
        }))
    }

    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError> {
        let content = read(dir)?;
        if content.tables.is_none() {
            return Err(corrupt(dir, "it holds no state"));
        }
        Ok(Box::new(StandingStill {
            pairs: content.pairs,
            _counted: Arc::default(),
        }))
    }
}

impl MemoryState {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.content().pairs.get(key).cloned())
    }

    fn write(&self, changes: &Changes) -> Result<(), StateError> {
        let mut content = self.content();
        let Content { pairs, unflushed, .. } = &mut *content;
        let pairs = Arc::make_mut(pairs);
        for (key, value) in changes {
            let value = value.as_ref().map(|value| value.to_vec());
            unflushed.insert(key.clone(), value.clone());
            match value {
                Some(value) => pairs.insert(key.clone(), value),
                None => pairs.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        self.content().flush(&self.dir)
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        let mut content = self.content();
        content.flush(&self.dir)?;
        fs::create_dir(dir).map_err(failed(dir))?;
        for table in content.tables.iter().flatten() {
            let path = dir.join(&table.name);
            fs::hard_link(self.dir.join(&table.name), &path).map_err(failed(&path))?;
        }
        let path = dir.join(CURRENT);
        fs::write(&path, content.list()).map_err(failed(&path))
    }

    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
        Box::new(StandingStill {
            pairs: Arc::clone(&self.content().pairs),
            _counted: Arc::clone(&self.snapshots),
        })
    }

    fn has_snapshots(&self) -> bool {
        Arc::strong_count(&self.snapshots) > 1
    }
}

impl StateSnapshot for StandingStill {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan<'a>(&'a self, from: &[u8]) -> Box<dyn Iterator<Item = Result<StoredPair, StateError>> + 'a> {
        let pairs = self.pairs.range(from.to_vec()..);
        Box::new(pairs.map(|(key, value)| Ok((key.as_slice().into(), value.as_slice().into()))))
    }

    fn visit(&self, visit: Visit<'_>) -> Result<(), StateError> {
        self.pairs.iter().try_for_each(|(key, value)| visit(key, value))
    }
}
