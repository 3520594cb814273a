//! Which engine keeps the logs, and how a node reaches it.

use super::Faults;
use partition_log::nats::{NatsCredentials, NatsOptions, NatsTls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What keeps the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogEngine {
    /// A log server (`tidemark log serve`) with the logs on its disk.
    #[default]
    Embedded,
    /// NATS JetStream, replicated by its servers.
    Nats,
}

/// Where the logs are on NATS. Workers and admins have credentials of their own: docs/engines.md has the servers'
/// configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NatsSection {
    /// Addresses of the servers: "nats://host:port", or "tls://host:port". One that answers is enough to find the others.
    /// Default: ["nats://127.0.0.1:4222"]. Takes effect at start. Since 0.1.
    pub servers: Vec<String>,
    /// Begins the names of all streams: one for each cluster on these servers. Default: "tidemark". Takes effect at start.
    /// Since 0.1.
    pub prefix: String,
    /// Credentials file as `nsc` writes it: a JWT and the seed of its key. Default: "", none. Takes effect at start. Since
    /// 0.1.
    pub credentials: PathBuf,
    /// File with one line `user:password`, instead of `credentials`. Default: "", none. Takes effect at start. Since 0.1.
    pub login: PathBuf,
    /// PEM file with the CAs of which the servers must have a certificate. Default: "", those of the system. Takes effect at
    /// start. Since 0.1.
    pub ca: PathBuf,
    /// PEM files with the certificate and its key for servers that ask for one. Default: "", none. Take effect at start.
    /// Since 0.1.
    pub cert: PathBuf,
    /// The key of `cert`. Default: "". Takes effect at start. Since 0.1.
    pub key: PathBuf,
}

impl Default for NatsSection {
    fn default() -> Self {
        let NatsOptions { servers, prefix, .. } = NatsOptions::default();
        NatsSection {
            servers,
            prefix,
            credentials: PathBuf::new(),
            login: PathBuf::new(),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

impl NatsSection {
    /// Turns the section into what the engine takes; reads the file `login`.
    ///
    /// # Errors
    /// When that cannot be read, or is no login.
    pub(crate) fn options(&self) -> anyhow::Result<NatsOptions> {
        let credentials = match (given(&self.credentials), given(&self.login)) {
            (None, None) => NatsCredentials::None,
            (Some(file), _) => NatsCredentials::File(file),
            (None, Some(file)) => read_login(&file)?,
        };
        Ok(NatsOptions {
            servers: self.servers.clone(),
            prefix: self.prefix.clone(),
            credentials,
            tls: NatsTls {
                required: false,
                ca_file: given(&self.ca),
                cert_file: given(&self.cert),
                key_file: given(&self.key),
            },
            ..NatsOptions::default()
        })
    }

    /// Adds what is wrong with the section, which stands under `log.nats`.
    pub(super) fn check(&self, faults: &mut Faults) {
        if given(&self.credentials).is_some() && given(&self.login).is_some() {
            faults.add(
                "log.nats.login",
                "is set beside `log.nats.credentials`",
                "set one of the two",
            );
        }
        match self.options() {
            Ok(options) => options
                .faults()
                .into_iter()
                .for_each(|fault| faults.add("log.nats", fault, "docs/engines.md says what each key means")),
            Err(error) => faults.add(
                "log.nats.login",
                format!("{error:#}"),
                "name a file with one line `user:password`",
            ),
        }
    }
}

/// Reads a file with one line `user:password`.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub(crate) fn read_login(file: &Path) -> anyhow::Result<NatsCredentials> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| anyhow::anyhow!("the login file {} cannot be read: {error}", file.display()))?;
    let (user, password) = text
        .trim_end_matches(['\r', '\n'])
        .split_once(':')
        .filter(|(user, password)| !user.is_empty() && !password.contains('\n'))
        .ok_or_else(|| {
            anyhow::anyhow!(
                "the login file {} is not one line `user:password`",
                file.display()
            )
        })?;
    Ok(NatsCredentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}
