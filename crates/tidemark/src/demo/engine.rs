//! What keeps the logs of a demo.

use crate::{cluster::Engine, config::LogEngine};
use std::path::PathBuf;

/// What keeps the logs of a demo: the log server of this program when nothing is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EngineArgs {
    /// What keeps the logs: a log server, or three NATS servers that the demo starts. On NATS there are two admins, and one of
    /// the servers is killed with SIGKILL as well.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t)]
    pub engine: LogEngine,
    /// The program `nats-server`, 2.12 or newer. `scripts/demo.sh --engine nats` fetches it and passes it here.
    #[arg(long, value_name = "PROGRAM", required_if_eq("engine", "nats"))]
    pub nats_server: Option<PathBuf>,
}

impl EngineArgs {
    /// Returns the engine of the demo's cluster.
    pub(super) fn choose(&self) -> Engine {
        match (self.engine, &self.nats_server) {
            (LogEngine::Nats, Some(program)) => Engine::Nats {
                program: program.clone(),
            },
            // Without the program, the command line was refused.
            (LogEngine::Nats, None) | (LogEngine::Embedded, _) => Engine::Embedded,
        }
    }
}
