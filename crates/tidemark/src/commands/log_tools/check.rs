//! `log check`: what the deployment of the logs has and lacks, in sentences. Changes nothing.

use super::{registrations, state};
use crate::{
    commands::{
        ConnectionArgs, exit,
        log_address::{self, NatsArgs},
    },
    output::{OutputFormat, table},
    roles::LogEnds,
};
use clap::Args;
use partition_log::{
    LogError, Passage, Registration,
    nats::{Finding, FindingLevel},
};
use snapshot_store::{Lsn, PartitionId};
use std::{process::ExitCode, time::Duration};

/// How long the connection to NATS servers may take.
const READY_MAX: Duration = Duration::from_secs(10);

pub(in crate::commands) const HELP: &str = "\
Asks whatever the engine can be asked: does it answer, which version, how many copies, are its settings safe, what may these
credentials do. What cannot be asked is `unknown`, with what to look at. Run it once with the workers' credentials and once
with the admins', and say which with --as: a worker's must not be able to trim.

Exit code: 0 nothing is lacking; 1 something is.

Examples:
  tidemark log check --log http://127.0.0.1:7300
  tidemark log check --log http://10.0.0.4:7301 --as admin --token-file admin.token
  tidemark log check --log nats://10.0.0.4:4222,10.0.0.5:4222 --nats-login worker.login --as worker";

/// Whose credentials these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Holder {
    /// Workers: they append and read.
    Worker,
    /// Admins and operators: they also trim, seal and create.
    Admin,
}

/// Arguments of `log check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Address of the log server, or of NATS servers.
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEMARK_LOG_URL",
        default_value = "http://127.0.0.1:7300"
    )]
    log: String,
    /// Whose address and credentials these are; what they can do is judged by that.
    #[arg(long = "as", value_enum, value_name = "WHO")]
    holder: Option<Holder>,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Checks.
///
/// # Errors
/// When the log cannot be asked at all.
pub(in crate::commands) async fn run(args: CheckArgs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let ends = log_address::open("--log", &args.log, &args.connection, &args.nats).await?;
    if let Some(nats) = &ends.nats {
        nats.ready(READY_MAX).await?;
    }
    let logs = registrations(&ends, "--log").await?;
    let partitions: Vec<PartitionId> = logs.iter().map(|log| log.partition).collect();
    let mut findings = match &ends.nats {
        Some(nats) => nats.check(&partitions).await,
        None => of_server(&ends, &logs, args.holder).await,
    };
    findings.extend(of_registry(&logs));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let well = findings
        .iter()
        .all(|finding| finding.level <= FindingLevel::Unknown);
    let objects = findings
        .iter()
        .map(|finding| serde_json::json!({ "level": word(finding.level), "text": finding.text }));
    let objects: Vec<_> = objects.collect();
    let answer = serde_json::json!({ "ok": well, "log": ends.name, "findings": objects });
    output.print(&answer, || {
        let rows = findings
            .iter()
            .map(|finding| [word(finding.level).to_owned(), finding.text.clone()]);
        table(["", "what was found"], rows)
    })?;
    Ok(exit(well))
}

const fn word(level: FindingLevel) -> &'static str {
    match level {
        FindingLevel::Good => "good",
        FindingLevel::Unknown => "unknown",
        FindingLevel::Lacking => "lacking",
        FindingLevel::Broken => "broken",
    }
}

fn finding(level: FindingLevel, text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding { level, text }
}

/// What can be said of a log server.
async fn of_server(ends: &LogEnds, logs: &[Registration], holder: Option<Holder>) -> Vec<Finding> {
    let mut findings = vec![
        finding(
            FindingLevel::Good,
            format!("the log server {} answers", ends.name),
        ),
        finding(
            FindingLevel::Unknown,
            "one server keeps the logs, and its disk has the only copy of what no snapshot covers: whether that is mirrored cannot be asked; docs/engines.md says how to move to three servers",
        ),
    ];
    if let Some(log) = logs.iter().find(|log| log.passage.is_none()) {
        // Up to LSN 0 there is nothing to remove.
        let trimmed = ends.admin.trim(log.partition, log.incarnation, Lsn::ZERO).await;
        findings.push(judge_trim(trimmed.map(drop), holder));
    }
    findings
}

/// Judges whether these credentials may trim, by the answer to a trim that removes nothing.
fn judge_trim(answer: Result<(), LogError>, holder: Option<Holder>) -> Finding {
    match (answer, holder) {
        (Ok(()), Some(Holder::Worker)) => finding(
            FindingLevel::Lacking,
            "at this address, with these credentials, logs can be trimmed, and they are a worker's: give workers the address `listen`, and a token with the role `operate`",
        ),
        (Ok(()), _) => finding(
            FindingLevel::Good,
            "at this address, with these credentials, logs can be trimmed: right for admins, too much for workers",
        ),
        (Err(error), Some(Holder::Admin)) => finding(
            FindingLevel::Lacking,
            format!(
                "at this address, with these credentials, logs cannot be trimmed, and they are an admin's: give admins the address `admin_listen`, and a token with the role `trim` ({error})"
            ),
        ),
        (Err(_), _) => finding(
            FindingLevel::Good,
            "at this address, with these credentials, logs cannot be trimmed: right for workers, too little for admins",
        ),
    }
}

/// What the registry says, whichever engine keeps it.
fn of_registry(logs: &[Registration]) -> Vec<Finding> {
    if logs.is_empty() {
        let text = "the registry is empty: `tidemark cluster init` creates logs, `tidemark log copy` moves them here";
        return vec![finding(FindingLevel::Lacking, text)];
    }
    let mut findings = vec![finding(
        FindingLevel::Good,
        format!("the registry holds the logs of {} partitions", logs.len()),
    )];
    let closed = logs.iter().filter(|log| log.sealed || log.passage.is_some());
    findings.extend(closed.map(|log| {
        let level = match log.passage {
            Some(Passage::Left { .. }) => FindingLevel::Broken,
            _ => FindingLevel::Lacking,
        };
        let text = format!("partition {} takes no records: {}", log.partition, state(log));
        finding(level, text)
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_can_trim_and_an_admin_that_cannot_are_lacking() {
        let refused = || {
            Err(LogError::Unavailable {
                partition: PartitionId::new(0),
                detail: "role-insufficient".to_owned(),
            })
        };
        let level = |answer, holder| judge_trim(answer, holder).level;
        assert_eq!(level(Ok(()), Some(Holder::Worker)), FindingLevel::Lacking);
        assert_eq!(level(refused(), Some(Holder::Admin)), FindingLevel::Lacking);
        for (answer, holder) in [
            (Ok(()), None),
            (Ok(()), Some(Holder::Admin)),
            (refused(), None),
            (refused(), Some(Holder::Worker)),
        ] {
            assert_eq!(level(answer, holder), FindingLevel::Good);
        }
    }
}
