//! The conformance suite over NATS servers: one alone, and three with a replica each.
//!
//! Three servers need seconds until they work together. So the cases that do not restart them share three, each with a prefix
//! of its own.

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use partition_log::conformance::{Fixture, MoveFixture, NatsServers, NatsUser};
use partition_log::nats::{NatsLog, NatsOptions};
use partition_log::{Log, LogAdmin, LogError, LogMove};
use snapshot_store::PartitionId;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How long a restarted cluster may take.
const READY_MAX: Duration = Duration::from_secs(60);

/// Cases over shared servers at a time.
const CASES_AT_ONCE: usize = 6;
/// Cases that restart the servers.
const OWN_SERVERS: [&str; 6] = [
    "a_log_with_a_base_begins_after_it",
    "a_sealed_log_takes_no_appends_until_it_is_unsealed",
    "a_restart_keeps_the_registration",
    "a_restart_keeps_the_records",
    "of_two_writers_with_one_expected_tail_exactly_one_wins",
    "an_emptied_log_goes_on_with_the_next_lsn_also_after_a_restart",
];

struct Nats {
    servers: NatsServers,
    worker: NatsLog,
    admin: NatsLog,
}

impl Nats {
    async fn start(count: usize) -> Self {
        let servers = NatsServers::start(count).await;
        let (worker, admin) = Self::connect(&servers).await;
        Nats {
            servers,
            worker,
            admin,
        }
    }

    async fn connect(servers: &NatsServers) -> (NatsLog, NatsLog) {
        let worker = servers.connect(NatsUser::Worker).await;
        let admin = servers.connect(NatsUser::Admin).await;
        for log in [&worker, &admin] {
            log.ready(READY_MAX).await.expect("the servers can be reached");
        }
        (worker, admin)
    }

    /// Waits until the log that the cases make has a leader again.
    async fn until_led(&self) {
        let deadline = tokio::time::Instant::now() + READY_MAX;
        // Not for its state: one that is being copied here shows that to nobody.
        while let Err(LogError::Unavailable { detail, .. }) =
            self.worker.registration(PartitionId::new(0)).await
        {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the log has no leader: {detail}"
            );
        }
    }
}

#[async_trait]
impl Fixture for Nats {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.worker.clone())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.admin.clone())
    }

    async fn restart(&mut self) {
        let count = self.servers.count();
        for index in 0..count {
            self.servers.kill(index);
        }
        for index in 0..count {
            self.servers.start_again(index);
        }
        self.servers.until_ready().await;
        (self.worker, self.admin) = Self::connect(&self.servers).await;
        self.until_led().await;
    }
}

impl MoveFixture for Nats {
    fn mover(&self) -> Arc<dyn LogMove> {
        Arc::new(self.admin.clone())
    }
}

mod one_server {
    async fn fixture() -> super::Nats {
        super::Nats::start(1).await
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}

/// Cases that restart the servers, each with three of its own.
mod three_servers {
    async fn fixture() -> super::Nats {
        super::Nats::start(3).await
    }
    partition_log::log_conformance! { fixture =>
        an_arriving_log_is_nobodys_until_it_is_switched
        a_log_that_left_refuses_everything_for_good
    }
    partition_log::log_conformance! { fixture =>
        a_log_with_a_base_begins_after_it
        a_sealed_log_takes_no_appends_until_it_is_unsealed
        a_restart_keeps_the_registration
        a_restart_keeps_the_records
        of_two_writers_with_one_expected_tail_exactly_one_wins
        an_emptied_log_goes_on_with_the_next_lsn_also_after_a_restart
    }
}

/// Servers that others use too: nobody restarts them.
struct Shared {
    worker: NatsLog,
    admin: NatsLog,
}

impl Shared {
    /// With the admin's credentials throughout: the worker's are for the default prefix.
    async fn of(servers: &NatsServers, prefix: &str) -> Self {
        let connect = async || {
            let options = NatsOptions {
                prefix: prefix.to_owned(),
                ..servers.options(NatsUser::Admin)
            };
            let log = NatsLog::connect(options).await.expect("the options are good");
            log.ready(READY_MAX).await.expect("the servers can be reached");
            log
        };
        Shared {
            worker: connect().await,
            admin: connect().await,
        }
    }
}

#[async_trait]
impl Fixture for Shared {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.worker.clone())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.admin.clone())
    }

    async fn restart(&mut self) {
        panic!("this case needs servers of its own: list it above");
    }
}

/// Runs each case over the same servers, a few at a time, and names them all.
macro_rules! all_at_once {
    ($servers:expr => $($case:ident)*) => {{
        let cases: Vec<(&str, BoxFuture<'_, ()>)> = vec![$((
            stringify!($case),
            async {
                let prefix = stringify!($case).chars().rev().take(60).collect::<String>();
                let mut fixture = Shared::of($servers, &prefix).await;
                partition_log::conformance::$case(&mut fixture).await;
            }
            .boxed(),
        )),*];
        cases
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_pass_the_cases_that_do_not_restart_them() {
    let servers = NatsServers::start(3).await;
    let servers = &servers;
    let cases = all_at_once! { servers =>
        a_log_that_was_never_provisioned_is_missing
        provisioning_again_changes_nothing
        another_registration_is_refused
        another_incarnation_is_refused
        a_base_beyond_all_logs_is_refused
        records_land_densely_from_the_first_lsn
        an_append_that_does_not_fit_is_refused
        a_wrong_expected_tail_is_refused_with_the_present_one
        an_append_repeated_after_a_lost_reply_does_not_duplicate
        an_abandoned_append_lands_once_at_most
        many_appenders_get_dense_lsns_and_every_record_is_at_its_own
        partitions_do_not_mix
        trim_is_inclusive
        trim_is_clamped_to_the_tail
        trim_is_monotone_and_idempotent
        held_bytes_are_those_of_the_records_still_there
        a_read_begins_at_exactly_the_lsn_asked_for
        a_reader_at_the_tail_gets_what_is_appended_later
        a_long_log_is_read_completely_and_in_order
        a_read_at_or_below_the_trim_point_is_told_so
        a_read_above_the_tail_is_told_that_the_log_regressed
        a_trim_in_mid_stream_reaches_the_reader
        a_trim_that_empties_the_log_reaches_a_reader_that_waits
        a_reader_at_an_emptied_log_waits_for_the_next_record
    };
    let names: BTreeSet<&str> = cases.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        cases_of_the_suite()
            .difference(&OWN_SERVERS.into())
            .copied()
            .collect()
    );
    stream::iter(cases)
        .for_each_concurrent(CASES_AT_ONCE, |(name, case)| async move {
            case.await;
            println!("{name}: passed");
        })
        .await;
}

/// Returns the cases that the suite lists.
fn cases_of_the_suite() -> BTreeSet<&'static str> {
    let source = include_str!("../src/conformance/mod.rs");
    let (_, list) = source
        .split_once("log_conformance! { $fixture =>")
        .expect("the list begins");
    let (list, _) = list.split_once('}').expect("the list ends");
    list.split_whitespace().collect()
}
