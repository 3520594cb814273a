//! `config check` and `config schema`.

use super::exit;
use crate::{
    config::{AdminConfig, ConfigError, LogConfig, Role, WorkerConfig, load, schema_of},
    output::{OutputFormat, print_line},
};
use clap::Subcommand;
use std::{path::PathBuf, process::ExitCode};

/// What to do about configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file together with the TIDEMARK__... variables of this environment; all faults at once.
    #[command(after_help = "\
Examples:
  tidemark config check --role worker /etc/tidemark/worker.toml
  TIDEMARK__LIMITS__EXPORTS_MAX=1 tidemark config check --role worker worker.toml")]
    Check {
        /// The role the file is for.
        #[arg(long, value_enum)]
        role: Role,
        /// The file.
        file: PathBuf,
    },
    /// Print the JSON schema of a role's file: every key with its meaning.
    #[command(
        after_help = "Example:\n  tidemark config schema --role admin | jq '.properties.policy.properties'"
    )]
    Schema {
        /// The role.
        #[arg(long, value_enum)]
        role: Role,
    },
}

impl ConfigCommand {
    /// Runs it. The exit code is not 0 when the file has faults.
    ///
    /// # Errors
    /// When the standard output cannot be written.
    pub fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            ConfigCommand::Check { role, file } => {
                let result = match role {
                    Role::Log => load::<LogConfig>(&file).map(drop),
                    Role::Worker => load::<WorkerConfig>(&file).map(drop),
                    Role::Admin => load::<AdminConfig>(&file).map(drop),
                };
                let error = result.err();
                let answer = serde_json::json!({
                    "ok": error.is_none(),
                    "role": role.as_str(),
                    "file": file.display().to_string(),
                    "error": error.as_ref().map(ToString::to_string),
                    "faults": error.as_ref().map_or(&[][..], ConfigError::faults),
                });
                output.print(&answer, || match &error {
                    None => format!(
                        "{} is a sound configuration of the role {}",
                        file.display(),
                        role.as_str()
                    ),
                    Some(error) => error.to_string(),
                })?;
                Ok(exit(error.is_none()))
            }
            ConfigCommand::Schema { role } => {
                let schema = match role {
                    Role::Log => schema_of::<LogConfig>(),
                    Role::Worker => schema_of::<WorkerConfig>(),
                    Role::Admin => schema_of::<AdminConfig>(),
                };
                print_line(&serde_json::to_string_pretty(&schema)?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
