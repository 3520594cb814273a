//! What a client shows, and whom it believes.

use super::Token;
use std::{fmt, net::IpAddr, time::Duration};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server may take to negotiate TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After how much silence a connection is asked whether it is alive, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection whose requests carry the client's token, if it has one.
pub type SecuredChannel = InterceptedService<Channel, Bearer>;

/// Puts a token on each request; none when the client has none. Never printed.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl From<&Token> for Bearer {
    fn from(token: &Token) -> Self {
        // A token holds only characters that a header may hold.
        let value = format!("Bearer {}", token.expose()).parse();
        Bearer(value.ok().map(|mut value: MetadataValue<Ascii>| {
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Bearer(secret)"
        } else {
            "Bearer(none)"
        })
    }
}

/// An address that this client cannot, or must not, connect to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is none.
    #[error("{address:?} is not the address of a node: write it as http://host:port or https://host:port")]
    NotOne {
        /// The address.
        address: String,
    },
    /// It is to be reached over TLS, and nothing says whose certificates to believe.
    #[error(
        "{address} speaks TLS, and no CA is known that certifies it: a node names one in `tls.ca`, a command with --tls-ca or TIDEMARK_TLS_CA"
    )]
    NoCa {
        /// The address.
        address: String,
    },
    /// The token would travel unprotected.
    #[error(
        "{address} is neither TLS nor loopback, so no token is sent to it: write it as https://host:port"
    )]
    TokenInClear {
        /// The address.
        address: String,
    },
    /// TLS cannot be set up.
    #[error("no TLS connection to {address} can be prepared: {detail}")]
    Tls {
        /// The address.
        address: String,
        /// Why.
        detail: String,
    },
}

/// TLS and token of a client. Clones share them.
#[derive(Clone, Default)]
pub struct ClientSecurity {
    tls: Option<ClientTlsConfig>,
    bearer: Bearer,
}

impl ClientSecurity {
    /// Neither TLS nor a token.
    pub fn open() -> Self {
        ClientSecurity::default()
    }

    pub(super) fn with_tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls.timeout(HANDSHAKE_TIMEOUT));
        self
    }

    /// Shows `token` with each request.
    #[must_use]
    pub fn with_token(mut self, token: &Token) -> Self {
        self.bearer = Bearer::from(token);
        self
    }

    /// Checks whether this client may connect to `address`.
    ///
    /// # Errors
    /// When it is none, speaks TLS without a known CA, or would be sent a token unprotected.
    pub fn check(&self, address: &str) -> Result<(), AddressError> {
        let address = || address.to_owned();
        let url = url::Url::parse(&address()).map_err(|_| AddressError::NotOne { address: address() })?;
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err(AddressError::NotOne { address: address() });
        };
        match url.scheme() {
            "https" if self.tls.is_none() => Err(AddressError::NoCa { address: address() }),
            "https" => Ok(()),
            "http" if self.bearer.0.is_some() && !is_loopback(host) => {
                Err(AddressError::TokenInClear { address: address() })
            }
            "http" => Ok(()),
            _ => Err(AddressError::NotOne { address: address() }),
        }
    }

    /// Returns a connection to `endpoint` that is made when first used, and again when it was lost. To be called
    /// within a Tokio runtime.
    ///
    /// # Errors
    /// As [`ClientSecurity::check`], and when TLS cannot be set up.
    pub fn channel(&self, endpoint: Endpoint) -> Result<SecuredChannel, AddressError> {
        let endpoint = self.protect(endpoint)?;
        Ok(InterceptedService::new(
            endpoint.connect_lazy(),
            self.bearer.clone(),
        ))
    }

    /// Returns a connection to `endpoint` that is made now.
    ///
    /// # Errors
    /// The outer one as [`ClientSecurity::channel`], the inner one when nobody answers.
    pub async fn channel_now(
        &self,
        endpoint: Endpoint,
    ) -> Result<Result<SecuredChannel, tonic::transport::Error>, AddressError> {
        let connected = self.protect(endpoint)?.connect().await;
        Ok(connected.map(|channel| InterceptedService::new(channel, self.bearer.clone())))
    }

    fn protect(&self, endpoint: Endpoint) -> Result<Endpoint, AddressError> {
        let address = endpoint.uri().to_string();
        self.check(&address)?;
        match &self.tls {
            Some(tls) if endpoint.uri().scheme_str() == Some("https") => endpoint
                .tls_config(tls.clone())
                .map_err(|error| AddressError::Tls {
                    address,
                    detail: cause_of(&error),
                }),
            _ => Ok(endpoint),
        }
    }

    /// Returns a connection to the node at `address`, with timeouts that suit a command or a client.
    ///
    /// # Errors
    /// As [`ClientSecurity::channel`].
    pub fn connect(&self, address: &str) -> Result<SecuredChannel, AddressError> {
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| AddressError::NotOne {
            address: address.to_owned(),
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        self.channel(endpoint)
    }
}

impl fmt::Debug for ClientSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.tls.is_some();
        f.debug_struct("ClientSecurity")
            .field("tls", &tls)
            .field("token", &self.bearer)
            .finish()
    }
}

/// Returns whether `host` is this machine, and nothing else by any name service.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns why a call got no answer from the other end, in words; `None` when it got one, be it an error.
pub fn unanswered(status: &Status) -> Option<String> {
    let outermost = std::error::Error::source(status)?;
    let mut link = Some(outermost);
    while let Some(cause) = link {
        if cause.is::<tonic::ConnectError>() {
            return Some(cause_of(outermost));
        }
        link = cause.source();
    }
    // A connection that came about and broke off: often one end spoke TLS, or asked for a certificate, and the other
    // knew nothing of it.
    Some(format!(
        "{}; where nodes speak TLS, addresses begin with https://, and the client may need a certificate",
        cause_of(outermost)
    ))
}

/// Returns the innermost cause of an error in words: the outer ones only say that something failed.
pub fn cause_of(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
