//! The credentials of a command, for every connection it makes.

use crate::wire_security::{ClientSecurity, CredentialFiles, CredentialKind};
use std::path::PathBuf;

/// How a command shows who it is, and whom it believes. A token never stands on the command line, where every user of
/// the machine can read it.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub struct ConnectionArgs {
    /// PEM file with the CAs that certify the nodes; needed for https:// addresses.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file with the certificate to show to nodes that ask for one.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Name that the nodes' certificates must hold, instead of the host in their addresses.
    #[arg(long, value_name = "NAME", env = "TIDEMARK_TLS_SERVER_NAME")]
    pub tls_server_name: Option<String>,
    /// File with the token to show to nodes that ask for one.
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl ConnectionArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// With everything that is wrong with them.
    pub fn security(&self) -> anyhow::Result<ClientSecurity> {
        let files = CredentialFiles {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            ca: self.tls_ca.clone(),
            server_name: self.tls_server_name.clone(),
            token: self.token_file.clone(),
            ..CredentialFiles::default()
        };
        files.client().map_err(|faults| {
            let lines: Vec<String> = faults
                .iter()
                .map(|fault| format!("{}: {}; {}", flag(fault.kind), fault.problem, fault.remedy))
                .collect();
            anyhow::anyhow!("{}", lines.join("\n"))
        })
    }
}

/// Returns the flag of a credential; servers' credentials have none.
const fn flag(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Cert => "--tls-cert",
        CredentialKind::Key => "--tls-key",
        CredentialKind::Ca => "--tls-ca",
        CredentialKind::ServerName => "--tls-server-name",
        CredentialKind::Token => "--token-file",
        CredentialKind::ClientCa | CredentialKind::AcceptedTokens => "credentials",
    }
}
