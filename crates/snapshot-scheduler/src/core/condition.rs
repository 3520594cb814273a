//! What is the matter with a partition as a whole: one word, so that partitions can be counted by it.

use super::reason::Condition;
use snapshot_store::core::HoldReason;

/// What the word is found by.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConditionFacts {
    /// The log has answered, and the pointer was read.
    pub known: bool,
    /// Nodes that should host it.
    pub expected: usize,
    /// Replicas that answer.
    pub live: usize,
    /// Replicas that answer and have reached the tail.
    pub active: usize,
    /// Whether a live node leads it.
    pub led: bool,
    /// Why its log is held, if it is.
    pub held: Option<HoldReason>,
}

/// Returns the word that asks for the most.
pub const fn condition(facts: &ConditionFacts) -> Condition {
    if !facts.known {
        return Condition::Unknown;
    }
    if facts.live == 0 {
        return Condition::Down;
    }
    if let Some(reason) = facts.held
        && asks_for_somebody(reason)
    {
        return Condition::Held;
    }
    if !facts.led {
        return Condition::Leaderless;
    }
    if facts.live < facts.expected || facts.active < facts.live {
        return Condition::Degraded;
    }
    Condition::Healthy
}

/// Returns whether a hold is more than a step on the way to the next trim.
const fn asks_for_somebody(reason: HoldReason) -> bool {
    !matches!(
        reason,
        HoldReason::NothingToTrim
            | HoldReason::TooFewSnapshots
            | HoldReason::UnverifiedSnapshot
            | HoldReason::ViewWarming
            | HoldReason::Delay
            | HoldReason::Standby
            | HoldReason::DryRun
            | HoldReason::LostRace
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_the_word_that_asks_for_the_most() {
        let well = ConditionFacts {
            known: true,
            expected: 3,
            live: 3,
            active: 3,
            led: true,
            held: Some(HoldReason::NothingToTrim),
        };
        let all = [
            (well, Condition::Healthy),
            (ConditionFacts { held: None, ..well }, Condition::Healthy),
            (ConditionFacts { active: 2, ..well }, Condition::Degraded),
            (
                ConditionFacts {
                    live: 2,
                    active: 2,
                    ..well
                },
                Condition::Degraded,
            ),
            (
                ConditionFacts {
                    led: false,
                    live: 2,
                    ..well
                },
                Condition::Leaderless,
            ),
            (
                ConditionFacts {
                    held: Some(HoldReason::Paused),
                    led: false,
                    ..well
                },
                Condition::Held,
            ),
            (
                ConditionFacts {
                    held: Some(HoldReason::DamagedSnapshot),
                    live: 0,
                    ..well
                },
                Condition::Down,
            ),
            (
                ConditionFacts {
                    known: false,
                    live: 0,
                    ..well
                },
                Condition::Unknown,
            ),
        ];
        for (facts, expected) in all {
            assert_eq!(condition(&facts), expected, "{facts:?}");
        }
    }
}
