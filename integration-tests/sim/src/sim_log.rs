//! The engine behind the log's server: the memory engine, with latency and faults, and a record of all it ever took.

use crate::{plan::FaultClass, plant, world::World};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use partition_log::{
    AppendError, Log, LogAdmin, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration,
};
use snapshot_store::{Incarnation, Lsn, PartitionId};

/// The log that the log's host serves.
#[derive(Clone)]
pub(crate) struct SimLog(World);

impl SimLog {
    pub(crate) fn new(world: World) -> Self {
        SimLog(world)
    }

    fn unavailable(partition: PartitionId) -> LogError {
        LogError::Unavailable {
            partition,
            detail: "a simulated fault".to_owned(),
        }
    }

    fn unknown() -> AppendError {
        AppendError::Unknown {
            detail: "a simulated fault".to_owned(),
        }
    }
}

/// Appends for good, and tells the oracle.
fn append(
    world: &World,
    partition: PartitionId,
    incarnation: Incarnation,
    batch: Vec<Bytes>,
    expected_tail: Option<Lsn>,
) -> Result<Lsn, AppendError> {
    let appended = world
        .log()
        .append(partition, incarnation, batch.clone(), expected_tail)
        .now_or_never();
    let appended = appended.unwrap_or_else(|| Err(SimLog::unknown()));
    match &appended {
        Ok(last) => {
            let known = world.oracle(|oracle| Some(oracle.history(partition)?.append(&batch)));
            if known != Some(*last) {
                world.violate(format!(
                    "the log of {partition} is at {last}, its records are at {known:?}"
                ));
            }
            world.event(format!("log {partition} appended up to {last}"));
        }
        Err(AppendError::TailMismatch { tail }) => {
            world.counters().count("append lost a race");
            world.event(format!("log {partition} refused an append, its tail is {tail}"));
        }
        Err(error) => world.event(format!("log {partition} refused an append: {error}")),
    }
    appended
}

/// Trims for good, and has the oracle look.
fn trim(
    world: &World,
    partition: PartitionId,
    incarnation: Incarnation,
    up_to: Lsn,
) -> Result<Lsn, LogError> {
    let (incarnation, up_to) = plant::trim(world, partition, incarnation, up_to);
    let trimmed = world.log().trim(partition, incarnation, up_to).now_or_never();
    let trim_point = world.oracle(|oracle| oracle.after_trim(partition));
    world.counters().count("trim executed");
    world.event(format!(
        "log {partition} trimmed to {trim_point}, asked for {up_to}"
    ));
    trimmed.unwrap_or_else(|| Err(SimLog::unavailable(partition)))
}

#[async_trait]
impl Log for SimLog {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.0.lag(1..4).await;
        if self.0.strikes(FaultClass::LogReadFails, 0.02) {
            return Err(Self::unavailable(partition));
        }
        self.0.log().registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        self.0.lag(1..4).await;
        if self.0.strikes(FaultClass::LogReadFails, 0.02) {
            return Err(Self::unavailable(partition));
        }
        self.0.log().info(partition).await
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let world = &self.0;
        world.lag(1..8).await;
        if world.strikes(FaultClass::AppendLost, 0.02) {
            world.event(format!("log {partition} loses an append"));
            return match world.below(0..2) {
                0 => Err(Self::unavailable(partition).into()),
                _ => Err(Self::unknown()),
            };
        }
        if world.strikes(FaultClass::AppendLate, 0.02) {
            world.event(format!("log {partition} holds an append up"));
            world.later(20..3000, move |world| {
                append(world, partition, incarnation, batch, expected_tail).ok();
            });
            return Err(Self::unknown());
        }
        let appended = append(world, partition, incarnation, batch, expected_tail);
        if world.strikes(FaultClass::AppendUnknown, 0.02) {
            world.event(format!("log {partition} loses the answer to an append"));
            return Err(Self::unknown());
        }
        appended
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        self.0.lag(1..4).await;
        if self.0.strikes(FaultClass::LogReadFails, 0.05) {
            return Err(Self::unavailable(partition).into());
        }
        let read = self.0.log().read(partition, incarnation, from).await;
        if let Err(ReadError::Trimmed { trim_point }) = &read {
            self.0.counters().count("reader met a trim gap");
            self.0.event(format!(
                "log {partition} has no {from}, it is trimmed to {trim_point}"
            ));
        }
        read
    }
}

#[async_trait]
impl LogAdmin for SimLog {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        self.0.log().provision(registration).await
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        self.0.log().set_sealed(partition, incarnation, sealed).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let world = &self.0;
        world.lag(1..20).await;
        if world.strikes(FaultClass::TrimLate, 0.15) {
            world.event(format!("log {partition} holds a trim to {up_to} up"));
            world.later(100..15_000, move |world| {
                trim(world, partition, incarnation, up_to).ok();
            });
            return Err(Self::unavailable(partition));
        }
        if world.strikes(FaultClass::TrimTwice, 0.15) {
            world.later(100..15_000, move |world| {
                trim(world, partition, incarnation, up_to).ok();
            });
        }
        trim(world, partition, incarnation, up_to)
    }
}
