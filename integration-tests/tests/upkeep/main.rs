//! `snapshots verify`, `sweep`, `copy` and `restore` as operators call them, on repositories with everything in them that can be
//! wrong.

mod bucket;
mod copy;
mod every_kind;
mod sweep;
mod verify;
