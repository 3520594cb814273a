//! The configurations of the lineage model.

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Replicas.
    pub replicas: u8,
    /// Records that are ever written, over all lives of the log.
    pub records: u8,
    /// Snapshots that are ever published, forks included.
    pub snapshots: u8,
    /// Losses of a replica's disk.
    pub disk_losses: u8,
    /// Times the log loses its newest record and says nothing.
    pub regressions: u8,
    /// Times the log is gone.
    pub log_losses: u8,
}

const SMALL: Bounds = Bounds {
    replicas: 2,
    records: 4,
    snapshots: 3,
    disk_losses: 1,
    regressions: 0,
    log_losses: 0,
};

/// The rule that is taken out or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is explained by its configuration's name")]
pub enum Mutation {
    ProvisionsLostLogAnew,
    ProvisionsEmptyNextGeneration,
    TakesStateOfAnyIncarnation,
    DoesNotCompareAtStart,
    ForgetsRegression,
    RestoresNewestOfAnyIncarnation,
    LabelsWithTheLogsIncarnation,
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

const LOST: Bounds = Bounds {
    log_losses: 1,
    ..SMALL
};

const REGRESSED: Bounds = Bounds {
    regressions: 1,
    ..SMALL
};

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
        setup("lineage: the log is lost and forked from a snapshot", LOST),
        setup(
            "lineage: the log regresses, and grows again or is forked",
            REGRESSED,
        ),
    ]
}

/// Larger ones, for the long run.
pub fn safe_long() -> Vec<Setup> {
    vec![
        setup(
            "lineage, long: a loss and a regression",
            Bounds {
                regressions: 1,
                ..LOST
            },
        ),
        setup(
            "lineage, long: three replicas, two losses",
            Bounds {
                replicas: 3,
                snapshots: 4,
                log_losses: 2,
                ..SMALL
            },
        ),
    ]
}

/// Configurations with one rule taken out, each of which must be caught.
pub fn mutants() -> Vec<Setup> {
    use Mutation as M;
    let mutant = |name, bounds, mutation| Setup {
        mutation: Some(mutation),
        ..setup(name, bounds)
    };
    vec![
        mutant("a lost log provisioned anew", LOST, M::ProvisionsLostLogAnew),
        mutant(
            "a lost log provisioned empty under the next generation",
            LOST,
            M::ProvisionsEmptyNextGeneration,
        ),
        mutant(
            "incarnation missing from the comparison at start",
            LOST,
            M::TakesStateOfAnyIncarnation,
        ),
        mutant(
            "a log that regresses and grows again, not compared",
            REGRESSED,
            M::DoesNotCompareAtStart,
        ),
        mutant(
            "a regression is forgotten once the log has grown again",
            REGRESSED,
            M::ForgetsRegression,
        ),
        mutant(
            "a fork with a newer parent snapshot, restored from it",
            LOST,
            M::RestoresNewestOfAnyIncarnation,
        ),
        mutant(
            "an old state published under the new incarnation",
            LOST,
            M::LabelsWithTheLogsIncarnation,
        ),
    ]
}
