//! What operators call. Each command asks, prints a table or one JSON object, and says in its exit code whether
//! all parts went well.

pub mod cluster_init;
pub mod config;
pub mod kv;
pub mod log;
pub mod partitions;
pub mod pause;
pub mod policy;
pub mod snapshots;
pub mod status;
pub mod store;
pub mod token;
pub mod trim;

mod admin_client;
mod cluster_fork;
mod connection;
pub mod copy;
mod log_address;
pub mod log_recover;
mod log_tools;
mod render;
pub mod restore;
mod store_args;
pub mod sweep;
pub mod verify;

pub use admin_client::AdminArgs;
pub use connection::ConnectionArgs;
pub use store_args::{StoreOptionArgs, key_value, open_repository};

use std::process::ExitCode;

/// Turns "did all parts go well" into an exit code.
fn exit(all_well: bool) -> ExitCode {
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
