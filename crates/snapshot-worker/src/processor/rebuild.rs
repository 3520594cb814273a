//! Replacing a local state that is damaged, or that an operator no longer trusts.
//!
//! 1. The replica gives up leadership, closes the state and renames its folder to `set-aside-<reason>`. A crash here
//!    leaves a replica without state, which goes on as in 2.
//! 2. It comes back as a replica without state does: from a snapshot, reusing nothing, or from the log's first
//!    record. Neither possible: a damaged state stays aside and the partition is blocked; one that was in order comes
//!    back into use.
//! 3. Once the partition is active again, what was set aside is deleted. A crash before that leaves it to the
//!    next time the partition becomes active.
//!
//! At most one state is set aside: one that took the place of another, and was never active, is what step 2 gives
//! again, and goes at once.

use super::task::{Halt, Task};
use crate::{
    agent::{Covering, RebuildAnswer, RebuildError, RestoreRequest, ReuseLocal},
    core::{BlockedReason, PartitionState, RebuildPlan, RebuildReason, RestoreKind, rebuild_source},
    metrics,
};
use snapshot_store::{Lsn, SnapshotId};
use std::{io, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// How long a damaged state waits for its rebuild after the one before: a disk that damages everything must not have
/// the store read over and over.
const DAMAGE_PAUSE_MIN: Duration = Duration::from_secs(60);

/// What is asked of the task from outside and makes it stop following the log.
pub(super) enum Order {
    /// Somebody who reads the state found it damaged.
    Damaged {
        /// Which open state it was, see `Replica::store`: a replaced one is of no interest.
        opened: u64,
        detail: String,
    },
    /// An operator wants the state replaced.
    Rebuild(RebuildOrder),
}

#[derive(Debug)]
pub(super) struct RebuildOrder {
    pub(super) dry_run: bool,
    pub(super) answer: oneshot::Sender<RebuildAnswer>,
}

impl Task {
    /// Takes an order, and says whether it makes the task stop what it does.
    pub(super) fn take_order(&mut self, order: Order) -> Option<Halt> {
        match order {
            Order::Damaged { opened, detail } => {
                let is_open = self.local.is_some() && self.replica.opened() == opened;
                is_open.then_some(Halt::Damaged(detail))
            }
            Order::Rebuild(order) => {
                let state = self.replica.status.borrow().state.clone();
                match state {
                    PartitionState::Opening | PartitionState::Restoring => {
                        // A receiver that is gone does not care.
                        drop(order.answer.send(Err(RebuildError::NotNow { state })));
                        None
                    }
                    PartitionState::CatchingUp | PartitionState::Active | PartitionState::Blocked { .. } => {
                        Some(Halt::Ordered(order))
                    }
                }
            }
        }
    }

    /// Does what a halt asks for besides following the log, and says how to go on.
    pub(super) async fn settle(&mut self, halt: Halt) -> Halt {
        match halt {
            Halt::Damaged(detail) => self.rebuild_damaged(detail).await,
            Halt::Ordered(order) => self.rebuild_ordered(order).await,
            halt => halt,
        }
    }

    async fn rebuild_damaged(&mut self, detail: String) -> Halt {
        if self.damaged_at.is_some_and(|at| at.elapsed() < DAMAGE_PAUSE_MIN) {
            let detail = format!("the state is damaged again soon after it was rebuilt: {detail}");
            return Halt::Blocked(BlockedReason::LocalState, detail);
        }
        if let Err(halt) = self.put_aside(RebuildReason::Corruption).await {
            return halt;
        }
        self.damaged_at = Some(Instant::now());
        tracing::warn!(
            partition = %self.replica.partition, detail,
            "the local state is damaged: it is set aside and rebuilt"
        );
        Halt::Again
    }

    async fn rebuild_ordered(&mut self, order: RebuildOrder) -> Halt {
        let RebuildOrder { dry_run, answer } = order;
        let mut planned = match self.plan_rebuild().await {
            Ok(planned) => planned,
            Err(halt) => {
                let why = "the log could not be looked at".to_owned();
                drop(answer.send(Err(RebuildError::Unavailable(why))));
                return halt;
            }
        };
        let mut next = Halt::Again;
        // Whoever was told meanwhile that no answer came must not find the state gone later.
        let wanted = !dry_run && !answer.is_closed();
        if let (Ok(plan), true) = (&planned, wanted) {
            tracing::warn!(
                partition = %self.replica.partition, ?plan,
                "an operator has the local state set aside and rebuilt"
            );
            if let Err(halt) = self.put_aside(RebuildReason::Ordered).await {
                planned = Err(RebuildError::Unavailable(
                    "the state could not be closed".to_owned(),
                ));
                next = halt;
            }
        }
        drop(answer.send(planned));
        next
    }

    /// Decides whether another state can be had, and which.
    async fn plan_rebuild(&mut self) -> Result<RebuildAnswer, Halt> {
        if self.under_way().await?.is_some() {
            return Ok(Err(RebuildError::UnderWay));
        }
        let applied_lsn = self.applied();
        let (registration, info) = self.look_at_log().await?;
        let log = self.log_facts(&registration, &info);
        let request = RestoreRequest {
            kind: RestoreKind::Rebuild,
            incarnation: log.incarnation,
            trim_point: log.trim_point,
            applied_lsn: None,
            reuse: ReuseLocal::Nothing,
        };
        let (agent, partition) = (self.agent.clone(), self.replica.partition);
        let looked = async move { agent.covering(partition, &request).await };
        let (snapshot, found): (Option<(SnapshotId, Lsn)>, _) = match self.away(looked).await? {
            Ok(Covering::Snapshot { snapshot_id, lsn }) => (Some((snapshot_id, lsn)), String::new()),
            Ok(Covering::Nothing { detail }) => (None, detail),
            Err(error) => {
                return Ok(Err(RebuildError::Unavailable(super::connect::with_causes(
                    &error,
                ))));
            }
        };
        let source = rebuild_source(snapshot, &log);
        Ok(match source {
            Ok(source) => Ok(RebuildPlan { applied_lsn, source }),
            Err(why) => Err(RebuildError::NoSource(format!("{why}, and {found}"))),
        })
    }

    async fn put_aside(&mut self, reason: RebuildReason) -> Result<(), Halt> {
        self.step_down(&PartitionState::Opening);
        self.close_local().await?;
        let dirs = self.replica.dirs.clone();
        let moved = self
            .replica
            .blocking
            .run(move || dirs.set_aside_for_rebuild(reason))
            .await;
        moved.map_err(|error| folder_trouble(&error))?;
        self.set_state(PartitionState::Opening);
        self.forget_state();
        metrics::rebuild_began(reason);
        self.replica
            .status
            .send_modify(|status| status.rebuilds.add(reason));
        Ok(())
    }

    /// Returns why a state is set aside; `None` when none is.
    pub(super) async fn under_way(&mut self) -> Result<Option<RebuildReason>, Halt> {
        let dirs = self.replica.dirs.clone();
        let found = self.replica.blocking.run(move || dirs.rebuild_under_way()).await;
        found.map_err(|error| folder_trouble(&error))
    }

    /// Puts a state that an operator ordered to be replaced back into use, because `failure` shows that nothing can
    /// take its place. Fails with `failure` where that is not the case.
    pub(super) async fn undo_rebuild(
        &mut self,
        under_way: Option<RebuildReason>,
        failure: Halt,
    ) -> Result<(), Halt> {
        let detail = match (under_way, &failure) {
            (
                Some(RebuildReason::Ordered),
                Halt::Blocked(
                    BlockedReason::NoCoveringSnapshot
                    | BlockedReason::StoreUnusable
                    | BlockedReason::StateVersion,
                    detail,
                ),
            ) => detail,
            _ => return Err(failure),
        };
        tracing::warn!(
            partition = %self.replica.partition, detail,
            "nothing can take the place of the state that was set aside: it is used again"
        );
        let dirs = self.replica.dirs.clone();
        let moved = self.replica.blocking.run(move || dirs.bring_back()).await;
        moved.map_err(|error| folder_trouble(&error))
    }

    /// Deletes what was set aside, now that the partition is active without it.
    pub(super) async fn discard_set_aside(&mut self) {
        let dirs = self.replica.dirs.clone();
        let partition = self.replica.partition;
        match self.replica.blocking.run(move || dirs.discard_set_aside()).await {
            Ok(false) => {}
            Ok(true) => tracing::info!(%partition, "the state was rebuilt; the one set aside is deleted"),
            Err(error) => {
                tracing::warn!(%partition, %error, "the state set aside for its rebuild could not be deleted");
            }
        }
    }
}

fn folder_trouble(error: &io::Error) -> Halt {
    Halt::Blocked(BlockedReason::LocalState, error.to_string())
}
