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
//! | `parts`, `reads` | uploads in several parts, and answers of the store that end early or are old |
//! | `sim_log`, `sim_store`, `state` | log, object store and partition database, with faults |
//! | `rpc`, `node_log`, `node_disk` | faults between the shipped parts of a node and what they call |
//! | `nodes`, `machine`, `client`, `operator` | what runs on each host |
//! | `truth`, `history`, `oracle` | what a log's records amount to, and the rules that are checked against it |
//! | `storm`, `damage`, `harm`, `calm` | one run: the storm, what happens to what is stored, the calm after it, the verdict |
//! | `plant` | bugs that are planted, to see whether they are found |
//! | `batch`, `long_run` | many runs, each in a process of its own, and what they came to |

mod batch;
mod calm;
mod client;
mod counters;
mod damage;
mod harm;
mod history;
mod long_run;
mod machine;
mod net;
mod node_disk;
mod node_log;
mod nodes;
mod operator;
mod oracle;
mod parts;
mod plan;
mod plant;
mod reads;
mod report;
mod rpc;
mod sim_log;
mod sim_store;
mod state;
mod storm;
mod truth;
mod world;

pub use batch::{Runs, totals, verdict};
pub use counters::Counters;
pub use long_run::LongRun;
pub use plan::{FaultClass, Plan};
pub use plant::Plant;
pub use report::Report;
pub use state::MemoryEngine;
pub use storm::{Options, run};
