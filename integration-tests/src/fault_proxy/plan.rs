//! Which request meets which fault. Pure: a seed decides, so that a run can be repeated.

use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on late, and answered.
    Delayed(Duration),
    /// It is passed on after the client has given up, so that a write lands when nobody expects it any more.
    Late,
    /// It is not passed on; the answer is this status.
    RefusedBefore(u16),
    /// It is passed on, and then answered with this status all the same.
    RefusedAfter(u16),
    /// It is not passed on; the connection is reset.
    ResetBefore,
    /// It is passed on; the connection is reset instead of an answer.
    ResetAfter,
    /// It is passed on; the connection is closed instead of an answer.
    ClosedAfter,
    /// The answer to a GET ends in the middle of its body.
    Truncated,
}

impl Fault {
    /// Returns its name, for counting.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Delayed(_) => "delayed",
            Fault::Late => "late",
            Fault::RefusedBefore(_) => "refused before",
            Fault::RefusedAfter(_) => "refused after",
            Fault::ResetBefore => "reset before",
            Fault::ResetAfter => "reset after",
            Fault::ClosedAfter => "closed after",
            Fault::Truncated => "truncated",
        }
    }
}

/// The statuses that say: not now.
const STATUSES: [u16; 3] = [500, 503, 429];
/// How many requests in a row for one object an outage lasts; more than a client repeats one.
const OUTAGE_REQUESTS: u32 = 12;

/// Faults for a share of all requests.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// Decides which requests; equal seeds give equal plans.
    pub seed: u64,
    /// How many of 1,000 requests meet a fault of their own.
    pub per_mille: u16,
    /// How many of 1,000 objects are unavailable for so long that their requests fail for good.
    pub outages_per_mille: u16,
}

impl FaultPlan {
    /// Decides what happens to a request that has been made `before` times. It does not depend on other requests, so
    /// that concurrent ones may come in any order.
    pub fn fault_of(&self, method: &str, target: &str, before: u32) -> Option<Fault> {
        let outage = self.dice("outage", target, before / OUTAGE_REQUESTS);
        if share(outage) < self.outages_per_mille {
            return Some(Fault::RefusedBefore(status(outage)));
        }
        let dice = self.dice(method, target, before);
        if share(dice) >= self.per_mille {
            return None;
        }
        let [_, _, kind, amount, ..] = dice;
        Some(match kind % 8 {
            0 => Fault::Delayed(Duration::from_millis(u64::from(amount))),
            1 => Fault::Late,
            2 => Fault::RefusedBefore(status(dice)),
            3 => Fault::RefusedAfter(status(dice)),
            4 => Fault::ResetBefore,
            5 => Fault::ResetAfter,
            6 => Fault::ClosedAfter,
            _ if method == "GET" => Fault::Truncated,
            _ => Fault::ClosedAfter,
        })
    }

    fn dice(&self, what: &str, target: &str, before: u32) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(format!("{what} {target} {before}").as_bytes());
        let mut dice = [0; 8];
        hasher.finalize_xof().fill(&mut dice);
        dice
    }
}

fn share(dice: [u8; 8]) -> u16 {
    u16::from_le_bytes([dice[0], dice[1]]) % 1_000
}

fn status(dice: [u8; 8]) -> u16 {
    STATUSES[usize::from(dice[4]) % STATUSES.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const PLAN: FaultPlan = FaultPlan {
        seed: 7,
        per_mille: 200,
        outages_per_mille: 10,
    };

    #[test]
    fn every_kind_of_fault_comes_and_most_requests_pass() {
        let mut counts = BTreeMap::new();
        for number in 0..10_000 {
            let fault = PLAN.fault_of("GET", &format!("/bucket/object-{number}"), 0);
            *counts.entry(fault.map_or("none", Fault::name)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 9, "{counts:?}");
        assert!((7_500..8_300).contains(&counts["none"]), "{counts:?}");
    }

    #[test]
    fn equal_seeds_give_equal_plans_and_others_do_not() {
        let faults = |seed| {
            let plan = FaultPlan { seed, ..PLAN };
            let fault = |number| plan.fault_of("PUT", "/bucket/object", number);
            (0..500).map(fault).collect::<Vec<_>>()
        };
        assert_eq!(faults(1), faults(1));
        assert_ne!(faults(1), faults(2));
    }

    #[test]
    fn only_answers_with_a_body_are_cut() {
        for number in 0..10_000 {
            let fault = PLAN.fault_of("PUT", "/bucket/object", number);
            assert_ne!(fault, Some(Fault::Truncated));
        }
    }
}
