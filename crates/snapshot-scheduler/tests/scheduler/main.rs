//! The scheduler against a fake cluster under a paused clock, and its plan over plain values.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod admins;
mod audit;
mod audit_rules;
mod caps;
mod choices;
mod cluster;
mod cut_store;
mod damage;
mod embed;
mod evidence;
mod forks;
mod holds;
mod lease;
mod looks;
mod overtaken;
mod plan;
mod plan_properties;
mod prices;
mod reload;
mod service;
mod snapshots;
mod space;
mod two_admins;
mod versions;
mod views;
mod words;
mod worker;
