//! What differs between two policies, key by key.

use super::policy::Policy;
use std::fmt;

/// One key of the policy with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChange {
    /// The key, as in the configuration file.
    pub key: String,
    /// Its value before, as JSON.
    pub from: String,
    /// Its value now, as JSON.
    pub to: String,
}

impl fmt::Display for PolicyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.from, self.to)
    }
}

/// Returns the keys whose values differ, in the order of their names.
pub fn policy_changes(old: &Policy, new: &Policy) -> Vec<PolicyChange> {
    let json = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
    let (old, new) = (json(old), json(new));
    let keys = new.as_object().into_iter().flat_map(|table| table.keys());
    keys.filter(|key| old[*key] != new[*key])
        .map(|key| PolicyChange {
            key: format!("policy.{key}"),
            from: old[key].to_string(),
            to: new[key].to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::PolicyOverride;

    #[test]
    fn only_keys_with_another_value_are_named() {
        let old = Policy::default();
        assert_eq!(policy_changes(&old, &old), []);
        let new = Policy {
            prune: Some(false),
            snapshot_after_records: 7,
            overrides: vec![PolicyOverride::default()],
            ..old.clone()
        };
        let said: Vec<String> = policy_changes(&old, &new)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            said,
            [
                "policy.override: [] -> [{\"first_partition\":0,\"last_partition\":0}]",
                "policy.prune: null -> false",
                "policy.snapshot_after_records: 1000000 -> 7",
            ]
        );
    }
}
