//! How commands reach a log: the address says which engine keeps it.

use super::ConnectionArgs;
use crate::{config::read_login, roles::LogEnds};
use anyhow::Context as _;
use partition_log::nats::{NatsCredentials, NatsOptions, NatsTls};
use std::path::PathBuf;

/// How to reach logs that NATS keeps. The TLS files are those of the other connections.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Logs on NATS (nats://host:port, several with commas between them)")]
pub(super) struct NatsArgs {
    /// Begins the names of the cluster's streams.
    #[arg(
        long,
        value_name = "NAME",
        env = "TIDEMARK_NATS_PREFIX",
        default_value = "tidemark"
    )]
    nats_prefix: String,
    /// Servers that keep each log created now: 1, 3 or 5.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nats_replicas: u8,
    /// Credentials file as `nsc` writes it.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEMARK_NATS_CREDENTIALS",
        conflicts_with = "nats_login"
    )]
    nats_credentials: Option<PathBuf>,
    /// File with one line `user:password`.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_NATS_LOGIN")]
    nats_login: Option<PathBuf>,
}

/// Opens the log at `address`, which the user gave with `flag`. For a log server it is where it accepts what is to be
/// asked: `admin_listen` for everything but looking.
///
/// # Errors
/// When the address or the credentials cannot be used.
pub(super) async fn open(
    flag: &'static str,
    address: &str,
    connection: &ConnectionArgs,
    nats: &NatsArgs,
) -> anyhow::Result<LogEnds> {
    let address = address.trim_end_matches('/');
    match servers(address) {
        Some(servers) => LogEnds::nats(nats.options(servers, connection)?)
            .await
            .context(flag),
        None => {
            let security = connection.security()?;
            security.check(address).context(flag)?;
            LogEnds::server(address, address, &security).context(flag)
        }
    }
}

/// Returns the servers in an address of NATS; `None` for that of a log server.
fn servers(address: &str) -> Option<Vec<String>> {
    let scheme = ["nats://", "tls://"]
        .into_iter()
        .find(|scheme| address.starts_with(scheme))?;
    let servers = address
        .split(',')
        .map(str::trim)
        .map(|server| match server.contains("://") {
            true => server.to_owned(),
            false => format!("{scheme}{server}"),
        });
    Some(servers.collect())
}

impl NatsArgs {
    fn options(&self, servers: Vec<String>, connection: &ConnectionArgs) -> anyhow::Result<NatsOptions> {
        let credentials = match (&self.nats_credentials, &self.nats_login) {
            (None, None) => NatsCredentials::None,
            (Some(file), _) => NatsCredentials::File(file.clone()),
            (None, Some(file)) => read_login(file).context("--nats-login")?,
        };
        Ok(NatsOptions {
            servers,
            prefix: self.nats_prefix.clone(),
            replicas: self.nats_replicas,
            credentials,
            tls: NatsTls {
                required: false,
                ca_file: connection.tls_ca.clone(),
                cert_file: connection.tls_cert.clone(),
                key_file: connection.tls_key.clone(),
            },
            ..NatsOptions::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_an_address_says_which_engine_keeps_the_log() {
        assert_eq!(servers("http://127.0.0.1:7301"), None);
        assert_eq!(servers("https://log:7301"), None);
        let three = servers("nats://n1:4222,n2:4222, tls://n3:4222").unwrap();
        assert_eq!(three, ["nats://n1:4222", "nats://n2:4222", "tls://n3:4222"]);
    }
}
