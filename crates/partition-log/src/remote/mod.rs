//! A log behind gRPC: the services over any engine, and the client that is an engine itself.
//!
//! - [`log_service`] and [`log_admin_service`]: what the `log` role serves. The admin service belongs on another
//!   address or behind other credentials: whoever reaches it may trim.
//! - [`log_move_service`]: what `log copy` needs; it belongs beside the admin service.
//! - [`RemoteLog`], [`RemoteLogAdmin`] and [`RemoteLogMove`]: the clients.
//!
//! What is certain and what is not: an append whose connection was refused never left, and is `Unavailable`; one
//! that timed out or whose connection broke may have landed, and is `Unknown`. Errors travel with a machine-readable
//! reason (`status`); the message is for people only.

mod admin_client;
mod client;
mod endpoint;
mod move_client;
mod server;
mod status;
mod wire;

pub use admin_client::RemoteLogAdmin;
pub use client::RemoteLog;
pub use endpoint::{EndpointError, Plain, endpoint, server_builder};
pub use move_client::RemoteLogMove;
pub use server::{
    AdminServices, LogServices, MoveServices, log_admin_service, log_move_service, log_service,
};
