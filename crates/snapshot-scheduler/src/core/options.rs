//! How the admin paces itself: the `[scheduler]` section of its configuration.

use super::{policy::PolicyFault, view::Timing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often the admin looks, and when it stops believing what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerOptions {
    /// Distance of two polls of a worker and of the log, in milliseconds; jittered by a tenth.
    ///
    /// Default: 1000. Since 0.1.
    pub poll_interval_ms: u64,
    /// How long a poll may take, in milliseconds.
    ///
    /// Default: 2000. Since 0.1.
    pub poll_timeout_ms: u64,
    /// Silence after which a worker is suspect, in milliseconds: it still counts with its last report, and is
    /// asked for nothing.
    ///
    /// Default: 5000. Since 0.1.
    pub suspect_after_ms: u64,
    /// Silence after which a worker is gone, in milliseconds: it no longer holds a trim, and its leaderships are
    /// given away.
    ///
    /// Default: 15000. Since 0.1.
    pub gone_after_ms: u64,
    /// The oldest report, of a worker or of the log, that a trim may rest on, in milliseconds. Must not be below
    /// `suspect_after_ms`; below `gone_after_ms`, a suspect worker holds trims until it answers or is gone.
    ///
    /// Default: 30000. Since 0.1.
    pub view_age_max_ms: u64,
    /// Distance of two plans, in milliseconds; something that happened brings the next one forward.
    ///
    /// Default: 1000. Since 0.1.
    pub tick_interval_ms: u64,
    /// Whether partitions without a live leader get one.
    ///
    /// Default: true. Since 0.1.
    pub assign_leaders: bool,
    /// How long another admin waits for this one to renew its lease before it takes over, in milliseconds: 1000 to
    /// 300000, or 0 for no lease, where a host sees to it that one admin runs. Two that act are safe and wasteful.
    ///
    /// The lease is written three times in a term: a takeover after a death takes at most one and a third of it, and
    /// lower values cost more requests to the store. Default: 10000. Since 0.1.
    pub lease_term_ms: u64,
    /// For how many partitions metrics have series of their own: with more, none has, and sums, maxima and quantiles of all
    /// stay. 0 for never.
    ///
    /// A partition has about 25 series, and a Prometheus server keeps some kilobytes for each. Default: 1000. Since 0.1.
    pub partition_series_max: usize,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        SchedulerOptions {
            poll_interval_ms: 1000,
            poll_timeout_ms: 2000,
            suspect_after_ms: 5000,
            gone_after_ms: 15_000,
            view_age_max_ms: 30_000,
            tick_interval_ms: 1000,
            assign_leaders: true,
            lease_term_ms: 10_000,
            partition_series_max: 1000,
        }
    }
}

impl SchedulerOptions {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// All faults at once.
    pub fn validate(&self) -> Result<(), Vec<PolicyFault>> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, key: &'static str, fault: &str| {
            if !ok {
                faults.push(PolicyFault::new(key, fault));
            }
        };
        check(
            self.poll_interval_ms > 0,
            "scheduler.poll_interval_ms",
            "is 0, expected 1 or more",
        );
        check(
            self.poll_timeout_ms > 0,
            "scheduler.poll_timeout_ms",
            "is 0, expected 1 or more",
        );
        check(
            self.tick_interval_ms > 0,
            "scheduler.tick_interval_ms",
            "is 0, expected 1 or more",
        );
        check(
            self.suspect_after_ms > self.poll_interval_ms,
            "scheduler.suspect_after_ms",
            "is not above poll_interval_ms: every worker would be suspect between two polls",
        );
        check(
            self.gone_after_ms > self.suspect_after_ms,
            "scheduler.gone_after_ms",
            "is not above suspect_after_ms",
        );
        check(
            self.view_age_max_ms >= self.suspect_after_ms,
            "scheduler.view_age_max_ms",
            "is below suspect_after_ms: workers that are live would hold all trims",
        );
        check(
            self.lease_term_ms == 0 || Self::LEASE_TERM_MS.contains(&self.lease_term_ms),
            "scheduler.lease_term_ms",
            "is neither 0 nor 1000 to 300000",
        );
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What `lease_term_ms` may be, where a lease is used.
    pub const LEASE_TERM_MS: std::ops::RangeInclusive<u64> = 1000..=300_000;

    /// Returns how long the lease stands without being renewed; `None` where none is used.
    pub fn lease_term(&self) -> Option<Duration> {
        (self.lease_term_ms > 0).then(|| Duration::from_millis(self.lease_term_ms))
    }

    /// Returns the times by which the view is judged.
    pub fn timing(&self) -> Timing {
        Timing {
            suspect_after: Duration::from_millis(self.suspect_after_ms),
            gone_after: Duration::from_millis(self.gone_after_ms),
            view_age_max: Duration::from_millis(self.view_age_max_ms),
            settle: self.poll_interval() * 2 + self.poll_timeout().min(self.poll_interval()),
        }
    }

    pub(crate) fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms)
    }

    pub(crate) fn poll_timeout(&self) -> Duration {
        Duration::from_millis(self.poll_timeout_ms)
    }

    pub(crate) fn tick_interval(&self) -> Duration {
        Duration::from_millis(self.tick_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_options_are_valid() {
        assert_eq!(SchedulerOptions::default().validate(), Ok(()));
    }

    #[test]
    fn each_value_that_cannot_work_is_named_and_its_neighbour_works() {
        type Change = fn(&mut SchedulerOptions);
        let cases: [(&str, Change, Change); 8] = [
            (
                "poll_interval_ms",
                |o| o.poll_interval_ms = 0,
                |o| o.poll_interval_ms = 1,
            ),
            (
                "poll_timeout_ms",
                |o| o.poll_timeout_ms = 0,
                |o| o.poll_timeout_ms = 1,
            ),
            (
                "tick_interval_ms",
                |o| o.tick_interval_ms = 0,
                |o| o.tick_interval_ms = 1,
            ),
            (
                "suspect_after_ms",
                |o| o.suspect_after_ms = 1000,
                |o| o.suspect_after_ms = 1001,
            ),
            (
                "gone_after_ms",
                |o| o.gone_after_ms = 5000,
                |o| o.gone_after_ms = 5001,
            ),
            (
                "view_age_max_ms",
                |o| o.view_age_max_ms = 4999,
                |o| o.view_age_max_ms = 5000,
            ),
            (
                "lease_term_ms",
                |o| o.lease_term_ms = 999,
                |o| o.lease_term_ms = 1000,
            ),
            (
                "lease_term_ms",
                |o| o.lease_term_ms = 300_001,
                |o| o.lease_term_ms = 300_000,
            ),
        ];
        let validated = |change: Change| {
            let mut options = SchedulerOptions::default();
            change(&mut options);
            options.validate()
        };
        for (key, wrong, right) in cases {
            let faults = validated(wrong).unwrap_err();
            let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_ref()).collect();
            assert_eq!(keys, [format!("scheduler.{key}")]);
            assert_eq!(validated(right), Ok(()), "{key}");
        }
    }

    #[test]
    fn without_a_term_no_lease_is_used() {
        let mut options = SchedulerOptions::default();
        assert_eq!(options.lease_term(), Some(Duration::from_secs(10)));
        options.lease_term_ms = 0;
        assert_eq!((options.lease_term(), options.validate()), (None, Ok(())));
    }

    /// Two rounds, and the part of a third that a report may take.
    #[test]
    fn reports_of_different_moments_may_take_two_rounds_and_a_timeout_to_agree() {
        let settle = |poll_timeout_ms| {
            let options = SchedulerOptions {
                poll_timeout_ms,
                ..SchedulerOptions::default()
            };
            options.timing().settle.as_millis()
        };
        assert_eq!((settle(300), settle(2000)), (2300, 3000));
    }

    #[test]
    fn a_view_that_is_stale_before_a_node_is_suspect_is_refused() {
        let options = SchedulerOptions {
            view_age_max_ms: 1,
            gone_after_ms: 2,
            suspect_after_ms: 3,
            poll_interval_ms: 1,
            ..Default::default()
        };
        let keys: Vec<_> = options
            .validate()
            .unwrap_err()
            .into_iter()
            .map(|fault| fault.key)
            .collect();
        assert_eq!(keys, ["scheduler.gone_after_ms", "scheduler.view_age_max_ms"]);
    }
}
