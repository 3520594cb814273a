//! How commands reach a store.

use anyhow::Context as _;
use clap::Args;
use snapshot_store::{Repository, Seams, StoreOptions};
use std::num::NonZeroU64;

/// Options of the client of the store that `--store` names.
#[derive(Debug, Args)]
pub struct StoreOptionArgs {
    /// Option of the store's client, such as endpoint=http://127.0.0.1:9000; may be given several times. Credentials come
    /// from the usual variables of the environment (AWS_*, AZURE_*, GOOGLE_*).
    #[arg(long = "store-option", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
}

impl StoreOptionArgs {
    /// Opens the repository at `url`. Makes no request.
    ///
    /// # Errors
    /// When URL or options cannot be used.
    pub fn open(&self, url: &str) -> anyhow::Result<Repository> {
        open_repository(url, &self.options).context("--store")
    }

    /// Opens the repository at `url` for transfers of at most `bytes_per_second`, where that is given. Makes no request.
    ///
    /// # Errors
    /// When URL or options cannot be used.
    pub fn open_within(&self, url: &str, bytes_per_second: Option<NonZeroU64>) -> anyhow::Result<Repository> {
        open_within(url, &self.options, bytes_per_second).context("--store")
    }

    /// Returns the options as they were given.
    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.options
    }
}

/// Opens the repository at `url` for transfers of at most `bytes_per_second`, where that is given.
pub(super) fn open_within(
    url: &str,
    options: &[(String, String)],
    bytes_per_second: Option<NonZeroU64>,
) -> anyhow::Result<Repository> {
    let mut options = StoreOptions::for_client(options.iter().cloned());
    options.transfer.bytes_per_second = bytes_per_second.map(NonZeroU64::get);
    Ok(Repository::open_with(url, &options, Seams::real())?)
}

/// Opens the repository at `url` with options of its client.
///
/// # Errors
/// When URL or options cannot be used.
pub fn open_repository(url: &str, options: &[(String, String)]) -> anyhow::Result<Repository> {
    let options = StoreOptions::for_client(options.iter().cloned());
    Ok(Repository::open_with(url, &options, Seams::real())?)
}

/// Parses `KEY=VALUE`. The message does not repeat the value, which may be a secret.
///
/// # Errors
/// When there is no `=`, or nothing before it.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}
