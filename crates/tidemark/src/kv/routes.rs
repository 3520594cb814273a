//! Which node a request goes to: known addresses, their connections, and who leads which partition as far as
//! the client knows. A route is a hint; the answer of the node decides.

use crate::wire_security::{AddressError, ClientSecurity, SecuredChannel};
use snapshot_store::PartitionId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Addresses a client keeps connections to; more than any cluster of one client has.
const CHANNELS_MAX: usize = 1000;

pub(super) struct Routes {
    endpoints: Vec<String>,
    security: ClientSecurity,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channels: BTreeMap<String, SecuredChannel>,
    leaders: BTreeMap<PartitionId, String>,
    turn: usize,
}

impl Routes {
    /// `endpoints` is not empty.
    pub(super) fn new(endpoints: Vec<String>, security: ClientSecurity) -> Self {
        Routes {
            endpoints,
            security,
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

    /// Returns a connection to `address` that others do not use.
    pub(super) fn own_channel(&self, address: &str) -> Result<SecuredChannel, AddressError> {
        self.security.connect(address)
    }

    pub(super) fn channel(&self, address: &str) -> Result<SecuredChannel, AddressError> {
        let mut state = self.lock();
        if let Some(channel) = state.channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.own_channel(address)?;
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
        let routes = Routes::new(
            vec!["http://a:1".into(), "http://b:1".into()],
            ClientSecurity::open(),
        );
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
}
