//! The protocol as a state space, explored completely within its bounds.
//!
//! Three models, each about one part of what must never break; together they call the decisions that the product ships:
//!
//! - [`archive`]: publish, retain, certify, trim, delete, restore (`may_replace_pointer`, `retained_after`, `trim_up_to`,
//!   `may_delete`, `restore_candidates`, `next_step`).
//!
//! What is around a decision (who reads what when, which put is conditional on which read) is written here once more, so
//! a mistake there is found only if both have it differently; the simulation runs the product's own.
//!
//! A configuration is either the protocol as it is, which must hold within its bounds and reach its witnesses, or a
//! mutant with one rule taken out, which must be caught. `docs/testing.md` lists the bounds.

pub mod archive;
pub mod check;
pub mod product;
