//! The engine over one NATS server with the users of `examples/nats`: who may do what, what is refused, and what a reader
//! survives.

mod nats_common;

use async_nats::jetstream::stream;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use nats_common::*;
use partition_log::conformance::{NatsServers, NatsUser, incarnation, registration};
use partition_log::nats::{FindingLevel, NatsCredentials, NatsLog, NatsOptions, NatsTls};
use partition_log::{AppendError, Log, LogAdmin, LogError, ProvisionError, ReadError, Registration};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use snapshot_store::{Lsn, PartitionId};
use std::time::Duration;
use tokio::time::Instant;

fn detail<T: std::fmt::Debug>(outcome: Result<T, LogError>) -> String {
    match outcome {
        Err(LogError::Unavailable { detail, .. }) => detail,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_append_and_read_and_an_admin_alone_may_trim_and_seal() {
    let servers = NatsServers::start(1).await;
    let (worker, admin) = provision(&servers).await;
    let mut writer = Writer::new(worker.clone());
    writer.append(5).await;

    let begin = Instant::now();
    let refusals = [
        detail(worker.trim(P0, life(), Lsn::new(3)).await),
        detail(worker.set_sealed(P0, life(), true).await),
        detail(worker.retire(P0, life()).await),
    ];
    for refusal in refusals {
        assert!(refusal.contains("these credentials may not do that"), "{refusal}");
    }
    let other = Registration {
        partition: PartitionId::new(1),
        ..registration(1)
    };
    let refused = worker.provision(other).await;
    assert!(
        matches!(&refused, Err(ProvisionError::Log(error)) if error.to_string().contains("may not")),
        "{refused:?}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "a refusal is not waited for until the time is up: {:?}",
        begin.elapsed()
    );

    // The same beside the engine.
    let js = raw(&servers, NatsUser::Worker).await;
    let stream = js.get_stream(stream_name()).await.expect("the stream is there");
    assert!(stream.purge().sequence(3).await.is_err());
    assert!(stream.delete_message(2).await.is_err());
    assert!(js.delete_stream(stream_name()).await.is_err());
    let shorter = stream::Config {
        max_messages: 1,
        ..stream.cached_info().config.clone()
    };
    assert!(js.update_stream(shorter).await.is_err());
    let entry = js.publish("$KV.tidemark-registry.0", Bytes::new()).await;
    assert!(
        entry.expect("it is sent").await.is_err(),
        "the registry is not a worker's to change"
    );

    let info = admin.info(P0).await.expect("the log says how it is");
    assert_eq!((info.trim_point, info.tail), (Lsn::ZERO, Lsn::new(6)));
    assert_eq!(admin.trim(P0, life(), Lsn::new(3)).await, Ok(Lsn::new(3)));
    assert_eq!(admin.set_sealed(P0, life(), true).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_and_servers_that_are_not_there_are_named() {
    let servers = NatsServers::start(1).await;
    let wrong = NatsOptions {
        credentials: NatsCredentials::Password {
            user: "worker".to_owned(),
            password: "wrong".to_owned(),
        },
        ..servers.options(NatsUser::Worker)
    };
    let nobody = NatsOptions {
        servers: vec!["nats://127.0.0.1:1".to_owned()],
        ..servers.options(NatsUser::Worker)
    };
    for (options, word) in [(wrong, "authorization violation"), (nobody, "127.0.0.1:1")] {
        let log = NatsLog::connect(options).await.expect("the options are good");
        // What went wrong is known a moment later.
        let said = within("the reason", async {
            loop {
                let said = log
                    .ready(PAUSE)
                    .await
                    .expect_err("it cannot be ready")
                    .to_string();
                if said.contains(word) {
                    return said;
                }
            }
        })
        .await;
        assert!(!said.contains("wrong"), "{said}");
        let refused = log.append(P0, life(), vec![Bytes::from_static(b"x")], None).await;
        assert!(
            matches!(refused, Err(AppendError::Unavailable { .. })),
            "{refused:?}"
        );
        assert!(detail(log.info(P0).await).contains("no connection"));
    }
}

/// The servers ask for a certificate, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_tls_are_used_by_clients_that_trust_them_and_are_known_to_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let authority = {
        let mut params = CertificateParams::new(Vec::new()).expect("an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    };
    std::fs::write(path("ca.pem"), authority.pem()).expect("a file is written");
    for name in ["server", "client"] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        std::fs::write(path(&format!("{name}.pem")), certificate.pem()).expect("a file is written");
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).expect("a file is written");
    }
    let lines = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    let tls = NatsTls {
        required: true,
        ca_file: Some(path("ca.pem")),
        cert_file: Some(path("client.pem")),
        key_file: Some(path("client.key")),
    };
    let servers = NatsServers::start_with(1, &lines, tls).await;
    let (log, _admin) = provision(&servers).await;
    assert_eq!(
        log.append(P0, life(), vec![Bytes::from_static(b"x")], None).await,
        Ok(Lsn::FIRST)
    );

    let untrusting = NatsOptions {
        tls: NatsTls::default(),
        ..servers.options(NatsUser::Worker)
    };
    let log = NatsLog::connect(untrusting).await.expect("the options are good");
    let refused = log.ready(Duration::from_secs(1)).await;
    assert!(
        refused.is_err(),
        "a server of an unknown authority is not talked to"
    );
    let missing = NatsOptions {
        tls: NatsTls {
            ca_file: Some(path("none.pem")),
            ..NatsTls::default()
        },
        ..servers.options(NatsUser::Worker)
    };
    let refused = NatsLog::connect(missing)
        .await
        .err()
        .map(|error| error.to_string());
    assert!(refused.is_some_and(|text| text.contains("none.pem")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_settings_lose_records_is_refused_with_the_list() {
    let servers = NatsServers::start(1).await;
    let (log, admin) = provision(&servers).await;
    let js = raw(&servers, NatsUser::Admin).await;
    let sound = stream_info(&js).await.config;
    let lossy = stream::Config {
        max_messages: 1000,
        max_age: Duration::from_secs(3600),
        ..sound.clone()
    };
    js.update_stream(lossy).await.expect("the stream is changed");
    let told = detail(log.info(P0).await);
    let refused = log.append(P0, life(), vec![Bytes::from_static(b"x")], None).await;
    let read = log.read(P0, life(), Lsn::FIRST).await.err();
    for text in [told, format!("{refused:?}"), format!("{read:?}")] {
        assert!(
            text.contains("max_msgs is 1000") && text.contains("max_age is 3600s"),
            "{text}"
        );
    }
    let findings = admin.check(&[P0]).await;
    assert!(
        findings
            .iter()
            .any(|found| found.level == FindingLevel::Broken && found.text.contains("max_age")),
        "{findings:?}"
    );
    js.update_stream(sound).await.expect("the stream is changed");
    assert_eq!(
        log.append(P0, life(), vec![Bytes::from_static(b"x")], None).await,
        Ok(Lsn::FIRST)
    );

    // One that somebody else made under a log's name.
    let name = format!("tidemark-p1-g1-{}", life().id);
    let foreign = stream::Config {
        name,
        subjects: vec!["other".to_owned()],
        ..Default::default()
    };
    js.create_stream(foreign).await.expect("a stream is made");
    let other = Registration {
        partition: PartitionId::new(1),
        ..registration(1)
    };
    let refused = admin.provision(other).await;
    assert!(
        matches!(&refused, Err(ProvisionError::Log(error)) if error.to_string().contains("not safe for a log")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_what_is_there_what_is_missing_and_what_cannot_be_known() {
    let servers = NatsServers::start(1).await;
    let (worker, _admin) = provision(&servers).await;
    let wanting = NatsOptions {
        replicas: 3,
        ..servers.options(NatsUser::Admin)
    };
    let admin = NatsLog::connect(wanting).await.expect("the options are good");
    admin
        .ready(Duration::from_secs(30))
        .await
        .expect("the server can be reached");
    let level_of = |findings: &[partition_log::nats::Finding], word: &str| {
        findings
            .iter()
            .find(|found| found.text.contains(word))
            .map(|found| found.level)
    };
    let findings = admin.check(&[P0, PartitionId::new(1)]).await;
    for (word, level) in [
        ("sync_interval: always", FindingLevel::Unknown),
        ("nats-server 2.", FindingLevel::Good),
        ("may trim: right for admins", FindingLevel::Good),
        (
            "partition 0: the log is kept on 1 servers, and 3 are wanted",
            FindingLevel::Lacking,
        ),
        ("partition 1: no log is provisioned", FindingLevel::Lacking),
    ] {
        assert_eq!(level_of(&findings, word), Some(level), "{word}: {findings:?}");
    }
    let findings = worker.check(&[P0]).await;
    assert_eq!(
        level_of(&findings, "may not trim: right for workers"),
        Some(FindingLevel::Good),
        "{findings:?}"
    );
}

/// A writer that knew the log before it was sealed, or retired, is refused by the servers themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_writer_is_refused_by_a_sealed_and_by_a_retired_log() {
    let servers = NatsServers::start(1).await;
    let (late, admin) = provision(&servers).await;
    let mut writer = Writer::new(late.clone());
    writer.append(2).await;
    assert_eq!(admin.set_sealed(P0, life(), true).await, Ok(()));
    let batch = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    for batch in [vec![Bytes::new()], batch] {
        let refused = late.append(P0, life(), batch.clone(), None).await;
        assert_eq!(refused, Err(AppendError::Sealed));
        // Also without the engine's own check, and with nothing in it.
        let js = raw(&servers, NatsUser::Worker).await;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X", "y");
        let sent = js
            .publish_with_headers(subject(), headers, batch[0].clone())
            .await;
        assert!(sent.expect("it is sent").await.is_err());
    }
    assert_eq!(admin.set_sealed(P0, life(), false).await, Ok(()));
    writer.append(1).await;

    assert_eq!(admin.retire(P0, life()).await, Ok(()));
    assert_eq!(
        admin.retire(P0, life()).await,
        Ok(()),
        "repeating it changes nothing"
    );
    let missing = LogError::Missing { partition: P0 };
    assert_eq!(
        late.append(P0, life(), vec![Bytes::from_static(b"x")], None)
            .await,
        Err(AppendError::Log(missing.clone()))
    );
    assert_eq!(admin.trim(P0, life(), Lsn::FIRST).await, Err(missing));
    let next = Registration {
        incarnation: incarnation(2),
        ..registration(0)
    };
    assert_eq!(admin.provision(next).await, Ok(()));
    let found = incarnation(2);
    let other = LogError::OtherIncarnation {
        partition: P0,
        found,
        expected: life(),
    };
    assert_eq!(admin.trim(P0, life(), Lsn::FIRST).await, Err(other));
    let records = stream_info(&raw(&servers, NatsUser::Admin).await).await.state;
    assert_eq!(records.messages, 3, "what was there is kept");
}

/// Somebody, or the servers themselves, delete the consumer that a reader reads with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_where_it_was_after_its_consumer_was_deleted() {
    let servers = NatsServers::start(1).await;
    let (log, _admin) = provision(&servers).await;
    let js = raw(&servers, NatsUser::Admin).await;
    let mut writer = Writer::new(log.clone());
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    writer.append(3).await;
    // Before its first record, and after some.
    for round in 0_u64..3 {
        let reading = take(&mut stream, Lsn::new(3 * round + 1), 3).await;
        assert_eq!(reading.map(|records| records.len()), Ok(3));
        assert!(
            stream.next().now_or_never().is_none(),
            "there is nothing more to read"
        );
        let found = js.get_stream(stream_name()).await.expect("the stream is there");
        let names: Vec<_> = found.consumer_names().collect().await;
        assert!(!names.is_empty(), "the reader has a consumer");
        for name in names {
            let name = name.expect("the consumers are listed");
            found
                .delete_consumer(&name)
                .await
                .expect("the consumer is deleted");
        }
        writer.append(3).await;
    }
    assert_eq!(
        take(&mut stream, Lsn::new(10), 3).await,
        Ok(writer.acknowledged[9..].to_vec())
    );
}

/// Stops the consumers of the log's stream from delivering; they still say that they live.
async fn pause_consumers(js: &async_nats::jetstream::Context) {
    let found = js.get_stream(stream_name()).await.expect("the stream is there");
    let names: Vec<_> = found.consumer_names().collect().await;
    assert!(!names.is_empty(), "the reader has a consumer");
    for name in names {
        let name = name.expect("the consumers are listed");
        let subject = format!("$JS.API.CONSUMER.PAUSE.{}.{name}", stream_name());
        let until = Bytes::from_static(b"{\"pause_until\":\"2100-01-01T00:00:00Z\"}");
        let answer = js.client().request(subject, until).await.expect("it is answered");
        assert!(
            answer.payload.windows(13).any(|part| part == b"\"paused\":true"),
            "{answer:?}"
        );
    }
}

/// The servers deliver nothing at all to whom everything was trimmed away; here they deliver nothing in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_for_nothing_finds_out_by_itself() {
    let servers = NatsServers::start(1).await;
    let (log, admin) = provision(&servers).await;
    let js = raw(&servers, NatsUser::Admin).await;
    let mut writer = Writer::new(log.clone());
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    writer.append(3).await;
    assert!(take(&mut stream, Lsn::FIRST, 3).await.is_ok());

    // Records are there: it gets them from another consumer.
    pause_consumers(&js).await;
    writer.append(3).await;
    assert_eq!(
        take(&mut stream, Lsn::new(4), 3).await,
        Ok(writer.acknowledged[3..].to_vec())
    );

    // They came and went, and nothing is appended any more.
    pause_consumers(&js).await;
    writer.append(4).await;
    assert_eq!(admin.trim(P0, life(), Lsn::new(10)).await, Ok(Lsn::new(10)));
    let begin = Instant::now();
    let trimmed = ReadError::Trimmed {
        trim_point: Lsn::new(10),
    };
    assert_eq!(read_to_error(&mut stream).await, trimmed);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// The registry has a log whose stream was deleted: that is told, and never mended by making an empty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_stream_is_gone_is_not_created_again() {
    let servers = NatsServers::start(1).await;
    let (log, admin) = provision(&servers).await;
    let mut writer = Writer::new(log.clone());
    writer.append(2).await;
    let js = raw(&servers, NatsUser::Admin).await;
    js.delete_stream(stream_name())
        .await
        .expect("the stream is deleted");
    assert_eq!(admin.provision(registration(0)).await, Ok(()), "it is registered");
    for text in [
        detail(log.info(P0).await),
        detail(admin.trim(P0, life(), Lsn::FIRST).await),
        format!("{:?}", log.read(P0, life(), Lsn::FIRST).await.err()),
    ] {
        assert!(text.contains("is gone"), "{text}");
    }
    let refused = log.append(P0, life(), vec![Bytes::from_static(b"x")], None).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    // A recovery goes on from here.
    assert_eq!(admin.retire(P0, life()).await, Ok(()));
}
