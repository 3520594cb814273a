//! Changing the policy while the scheduler runs.
//!
//! A new policy is checked as a whole and takes the place of the old one as a whole: a plan, and a pass over one
//! partition's trim, see one of them. A faulty one changes nothing, and the status says why until a good one comes.

use crate::{
    core::{Policy, PolicyChange, PolicyFault, TrimMemory, policy_changes},
    handle::SchedulerHandle,
    metrics, status,
};
use snapshot_proto::v1;
use snapshot_store::Timestamp;
use std::{fmt, sync::Arc};

/// Where the policy comes from when it is read again.
pub trait PolicySource: Send + Sync + 'static {
    /// Reads the policy as it is configured now. May block.
    ///
    /// # Errors
    /// When it cannot be read or understood: all that is wrong, for people.
    fn read(&self) -> Result<Policy, String>;
}

/// Why the policy stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// This admin was built without a source.
    #[error("the policy of this admin is not read from anywhere: it was set when the admin was built")]
    NoSource,
    /// What was read cannot be used.
    #[error("the policy stays as it is: {detail}")]
    Refused {
        /// All faults.
        detail: String,
    },
}

/// What the status says of the policy.
#[derive(Clone, Debug)]
pub(crate) struct PolicyState {
    /// Counts from 1.
    pub(crate) revision: u64,
    /// When the one in force came into force.
    pub(crate) since: Timestamp,
    /// Why the last one that was read was refused, if it was.
    pub(crate) refused: Option<String>,
}

impl SchedulerHandle {
    /// Returns the policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.ctx.policy()
    }

    /// Puts `policy` in force, from the next tick on; returns what changed.
    ///
    /// # Errors
    /// All faults at once; then the old one stays.
    pub fn set_policy(&self, policy: Policy) -> Result<Vec<PolicyChange>, Vec<PolicyFault>> {
        let checks = [policy.validate(), policy.validate_for(self.cluster_partitions())];
        let faults: Vec<PolicyFault> = checks.into_iter().filter_map(Result::err).flatten().collect();
        let mut state = self.ctx.lock();
        if !faults.is_empty() {
            metrics::policy_reloaded("refused");
            state.policy.refused = Some(join(&faults));
            return Err(faults);
        }
        let changes = policy_changes(&self.ctx.policy(), &policy);
        state.policy.refused = None;
        if changes.is_empty() {
            metrics::policy_reloaded("unchanged");
            return Ok(changes);
        }
        metrics::policy_reloaded("changed");
        state.policy.revision += 1;
        state.policy.since = self.ctx.seams.clock.now();
        state.restorable_min = policy.restorable_snapshots_min.max(1) as usize;
        for view in state.view.partitions.values_mut() {
            // What was decided under the old one is looked at again.
            view.trim = TrimMemory {
                running: view.trim.running,
                ..TrimMemory::default()
            };
        }
        let said = join(&changes);
        tracing::info!(revision = state.policy.revision, changes = %said, "the policy was changed");
        self.ctx.replace_policy(policy);
        drop(state);
        self.ctx.wake.notify_one();
        Ok(changes)
    }

    /// Reads the policy again from where the admin was told it comes from; returns what changed.
    ///
    /// # Errors
    /// When there is no such place, or what is there cannot be used; then the old one stays.
    pub async fn reload_policy(&self) -> Result<Vec<PolicyChange>, ReloadError> {
        let source = self.ctx.policy_source.clone().ok_or(ReloadError::NoSource)?;
        // A source reads files.
        let read = tokio::task::spawn_blocking(move || source.read()).await;
        let detail = match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(policy) => match self.set_policy(policy) {
                Ok(changes) => return Ok(changes),
                Err(faults) => join(&faults),
            },
            Err(detail) => {
                metrics::policy_reloaded("refused");
                self.ctx.lock().policy.refused = Some(detail.clone());
                detail
            }
        };
        tracing::error!(%detail, "a new policy was refused; the old one stays");
        Err(ReloadError::Refused { detail })
    }

    pub(crate) fn policy_state(&self) -> v1::PolicyState {
        status::policy_state(&self.ctx, &self.ctx.lock())
    }

    fn cluster_partitions(&self) -> u32 {
        u32::try_from(self.partitions()).unwrap_or(u32::MAX)
    }
}

fn join(items: &[impl fmt::Display]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
