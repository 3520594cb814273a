//! Whole clusters in one process, on simulated time and network, from a seed.
//!
//! The admin, the workers, the log's client and server and everything between them are the shipped ones. Simulated is
//! what lies behind a seam: the network (turmoil), the clock, randomness, the log's engine, the object store, and the
//! database below a partition. `docs/testing.md` says what that proves, and what it does not.
//!
//! | File | What it is |
//! |---|---|
//! | `plan` | what a seed stands for: the size of the cluster and the faults it meets |
//! | `world` | what everything shares: randomness, the trace, counters, violations |
//! | `net` | listeners and connectors in the simulated network |
//! | `sim_log`, `sim_store`, `state` | log, object store and partition database, with faults |
//! | `nodes`, `client` | what runs on each host |
//! | `truth`, `oracle` | what a log's records amount to, and the rules that are checked against it |
//! | `storm` | one run: the storm, the calm after it, the verdict |
//! | `batch` | many runs, each in a process of its own |

pub mod batch;
mod client;
mod counters;
mod net;
mod nodes;
mod oracle;
mod plan;
mod report;
mod sim_log;
mod sim_store;
mod state;
mod storm;
mod truth;
mod world;

pub use counters::Counters;
pub use plan::{FaultClass, Plan};
pub use report::Report;
pub use state::MemoryEngine;
pub use storm::{Options, run};
