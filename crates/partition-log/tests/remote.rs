//! What the client makes of a server that is absent, dies, or falls silent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::LogServer;
use futures::{FutureExt, StreamExt};
use partition_log::conformance::{WAIT_MAX, incarnation, registration};
use partition_log::memory::{AppendFault, MemoryLog};
use partition_log::remote::{RemoteLog, RemoteLogAdmin, endpoint};
use partition_log::{AppendError, Log, LogAdmin, LogError, LogInfo, ReadError, RecordStream, Registration};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

const PARTITION: PartitionId = PartitionId::new(0);

async fn append(log: &impl Log, text: &'static str) -> Result<Lsn, AppendError> {
    log.append(
        PARTITION,
        incarnation(1),
        vec![text.as_bytes().into()],
        Some(Lsn::FIRST),
    )
    .await
}

/// A log that does what it is told and never says so.
struct Mute {
    inner: MemoryLog,
    landed: watch::Sender<bool>,
}

#[async_trait]
impl Log for Mute {
    async fn registration(&self, partition: PartitionId) -> Result<Registration, LogError> {
        self.inner.registration(partition).await
    }

    async fn info(&self, partition: PartitionId) -> Result<LogInfo, LogError> {
        self.inner.info(partition).await
    }

    async fn append(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Option<Lsn>,
    ) -> Result<Lsn, AppendError> {
        self.inner
            .append(partition, incarnation, batch, expected_tail)
            .await?;
        self.landed.send_replace(true);
        std::future::pending().await
    }

    async fn read(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        self.inner.read(partition, incarnation, from).await
    }
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_because_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let log = RemoteLog::connect_lazy(&url).unwrap();
    let refused = append(&log, "a").await.unwrap_err();
    assert!(matches!(&refused, AppendError::Unavailable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("refused"), "it says why: {refused}");
    assert!(matches!(
        log.info(PARTITION).await,
        Err(LogError::Unavailable { .. })
    ));
    let read = log.read(PARTITION, incarnation(1), Lsn::FIRST).await;
    assert!(matches!(
        read.err(),
        Some(ReadError::Log(LogError::Unavailable { .. }))
    ));
    let admin = RemoteLogAdmin::connect_lazy(&url).unwrap();
    let trimmed = admin.trim(PARTITION, incarnation(1), Lsn::FIRST).await;
    assert!(matches!(trimmed, Err(LogError::Unavailable { .. })));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_leaves_the_append_unknown() {
    let inner = MemoryLog::new();
    inner.provision(registration(0)).await.unwrap();
    let landed = watch::Sender::new(false);
    let mut has_landed = landed.subscribe();
    let mute = Mute {
        inner: inner.clone(),
        landed,
    };
    let mut server = LogServer::start(Arc::new(mute), Arc::new(inner.clone())).await;
    let log = server.log();
    let appending = tokio::spawn(async move { append(&log, "a").await });
    timeout(WAIT_MAX, has_landed.wait_for(|landed| *landed))
        .await
        .unwrap()
        .unwrap();
    server.kill();
    let unknown = timeout(WAIT_MAX, appending).await.unwrap().unwrap();
    assert!(matches!(unknown, Err(AppendError::Unknown { .. })), "{unknown:?}");
    assert_eq!(
        append(&inner, "a").await,
        Err(AppendError::TailMismatch { tail: Lsn::new(2) })
    );
}

#[tokio::test]
async fn an_engine_that_does_not_know_makes_the_append_unknown_and_one_that_refuses_unavailable() {
    let inner = MemoryLog::new();
    inner.provision(registration(0)).await.unwrap();
    let server = LogServer::start(Arc::new(inner.clone()), Arc::new(inner.clone())).await;
    let log = server.log();
    inner.fail_next_append(PARTITION, AppendFault::Unavailable);
    assert!(matches!(
        append(&log, "a").await,
        Err(AppendError::Unavailable { .. })
    ));
    inner.fail_next_append(PARTITION, AppendFault::UnknownLanded);
    assert!(matches!(
        append(&log, "a").await,
        Err(AppendError::Unknown { .. })
    ));
    assert_eq!(
        append(&log, "a").await,
        Err(AppendError::TailMismatch { tail: Lsn::new(2) })
    );
}

#[tokio::test]
async fn a_client_finds_a_server_that_comes_back() {
    let inner = MemoryLog::new();
    inner.provision(registration(0)).await.unwrap();
    let server = LogServer::start(Arc::new(inner.clone()), Arc::new(inner.clone())).await;
    let front = Front::start(server.address).await;
    let log = RemoteLog::connect_lazy(&front.url).unwrap();
    assert_eq!(append(&log, "a").await, Ok(Lsn::FIRST));
    let mut waiting = log.read(PARTITION, incarnation(1), Lsn::new(2)).await.unwrap();
    assert!(waiting.next().now_or_never().is_none());
    front.mode.send_replace(Mode::Broken);
    let ended = timeout(WAIT_MAX, waiting.next()).await.unwrap();
    assert!(
        matches!(ended, Some(Err(ReadError::Log(LogError::Unavailable { .. })))),
        "{ended:?}"
    );
    assert!(waiting.next().await.is_none());
    front.mode.send_replace(Mode::Open);
    let found = async {
        loop {
            if let Ok(info) = log.info(PARTITION).await {
                return info;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(timeout(WAIT_MAX, found).await.unwrap().tail, Lsn::new(2));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_by_a_reader_that_only_waits() {
    let inner = MemoryLog::new();
    inner.provision(registration(0)).await.unwrap();
    let server = LogServer::start(Arc::new(inner.clone()), Arc::new(inner.clone())).await;
    let front = Front::start(server.address).await;
    // As in production, only less patient.
    let patience = Duration::from_millis(300);
    let channel = endpoint(&front.url)
        .unwrap()
        .http2_keep_alive_interval(patience)
        .keep_alive_timeout(patience)
        .connect_lazy();
    let log = RemoteLog::new(channel);
    let mut waiting = log.read(PARTITION, incarnation(1), Lsn::FIRST).await.unwrap();
    assert!(waiting.next().now_or_never().is_none());
    front.mode.send_replace(Mode::Silent);
    let ended = timeout(WAIT_MAX, waiting.next()).await.unwrap();
    assert!(
        matches!(ended, Some(Err(ReadError::Log(LogError::Unavailable { .. })))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn readers_that_stand_still_do_not_hold_up_appends_on_the_same_connection() {
    let inner = MemoryLog::new();
    inner.provision(registration(0)).await.unwrap();
    let server = LogServer::start(Arc::new(inner.clone()), Arc::new(inner.clone())).await;
    let log = server.log();
    let large = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..8 {
        log.append(PARTITION, incarnation(1), vec![large.clone()], None)
            .await
            .unwrap();
    }
    let mut standing = Vec::new();
    for _ in 0..32 {
        standing.push(log.read(PARTITION, incarnation(1), Lsn::FIRST).await.unwrap());
    }
    for lsn in 9..=20 {
        let appended = log
            .append(PARTITION, incarnation(1), vec![large.clone()], None)
            .await;
        assert_eq!(appended, Ok(Lsn::new(lsn)));
    }
    let mut next = Lsn::FIRST;
    while next < Lsn::new(21) {
        next = standing[31].next().await.unwrap().unwrap().end();
    }
}

#[test]
fn a_text_that_is_no_url_is_refused_with_an_example() {
    let error = endpoint("not a url").unwrap_err();
    assert!(
        error.to_string().contains("not a url") && error.to_string().contains("http://"),
        "{error}"
    );
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Open,
    /// Takes nothing on and passes nothing on, and keeps the connections.
    Silent,
    /// Breaks the connections.
    Broken,
}

/// A network in front of a server.
struct Front {
    url: String,
    mode: watch::Sender<Mode>,
}

impl Front {
    async fn start(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mode = watch::Sender::new(Mode::Open);
        let watched = mode.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watched.borrow() == Mode::Broken {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pass_on(client_read, server_write, watched.clone()));
                tokio::spawn(pass_on(server_read, client_write, watched.clone()));
            }
        });
        Front { url, mode }
    }
}

async fn broken(mode: &mut watch::Receiver<Mode>) {
    // Fails when the test is over.
    mode.wait_for(|mode| *mode == Mode::Broken).await.ok();
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 << 10];
    let now = mode.clone();
    loop {
        tokio::select! {
            biased;
            () = broken(&mut mode) => return,
            read = from.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                if *now.borrow() == Mode::Silent {
                    continue;
                }
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
