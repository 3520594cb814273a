//! Publishing, retaining, trimming, deleting and restoring: one partition, several workers and admins, one store.
//!
//! Every step is one request or one decision; between any two of them everything else may happen. What is on its way
//! (a put whose answer was lost, a trim or a deletion that was decided) may take effect at any later time, so delay,
//! reordering and repetition need no steps of their own. There is no time in the model, so no clock can matter.
//!
//! | Part | How |
//! |---|---|
//! | log | last LSN, trim point, incarnation; may be created anew |
//! | store | directories, `latest.json`, `trim.json`; may lose a snapshot or the pointer; a snapshot may be rotten from birth |
//! | worker | applied and durable state; uploads, swaps, restores; may crash and lose its disk |
//! | admin | looks and decides, certifies, trims, sweeps |

mod setup;
mod state;
mod steps;
mod store;
mod verdict;

pub use setup::{Bounds, Mutation, Setup, Start, mutants, safe, safe_long};

use crate::{
    check::{Outcome, explore},
    product::Product,
};
use state::State;
use stateright::{Model, Property};
use steps::Step;

/// The model of one configuration.
#[derive(Debug)]
pub(crate) struct Archive {
    setup: Setup,
    product: Product,
}

impl Archive {
    /// Whether the rule that `mutation` breaks is broken here.
    fn breaks(&self, mutation: Mutation) -> bool {
        self.setup.mutation == Some(mutation)
    }
}

/// Explores one configuration.
pub fn run(setup: Setup, threads: usize) -> Outcome {
    let (name, is_mutant) = (setup.name, setup.mutation.is_some());
    let model = Archive {
        setup,
        product: Product::default(),
    };
    explore(name, is_mutant, model, threads)
}

impl Model for Archive {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.setup)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.worker_steps(state, steps);
        self.admin_steps(state, steps);
        self.faults(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step)?;
        state.normalise();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        verdict::properties()
    }
}
