//! When a snapshot of one partition is due: the policy's thresholds, or those of the override that names its range.

use super::policy::{Policy, PolicyFault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_store::PartitionId;

/// Other thresholds for a range of partitions: a `[[policy.override]]` section of the admin's configuration. What it leaves
/// out is as in `[policy]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyOverride {
    /// The first partition it is for. Required. Since 0.1.
    pub first_partition: u32,
    /// The last partition it is for, inclusive. Required. Since 0.1.
    pub last_partition: u32,
    /// `policy.snapshot_after_records` for these partitions; 0 switches it off. Default: none. Since 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_after_records: Option<u64>,
    /// `policy.snapshot_after_bytes` for these partitions; 0 switches it off. Default: none. Since 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_after_bytes: Option<u64>,
    /// `policy.lag_records_max` for these partitions. Default: none. Since 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_records_max: Option<u64>,
}

impl PolicyOverride {
    /// Returns whether it is for `partition`.
    pub const fn covers(&self, partition: PartitionId) -> bool {
        self.first_partition <= partition.get() && partition.get() <= self.last_partition
    }

    fn range(&self) -> String {
        format!("{} to {}", self.first_partition, self.last_partition)
    }
}

/// What decides whether a snapshot of one partition is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Records since the latest trusted snapshot; 0 when they do not count.
    pub records: u64,
    /// Bytes of records since it; 0 when they do not count.
    pub bytes: u64,
    /// How many records a replica may lie behind the freshest one and still be asked.
    pub lag_records_max: u64,
    /// The override they come from, counted from 0; `None` for the policy itself.
    pub rule: Option<usize>,
}

impl Thresholds {
    /// Returns the key of the rule that applies, as in the configuration.
    pub fn rule_name(&self) -> String {
        match self.rule {
            None => "policy".to_owned(),
            Some(at) => format!("policy.override[{at}]"),
        }
    }
}

impl Policy {
    /// The most overrides a policy can have: each partition looks through all of them.
    pub const OVERRIDES_MAX: usize = 256;

    /// Returns the thresholds of `partition`: those of the one override that covers it, else those of the policy.
    pub fn thresholds(&self, partition: PartitionId) -> Thresholds {
        let mut rules = self.overrides.iter().enumerate();
        match rules.find(|(_, rule)| rule.covers(partition)) {
            None => self.own_thresholds(),
            Some((at, rule)) => self.overridden(at, rule),
        }
    }

    fn own_thresholds(&self) -> Thresholds {
        Thresholds {
            records: self.snapshot_after_records,
            bytes: self.snapshot_after_bytes,
            lag_records_max: self.lag_records_max,
            rule: None,
        }
    }

    fn overridden(&self, at: usize, rule: &PolicyOverride) -> Thresholds {
        Thresholds {
            records: rule.snapshot_after_records.unwrap_or(self.snapshot_after_records),
            bytes: rule.snapshot_after_bytes.unwrap_or(self.snapshot_after_bytes),
            lag_records_max: rule.lag_records_max.unwrap_or(self.lag_records_max),
            rule: Some(at),
        }
    }

    /// Returns what is wrong with the thresholds, everywhere.
    pub(super) fn threshold_faults(&self) -> Vec<PolicyFault> {
        let mut faults = Vec::new();
        check_thresholds(&self.own_thresholds(), &mut faults);
        if self.overrides.len() > Self::OVERRIDES_MAX {
            let fault = format!(
                "{} are given, at most {} work",
                self.overrides.len(),
                Self::OVERRIDES_MAX
            );
            faults.push(PolicyFault::new("policy.override", fault));
        }
        for (at, rule) in self.overrides.iter().enumerate() {
            let mut fault = |key: &str, text: String| {
                faults.push(PolicyFault::new(format!("policy.override[{at}].{key}"), text));
            };
            if rule.first_partition > rule.last_partition {
                fault(
                    "last_partition",
                    format!("is below first_partition ({})", rule.first_partition),
                );
            }
            let earlier = self.overrides[..at].iter().enumerate().find(|(_, other)| {
                other.first_partition <= rule.last_partition && rule.first_partition <= other.last_partition
            });
            if let Some((other, overlapped)) = earlier {
                let text = format!(
                    "{} overlap with {} of policy.override[{other}]: let each partition have one",
                    rule.range(),
                    overlapped.range()
                );
                fault("first_partition", text);
            }
            if (
                rule.snapshot_after_records,
                rule.snapshot_after_bytes,
                rule.lag_records_max,
            ) == (None, None, None)
            {
                let text = "is not set, nor is snapshot_after_bytes or lag_records_max: the section changes nothing; \
                            set one of them or remove it";
                fault("snapshot_after_records", text.to_owned());
            } else {
                check_thresholds(&self.overridden(at, rule), &mut faults);
            }
        }
        faults
    }

    /// Checks that the overrides are for partitions that a cluster with `partitions` has.
    ///
    /// # Errors
    /// All faults at once.
    pub fn validate_for(&self, partitions: u32) -> Result<(), Vec<PolicyFault>> {
        let beyond = self
            .overrides
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.last_partition >= partitions);
        let faults: Vec<PolicyFault> = beyond
            .map(|(at, rule)| {
                let text = format!(
                    "is {}, the cluster has the partitions 0 to {}",
                    rule.last_partition,
                    partitions.saturating_sub(1)
                );
                PolicyFault::new(format!("policy.override[{at}].last_partition"), text)
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

fn check_thresholds(thresholds: &Thresholds, faults: &mut Vec<PolicyFault>) {
    let rule = thresholds.rule_name();
    if thresholds.records == 0 && thresholds.bytes == 0 {
        faults.push(PolicyFault::new(
            format!("{rule}.snapshot_after_records"),
            "is 0, and so is snapshot_after_bytes: no snapshot would ever be due; set one of them",
        ));
    }
    if thresholds.records > 0 && thresholds.lag_records_max >= thresholds.records {
        let text = format!(
            "is {}, not below snapshot_after_records ({}): a snapshot could end where the last one did; lower it",
            thresholds.lag_records_max, thresholds.records
        );
        faults.push(PolicyFault::new(format!("{rule}.lag_records_max"), text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        first: u32,
        last: u32,
        records: Option<u64>,
        bytes: Option<u64>,
        lag: Option<u64>,
    ) -> PolicyOverride {
        PolicyOverride {
            first_partition: first,
            last_partition: last,
            snapshot_after_records: records,
            snapshot_after_bytes: bytes,
            lag_records_max: lag,
        }
    }

    fn policy(overrides: Vec<PolicyOverride>) -> Policy {
        Policy {
            snapshot_after_records: 1000,
            snapshot_after_bytes: 5000,
            lag_records_max: 100,
            overrides,
            ..Policy::default()
        }
    }

    #[test]
    fn a_partition_has_the_thresholds_of_the_override_that_covers_it_and_else_those_of_the_policy() {
        let policy = policy(vec![
            rule(2, 4, Some(200), None, None),
            rule(7, 7, Some(0), Some(70), Some(7)),
        ]);
        let cases = [
            (0, (1000, 5000, 100, None)),
            (1, (1000, 5000, 100, None)),
            (2, (200, 5000, 100, Some(0))),
            (4, (200, 5000, 100, Some(0))),
            (5, (1000, 5000, 100, None)),
            (7, (0, 70, 7, Some(1))),
            (8, (1000, 5000, 100, None)),
        ];
        for (partition, expected) in cases {
            let found = policy.thresholds(PartitionId::new(partition));
            let found = (found.records, found.bytes, found.lag_records_max, found.rule);
            assert_eq!(found, expected, "partition {partition}");
        }
        assert_eq!(policy.validate(), Ok(()));
        assert_eq!(
            policy.thresholds(PartitionId::new(7)).rule_name(),
            "policy.override[1]"
        );
    }

    #[test]
    fn overrides_that_cannot_work_are_all_named() {
        type Case = (Vec<PolicyOverride>, &'static [&'static str]);
        let many = |count: u32| -> Vec<PolicyOverride> {
            (0..count).map(|at| rule(at, at, Some(200), None, None)).collect()
        };
        let cases: [Case; 9] = [
            (
                vec![rule(3, 2, Some(200), None, None)],
                &["policy.override[0].last_partition"],
            ),
            (
                vec![rule(0, 2, None, None, None)],
                &["policy.override[0].snapshot_after_records"],
            ),
            (
                vec![rule(0, 2, Some(0), Some(0), None)],
                &["policy.override[0].snapshot_after_records"],
            ),
            (
                vec![rule(0, 2, Some(100), None, None)],
                &["policy.override[0].lag_records_max"],
            ),
            (vec![rule(0, 2, Some(100), None, Some(50))], &[]),
            (
                vec![rule(0, 2, None, None, Some(1000))],
                &["policy.override[0].lag_records_max"],
            ),
            (
                vec![
                    rule(0, 2, Some(200), None, None),
                    rule(3, 5, Some(200), None, None),
                    rule(2, 3, Some(200), None, None),
                ],
                &["policy.override[2].first_partition"],
            ),
            (many(256), &[]),
            (many(257), &["policy.override"]),
        ];
        for (overrides, keys) in cases {
            let faults = policy(overrides.clone()).validate().err().unwrap_or_default();
            let found: Vec<&str> = faults.iter().map(|fault| fault.key.as_ref()).collect();
            assert_eq!(found, keys, "{overrides:?}");
        }
        let twice = vec![
            rule(0, 5, Some(200), None, None),
            rule(4, 9, Some(200), None, None),
        ];
        let faults = policy(twice).validate().unwrap_err();
        let said = "4 to 9 overlap with 0 to 5 of policy.override[0]";
        assert!(faults[0].fault.starts_with(said), "{faults:?}");
    }

    #[test]
    fn overrides_beyond_the_clusters_partitions_are_refused_once_these_are_known() {
        let policy = policy(vec![rule(2, 4, Some(200), None, None)]);
        assert_eq!(policy.validate_for(5), Ok(()));
        let faults = policy.validate_for(4).unwrap_err();
        assert_eq!(faults[0].key, "policy.override[0].last_partition");
        assert!(faults[0].fault.contains("0 to 3"), "{faults:?}");
    }
}
