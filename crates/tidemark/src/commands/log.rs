//! `log`: serve logs, look at them, and look after them.

use super::log_tools::{check, copy, info, provision};
use crate::{output::OutputFormat, roles};
use clap::Subcommand;
use std::process::ExitCode;

/// What to do about logs.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Run the server of the embedded log.
    Serve(roles::RoleArgs),
    /// Show trim point, tail, incarnation and state of every partition's log.
    #[command(after_help = info::HELP)]
    Info(info::InfoArgs),
    /// Say what the deployment of the logs lacks.
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Create logs that a cluster should have and has not, where nothing is lost by it.
    #[command(after_help = provision::HELP)]
    Provision(Box<provision::ProvisionArgs>),
    /// Move all logs to another engine or another place; LSNs, incarnations and snapshots stay valid.
    #[command(after_help = copy::HELP)]
    Copy(Box<copy::CopyArgs>),
    /// Begin lost logs anew from the newest verified snapshots; says what is lost, and asks.
    #[command(after_help = super::log_recover::HELP)]
    Recover(Box<super::log_recover::RecoverArgs>),
}

impl LogCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the server cannot start, or a log is not there, does not answer or refuses.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            LogCommand::Serve(args) => roles::log::run(args).await,
            LogCommand::Info(args) => info::run(args, output).await,
            LogCommand::Check(args) => check::run(args, output).await,
            LogCommand::Provision(args) => provision::run(*args, output).await,
            LogCommand::Copy(args) => copy::run(*args, output).await,
            LogCommand::Recover(args) => super::log_recover::recover(*args, output).await,
        }
    }
}
