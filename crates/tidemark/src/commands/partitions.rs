//! `partitions list`, `partitions skip` and `partitions rebuild`.

use super::{
    AdminArgs,
    admin_client::status_text,
    exit, render,
    status::{StatusArgs, replicas_table},
};
use crate::output::{OutputFormat, bytes, confirmed, hex, or_dash};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use snapshot_proto::v1::{
    ClusterStatus, GetStatusRequest, Liveness, PoisonRecord, RebuildPartitionReply, RebuildPartitionRequest,
    SkipRecordReply, SkipRecordRequest,
};
use snapshot_store::PartitionId;
use std::{fmt::Write as _, process::ExitCode, time::Duration};
use tonic::{Response, Status};

/// How long a worker may take to answer: it looks at the log, and for a rebuild at the store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// What to do with partitions.
#[derive(Debug, Subcommand)]
pub enum PartitionsCommand {
    /// Show every replica of every partition.
    #[command(after_help = "\
Examples:
  tidemark partitions list
  tidemark partitions list --output json | jq '.partitions[].replicas[] | select(.state == \"blocked\")'")]
    List(StatusArgs),
    /// Have all replicas pass over a record that none can apply.
    #[command(after_help = "\
The order stands in the log, so that every replica follows it, also one that is restored later. The record has no
effect then, for ever. Only a replica that is blocked at this very record appends the order; where another replica
was able to apply the record, rebuild the blocked ones instead.

Examples:
  tidemark partitions skip 3 --lsn 1042 --reason 'written by the broken importer of Tuesday'
  tidemark partitions skip 3 --lsn 1042 --reason 'ticket 4711' --yes")]
    Skip(SkipArgs),
    /// Replace the local state of one replica by one from the store or the log.
    #[command(after_help = "\
The replica gives up leadership, sets its state aside, restores the newest sound snapshot without reusing anything
local, and follows the log. The state set aside is deleted once the replica is active again. Refused when no snapshot
covers what the log no longer has and the log cannot be replayed from its first record.

Examples:
  tidemark partitions rebuild 3 --node worker-2
  tidemark partitions rebuild 3 --node worker-2 --yes --output json")]
    Rebuild(RebuildArgs),
}

/// Arguments of `partitions skip`.
#[derive(Debug, Args)]
pub struct SkipArgs {
    /// The partition.
    partition: PartitionId,
    /// The record before which its replicas stand still.
    #[arg(long, value_name = "LSN")]
    lsn: u64,
    /// Why; it is kept in the log, others will read it.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it without asking; needed where nobody can be asked.
    #[arg(long)]
    yes: bool,
    /// Address of a worker to ask instead of those the admin knows; may be repeated.
    #[arg(long = "worker", value_name = "URL")]
    workers: Vec<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `partitions rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// The partition.
    partition: PartitionId,
    /// The node whose replica gets another state.
    #[arg(long, value_name = "NODE")]
    node: String,
    /// Do it without asking; needed where nobody can be asked.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

impl PartitionsCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When nobody answers, or what was asked for is refused.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            PartitionsCommand::List(args) => list(&args, output).await,
            PartitionsCommand::Skip(args) => skip(args, output).await,
            PartitionsCommand::Rebuild(args) => rebuild(args, output).await,
        }
    }
}

async fn list(args: &StatusArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let status = args.admin.cluster_status().await?;
    let answer = serde_json::json!({
        "partitions": status.partitions.iter().map(render::partition_json).collect::<Vec<_>>(),
    });
    output.print(&answer, || replicas_table(&status))?;
    Ok(exit(true))
}

/// What one worker says of its replica and of the record.
struct Seen {
    address: String,
    node: String,
    applied_lsn: Option<u64>,
    /// The record, or why it is not in the replica's way.
    record: Result<PoisonRecord, String>,
}

async fn skip(args: SkipArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let partition = args.partition.get();
    let addresses = match args.workers.is_empty() {
        true => replica_addresses(&args.admin.cluster_status().await?, partition),
        false => args.workers.clone(),
    };
    let mut seen = Vec::new();
    for address in addresses {
        seen.push(look(&args.admin, address, partition, args.lsn).await?);
    }
    let (chosen, record) =
        choose(args.lsn, &seen).map_err(|why| anyhow::anyhow!("partition {partition}: {why}"))?;
    let question = format!("{}\nSkip it?", described(partition, record, &seen));
    if !confirmed(args.yes, &question)? {
        bail!("nothing was skipped");
    }
    let request = SkipRecordRequest {
        partition,
        lsn: args.lsn,
        record_hash: record.record_hash.clone(),
        reason: args.reason,
        dry_run: false,
    };
    let mut worker = args.admin.worker_client(&chosen.address)?;
    let reply: SkipRecordReply = ask(&chosen.address, worker.skip_record(request)).await?;
    let answer = serde_json::json!({
        "ok": true,
        "partition": partition,
        "lsn": args.lsn,
        "record_hash": hex(&record.record_hash),
        "bytes": record.bytes,
        "skip_lsn": reply.skip_lsn,
        "node": chosen.node,
    });
    output.print(&answer, || {
        format!(
            "the order to skip the record at {} stands at {}: the replicas of partition {partition} go on by themselves",
            args.lsn,
            or_dash(reply.skip_lsn),
        )
    })?;
    Ok(exit(true))
}

/// Asks one worker where its replica stands, and whether the record is in its way.
async fn look(admin: &AdminArgs, address: String, partition: u32, lsn: u64) -> anyhow::Result<Seen> {
    let mut worker = admin.worker_client(&address)?;
    let mut seen = Seen {
        address,
        node: String::new(),
        applied_lsn: None,
        record: Err(String::new()),
    };
    match ask(&seen.address, worker.get_status(GetStatusRequest::default())).await {
        Ok(status) => {
            let replica = status
                .partitions
                .iter()
                .find(|replica| replica.partition == partition);
            seen.applied_lsn = replica.and_then(|replica| replica.applied_lsn);
            seen.node = status.node;
        }
        Err(error) => {
            seen.record = Err(error.to_string());
            return Ok(seen);
        }
    }
    let request = SkipRecordRequest {
        partition,
        lsn,
        dry_run: true,
        ..SkipRecordRequest::default()
    };
    seen.record = match ask(&seen.address, worker.skip_record(request)).await {
        Ok(SkipRecordReply {
            record: Some(record), ..
        }) => Ok(record),
        Ok(_) => Err("it did not show the record".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Ok(seen)
}

/// Chooses who appends the order. A record is skipped only where nobody who was asked has applied it, for else the
/// replicas would differ, and only where all who are blocked at it see the same record.
fn choose(lsn: u64, seen: &[Seen]) -> Result<(&Seen, &PoisonRecord), String> {
    if let Some(past) = seen.iter().find(|seen| seen.applied_lsn >= Some(lsn)) {
        return Err(format!(
            "{} has gone past the record at {lsn}: a replica that is still blocked there follows an order that stands in \
             the log by itself; if there is none, the record was applied, skipping it now would make the replicas differ, \
             and the blocked one is to be rebuilt (`tidemark partitions rebuild`)",
            past.node
        ));
    }
    let mut blocked = seen
        .iter()
        .filter_map(|seen| Some((seen, seen.record.as_ref().ok()?)));
    let Some((chosen, record)) = blocked.next() else {
        let answers: Vec<&str> = seen
            .iter()
            .filter_map(|seen| seen.record.as_ref().err())
            .map(String::as_str)
            .collect();
        return Err(match answers.as_slice() {
            [] => "no live worker hosts it; name one with --worker URL".to_owned(),
            answers => format!("no replica is blocked at {lsn}: {}", answers.join("; ")),
        });
    };
    match blocked.find(|(_, other)| other.record_hash != record.record_hash) {
        Some((other, _)) => Err(format!(
            "{} and {} are blocked at different records at {lsn}: they read different logs",
            chosen.node, other.node
        )),
        None => Ok((chosen, record)),
    }
}

fn described(partition: u32, record: &PoisonRecord, seen: &[Seen]) -> String {
    let blocked: Vec<&str> = seen
        .iter()
        .filter(|seen| seen.record.is_ok())
        .map(|seen| seen.node.as_str())
        .collect();
    let author = match &record.author {
        Some(author) => format!("written by {} in term {}", author.node, author.epoch),
        None => "its writer cannot be told".to_owned(),
    };
    let mut text = format!(
        "partition {partition}, record at {}: {}, {author}\n  hash {}\n  cannot be applied: {}\n  blocked there: {}",
        record.lsn,
        bytes(record.bytes),
        hex(&record.record_hash),
        record.detail,
        blocked.join(", "),
    );
    for seen in seen {
        if let Err(why) = &seen.record {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  not blocked there: {why}");
        }
    }
    text += "\nSkipped, it has no effect on any replica, for ever.";
    text
}

async fn rebuild(args: RebuildArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let partition = args.partition.get();
    let status = args.admin.cluster_status().await?;
    let node = status.nodes.iter().find(|node| node.node == args.node);
    let address = &node
        .with_context(|| format!("the admin knows no node {}: see `tidemark status`", args.node))?
        .address;
    let mut worker = args.admin.worker_client(address)?;
    let request = |dry_run| RebuildPartitionRequest { partition, dry_run };
    let plan: RebuildPartitionReply = ask(address, worker.rebuild_partition(request(true))).await?;
    let question = format!("{}\nRebuild it?", planned(&args, &plan));
    if !confirmed(args.yes, &question)? {
        bail!("nothing was rebuilt");
    }
    let done = ask(address, worker.rebuild_partition(request(false))).await?;
    let answer = serde_json::json!({
        "ok": true,
        "partition": partition,
        "node": args.node,
        "applied_lsn": done.applied_lsn,
        "snapshot": done.snapshot.as_ref().map(|snapshot| serde_json::json!({
            "snapshot_id": snapshot.snapshot_id,
            "lsn": snapshot.lsn,
        })),
    });
    output.print(&answer, || {
        format!(
            "the state of partition {partition} on {} is set aside; {}; watch it with `tidemark partitions list`",
            args.node,
            source(&done)
        )
    })?;
    Ok(exit(true))
}

fn planned(args: &RebuildArgs, plan: &RebuildPartitionReply) -> String {
    format!(
        "partition {} on {}: the state at {} is set aside; {}",
        args.partition,
        args.node,
        or_dash(plan.applied_lsn),
        source(plan)
    )
}

fn source(plan: &RebuildPartitionReply) -> String {
    match &plan.snapshot {
        Some(snapshot) => format!(
            "snapshot {} at {} comes in its place, then the log",
            snapshot.snapshot_id, snapshot.lsn
        ),
        None => "the log is replayed from its first record".to_owned(),
    }
}

/// Returns the addresses of the live nodes that host `partition`.
fn replica_addresses(status: &ClusterStatus, partition: u32) -> Vec<String> {
    let view = status.partitions.iter().find(|view| view.partition == partition);
    let replicas = view.map(|view| view.replicas.as_slice()).unwrap_or_default();
    status
        .nodes
        .iter()
        .filter(|node| node.liveness() == Liveness::Live)
        .filter(|node| replicas.iter().any(|replica| replica.node == node.node))
        .map(|node| node.address.clone())
        .collect()
}

/// Waits for an answer of the worker at `address`.
async fn ask<T>(
    address: &str,
    request: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => bail!("{address}: {}", status_text(&status)),
        Err(_) => bail!("{address}: no answer within {} s", ANSWER_TIMEOUT.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(node: &str, applied_lsn: u64, record: Result<&'static [u8], &str>) -> Seen {
        let record = record.map_err(str::to_owned).map(|hash| PoisonRecord {
            lsn: 7,
            bytes: 12,
            record_hash: hash.into(),
            author: None,
            detail: "no command".to_owned(),
        });
        Seen {
            address: format!("http://{node}"),
            node: node.to_owned(),
            applied_lsn: Some(applied_lsn),
            record,
        }
    }

    #[test]
    fn a_record_is_skipped_only_where_nobody_has_applied_it_and_all_see_the_same() {
        let (a, b) = (seen("a", 6, Ok(b"one")), seen("b", 6, Ok(b"one")));
        let away = seen("c", 0, Err("no answer"));
        let chosen = |seen: &[Seen]| choose(7, seen).map(|(seen, _)| seen.node.clone());
        assert_eq!(chosen(&[away, a]), Ok("a".to_owned()));
        let past = chosen(&[b, seen("d", 7, Err("active"))]);
        assert!(past.is_err_and(|why| why.contains("d has gone past") && why.contains("rebuild")));
        let others = chosen(&[seen("a", 6, Ok(b"one")), seen("b", 6, Ok(b"two"))]);
        assert!(others.is_err_and(|why| why.contains("different records")));
        let none = chosen(&[seen("a", 3, Err("http://a: the replica is active"))]);
        assert!(none.is_err_and(|why| why.contains("http://a: the replica is active")));
        assert!(chosen(&[]).is_err_and(|why| why.contains("--worker")));
    }

    #[test]
    fn the_question_says_what_will_be_lost() {
        let all = [
            seen("a", 6, Ok(b"\x01\x02")),
            seen("b", 0, Err("http://b: no answer")),
        ];
        let (_, record) = choose(7, &all).unwrap();
        let text = described(3, record, &all);
        for word in [
            "partition 3",
            "record at 7",
            "12 B",
            "0102",
            "no command",
            "a",
            "http://b: no answer",
        ] {
            assert!(text.contains(word), "{word} is missing: {text}");
        }
    }
}
