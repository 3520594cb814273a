//! Configuration of the roles: TOML files, overridden by environment variables.
//!
//! - One struct per role ([`LogConfig`], [`WorkerConfig`], [`AdminConfig`]); the policy's struct belongs to
//!   `snapshot-scheduler`, which also says what a sound policy is.
//! - [`load`] reads a file, lays the environment over it, and reports *every* fault at once with its key and its
//!   remedy. Unknown keys are faults: a misspelt key must not silently mean the default.
//! - Every key's default is the value in `examples/config/<role>.toml`; a test holds the two together.

mod admin;
mod fault;
mod load;
mod log;
mod log_engine;
mod schema;
mod store;
mod wire;
mod worker;

pub use admin::{AdminConfig, AdminLogSection, WorkerEntry};
pub use fault::{ConfigError, Fault, Faults};
pub use load::{ENV_PREFIX, load, parse};
pub use log::LogConfig;
pub(crate) use log_engine::read_login;
pub use log_engine::{LogEngine, NatsSection};
pub use schema::schema_of;
pub use store::{ClientOptions, IncrementalChoice, StoreSection};
pub use wire::{AuthSection, TlsSection};
pub(crate) use wire::{Wire, read_wire};
pub use worker::{AllWord, LimitsSection, LogSection, PartitionChoice, WorkerConfig, WorkerSection};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// The roles that read a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The log server.
    Log,
    /// A worker.
    Worker,
    /// The admin.
    Admin,
}

impl Role {
    /// Returns the word used on the command line, in logs and in the `ready` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Log => "log",
            Role::Worker => "worker",
            Role::Admin => "admin",
        }
    }
}

/// A role's configuration file.
pub trait RoleConfig: Serialize + DeserializeOwned + JsonSchema + Default {
    /// The role.
    const ROLE: Role;
    /// Keys without a usable default: they say who the node is and where its data lives.
    const REQUIRED: &'static [&'static str];
    /// Keys that are required when NATS keeps the logs, in place of the addresses of the log server.
    const REQUIRED_WITH_NATS: &'static [&'static str] = Self::REQUIRED;

    /// Adds every fault that the types alone do not show.
    fn check(&self, faults: &mut Faults);
}

#[cfg(test)]
mod tests;
