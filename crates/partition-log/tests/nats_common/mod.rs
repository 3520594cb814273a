//! A log on NATS servers, and a client of the servers beside it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary is a crate and uses a part"
)]

pub mod passage;

use async_nats::jetstream::{self, stream::Info};
use bytes::Bytes;
use futures::StreamExt;
use partition_log::conformance::{NatsServers, NatsUser, WAIT_MAX, incarnation, registration};
use partition_log::nats::{NatsCredentials, NatsLog, NatsOptions};
use partition_log::{AppendError, Log, LogAdmin, ReadError, RecordStream, Registration};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::{future::Future, time::Duration};

pub const P0: PartitionId = PartitionId::new(0);
/// The stream of the registry.
const REGISTRY_STREAM: &str = "KV_tidemark-registry";

/// The pause between two tries at something that has to come.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Returns the incarnation of the log that [`provision`] makes.
pub fn life() -> Incarnation {
    incarnation(1)
}

/// Returns the name of its stream.
pub fn stream_name() -> String {
    format!("tidemark-p0-g1-{}", life().id)
}

/// Returns the one subject of its stream.
pub fn subject() -> String {
    format!("tidemark.log.0.1.{}", life().id)
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_MAX, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {WAIT_MAX:?}"),
    }
}

/// Connects to one server, or to all.
pub async fn connect(servers: &NatsServers, user: NatsUser, only: Option<usize>) -> NatsLog {
    let mut options = servers.options(user);
    if let Some(only) = only {
        options.servers = vec![servers.url(only)];
    }
    let log = NatsLog::connect(options).await.expect("the options are good");
    log.ready(WAIT_MAX).await.expect("the servers can be reached");
    log
}

/// Provisions the log of partition 0, from LSN 1 on.
pub async fn provision(servers: &NatsServers) -> (NatsLog, NatsLog) {
    let admin = connect(servers, NatsUser::Admin, None).await;
    let registered: Registration = registration(0);
    admin
        .provision(registered)
        .await
        .expect("a new log is provisioned");
    (connect(servers, NatsUser::Worker, None).await, admin)
}

/// Returns a plain client with a user's credentials.
pub async fn raw(servers: &NatsServers, user: NatsUser) -> jetstream::Context {
    let NatsOptions {
        servers, credentials, ..
    } = servers.options(user);
    let NatsCredentials::Password { user, password } = credentials else {
        panic!("the users have passwords");
    };
    let client = async_nats::ConnectOptions::with_user_and_password(user, password)
        .connect(servers)
        .await
        .expect("a client connects");
    jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(1))
        .build(client)
}

/// Returns what the servers say of the log's stream, as soon as they say anything.
pub async fn stream_info(js: &jetstream::Context) -> Info {
    info(js, &stream_name()).await
}

async fn info(js: &jetstream::Context, stream: &str) -> Info {
    within("the stream", async {
        loop {
            if let Ok(stream) = js.get_stream(stream).await {
                return stream.cached_info().clone();
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

/// Returns which server leads the log's stream.
pub async fn leader(servers: &NatsServers, js: &jetstream::Context) -> usize {
    within("a leader", async {
        loop {
            let leader = stream_info(js).await.cluster.and_then(|cluster| cluster.leader);
            let found = (0..servers.count()).find(|index| Some(servers.name(*index)) == leader);
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

/// Waits until each of three servers has all of the log and of the registry.
pub async fn until_current(js: &jetstream::Context) {
    for stream in [REGISTRY_STREAM, &stream_name()] {
        within("three servers that are up to date", async {
            loop {
                let cluster = info(js, stream).await.cluster;
                let current = cluster.map_or(0, |cluster| {
                    cluster.replicas.iter().filter(|peer| peer.current).count()
                });
                if current == 2 {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
        .await;
    }
}

/// One writer that never gives up on a record.
pub struct Writer {
    pub log: NatsLog,
    pub tail: Lsn,
    pub acknowledged: Vec<Bytes>,
}

impl Writer {
    pub fn new(log: NatsLog) -> Self {
        Writer {
            log,
            tail: Lsn::FIRST,
            acknowledged: Vec::new(),
        }
    }

    pub async fn try_append(&mut self, record: &Bytes) -> Result<Lsn, AppendError> {
        self.log
            .append(P0, life(), vec![record.clone()], Some(self.tail))
            .await
    }

    /// Appends `count` records, one after the other, each until it is acknowledged or found.
    pub async fn append(&mut self, count: usize) {
        for _ in 0..count {
            let record = Bytes::from(format!("record {}", self.acknowledged.len() + 1));
            within("an append", async {
                loop {
                    match self.try_append(&record).await {
                        Ok(lsn) => {
                            assert_eq!(lsn, self.tail, "it lands where it was to");
                            break;
                        }
                        // An earlier try had landed: nobody else writes.
                        Err(AppendError::TailMismatch { tail }) => {
                            assert_eq!(tail, self.tail.next());
                            break;
                        }
                        Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) => {
                            tokio::time::sleep(PAUSE).await;
                        }
                        Err(error) => panic!("an append is refused: {error}"),
                    }
                }
            })
            .await;
            self.tail = self.tail.next();
            self.acknowledged.push(record);
        }
    }
}

/// Takes records from a stream until there are `count`.
pub async fn take(stream: &mut RecordStream, from: Lsn, count: usize) -> Result<Vec<Bytes>, ReadError> {
    let mut records = Vec::new();
    while records.len() < count {
        let batch = within("the next records", stream.next())
            .await
            .expect("a stream ends with an error")?;
        assert_eq!(
            batch.first,
            from.plus(records.len() as u64),
            "a reader never jumps"
        );
        records.extend(batch.records);
    }
    assert_eq!(
        records.len(),
        count,
        "nothing can be read beyond what was asked for"
    );
    Ok(records)
}

/// Reads a stream until it ends.
pub async fn read_to_error(stream: &mut RecordStream) -> ReadError {
    loop {
        if let Err(error) = within("the end of the stream", stream.next())
            .await
            .expect("a stream ends with an error")
        {
            return error;
        }
    }
}
