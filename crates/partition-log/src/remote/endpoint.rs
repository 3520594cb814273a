//! Limits and timeouts of the wire, for both ends.

use std::time::Duration;
use tonic::{
    Request, Status,
    transport::{Endpoint, Server},
};

/// The longest message; a batch of the largest size with its envelope fits several times.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// An append waits for one sync of the server's disk, behind those before it.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_secs(15);
/// Trims, provisioning and sealing wait in the same queue.
pub(super) const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Information, and the opening of a read stream, come from memory.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent peer is asked whether it lives; without an answer the connection is dead after the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What one read stream has under way before its reader takes it.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// Room for 256 readers that stand still, before they could hold up anybody else on the connection.
const CONNECTION_WINDOW_BYTES: u32 = 256 * STREAM_WINDOW_BYTES;
/// Requests and read streams of one client at a time: one stream per partition it hosts, and appends.
const STREAMS_MAX: u32 = 8192;

/// Sends requests as they are.
pub type Plain = fn(Request<()>) -> Result<Request<()>, Status>;

/// Returns the interceptor of clients that need none.
pub(super) const fn plain() -> Plain {
    |request| Ok(request)
}

/// A text that is not the address of a server.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not a log server's address: expected something like http://127.0.0.1:7300")]
pub struct EndpointError {
    url: String,
    #[source]
    source: tonic::transport::Error,
}

/// Returns an endpoint with the timeouts and limits that log clients need.
///
/// # Errors
/// When `url` is not a URL.
pub fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| EndpointError {
        url: url.to_owned(),
        source,
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// Returns a server with the limits that log services need: it notices dead readers, and takes many streams.
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
}
