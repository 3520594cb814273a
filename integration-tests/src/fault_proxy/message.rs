//! Where a message of HTTP/1.1 ends. Nothing else of it is understood, and every byte stays as it is: requests are
//! signed.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// More than any head of a client or server here.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request or an answer.
#[derive(Debug)]
pub(super) struct Message {
    /// First line and headers, with the empty line behind them.
    pub(super) head: Vec<u8>,
    /// As it was sent, chunked or not.
    pub(super) body: Vec<u8>,
}

impl Message {
    /// Reads a request; `None` when the client has closed the connection instead.
    pub(super) async fn read_request(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let head = read_head(stream).await?;
        if head.is_empty() {
            return Ok(None);
        }
        let body = read_body(stream, &head).await?;
        Ok(Some(Message { head, body }))
    }

    /// Reads the answer to a request with `method`.
    pub(super) async fn read_answer(
        stream: &mut (impl AsyncBufRead + Unpin),
        method: &str,
    ) -> io::Result<Self> {
        let head = read_head(stream).await?;
        if head.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = word(&head, 1).unwrap_or_default();
        let body = match method == "HEAD" || status == "204" || status == "304" {
            true => Vec::new(),
            false => read_body(stream, &head).await?,
        };
        Ok(Message { head, body })
    }

    /// Returns method and target of a request.
    pub(super) fn request_line(&self) -> (String, String) {
        let word = |number| word(&self.head, number).unwrap_or_default();
        (word(0), word(1))
    }
}

/// Returns a word of the first line.
fn word(head: &[u8], number: usize) -> Option<String> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let word = line.split(|byte| *byte == b' ').nth(number)?;
    Some(String::from_utf8_lossy(word).into_owned())
}

async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let read = stream.read_until(b'\n', &mut head).await?;
        if read == 0 && head.is_empty() {
            return Ok(head);
        }
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(head);
        }
    }
}

async fn read_body(stream: &mut (impl AsyncBufRead + Unpin), head: &[u8]) -> io::Result<Vec<u8>> {
    if header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunks(stream).await;
    }
    let length = header(head, "content-length").map_or(Ok(0), |value| value.parse());
    let mut body = vec![0; length.map_err(|_| io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn read_chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = body.len();
        stream.read_until(b'\n', &mut body).await?;
        let size = String::from_utf8_lossy(&body[line..]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let from = body.len();
        // The chunk, or the empty line at the end, with its line end.
        body.resize(from + size + 2, 0);
        stream.read_exact(&mut body[from..]).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_told_apart_and_stay_as_they_are() {
        let first = "PUT /b/k?x=1 HTTP/1.1\r\nHost: h\r\nContent-length: 5\r\n\r\nhello";
        let second = "GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n";
        let sent = format!("{first}{second}");
        let mut stream = sent.as_bytes();
        for (whole, line) in [(first, ("PUT", "/b/k?x=1")), (second, ("GET", "/b/k"))] {
            let request = Message::read_request(&mut stream).await.unwrap().unwrap();
            assert_eq!(request.request_line(), (line.0.to_owned(), line.1.to_owned()));
            assert_eq!([request.head, request.body].concat(), whole.as_bytes());
        }
        assert!(Message::read_request(&mut stream).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn answers_end_where_their_headers_say() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let to_head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let sent = format!("{chunked}{to_head}");
        let mut stream = sent.as_bytes();
        for (method, whole) in [("GET", chunked), ("HEAD", to_head)] {
            let answer = Message::read_answer(&mut stream, method).await.unwrap();
            assert_eq!([answer.head, answer.body].concat(), whole.as_bytes());
        }
        assert!(Message::read_answer(&mut stream, "GET").await.is_err());
    }
}
