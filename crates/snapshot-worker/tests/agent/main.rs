//! The snapshot agent over a host that keeps its state in two small files, against real repositories.

#![allow(clippy::unwrap_used, missing_docs)]

mod autonomous;
mod export;
mod fixture;
mod fork;
mod host;
mod identity;
mod queue;
mod restore;
mod resume;
mod service;
mod store;
mod storm;
mod verify;
