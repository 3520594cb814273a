//! For hosts that keep several partitions in one RocksDB, a column family for each: a checkpoint of one family.
//!
//! All of it blocks its thread.

use super::host::HostError;
use crate::processor::StateError;
use rocksdb::{DB, IteratorMode, Options, ReadOptions, checkpoint::Checkpoint};
use std::{fs, io, path::Path};

/// The family that every database has.
const DEFAULT: &str = "default";
/// What RocksDB notes while a database is open, with names of this machine in it; it belongs to no snapshot.
const NOTES: [&str; 2] = ["LOG", "LOCK"];

/// Makes a checkpoint of `family` of `db` in `dir`, which does not exist yet: hard links to its tables where `dir` is on
/// the same file system, so that its time does not grow with the state. What `db` holds in memory is flushed first.
///
/// The other families are not in it, but for the default one, which every database has: keep nothing there that does not
/// belong to every partition.
///
/// # Errors
/// When `db` has no such family, is damaged, or the disk refuses.
pub fn checkpoint_family(db: &DB, family: &str, dir: &Path) -> Result<(), HostError> {
    if db.cf_handle(family).is_none() {
        return Err(HostError::Unavailable(format!(
            "the database has no column family {family:?}"
        )));
    }
    Checkpoint::new(db)
        .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
        .map_err(failed)?;
    let mut options = Options::default();
    // The copy is to have the tables of the original, not others made of them.
    options.set_disable_auto_compactions(true);
    let families = DB::list_cf(&options, dir).map_err(failed)?;
    let with_options = families.iter().map(|name| (name, options.clone()));
    let copy = DB::open_cf_with_opts(&options, dir, with_options).map_err(failed)?;
    for name in families.iter().filter(|name| *name != DEFAULT && *name != family) {
        copy.drop_cf(name).map_err(failed)?;
    }
    drop(copy);
    for name in NOTES {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Reads `family` of the database in `dir` through, in key order, and calls `each` with every pair. The checksum of every
/// block is compared, and `dir` is left as it is.
///
/// # Errors
/// When the database or the family is not there or damaged, or the disk refuses.
pub fn read_family(dir: &Path, family: &str, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), HostError> {
    let copy = DB::open_cf_for_read_only(&Options::default(), dir, [family], false).map_err(failed)?;
    let handle = copy
        .cf_handle(family)
        .ok_or_else(|| HostError::Corrupt(format!("there is no column family {family:?}")))?;
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(false);
    for pair in copy.iterator_cf_opt(&handle, options, IteratorMode::Start) {
        let (key, value) = pair.map_err(failed)?;
        each(&key, &value);
    }
    Ok(())
}

fn failed(error: rocksdb::Error) -> HostError {
    crate::processor::host_error(StateError::from(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with two families, each with its own table, and a default one.
    fn database(dir: &Path) -> DB {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf(&options, dir, ["mine", "other"]).unwrap();
        db.put("shared", "by all").unwrap();
        for name in ["mine", "other"] {
            let family = db.cf_handle(name).unwrap();
            db.put_cf(&family, "name", name).unwrap();
            db.flush_cf(&family).unwrap();
        }
        let family = db.cf_handle("mine").unwrap();
        db.put_cf(&family, "unflushed", "too").unwrap();
        drop(family);
        db
    }

    fn pairs(dir: &Path, family: &str) -> Result<Vec<(String, String)>, HostError> {
        let mut pairs = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        read_family(dir, family, |key, value| pairs.push((text(key), text(value))))?;
        Ok(pairs)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_of_a_family_holds_its_pairs_and_nothing_of_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
        let db = database(&live);
        checkpoint_family(&db, "mine", &copy).unwrap();
        db.put_cf(&db.cf_handle("mine").unwrap(), "later", "not in it")
            .unwrap();

        let expected = [("name", "mine"), ("unflushed", "too")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pairs(&copy, "mine").unwrap(), expected);
        assert!(matches!(pairs(&copy, "other"), Err(HostError::Corrupt(_))));
        let families = DB::list_cf(&Options::default(), &copy).unwrap();
        assert_eq!(families, ["default", "mine"]);
        for table in names(&copy).into_iter().filter(|name| name.ends_with(".sst")) {
            let bytes = fs::read(copy.join(&table)).unwrap();
            assert!(!bytes.windows(5).any(|window| window == b"other"), "{table}");
        }
    }

    #[test]
    fn the_tables_are_those_of_the_database_and_no_notes_of_this_machine_lie_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
        let db = database(&live);
        checkpoint_family(&db, "mine", &copy).unwrap();
        let live = names(&live);
        let copied = names(&copy);
        let tables: Vec<_> = copied.iter().filter(|name| name.ends_with(".sst")).collect();
        assert!(tables.len() >= 2, "{copied:?}");
        assert!(
            tables.iter().all(|name| live.contains(name)),
            "{copied:?} of {live:?}"
        );
        assert!(NOTES.iter().all(|name| !copied.iter().any(|other| other == name)));
        pairs(&copy, "mine").unwrap();
        assert_eq!(names(&copy), copied, "reading leaves it as it is");
    }

    #[test]
    fn a_family_that_is_not_there_and_a_folder_that_is_no_database_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir.path().join("live"));
        let copy = dir.path().join("copy");
        let refused = checkpoint_family(&db, "nobody's", &copy);
        assert!(
            matches!(refused, Err(HostError::Unavailable(_))) && !copy.exists(),
            "{refused:?}"
        );
        fs::create_dir(&copy).unwrap();
        assert!(matches!(pairs(&copy, "mine"), Err(HostError::Corrupt(_))));
    }
}
