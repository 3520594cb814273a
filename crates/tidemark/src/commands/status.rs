//! `status` and `explain`.

use super::{AdminArgs, render};
use crate::output::{OutputFormat, bytes, duration_ms, or_dash, table};
use clap::Args;
use snapshot_proto::v1::{
    AdminLease, ClusterStatus, ExplainRequest, PartitionView, ReplicaStatus, ReplicaView, ViewAge,
};
use snapshot_store::PartitionId;
use std::{fmt::Write as _, process::ExitCode};

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark status
  tidemark status --admin http://10.0.0.5:7400
  tidemark status --output json | jq '.partitions[] | {partition, trim: .trim.code}'")]
pub struct StatusArgs {
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidemark explain 3")]
pub struct ExplainArgs {
    /// The partition.
    partition: PartitionId,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows nodes and partitions.
///
/// # Errors
/// When the admin does not answer.
pub async fn run(args: StatusArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let status = args.admin.cluster_status().await?;
    output.print(&render::cluster_json(&status), || status_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

/// Says why a partition is treated as it is.
///
/// # Errors
/// When the admin does not answer, or does not know the partition.
pub async fn explain(args: ExplainArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let mut client = args.admin.client()?;
    let reply = args
        .admin
        .ask(client.explain(ExplainRequest {
            partition: args.partition.get(),
        }))
        .await?;
    let answer = serde_json::json!({
        "partition": reply.partition.as_ref().map(render::partition_json),
        "lines": reply.lines,
    });
    output.print(&answer, || explained(reply.partition.as_ref(), &reply.lines))?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &ClusterStatus) -> String {
    let mut text = format!(
        "Cluster {} as {} sees it, tick {}\n",
        status.cluster, status.admin, status.tick
    );
    if let Some(lease) = &status.lease {
        text += &lease_text(&status.admin, lease);
    }
    text += &age_text(status.age.as_ref());
    // The usual case needs no words.
    if let Some(policy) = status.policy.as_ref().filter(|policy| !policy.refused.is_empty()) {
        text += &format!("{}\n", render::policy_text(policy));
    }
    if let Some(audit) = &status.audit
        && (audit.passes > 0 || !audit.damaged_partitions.is_empty())
    {
        text += &format!("{}\n", render::audit_text(audit));
    }
    let nodes = status.nodes.iter().map(|node| {
        let age = or_dash(node.age_ms.map(duration_ms));
        [
            node.node.clone(),
            render::liveness(node.liveness).to_owned(),
            age,
            node.address.clone(),
            node.error.clone(),
        ]
    });
    text += &table(["node", "liveness", "last report", "address", "error"], nodes);
    text += "\n";
    let partitions = status.partitions.iter().map(partition_row);
    text += &table(
        [
            "partition",
            "leader",
            "live",
            "tail",
            "trim point",
            "guard",
            "archived",
            "held",
            "snapshot",
            "trim",
        ],
        partitions,
    );
    for line in status.pauses.iter().map(render::pause_text) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{line}");
    }
    text += &restores(status);
    text += &trouble(status);
    text
}

/// Says how old the parts are that the rest was put together from.
fn age_text(age: Option<&ViewAge>) -> String {
    let Some(age) = age else { return String::new() };
    let parts = [
        ("workers", age.workers_ms),
        ("logs", age.logs_ms),
        ("pointers", age.pointers_ms),
        ("control state", age.control_ms),
        ("lease", age.lease_ms),
    ];
    let known = parts.into_iter().filter_map(|(part, age)| Some((part, age?)));
    let known: Vec<String> = known
        .map(|(part, age)| format!("{part} {}", duration_ms(age)))
        .collect();
    match known.is_empty() {
        true => String::new(),
        false => format!("Oldest part of the view: {}\n", known.join(", ")),
    }
}

/// Says whether the admin that answers acts, and why.
fn lease_text(admin: &str, lease: &AdminLease) -> String {
    let acts = match lease.active {
        true => "acts",
        false => "only watches",
    };
    let mut text = format!("{admin} {acts} ({}): {}\n", lease.code, lease.detail);
    if !lease.remedy.is_empty() {
        text += &format!("{}\n", lease.remedy);
    }
    text
}

fn partition_row(view: &PartitionView) -> [String; 10] {
    let live = view
        .replicas
        .iter()
        .filter(|replica| render::liveness(replica.liveness) == "live")
        .count();
    let code =
        |reason: Option<&snapshot_proto::v1::Reason>| or_dash(reason.map(|reason| reason.code.clone()));
    [
        view.partition.to_string(),
        or_dash(
            view.leader
                .as_ref()
                .map(|leader| format!("{} (e{})", leader.node, leader.epoch)),
        ),
        format!("{live}/{}", view.replicas_expected),
        or_dash(view.tail),
        or_dash(view.trim_point),
        or_dash(view.guard_lsn),
        or_dash(view.archived_lsn),
        or_dash(view.held_bytes.map(bytes)),
        code(view.snapshot.as_ref()),
        code(view.trim.as_ref()),
    ]
}

/// Lists restores under way, with how far they are.
fn restores(status: &ClusterStatus) -> String {
    let mut text = String::new();
    for view in &status.partitions {
        for replica in &view.replicas {
            if let Some(restore) = replica.status.as_ref().and_then(|status| status.restore.as_ref()) {
                let far = render::restore_text(restore);
                let _ = write!(
                    text,
                    "\npartition {} on {} is restoring: {far}",
                    view.partition, replica.node
                );
            }
        }
    }
    text
}

/// Lists replicas that cannot go on, with what to do.
fn trouble(status: &ClusterStatus) -> String {
    let mut text = String::new();
    for view in &status.partitions {
        for replica in &view.replicas {
            let Some(status) = replica
                .status
                .as_ref()
                .filter(|status| !status.blocked_reason.is_empty())
            else {
                continue;
            };
            let _ = write!(
                text,
                "\npartition {} on {} is blocked ({}): {}",
                view.partition, replica.node, status.blocked_reason, status.blocked_detail
            );
        }
    }
    text
}

/// Lays out every replica of every partition.
pub(super) fn replicas_table(status: &ClusterStatus) -> String {
    let rows = status.partitions.iter().flat_map(|view| {
        view.replicas
            .iter()
            .map(move |replica| replica_row(view.partition, replica))
    });
    let header = [
        "partition",
        "node",
        "liveness",
        "state",
        "role",
        "applied",
        "durable",
        "needed",
        "restore",
        "rebuilds",
    ];
    format!("{}{}", table(header, rows), trouble(status))
}

fn replica_row(partition: u32, replica: &ReplicaView) -> [String; 10] {
    let status = replica.status.as_ref();
    let running = status
        .and_then(|status| status.restore.as_ref())
        .map(render::restore_text);
    let restored = status.and_then(|status| status.last_restore.as_ref());
    let last = restored.map(|restore| format!("at {} in {}", restore.lsn, duration_ms(restore.duration_ms)));
    [
        partition.to_string(),
        replica.node.clone(),
        render::liveness(replica.liveness).to_owned(),
        or_dash(status.map(|status| render::state(status.state))),
        or_dash(status.map(|status| render::role(status.role))),
        or_dash(status.and_then(|status| status.applied_lsn)),
        or_dash(status.and_then(|status| status.durable_lsn)),
        or_dash(status.and_then(|status| status.needed_lsn)),
        or_dash(running.or(last)),
        status.map(rebuilds).unwrap_or_default(),
    ]
}

/// Returns how often the state was rebuilt since its node started, by reason; nothing when it never was.
fn rebuilds(status: &ReplicaStatus) -> String {
    let each = status
        .rebuilds
        .iter()
        .map(|entry| format!("{} {}", entry.count, entry.reason));
    each.collect::<Vec<_>>().join(", ")
}

fn explained(view: Option<&PartitionView>, lines: &[String]) -> String {
    let mut text = lines.join("\n");
    if let Some(view) = view {
        let reasons = [&view.snapshot, &view.trim, &view.leadership];
        for reason in reasons
            .into_iter()
            .flatten()
            .filter(|reason| !reason.remedy.is_empty())
        {
            let _ = write!(
                text,
                "\n{} for {}: {}",
                reason.code,
                duration_ms(reason.for_ms),
                reason.remedy
            );
        }
    }
    text
}
