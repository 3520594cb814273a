//! Readers of bytes from outside, as functions that panic when one misbehaves.
//!
//! Whatever the bytes: no panic; what was understood is written and read again to the same value and the same bytes; and
//! the decisions that take it as a fact do not panic on it either, and stay within their bounds.
//!
//! The runner changes stored inputs at random, from a seed. It does not look at coverage, so it is no substitute for a
//! fuzzer with feedback; it needs no other toolchain, and a run is repeated exactly by its seed.

mod corpus;
mod mutate;
mod target;

pub use corpus::inputs;
pub use mutate::Mutator;
pub use target::Target;

/// Runs `executions` changed inputs through `target`, and returns how many of them were understood.
///
/// # Panics
/// When the target misbehaves, after the input was printed.
pub fn run(target: Target, seed: u64, executions: u64) -> u64 {
    let mut mutator = Mutator::new(inputs(target), seed);
    let mut understood = 0;
    for _ in 0..executions {
        let input = mutator.next_input();
        let result = std::panic::catch_unwind(|| target.check(&input));
        match result {
            Ok(is_understood) => understood += u64::from(is_understood),
            Err(panic) => {
                eprintln!(
                    "{}: this input is a finding: {:?}",
                    target.name(),
                    String::from_utf8_lossy(&input)
                );
                eprintln!(
                    "put it into integration-tests/fuzz/corpus/{} once it is repaired",
                    target.name()
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    understood
}
