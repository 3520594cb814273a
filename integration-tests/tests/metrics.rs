//! Every node's metrics endpoint passes `promtool check metrics` and has what operators need.

use anyhow::{Context, bail, ensure};
use integration_tests::{TestCluster, scrape};
use snapshot_store::AnomalyKind;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};
use tidemark::{
    cluster::{Node, Settings, wait_for},
    kv::KvClient,
};

const PARTITIONS: u32 = 2;

/// Beginnings of lines that each role must expose.
const EXPECTED: &[(Node, &[&str])] = &[
    (
        Node::Worker(1),
        &[
            "tidemark_worker_snapshots_total{outcome=\"published\"}",
            "tidemark_worker_declines_total{reason=\"behind\"}",
            "tidemark_worker_restores_total{kind=\"bootstrap\"",
            "tidemark_worker_uploaded_bytes_total",
            "tidemark_worker_downloaded_bytes_total",
            "tidemark_worker_apply_lag_records",
            "tidemark_worker_anomalies_total{kind=\"wrong-hash\"}",
        ],
    ),
    (
        Node::Admin,
        &[
            "tidemark_admin_snapshots_requested_total{cause=\"records\"}",
            "tidemark_admin_snapshot_outcomes_total{outcome=\"published\"}",
            "tidemark_admin_declines_total{reason=\"behind\"}",
            "tidemark_admin_trims_total{outcome=\"trimmed\"}",
            "tidemark_admin_trimmed_records_total",
            "tidemark_admin_holds_total{reason=\"replica-behind\"}",
            "tidemark_admin_log_held_bytes{",
            "tidemark_admin_anomalies_total{kind=\"missing-file\"}",
            "tidemark_admin_all_stored_bytes{state=\"evicted\"}",
            "tidemark_admin_stored_bytes{partition=\"0\",state=\"unfinished\"}",
        ],
    ),
    (
        Node::Log,
        &[
            "tidemark_log_tail_lsn{",
            "tidemark_log_trim_point_lsn{",
            "tidemark_log_all_held_bytes",
        ],
    ),
];

/// Every kind of anomaly has a series from the beginning, so that an alert on its increase sees the first one.
fn check_anomalies(node: Node, metrics: &str) -> anyhow::Result<()> {
    let counter = match node {
        Node::Worker(_) => "tidemark_worker_anomalies_total",
        Node::Admin | Node::SecondAdmin => "tidemark_admin_anomalies_total",
        Node::Log | Node::Nats(_) => return Ok(()),
    };
    for kind in AnomalyKind::ALL {
        let series = format!("{counter}{{kind=\"{kind}\"}} 0");
        ensure!(
            metrics.lines().any(|line| line == series),
            "{node} has no {series}"
        );
    }
    Ok(())
}

/// Checks what a node exports against the reference: every metric stands in it, with the same type and the same labels.
fn check_reference(node: Node, metrics: &str) -> anyhow::Result<()> {
    let reference: BTreeMap<String, _> = tidemark::reference::metrics()
        .into_iter()
        .map(|metric| (metric.name.clone(), metric))
        .collect();
    let mut kinds = BTreeMap::new();
    for line in metrics.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["#", "TYPE", name, kind] = words[..] {
            let expected = reference.get(name);
            let expected = expected.with_context(|| format!("{node}: {name} is not in docs/metrics.md"))?;
            ensure!(
                expected.kind == kind,
                "{node}: {name} is a {kind}, docs/metrics.md says {}",
                expected.kind
            );
            kinds.insert(name, kind);
        }
    }
    for line in metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (name, labels) = series(line)?;
        // A histogram's series have endings of their own.
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending));
        let name = base
            .filter(|base| kinds.get(base) == Some(&"histogram"))
            .unwrap_or(name);
        let expected = reference.get(name);
        let expected = expected.with_context(|| format!("{node}: {name} is not in docs/metrics.md"))?;
        let known: BTreeSet<&str> = expected.labels.keys().map(String::as_str).collect();
        ensure!(
            labels == known,
            "{node}: {line} has labels {labels:?}, docs/metrics.md says {known:?}"
        );
    }
    Ok(())
}

/// Returns the name of a series and the names of its labels, without the bound of a histogram's bucket.
fn series(line: &str) -> anyhow::Result<(&str, BTreeSet<&str>)> {
    let Some((name, rest)) = line.split_once('{') else {
        return Ok((line.split(' ').next().context("a name")?, BTreeSet::new()));
    };
    let (labels, _) = rest.rsplit_once('}').context("labels end")?;
    // No value of a label holds a comma or an equals sign.
    let keys = labels.split(',').filter_map(|label| label.split('=').next());
    Ok((name, keys.filter(|key| *key != "le").collect()))
}

/// Runs `promtool check metrics`; it fails on bad names, missing help and everything Prometheus cannot read.
fn check_with_promtool(node: Node, metrics: &str) -> anyhow::Result<()> {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match spawned {
        Ok(promtool) => promtool,
        Err(error) => {
            bail!("promtool: {error}; install Debian's package `prometheus` (scripts/test.sh does)")
        }
    };
    // The whole text fits no pipe; promtool reads it before it writes.
    promtool
        .stdin
        .take()
        .context("no standard input")?
        .write_all(metrics.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        output.status.success() && said.trim().is_empty(),
        "{node}: {said}\n{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn every_metrics_endpoint_passes_promtool() -> anyhow::Result<()> {
    let settings = Settings {
        snapshot_after_records: 60,
        lag_records_max: 30,
        ..Settings::default()
    };
    let cluster =
        TestCluster::launch(env!("CARGO_TARGET_TMPDIR"), "metrics", 2, PARTITIONS, settings).await?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    wait_for(
        "every partition to be snapshotted and trimmed",
        Duration::from_secs(60),
        async || {
            // One snapshot more each time: the second one moves the guard.
            for number in 0..60 * PARTITIONS {
                let written = client.put(format!("key-{}", number % 50), format!("value {number}"));
                written.await.map_err(|error| error.to_string())?;
            }
            let status = cluster
                .endpoints()
                .cluster_status()
                .await
                .map_err(|error| error.to_string())?;
            let trimmed = status
                .partitions
                .iter()
                .filter(|view| view.trim_point > Some(0))
                .count();
            if trimmed == PARTITIONS as usize {
                Ok(())
            } else {
                Err(format!("{trimmed} trimmed"))
            }
        },
    )
    .await?;
    // What is stored is looked at after the trim, and exported with the next tick.
    let admin = cluster.endpoints().metrics_address(Node::Admin);
    let stored = "tidemark_admin_stored_bytes{partition=\"0\",state=\"retained\"} ";
    wait_for(
        "the admin to export what is stored",
        Duration::from_secs(30),
        async || {
            let metrics = scrape(admin).map_err(|error| error.to_string())?;
            let line = metrics.lines().find_map(|line| line.strip_prefix(stored));
            match line.and_then(|bytes| bytes.parse::<f64>().ok()) {
                Some(bytes) if bytes > 0.0 => Ok(()),
                found => Err(format!("{found:?}")),
            }
        },
    )
    .await?;
    for node in cluster.nodes() {
        check_reference(node, &scrape(cluster.endpoints().metrics_address(node))?)?;
    }
    for node in cluster.nodes() {
        let metrics = scrape(cluster.endpoints().metrics_address(node))?;
        check_with_promtool(node, &metrics)?;
        check_anomalies(node, &metrics)?;
        for (_, names) in EXPECTED.iter().filter(|(expected, _)| *expected == node) {
            for name in *names {
                ensure!(
                    metrics.lines().any(|line| line.starts_with(name)),
                    "{node} has no {name}; it has:\n{metrics}"
                );
            }
        }
    }
    cluster.finish()
}
