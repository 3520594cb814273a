//! What the view remembers of a command that is being carried out, so that the next plan does not plan it again.

use super::{
    plan::Command,
    reason::VerifyCause,
    view::{ClusterView, Moment, RunningOrder},
};
use snapshot_store::RequestId;
use std::time::Duration;

/// How long an announcement may take to be applied.
pub const LEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Distance of two records that are appended only to move the LSN.
pub const NOOP_SPACING: Duration = Duration::from_secs(5);

/// Notes that `command`, planned at `now`, is being carried out as `request_id`. How it ended is noted by whoever
/// carries it out.
pub fn note_begun(view: &mut ClusterView, command: &Command, request_id: RequestId, now: Moment) {
    let settle = view.timing.settle;
    let Some(partition) = view.partitions.get_mut(&command.partition()) else {
        return;
    };
    match command {
        Command::CreateSnapshot(command) => {
            partition.order = Some(RunningOrder {
                request_id,
                node: command.node.clone(),
            });
        }
        Command::AppendNoop { .. } => partition.noop_not_before = now.plus(NOOP_SPACING),
        Command::Verify {
            snapshot_id, cause, ..
        } => {
            partition.verifying = Some(*snapshot_id);
            partition.audit.reading = *cause == VerifyCause::Audit;
        }
        Command::Trim { .. } => partition.trim.running = true,
        Command::Lead { .. } => partition.lead_not_before = now.plus(LEAD_TIMEOUT + settle),
    }
}
