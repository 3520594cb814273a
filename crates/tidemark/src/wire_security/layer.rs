//! The tower layer in front of all services of a server.

use super::{
    AcceptedTokens, Access, Caller, Presented, Refusal, TokenHash, access_to, decide_access, metrics,
};
use futures::future::{Either, Ready, ready};
use snapshot_store::Clock;
use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{Status, codegen::http};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

/// Header that tells services the role of their caller. The layer sets it and takes out what callers send; without a
/// gate there is none.
const ROLE_HEADER: http::HeaderName = http::HeaderName::from_static(snapshot_worker::agent::ROLE_METADATA);
const SCHEME: &str = "bearer";

/// What a server checks its callers by.
pub struct Gate {
    tokens: AcceptedTokens,
    clock: Arc<dyn Clock>,
    more: HashMap<String, Access>,
}

impl Gate {
    /// Accepts `tokens` for the methods of [`super::METHOD_ACCESS`]; `clock` decides when a token has expired.
    pub fn new(tokens: AcceptedTokens, clock: Arc<dyn Clock>) -> Self {
        Gate {
            tokens,
            clock,
            more: HashMap::new(),
        }
    }

    /// Also lets callers call `path` (`/package.Service/Method`), a method of the embedding service. Entries of
    /// [`super::METHOD_ACCESS`] cannot be changed.
    #[must_use]
    pub fn allowing(mut self, path: impl Into<String>, access: Access) -> Self {
        self.more.insert(path.into(), access);
        self
    }

    fn decide(&self, path: &str, headers: &http::HeaderMap) -> Result<Option<Caller>, Refusal> {
        let access = access_to(path).or_else(|| self.more.get(path).copied());
        decide_access(&self.tokens, access, presented(headers), self.clock.now())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens.tokens();
        f.debug_struct("Gate")
            .field("tokens", &tokens.len())
            .finish_non_exhaustive()
    }
}

/// Returns what the headers of a request show.
fn presented(headers: &http::HeaderMap) -> Presented {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(http::header::AUTHORIZATION) {
            true => Presented::Malformed,
            false => Presented::Nothing,
        };
    };
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty() => {
            Presented::Token(TokenHash::of(token.as_bytes()))
        }
        _ => Presented::Malformed,
    }
}

/// Lets only those calls through that its gate allows; without a gate, all.
#[derive(Clone, Debug)]
pub struct AccessLayer {
    gate: Option<Arc<Gate>>,
}

impl AccessLayer {
    /// Checks callers by `gate`; `None` lets everybody through.
    pub fn new(gate: Option<Arc<Gate>>) -> Self {
        AccessLayer { gate }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> AccessService<S> {
        AccessService {
            inner,
            gate: self.gate.clone(),
        }
    }
}

/// A service behind an [`AccessLayer`].
#[derive(Clone, Debug)]
pub struct AccessService<S> {
    inner: S,
    gate: Option<Arc<Gate>>,
}

impl<S, In, Out> Service<http::Request<In>> for AccessService<S>
where
    S: Service<http::Request<In>, Response = http::Response<Out>>,
    Out: Default,
{
    type Response = http::Response<Out>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Out>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<In>) -> Self::Future {
        request.headers_mut().remove(&ROLE_HEADER);
        if let Some(gate) = &self.gate {
            match gate.decide(request.uri().path(), request.headers()) {
                Ok(caller) => {
                    if let Some(Caller { role, .. }) = caller {
                        let role = http::HeaderValue::from_static(role.as_str());
                        request.headers_mut().insert(ROLE_HEADER, role);
                    }
                }
                Err(refusal) => {
                    metrics::refused(&refusal);
                    let (method, reason) = (request.uri().path(), refusal.reason());
                    tracing::debug!(method, reason, "a call was refused: {refusal}");
                    return Either::Right(ready(Ok(Status::from(refusal).into_http())));
                }
            }
        }
        // Nobody behind the layer needs the token.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        Either::Left(self.inner.call(request))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut metadata = HashMap::new();
        if let Refusal::Insufficient { role, needed, .. } = &refusal {
            metadata.insert("role".to_owned(), role.to_string());
            metadata.insert("needed".to_owned(), needed.to_string());
        }
        let details = ErrorDetails::with_error_info(refusal.reason(), "tidemark", metadata);
        Status::with_error_details(refusal.code(), refusal.to_string(), details)
    }
}
