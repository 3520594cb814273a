//! Faults, one test each: a clear message that names the thing and the remedy, nothing panics, nothing is lost,
//! other partitions go on.
//!
//! The tests of one process share one small cluster, one after the other; each leaves it healthy.

mod log;
mod nodes;
mod requests;
mod shared;
mod store;
