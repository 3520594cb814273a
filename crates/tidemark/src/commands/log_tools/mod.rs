//! Looking at logs, creating missing ones, checking what keeps them, and moving them.

pub(super) mod check;
pub(super) mod copy;
pub(super) mod info;
pub(super) mod provision;

use crate::roles::LogEnds;
use partition_log::{LogError, Passage, Registration};
use snapshot_store::PartitionId;

/// The most partitions that are looked at; as many as a cluster may have.
const PARTITIONS_MAX: u32 = 10_000;

/// Returns all that the registry holds; partitions are numbered without gaps.
///
/// # Errors
/// When it cannot be read.
async fn registrations(ends: &LogEnds, flag: &str) -> anyhow::Result<Vec<Registration>> {
    let mut found = Vec::new();
    for number in 0..PARTITIONS_MAX {
        match ends.log.registration(PartitionId::new(number)).await {
            Ok(registration) => found.push(registration),
            Err(LogError::Missing { .. }) => break,
            Err(error) => anyhow::bail!(
                "the log {} cannot be read: {error}; start it, or name another with {flag}",
                ends.name
            ),
        }
    }
    Ok(found)
}

/// Says whether a log takes records, and if not, why.
fn state(registration: &Registration) -> String {
    match &registration.passage {
        None if registration.sealed => "sealed".to_owned(),
        None => "open".to_owned(),
        Some(Passage::Leaving { to, .. }) => format!("sealed, being copied to {to}"),
        Some(Passage::Left { to, .. }) => format!("moved to {to}"),
        Some(Passage::Arriving { from, .. }) => format!("being copied here from {from}"),
    }
}
