//! Decisions of the engine: pure, on plain values.

pub(super) mod group;
pub(super) mod position;
pub(super) mod settings;
