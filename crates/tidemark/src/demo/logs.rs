//! The logs themselves, asked directly: where they end, whether every server has them, whether a record is missing.

use super::{
    DemoError,
    scenario::{STEP_WITHIN, Stage},
};
use crate::{cluster::wait_for, roles::LogEnds};
use futures::StreamExt as _;
use partition_log::{Log, ReadError, nats::FindingLevel};
use snapshot_store::PartitionId;
use std::{collections::BTreeMap, time::Duration};

/// How often a log is read from the start again because a trim overtook the reader.
const OVERTAKEN_MAX: u32 = 20;
/// How long the next records may take.
const READ_WITHIN: Duration = Duration::from_secs(30);

impl Stage<'_> {
    /// Returns the tail of every partition's log, as the log itself says: the admin's view may be older than what a worker
    /// that just stopped has applied.
    pub(super) async fn tails(&self) -> Result<BTreeMap<u32, u64>, DemoError> {
        let tails = wait_for("the tails of all partitions", STEP_WITHIN, async || {
            tails(&self.logs, self.partitions).await
        })
        .await?;
        Ok(tails)
    }

    /// Waits until the log of every partition has taken records beyond the tail given for it.
    pub(super) async fn until_appended_past(
        &self,
        what: &str,
        beyond: &BTreeMap<u32, u64>,
    ) -> Result<(), DemoError> {
        wait_for(what, STEP_WITHIN, async || {
            let now = tails(&self.logs, self.partitions).await?;
            let still = beyond
                .iter()
                .find(|(partition, tail)| now.get(partition).is_none_or(|now| now <= tail));
            match still {
                None => Ok(()),
                Some((partition, tail)) => {
                    Err(format!("the log of partition {partition} still ends at {tail}"))
                }
            }
        })
        .await?;
        Ok(())
    }

    /// Waits until the NATS servers lack nothing: each has all logs, and what is in them.
    pub(super) async fn until_nothing_lacks(&self) -> Result<(), DemoError> {
        let Some(log) = &self.logs.nats else {
            return Ok(());
        };
        let partitions: Vec<PartitionId> = (0..self.partitions).map(PartitionId::new).collect();
        wait_for("every NATS server to have all logs", STEP_WITHIN, async || {
            let findings = log.check(&partitions).await;
            match findings
                .into_iter()
                .find(|finding| finding.level >= FindingLevel::Lacking)
            {
                None => Ok(()),
                Some(finding) => Err(finding.text),
            }
        })
        .await?;
        Ok(())
    }

    /// Reads all logs from their trim points to their tails and returns what is missing in them, in sentences.
    pub(super) async fn holes(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for number in 0..self.partitions {
            if let Err(fault) = read_through(&*self.logs.log, PartitionId::new(number)).await {
                faults.push(format!("partition {number}: {fault}"));
            }
        }
        faults
    }
}

async fn tails(logs: &LogEnds, partitions: u32) -> Result<BTreeMap<u32, u64>, String> {
    let mut tails = BTreeMap::new();
    for number in 0..partitions {
        let info = logs.log.info(PartitionId::new(number)).await;
        tails.insert(number, info.map_err(|error| error.to_string())?.tail.get());
    }
    Ok(tails)
}

/// Reads a log from its trim point to its tail.
///
/// # Errors
/// When a record is missing, or the log cannot be read.
async fn read_through(log: &dyn Log, partition: PartitionId) -> Result<(), String> {
    'again: for _ in 0..OVERTAKEN_MAX {
        let info = log.info(partition).await.map_err(|error| error.to_string())?;
        let mut next = info.trim_point.next();
        let mut stream = match log.read(partition, info.incarnation, next).await {
            Err(ReadError::Trimmed { .. }) => continue,
            opened => opened.map_err(|error| error.to_string())?,
        };
        while next < info.tail {
            let item = tokio::time::timeout(READ_WITHIN, stream.next()).await;
            match item {
                Ok(Some(Ok(batch))) if batch.first == next => next = batch.end(),
                Ok(Some(Ok(batch))) => return Err(format!("after {next} comes {}", batch.first)),
                Ok(Some(Err(ReadError::Trimmed { .. }))) => continue 'again,
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) => return Err(format!("reading ends before {next}")),
                Err(_) => return Err(format!("{next} is not read within {READ_WITHIN:?}")),
            }
        }
        return Ok(());
    }
    Err(format!("trims overtook the reader {OVERTAKEN_MAX} times"))
}
