//! The folders of one partition, and how its state is replaced.
//!
//! A state is replaced in one step: it and the finished download change places. A crash leaves one or the other in
//! `state`, whole; what lies in the download's folder afterwards is the old one, and goes with the staging area.
//!
//! Where the file system cannot exchange two folders, there are three renames, none of which destroys anything:
//!
//! 1. `state` becomes `set-aside-replaced`. A crash here leaves no `state`: opening renames it back.
//! 2. The finished download becomes `state`. A crash here leaves both: opening deletes the one set aside.
//! 3. `set-aside-replaced` is deleted. A crash in the middle of that leaves the rest, which opening deletes.
//!
//! The database in `state` must be closed meanwhile: RocksDB re-creates files in the folder of an open one.
//!
//! A state of another life of the log is renamed to `set-aside-<generation>-<id>` and stays until somebody deletes
//! it by hand.
//!
//! A state that is being rebuilt is renamed to `set-aside-<reason>` and deleted when the partition is active again.

use super::exchange::{Exchanged, exchange};
use crate::{core::RebuildReason, failpoint};
use snapshot_store::{Incarnation, PartitionId};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const REPLACED: &str = "set-aside-replaced";
/// How many states of one incarnation are kept aside; more than one means that somebody moved logs back and forth.
const SET_ASIDE_MAX: u32 = 100;

/// The folders of one partition.
#[derive(Clone, Debug)]
pub(super) struct PartitionDirs {
    root: PathBuf,
}

impl PartitionDirs {
    pub(super) fn new(data_dir: &Path, partition: PartitionId) -> Self {
        PartitionDirs {
            root: data_dir.join("partitions").join(partition.to_string()),
        }
    }

    /// Returns the folder of the state in use.
    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Creates what is missing and finishes or undoes a replacement that a crash interrupted.
    pub(super) fn recover(&self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let replaced = self.root.join(REPLACED);
        if !replaced.try_exists()? {
            return Ok(());
        }
        if self.state().try_exists()? {
            fs::remove_dir_all(&replaced)
        } else {
            fs::rename(&replaced, self.state())?;
            sync(&self.root)
        }
    }

    /// Puts the state in `staged` in place of the present one. That one goes, or lies in `staged` afterwards, for the
    /// caller to remove.
    pub(super) fn replace(&self, staged: &Path) -> io::Result<()> {
        self.replace_with(staged, exchange)
    }

    fn replace_with(
        &self,
        staged: &Path,
        exchange: impl FnOnce(&Path, &Path) -> io::Result<Exchanged>,
    ) -> io::Result<()> {
        self.recover()?;
        sync(staged)?;
        failpoint::reached("replace: the new state is durable");
        let state = self.state();
        if !state.try_exists()? {
            fs::rename(staged, &state)?;
        } else if exchange(staged, &state)? == Exchanged::Unsupported {
            return self.replace_by_renames(staged);
        }
        failpoint::reached("replace: the new state is in place");
        sync(&self.root)?;
        staged.parent().map_or(Ok(()), sync)
    }

    fn replace_by_renames(&self, staged: &Path) -> io::Result<()> {
        let (state, replaced) = (self.state(), self.root.join(REPLACED));
        fs::rename(&state, &replaced)?;
        sync(&self.root)?;
        failpoint::reached("replace: the old state is aside");
        fs::rename(staged, &state)?;
        sync(&self.root)?;
        failpoint::reached("replace: the new state is beside the old one");
        fs::remove_dir_all(&replaced)
    }

    /// Sets the present state aside until [`PartitionDirs::discard_set_aside`]. When one is aside already, the present
    /// one took its place and was never active: it can be had again, and goes.
    pub(super) fn set_aside_for_rebuild(&self, reason: RebuildReason) -> io::Result<()> {
        let state = self.state();
        if !state.try_exists()? {
            return Ok(());
        }
        match self.rebuild_under_way()? {
            Some(_) => fs::remove_dir_all(&state)?,
            None => fs::rename(&state, self.aside(reason))?,
        }
        sync(&self.root)
    }

    /// Returns why a state is set aside to be rebuilt; `None` when none is.
    pub(super) fn rebuild_under_way(&self) -> io::Result<Option<RebuildReason>> {
        for reason in RebuildReason::ALL {
            if self.aside(*reason).try_exists()? {
                return Ok(Some(*reason));
            }
        }
        Ok(None)
    }

    /// Puts the state that was set aside on order back into use. Fails when another one is in its place.
    pub(super) fn bring_back(&self) -> io::Result<()> {
        let state = self.state();
        if state.try_exists()? {
            return Err(io::Error::other(format!("{} exists already", state.display())));
        }
        fs::rename(self.aside(RebuildReason::Ordered), state)?;
        sync(&self.root)
    }

    /// Deletes what was set aside to be rebuilt; says whether there was anything.
    pub(super) fn discard_set_aside(&self) -> io::Result<bool> {
        let mut any = false;
        for reason in RebuildReason::ALL {
            let aside = self.aside(*reason);
            if aside.try_exists()? {
                fs::remove_dir_all(aside)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Returns the folder of a state set aside to be rebuilt.
    pub(super) fn aside(&self, reason: RebuildReason) -> PathBuf {
        self.root.join(format!("set-aside-{}", reason.as_str()))
    }

    /// Sets the present state aside for good, because it belongs to `incarnation`, which is no longer the log's.
    pub(super) fn set_aside(&self, incarnation: &Incarnation) -> io::Result<PathBuf> {
        let name = format!("set-aside-{}-{}", incarnation.generation, incarnation.id);
        for number in 0..SET_ASIDE_MAX {
            let target = match number {
                0 => self.root.join(&name),
                number => self.root.join(format!("{name}-{number}")),
            };
            if !target.try_exists()? {
                fs::rename(self.state(), &target)?;
                sync(&self.root)?;
                return Ok(target);
            }
        }
        Err(io::Error::other(format!(
            "{name} exists {SET_ASIDE_MAX} times already: delete some by hand"
        )))
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::IncarnationId;

    fn dirs() -> (tempfile::TempDir, PartitionDirs) {
        let dir = tempfile::tempdir().unwrap();
        let dirs = PartitionDirs::new(dir.path(), PartitionId::new(3));
        dirs.recover().unwrap();
        (dir, dirs)
    }

    fn folder(path: &Path, content: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("content"), content).unwrap();
    }

    fn content(path: &Path) -> Option<String> {
        fs::read_to_string(path.join("content")).ok()
    }

    fn unsupported(_: &Path, _: &Path) -> io::Result<Exchanged> {
        Ok(Exchanged::Unsupported)
    }

    #[test]
    fn replacing_puts_the_new_state_in_place_and_keeps_nothing_beside_it() {
        let ways: [fn(&Path, &Path) -> io::Result<Exchanged>; 2] = [exchange, unsupported];
        for (way, old) in ways.iter().flat_map(|way| [(way, true), (way, false)]) {
            let (dir, dirs) = dirs();
            let staged = dir.path().join("staged");
            folder(&staged, "new");
            if old {
                folder(&dirs.state(), "old");
            }
            dirs.replace_with(&staged, way).unwrap();
            assert_eq!(content(&dirs.state()).as_deref(), Some("new"));
            assert_eq!(fs::read_dir(&dirs.root).unwrap().count(), 1);
            assert_ne!(content(&staged).as_deref(), Some("new"));
        }
    }

    /// What a crash at one moment of a replacement leaves, and what the next start makes of it.
    #[test]
    fn a_crash_at_any_step_of_a_replacement_leaves_the_old_or_the_new_state() {
        let moments = [
            ("replace: the new state is durable", true, "old", Some("new")),
            ("replace: the new state is in place", true, "new", Some("old")),
            ("replace: the new state is durable", false, "old", Some("new")),
            ("replace: the old state is aside", false, "old", Some("new")),
            ("replace: the new state is beside the old one", false, "new", None),
        ];
        for (moment, in_one_step, expected, left) in moments {
            let (dir, dirs) = dirs();
            let staged = dir.path().join("staged");
            folder(&dirs.state(), "old");
            folder(&staged, "new");
            let way = if in_one_step { exchange } else { unsupported };
            failpoint::crash_at(moment, || dirs.replace_with(&staged, way).unwrap());
            // What reads the folder without repairing it first finds a whole state, or none.
            assert_ne!(content(&dirs.state()), Some(String::new()), "{moment}");
            dirs.recover().unwrap();
            assert_eq!(content(&dirs.state()).as_deref(), Some(expected), "{moment}");
            assert_eq!(content(&staged).as_deref(), left, "{moment}");
            assert_eq!(fs::read_dir(&dirs.root).unwrap().count(), 1, "{moment}");
            // A replacement that did not take place can be repeated.
            if left == Some("new") {
                dirs.replace_with(&staged, way).unwrap();
                assert_eq!(content(&dirs.state()).as_deref(), Some("new"), "{moment}");
            }
        }
    }

    #[test]
    fn a_replacement_that_cannot_take_place_leaves_both_states_as_they_are() {
        let (dir, dirs) = dirs();
        let staged = dir.path().join("staged");
        folder(&dirs.state(), "old");
        folder(&staged, "new");
        let refused = |_: &Path, _: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(dirs.replace_with(&staged, refused).is_err());
        assert_eq!(content(&dirs.state()).as_deref(), Some("old"));
        assert_eq!(content(&staged).as_deref(), Some("new"));
    }

    #[test]
    fn a_crash_before_the_old_state_is_deleted_keeps_the_new_one() {
        let (_dir, dirs) = dirs();
        folder(&dirs.root.join(REPLACED), "old");
        folder(&dirs.state(), "new");
        dirs.recover().unwrap();
        assert_eq!(content(&dirs.state()).as_deref(), Some("new"));
        assert!(!dirs.root.join(REPLACED).exists());
    }

    #[test]
    fn a_state_that_is_rebuilt_is_kept_until_it_is_discarded() {
        let (_dir, dirs) = dirs();
        let aside = dirs.aside(RebuildReason::Corruption);
        folder(&dirs.state(), "damaged");
        dirs.set_aside_for_rebuild(RebuildReason::Corruption).unwrap();
        assert_eq!(
            (content(&aside).as_deref(), dirs.state().exists()),
            (Some("damaged"), false)
        );
        // What took its place is damaged too, before it was ever active: the first one is the one to keep.
        folder(&dirs.state(), "damaged too");
        dirs.set_aside_for_rebuild(RebuildReason::Ordered).unwrap();
        assert_eq!(
            (content(&aside).as_deref(), dirs.state().exists()),
            (Some("damaged"), false)
        );
        assert_eq!(dirs.rebuild_under_way().unwrap(), Some(RebuildReason::Corruption));
        dirs.recover().unwrap();
        folder(&dirs.state(), "sound");
        assert!(dirs.discard_set_aside().unwrap());
        assert!(!dirs.discard_set_aside().unwrap());
        assert_eq!(
            (content(&dirs.state()).as_deref(), aside.exists()),
            (Some("sound"), false)
        );
    }

    #[test]
    fn only_a_state_set_aside_on_order_comes_back_and_never_over_another() {
        let (_dir, dirs) = dirs();
        folder(&dirs.state(), "old");
        dirs.set_aside_for_rebuild(RebuildReason::Ordered).unwrap();
        folder(&dirs.state(), "new");
        assert!(dirs.bring_back().is_err());
        fs::remove_dir_all(dirs.state()).unwrap();
        dirs.bring_back().unwrap();
        assert_eq!(content(&dirs.state()).as_deref(), Some("old"));
        dirs.set_aside_for_rebuild(RebuildReason::Corruption).unwrap();
        assert!(dirs.bring_back().is_err());
        dirs.set_aside_for_rebuild(RebuildReason::Corruption).unwrap();
    }

    #[test]
    fn states_set_aside_are_all_kept() {
        let (_dir, dirs) = dirs();
        let incarnation = Incarnation {
            generation: 1,
            id: IncarnationId::from_bytes([1; 16]),
        };
        let mut kept = Vec::new();
        for content in ["first", "second"] {
            folder(&dirs.state(), content);
            kept.push(dirs.set_aside(&incarnation).unwrap());
        }
        dirs.recover().unwrap();
        assert_eq!(
            kept.iter().map(|path| content(path).unwrap()).collect::<Vec<_>>(),
            ["first", "second"]
        );
        assert!(!dirs.state().exists());
    }
}
