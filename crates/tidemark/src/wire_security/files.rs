//! Where the credentials of one process lie, and what is wrong with them.

use super::{AcceptedTokens, ClientSecurity, Gate, ServerSecurity, Token, cause_of, pem};
use snapshot_store::Clock;
use std::{path::PathBuf, sync::Arc};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig};

/// The files a process takes its credentials from. They are read when it starts, and not again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Certificate chain of this process in PEM format, its own certificate first. A server shows it to all clients;
    /// a client shows it to servers that ask for one.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// CAs of which a server's clients must have a certificate; none asks for none.
    pub client_ca: Option<PathBuf>,
    /// CAs of which the servers that a client connects to must have a certificate.
    pub ca: Option<PathBuf>,
    /// Name that servers' certificates must hold, instead of the host in their addresses.
    pub server_name: Option<String>,
    /// The tokens a server accepts.
    pub accepted_tokens: Option<PathBuf>,
    /// The token a client shows.
    pub token: Option<PathBuf>,
}

/// Which of the [`CredentialFiles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialKind {
    /// `cert`.
    Cert,
    /// `key`.
    Key,
    /// `client_ca`.
    ClientCa,
    /// `ca`.
    Ca,
    /// `server_name`.
    ServerName,
    /// `accepted_tokens`.
    AcceptedTokens,
    /// `token`.
    Token,
}

/// One thing that is wrong with the credentials. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFault {
    /// Which of the files.
    pub kind: CredentialKind,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

const RIGHT_FILE: &str = "name a PEM file that this process may read";
const BOTH: &str = "set both, or neither";

/// Collects faults; a part that is faulty is left out.
#[derive(Default)]
struct Reader {
    faults: Vec<CredentialFault>,
}

impl Reader {
    fn fault(&mut self, kind: CredentialKind, problem: impl Into<String>, remedy: &'static str) {
        self.faults.push(CredentialFault {
            kind,
            problem: problem.into(),
            remedy,
        });
    }

    fn take<T>(&mut self, kind: CredentialKind, remedy: &'static str, read: Result<T, String>) -> Option<T> {
        read.map_err(|problem| self.fault(kind, problem, remedy)).ok()
    }

    fn certificates(&mut self, kind: CredentialKind, path: Option<&PathBuf>) -> Option<Certificate> {
        let pem = self.take(kind, RIGHT_FILE, pem::certificates(path?))?;
        Some(Certificate::from_pem(pem))
    }

    /// Reads certificate and key of this process.
    fn identity(&mut self, files: &CredentialFiles) -> Option<Identity> {
        let (cert, key) = match (&files.cert, &files.key) {
            (None, None) => return None,
            (Some(_), None) => {
                self.fault(CredentialKind::Key, "is missing beside the certificate", BOTH);
                return None;
            }
            (None, Some(_)) => {
                self.fault(CredentialKind::Cert, "is missing beside the private key", BOTH);
                return None;
            }
            (Some(cert), Some(key)) => (cert, key),
        };
        let certificate = self.take(CredentialKind::Cert, RIGHT_FILE, pem::certificates(cert));
        let key_pem = self.take(CredentialKind::Key, RIGHT_FILE, pem::private_key(key));
        let identity = Identity::from_pem(certificate?, key_pem?);
        let server = ServerTlsConfig::new().identity(identity.clone());
        if let Err(error) = Server::builder().tls_config(server) {
            let problem = format!(
                "does not belong to the certificate in {}: {}",
                cert.display(),
                cause_of(&error)
            );
            self.fault(
                CredentialKind::Key,
                problem,
                "name the key that the certificate was made for",
            );
            return None;
        }
        Some(identity)
    }

    fn end<T>(self, made: T) -> Result<T, Vec<CredentialFault>> {
        match self.faults.is_empty() {
            true => Ok(made),
            false => Err(self.faults),
        }
    }
}

impl CredentialFiles {
    /// Reads what a server needs; `clock` decides when a token has expired.
    ///
    /// # Errors
    /// With every fault at once.
    pub fn server(&self, clock: Arc<dyn Clock>) -> Result<ServerSecurity, Vec<CredentialFault>> {
        choose_ring();
        let mut reader = Reader::default();
        let mut security = ServerSecurity::open();
        let identity = reader.identity(self);
        let client_ca = reader.certificates(CredentialKind::ClientCa, self.client_ca.as_ref());
        if client_ca.is_some() && self.cert.is_none() {
            reader.fault(
                CredentialKind::ClientCa,
                "asks for certificates of clients without TLS",
                "set certificate and key of this node, too",
            );
        }
        if let Some(identity) = identity {
            let mut tls = ServerTlsConfig::new().identity(identity);
            let mutual = client_ca.is_some();
            if let Some(ca) = client_ca {
                tls = tls.client_ca_root(ca);
            }
            if let Err(error) = Server::builder().tls_config(tls.clone()) {
                reader.fault(CredentialKind::ClientCa, cause_of(&error), RIGHT_FILE);
            }
            security = security.with_tls(tls, mutual);
        }
        if let Some(path) = &self.accepted_tokens {
            let parsed = pem::read(path).and_then(|bytes| {
                let text = String::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
                AcceptedTokens::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
            });
            let remedy = "`tidemark token create` prints entries for it";
            if let Some(tokens) = reader.take(CredentialKind::AcceptedTokens, remedy, parsed) {
                security = security.with_gate(Gate::new(tokens, clock));
            }
        }
        reader.end(security)
    }

    /// Reads what a client needs.
    ///
    /// # Errors
    /// With every fault at once.
    pub fn client(&self) -> Result<ClientSecurity, Vec<CredentialFault>> {
        choose_ring();
        let mut reader = Reader::default();
        let mut security = ClientSecurity::open();
        let identity = reader.identity(self);
        let ca = reader.certificates(CredentialKind::Ca, self.ca.as_ref());
        if let Some(name) = &self.server_name
            && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            let problem = format!("{name:?} is not the name of a server");
            reader.fault(
                CredentialKind::ServerName,
                problem,
                "write a host name or an IP address",
            );
        }
        if let Some(ca) = ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(ca);
            if let Some(name) = &self.server_name {
                tls = tls.domain_name(name);
            }
            if let Some(identity) = identity {
                tls = tls.identity(identity);
            }
            security = security.with_tls(tls);
        }
        if let Some(path) = &self.token {
            let loaded = Token::load(path).map_err(|error| match &error {
                super::TokenError::Unreadable { source, .. } => format!("{error}: {source}"),
                _ => format!("{}: {error}", path.display()),
            });
            let remedy = "`tidemark token create` writes one";
            if let Some(token) = reader.take(CredentialKind::Token, remedy, loaded) {
                security = security.with_token(&token);
            }
        }
        reader.end(security)
    }
}

/// Chooses the implementation of TLS for this process, unless the embedding program has chosen one.
fn choose_ring() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Failing means that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
