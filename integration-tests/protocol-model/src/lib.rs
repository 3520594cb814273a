//! The protocol as a state space, explored completely within its bounds.
//!
//! Three models, each about one part of what must never break; together they call the decisions that the product ships:
//!
//! - [`archive`]: publish, retain, certify, trim, delete, restore (`may_replace_pointer`, `retained_after`, `trim_up_to`,
//!   `may_delete`, `restore_candidates`, `next_step`);
//! - [`leadership`]: terms in the log, acknowledged writes, what a snapshot carries (`judge`, `next_epoch`);
//! - [`lineage`]: a log that is lost, regresses, or is forked (`next_step`, `restore_candidates`, `may_replay_from_first`,
//!   `may_replace_pointer`, `trim_up_to`).
//!
//! What is around a decision (who reads what when, which put is conditional on which read) is written here once more, so
//! a mistake there is found only if both have it differently; the simulation runs the product's own.
//!
//! A configuration is either the protocol as it is, which must hold within its bounds and reach its witnesses, or a
//! mutant with one rule taken out, which must be caught. `docs/testing.md` lists the bounds.

pub mod archive;
pub mod check;
pub mod leadership;
pub mod lineage;
pub mod product;

use check::Outcome;

/// One configuration of one of the models.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// Of [`archive`].
    Archive(archive::Setup),
    /// Of [`leadership`].
    Leadership(leadership::Setup),
    /// Of [`lineage`].
    Lineage(lineage::Setup),
}

impl Run {
    /// Returns the configuration's name.
    pub fn name(&self) -> &'static str {
        match self {
            Run::Archive(setup) => setup.name,
            Run::Leadership(setup) => setup.name,
            Run::Lineage(setup) => setup.name,
        }
    }

    /// Returns whether a rule is taken out.
    pub fn is_mutant(&self) -> bool {
        match self {
            Run::Archive(setup) => setup.mutation.is_some(),
            Run::Leadership(setup) => setup.mutation.is_some(),
            Run::Lineage(setup) => setup.mutation.is_some(),
        }
    }

    /// Explores it on so many threads; a mutant on one thread gives a shortest counterexample.
    pub fn explore(self, threads: usize) -> Outcome {
        match self {
            Run::Archive(setup) => archive::run(setup, threads),
            Run::Leadership(setup) => leadership::run(setup, threads),
            Run::Lineage(setup) => lineage::run(setup, threads),
        }
    }
}

/// Returns the configurations of the protocol as it is that the test command explores.
pub fn safe() -> Vec<Run> {
    let archive = archive::safe().into_iter().map(Run::Archive);
    let leadership = leadership::safe().into_iter().map(Run::Leadership);
    let lineage = lineage::safe().into_iter().map(Run::Lineage);
    archive.chain(leadership).chain(lineage).collect()
}

/// Returns the larger ones.
pub fn safe_long() -> Vec<Run> {
    let archive = archive::safe_long().into_iter().map(Run::Archive);
    let leadership = leadership::safe_long().into_iter().map(Run::Leadership);
    let lineage = lineage::safe_long().into_iter().map(Run::Lineage);
    archive.chain(leadership).chain(lineage).collect()
}

/// Returns the configurations with one rule taken out.
pub fn mutants() -> Vec<Run> {
    let archive = archive::mutants().into_iter().map(Run::Archive);
    let leadership = leadership::mutants().into_iter().map(Run::Leadership);
    let lineage = lineage::mutants().into_iter().map(Run::Lineage);
    archive.chain(leadership).chain(lineage).collect()
}
