//! Whether the disk has room for a job.

use std::fmt;

/// The file system of the staging area, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// What this process may still write.
    pub free: u64,
    /// What running jobs were promised and have not written yet.
    pub promised: u64,
    /// What stays free.
    pub reserve: u64,
}

/// There is too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What the job would write.
    pub wanted: u64,
    /// What was found.
    pub disk: DiskFacts,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { wanted, disk } = self;
        write!(
            f,
            "{} bytes are free; {wanted} for a snapshot, {} for other jobs and the reserve of {} are needed: make room or lower disk_reserve_bytes",
            disk.free, disk.promised, disk.reserve
        )
    }
}

/// Decides whether a job may write `wanted` bytes more: `wanted + promised + reserve <= free`.
///
/// # Errors
/// What is short.
pub fn room_for(wanted: u64, disk: DiskFacts) -> Result<(), Shortage> {
    let sum = wanted.checked_add(disk.promised);
    let needed = sum.and_then(|sum| sum.checked_add(disk.reserve));
    match needed {
        Some(needed) if needed <= disk.free => Ok(()),
        Some(_) | None => Err(Shortage { wanted, disk }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_and_what_others_were_promised_stay_free() {
        let check = |wanted, free, promised, reserve| {
            room_for(
                wanted,
                DiskFacts {
                    free,
                    promised,
                    reserve,
                },
            )
            .is_ok()
        };
        assert!(check(10, 10, 0, 0));
        assert!(!check(11, 10, 0, 0));
        assert!(check(10, 100, 40, 50));
        assert!(!check(10, 99, 40, 50));
        assert!(check(0, 50, 0, 50), "the reserve itself is not needed");
        assert!(!check(0, 49, 0, 50));
        assert!(!check(u64::MAX, 1, 1, 1));
        assert!(!check(0, u64::MAX, u64::MAX, 1), "more than there can be");
    }
}
