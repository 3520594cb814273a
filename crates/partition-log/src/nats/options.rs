//! How to reach the servers, and which part of them is ours.

use std::{fmt, path::PathBuf, time::Duration};

/// The longest prefix, in bytes: it is part of every stream's name.
const PREFIX_BYTES_MAX: usize = 64;

/// How to reach the NATS servers, and which streams of theirs are this cluster's.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Addresses of the servers, such as `nats://10.0.0.1:4222` or `tls://log-1.example:4222`: one is enough to find
    /// the others, several are tried in turn. They carry no user and no password. Default: `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// Begins the names of all streams, subjects and of the registry: letters, digits, `_` and `-`, at most 64. One
    /// per cluster that shares the servers. Default: `tidemark`.
    pub prefix: String,
    /// Servers that hold each log: 1, 3 or 5; of 3, one may fail. Used when logs are created. Default: 3.
    pub replicas: u8,
    /// Who this process is to the servers. Default: nobody in particular.
    pub credentials: NatsCredentials,
    /// Certificates for TLS.
    pub tls: NatsTls,
    /// How long connecting to one server may take. Default: 3 s.
    pub connect_timeout: Duration,
    /// How long a request other than an append may take before the log counts as unavailable. Default: 5 s.
    pub request_timeout: Duration,
    /// How long an append may take, with repeats, before it is answered "unknown". Default: 15 s.
    pub append_timeout: Duration,
    /// The longest pause between two attempts to connect again; the first one is 50 ms, and each doubles it, with
    /// jitter. Default: 2 s.
    pub reconnect_delay_max: Duration,
}

impl Default for NatsOptions {
    fn default() -> Self {
        NatsOptions {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            prefix: "tidemark".to_owned(),
            replicas: 3,
            credentials: NatsCredentials::None,
            tls: NatsTls::default(),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            append_timeout: Duration::from_secs(15),
            reconnect_delay_max: Duration::from_secs(2),
        }
    }
}

/// Who this process is to the servers. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum NatsCredentials {
    /// Nobody in particular: the servers ask for nothing, or the client certificate is enough.
    #[default]
    None,
    /// A credentials file, as `nsc` writes it: a JWT and the seed of its key.
    File(PathBuf),
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

impl fmt::Debug for NatsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NatsCredentials::None => f.write_str("None"),
            NatsCredentials::File(path) => f.debug_tuple("File").field(path).finish(),
            NatsCredentials::Password { user, .. } => f
                .debug_struct("Password")
                .field("user", user)
                .finish_non_exhaustive(),
            NatsCredentials::Token(_) => f.debug_tuple("Token").finish_non_exhaustive(),
        }
    }
}

/// Certificates for TLS, all as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Whether TLS is demanded also of servers whose address does not begin with `tls://`. Default: false.
    pub required: bool,
    /// Authorities that the servers' certificates are checked against; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// This process' certificate, for servers that ask for one; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// The options do not fit together, or what they name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the NATS log cannot be used: {detail}")]
pub struct NatsOptionsError {
    detail: String,
}

impl NatsOptionsError {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        NatsOptionsError { detail }
    }
}

impl NatsOptions {
    /// Returns everything that is wrong with the options, one sentence each; nothing is read or asked for.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.servers.is_empty() {
            faults.push("no server is named".to_owned());
        }
        faults.extend(self.servers.iter().filter_map(|server| server_fault(server)));
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if self.prefix.is_empty()
            || self.prefix.len() > PREFIX_BYTES_MAX
            || !self.prefix.bytes().all(well_formed)
        {
            let prefix = &self.prefix;
            faults.push(format!(
                "the prefix {prefix:?} is not 1 to {PREFIX_BYTES_MAX} letters, digits, `_` and `-`"
            ));
        }
        if !matches!(self.replicas, 1 | 3 | 5) {
            faults.push(format!(
                "{} replicas are asked for: 1, 3 or 5 are possible",
                self.replicas
            ));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            faults.push("a certificate and its key go together: one of the two is missing".to_owned());
        }
        let timeouts = [
            ("connect", self.connect_timeout),
            ("request", self.request_timeout),
            ("append", self.append_timeout),
            ("reconnect", self.reconnect_delay_max),
        ];
        for (name, _) in timeouts.into_iter().filter(|(_, limit)| limit.is_zero()) {
            faults.push(format!("the {name} time is 0"));
        }
        faults
    }
}

/// Returns what is wrong with a server's address, without showing what may be a password in it.
fn server_fault(server: &str) -> Option<String> {
    let Ok(address) = server.parse::<async_nats::ServerAddr>() else {
        return Some(match server.split_once('@') {
            Some((_, rest)) => format!("the address …@{rest} is not that of a server"),
            None => format!(
                "{server:?} is not the address of a server: expected something like nats://127.0.0.1:4222"
            ),
        });
    };
    (address.has_user_pass() || address.username().is_some()).then(|| {
        let (host, port) = (address.host(), address.port());
        format!("the address of {host}:{port} carries credentials: give them by file or as user and password")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_options_have_no_fault() {
        assert_eq!(NatsOptions::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let options = NatsOptions {
            servers: vec!["nats://a:4222".to_owned(), "nats://u:secret@b:4222".to_owned()],
            prefix: "a.b".to_owned(),
            replicas: 2,
            tls: NatsTls {
                cert_file: Some("c.pem".into()),
                ..NatsTls::default()
            },
            request_timeout: Duration::ZERO,
            ..NatsOptions::default()
        };
        let faults = options.faults();
        for word in [
            "b:4222 carries credentials",
            "\"a.b\"",
            "2 replicas",
            "certificate",
            "request time",
        ] {
            assert!(
                faults.iter().any(|fault| fault.contains(word)),
                "{word} in {faults:?}"
            );
        }
        assert_eq!(faults.len(), 5);
        assert!(!faults.concat().contains("secret"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let password = NatsCredentials::Password {
            user: "worker".to_owned(),
            password: "hidden".to_owned(),
        };
        for credentials in [password, NatsCredentials::Token("hidden".to_owned())] {
            let shown = format!(
                "{:?}",
                NatsOptions {
                    credentials,
                    ..NatsOptions::default()
                }
            );
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }
}
