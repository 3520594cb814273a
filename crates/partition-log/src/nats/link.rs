//! The connection to the servers, and requests over it.
//!
//! A request fails in one of three ways, told apart because an append needs to know: refused by a server, certainly
//! not received by any, or unclear. The servers tell a client what it may not do beside the requests, as events: a
//! request that such an event names is refused at once, instead of running into its time limit.

use super::metrics;
use super::options::{NatsCredentials, NatsOptions, NatsOptionsError};
use crate::RECORD_BYTES_MAX;
use async_nats::jetstream::response::Response;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, RequestErrorKind, ServerInfo};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast;

/// The oldest server that takes atomic batches.
const VERSION_MIN: (u64, u64) = (2, 12);
/// What a message may weigh beside its record: headers and their framing.
const ENVELOPE_BYTES_MAX: usize = 1 << 10;
/// The first pause before connecting again; each further one is twice as long.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
/// Events that a slow request may lag behind.
const SIGNALS_MAX: usize = 256;

/// A request was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A server refused it; nothing was done.
    Refused { code: u64, text: String },
    /// No server received it, or none may do it for this client; nothing was done.
    NotSent(String),
    /// It may have been done, or may still be.
    Unclear(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused { code, text } => write!(f, "the servers refuse it: {text} ({code})"),
            Failure::NotSent(detail) | Failure::Unclear(detail) => f.write_str(detail),
        }
    }
}

/// Something that concerns requests under way.
#[derive(Clone, Debug)]
enum Signal {
    /// This client may not do something.
    Violation(Arc<str>),
    /// Answers that are still due will hardly come.
    Disconnected,
}

/// What is known of the connection beside the client's own state.
struct Watch {
    signals: broadcast::Sender<Signal>,
    /// Why the last attempt to connect failed; `None` while connected.
    last_error: Mutex<Option<String>>,
    /// What the server that is connected is unfit for; the inner `None` when for nothing. Asked once per connection.
    unfit: Mutex<Option<Option<String>>>,
}

impl Watch {
    fn on(&self, event: Event) {
        match event {
            Event::Connected => {
                metrics::connected();
                set(&self.last_error, None);
                set(&self.unfit, None);
            }
            Event::Disconnected | Event::Closed => {
                // Fails when no request is under way.
                self.signals.send(Signal::Disconnected).ok();
            }
            Event::ServerError(error) => {
                let text = error.to_string();
                if text.to_ascii_lowercase().contains("permissions violation") {
                    self.signals.send(Signal::Violation(text.into())).ok();
                } else {
                    set(&self.last_error, Some(text));
                }
            }
            Event::ClientError(error) => set(&self.last_error, Some(error.to_string())),
            Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {}
        }
    }
}

fn set<T>(place: &Mutex<T>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

/// The connection to the servers. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    watch: Arc<Watch>,
    servers: Arc<str>,
    request_timeout: Duration,
}

impl Link {
    /// Prepares the connection, which is made in the background.
    pub(super) async fn connect(options: &NatsOptions) -> Result<Self, NatsOptionsError> {
        let watch = Arc::new(Watch {
            signals: broadcast::Sender::new(SIGNALS_MAX),
            last_error: Mutex::new(None),
            unfit: Mutex::new(None),
        });
        let connect = with_credentials(ConnectOptions::new(), &options.credentials).await?;
        let delay_max = options.reconnect_delay_max;
        let mut connect = with_certificates(connect, options)?
            .name(format!("tidemark {}", options.prefix))
            .retry_on_initial_connect()
            .connection_timeout(options.connect_timeout)
            .request_timeout(Some(options.request_timeout))
            .ping_interval(Duration::from_secs(5))
            .reconnect_delay_callback(move |attempt| reconnect_delay(attempt, delay_max, rand::random()));
        connect = connect.event_callback({
            let watch = Arc::clone(&watch);
            move |event| {
                watch.on(event);
                std::future::ready(())
            }
        });
        let client = connect
            .connect(options.servers.clone())
            .await
            .map_err(|error| NatsOptionsError::new(error.to_string()))?;
        Ok(Link {
            client,
            watch,
            servers: options.servers.join(", ").into(),
            request_timeout: options.request_timeout,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns what is known of the server that is connected.
    pub(super) fn server(&self) -> Option<ServerInfo> {
        self.is_connected().then(|| self.client.try_server_info())?
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Checks that a server is connected that can keep logs, and says why not.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.is_connected() {
            let last = self.watch.last_error.lock();
            let last = last.unwrap_or_else(PoisonError::into_inner).clone();
            return Err(match last {
                Some(error) => format!("no connection to {}: {error}", self.servers),
                None => format!("no connection to {}", self.servers),
            });
        }
        let mut unfit = self.watch.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        let unfit = unfit.get_or_insert_with(|| unfitness(&self.client.server_info()));
        unfit.clone().map_or(Ok(()), Err)
    }

    /// Sends a message and waits for the answer to it.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Message, Failure> {
        let mut signals = self.watch.signals.subscribe();
        self.check().map_err(Failure::NotSent)?;
        let mut request = async_nats::Request::new().payload(payload).timeout(Some(limit));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.to_owned(), request);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return answer.map_err(|error| of_request(&error, limit)),
                signal = signals.recv() => match signal {
                    Ok(Signal::Violation(text)) if names(&text, subject) => {
                        return Err(Failure::NotSent(forbidden(&text)));
                    }
                    Ok(Signal::Disconnected) => {
                        return Err(Failure::Unclear("the connection broke before an answer came".to_owned()));
                    }
                    Ok(Signal::Violation(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // The sender lives as long as this link.
                    Err(broadcast::error::RecvError::Closed) => {}
                },
            }
        }
    }

    /// Sends a request to the servers' API, with `&()` for none, and understands the answer.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let mut body = serde_json::to_vec(body).map_err(|error| Failure::NotSent(error.to_string()))?;
        // Some requests must have no body at all.
        if body == b"null" {
            body.clear();
        }
        let subject = format!("$JS.API.{subject}");
        let answer = self
            .request(&subject, None, body.into(), self.request_timeout)
            .await?;
        understand(&answer.payload)
    }
}

/// Understands an answer: what was asked for, or the refusal.
pub(super) fn understand<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    match serde_json::from_slice(payload) {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(Failure::Refused {
            code: error.error_code().0,
            text: error.to_string(),
        }),
        Err(error) => Err(Failure::Unclear(format!(
            "the answer cannot be understood: {error}"
        ))),
    }
}

fn of_request(error: &async_nats::RequestError, limit: Duration) -> Failure {
    match error.kind() {
        RequestErrorKind::NoResponders => Failure::NotSent(
            "no server is responsible for it now: a leader is being elected, servers are missing, or JetStream is off"
                .to_owned(),
        ),
        RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
            Failure::NotSent(error.to_string())
        }
        RequestErrorKind::TimedOut => Failure::Unclear(format!("no answer came within {limit:?}")),
        _ => Failure::Unclear(error.to_string()),
    }
}

/// Whether a server's complaint is about `subject`; it quotes subjects, and not always as they were written.
fn names(violation: &str, subject: &str) -> bool {
    let quoted = format!("\"{subject}\"").to_ascii_lowercase();
    violation.to_ascii_lowercase().contains(&quoted)
}

fn forbidden(violation: &str) -> String {
    format!("these credentials may not do that: {violation}")
}

/// Returns what the server is unfit for.
fn unfitness(server: &ServerInfo) -> Option<String> {
    let (name, version) = (&server.server_name, &server.version);
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Some(format!(
            "the server {name} is nats-server {version}, and logs need {major}.{minor} or newer: update it"
        ));
    }
    let needed = RECORD_BYTES_MAX + ENVELOPE_BYTES_MAX;
    if server.max_payload < needed {
        let found = server.max_payload;
        return Some(format!(
            "the server {name} takes messages of {found} bytes, and records need {needed}: set `max_payload: 2MB`"
        ));
    }
    None
}

/// Doubles the pause with each attempt, up to `delay_max`, and takes between a half and the whole of it.
fn reconnect_delay(attempt: usize, delay_max: Duration, random: u8) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(16);
    let delay = RECONNECT_DELAY_MIN.saturating_mul(1 << doublings).min(delay_max);
    delay / 2 + delay / 2 * u32::from(random) / 255
}

async fn with_credentials(
    connect: ConnectOptions,
    credentials: &NatsCredentials,
) -> Result<ConnectOptions, NatsOptionsError> {
    Ok(match credentials {
        NatsCredentials::None => connect,
        NatsCredentials::File(path) => connect
            .credentials_file(path)
            .await
            .map_err(|error| unreadable(path, &error))?,
        NatsCredentials::Password { user, password } => {
            connect.user_and_password(user.clone(), password.clone())
        }
        NatsCredentials::Token(token) => connect.token(token.clone()),
    })
}

fn with_certificates(
    connect: ConnectOptions,
    options: &NatsOptions,
) -> Result<ConnectOptions, NatsOptionsError> {
    let tls = &options.tls;
    for path in [&tls.ca_file, &tls.cert_file, &tls.key_file]
        .into_iter()
        .flatten()
    {
        std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    }
    let mut connect = connect.require_tls(tls.required);
    if let Some(path) = &tls.ca_file {
        connect = connect.add_root_certificates(path.clone());
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(connect)
}

fn unreadable(path: &Path, error: &std::io::Error) -> NatsOptionsError {
    NatsOptionsError::new(format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str, max_payload: usize) -> ServerInfo {
        ServerInfo {
            server_name: "n1".to_owned(),
            version: version.to_owned(),
            max_payload,
            ..ServerInfo::default()
        }
    }

    #[test]
    fn a_server_that_is_too_old_or_takes_too_little_is_refused_by_name() {
        for version in ["2.12.0", "2.15.1", "3.0.0-beta", "2.12.0-RC.1"] {
            assert_eq!(unfitness(&server(version, 2 << 20)), None, "{version}");
        }
        for version in ["2.11.9", "1.99.0", "", "newest"] {
            let unfit = unfitness(&server(version, 2 << 20)).unwrap_or_default();
            assert!(
                unfit.contains("n1") && unfit.contains("2.12"),
                "{version}: {unfit}"
            );
        }
        let unfit = unfitness(&server("2.15.1", 1 << 20)).unwrap_or_default();
        assert!(unfit.contains("max_payload"), "{unfit}");
    }

    #[test]
    fn the_pause_before_connecting_again_grows_to_its_bound() {
        let max = Duration::from_secs(2);
        assert_eq!(reconnect_delay(1, max, 255), Duration::ZERO);
        assert_eq!(reconnect_delay(2, max, 255), RECONNECT_DELAY_MIN);
        assert_eq!(reconnect_delay(2, max, 0), RECONNECT_DELAY_MIN / 2);
        assert_eq!(reconnect_delay(4, max, 255), RECONNECT_DELAY_MIN * 4);
        assert_eq!(reconnect_delay(1000, max, 255), max);
    }

    #[test]
    fn a_complaint_is_matched_to_the_request_it_is_about() {
        let text = "nats: Permissions Violation for Publish to \"$JS.API.STREAM.PURGE.a-p1\"";
        assert!(names(text, "$JS.API.STREAM.PURGE.a-p1"));
        assert!(names(&text.to_lowercase(), "$JS.API.STREAM.PURGE.a-p1"));
        assert!(!names(text, "$JS.API.STREAM.PURGE.a-p11"));
    }
}
