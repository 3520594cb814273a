//! How a node learns which cluster it belongs to.
//!
//! The identity is anchored in the data folder and in the log's registry, so the two must agree: a worker whose
//! log belongs to another cluster does not start. Only the first start asks the store, and nothing is written to
//! the data folder before the log agreed with it. A store or a log that does not answer is asked again.

use super::{RoleError, metrics::Readiness};
use crate::config::PartitionChoice;
use partition_log::{Log, LogError, Passage};
use snapshot_store::{ClusterIdentity, Entropy, NodeId, PartitionId, Repository, format::ClusterRecord};
use snapshot_worker::agent::{IdentityError, LocalIdentity};
use std::{path::Path, time::Duration};
use tokio_util::sync::CancellationToken;

/// First and longest pause between two attempts. There is no last attempt: a node that waits for its store does no
/// harm, says so in `/readyz`, and an operator can end it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What one attempt came to.
enum Attempt<T> {
    Known(T),
    Waiting(String),
}

/// The log, and what the configuration calls it.
pub(super) struct NamedLog<'a> {
    pub(super) log: &'a dyn Log,
    pub(super) url: &'a str,
}

/// Returns the identity of a worker, or `None` when the node was told to stop while it waited.
///
/// # Errors
/// When folder, store and log contradict each other; waiting would not help.
pub(super) async fn of_worker(
    data_dir: &Path,
    node: &NodeId,
    repository: &Repository,
    log: &NamedLog<'_>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<Option<LocalIdentity>> {
    let attempt = async || {
        if LocalIdentity::load(data_dir)?.is_some() {
            let identity = LocalIdentity::adopt(data_dir, node, repository).await?;
            let anchor = format!("the data folder {}", data_dir.display());
            if let Err(silence) = log.compare(&identity.cluster, &anchor).await? {
                // The partitions themselves retry and say so; what is here can be read meanwhile.
                tracing::warn!("{silence}; going on with the local state");
            }
            return Ok(Attempt::Known(identity));
        }
        match in_store(repository, log).await? {
            Attempt::Waiting(reason) => Ok(Attempt::Waiting(reason)),
            Attempt::Known(_) => Ok(Attempt::Known(
                LocalIdentity::adopt(data_dir, node, repository).await?,
            )),
        }
    };
    wait_for(attempt, readiness, stop).await
}

/// Returns the identity that the store holds and the log confirms, or `None` when the node was told to stop while
/// it waited. For nodes without a data folder.
///
/// # Errors
/// When store and log contradict each other; waiting would not help.
pub(super) async fn of_store(
    repository: &Repository,
    log: &NamedLog<'_>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<Option<ClusterRecord>> {
    wait_for(async || in_store(repository, log).await, readiness, stop).await
}

async fn wait_for<T>(
    attempt: impl AsyncFn() -> anyhow::Result<Attempt<T>>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<Option<T>> {
    let entropy = Entropy::from_os();
    let mut pause = PAUSE.0;
    loop {
        let waiting = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            result = attempt() => match result? {
                Attempt::Known(identity) => return Ok(Some(identity)),
                Attempt::Waiting(reason) => reason,
            },
        };
        if readiness.waiting_for().as_deref() != Some(&waiting) {
            tracing::warn!("waiting: {waiting}");
        }
        readiness.not_ready(waiting);
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause.mul_f64(entropy.jitter(0.2))) => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn in_store(repository: &Repository, log: &NamedLog<'_>) -> anyhow::Result<Attempt<ClusterRecord>> {
    let url = repository.url();
    let record = match repository.cluster().await {
        Ok(Some(record)) => record,
        Ok(None) => {
            let waiting = IdentityError::NotInitialised { url: url.to_owned() };
            return Ok(Attempt::Waiting(waiting.to_string()));
        }
        Err(error) if error.is_retryable() => {
            return Ok(Attempt::Waiting(format!(
                "the store {url} does not answer: {error}; check `store.url`"
            )));
        }
        Err(error) => return Err(anyhow::Error::new(error).context("the cluster's identity cannot be read")),
    };
    match log.compare(&record.cluster, &format!("the store {url}")).await? {
        Ok(()) => Ok(Attempt::Known(record)),
        Err(silence) => Ok(Attempt::Waiting(silence)),
    }
}

impl NamedLog<'_> {
    /// Compares `expected` with the owner of the log; the inner error says why that is not known.
    async fn compare(
        &self,
        expected: &ClusterIdentity,
        anchor: &str,
    ) -> Result<Result<(), String>, RoleError> {
        // One registration speaks for the log: all are provisioned together, and each partition checks its own.
        let partition = PartitionId::new(0);
        match self.log.registration(partition).await {
            Ok(registration) if registration.fingerprint == expected.fingerprint => {
                match registration.passage {
                    Some(Passage::Left { to, .. }) => {
                        Err(RoleError::MovedLog(LogError::Moved { partition, to }))
                    }
                    _ => Ok(Ok(())),
                }
            }
            Ok(registration) => Err(RoleError::ForeignLog {
                partition,
                log: self.url.to_owned(),
                found: registration.fingerprint,
                anchor: anchor.to_owned(),
                expected: expected.clone(),
            }),
            Err(error @ LogError::Missing { .. }) => Ok(Err(error.to_string())),
            Err(error) => {
                let url = self.url;
                Ok(Err(format!(
                    "the log {url} does not answer: {error}; start it or correct the section `log`"
                )))
            }
        }
    }
}

/// Returns the partitions that `choice`, from the configuration key `key`, means in a cluster of `partitions`.
///
/// # Errors
/// When it names one that the cluster has not.
pub(super) fn chosen(
    key: &str,
    choice: &PartitionChoice,
    partitions: u32,
) -> Result<Vec<PartitionId>, RoleError> {
    let numbers = match choice {
        PartitionChoice::All(_) => return Ok((0..partitions).map(PartitionId::new).collect()),
        PartitionChoice::Only(numbers) => numbers,
    };
    let mut chosen: Vec<_> = numbers.iter().copied().map(PartitionId::new).collect();
    chosen.sort_unstable();
    match chosen.iter().find(|partition| partition.get() >= partitions) {
        Some(stray) => Err(RoleError::NoSuchPartition {
            key: key.to_owned(),
            partition: *stray,
            partitions,
        }),
        None => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_partitions_is_checked_against_the_cluster() {
        let numbers = |choice: &PartitionChoice| {
            let chosen = chosen("partitions", choice, 4);
            chosen.map(|chosen| chosen.into_iter().map(PartitionId::get).collect::<Vec<_>>())
        };
        assert_eq!(numbers(&PartitionChoice::ALL).unwrap(), [0, 1, 2, 3]);
        assert_eq!(numbers(&PartitionChoice::Only(vec![3, 1])).unwrap(), [1, 3]);
        let error = numbers(&PartitionChoice::Only(vec![1, 4]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("partition 4") && error.contains("0 to 3"),
            "{error}"
        );
    }
}
