//! The log as one node sees it: the shipped client, and a node that may stop while a request is under way.

use crate::{
    plan::FaultClass,
    plant::{self, Plant},
    world::World,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use partition_log::{
    AppendError, Log, LogAdmin, LogError, LogInfo, ProvisionError, ReadError, RecordStream, Registration,
};
use snapshot_store::{Incarnation, Lsn, PartitionId};

/// How often a node stops at a request to the log.
const CRASH_CHANCE: f64 = 0.0005;

/// The log as `node` sees it, through `inner`.
pub(crate) struct NodeLog<L> {
    pub(crate) world: World,
    pub(crate) node: String,
    pub(crate) inner: L,
}

impl<L> NodeLog<L> {
    async fn step<T>(&self, request: impl Future<Output = T>) -> T {
        self.maybe_crash("before").await;
        let answer = request.await;
        self.maybe_crash("after").await;
        answer
    }

    async fn maybe_crash(&self, moment: &str) {
        if self.world.strikes(FaultClass::CrashAtStep, CRASH_CHANCE) {
            self.world
                .event(format!("{} stops {moment} a request to the log", self.node));
            self.world.crash_soon(&self.node);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl<L: Log + Clone> Log for NodeLog<L> {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.step(self.inner.registration(partition)).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        let info = self.step(self.inner.info(partition)).await?;
        Ok(plant::info(&self.world, &self.node, info))
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        let request = self.inner.append(partition, incarnation, batch, expected_tail);
        self.step(request).await
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        let read = self.step(self.inner.read(partition, incarnation, from)).await;
        if self.world.has_planted(Plant::SkipGap) {
            let stream = read.unwrap_or_else(|error| stream::iter([Err(error)]).boxed());
            let missed = self
                .world
                .oracle(|oracle| oracle.history(partition)?.record(from));
            let skipped = (self.inner.clone(), missed);
            return Ok(plant::skip_gaps(skipped, partition, incarnation, from, stream));
        }
        read
    }
}

#[async_trait]
impl<L: LogAdmin> LogAdmin for NodeLog<L> {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        self.inner.provision(registration).await
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        self.inner.set_sealed(partition, incarnation, sealed).await
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        self.step(self.inner.trim(partition, incarnation, up_to)).await
    }
}
