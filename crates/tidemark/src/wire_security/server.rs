//! What a server shows and asks for.

use super::{AccessLayer, Gate};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};
use tonic::transport::{Server, ServerTlsConfig};
use tower::layer::util::{Identity, Stack};

/// How long a client may take to negotiate TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS and accepted tokens of a server. Clones share them.
#[derive(Clone, Default)]
pub struct ServerSecurity {
    tls: Option<ServerTlsConfig>,
    mutual: bool,
    gate: Option<Arc<Gate>>,
}

impl ServerSecurity {
    /// Neither TLS nor tokens: for loopback.
    pub fn open() -> Self {
        ServerSecurity::default()
    }

    /// Serves TLS; `mutual` says whether `tls` asks clients for certificates.
    #[must_use]
    pub(super) fn with_tls(mut self, tls: ServerTlsConfig, mutual: bool) -> Self {
        self.tls = Some(tls.timeout(HANDSHAKE_TIMEOUT));
        self.mutual = mutual;
        self
    }

    /// Checks callers by `gate`.
    #[must_use]
    pub fn with_gate(mut self, gate: Gate) -> Self {
        self.gate = Some(Arc::new(gate));
        self
    }

    /// Returns whether clients speak TLS to this server.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether this server may listen on `address`: on loopback always, elsewhere only with TLS and tokens.
    pub fn may_listen(&self, address: SocketAddr) -> bool {
        address.ip().is_loopback() || (self.tls.is_some() && self.gate.is_some())
    }

    /// Puts TLS and the layer on `server`.
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn apply(
        &self,
        mut server: Server,
    ) -> Result<Server<Stack<AccessLayer, Identity>>, tonic::transport::Error> {
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.clone())?;
        }
        Ok(server.layer(AccessLayer::new(self.gate.clone())))
    }
}

/// Says in one line how the server is protected.
impl fmt::Display for ServerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.tls.is_some(), self.mutual, self.gate.is_some()) {
            (true, true, true) => "gRPC speaks TLS, asks for client certificates and for tokens",
            (true, false, true) => "gRPC speaks TLS and asks for tokens",
            (true, true, false) => {
                "gRPC speaks TLS and asks for client certificates, but for no tokens: it serves on loopback only"
            }
            (true, false, false) => "gRPC speaks TLS, but asks for no tokens: it serves on loopback only",
            (false, _, true) => "gRPC asks for tokens, but speaks no TLS: it serves on loopback only",
            (false, _, false) => {
                "gRPC speaks no TLS and asks for no tokens: it serves on loopback only, and whoever reaches that may do anything"
            }
        };
        f.write_str(text)
    }
}

impl fmt::Debug for ServerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerSecurity({self})")
    }
}
