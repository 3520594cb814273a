//! Snapshots while no admin is there: the shell around `core::autonomous`.
//!
//! It only ever makes snapshots, by the same way as when it is asked for one; it never trims, and it knows nothing that
//! an admin did not tell it before. An admin that returns reads the pointer and finds them.

use super::{export_job::CreateSnapshot, snapshot_agent::SnapshotAgent};
use crate::{
    core::{
        ArchivedSnapshot, Autonomous, LastPoll, LeaveReason, ReplicaStatus, check_owner, decide_autonomous,
    },
    metrics,
};
use snapshot_store::{PartitionId, RequestId};
use std::{collections::BTreeMap, time::Duration};

/// The longest pause between two looks; one that failed is tried again at the next.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(10);

impl SnapshotAgent {
    /// Looks once, and makes the snapshots that are due of partitions led here, if no admin has polled for `silence_min`.
    /// Returns what was decided about each partition; snapshots go on by themselves. Asks the store only about partitions
    /// of which one seems due. Must be called within a Tokio runtime.
    pub async fn snapshot_autonomously(&self, silence_min: Duration) -> BTreeMap<PartitionId, Autonomous> {
        let mut decided = BTreeMap::new();
        for replica in self.status() {
            let partition = replica.partition;
            let mut decision = self.decide_autonomous(&replica, silence_min);
            if matches!(decision, Autonomous::Make { .. }) {
                // Others may have published meanwhile; and an admin may have polled while the store was asked.
                decision = match self.learn_archived(&replica).await {
                    Ok(()) => self
                        .replica(partition)
                        .map_or(Autonomous::Leave(LeaveReason::NotActive), |replica| {
                            self.decide_autonomous(&replica, silence_min)
                        }),
                    Err(error) => {
                        tracing::warn!(%partition, %error, "no admin polls, and the store cannot be asked for the newest snapshot");
                        Autonomous::Leave(LeaveReason::StoreUnknown)
                    }
                };
            }
            match decision {
                Autonomous::Make { min_lsn, cause } => {
                    let request_id = RequestId::new(self.shared.seams.ulid());
                    tracing::info!(%partition, %min_lsn, ?cause, %request_id, "no admin polls: a snapshot is made unasked");
                    metrics::autonomous_snapshot();
                    // The snapshot is a task of its own: nobody has to watch it.
                    drop(self.create_snapshot(CreateSnapshot {
                        partition,
                        min_lsn,
                        request_id,
                        distrusted: Vec::new(),
                        restorable_snapshots_min: None,
                    }));
                }
                Autonomous::Leave(reason) => {
                    tracing::trace!(%partition, reason = reason.as_str(), "no snapshot is made unasked");
                }
            }
            decided.insert(partition, decision);
        }
        decided
    }

    /// Looks again and again, as [`SnapshotAgent::snapshot_autonomously`] does, until the agent is shut down.
    pub async fn run_autonomously(&self, silence_min: Duration) {
        let stop = self.shared.stop.clone();
        let looking = async {
            loop {
                tokio::time::sleep(silence_min.min(LOOK_INTERVAL_MAX)).await;
                metrics::autonomous(self.silence().is_some_and(|silence| silence >= silence_min));
                self.snapshot_autonomously(silence_min).await;
            }
        };
        stop.run_until_cancelled(looking).await;
        metrics::autonomous(false);
    }

    /// Returns how long ago an admin polled last; `None` when none did since this node started.
    fn silence(&self) -> Option<Duration> {
        let now = self.shared.seams.clock.now();
        let policy = self.shared.policy.borrow();
        policy.as_ref().map(|policy| now.since(policy.received_at))
    }

    fn decide_autonomous(&self, replica: &ReplicaStatus, silence_min: Duration) -> Autonomous {
        let silence = self.silence();
        let policy = self.shared.policy.borrow();
        let poll = policy.as_ref().zip(silence).map(|(policy, age)| {
            let (snapshot_after_records, snapshot_after_bytes) = policy.thresholds(replica.partition);
            LastPoll {
                age,
                snapshot_after_records,
                snapshot_after_bytes,
                paused: policy.paused || policy.paused_partitions.contains(&replica.partition),
            }
        });
        decide_autonomous(poll.as_ref(), replica, silence_min)
    }

    /// Reads from the pointer which snapshot of the replica's log is the newest, and remembers it.
    async fn learn_archived(
        &self,
        replica: &ReplicaStatus,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(pointer) = self.shared.repository.pointer(replica.partition).await? else {
            return Ok(());
        };
        let pointer = pointer.value;
        check_owner(
            &pointer,
            self.shared.config.cluster.fingerprint,
            replica.partition,
        )?;
        let own = pointer
            .snapshots
            .iter()
            .find(|entry| Some(entry.incarnation) == replica.incarnation);
        if let Some(entry) = own {
            let archived = ArchivedSnapshot {
                snapshot_id: entry.snapshot_id,
                lsn: entry.lsn,
                log_bytes: entry.log_bytes,
            };
            self.note_archived(replica.partition, entry.incarnation, archived)
                .await;
        }
        Ok(())
    }
}
