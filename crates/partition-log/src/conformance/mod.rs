//! What every engine must do, as tests: [`log_conformance`](crate::log_conformance) runs all of them over a
//! [`Fixture`].
//!
//! A case panics when the engine breaks the contract. Waiting is bounded by [`WAIT_MAX`]; nothing sleeps for luck.

mod appending;
mod concurrency;
mod moving;
#[cfg(feature = "nats")]
mod nats_servers;
mod reading;
mod registry;
mod subject;
mod trimming;

use crate::{Log, LogAdmin};
pub use appending::*;
use async_trait::async_trait;
pub use concurrency::*;
pub use moving::*;
#[cfg(feature = "nats")]
pub use nats_servers::{NatsServers, NatsUser, nats_server_program};
pub use reading::*;
pub use registry::*;
use std::{sync::Arc, time::Duration};
pub use subject::{Subject, incarnation, registration};
pub use trimming::*;

/// How long a case waits for anything at most.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// An engine under test, without any log at first.
#[async_trait]
pub trait Fixture: Send {
    /// Returns the log as readers and writers see it.
    fn log(&self) -> Arc<dyn Log>;

    /// Returns the log as admins see it.
    fn admin(&self) -> Arc<dyn LogAdmin>;

    /// Stops the engine and starts it again over what it keeps; an engine that keeps nothing does nothing.
    async fn restart(&mut self);
}

/// Makes one `#[tokio::test]` of every case; `$fixture` is an `async fn() -> impl Fixture`.
#[macro_export]
macro_rules! log_conformance {
    ($fixture:path) => {
        $crate::log_conformance! { $fixture =>
            a_log_that_was_never_provisioned_is_missing
            provisioning_again_changes_nothing
            another_registration_is_refused
            another_incarnation_is_refused
            a_log_with_a_base_begins_after_it
            a_base_beyond_all_logs_is_refused
            a_sealed_log_takes_no_appends_until_it_is_unsealed
            a_restart_keeps_the_registration
            records_land_densely_from_the_first_lsn
            an_append_that_does_not_fit_is_refused
            a_wrong_expected_tail_is_refused_with_the_present_one
            an_append_repeated_after_a_lost_reply_does_not_duplicate
            an_abandoned_append_lands_once_at_most
            a_restart_keeps_the_records
            of_two_writers_with_one_expected_tail_exactly_one_wins
            many_appenders_get_dense_lsns_and_every_record_is_at_its_own
            partitions_do_not_mix
            trim_is_inclusive
            trim_is_clamped_to_the_tail
            trim_is_monotone_and_idempotent
            an_emptied_log_goes_on_with_the_next_lsn_also_after_a_restart
            held_bytes_are_those_of_the_records_still_there
            a_read_begins_at_exactly_the_lsn_asked_for
            a_reader_at_the_tail_gets_what_is_appended_later
            a_long_log_is_read_completely_and_in_order
            a_read_at_or_below_the_trim_point_is_told_so
            a_read_above_the_tail_is_told_that_the_log_regressed
            a_trim_in_mid_stream_reaches_the_reader
            a_trim_that_empties_the_log_reaches_a_reader_that_waits
            a_reader_at_an_emptied_log_waits_for_the_next_record
        }
    };
    ($fixture:path => $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let mut fixture = $fixture().await;
                $crate::conformance::$case(&mut fixture).await;
            }
        )*
    };
}

/// The cases of moving a log to another engine; `$fixture` is an `async fn() -> impl MoveFixture`.
#[macro_export]
macro_rules! log_move_conformance {
    ($fixture:path) => {
        $crate::log_conformance! { $fixture =>
            a_leaving_log_is_read_and_takes_neither_appends_nor_trims
            a_log_that_left_refuses_everything_for_good
            a_passage_is_changed_by_compare_and_set
            an_arriving_log_is_nobodys_until_it_is_switched
            an_arriving_log_can_be_discarded_and_no_other
            an_arriving_log_below_its_base_is_refused
        }
    };
}
