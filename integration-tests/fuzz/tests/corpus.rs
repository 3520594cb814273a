//! The stored inputs, replayed, and a short run of changed ones.

use fuzz_targets::{Mutator, Target, inputs, run};

/// Changed inputs per target within the test command.
const EXECUTIONS: u64 = 20_000;

#[test]
fn the_stored_inputs_are_read_without_a_panic() {
    for target in Target::ALL {
        let understood = inputs(*target).iter().filter(|input| target.check(input)).count();
        assert!(
            understood > 0,
            "{}: the golden files are not understood",
            target.name()
        );
    }
}

#[test]
fn changed_inputs_are_read_without_a_panic() {
    for target in Target::ALL {
        let understood = run(*target, 7, EXECUTIONS);
        // Neither all nor none: the changes reach what lies behind the parser.
        assert!(
            understood > EXECUTIONS / 200,
            "{}: only {understood} understood",
            target.name()
        );
        assert!(understood < EXECUTIONS, "{}", target.name());
    }
}

#[test]
fn one_seed_gives_one_sequence() {
    let sequence = |seed| {
        let mut mutator = Mutator::new(inputs(Target::Latest), seed);
        (0..100).map(|_| mutator.next_input()).collect::<Vec<_>>()
    };
    assert_eq!(sequence(3), sequence(3));
    assert_ne!(sequence(3), sequence(4));
}
