//! `store check`: whether a store can be trusted, tried by hand, and what it must permit.

mod permissions;

use super::{StoreOptionArgs, exit};
use crate::output::{OutputFormat, duration_ms, table};
use clap::{Args, Subcommand};
use permissions::{Features, Permissions};
use serde_json::json;
use snapshot_store::{Repository, StoreError};
use std::{process::ExitCode, time::Duration};
use tokio::time::Instant;

/// What to do about stores.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Try out whether a store keeps the promises that snapshots rest on, and print the permissions it must grant.
    #[command(after_help = "\
Writes a few small objects below admin/probe/ and removes them. A node makes the same check before its first write; this one
races longer.

Examples:
  tidemark store check s3://bucket/prefix
  tidemark store check s3://bucket/prefix --store-option endpoint=http://127.0.0.1:9000 --store-option allow_http=true
  tidemark store check az://container/prefix --prune --output json")]
    Check(CheckArgs),
}

/// Arguments of `store check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// URL of the repository.
    #[arg(value_name = "URL")]
    store: String,
    #[command(flatten)]
    options: StoreOptionArgs,
    /// Check the right to delete as well, which the admin needs when `prune` is on.
    #[arg(long)]
    prune: bool,
    /// How many times eight writers race for one object. More finds stores that are wrong only seldom.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    races: u16,
}

/// One thing that was tried.
struct Trial {
    what: &'static str,
    took: Duration,
    outcome: Result<String, String>,
}

impl StoreCommand {
    /// Runs it. The exit code is not 0 when the store cannot be used.
    ///
    /// # Errors
    /// When URL or options cannot be used.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        let StoreCommand::Check(args) = self;
        let repository = args.options.open(&args.store)?;
        let trials = try_all(&repository, &args).await;
        let permissions = Permissions::needed(&repository, Features { prune: args.prune });
        let ok = trials.iter().all(|trial| trial.outcome.is_ok());
        let answer = json!({
            "ok": ok,
            "store": repository.url(),
            "kind": repository.kind().to_string(),
            "trials": trials.iter().map(trial_json).collect::<Vec<_>>(),
            "permissions": permissions.as_ref().map(|permissions| &permissions.document),
        });
        output.print(&answer, || text(&repository, &trials, permissions.as_ref(), ok))?;
        Ok(exit(ok))
    }
}

async fn try_all(repository: &Repository, args: &CheckArgs) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut note = |what, began: Instant, outcome: Result<String, StoreError>| {
        trials.push(Trial {
            what,
            took: began.elapsed(),
            outcome: outcome.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        });
        trials.last().is_some_and(|trial| trial.outcome.is_ok())
    };

    let began = Instant::now();
    let found = repository.cluster().await.map(|record| match record {
        Some(record) => format!("cluster {}, {} partitions", record.cluster, record.partitions),
        None => "no cluster yet".to_owned(),
    });
    if !note("read", began, found) {
        return trials;
    }
    let began = Instant::now();
    let races = usize::from(args.races);
    let written = repository.try_conditional_writes(races).await;
    let said = format!("create if absent, replace if unchanged, {races} races with one winner each");
    if !note("write conditionally", began, written.map(|()| said)) {
        return trials;
    }
    if args.prune {
        let began = Instant::now();
        let deleted = repository.ensure_deletable().await;
        note(
            "delete",
            began,
            deleted.map(|()| "an object is gone after its deletion".to_owned()),
        );
    }
    trials
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn trial_json(trial: &Trial) -> serde_json::Value {
    json!({
        "what": trial.what,
        "ok": trial.outcome.is_ok(),
        "detail": match &trial.outcome { Ok(said) | Err(said) => said },
        "duration_ms": millis(trial.took),
    })
}

fn text(repository: &Repository, trials: &[Trial], permissions: Option<&Permissions>, ok: bool) -> String {
    let rows = trials.iter().map(|trial| {
        let (verdict, detail) = match &trial.outcome {
            Ok(said) => ("ok", said),
            Err(fault) => ("failed", fault),
        };
        [
            trial.what.to_owned(),
            verdict.to_owned(),
            duration_ms(millis(trial.took)),
            detail.clone(),
        ]
    });
    let mut text = table(["tried", "", "took", "found"], rows);
    let verdict = if ok { "can be used" } else { "cannot be used" };
    text += &format!("\n{} ({}) {verdict}", repository.url(), repository.kind());
    if let Some(permissions) = permissions {
        text += &format!("\n\n{}\n{:#}", permissions.about, permissions.document);
    }
    text
}
