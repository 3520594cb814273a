//! Where one log lives on the servers, and how it stands there.

use super::core::position::{Bounds, is_linearizable};
use super::core::settings;
use super::link::{Failure, Link};
use super::names::Names;
use crate::{LogError, Registration};
use async_nats::jetstream::stream::{Config, Info};
use snapshot_store::PartitionId;

/// The error code for a stream that is not there.
pub(super) const STREAM_NOT_FOUND: u64 = 10059;

/// The stream of one log.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) stream: String,
    pub(super) subject: String,
}

/// What the servers say of a log.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) bounds: Bounds,
    /// Whether it cannot be out of date.
    pub(super) linearizable: bool,
    pub(super) config: Config,
    /// How many followers of the stream's leader are up to date; `None` when there is one server.
    pub(super) followers_current: Option<usize>,
}

impl Place {
    pub(super) fn new(names: &Names, registration: &Registration) -> Self {
        let Registration {
            partition,
            incarnation,
            ..
        } = *registration;
        Place {
            partition,
            stream: names.stream(partition, incarnation),
            subject: names.subject(partition, incarnation),
        }
    }

    /// Asks how the log stands, whatever its settings.
    pub(super) async fn look_at_any(&self, link: &Link) -> Result<Look, Failure> {
        let info: Info = link.api(&format!("STREAM.INFO.{}", self.stream), &()).await?;
        let followers = info
            .cluster
            .as_ref()
            .map(|cluster| cluster.replicas.iter().filter(|peer| peer.current).count());
        Ok(Look {
            bounds: Bounds::of(info.state.first_sequence, info.state.last_sequence),
            linearizable: is_linearizable(info.config.num_replicas, info.cluster.as_ref()),
            config: info.config,
            followers_current: followers,
        })
    }

    /// Asks how the log stands. One whose settings could lose records is refused.
    pub(super) async fn look(&self, link: &Link) -> Result<Look, Failure> {
        let look = self.look_at_any(link).await?;
        let faults = settings::faults(&look.config, &self.subject);
        if faults.is_empty() {
            return Ok(look);
        }
        Err(Failure::NotSent(self.unsafe_settings(&faults)))
    }

    pub(super) fn unsafe_settings(&self, faults: &[String]) -> String {
        format!(
            "the stream {} is not safe for a log: {}",
            self.stream,
            faults.join("; ")
        )
    }

    /// Returns the error for a request that is harmless to repeat.
    pub(super) fn unavailable(&self, failure: &Failure) -> LogError {
        unavailable(self.partition, failure)
    }
}

/// Returns the error for a request that is harmless to repeat.
pub(super) fn unavailable(partition: PartitionId, failure: &Failure) -> LogError {
    LogError::Unavailable {
        partition,
        detail: failure.to_string(),
    }
}
