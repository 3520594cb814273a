//! The log on NATS against a plain client of the same servers, and many partitions.
//!
//! ```text
//! cargo bench --profile dev -p partition-log --bench nats -- append      # also: read, partitions
//! ```
//!
//! Starts three servers on loopback with the shipped configuration, so with `sync_interval: always`. `append` and `read` print
//! the median ratio of interleaved pairs, records per second through the engine divided by those of the plain client with the
//! same batches, and the spread. Both clients of `read` are connected to the same server, and both consumers of a pair live on
//! the same one: the servers choose it at random, and one hop more or less weighs more than what is measured. `partitions`
//! prints how long it takes to provision them, the servers' memory, and the time from the start of all killed servers until each
//! log has taken an append.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use partition_log::conformance::{NatsServers, NatsUser, registration};
use partition_log::nats::{NatsCredentials, NatsLog, NatsOptions};
use partition_log::{Log, LogAdmin, Registration};
use snapshot_store::{Lsn, PartitionId};
use std::time::Duration;
use tokio::time::Instant;

const RECORD_BYTES: usize = 256;
const BATCH: usize = 128;
/// Batches of one measurement.
const BATCHES: usize = 100;
const PAIRS: usize = 11;
const PARTITIONS: u32 = 1000;
const AT_ONCE: usize = 16;
const PLAIN: &str = "plain";

#[tokio::main]
async fn main() {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let asked: Vec<&str> = match asked.is_empty() {
        true => vec!["append", "read"],
        false => asked.iter().map(String::as_str).collect(),
    };
    for what in asked {
        match what {
            "append" => append().await,
            "read" => read().await,
            "partitions" => partitions().await,
            other => panic!("nothing is called {other}"),
        }
    }
}

fn batch() -> Vec<Bytes> {
    vec![Bytes::from(vec![b'x'; RECORD_BYTES]); BATCH]
}

async fn connect(servers: &NatsServers) -> NatsLog {
    let log = servers.connect(NatsUser::Admin).await;
    log.ready(Duration::from_secs(60)).await.unwrap();
    log
}

async fn plain(options: NatsOptions, replicas: usize) -> jetstream::Context {
    let NatsCredentials::Password { user, password } = options.credentials else {
        panic!("the users have passwords");
    };
    let client = async_nats::ConnectOptions::with_user_and_password(user, password)
        .connect(options.servers)
        .await
        .unwrap();
    let js = jetstream::new(client);
    let config = stream::Config {
        name: PLAIN.to_owned(),
        subjects: vec![PLAIN.to_owned()],
        num_replicas: replicas,
        allow_atomic_publish: true,
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    js
}

/// Sends one atomic batch as simply as it can be sent.
async fn send_plain(js: &jetstream::Context, id: usize, records: Vec<Bytes>) {
    let client = js.client();
    let count = records.len();
    for (index, record) in records.into_iter().enumerate() {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Batch-Id", format!("b{id}"));
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        if index + 1 < count {
            client.publish_with_headers(PLAIN, headers, record).await.unwrap();
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            let answer = client.request_with_headers(PLAIN, headers, record).await.unwrap();
            assert!(
                !answer.payload.windows(7).any(|part| part == b"\"error\""),
                "{answer:?}"
            );
        }
    }
}

fn print(what: &str, mut ratios: Vec<f64>) {
    ratios.sort_by(f64::total_cmp);
    println!(
        "{what}: median ratio {:.3} of {} pairs, from {:.3} to {:.3}",
        ratios[ratios.len() / 2],
        ratios.len(),
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

async fn append() {
    let servers = NatsServers::start(3).await;
    let js = plain(servers.options(NatsUser::Admin), servers.count()).await;
    let log = connect(&servers).await;
    log.provision(registration(0)).await.unwrap();
    let Registration {
        partition,
        incarnation,
        ..
    } = registration(0);
    let (mut tail, mut id) = (Lsn::FIRST, 0);
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let mut seconds = [0.0; 2];
        for side in if pair.is_multiple_of(2) { [0, 1] } else { [1, 0] } {
            let begin = Instant::now();
            for _ in 0..BATCHES {
                if side == 0 {
                    let last = log.append(partition, incarnation, batch(), Some(tail)).await;
                    tail = last.unwrap().next();
                } else {
                    send_plain(&js, id, batch()).await;
                    id += 1;
                }
            }
            seconds[side] = begin.elapsed().as_secs_f64();
        }
        let rate = |side: usize| (BATCHES * BATCH) as f64 / seconds[side];
        println!("append {pair}: {:.0} against {:.0} records/s", rate(0), rate(1));
        ratios.push(seconds[1] / seconds[0]);
    }
    print("append", ratios);
}

/// What is read: as many records of one log through the engine and of one stream by a plain client. Both clients are
/// connected to the same server.
struct Reading {
    js: jetstream::Context,
    log: NatsLog,
    /// The name of the log's stream.
    stream: String,
    count: usize,
}

impl Reading {
    async fn prepare(servers: &NatsServers) -> Self {
        let options = NatsOptions {
            servers: vec![servers.url(0)],
            ..servers.options(NatsUser::Admin)
        };
        let js = plain(options.clone(), servers.count()).await;
        let log = NatsLog::connect(options).await.unwrap();
        log.ready(Duration::from_secs(60)).await.unwrap();
        log.provision(registration(0)).await.unwrap();
        let Registration {
            partition,
            incarnation,
            ..
        } = registration(0);
        for id in 0..BATCHES {
            let records = vec![Bytes::from(vec![b'x'; RECORD_BYTES]); 1000];
            send_plain(&js, id, records.clone()).await;
            log.append(partition, incarnation, records, None).await.unwrap();
        }
        let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
        let of_log = |name: &String| name != PLAIN && !name.starts_with("KV_");
        Reading {
            js,
            log,
            stream: names.into_iter().find(of_log).unwrap(),
            count: BATCHES * 1000,
        }
    }

    /// Deletes the consumers of both streams: what one has under way would disturb the next measurement.
    async fn delete_consumers(&self) {
        for name in [self.stream.as_str(), PLAIN] {
            let stream = self.js.get_stream(name).await.unwrap();
            let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
            for name in names {
                stream.delete_consumer(&name).await.unwrap();
            }
        }
    }

    /// Returns the server that the only consumer of a stream lives on.
    async fn place(&self, stream: &str) -> String {
        let stream = self.js.get_stream(stream).await.unwrap();
        let consumer = stream.consumers().next().await.unwrap().unwrap();
        consumer.cluster.unwrap().leader.unwrap()
    }

    /// Reads everything through the engine or with the plain client. The servers choose where a consumer lives, and one on
    /// the server that the client is connected to is much faster: with `place`, it is made again until it lives there.
    /// Returns the seconds, with the making, and the place.
    async fn measure(&self, engine: bool, place: Option<&str>) -> (f64, String) {
        loop {
            let read = match engine {
                true => self.through_the_engine(place).await,
                false => self.plainly(place).await,
            };
            self.delete_consumers().await;
            if let Some(read) = read {
                return read;
            }
        }
    }

    async fn through_the_engine(&self, wanted: Option<&str>) -> Option<(f64, String)> {
        let Registration {
            partition,
            incarnation,
            ..
        } = registration(0);
        let begin = Instant::now();
        let mut stream = self.log.read(partition, incarnation, Lsn::FIRST).await.unwrap();
        let mut read = stream.next().await.unwrap().unwrap().records.len();
        let place = self.place(&self.stream).await;
        if wanted.is_some_and(|wanted| wanted != place) {
            return None;
        }
        while read < self.count {
            read += stream.next().await.unwrap().unwrap().records.len();
        }
        Some((begin.elapsed().as_secs_f64(), place))
    }

    async fn plainly(&self, wanted: Option<&str>) -> Option<(f64, String)> {
        let begin = Instant::now();
        let stream = self.js.get_stream(PLAIN).await.unwrap();
        let config = pull::Config {
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let pulls = consumer.stream().max_messages_per_batch(500);
        let mut messages = pulls.messages().await.unwrap();
        // Its server may not be known yet where the client is.
        messages.next().await?.ok()?;
        let place = self.place(PLAIN).await;
        if wanted.is_some_and(|wanted| wanted != place) {
            return None;
        }
        for _ in 1..self.count {
            messages.next().await.unwrap().unwrap();
        }
        Some((begin.elapsed().as_secs_f64(), place))
    }
}

async fn read() {
    let servers = NatsServers::start(3).await;
    let reading = Reading::prepare(&servers).await;
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let engine_first = pair.is_multiple_of(2);
        let (first, place) = reading.measure(engine_first, None).await;
        let (second, _) = reading.measure(!engine_first, Some(&place)).await;
        let (engine, plain) = match engine_first {
            true => (first, second),
            false => (second, first),
        };
        let rate = |seconds: f64| reading.count as f64 / seconds;
        println!(
            "read {pair}: {:.0} against {:.0} records/s, from consumers on {place}",
            rate(engine),
            rate(plain)
        );
        ratios.push(plain / engine);
    }
    print("read", ratios);
}

/// Resident memory of a process, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    kib >> 10
}

async fn partitions() {
    let mut servers = NatsServers::start(3).await;
    let log = connect(&servers).await;
    let registrations: Vec<Registration> = (0..PARTITIONS)
        .map(|partition| Registration {
            partition: PartitionId::new(partition),
            ..registration(0)
        })
        .collect();
    let begin = Instant::now();
    // The first one makes the registry, which needs a moment until it has a leader.
    log.provision(registrations[0].clone()).await.unwrap();
    futures::stream::iter(registrations.clone().into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |registration| log.provision(registration))
        .await
        .unwrap();
    println!(
        "{PARTITIONS} partitions provisioned in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    append_to_each(&log, &registrations).await;
    let memory: Vec<u64> = (0..3)
        .filter_map(|index| servers.process_id(index))
        .map(resident)
        .collect();
    println!("memory of the servers: {memory:?} MiB");
    for index in 0..3 {
        servers.kill(index);
    }
    let begin = Instant::now();
    for index in 0..3 {
        servers.start_again(index);
    }
    append_to_each(&log, &registrations).await;
    println!(
        "all servers killed and started: each log has taken an append after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

/// Appends one record to each log, again until it is taken.
async fn append_to_each(log: &NatsLog, registrations: &[Registration]) {
    futures::stream::iter(registrations)
        .for_each_concurrent(AT_ONCE, |registration| async move {
            let record = || vec![Bytes::from_static(b"x")];
            let (partition, incarnation) = (registration.partition, registration.incarnation);
            while log.append(partition, incarnation, record(), None).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
}
