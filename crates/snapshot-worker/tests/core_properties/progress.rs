//! What a replica says of how far it is: estimates of transfers, and the chain hash with its remembered points.

use proptest::prelude::*;
use snapshot_store::{ChainHash, Lsn, format::ChainTrail};
use snapshot_worker::core::{Chain, Outcome, estimate};
use std::time::Duration;

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..1 << 40, 1 => Just(u64::MAX), 1 => Just(0)]
}

fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0u64..10_000_000).prop_map(Duration::from_millis),
        1 => Just(Duration::MAX),
        1 => Just(Duration::ZERO),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop::sample::select(Outcome::ALL)
}

/// Records after the LSN that they follow; so few that some runs cross a remembered point and some do not.
fn runs() -> impl Strategy<Value = (u64, Vec<(Outcome, Vec<u8>)>)> {
    let record = (outcomes(), prop::collection::vec(any::<u8>(), 0..4));
    (
        0u64..2 * ChainTrail::SPACING,
        prop::collection::vec(record, 1..30),
    )
}

fn chained(mut chain: Chain, after: u64, records: &[(Outcome, Vec<u8>)]) -> Chain {
    for (lsn, (outcome, record)) in (after + 1..).zip(records) {
        chain.extend(Lsn::new(lsn), *outcome, record);
    }
    chain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_estimate_fits_what_is_done_and_grows_with_what_is_left(
        done in bytes(), elapsed in times(), left in bytes(), more in bytes(),
    ) {
        let now = estimate(done, elapsed, left);
        let Some(per_second) = now.bytes_per_second else {
            prop_assert_eq!(now.remaining, None);
            return Ok(());
        };
        prop_assert_eq!(now.remaining.is_none(), done == 0);
        // What the rate brings in the time that has passed is what was done, but for rounding down.
        let brought = u128::from(per_second) * elapsed.as_millis() / 1000;
        prop_assert!(brought <= u128::from(done));
        prop_assert!(u128::from(done) - brought <= elapsed.as_millis() / 1000 + 1 || per_second == u64::MAX);
        let later = estimate(done, elapsed, left.saturating_add(more));
        prop_assert!(later.remaining >= now.remaining);
        prop_assert_eq!(later.bytes_per_second, now.bytes_per_second);
    }

    #[test]
    fn the_chain_does_not_depend_on_where_runs_end((after, records) in runs(), cut in any::<prop::sample::Index>()) {
        let start = Chain::starting_at(ChainHash::of(b"origin"));
        let (one, two) = records.split_at(cut.index(records.len()));
        let parts = chained(chained(start.clone(), after, one), after + one.len() as u64, two);
        prop_assert_eq!(chained(start, after, &records), parts);
    }

    #[test]
    fn one_other_record_or_outcome_is_a_mismatch_from_there_on(
        (after, records) in runs(), place in any::<prop::sample::Index>(), other in outcomes(),
    ) {
        let place = place.index(records.len());
        let mut changed = records.clone();
        match changed[place].0 == other {
            true => changed[place].1.push(0),
            false => changed[place].0 = other,
        }
        let start = Chain::starting_at(ChainHash::of(b"origin"));
        let last = Lsn::new(after + records.len() as u64);
        let ours = chained(start.clone(), after, &records).trail(last);
        let theirs = chained(start, after, &changed).trail(last);
        let lsn = after + 1 + place as u64;
        let shown = lsn.next_multiple_of(ChainTrail::SPACING).min(last.get());
        prop_assert_eq!(ours.first_mismatch(&theirs), Some(Lsn::new(shown)));
    }
}
