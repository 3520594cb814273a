//! What happens to the processes that do not hold a state: a NATS server and the admins.

use super::{
    DemoError, RecoveryKind,
    scenario::{AWAY, STEP_WITHIN, Stage, every_partition, reason},
};
use crate::cluster::{Node, wait_for};
use snapshot_proto::v1::{ClusterStatus, Liveness};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// The NATS server that is killed.
const LOST_SERVER: Node = Node::Nats(1);

impl Stage<'_> {
    /// Kills one of the three NATS servers while writes go on; with the other two, every log must take records. Then the
    /// server comes back and must catch up.
    pub(super) async fn server_loss(&mut self) -> Result<(), DemoError> {
        let node = LOST_SERVER;
        self.progress
            .say(format_args!("killing {node} while writes go on"));
        self.cluster.kill(node)?;
        let killed = Instant::now();
        // Read after the kill, so that what comes later was appended without the server.
        let tails = self.tails().await?;
        self.until_appended_past("every log to take records with two of three NATS servers", &tails)
            .await?;
        let without = killed.elapsed().as_millis();
        self.note(format!(
            "every log took new records {without} ms after {node} was killed, before it came back"
        ));
        let started = Instant::now();
        self.cluster.start(node).await?;
        self.until_nothing_lacks().await?;
        let caught_up = self.each_partition();
        self.recovered(
            RecoveryKind::ServerLoss,
            node,
            started.elapsed(),
            caught_up.len(),
            caught_up,
        );
        Ok(())
    }

    /// Kills the admin and starts it again; then it must go on trimming.
    pub(super) async fn admin_restart(&mut self) -> Result<(), DemoError> {
        self.progress.say("killing the admin while writes go on");
        self.cluster.kill(Node::Admin)?;
        tokio::time::sleep(AWAY).await;
        let started = Instant::now();
        self.cluster.start(Node::Admin).await?;
        let seen = self.until_decided().await?;
        self.decided(RecoveryKind::AdminRestart, Node::Admin, started);
        self.until_trimmed_past("the new admin to trim every partition", trim_points(&seen))
            .await
    }

    /// Kills the admin that acts; the other one must take over and go on trimming. The killed one comes back and watches.
    pub(super) async fn admin_takeover(&mut self) -> Result<(), DemoError> {
        let killed = self.acting_admin().await?;
        self.progress.say(format_args!(
            "killing {killed}, the admin that acts, while writes go on"
        ));
        self.cluster.kill(killed)?;
        let started = Instant::now();
        let seen = self.until_decided().await?;
        let heir = self.acting_admin().await?;
        self.decided(RecoveryKind::AdminTakeover, heir, started);
        self.note(
            "not applicable with two admins: admin-restart; the one that watched took over instead"
                .to_owned(),
        );
        self.until_trimmed_past("the other admin to trim every partition", trim_points(&seen))
            .await?;
        self.progress.say(format_args!("starting {killed} again"));
        self.cluster.start(killed).await?;
        wait_for("the admin that was killed to watch", STEP_WITHIN, async || {
            let status = self.endpoints.status_of(killed).await;
            let lease = status.map_err(|error| error.to_string())?.lease;
            match lease {
                Some(lease) if !lease.active && lease.holder == Some(heir.to_string()) => Ok(()),
                lease => Err(format!("{lease:?}")),
            }
        })
        .await?;
        Ok(())
    }

    async fn acting_admin(&self) -> Result<Node, DemoError> {
        let acting = wait_for("an admin to act", STEP_WITHIN, async || {
            let acting = self.endpoints.acting_status().await;
            acting.map(|(node, _)| node).map_err(|error| error.to_string())
        })
        .await?;
        Ok(acting)
    }

    /// Waits until an admin sees all workers and has decided about every partition.
    async fn until_decided(&self) -> Result<ClusterStatus, DemoError> {
        let seen = wait_for(
            "the admin to decide about every partition again",
            STEP_WITHIN,
            async || {
                let status = self
                    .endpoints
                    .cluster_status()
                    .await
                    .map_err(|error| error.to_string())?;
                if let Some(node) = status.nodes.iter().find(|node| node.liveness() != Liveness::Live) {
                    return Err(format!("{} is {}", node.node, node.liveness().as_str_name()));
                }
                every_partition(&status, self.partitions, |view| {
                    match view.trim.as_ref().map(|trim| trim.code.as_str()) {
                        None | Some("" | "view-warming" | "stale-view" | "standby") => {
                            Err(reason(view.trim.as_ref()))
                        }
                        Some(_) => Ok(()),
                    }
                })?;
                Ok(status)
            },
        )
        .await?;
        Ok(seen)
    }

    fn decided(&mut self, kind: RecoveryKind, node: Node, since: Instant) {
        let decided = self.each_partition();
        self.recovered(kind, node, since.elapsed(), decided.len(), decided);
    }

    /// All partitions, with nothing to say of any.
    fn each_partition(&self) -> BTreeMap<u32, String> {
        (0..self.partitions)
            .map(|number| (number, String::new()))
            .collect()
    }
}

fn trim_points(status: &ClusterStatus) -> BTreeMap<u32, u64> {
    status
        .partitions
        .iter()
        .map(|view| (view.partition, view.trim_point.unwrap_or(0)))
        .collect()
}
