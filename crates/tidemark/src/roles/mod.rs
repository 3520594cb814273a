//! What runs as a node: bind, announce readiness, serve, and stop within a stated time.
//!
//! A role binds all its ports before anything else, so that a port in use shows at once; prints
//! `ready <role> <node_id> <listen>` on the standard output when it serves; and on SIGTERM, SIGINT or (with
//! `--exit-on-stdin-close`) the end of its standard input stops taking requests, puts its state in order and ends
//! within [`STOP_MAX`]. A second signal ends it at once.

pub mod admin;
pub mod dev;
mod error;
mod identity;
pub mod log;
mod log_ends;
pub(crate) mod log_metrics;
pub(crate) mod metrics;
mod reload;
mod serve;
pub(crate) mod stop;
pub mod worker;

pub use error::RoleError;
pub(crate) use log_ends::LogEnds;
pub use metrics::Readiness;
pub use stop::{RUNTIME_STOP_MAX, STOP_MAX};

use std::path::PathBuf;

/// Arguments of every role with a configuration file.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemark worker --config worker.toml
  TIDEMARK__LIMITS__EXPORTS_MAX=1 tidemark worker --config worker.toml
  TIDEMARK_LOG=debug tidemark admin --config admin.toml --log-format json

Every key of the file can be overridden by a variable TIDEMARK__SECTION__KEY. examples/config holds a commented
file for each role; `tidemark config check --role ROLE FILE` checks one without starting anything.
The node prints `ready <role> <node_id> <listen>` when it serves, and ends within 30 seconds of SIGTERM.")]
pub struct RoleArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when the standard input is closed: a parent process that dies takes the node with it.
    #[arg(long, hide = true)]
    pub exit_on_stdin_close: bool,
}
