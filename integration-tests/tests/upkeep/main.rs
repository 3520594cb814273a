//! `snapshots verify` and `snapshots sweep` as operators call them, on repositories with everything in them that can be
//! wrong.

mod bucket;
mod every_kind;
mod sweep;
mod verify;
