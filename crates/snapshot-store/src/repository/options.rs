//! How a store is reached, and how much of it one process may use at once.

use crate::Blocking;
use std::{collections::BTreeMap, fmt, time::Duration};

/// How a repository is opened. The default is right for a store whose usual environment variables are set.
#[derive(Clone, Default)]
pub struct StoreOptions {
    /// Options of the store's client by name, such as `endpoint`, `region` or `allow_http`: the names are those of the
    /// `object_store` crate. They win over the environment (`AWS_*`, `AZURE_*`, `GOOGLE_*`). May hold credentials, and is
    /// never printed.
    pub client: BTreeMap<String, String>,
    /// What this process may ask of the store at once.
    pub transfer: TransferOptions,
    /// Whether a snapshot reuses the files of those before it.
    pub incremental: Incremental,
    /// Where files are read, written and hashed.
    pub blocking: Blocking,
}

impl StoreOptions {
    /// Takes `options` for the store's client, and defaults for the rest.
    pub fn for_client(options: impl IntoIterator<Item = (String, String)>) -> Self {
        StoreOptions {
            client: options.into_iter().collect(),
            ..StoreOptions::default()
        }
    }
}

/// Prints the names of the client's options, not their values: some are secrets.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("client", &self.client.keys().collect::<Vec<_>>())
            .field("transfer", &self.transfer)
            .field("incremental", &self.incremental)
            .field("blocking", &self.blocking)
            .finish()
    }
}

/// What a process may ask of its store at once. Restores are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// How many transfers of parts may be under way at once, at least 2. A part has 8 MiB in most cases and lies in memory meanwhile,
    /// so this also bounds the memory that transfers use.
    pub requests_max: usize,
    /// How many bytes per second may be sent and received in all; `None` is unbounded.
    pub bytes_per_second: Option<u64>,
    /// How long the client below may take for one request, its body included.
    pub request_timeout: Duration,
    /// How long it may wait for a connection.
    pub connect_timeout: Duration,
    /// How often it repeats a request that failed.
    pub retries_max: usize,
}

impl Default for TransferOptions {
    fn default() -> Self {
        TransferOptions {
            requests_max: 16,
            bytes_per_second: None,
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            retries_max: 3,
        }
    }
}

/// Whether a snapshot's upload copies files inside the store that an earlier snapshot holds already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Incremental {
    /// Where it saves something: on every store with an API for it, not in a local folder.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: every file is uploaded.
    Off,
}
