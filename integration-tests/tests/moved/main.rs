//! A cluster moves from a folder to S3 and on to Azure, is interrupted on both ways, and lives on there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod objects;

use integration_tests::{
    TestCluster,
    replicas::{self, Pairs},
    s3_server::{Locking, S3Server},
    store_servers::StoreServer,
};
use objects::objects;
use snapshot_proto::kv::{Operation, operation::Change};
use snapshot_store::{
    CopyReport, DirectoryState, MoveRequest, NoProgress, PartitionId, Progress, Repository, Seams,
    StoreOptions,
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tidemark::{
    cluster::{Node, Settings, wait_for},
    kv::KvClient,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 10;
const SNAPSHOTS: usize = 20;
const WORKERS: u32 = 2;
const SNAPSHOT_AFTER: u64 = 20;
const WITHIN: Duration = Duration::from_secs(90);

/// A store that a cluster can live in.
struct Place {
    url: String,
    options: Vec<(String, String)>,
}

impl Place {
    fn open(&self) -> Repository {
        let options = StoreOptions::for_client(self.options.clone());
        Repository::open_with(&self.url, &options, Seams::real()).unwrap()
    }

    /// Returns the section of a node's configuration that names it.
    fn section(&self) -> toml::Table {
        let text = |value: &String| toml::Value::String(value.clone());
        let options = self.options.iter().map(|(key, value)| (key.clone(), text(value)));
        let mut store = toml::Table::new();
        store.insert("url".to_owned(), text(&self.url));
        store.insert("options".to_owned(), toml::Value::Table(options.collect()));
        store
    }
}

/// Tells when `bytes` have been looked after.
struct Until {
    bytes: u64,
    so_far: AtomicU64,
    reached: Notify,
}

impl Until {
    fn bytes(bytes: u64) -> Self {
        Until {
            bytes,
            so_far: AtomicU64::new(0),
            reached: Notify::new(),
        }
    }
}

impl Progress for Until {
    fn advanced(&self, bytes: u64) {
        if self.so_far.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.bytes {
            self.reached.notify_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_twice_with_interruptions_and_its_workers_come_back_from_the_copy() {
    let mut cluster = launch().await;
    let before = content(&cluster).await;
    for node in [Node::Admin, Node::Worker(1), Node::Worker(2)] {
        cluster.stop(node).await.unwrap();
    }

    let folder = tempfile::tempdir().unwrap();
    let s3 = S3Server::start("127.0.0.1:0", folder.path(), "bucket", Locking::Atomic)
        .await
        .unwrap();
    let azure = StoreServer::azurite("container").await.unwrap();
    let places = [
        Place {
            url: cluster.store_url(),
            options: Vec::new(),
        },
        Place {
            url: "s3://bucket/moved".to_owned(),
            options: s3.options(),
        },
        Place {
            url: azure.url("moved/again"),
            options: azure.options(),
        },
    ];
    for way in places.windows(2) {
        move_with_interruptions(&way[0], &way[1]).await;
        let (mut from, to) = (objects(&way[0]).await, objects(&way[1]).await);
        let evicted = evicted(&way[0]).await;
        from.retain(|key, _| !evicted.iter().any(|directory| key.starts_with(directory)));
        assert_eq!(from, to, "{} and {}", way[0].url, way[1].url);
    }

    // Nothing is left of what the workers had, and of what was in the log.
    let [.., last] = &places;
    for node in [Node::Admin, Node::Worker(1), Node::Worker(2)] {
        point_to(&cluster, node, last);
        if node != Node::Admin {
            cluster.wipe(node).unwrap();
        }
        cluster.start(node).await.unwrap();
    }
    cluster.until_healthy(WITHIN).await.unwrap();
    assert!(content(&cluster).await == before, "the content is another one");
    // It is where the cluster lives now: snapshots and trims go on there.
    let moved = last.open();
    let archived = latest(&moved).await;
    write(&cluster, 2 * SNAPSHOT_AFTER).await;
    wait_for("new snapshots in the new place", WITHIN, async || {
        let now = latest(&moved).await;
        let grown = now.iter().zip(&archived).all(|(now, before)| now > before);
        grown.then_some(()).ok_or(format!("{archived:?}, now {now:?}"))
    })
    .await
    .unwrap();
    cluster.finish().unwrap();
}

/// Starts a cluster in a folder, and writes until every partition has two snapshots and a log that begins after them.
async fn launch() -> TestCluster {
    let settings = Settings {
        snapshot_after_records: SNAPSHOT_AFTER,
        lag_records_max: SNAPSHOT_AFTER / 2,
        held_records_max: 2 * SNAPSHOT_AFTER,
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let cluster = TestCluster::launch(base, "moved", WORKERS, PARTITIONS, settings)
        .await
        .unwrap();
    let store = Repository::open(&cluster.store_url(), Seams::real()).unwrap();
    wait_for(
        "two snapshots of every partition, and a trim",
        WITHIN,
        async || {
            let mut behind = Vec::new();
            for partition in (0..PARTITIONS).map(PartitionId::new) {
                let pointer = store
                    .pointer(partition)
                    .await
                    .map_err(|error| error.to_string())?;
                let retained = pointer.map_or(0, |pointer| pointer.value.snapshots.len());
                let log = replicas::log_info(cluster.endpoints(), partition.get()).await;
                let trimmed = log.map_err(|error| error.to_string())?.trim_point > 0;
                if retained < 2 || !trimmed {
                    behind.push(partition);
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            write(&cluster, SNAPSHOT_AFTER).await;
            Err(format!("not yet: {behind:?}"))
        },
    )
    .await
    .unwrap();
    cluster
}

/// Writes so many records to each partition, with values that were never there before.
async fn write(cluster: &TestCluster, records: u64) {
    let client = KvClient::connect(cluster.endpoints().worker_urls())
        .await
        .unwrap();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let keys = (0_u32..).map(|number| format!("key-{number}"));
        let keys = keys.filter(|key| client.partition_of(key.as_bytes()) == partition);
        let operation = |key: String| Operation {
            key: key.into(),
            change: Some(Change::Put(Seams::real().ulid().to_string().into())),
        };
        let operations = (0..records).zip(keys).map(|(_, key)| operation(key)).collect();
        client.write(partition, operations).await.unwrap();
    }
}

/// What all replicas hold, which is the same everywhere.
async fn content(cluster: &TestCluster) -> Pairs {
    replicas::settled(cluster.endpoints(), PARTITIONS, WITHIN)
        .await
        .unwrap();
    replicas::content(cluster.endpoints(), 1, PARTITIONS)
        .await
        .unwrap()
}

/// Directories that left retention and were not deleted yet: a move leaves them behind.
async fn evicted(place: &Place) -> Vec<String> {
    let store = place.open();
    let mut found = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let survey = store.survey(partition).await.unwrap();
        let left = survey.directories.iter();
        let left = left.filter(|directory| directory.state == DirectoryState::Evicted);
        found.extend(left.map(|one| format!("{partition}/{}/", one.directory)));
    }
    found
}

async fn latest(store: &Repository) -> Vec<u64> {
    let mut found = Vec::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let pointer = store.pointer(partition).await.unwrap().unwrap().value;
        found.push(pointer.latest().unwrap().lsn.get());
    }
    found
}

/// Moves as a person would whose machine goes down once and who presses Ctrl-C once.
async fn move_with_interruptions(from: &Place, to: &Place) {
    let (source, destination, request) = (from.open(), to.open(), MoveRequest::default());
    let mut total = 0;
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let pointer = source.pointer(partition).await.unwrap().unwrap().value;
        total += pointer
            .snapshots
            .iter()
            .map(|entry| entry.bytes_total)
            .sum::<u64>();
    }

    let (quarter, never) = (Until::bytes(total / 4), CancellationToken::new());
    tokio::select! {
        report = source.move_to(&destination, &request, &quarter, &never) => panic!("it was done: {report:?}"),
        () = quarter.reached.notified() => {}
    }
    assert!(pointers(to).await < PARTITIONS, "it was cut off in the middle");

    let (half, cancel) = (Until::bytes(total / 2), CancellationToken::new());
    let (cancelled, ()) = {
        let destination = to.open();
        tokio::join!(source.move_to(&destination, &request, &half, &cancel), async {
            half.reached.notified().await;
            cancel.cancel();
        })
    };
    assert!(!cancelled.unwrap().all_well());
    assert!(pointers(to).await < PARTITIONS, "it was cut off in the middle");

    let report = source
        .move_to(&to.open(), &request, &NoProgress, &never)
        .await
        .unwrap();
    assert!(report.all_well(), "{report:?}");
    assert_eq!(pointers(to).await, PARTITIONS);
    let copied: usize = report.partitions.iter().map(|one| one.snapshots.len()).sum();
    assert!(copied >= SNAPSHOTS, "{copied} snapshots");
    assert!(sent(&report) < total, "what earlier runs sent was not sent again");
    let again = source
        .move_to(&to.open(), &request, &NoProgress, &never)
        .await
        .unwrap();
    assert!(again.nothing_to_do(), "{again:?}");
}

fn sent(report: &CopyReport) -> u64 {
    report.partitions.iter().map(|one| one.bytes_sent()).sum()
}

/// How many partitions have a pointer there.
async fn pointers(place: &Place) -> u32 {
    let store = place.open();
    let mut found = 0;
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        found += u32::from(store.pointer(partition).await.unwrap().is_some());
    }
    found
}

/// Lets a node's configuration name another store.
fn point_to(cluster: &TestCluster, node: Node, place: &Place) {
    let path = cluster.config_path(node);
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    config.insert("store".to_owned(), toml::Value::Table(place.section()));
    std::fs::write(&path, config.to_string()).unwrap();
}
