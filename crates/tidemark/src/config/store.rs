//! Where snapshots are, and how the store is reached.

use super::Faults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_store::{Incremental, OpenError, Repository, Seams, StoreOptions, TransferOptions};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Where snapshots are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// URL of the repository, the same for all nodes: `file:///absolute/folder`, `s3://bucket/prefix`,
    /// `az://container/prefix` or `gs://bucket/prefix`. Required. Takes effect at start. Since 0.1.
    pub url: String,
    /// Options of the store's client, such as `endpoint`, `region` or `allow_http`; docs/stores.md lists them. They win
    /// over the environment (`AWS_*`, `AZURE_*`, `GOOGLE_*`), which is the better place for credentials. Default: none.
    /// Takes effect at start. Since 0.1.
    pub options: ClientOptions,
    /// Whether a snapshot copies files inside the store that an earlier one holds, instead of uploading them: "auto" (where
    /// it saves something), "on" or "off". Default: "auto". Takes effect at start. Since 0.1.
    pub incremental: IncrementalChoice,
    /// Parts of files that may be under way at once, at least 2; restores are served first. A part has 8 MiB, so this bounds
    /// memory, too. Default: 16. Takes effect at start. Since 0.1.
    pub requests_max: u32,
    /// Bytes per second that may be sent and received in all; 0 is unbounded. Default: 0. Takes effect at start.
    /// Since 0.1.
    pub bytes_per_second: u64,
    /// Longest time in milliseconds for one request with its body: 8 MiB must fit in it. Default: 60000. Takes effect
    /// at start. Since 0.1.
    pub request_timeout_ms: u64,
    /// Longest time in milliseconds for a connection to be made. Default: 5000. Takes effect at start. Since 0.1.
    pub connect_timeout_ms: u64,
    /// How often the client repeats a request that failed. Default: 3. Takes effect at start. Since 0.1.
    pub retries_max: u32,
}

/// Options of a store's client by name. Values may be secrets and are never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ClientOptions(pub BTreeMap<String, String>);

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether uploads are incremental.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IncrementalChoice {
    /// On every store with an API for copies, not in a local folder, where a copy costs what an upload costs.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Default for StoreSection {
    fn default() -> Self {
        let transfer = TransferOptions::default();
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        StoreSection {
            url: "file:///var/lib/tidemark/bucket".into(),
            options: ClientOptions::default(),
            incremental: IncrementalChoice::default(),
            requests_max: u32::try_from(transfer.requests_max).unwrap_or(u32::MAX),
            bytes_per_second: transfer.bytes_per_second.unwrap_or(0),
            request_timeout_ms: milliseconds(transfer.request_timeout),
            connect_timeout_ms: milliseconds(transfer.connect_timeout),
            retries_max: u32::try_from(transfer.retries_max).unwrap_or(u32::MAX),
        }
    }
}

impl StoreSection {
    /// Opens the repository. Makes no request.
    ///
    /// # Errors
    /// When URL or options cannot be used.
    pub fn open(&self, seams: Seams) -> Result<Repository, OpenError> {
        Repository::open_with(&self.url, &self.to_options(), seams)
    }

    fn to_options(&self) -> StoreOptions {
        StoreOptions {
            client: self.options.0.clone(),
            transfer: TransferOptions {
                requests_max: self.requests_max as usize,
                bytes_per_second: (self.bytes_per_second > 0).then_some(self.bytes_per_second),
                request_timeout: Duration::from_millis(self.request_timeout_ms),
                connect_timeout: Duration::from_millis(self.connect_timeout_ms),
                retries_max: self.retries_max as usize,
            },
            incremental: match self.incremental {
                IncrementalChoice::Auto => Incremental::Auto,
                IncrementalChoice::On => Incremental::On,
                IncrementalChoice::Off => Incremental::Off,
            },
            ..StoreOptions::default()
        }
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        if let Err(error) = self.open(Seams::real()) {
            let (key, remedy) = match &error {
                OpenError::UnknownOption { option, .. } | OpenError::RefusedOption { option } => (
                    format!("store.options.{option}"),
                    "take it out, or compare it with docs/stores.md",
                ),
                OpenError::Client { .. } => (
                    "store.options".to_owned(),
                    "docs/stores.md says what this kind of store needs",
                ),
                _ => (
                    "store.url".to_owned(),
                    "write it as \"file:///absolute/folder\" or \"s3://bucket/prefix\"",
                ),
            };
            faults.add(key, with_sources(&error), remedy);
        }
        if self.requests_max < 2 {
            faults.add(
                "store.requests_max",
                "is below 2",
                "set at least 2: one for restores",
            );
        }
        faults.at_least_one("store.request_timeout_ms", self.request_timeout_ms);
        faults.at_least_one("store.connect_timeout_ms", self.connect_timeout_ms);
    }
}

/// Returns the message of an error and of what caused it.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
