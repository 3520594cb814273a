//! `policy show` and `policy reload`.

use super::{AdminArgs, render};
use crate::output::{OutputFormat, table};
use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;
use snapshot_proto::v1::{PolicyState, ReloadPolicyReply, ReloadPolicyRequest};
use std::process::ExitCode;

/// What to do about the policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policy in force at the admin, and why a newer one was refused.
    #[command(
        after_help = "Example:\n  tidemark policy show --output json | jq .policy.snapshot_after_records"
    )]
    Show(AdminArgs),
    /// Let the admin read its `[policy]` again; a faulty one is refused, and the old one stays.
    #[command(after_help = "\
The admin also reads it again on SIGHUP and when its file changes. Each admin has its own file: ask each of them.

Examples:
  tidemark policy reload
  tidemark policy reload --admin http://10.0.0.5:7400")]
    Reload(AdminArgs),
}

impl PolicyCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the admin does not answer, or refuses what it has read.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            PolicyCommand::Show(admin) => {
                let status = admin.cluster_status().await?;
                let state = status
                    .policy
                    .context("this admin does not tell its policy: update it")?;
                output.print(&render::policy_json(&state), || shown(&state))?;
            }
            PolicyCommand::Reload(admin) => {
                let mut client = admin.client()?;
                let reply = admin.ask(client.reload_policy(ReloadPolicyRequest {})).await?;
                output.print(&reply_json(&reply), || reply_text(&reply))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Lays out every key with its value.
fn shown(state: &PolicyState) -> String {
    let policy: Value = serde_json::from_str(&state.json).unwrap_or_default();
    let keys = policy.as_object().into_iter().flatten();
    let rows = keys.map(|(key, value)| [key.clone(), value.to_string()]);
    format!(
        "{}\n{}",
        table(["key", "value"], rows),
        render::policy_text(state)
    )
}

fn reply_json(reply: &ReloadPolicyReply) -> Value {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let changes = reply.changes.iter().map(|change| {
        serde_json::json!({
            "key": change.key,
            "from": parsed(&change.from),
            "to": parsed(&change.to),
        })
    });
    serde_json::json!({
        "changes": changes.collect::<Vec<_>>(),
        "policy": reply.policy.as_ref().map(render::policy_json),
    })
}

fn reply_text(reply: &ReloadPolicyReply) -> String {
    if reply.changes.is_empty() {
        return "nothing changed".to_owned();
    }
    let rows = reply
        .changes
        .iter()
        .map(|change| [change.key.clone(), change.from.clone(), change.to.clone()]);
    table(["key", "before", "now"], rows)
}
