//! `snapshots verify` by live workers: whoever did not make a snapshot reads it, where there is such a worker.

use super::{Checked, Found, Level, VerifyArgs};
use crate::{
    commands::{admin_client::status_text, render, snapshots::admin_snapshots},
    output::{OutputFormat, progress_bar},
};
use anyhow::Context as _;
use snapshot_proto::v1::{Liveness, NodeView, VerifyLevel, VerifySnapshotRequest};
use std::time::Duration;

/// How long one snapshot may take; a worker reads it at disk or network speed.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) async fn by_workers(args: &VerifyArgs, output: OutputFormat) -> anyhow::Result<Vec<Checked>> {
    let snapshots = admin_snapshots(&args.admin, args.partition).await?;
    let nodes = args.admin.cluster_status().await?.nodes;
    let wanted: Vec<_> = snapshots
        .into_iter()
        .filter(|(_, snapshot)| args.wants(&snapshot.snapshot_id))
        .collect();
    let bar = progress_bar(output, "verifying", Some(wanted.len() as u64));
    let mut checked = Vec::new();
    for (partition, snapshot) in wanted {
        let node = reader_of(&nodes, &snapshot.node).context(
            "no worker is live that could read the snapshots; use --store to read them in this process",
        )?;
        let mut one = Checked::new(partition, snapshot.snapshot_id.clone(), snapshot.lsn, &node.node);
        let level = match args.level {
            Level::Presence => VerifyLevel::Presence,
            Level::Content => VerifyLevel::Content,
            Level::Restore => VerifyLevel::Restore,
        };
        let request = VerifySnapshotRequest {
            partition: partition.get(),
            snapshot_id: snapshot.snapshot_id,
            level: level.into(),
        };
        let mut worker = args.admin.worker_client(&node.address)?;
        match tokio::time::timeout(VERIFY_TIMEOUT, worker.verify_snapshot(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                one.bytes_read = reply.bytes_read;
                one.duration_ms = reply.duration_ms;
                let found = reply.anomalies.into_iter();
                one.anomalies = found
                    .map(|found| Found::named(&found.kind, found.key, found.message))
                    .collect();
                if !reply.ok && one.anomalies.is_empty() {
                    one.error = Some(format!("it passed only at level {}", render::level(reply.level)));
                }
            }
            Ok(Err(status)) => one.error = Some(format!("{}: {}", node.address, status_text(&status))),
            Err(_) => one.error = Some(format!("no answer within {} s", VERIFY_TIMEOUT.as_secs())),
        }
        bar.inc(1);
        checked.push(one);
    }
    bar.finish_and_clear();
    Ok(checked)
}

/// Chooses a live worker, one that did not make the snapshot where there is one.
fn reader_of<'a>(nodes: &'a [NodeView], producer: &str) -> Option<&'a NodeView> {
    let live = |node: &&NodeView| node.liveness() == Liveness::Live;
    let others = nodes.iter().filter(live).find(|node| node.node != producer);
    others.or_else(|| nodes.iter().find(live))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, liveness: Liveness) -> NodeView {
        NodeView {
            node: name.into(),
            liveness: liveness.into(),
            ..NodeView::default()
        }
    }

    #[test]
    fn a_snapshot_is_read_by_another_node_than_its_producer_where_there_is_one() {
        let nodes = [
            node("a", Liveness::Live),
            node("b", Liveness::Live),
            node("c", Liveness::Gone),
        ];
        assert_eq!(reader_of(&nodes, "a").map(|node| node.node.as_str()), Some("b"));
        assert_eq!(reader_of(&nodes, "b").map(|node| node.node.as_str()), Some("a"));
        assert_eq!(
            reader_of(&nodes[..1], "a").map(|node| node.node.as_str()),
            Some("a")
        );
        assert_eq!(reader_of(&nodes[2..], "a").map(|node| node.node.as_str()), None);
    }
}
