//! The database below a partition, in memory over plain files: what was not flushed is lost with the process.
//!
//! Like RocksDB's, its tables are immutable files that checkpoints link, so that successive snapshots share some of them.
//! Pairs are spread over a few tables by their key; a table's name holds the hash of its content.

use snapshot_worker::processor::{Changes, StateEngine, StateError, StateSnapshot, StateStore, StoredPair};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Over how many tables the pairs of a state are spread.
const TABLES: usize = 4;
/// Lists the tables of a state.
const CURRENT: &str = "CURRENT";

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Opens states that are kept in memory, and on disk when they are flushed.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryEngine;

struct MemoryState {
    dir: PathBuf,
    pairs: Mutex<Arc<Pairs>>,
    snapshots: Arc<()>,
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

fn table_of(key: &[u8]) -> usize {
    usize::from(blake3::hash(key).as_bytes()[0]) % TABLES
}

fn encode(pairs: &[(&Vec<u8>, &Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        for part in [key, value] {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

fn decode(mut bytes: &[u8], pairs: &mut Pairs) -> Option<()> {
    fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part)
    }
    while !bytes.is_empty() {
        let (key, value) = (part(&mut bytes)?, part(&mut bytes)?);
        pairs.insert(key.to_vec(), value.to_vec());
    }
    Some(())
}

/// Writes all tables that are not there yet into `dir`, and then the list of them. Returns their names.
fn write_tables(dir: &Path, pairs: &Pairs) -> Result<Vec<String>, StateError> {
    let mut tables: [Vec<(&Vec<u8>, &Vec<u8>)>; TABLES] = Default::default();
    for (key, value) in pairs {
        tables[table_of(key)].push((key, value));
    }
    let mut names = Vec::new();
    for (number, pairs) in tables.iter().enumerate() {
        let bytes = encode(pairs);
        let name = format!("{number}-{}.tbl", blake3::hash(&bytes).to_hex());
        let path = dir.join(&name);
        if !path.exists() {
            fs::write(&path, bytes).map_err(failed(&path))?;
        }
        names.push(name);
    }
    let (current, new) = (dir.join(CURRENT), dir.join("CURRENT.new"));
    fs::write(&new, names.join("\n")).map_err(failed(&new))?;
    fs::rename(&new, &current).map_err(failed(&current))?;
    Ok(names)
}

/// Reads the state in `dir`; `None` when there is none.
fn read(dir: &Path) -> Result<Option<Pairs>, StateError> {
    let current = dir.join(CURRENT);
    let names = match fs::read_to_string(&current) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&current)(error)),
    };
    let mut pairs = Pairs::new();
    for name in names.lines() {
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(|error| corrupt(&path, &error.to_string()))?;
        let hash = blake3::hash(&bytes).to_hex();
        if !name.contains(hash.as_str()) {
            return Err(corrupt(&path, "its content is not what its name says"));
        }
        decode(&bytes, &mut pairs).ok_or_else(|| corrupt(&path, "it ends in the middle of a pair"))?;
    }
    Ok(Some(pairs))
}

impl StateEngine for MemoryEngine {
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let pairs = read(dir)?.unwrap_or_default();
        Ok(Arc::new(MemoryState {
            dir: dir.to_owned(),
            pairs: Mutex::new(Arc::new(pairs)),
            snapshots: Arc::default(),
        }))
    }

    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError> {
        let pairs = read(dir)?.ok_or_else(|| corrupt(dir, "it holds no state"))?;
        Ok(Box::new(StandingStill {
            pairs: Arc::new(pairs),
            _counted: Arc::default(),
        }))
    }
}

impl MemoryState {
    fn pairs(&self) -> MutexGuard<'_, Arc<Pairs>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.pairs().get(key).cloned())
    }

    fn write(&self, changes: &Changes) -> Result<(), StateError> {
        let mut pairs = self.pairs();
        let pairs = Arc::make_mut(&mut pairs);
        for (key, value) in changes {
            match value {
                Some(value) => pairs.insert(key.clone(), value.to_vec()),
                None => pairs.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        let names = write_tables(&self.dir, &self.pairs())?;
        for entry in fs::read_dir(&self.dir).map_err(failed(&self.dir))? {
            let path = entry.map_err(failed(&self.dir))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.ends_with(".tbl") && !names.iter().any(|kept| kept == name) {
                fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        self.flush()?;
        fs::create_dir(dir).map_err(failed(dir))?;
        let current = self.dir.join(CURRENT);
        let names = fs::read_to_string(&current).map_err(failed(&current))?;
        for name in names.lines() {
            let path = dir.join(name);
            fs::hard_link(self.dir.join(name), &path).map_err(failed(&path))?;
        }
        let path = dir.join(CURRENT);
        fs::write(&path, names).map_err(failed(&path))
    }

    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
        Box::new(StandingStill {
            pairs: Arc::clone(&self.pairs()),
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
}
