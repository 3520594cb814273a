//! Between a client and its server: credentials in files, and a network that is cut while the server lives.

mod nats_common;

use nats_common::{
    passage::{Passage, Way},
    *,
};
use partition_log::Log;
use partition_log::conformance::{NatsServers, NatsUser};
use partition_log::nats::{NatsCredentials, NatsLog, NatsOptions};
use snapshot_store::Lsn;
use std::time::Duration;

/// Tries to connect while the way is closed for 2 s: more would be no backoff. Seven are due, at pauses that double up
/// to their bound, and each pause may be half of its length.
const TRIES_MAX: usize = 12;

#[tokio::test]
async fn a_credentials_file_that_is_missing_or_holds_none_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (missing, empty) = (
        folder.path().join("missing.creds"),
        folder.path().join("empty.creds"),
    );
    std::fs::write(&empty, "nothing that a server would accept\n").expect("the file is written");
    for path in [missing, empty] {
        let options = NatsOptions {
            servers: vec!["nats://127.0.0.1:1".to_owned()],
            credentials: NatsCredentials::File(path.clone()),
            ..NatsOptions::default()
        };
        let refused = NatsLog::connect(options)
            .await
            .err()
            .map(|error| error.to_string());
        let named = refused
            .as_ref()
            .is_some_and(|said| said.contains(&path.display().to_string()));
        assert!(named, "{refused:?} does not name {}", path.display());
    }
}

/// A connection that breaks, and one on which nothing comes and nobody is told. Writer and reader have no other way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_costs_neither_writer_nor_reader_a_record_and_nobody_hammers_it() {
    let servers = NatsServers::start(1).await;
    let (direct, _admin) = provision(&servers).await;
    let server = servers.url(0).replace("nats://", "");
    let passage = Passage::to(server.parse().expect("an address")).await;
    let options = NatsOptions {
        servers: vec![format!("nats://{}", passage.address())],
        ..servers.options(NatsUser::Worker)
    };
    let log = NatsLog::connect(options).await.expect("the options are good");
    let mut stream = within("the log", async {
        loop {
            match log.read(P0, life(), Lsn::FIRST).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
    .await;
    let mut writer = Writer::new(log);
    for (way, length) in [(Way::Closed, 2), (Way::Silent, 7)] {
        let begin = writer.acknowledged.len();
        let cut = async {
            // Some records are through by then, and others on their way.
            tokio::time::sleep(PAUSE).await;
            passage.set(way);
            tokio::time::sleep(Duration::from_secs(length)).await;
            passage.set(Way::Open);
        };
        tokio::join!(cut, writer.append(400));
        let from = Lsn::new(begin as u64 + 1);
        let read = take(&mut stream, from, 400).await;
        assert_eq!(read.as_deref(), Ok(&writer.acknowledged[begin..]), "{way:?}");
    }
    let tries = passage.refused();
    assert!((1..=TRIES_MAX).contains(&tries), "{tries} tries to connect");

    let mut whole = direct
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    let read = take(&mut whole, Lsn::FIRST, writer.acknowledged.len()).await;
    assert_eq!(read, Ok(writer.acknowledged), "the log itself");
}
