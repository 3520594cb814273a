//! The state of the archive model.

use super::setup::{Setup, Start};
use crate::product::{Certified, Entry, Latest, LogView};
use std::collections::BTreeSet;

/// A snapshot's directory in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Directory {
    pub(crate) entry: Entry,
    /// The attempt whose data files lie there.
    pub(crate) data_of: u8,
    /// The attempt whose manifest lies there.
    pub(crate) manifest_of: Option<u8>,
    /// Whether the content is wrong from birth, which only reading it shows.
    pub(crate) rotten: bool,
    /// Whether it was made from another cluster's log.
    pub(crate) foreign: bool,
}

impl Directory {
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.manifest_of == Some(self.data_of)
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.is_complete() && !self.rotten
    }
}

/// What a worker has of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Local {
    pub(crate) inc: u8,
    pub(crate) applied: u8,
    pub(crate) durable: u8,
    /// Whether it equals the fold of all records up to `applied`.
    pub(crate) sound: bool,
}

/// How far a worker's export or restore is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    Idle,
    /// Data files are on their way.
    Uploading {
        upload: Upload,
    },
    /// All is in the store; the pointer is to be read. `unclear`: after a put without an answer.
    Uploaded {
        upload: Upload,
        unclear: bool,
    },
    /// The pointer was read and may be replaced.
    Swapping {
        upload: Upload,
        latest: Option<Latest>,
        certificate: Option<Certified>,
    },
    /// Snapshots to try, best first.
    Restoring {
        candidates: Vec<Entry>,
    },
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Upload {
    pub(crate) entry: Entry,
    pub(crate) attempt: u8,
    pub(crate) rotten: bool,
    /// The trim point of its log, as it knew it when it began.
    pub(crate) trim: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Worker {
    pub(crate) local: Option<Local>,
    /// Whether it never lost its disk, so that no trim may take from it what it needs.
    pub(crate) intact: bool,
    pub(crate) phase: Phase,
}

/// How far an admin's pass is. A decided trim may be executed at any later time, and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Admin {
    Idle,
    /// Decided; the certificate is to be written.
    Decided {
        inc: u8,
        up_to: u8,
        entries: Vec<Entry>,
    },
    /// Entitled to trim.
    Entitled {
        inc: u8,
        up_to: u8,
    },
}

/// How often each fault and each attempt has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spent {
    pub(crate) attempts: u8,
    pub(crate) crashes: u8,
    pub(crate) disk_losses: u8,
    pub(crate) snapshot_losses: u8,
    pub(crate) pointer_losses: u8,
    pub(crate) rotten: u8,
    pub(crate) unclear_swaps: u8,
    pub(crate) unclear_certificates: u8,
    pub(crate) recreations: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) log: LogView,
    pub(crate) directories: Vec<Directory>,
    pub(crate) latest: Option<Latest>,
    /// Versions given out so far, of pointer and certificate.
    pub(crate) versions: (u8, u8),
    /// The highest position the pointer ever had.
    pub(crate) highest: (u8, u8),
    pub(crate) certificate: Option<Certified>,
    /// The highest position a certificate ever had.
    pub(crate) highest_certified: (u8, u8),
    pub(crate) workers: Vec<Worker>,
    pub(crate) admins: Vec<Admin>,
    /// Puts without an answer that may still land: the version they ask for, and what they write.
    pub(crate) late_latest: BTreeSet<(u8, Latest)>,
    pub(crate) late_certificates: BTreeSet<(u8, Certified)>,
    /// A directory that a sweep has decided to delete.
    pub(crate) doomed: Option<u8>,
    /// Archived LSNs that workers ever claimed, with the generation.
    pub(crate) claims: BTreeSet<(u8, u8)>,
    /// Snapshots that went without anybody's decision.
    pub(crate) lost: BTreeSet<u8>,
    /// Whether a swap has evicted what its publisher knew to be certified.
    pub(crate) evicted_knowingly: bool,
    pub(crate) spent: Spent,
}

impl State {
    pub(crate) fn new(setup: &Setup) -> Self {
        let bounds = &setup.bounds;
        let worker = Worker {
            local: Some(Local {
                inc: 1,
                applied: 0,
                durable: 0,
                sound: true,
            }),
            intact: true,
            phase: Phase::Idle,
        };
        let mut state = State {
            log: LogView {
                inc: 1,
                base: 0,
                last: 0,
                trim: 0,
            },
            directories: Vec::new(),
            latest: None,
            versions: (0, 0),
            highest: (0, 0),
            certificate: None,
            highest_certified: (0, 0),
            workers: vec![worker; usize::from(bounds.workers)],
            admins: vec![Admin::Idle; usize::from(bounds.admins)],
            late_latest: BTreeSet::new(),
            late_certificates: BTreeSet::new(),
            doomed: None,
            claims: BTreeSet::new(),
            lost: BTreeSet::new(),
            evicted_knowingly: false,
            spent: Spent::default(),
        };
        if setup.start != Start::Empty {
            state.leave_behind(setup.start == Start::ForeignPointer);
        }
        state
    }

    /// Puts snapshots of an earlier life of the log, or of another cluster, into the store. Those of an earlier life have
    /// LSNs above all that the present log will have.
    fn leave_behind(&mut self, foreign: bool) {
        let inc = if foreign { self.log.inc } else { 0 };
        let above = if foreign { 0 } else { 1 };
        let entries: Vec<Entry> = [(2, 101), (1, 100)]
            .map(|(lsn, id)| Entry {
                inc,
                lsn: lsn + above,
                id,
            })
            .into();
        self.directories = entries
            .iter()
            .map(|entry| Directory {
                entry: *entry,
                data_of: entry.id,
                manifest_of: Some(entry.id),
                rotten: false,
                foreign,
            })
            .collect();
        self.versions.0 = 1;
        let latest = Latest {
            version: 1,
            foreign,
            history: entries.iter().map(|entry| entry.id).collect(),
            entries,
        };
        self.highest = latest.position();
        self.latest = Some(latest);
    }

    pub(crate) fn directory(&self, id: u8) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.entry.id == id)
    }

    pub(crate) fn remove_directory(&mut self, id: u8) {
        self.directories.retain(|directory| directory.entry.id != id);
    }

    /// The version that a conditional put must name; 0 where there is no object.
    pub(crate) fn latest_version(&self) -> u8 {
        self.latest.as_ref().map_or(0, |latest| latest.version)
    }

    pub(crate) fn certificate_version(&self) -> u8 {
        self.certificate
            .as_ref()
            .map_or(0, |certificate| certificate.version)
    }

    /// Brings states that differ only in names into one form: workers and admins are alike, and directories are a set.
    pub(crate) fn normalise(&mut self) {
        self.workers.sort_unstable();
        self.admins.sort_unstable();
        self.directories.sort_unstable();
    }
}
