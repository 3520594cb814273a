//! The snapshot repository: what is stored in the object store, how it gets there, and how it is read back.
//!
//! - [`vocabulary`]: positions, identities, hashes, time and randomness, shared by every part of Tidemark.
//! - [`mod@format`]: the stored objects (`cluster.json`, `latest.json`, `metadata.json`, `trim.json`, `control.json`, `lease.json`).
//! - [`core`]: the three decisions that destroy something: trim, replace the pointer, delete. Pure, and used by
//!   the product, the model checker and the simulation alike.
//! - [`Repository`]: the protocols around them: open, publish, read, verify, download, prune, copy.
//!
//! Not here: when a snapshot is due (`snapshot-scheduler`) and what is in its files (`snapshot-worker`).

mod background;
mod blocking;
pub mod core;
pub mod format;
mod repository;
pub mod vocabulary;

pub use background::reserve_processors;
pub use blocking::Blocking;
pub use repository::*;
pub use vocabulary::*;
