//! Two folders change places in one step, where the system can do that.

use std::{io, path::Path};

/// Whether two folders changed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchanged {
    /// They did.
    Done,
    /// The system or this file system cannot do it; both are where they were.
    Unsupported,
}

/// Has `one` and `other`, which both exist on the same file system, change places: nobody ever sees one of them missing.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<Exchanged> {
    use rustix::{
        fs::{CWD, RenameFlags, renameat_with},
        io::Errno,
    };
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Exchanged::Done),
        // `INVAL`: the file system knows no such flag; `NOSYS`: the kernel has no such call.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(Exchanged::Unsupported),
        Err(error) => Err(error.into()),
    }
}

/// There is no such call on this system.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn exchange(_: &Path, _: &Path) -> io::Result<Exchanged> {
    Ok(Exchanged::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn two_folders_change_places_with_all_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for path in [&one, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("name"), path.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        let before = ("one".to_owned(), "other".to_owned());
        let name = |path: &Path| fs::read_to_string(path.join("name")).unwrap();
        let exchanged = exchange(&one, &other).unwrap();
        let expected = match exchanged {
            Exchanged::Done => (before.1, before.0),
            Exchanged::Unsupported => before,
        };
        assert_eq!((name(&one), name(&other)), expected);
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error_and_the_other_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        fs::create_dir(&one).unwrap();
        let exchanged = exchange(&one, &dir.path().join("missing"));
        assert!(exchanged.is_err() || exchanged.is_ok_and(|exchanged| exchanged == Exchanged::Unsupported));
        assert!(one.exists());
    }
}
