//! How long a transfer still takes.

use std::time::Duration;

/// Before this time a rate says more about the beginning than about the transfer.
const EARLIEST: Duration = Duration::from_millis(200);

/// What can be told of a transfer under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Average since it began; `None` at the very beginning.
    pub bytes_per_second: Option<u64>,
    /// Time until the rest is there at that rate; `None` while the rate is unknown or zero.
    pub remaining: Option<Duration>,
}

/// Estimates a transfer that brought `bytes_done` in `elapsed` and still has `bytes_left`.
pub fn estimate(bytes_done: u64, elapsed: Duration, bytes_left: u64) -> Estimate {
    if elapsed < EARLIEST {
        return Estimate::default();
    }
    let millis = elapsed.as_millis().max(1);
    let per_second = u64::try_from(u128::from(bytes_done) * 1000 / millis).unwrap_or(u64::MAX);
    let left_millis = u128::from(bytes_left)
        .saturating_mul(millis)
        .checked_div(u128::from(bytes_done));
    Estimate {
        bytes_per_second: Some(per_second),
        remaining: left_millis.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_average_says() {
        let after = estimate(30 << 20, Duration::from_secs(3), 70 << 20);
        assert_eq!(after.bytes_per_second, Some(10 << 20));
        assert_eq!(after.remaining, Some(Duration::from_secs(7)));
        let done = estimate(100, Duration::from_secs(1), 0);
        assert_eq!(done.remaining, Some(Duration::ZERO));
    }

    #[test]
    fn nothing_is_claimed_before_there_is_a_rate() {
        assert_eq!(
            estimate(1 << 20, Duration::from_millis(10), 5),
            Estimate::default()
        );
        let first = estimate(100, EARLIEST, 100);
        assert_eq!(
            (first.bytes_per_second, first.remaining),
            (Some(500), Some(EARLIEST))
        );
        let stalled = estimate(0, Duration::from_secs(9), 5);
        assert_eq!((stalled.bytes_per_second, stalled.remaining), (Some(0), None));
        let huge = estimate(1, Duration::from_secs(1_000_000), u64::MAX);
        assert!(huge.remaining.is_some());
    }
}
