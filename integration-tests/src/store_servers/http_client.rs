//! As much of an HTTP client as creating a bucket takes: one request without a body, and the status of its answer.

use anyhow::Context;
use http::{Request, StatusCode};
use std::{fmt::Write, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Sends the request line and headers of `request` and returns the status of the answer.
pub(super) async fn send<T>(address: SocketAddr, request: &Request<T>) -> anyhow::Result<StatusCode> {
    let exchange = exchange(address, head_of(address, request)?);
    let answer = tokio::time::timeout(DEADLINE, exchange)
        .await
        .with_context(|| format!("{address} did not answer"))??;
    // "HTTP/1.1 200 OK"
    let status = answer.split(' ').nth(1).context("the answer has no status")?;
    Ok(status.parse()?)
}

async fn exchange(address: SocketAddr, head: String) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn head_of<T>(address: SocketAddr, request: &Request<T>) -> anyhow::Result<String> {
    let target = request
        .uri()
        .path_and_query()
        .context("the request names no path")?;
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: {address}\r\n", request.method());
    for (name, value) in request.headers() {
        write!(head, "{name}: {}\r\n", value.to_str()?)?;
    }
    head.push_str("Content-Length: 0\r\nConnection: close\r\n\r\n");
    Ok(head)
}
