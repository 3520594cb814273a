//! The `tidemark` binary as a library: configuration, roles, operator commands and the key-value state machine.
//!
//! - [`config`]: TOML files with environment overrides; all faults at once.
//! - [`kv`]: the built-in state machine, its service and its client.
//! - [`roles`]: what runs as a node: log, worker, admin, and all in one (`dev`).
//! - [`commands`]: what operators call.
//! - [`wire_security`]: TLS and tokens with roles, for any tonic server and client.
//! - [`cluster`] and [`demo`]: a cluster of real processes on one machine, and the run through its whole life.

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod demo;
pub mod kv;
pub mod output;
pub mod reference;
pub mod roles;
pub mod telemetry;
pub mod wire_security;
