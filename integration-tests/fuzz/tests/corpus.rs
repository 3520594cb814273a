//! The stored inputs, replayed, and a short run of changed ones.

use fuzz_targets::{Mutator, Target, inputs, run};
use snapshot_store::format::{Pointer, Stored};

/// Changed inputs per target within the test command. A configuration is read three times, against its whole schema.
const fn executions(target: Target) -> u64 {
    match target {
        Target::Config => 2_000,
        Target::Latest | Target::Metadata | Target::Trim | Target::Control | Target::Record => 20_000,
    }
}

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
        let executions = executions(*target);
        let understood = run(*target, 7, executions);
        // Neither all nor none: the changes reach what lies behind the parser.
        assert!(
            understood > executions / 200,
            "{}: only {understood} understood",
            target.name()
        );
        assert!(understood < executions, "{}", target.name());
    }
}

/// Read without care, 1.2345672890123456e30 became 1.2345672890123457e30 with the first rewriting of an object.
#[test]
fn a_number_of_a_later_version_does_not_drift_when_the_object_is_rewritten() {
    let input = inputs(Target::Latest)
        .into_iter()
        .find(|input| String::from_utf8_lossy(input).contains("zz_odd"));
    let input = String::from_utf8(input.expect("corpus/latest/unknown-numbers.json")).expect("JSON");
    for number in [
        "1.2345672890123456e+30",
        "0.1",
        "5e-324",
        "2.2250738585072014e-308",
    ] {
        let input = input.replacen("0.1", number, 1);
        let read = |bytes: &[u8]| Pointer::decode("latest.json", bytes).expect("a pointer").encode();
        let once = read(input.as_bytes());
        assert!(
            String::from_utf8_lossy(&once).contains(&format!("\"zz_number\": {number}")),
            "{number}"
        );
        assert_eq!(read(&once), once, "{number}");
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
