//! The cluster all tests share.

use anyhow::{Context, ensure};
use integration_tests::TestCluster;
use snapshot_proto::{
    kv::{Operation, operation::Change},
    v1::{PartitionView, Reason},
};
use snapshot_store::PartitionId;
use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    time::Duration,
};
use tidemark::{
    cluster::{Settings, wait_for},
    kv::KvClient,
};
use tokio::sync::{Mutex, MutexGuard};

pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const WORKERS: u32 = 3;
pub(crate) const SNAPSHOT_AFTER: u64 = 40;
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// The key that every test finds again with the value it has from the beginning.
const KEPT: (&str, &str) = ("kept", "from the beginning");

static CLUSTER: Mutex<Option<TestCluster>> = Mutex::const_new(None);

/// The shared cluster, healthy, for one test.
pub(crate) struct Lease {
    guard: MutexGuard<'static, Option<TestCluster>>,
    given_back: bool,
    pub(crate) client: KvClient,
}

impl Deref for Lease {
    type Target = TestCluster;
    fn deref(&self) -> &TestCluster {
        self.guard.as_ref().expect("a lease is made of a cluster")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut TestCluster {
        self.guard.as_mut().expect("a lease is made of a cluster")
    }
}

/// Takes the cluster, started when there is none; every partition has snapshots and was trimmed.
pub(crate) async fn lease() -> anyhow::Result<Lease> {
    let mut guard = CLUSTER.lock().await;
    if guard.is_none() {
        let settings = Settings {
            snapshot_after_records: SNAPSHOT_AFTER,
            lag_records_max: SNAPSHOT_AFTER / 2,
            held_records_max: 2 * SNAPSHOT_AFTER,
            ..Settings::default()
        };
        let base = env!("CARGO_TARGET_TMPDIR");
        *guard = Some(TestCluster::launch(base, "faults", WORKERS, PARTITIONS, settings).await?);
    }
    let cluster = guard.as_ref().context("just started")?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let lease = Lease {
        guard,
        given_back: false,
        client,
    };
    lease.until_healthy(WITHIN).await?;
    lease.client.put(KEPT.0, KEPT.1).await?;
    lease.goes_on(&(0..PARTITIONS).collect::<Vec<_>>()).await?;
    Ok(lease)
}

impl Lease {
    /// Appends `records` records to `partition`.
    pub(crate) async fn write_to(&self, partition: u32, records: u64) -> anyhow::Result<()> {
        let fits = |key: &String| self.client.partition_of(key.as_bytes()).get() == partition;
        let key = (0..10_000)
            .map(|number| format!("fill-{number}"))
            .find(fits)
            .context("no key falls there")?;
        let operation = |number: u64| Operation {
            key: key.clone().into(),
            change: Some(Change::Put(number.to_string().into())),
        };
        self.client
            .write(PartitionId::new(partition), (0..records).map(operation).collect())
            .await?;
        Ok(())
    }

    /// Shows that these partitions are written, snapshotted and trimmed.
    pub(crate) async fn goes_on(&self, partitions: &[u32]) -> anyhow::Result<()> {
        let mut goals = BTreeMap::new();
        for partition in partitions {
            let before = self.view(*partition).await?;
            goals.insert(
                *partition,
                (before.archived_lsn.unwrap_or(0), before.trim_point.unwrap_or(0)),
            );
        }
        let what = format!("partitions to be snapshotted above and trimmed beyond {goals:?}");
        wait_for(&what, WITHIN, async || {
            let mut waiting = Vec::new();
            for (partition, (archived, trim_point)) in &goals {
                let now = self.view(*partition).await.map_err(|error| error.to_string())?;
                if now.archived_lsn <= Some(*archived) || now.trim_point <= Some(*trim_point) {
                    // Two snapshots above the present trim point move the guard; one is due after each of these.
                    let written = self.write_to(*partition, SNAPSHOT_AFTER).await;
                    written.map_err(|error| format!("{error:#}"))?;
                    let (snapshot, trim) = (words(now.snapshot.as_ref()), words(now.trim.as_ref()));
                    waiting.push(format!(
                        "partition {partition}: snapshot: {snapshot}; trim: {trim}"
                    ));
                }
            }
            if waiting.is_empty() {
                Ok(())
            } else {
                Err(waiting.join(", "))
            }
        })
        .await?;
        Ok(())
    }

    /// Returns the partitions other than `partition`.
    pub(crate) fn others(partition: u32) -> Vec<u32> {
        (0..PARTITIONS).filter(|other| *other != partition).collect()
    }

    /// Returns what the admin knows of a partition.
    pub(crate) async fn view(&self, partition: u32) -> anyhow::Result<PartitionView> {
        let status = self.endpoints().cluster_status().await?;
        let view = status
            .partitions
            .into_iter()
            .find(|view| view.partition == partition);
        view.with_context(|| format!("partition {partition} is not in the status"))
    }

    /// Waits until the admin holds the trim of `partition` for one of `reasons`; returns what it says.
    pub(crate) async fn until_held(&self, partition: u32, reasons: &[&str]) -> anyhow::Result<Reason> {
        let what = format!("the trim of partition {partition} to be held: {reasons:?}");
        let held = wait_for(&what, WITHIN, async || {
            let view = self.view(partition).await.map_err(|error| error.to_string())?;
            let trim = view.trim.unwrap_or_default();
            if reasons.contains(&trim.code.as_str()) {
                Ok(trim)
            } else {
                Err(words(Some(&trim)))
            }
        });
        Ok(held.await?)
    }

    /// Ends a test: the cluster is healthy, what was acknowledged is there, nobody panicked.
    pub(crate) async fn give_back(mut self) -> anyhow::Result<()> {
        self.until_healthy(WITHIN).await?;
        self.goes_on(&(0..PARTITIONS).collect::<Vec<_>>()).await?;
        let kept = self.client.get(KEPT.0).await?.value;
        ensure!(
            kept.as_deref() == Some(KEPT.1.as_bytes()),
            "an acknowledged write is now {kept:?}"
        );
        self.check_no_panics()?;
        self.given_back = true;
        Ok(())
    }
}

/// After a test that failed the next one begins with a new cluster.
impl Drop for Lease {
    fn drop(&mut self) {
        if !self.given_back {
            *self.guard = None;
        }
    }
}

/// Fails unless `text` contains all of `words`: the name of the thing and the remedy.
pub(crate) fn says(text: &str, words: &[&str]) -> anyhow::Result<()> {
    for word in words {
        ensure!(text.contains(word), "{word:?} is missing in: {text}");
    }
    ensure!(!text.contains("panicked at"), "{text}");
    Ok(())
}

pub(crate) fn words(reason: Option<&Reason>) -> String {
    reason.map_or_else(
        || "unknown".to_owned(),
        |reason| format!("{} ({})", reason.code, reason.detail),
    )
}
