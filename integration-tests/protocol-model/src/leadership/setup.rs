//! The configurations of the leadership model.

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nodes with a replica.
    pub replicas: u8,
    /// Records that the log takes.
    pub records: u8,
    /// Announcements.
    pub terms: u8,
    /// Writes that clients ask for.
    pub commands: u8,
    /// Ends of a process; what was not durable is applied again.
    pub crashes: u8,
    /// Losses of a disk.
    pub disk_losses: u8,
    /// Appends without an answer.
    pub unknown: u8,
    /// Whether appends name the tail they expect; where not, none is repeated.
    pub expects_tail: bool,
}

const SMALL: Bounds = Bounds {
    replicas: 2,
    records: 4,
    terms: 2,
    commands: 2,
    crashes: 0,
    disk_losses: 0,
    unknown: 1,
    expects_tail: true,
};

/// A log that takes every append, so that only the terms of the records tell who leads.
const LOOSE: Bounds = Bounds {
    expects_tail: false,
    ..SMALL
};

/// The rule that is taken out or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained by its configuration's name")]
pub enum Mutation {
    AcknowledgesIgnored,
    AcknowledgesByPosition,
    AcceptsOlderEpochs,
    EqualEpochTakesLead,
    AnyAnnouncementTakesLead,
    SnapshotWithoutLeader,
    PersistsWithoutLeader,
    RepeatsWithoutExpectedTail,
    UnknownIsFailure,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it is about, in words.
    pub name: &'static str,
    /// How large.
    pub bounds: Bounds,
    /// What is broken; `None` is the protocol as it is.
    pub mutation: Option<Mutation>,
}

const fn setup(name: &'static str, bounds: Bounds) -> Setup {
    Setup {
        name,
        bounds,
        mutation: None,
    }
}

/// Configurations of the protocol as it is, that the test command explores.
pub fn safe() -> Vec<Setup> {
    vec![
        setup(
            "leadership: an unclear append, a crash",
            Bounds { crashes: 1, ..SMALL },
        ),
        setup(
            "leadership: an unclear append, a lost disk",
            Bounds {
                disk_losses: 1,
                ..SMALL
            },
        ),
        setup(
            "leadership: appends land anywhere, a crash",
            Bounds { crashes: 1, ..LOOSE },
        ),
    ]
}

/// Larger ones, for the long run.
pub fn safe_long() -> Vec<Setup> {
    vec![
        setup(
            "leadership, long: five records, two unclear appends",
            Bounds {
                records: 5,
                terms: 3,
                unknown: 2,
                crashes: 1,
                ..SMALL
            },
        ),
        setup(
            "leadership, long: appends land anywhere, three terms",
            Bounds {
                records: 5,
                terms: 3,
                ..LOOSE
            },
        ),
        setup(
            "leadership, long: three replicas",
            Bounds {
                replicas: 3,
                crashes: 1,
                ..SMALL
            },
        ),
    ]
}

/// Configurations with one rule taken out, each of which must be caught.
pub fn mutants() -> Vec<Setup> {
    use Mutation as M;
    let mutant_of = |bounds, name, mutation| Setup {
        mutation: Some(mutation),
        ..setup(name, bounds)
    };
    let mutant = |name, mutation| mutant_of(Bounds { crashes: 1, ..SMALL }, name, mutation);
    let loose = |name, mutation| mutant_of(LOOSE, name, mutation);
    vec![
        loose("acknowledgement of an ignored record", M::AcknowledgesIgnored),
        loose(
            "acknowledgement by position instead of own record",
            M::AcknowledgesByPosition,
        ),
        loose("records of older epochs are accepted", M::AcceptsOlderEpochs),
        loose(
            "an announcement of the same epoch takes the lead",
            M::EqualEpochTakesLead,
        ),
        loose(
            "an announcement of any epoch takes the lead",
            M::AnyAnnouncementTakesLead,
        ),
        mutant("epoch not in the snapshot", M::SnapshotWithoutLeader),
        mutant(
            "epoch not persisted with the applied LSN",
            M::PersistsWithoutLeader,
        ),
        mutant(
            "an unclear append is repeated without expected tail",
            M::RepeatsWithoutExpectedTail,
        ),
        mutant("an unclear append is answered as failed", M::UnknownIsFailure),
    ]
}
