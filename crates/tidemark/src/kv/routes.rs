//! Which node a request goes to: known addresses, their connections, and who leads which partition as far as
//! the client knows. A route is a hint; the answer of the node decides.

use snapshot_store::PartitionId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After how much silence a connection is asked whether it is alive, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Addresses a client keeps connections to; more than any cluster of one client has.
const CHANNELS_MAX: usize = 1000;

/// An address that cannot be connected to, ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not the address of a worker: write it as http://host:port")]
pub struct AddressError {
    /// The address.
    pub address: String,
}

/// Returns a connection to `address` that is made when first used, and again when it was lost.
pub(crate) fn channel(address: &str) -> Result<Channel, AddressError> {
    let not_one = || AddressError {
        address: address.to_owned(),
    };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| not_one())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(not_one());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true)
        .connect_lazy())
}

pub(super) struct Routes {
    endpoints: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channels: BTreeMap<String, Channel>,
    leaders: BTreeMap<PartitionId, String>,
    turn: usize,
}

impl Routes {
    /// `endpoints` is not empty.
    pub(super) fn new(endpoints: Vec<String>) -> Self {
        Routes {
            endpoints,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Returns where `partition` is led as far as known, else the next endpoint in turn.
    pub(super) fn target(&self, partition: PartitionId) -> String {
        let mut state = self.lock();
        if let Some(leader) = state.leaders.get(&partition) {
            return leader.clone();
        }
        state.turn = state.turn.wrapping_add(1);
        self.endpoints[state.turn % self.endpoints.len()].clone()
    }

    pub(super) fn learn(&self, partition: PartitionId, address: &str) {
        self.lock().leaders.insert(partition, address.to_owned());
    }

    /// Forgets the route to `partition`, if it still goes to `address`.
    pub(super) fn forget(&self, partition: PartitionId, address: &str) {
        let mut state = self.lock();
        if state
            .leaders
            .get(&partition)
            .is_some_and(|leader| leader == address)
        {
            state.leaders.remove(&partition);
        }
    }

    pub(super) fn channel(&self, address: &str) -> Result<Channel, AddressError> {
        let mut state = self.lock();
        if let Some(channel) = state.channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = channel(address)?;
        if state.channels.len() < CHANNELS_MAX {
            state.channels.insert(address.to_owned(), channel.clone());
        }
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_take_turns_until_a_leader_is_known() {
        let routes = Routes::new(vec!["http://a:1".into(), "http://b:1".into()]);
        let partition = PartitionId::new(0);
        let (first, second) = (routes.target(partition), routes.target(partition));
        assert_ne!(first, second);
        routes.learn(partition, "http://c:1");
        assert_eq!(routes.target(partition), "http://c:1");
        routes.forget(partition, "http://a:1");
        assert_eq!(
            routes.target(partition),
            "http://c:1",
            "a late failure elsewhere does not undo a newer hint"
        );
        routes.forget(partition, "http://c:1");
        assert_ne!(routes.target(partition), "http://c:1");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_a_remedy() {
        for bad in ["", "worker-1:7310", "https://worker-1:7310", "file:///tmp"] {
            let error = channel(bad)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(error.contains("http://host:port"), "{bad:?}: {error}");
        }
        assert!(channel("http://127.0.0.1:7310").is_ok());
    }
}
