//! The configurations: how large, which faults, which rule is taken out.

/// How many of everything. A fault with budget 0 does not happen.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Workers with a replica.
    pub workers: u8,
    /// Admins, all of which believe to be the active one.
    pub admins: u8,
    /// Records that are appended.
    pub records: u8,
    /// Attempts to make a snapshot, by all workers together.
    pub attempts: u8,
    /// Whether applied and durable differ.
    pub flushes: bool,
    /// Whether a sweep deletes.
    pub sweeps: bool,
    /// Ends of a worker's process.
    pub crashes: u8,
    /// Losses of a worker's disk.
    pub disk_losses: u8,
    /// Snapshots the store loses (a lifecycle rule, a flipped byte), each complete.
    pub snapshot_losses: u8,
    /// Losses of the pointer.
    pub pointer_losses: u8,
    /// Snapshots whose content is wrong from birth.
    pub rotten: u8,
    /// Swaps without an answer.
    pub unclear_swaps: u8,
    /// Puts of the certificate without an answer.
    pub unclear_certificates: u8,
    /// Times the log is created anew, empty, under the next generation.
    pub recreations: u8,
}

/// Two workers, two admins, two records, three attempts, no fault.
const SMALL: Bounds = Bounds {
    workers: 2,
    admins: 2,
    records: 2,
    attempts: 3,
    flushes: false,
    sweeps: true,
    crashes: 0,
    disk_losses: 0,
    snapshot_losses: 0,
    pointer_losses: 0,
    rotten: 0,
    unclear_swaps: 0,
    unclear_certificates: 0,
    recreations: 0,
};

/// What lies in the store at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Empty,
    /// Snapshots and pointer of an older generation, with higher LSNs.
    OlderGeneration,
    /// Snapshots and pointer of another cluster, with higher LSNs.
    ForeignPointer,
}

/// The rule that is taken out or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained by its configuration's name")]
pub enum Mutation {
    PutsPointerBlindly,
    RetriesWithoutComparing,
    PublishesBeforeUpload,
    ReusesAttemptId,
    DeletesOwnAtOnce,
    DeletesOwnAfterReadingAgain,
    ForgetsTheFloor,
    EvictsBeforeCertification,
    DeletesUnreferenced,
    DeletesCertified,
    DeletesWithoutIncarnation,
    SkipsTrimGap,
    RestoresUnverified,
    RestoresByThePointerAlone,
    TrimsByStatus,
    ReportsBeforePointer,
    ReportsAfterLostRace,
    TrustsForeignPointer,
    IgnoresIncarnationInTrim,
    DoesNotCheckPresence,
    SkipsDamaged,
    TrimsWithTooFew,
    ReliesOnOneSnapshot,
    TrimsAtTheNewest,
    TrimsAnyIncarnation,
    TrimsAtReplicas,
    TrimsAtApplied,
    TrimsBeforeCertifying,
    PutsCertificateBlindly,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it is about, in words.
    pub name: &'static str,
    /// How large.
    pub bounds: Bounds,
    /// What lies in the store.
    pub start: Start,
    /// `restorable_snapshots_min`.
    pub restorable_min: u8,
    /// What is broken; `None` is the protocol as it is.
    pub mutation: Option<Mutation>,
}

impl Setup {
    /// Whether a status decides a trim.
    pub(crate) fn trims_by_claim(&self) -> bool {
        use Mutation::{ReportsAfterLostRace, ReportsBeforePointer, TrimsByStatus};
        matches!(
            self.mutation,
            Some(TrimsByStatus | ReportsBeforePointer | ReportsAfterLostRace)
        )
    }

    /// Whether trims have certificates at all.
    pub(crate) fn certifies(&self) -> bool {
        use Mutation::{TrimsAtReplicas, TrimsBeforeCertifying};
        !self.trims_by_claim() && !matches!(self.mutation, Some(TrimsAtReplicas | TrimsBeforeCertifying))
    }
}

const fn setup(name: &'static str, restorable_min: u8, bounds: Bounds) -> Setup {
    Setup {
        name,
        bounds,
        start: Start::Empty,
        restorable_min,
        mutation: None,
    }
}

/// Configurations of the protocol as it is, that the test command explores.
pub fn safe() -> Vec<Setup> {
    let worn = Bounds {
        crashes: 1,
        disk_losses: 1,
        ..SMALL
    };
    vec![
        setup(
            "archive: one restorable, a crash, an unclear swap",
            1,
            Bounds {
                crashes: 1,
                unclear_swaps: 1,
                ..SMALL
            },
        ),
        setup(
            "archive: two restorable, a crash, a lost disk, a lost snapshot",
            2,
            Bounds {
                snapshot_losses: 1,
                ..worn
            },
        ),
        setup(
            "archive: two restorable, one rotten, another one lost",
            2,
            Bounds {
                records: 3,
                attempts: 4,
                rotten: 1,
                snapshot_losses: 1,
                ..SMALL
            },
        ),
        setup(
            "archive: applied and durable differ, a crash, a lost disk",
            1,
            Bounds {
                flushes: true,
                ..worn
            },
        ),
        setup(
            "archive: the log is created anew",
            1,
            Bounds {
                recreations: 1,
                ..SMALL
            },
        ),
        setup(
            "archive: an unclear certificate, a lost snapshot",
            2,
            Bounds {
                unclear_certificates: 1,
                snapshot_losses: 1,
                ..SMALL
            },
        ),
        setup(
            "archive: the pointer is deleted",
            1,
            Bounds {
                pointer_losses: 1,
                ..SMALL
            },
        ),
        Setup {
            start: Start::OlderGeneration,
            ..setup(
                "archive: a pointer of an older generation lies there",
                1,
                Bounds {
                    crashes: 1,
                    unclear_swaps: 1,
                    ..SMALL
                },
            )
        },
    ]
}

/// Larger ones, for the long run.
pub fn safe_long() -> Vec<Setup> {
    vec![
        setup(
            "archive, long: one restorable, a crash, a lost disk, an unclear swap",
            1,
            Bounds {
                crashes: 1,
                disk_losses: 1,
                unclear_swaps: 1,
                ..SMALL
            },
        ),
        setup(
            "archive, long: all but a new log, two restorable",
            2,
            Bounds {
                crashes: 1,
                disk_losses: 1,
                snapshot_losses: 1,
                unclear_swaps: 1,
                ..SMALL
            },
        ),
        setup(
            "archive, long: a new log and a lost snapshot, four attempts",
            2,
            Bounds {
                attempts: 4,
                recreations: 1,
                snapshot_losses: 1,
                ..SMALL
            },
        ),
        setup(
            "archive, long: three workers",
            1,
            Bounds {
                workers: 3,
                crashes: 1,
                unclear_swaps: 1,
                ..SMALL
            },
        ),
    ]
}

/// Configurations with one rule taken out, each of which must be caught.
pub fn mutants() -> Vec<Setup> {
    use Mutation as M;
    let lossy = Bounds {
        snapshot_losses: 1,
        ..SMALL
    };
    let rotten = Bounds {
        workers: 1,
        admins: 1,
        records: 3,
        attempts: 4,
        rotten: 1,
        snapshot_losses: 1,
        ..SMALL
    };
    let anew = Bounds {
        recreations: 1,
        ..SMALL
    };
    let unclear = Bounds {
        unclear_swaps: 1,
        ..SMALL
    };
    let volatile = Bounds {
        flushes: true,
        ..SMALL
    };
    let wiped = Bounds {
        disk_losses: 1,
        ..SMALL
    };
    let mutant = |name, restorable_min, bounds, mutation| Setup {
        mutation: Some(mutation),
        ..setup(name, restorable_min, bounds)
    };
    let left = |start, setup: Setup| Setup { start, ..setup };
    vec![
        mutant(
            "P1: the pointer is put without a condition",
            1,
            SMALL,
            M::PutsPointerBlindly,
        ),
        mutant(
            "P2: after a lost race, retried without comparing",
            1,
            SMALL,
            M::RetriesWithoutComparing,
        ),
        mutant(
            "P3: the pointer before the files",
            1,
            SMALL,
            M::PublishesBeforeUpload,
        ),
        mutant(
            "P4: attempt id reused: two attempts share a directory",
            1,
            SMALL,
            M::ReusesAttemptId,
        ),
        mutant(
            "P5: own upload deleted after an unclear swap",
            1,
            unclear,
            M::DeletesOwnAtOnce,
        ),
        mutant(
            "P5: own upload deleted after reading again",
            1,
            unclear,
            M::DeletesOwnAfterReadingAgain,
        ),
        mutant(
            "P6: whatever is unreferenced is deleted",
            1,
            SMALL,
            M::DeletesUnreferenced,
        ),
        left(
            Start::OlderGeneration,
            mutant(
                "P7: deletion compares LSNs without incarnation",
                1,
                SMALL,
                M::DeletesWithoutIncarnation,
            ),
        ),
        mutant("P8: a reader skips the trim gap", 1, wiped, M::SkipsTrimGap),
        mutant(
            "P9: reported before the pointer names it",
            1,
            SMALL,
            M::ReportsBeforePointer,
        ),
        mutant(
            "P9: reported although the race was lost",
            1,
            SMALL,
            M::ReportsAfterLostRace,
        ),
        mutant("T1: a status decides the trim", 1, lossy, M::TrimsByStatus),
        left(
            Start::ForeignPointer,
            mutant(
                "T2: another cluster's pointer is trusted",
                1,
                SMALL,
                M::TrustsForeignPointer,
            ),
        ),
        left(
            Start::OlderGeneration,
            mutant(
                "T2: incarnation missing from the trim's comparison",
                1,
                SMALL,
                M::IgnoresIncarnationInTrim,
            ),
        ),
        mutant(
            "T3: neither presence nor content is checked",
            2,
            rotten,
            M::DoesNotCheckPresence,
        ),
        mutant(
            "T3: a damaged snapshot is skipped instead of holding",
            2,
            rotten,
            M::SkipsDamaged,
        ),
        mutant("T4: one snapshot is relied on", 2, lossy, M::ReliesOnOneSnapshot),
        mutant(
            "T4: trims at the newest instead of the oldest",
            2,
            lossy,
            M::TrimsAtTheNewest,
        ),
        mutant(
            "T4: fewer snapshots than demanded are enough",
            2,
            lossy,
            M::TrimsWithTooFew,
        ),
        mutant(
            "T5: the log trims for any incarnation",
            1,
            anew,
            M::TrimsAnyIncarnation,
        ),
        mutant(
            "no snapshots: trims at what all replicas applied",
            1,
            wiped,
            M::TrimsAtReplicas,
        ),
        mutant(
            "trims at applied instead of durable",
            1,
            Bounds {
                crashes: 1,
                ..volatile
            },
            M::TrimsAtApplied,
        ),
        mutant(
            "eviction before certification",
            2,
            rotten,
            M::EvictsBeforeCertification,
        ),
        mutant(
            "a restore looks at the pointer alone",
            2,
            rotten,
            M::RestoresByThePointerAlone,
        ),
        mutant("trims before certifying", 2, rotten, M::TrimsBeforeCertifying),
        mutant(
            "the certificate is put without a condition",
            1,
            SMALL,
            M::PutsCertificateBlindly,
        ),
        mutant(
            "a certified snapshot is deleted once it is evicted",
            2,
            rotten,
            M::DeletesCertified,
        ),
        mutant(
            "after a lost pointer, one below the trim point",
            1,
            Bounds {
                pointer_losses: 1,
                ..SMALL
            },
            M::ForgetsTheFloor,
        ),
        mutant(
            "restores without comparing hashes",
            1,
            Bounds {
                rotten: 1,
                disk_losses: 1,
                ..SMALL
            },
            M::RestoresUnverified,
        ),
    ]
}
