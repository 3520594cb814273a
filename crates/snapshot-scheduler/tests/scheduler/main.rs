//! The scheduler against a fake cluster under a paused clock, and its plan over plain values.

mod admins;
mod cluster;
mod damage;
mod holds;
mod plan;
mod plan_properties;
mod service;
mod snapshots;
mod views;
mod worker;
