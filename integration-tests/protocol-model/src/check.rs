//! Exploring one configuration, and what it came to.

use stateright::{Checker, HasDiscoveries, Model};
use std::{fmt, hash::Hash};

/// Properties whose names begin with this must be *reached* somewhere; all others must hold everywhere.
pub const WITNESS: &str = "witness: ";

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The configuration.
    pub name: &'static str,
    /// Whether the protocol in it has a rule taken out.
    pub is_mutant: bool,
    /// Different states.
    pub unique: usize,
    /// States generated, duplicates included.
    pub total: usize,
    /// Steps of the longest shortest path to a state.
    pub depth: usize,
    /// Whether every reachable state was looked at. Only a violation ends a run earlier: there is no limit of time or
    /// depth.
    pub complete: bool,
    /// Broken properties, each with the steps that lead there.
    pub violations: Vec<(&'static str, Vec<String>)>,
    /// Witnesses that were not reached.
    pub unwitnessed: Vec<&'static str>,
}

impl Outcome {
    /// Returns whether it came out as it must: a mutant is caught; anything else is explored completely, breaks
    /// nothing, and reaches all witnesses.
    pub fn as_expected(&self) -> bool {
        if self.is_mutant {
            !self.violations.is_empty()
        } else {
            self.complete && self.violations.is_empty() && self.unwitnessed.is_empty()
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (self.as_expected(), self.is_mutant) {
            (true, true) => "caught",
            (true, false) => "safe",
            (false, true) => "NOT CAUGHT",
            (false, false) => "NOT SAFE",
        };
        write!(
            f,
            "{word:<10} {:<62} {:>9} states {:>10} generated, depth {:>2}",
            self.name, self.unique, self.total, self.depth
        )?;
        for (property, steps) in &self.violations {
            write!(f, "; {} steps to break: {property}", steps.len())?;
        }
        for witness in &self.unwitnessed {
            if !self.is_mutant {
                write!(f, "; never reached: {witness}")?;
            }
        }
        Ok(())
    }
}

/// Explores `model` breadth first. A mutant's run ends with the first violation, which on one thread is a shortest one.
pub fn explore<M>(name: &'static str, is_mutant: bool, model: M, threads: usize) -> Outcome
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + fmt::Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + fmt::Debug + PartialEq + Send + Sync + 'static,
{
    let witnesses: Vec<&'static str> = model.properties().iter().map(|property| property.name).collect();
    let checker = model
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries();
    let unwitnessed = witnesses
        .into_iter()
        .filter(|name| name.starts_with(WITNESS) && !discoveries.contains_key(name))
        .collect();
    discoveries.retain(|name, _| !name.starts_with(WITNESS));
    let model = checker.model();
    let mut violations: Vec<(&'static str, Vec<String>)> = Vec::new();
    for property in model.properties() {
        let Some(path) = discoveries.remove(property.name) else {
            continue;
        };
        // What the checker shows may go on after the first state that breaks the property.
        let path = path.into_vec();
        let broken = path
            .iter()
            .position(|(state, _)| !(property.condition)(model, state));
        let steps = path.iter().take(broken.unwrap_or(path.len()));
        let steps = steps
            .filter_map(|(_, step)| step.as_ref())
            .map(|step| format!("{step:?}"));
        violations.push((property.name, steps.collect()));
    }
    Outcome {
        name,
        is_mutant,
        unique: checker.unique_state_count(),
        total: checker.state_count(),
        depth: checker.max_depth(),
        complete: violations.is_empty(),
        violations,
        unwitnessed,
    }
}
