//! Two hundred publishes over a network that loses, delays, refuses and cuts.
//!
//! `TIDEMARK_TEST_SEED` repeats a run's faults.

use crate::world::{certified, checkpoint, node, publish, spec, upload};
use futures::future::join_all;
use integration_tests::{
    fault_proxy::{FaultPlan, FaultProxy},
    s3_server::{Locking, S3Server},
};
use object_store::{ObjectStore, path::Path};
use snapshot_store::{
    AnomalyKind, CheckLevel, Entropy, Lsn, NoProgress, PartitionId, PublishError, Repository, Seams,
    SnapshotId, StoreOptions, SystemClock, TransferOptions,
    format::{ClusterRecord, Keys, Pointer},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const URL: &str = "s3://bucket/prefix";
const PARTITIONS: u32 = 5;
const WRITERS_PER_PARTITION: u64 = 2;
const PUBLISHES_PER_WRITER: u64 = 20;
/// How long a writer's client waits for an answer; late requests land after it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const LATE_BY: Duration = Duration::from_millis(1_300);
/// How often the pointers are looked at meanwhile.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// How a publish ended.
struct Outcome {
    partition: PartitionId,
    id: SnapshotId,
    result: Result<(), PublishError>,
}

fn repository(server: &S3Server, endpoint: String, seed: u64) -> Repository {
    let mut options = StoreOptions::for_client(server.options());
    options.client.insert("endpoint".to_owned(), endpoint);
    // One request per deletion, so that each is seen to be what it is.
    options
        .client
        .insert("disable_bulk_delete".to_owned(), "true".to_owned());
    options.transfer = TransferOptions {
        request_timeout: REQUEST_TIMEOUT,
        connect_timeout: REQUEST_TIMEOUT,
        retries_max: 1,
        ..TransferOptions::default()
    };
    let seams = Seams {
        clock: Arc::new(SystemClock),
        entropy: Entropy::seeded(seed),
    };
    Repository::open_with(URL, &options, seams).unwrap()
}

fn seed() -> u64 {
    match std::env::var("TIDEMARK_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from(std::process::id()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_over_a_bad_network_end_published_or_cleanly_failed_and_lose_nothing() {
    let seed = seed();
    println!("TIDEMARK_TEST_SEED={seed} repeats the faults");
    let folder = tempfile::tempdir().unwrap();
    let server = S3Server::start("127.0.0.1:0", folder.path(), "bucket", Locking::Atomic)
        .await
        .unwrap();
    let plan = FaultPlan {
        seed,
        per_mille: 120,
        outages_per_mille: 15,
    };
    let proxy = FaultProxy::start(server.address(), plan, LATE_BY).await.unwrap();
    let direct = repository(&server, server.endpoint(), seed);
    let record = direct.init(&spec(PARTITIONS)).await.unwrap();

    proxy.set_active(true);
    let stop = CancellationToken::new();
    let watch = tokio::spawn(watch(direct.clone(), stop.clone()));
    let writers = (0..u64::from(PARTITIONS) * WRITERS_PER_PARTITION).map(|number| {
        let partition = PartitionId::new(u32::try_from(number / WRITERS_PER_PARTITION).unwrap());
        let through = repository(&server, proxy.endpoint(), seed.wrapping_add(number + 1));
        tokio::spawn(write(through, direct.clone(), record.clone(), partition))
    });
    let outcomes: Vec<Outcome> = join_all(writers.collect::<Vec<_>>())
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    proxy.set_active(false);
    proxy.until_quiet().await.unwrap();
    stop.cancel();
    watch.await.unwrap();

    print_summary(&proxy, &outcomes);
    assert_eq!(proxy.faults().len(), 8, "every kind of fault came");
    assert_outcomes_are_true(&direct, &outcomes).await;
    assert_nothing_was_deleted(&proxy);
    assert_nothing_is_missing(&direct, &record).await;
    assert_everything_has_a_name(&direct, &server, &outcomes).await;
    for partition in 0..PARTITIONS {
        clean_up(&direct, &record, PartitionId::new(partition)).await;
    }
    assert_nothing_is_missing(&direct, &record).await;
}

/// Publishes again and again, each time a little above what there is: the other writer of the partition does the same.
async fn write(
    through: Repository,
    direct: Repository,
    record: ClusterRecord,
    partition: PartitionId,
) -> Vec<Outcome> {
    // One file is large enough to be copied inside the store next time.
    let files = checkpoint(&[("CURRENT", 16), ("000007.sst", 70_000)]);
    let mut outcomes = Vec::new();
    for _ in 0..PUBLISHES_PER_WRITER {
        let latest = latest(&direct, partition).await.map_or(0, |(_, lsn)| lsn.get());
        let above = 1 + through.seams().entropy.next_u64() % 3;
        let attempt = upload(&through, &record, partition, files.path(), latest + above);
        let published = through
            .publish(&attempt, &NoProgress, &CancellationToken::new())
            .await;
        outcomes.push(Outcome {
            partition,
            id: attempt.snapshot_id,
            result: published.map(drop),
        });
    }
    outcomes
}

async fn latest(repository: &Repository, partition: PartitionId) -> Option<(u64, Lsn)> {
    let pointer = repository.pointer(partition).await.unwrap()?.value;
    let latest = pointer.latest()?;
    Some((latest.incarnation.generation, latest.lsn))
}

/// Looks at all pointers all the time: none may ever go back.
async fn watch(direct: Repository, stop: CancellationToken) {
    let mut seen = BTreeMap::new();
    while !stop.is_cancelled() {
        for partition in (0..PARTITIONS).map(PartitionId::new) {
            let now = latest(&direct, partition).await;
            let before = seen.insert(partition, now).flatten();
            assert!(now >= before, "{partition} went from {before:?} to {now:?}");
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn print_summary(proxy: &FaultProxy, outcomes: &[Outcome]) {
    let mut kinds = BTreeMap::new();
    for outcome in outcomes {
        let kind = outcome
            .result
            .as_ref()
            .map_or_else(PublishError::kind, |()| "published");
        *kinds.entry(kind).or_insert(0) += 1;
    }
    let requests: u32 = proxy.requests().values().sum();
    println!("{kinds:?}; {requests} requests; faults: {:?}", proxy.faults());
}

async fn pointer(direct: &Repository, partition: PartitionId) -> Pointer {
    direct.pointer(partition).await.unwrap().unwrap().value
}

/// A publish that returned is in its pointer's history; one that failed is not, unless it said that it might be.
async fn assert_outcomes_are_true(direct: &Repository, outcomes: &[Outcome]) {
    let mut published = 0;
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let pointer = pointer(direct, partition).await;
        assert!(pointer.history.is_sorted_by(|newer, older| newer.lsn > older.lsn));
        assert!(pointer.history.len() < Pointer::HISTORY_MAX, "all of it is there");
        let history: BTreeSet<SnapshotId> = pointer.history.iter().map(|past| past.snapshot_id).collect();
        for outcome in outcomes.iter().filter(|outcome| outcome.partition == partition) {
            let named = history.contains(&outcome.id);
            match &outcome.result {
                Ok(()) => assert!(named, "{} was published and is not in the history", outcome.id),
                Err(PublishError::Indeterminate { .. }) => {}
                Err(error) => {
                    let clean = ["superseded", "store-unavailable", "contended"];
                    assert!(clean.contains(&error.kind()), "{}: {error:?}", outcome.id);
                    assert!(!named, "{} failed and is in the history: {error:?}", outcome.id);
                }
            }
        }
        published += history.len();
    }
    assert!(published > outcomes.len() / 4, "only {published} were published");
}

/// Publishing deletes nothing but the object that it tries the store with.
fn assert_nothing_was_deleted(proxy: &FaultProxy) {
    let requests = proxy.requests();
    let probe = format!("/bucket/prefix/{}/", Keys::PROBE);
    let foreign = |(method, target): &&(String, String)| {
        let deletes = method == "DELETE" || target.contains("?delete");
        deletes && !target.starts_with(&probe)
    };
    let found: Vec<_> = requests.keys().filter(foreign).collect();
    assert!(found.is_empty(), "{found:?}");
}

async fn assert_nothing_is_missing(direct: &Repository, record: &ClusterRecord) {
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let check = direct.check_partition(record, partition).await.unwrap();
        let damage: Vec<_> = check
            .anomalies
            .iter()
            .filter(|anomaly| anomaly.kind != AnomalyKind::UnfinishedDirectory)
            .collect();
        assert!(damage.is_empty(), "{partition}: {damage:?}");
        assert!(!check.snapshots.is_empty());
        for entry in &check.snapshots {
            let level = CheckLevel::Content;
            let snapshot = direct.check_snapshot(&record.cluster, partition, entry, level, &NoProgress);
            assert_eq!(snapshot.await.unwrap().anomalies, []);
        }
    }
}

/// Every object is one of the cluster's documents, the probe of a process that was cut off, or lies in the directory of
/// an attempt.
async fn assert_everything_has_a_name(direct: &Repository, server: &S3Server, outcomes: &[Outcome]) {
    let attempts: BTreeSet<SnapshotId> = outcomes.iter().map(|outcome| outcome.id).collect();
    assert_eq!(direct.survey_base(PARTITIONS).await.unwrap().unknown, []);
    let mut named = 2;
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let survey = direct.survey(partition).await.unwrap();
        assert_eq!(survey.unknown, []);
        for found in &survey.directories {
            assert!(attempts.contains(&found.directory.snapshot_id), "{found:?}");
            named += found.size.objects;
        }
        named += survey.documents.objects;
    }
    let url = url::Url::parse(URL).unwrap();
    let (store, base) = object_store::parse_url_opts(&url, server.options()).unwrap();
    let count = async |prefix: &Path| {
        use futures::TryStreamExt;
        let listed: Vec<_> = store.list(Some(prefix)).try_collect().await.unwrap();
        listed.len() as u64
    };
    let probes = count(&Path::parse(format!("{base}/{}", Keys::PROBE)).unwrap()).await;
    assert!(probes <= u64::from(PARTITIONS) * WRITERS_PER_PARTITION);
    assert_eq!(named + probes, count(&base).await);
}

/// What failed goes the usual way, once the log is certified past it.
async fn clean_up(direct: &Repository, record: &ClusterRecord, partition: PartitionId) {
    // Two more, so that everything else lies below them.
    let files = checkpoint(&[("CURRENT", 16)]);
    let above = 1_000 + latest(direct, partition).await.map_or(0, |(_, lsn)| lsn.get());
    for lsn in [above, above + 1] {
        publish(direct, record, partition, files.path(), lsn)
            .await
            .unwrap();
    }
    let pointer = pointer(direct, partition).await;
    let draft = snapshot_store::CertificateDraft {
        cluster: record.cluster.clone(),
        partition,
        incarnation: record.incarnations[&partition],
        up_to: Lsn::new(above),
        snapshots: pointer.snapshots.iter().map(certified).collect(),
        issued_by: node(),
    };
    direct.write_certificate(draft).await.unwrap();
    let report = direct.prune(partition).await.unwrap();
    let left: Vec<_> = report.left().map(|found| found.directory.lsn.get()).collect();
    assert_eq!(left, [above, above + 1]);
}
