//! Credentials of a node: TLS and tokens, as server and as client.

use super::{Fault, Faults};
use crate::wire_security::{ClientSecurity, CredentialFiles, CredentialKind, ServerSecurity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot_store::{Clock, SystemClock};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

/// TLS of the node's gRPC servers and of its connections to other nodes. `/metrics` and its neighbours stay plain HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// PEM file with the node's certificate chain, its own certificate first. With it the node's servers speak TLS and
    /// nothing else, and it is shown to servers that ask the node for one. Default: "", no TLS. Read at start. Since 0.1.
    pub cert: PathBuf,
    /// PEM file with the private key of `cert`. Default: "". Read at start. Since 0.1.
    pub key: PathBuf,
    /// PEM file with the CAs of which clients must have a certificate (mutual TLS). Default: "", clients need none. Read
    /// at start. Since 0.1.
    pub client_ca: PathBuf,
    /// PEM file with the CAs of which the servers this node connects to must have a certificate; needed for every
    /// `https://` address. Default: "". Read at start. Since 0.1.
    pub ca: PathBuf,
    /// Name that the certificates of those servers must hold, instead of the host in their addresses. Default: "", the
    /// host. Takes effect at start. Since 0.1.
    pub server_name: String,
}

/// Tokens that the node's gRPC servers accept, and the one it shows to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// TOML file with the names, roles and hashes of the tokens that the node's servers accept; `tidemark token create`
    /// prints entries for it. Default: "", no tokens are asked for. Read at start. Since 0.1.
    pub accepted_tokens: PathBuf,
    /// File with the token that the node shows to the servers it connects to. A worker needs the role `operate`, an admin
    /// `trim`. Default: "", none. Read at start. Since 0.1.
    pub token_file: PathBuf,
}

/// What a node shows and asks for.
pub(crate) struct Wire {
    /// On its servers.
    pub(crate) server: ServerSecurity,
    /// On its connections to others.
    pub(crate) client: ClientSecurity,
}

fn given(path: &std::path::Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// Returns the configuration key of a credential.
const fn key_of(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Cert => "tls.cert",
        CredentialKind::Key => "tls.key",
        CredentialKind::ClientCa => "tls.client_ca",
        CredentialKind::Ca => "tls.ca",
        CredentialKind::ServerName => "tls.server_name",
        CredentialKind::AcceptedTokens => "auth.accepted_tokens",
        CredentialKind::Token => "auth.token_file",
    }
}

/// Reads all credentials of a node.
///
/// # Errors
/// With every fault at once.
pub(crate) fn read_wire(
    tls: &TlsSection,
    auth: &AuthSection,
    clock: Arc<dyn Clock>,
) -> Result<Wire, Vec<Fault>> {
    let files = CredentialFiles {
        cert: given(&tls.cert),
        key: given(&tls.key),
        client_ca: given(&tls.client_ca),
        ca: given(&tls.ca),
        server_name: (!tls.server_name.is_empty()).then(|| tls.server_name.clone()),
        accepted_tokens: given(&auth.accepted_tokens),
        token: given(&auth.token_file),
    };
    match (files.server(clock), files.client()) {
        (Ok(server), Ok(client)) => Ok(Wire { server, client }),
        (server, client) => {
            let found = [server.err(), client.err()].into_iter().flatten().flatten();
            Err(found
                .map(|fault| Fault {
                    key: key_of(fault.kind).to_owned(),
                    problem: fault.problem,
                    remedy: fault.remedy.to_owned(),
                })
                .collect())
        }
    }
}

/// Adds the faults of the credentials, of addresses the node must not listen on with them, and of addresses it must
/// not connect to. Returns whether the node's servers speak TLS; `None` when that is not known.
pub(super) fn check(
    tls: &TlsSection,
    auth: &AuthSection,
    listens: &[(&str, &str)],
    urls: &[(String, &str)],
    faults: &mut Faults,
) -> Option<bool> {
    let wire = match read_wire(tls, auth, Arc::new(SystemClock)) {
        Ok(wire) => wire,
        Err(found) => {
            found
                .into_iter()
                .for_each(|fault| faults.add(fault.key, fault.problem, fault.remedy));
            // Addresses are judged once the credentials are sound.
            return None;
        }
    };
    for (key, text) in listens {
        let address = text.parse::<SocketAddr>();
        if address.is_ok_and(|address| !wire.server.may_listen(address)) {
            let problem = match wire.server.speaks_tls() {
                true => format!("{text:?} is not loopback, and callers need no token"),
                false => format!("{text:?} is not loopback, and the wire is not protected"),
            };
            faults.add(
                *key,
                problem,
                "set `tls.cert`, `tls.key` and `auth.accepted_tokens`, or listen on 127.0.0.1",
            );
        }
    }
    for (key, address) in urls {
        if let Err(error) = wire.client.check(address) {
            faults.add(
                key.clone(),
                error.to_string(),
                "docs/operator-guide.md, Credentials and certificates",
            );
        }
    }
    Some(wire.server.speaks_tls())
}
