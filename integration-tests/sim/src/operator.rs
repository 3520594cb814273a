//! An operator who pauses the cluster or a partition now and then, and resumes it, by the admins' service.

use crate::{net, plan::FaultClass, world::World};
use snapshot_proto::v1::{PauseRequest, ResumeRequest, admin_service_client::AdminServiceClient};
use snapshot_store::{
    PartitionId,
    format::{Control, Keys, PauseScope, Stored},
};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Milliseconds between two pauses, and how long one lasts.
const BETWEEN_MS: std::ops::Range<u64> = 2000..15_000;
const LASTS_MS: std::ops::Range<u64> = 500..8000;

/// Pauses and resumes until the storm is over, and then resumes what is still paused.
pub(crate) async fn operate(world: World) -> turmoil::Result {
    if !world.plan().has(FaultClass::Operator) {
        return Ok(());
    }
    while !world.is_calm() {
        world.lag(BETWEEN_MS).await;
        let partition =
            (world.below(0..2) == 0).then(|| world.below(0..u64::from(world.plan().partitions)) as u32);
        let request = PauseRequest {
            partition,
            by: "operator".to_owned(),
            reason: "simulated".to_owned(),
        };
        if world.is_calm() {
            break;
        }
        world.counters().count("fault operator");
        let paused = tokio::time::timeout(PATIENCE, admin(&world)?.pause(request)).await;
        world.event(format!(
            "the operator pauses {partition:?}: {}",
            matches!(paused, Ok(Ok(_)))
        ));
        world.lag(LASTS_MS).await;
        resume_all(&world).await?;
    }
    // A pause may still land that had no answer.
    while !world.writing_is_over() {
        resume_all(&world).await?;
        world.lag(500..1000).await;
    }
    Ok(())
}

/// Resumes whatever is paused, until nothing is. What is not paused is left alone: resuming it would lift its holds.
async fn resume_all(world: &World) -> turmoil::Result {
    while let Some(scope) = first_pause(world) {
        let partition = match scope {
            PauseScope::Cluster => None,
            PauseScope::Partition(partition) => Some(PartitionId::get(partition)),
        };
        let request = ResumeRequest { partition };
        let resumed = tokio::time::timeout(PATIENCE, admin(world)?.resume(request)).await;
        world.event(format!(
            "the operator resumes {partition:?}: {}",
            matches!(resumed, Ok(Ok(_)))
        ));
        world.lag(100..500).await;
    }
    Ok(())
}

fn first_pause(world: &World) -> Option<PauseScope> {
    let bytes = world.oracle(|oracle| oracle.object(Keys::CONTROL))?;
    let control = Control::decode(Keys::CONTROL, &bytes).ok()?;
    control.pauses.first().map(|pause| pause.scope)
}

/// Returns a client of any admin.
fn admin(world: &World) -> anyhow::Result<AdminServiceClient<Channel>> {
    let names = world.plan().admin_names();
    let name = &names[world.below(0..names.len() as u64) as usize];
    let endpoint = Endpoint::from_shared(net::url(name))?.connect_timeout(Duration::from_secs(1));
    Ok(AdminServiceClient::new(net::channel(endpoint)))
}
