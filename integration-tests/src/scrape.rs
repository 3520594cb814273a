//! Reading a node's metrics.

use anyhow::{Context, ensure};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Reads `/metrics` of the node that serves them at `address`, with nothing but a socket.
///
/// # Errors
/// When it does not answer, or not with a page of metrics.
pub fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no header")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{address}: {head}");
    ensure!(
        !head.to_lowercase().contains("transfer-encoding: chunked"),
        "{address} answers in chunks"
    );
    Ok(body.to_owned())
}
