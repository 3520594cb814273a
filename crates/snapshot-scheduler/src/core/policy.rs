//! What an operator may decide: when to snapshot, whom to ask, how far to trim.

use super::{audit::AuditPolicy, thresholds::PolicyOverride};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_store::{core::TrimRule, format::VerifyLevel};
use std::{borrow::Cow, time::Duration};

/// Which of several equally good replicas is asked for a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateChoice {
    /// Each with the same probability, so that the work spreads over the nodes.
    /// `candidate = uniform(non-leaders that are live, fresh and free)`
    #[default]
    Random,
    /// The node that made the latest snapshot, which then has less to upload; otherwise as `random`.
    /// `candidate = last producer, else random`
    Sticky,
}

/// The schema of [`VerifyLevel`], which belongs to another crate.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum VerifyLevelSchema {
    Presence,
    Content,
    Restore,
}

/// The policy of a cluster: the `[policy]` section of the admin's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Log records applied since the latest trusted snapshot after which a new one is due; 0 switches this off.
    ///
    /// Lower values shorten replay and cost more uploads. This or `snapshot_after_bytes` is enough; time alone
    /// never triggers. Default: 1000000. Since 0.1.
    pub snapshot_after_records: u64,
    /// Bytes of log records since the latest trusted snapshot after which a new one is due; 0 switches this off.
    ///
    /// Default: 1073741824 (1 GiB). Since 0.1.
    pub snapshot_after_bytes: u64,
    /// How many records a replica may lie behind the freshest one and still be asked for a snapshot. Must be
    /// below `snapshot_after_records`.
    ///
    /// Default: 100000. Since 0.1.
    pub lag_records_max: u64,
    /// How many of the newest snapshots must be restorable before anything is trimmed. The guard is the oldest
    /// of them, so a higher value keeps more of the log.
    ///
    /// Default: 2. Since 0.1.
    pub restorable_snapshots_min: u32,
    /// How thoroughly a snapshot must have been checked before a trim rests on it: `presence`, `content` or
    /// `restore`.
    ///
    /// Default: content. Since 0.1.
    #[schemars(with = "VerifyLevelSchema")]
    pub verify_before_trim: VerifyLevel,
    /// How many of the newest records stay in the log in any case.
    ///
    /// Default: 0. Since 0.1.
    pub retain_records: u64,
    /// A live replica more than this many records below the guard no longer holds the trim: it will restore a
    /// snapshot instead.
    ///
    /// Default: 10000000. Since 0.1.
    pub held_records_max: u64,
    /// The same in bytes of log records.
    ///
    /// Default: 10737418240 (10 GiB). Since 0.1.
    pub held_bytes_max: u64,
    /// How long a snapshot must have been published before it counts for the guard, in milliseconds.
    ///
    /// Default: 0. Since 0.1.
    pub trim_delay_ms: u64,
    /// Which of several equally good replicas is asked: `random` or `sticky`.
    ///
    /// Default: random. Since 0.1.
    pub candidate: CandidateChoice,
    /// How long all fresh non-leaders must have been busy or failing before the leader is asked, in milliseconds.
    ///
    /// Default: 60000. Since 0.1.
    pub leader_fallback_after_ms: u64,
    /// How many snapshots one node makes at a time.
    ///
    /// Default: 1. Since 0.1.
    pub snapshots_per_node_max: u32,
    /// How many snapshots are made at a time in the whole cluster.
    ///
    /// Default: 16. Since 0.1.
    pub snapshots_max: u32,
    /// Whether snapshots that nothing depends on any more are deleted after a trim. When left out: only on
    /// `file://`; elsewhere the lifecycle is the operator's.
    ///
    /// Default: none. Since 0.1.
    pub prune: Option<bool>,
    /// Decide and report, and do nothing else: order no snapshot, also not for an operator, trim nothing, assign no
    /// leader, leave the lease to other admins. Snapshots are still checked, which changes nothing.
    ///
    /// Default: false. Since 0.1.
    pub dry_run: bool,
    /// How published snapshots are looked at again, though nobody asks for them.
    ///
    /// Default: as each key says. Since 0.1.
    pub audit: AuditPolicy,
    /// Other thresholds for ranges of partitions that do not overlap.
    ///
    /// Default: none. Since 0.1.
    #[serde(rename = "override")]
    pub overrides: Vec<PolicyOverride>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            snapshot_after_records: 1_000_000,
            snapshot_after_bytes: 1 << 30,
            lag_records_max: 100_000,
            restorable_snapshots_min: 2,
            verify_before_trim: VerifyLevel::Content,
            retain_records: 0,
            held_records_max: 10_000_000,
            held_bytes_max: 10 << 30,
            trim_delay_ms: 0,
            candidate: CandidateChoice::Random,
            leader_fallback_after_ms: 60_000,
            snapshots_per_node_max: 1,
            snapshots_max: 16,
            prune: None,
            dry_run: false,
            audit: AuditPolicy::default(),
            overrides: Vec::new(),
        }
    }
}

/// A value of the policy or of the options that cannot work. The text names the key and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {fault}")]
pub struct PolicyFault {
    /// The key, as in the configuration file.
    pub key: Cow<'static, str>,
    /// What is wrong and what would be right.
    pub fault: String,
}

impl PolicyFault {
    pub(crate) fn new(key: impl Into<Cow<'static, str>>, fault: impl Into<String>) -> Self {
        PolicyFault {
            key: key.into(),
            fault: fault.into(),
        }
    }
}

impl Policy {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// All faults at once.
    pub fn validate(&self) -> Result<(), Vec<PolicyFault>> {
        let mut faults = self.threshold_faults();
        let mut check = |ok: bool, key: &'static str, fault: String| {
            if !ok {
                faults.push(PolicyFault::new(key, fault));
            }
        };
        check(
            (1..=Self::RESTORABLE_SNAPSHOTS_MAX).contains(&self.restorable_snapshots_min),
            "policy.restorable_snapshots_min",
            format!(
                "is {}, expected 1 to {}",
                self.restorable_snapshots_min,
                Self::RESTORABLE_SNAPSHOTS_MAX
            ),
        );
        check(
            self.snapshots_per_node_max >= 1,
            "policy.snapshots_per_node_max",
            "is 0: no node could ever make a snapshot; expected 1 or more".to_owned(),
        );
        check(
            self.snapshots_max >= 1,
            "policy.snapshots_max",
            "is 0: no snapshot could ever be made; expected 1 or more".to_owned(),
        );
        faults.extend(self.audit.faults());
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The most snapshots a trim can be made to rest on; the pointer's history, which `trim_delay_ms` looks at,
    /// remembers 64.
    pub const RESTORABLE_SNAPSHOTS_MAX: u32 = 32;

    /// Returns the part that the trim rule looks at.
    pub fn trim_rule(&self, force: bool) -> TrimRule {
        TrimRule {
            restorable_snapshots_min: self.restorable_snapshots_min,
            verify_before_trim: self.verify_before_trim,
            retain_records: self.retain_records,
            held_records_max: self.held_records_max,
            held_bytes_max: self.held_bytes_max,
            trim_delay: Duration::from_millis(self.trim_delay_ms),
            force,
        }
    }

    /// Returns `leader_fallback_after_ms` as a duration.
    pub fn leader_fallback_after(&self) -> Duration {
        Duration::from_millis(self.leader_fallback_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let policy = Policy {
            snapshot_after_records: 10,
            lag_records_max: 10,
            restorable_snapshots_min: 0,
            snapshots_per_node_max: 0,
            snapshots_max: 0,
            audit: AuditPolicy {
                requests_per_second: 0,
                concurrency_max: 65,
                content_max: 0,
                ..AuditPolicy::default()
            },
            ..Policy::default()
        };
        let keys: Vec<_> = policy
            .validate()
            .unwrap_err()
            .into_iter()
            .map(|fault| fault.key)
            .collect();
        assert_eq!(
            keys,
            [
                "policy.lag_records_max",
                "policy.restorable_snapshots_min",
                "policy.snapshots_per_node_max",
                "policy.snapshots_max",
                "policy.audit.requests_per_second",
                "policy.audit.concurrency_max",
                "policy.audit.content_max"
            ]
        );
    }

    #[test]
    fn a_policy_without_any_threshold_is_refused() {
        let policy = Policy {
            snapshot_after_records: 0,
            snapshot_after_bytes: 0,
            ..Policy::default()
        };
        assert_eq!(
            policy.validate().unwrap_err()[0].key,
            "policy.snapshot_after_records"
        );
    }

    #[test]
    fn unknown_keys_are_refused_and_missing_ones_take_their_default() {
        assert!(serde_json::from_str::<Policy>(r#"{"snapshot_after_record": 5}"#).is_err());
        let policy: Policy = serde_json::from_str(r#"{"verify_before_trim": "presence"}"#).unwrap();
        assert_eq!(
            policy,
            Policy {
                verify_before_trim: VerifyLevel::Presence,
                ..Policy::default()
            }
        );
    }

    #[test]
    fn every_knob_says_its_default() {
        let of = |schema: schemars::Schema| {
            let schema = serde_json::to_value(schema).unwrap();
            schema["properties"].as_object().unwrap().clone()
        };
        let knobs = [
            of(schemars::schema_for!(Policy)),
            of(schemars::schema_for!(AuditPolicy)),
        ];
        assert_eq!(knobs.each_ref().map(serde_json::Map::len), [17, 5]);
        for (key, property) in knobs.iter().flatten() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(
                description.contains("Default: "),
                "{key} does not say its default"
            );
        }
    }
}
