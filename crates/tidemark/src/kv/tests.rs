//! Client, service and state machine together: two workers over one embedded log, in this process.

use super::{
    KvClient, KvError,
    client::kv_service,
    import::Pair,
    machine::KvMachine,
    rules,
    service::{KvServer, reason},
};
use crate::{commands::cluster_init, wire_security::ClientSecurity};
use bytes::Bytes;
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use snapshot_proto::kv::{GetRequest, Operation, ScanRequest, WriteRequest, operation::Change};
use snapshot_store::{ClusterSpec, NodeId, PairDigest, PartitionId, Repository, Seams, format::KeyHash};
use snapshot_worker::{
    agent::LocalIdentity,
    core::PartitionState,
    processor::{PartitionHandle, Worker, WorkerOptions},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, transport::Server};
use tonic_types::StatusExt as _;

const PARTITIONS: u32 = 8;
/// How long the nodes may take to get where a test wants them; they take milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

struct Nodes {
    workers: Vec<Worker>,
    urls: Vec<String>,
    log: EmbeddedLog,
    folder: tempfile::TempDir,
}

impl Nodes {
    /// Two workers; the first leads the partitions with even numbers, the second the others.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&folder.path().join("log"), EmbeddedOptions::default()).unwrap();
        let url = format!("file://{}", folder.path().join("bucket").display());
        let repository = Repository::open(&url, Seams::real()).unwrap();
        let spec = ClusterSpec {
            name: "test".into(),
            partitions: PARTITIONS,
            key_hash: KeyHash::Blake3Mod,
        };
        cluster_init::init(&repository, &log, &log, spec).await.unwrap();
        let mut nodes = Nodes {
            workers: Vec::new(),
            urls: Vec::new(),
            log: log.clone(),
            folder,
        };
        for number in 1..=2 {
            nodes.start_worker(number, &repository).await;
        }
        for (worker, number) in nodes.workers.iter().cycle().zip(0..PARTITIONS) {
            let handle = worker.partition(PartitionId::new(number)).unwrap();
            handle.lead().await.unwrap();
        }
        nodes
    }

    async fn start_worker(&mut self, number: u32, repository: &Repository) {
        let node = NodeId::new(format!("worker-{number}")).unwrap();
        let data_dir = self.folder.path().join(node.as_str());
        std::fs::create_dir_all(&data_dir).unwrap();
        let identity = LocalIdentity::adopt(&data_dir, &node, repository).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = WorkerOptions {
            partitions: (0..PARTITIONS).map(PartitionId::new).collect(),
            propose_timeout: Duration::from_secs(2),
            ..WorkerOptions::new(node, url.clone(), data_dir, identity.clone())
        };
        let log = Arc::new(self.log.clone());
        let worker = Worker::start(
            options,
            Arc::new(KvMachine),
            log,
            repository.clone(),
            Seams::real(),
        )
        .unwrap();
        let services = Server::builder()
            .add_service(worker.service())
            .add_service(KvServer::new(Arc::new(worker.clone()), identity).into_service());
        tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
        for number in 0..PARTITIONS {
            let handle = worker.partition(PartitionId::new(number)).unwrap();
            wait_for(&handle, |state| *state == PartitionState::Active).await;
        }
        self.workers.push(worker);
        self.urls.push(url);
    }

    /// Ends everything before the folder goes; a database whose folder is gone waits in vain to flush.
    async fn stop(self) {
        for worker in &self.workers {
            worker.shutdown().await;
        }
        self.log.close().await;
        drop(self.folder);
    }

    async fn client(&self, worker: usize) -> KvClient {
        let client = KvClient::connect(vec![self.urls[worker].clone()]).await.unwrap();
        client.with_patience(DEADLINE)
    }
}

async fn wait_for(handle: &PartitionHandle, wanted: impl Fn(&PartitionState) -> bool) {
    let mut status = handle.watch();
    let reached = status.wait_for(|status| wanted(&status.state));
    tokio::time::timeout(DEADLINE, reached)
        .await
        .expect("the state is reached in time")
        .unwrap();
}

/// Returns a key of `partition`.
fn key_of(partition: u32, salt: &str) -> String {
    let fits = |key: &String| KeyHash::Blake3Mod.partition_of(key.as_bytes(), PARTITIONS).get() == partition;
    (0..1000)
        .map(|number| format!("{salt}-{number}"))
        .find(fits)
        .unwrap()
}

fn put(key: &str, value: impl Into<Bytes>) -> Operation {
    Operation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Some(Change::Put(value.into())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_through_any_worker_is_read_and_digested_everywhere() {
    let nodes = Nodes::start().await;
    let client = nodes.client(0).await;
    let mut expected = BTreeMap::new();
    for number in 0..40 {
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        client.put(key.clone(), value.clone()).await.unwrap();
        expected.insert(key, value);
    }
    for gone in ["key-3", "key-4", "never-there"] {
        client.delete(gone).await.unwrap();
        expected.remove(gone);
    }
    let reply = client.get("key-7").await.unwrap();
    assert_eq!(reply.value.as_deref(), Some(b"value-7".as_slice()));
    assert!(reply.leader && reply.lsn > 1, "{reply:?}");
    assert_eq!(client.get("key-3").await.unwrap().value, None);

    let mut digest = PairDigest::new();
    expected
        .iter()
        .for_each(|(key, value)| digest.pair(key.as_bytes(), value.as_bytes()));
    let found = nodes.client(1).await.digest().await.unwrap();
    assert_eq!((found.digest, found.pairs), (digest.finish(), digest.pairs()));

    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let lsn = found.partitions[partition.get() as usize].lsn;
        let mut digests = Vec::new();
        for (worker, url) in nodes.workers.iter().zip(&nodes.urls) {
            let mut status = worker.partition(partition).unwrap().watch();
            let reached = status.wait_for(|status| status.applied_lsn >= Some(lsn));
            tokio::time::timeout(DEADLINE, reached).await.unwrap().unwrap();
            let reply = client.replica_digest(url, partition).await.unwrap();
            digests.push((reply.digest, reply.lsn, reply.chain_hash));
        }
        assert_eq!(digests[0], digests[1], "replicas of partition {partition} differ");
    }
    nodes.stop().await;
}

/// All keys of a partition sort before those of the next one, so the merge leaves the scans of the later partitions
/// unread until the earlier ones are through. On one connection they once filled its window and nothing moved.
#[tokio::test(flavor = "multi_thread")]
async fn scans_that_wait_unread_do_not_hold_up_the_others() {
    const ROUNDS: u32 = 6;
    const OPERATIONS: u32 = 8;
    let nodes = Nodes::start().await;
    let client = nodes.client(0).await;
    let value = Bytes::from(vec![b'v'; 64 << 10]);
    for partition in 0..PARTITIONS {
        for round in 0..ROUNDS {
            let key = |number| key_of(partition, &format!("{partition}-{round}-{number}"));
            let operations = (0..OPERATIONS)
                .map(|number| put(&key(number), value.clone()))
                .collect();
            client
                .write(PartitionId::new(partition), operations)
                .await
                .unwrap();
        }
    }
    let digest = tokio::time::timeout(DEADLINE, client.digest());
    let pairs = digest.await.expect("the scans go on").unwrap().pairs;
    assert_eq!(pairs, u64::from(PARTITIONS * ROUNDS * OPERATIONS));
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_keeps_the_last_value_of_each_key() {
    let nodes = Nodes::start().await;
    let client = nodes.client(1).await;
    let pairs = (0..2000).map(|number: u32| {
        let key = Bytes::from(format!("key-{}", number % 100));
        Ok(Pair {
            key,
            value: Bytes::from(number.to_string()),
        })
    });
    let report = client.import(pairs, Arc::new(|_, _| {})).await.unwrap();
    assert_eq!(report.records, 2000);
    let last = client.get("key-42").await.unwrap().value;
    assert_eq!(last.as_deref(), Some(b"1942".as_slice()));
    assert_eq!(client.digest().await.unwrap().pairs, 100);
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_instead_of_writing() {
    let nodes = Nodes::start().await;
    let mut follower = kv_service(ClientSecurity::open().connect(&nodes.urls[0]).unwrap());
    let key = key_of(1, "k");
    let mut attempts = 0;
    let status = loop {
        let request = WriteRequest {
            partition: 1,
            operations: vec![put(&key, "v")],
        };
        let status = follower.write(request).await.unwrap_err();
        // Until the follower has applied the announcement it knows of no leader.
        attempts += 1;
        if status
            .get_details_error_info()
            .is_some_and(|info| info.metadata.contains_key("address"))
        {
            break status;
        }
        assert!(attempts < 1000, "{status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason::NOT_LEADER, "tidemark")
    );
    assert_eq!(info.metadata["address"], nodes.urls[1]);
    assert_eq!(info.metadata["node"], "worker-2");
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_refuses_what_the_client_would_not_send() {
    let nodes = Nodes::start().await;
    let mut service = kv_service(ClientSecurity::open().connect(&nodes.urls[0]).unwrap());
    let (own, stray) = (key_of(0, "k"), key_of(1, "k"));
    let large = vec![0; rules::VALUE_BYTES_MAX + 1];
    let cases = [
        (0, vec![put("", "v")], "empty-key"),
        (
            0,
            vec![put(&"k".repeat(rules::KEY_BYTES_MAX + 1), "v")],
            "key-too-long",
        ),
        (0, vec![put(&own, large)], "value-too-large"),
        (0, vec![], "write-size"),
        (0, vec![put(&own, "v"), put(&stray, "v")], reason::WRONG_PARTITION),
        (9, vec![put(&own, "v")], reason::UNKNOWN_PARTITION),
    ];
    for (partition, operations, expected) in cases {
        let status = service
            .write(WriteRequest {
                partition,
                operations,
            })
            .await
            .unwrap_err();
        let found = status.get_details_error_info().map(|info| info.reason);
        assert_eq!(found.as_deref(), Some(expected), "{status}");
    }
    let status = service.get(GetRequest { key: Bytes::new() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let largest = vec![7; rules::VALUE_BYTES_MAX];
    service
        .write(WriteRequest {
            partition: 0,
            operations: vec![put(&own, largest.clone())],
        })
        .await
        .unwrap();
    let reply = service
        .get(GetRequest {
            key: Bytes::from(own.clone()),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.value.as_deref(), Some(largest.as_slice()));

    let client = nodes.client(0).await;
    let refused = client.put("", "v").await;
    assert!(matches!(refused, Err(KvError::Refused(rules::Refusal::EmptyKey))));
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_partition_scans_as_one_empty_message_with_its_lsn() {
    let nodes = Nodes::start().await;
    let mut service = kv_service(ClientSecurity::open().connect(&nodes.urls[0]).unwrap());
    let mut scan = service
        .scan(ScanRequest { partition: 0 })
        .await
        .unwrap()
        .into_inner();
    let message = scan.message().await.unwrap().unwrap();
    assert_eq!(
        (message.pairs.len(), message.lsn),
        (0, 1),
        "the announcement is the only record"
    );
    assert!(scan.message().await.unwrap().is_none());
    nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_command_blocks_its_partition_and_no_other() {
    let nodes = Nodes::start().await;
    let poisoned = nodes.workers[0].partition(PartitionId::new(0)).unwrap();
    let unknown = poisoned.propose(vec![Bytes::from_static(&[0xff; 8])]);
    let (outcome, ()) = tokio::join!(
        unknown,
        wait_for(&poisoned, |state| matches!(state, PartitionState::Blocked { .. }))
    );
    assert!(outcome.is_err(), "a poison record is never acknowledged");
    let PartitionState::Blocked { reason, .. } = poisoned.status().state else {
        panic!("it stays blocked")
    };
    assert_eq!(reason.as_str(), "poison-record");
    let client = nodes.client(0).await;
    client.put(key_of(1, "k"), "v").await.unwrap();
    nodes.stop().await;
}
