//! Replacing a local state that is of no use any more.

use super::start::{LogFacts, may_replay_from_first};
use snapshot_store::{Lsn, SnapshotId};

/// Why a local state is replaced. Each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebuildReason {
    /// It is damaged: a block that cannot be read, a file that is gone.
    Corruption,
    /// An operator ordered it.
    Ordered,
}

impl RebuildReason {
    /// Every reason.
    pub const ALL: &[RebuildReason] = &[RebuildReason::Corruption, RebuildReason::Ordered];

    /// Returns the word used in status, metrics and folder names.
    pub const fn as_str(self) -> &'static str {
        match self {
            RebuildReason::Corruption => "corruption",
            RebuildReason::Ordered => "ordered",
        }
    }
}

/// How often a state was rebuilt since the node started, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RebuildCounts {
    corruption: u64,
    ordered: u64,
}

impl RebuildCounts {
    /// Returns how often it was for `reason`.
    pub const fn of(&self, reason: RebuildReason) -> u64 {
        match reason {
            RebuildReason::Corruption => self.corruption,
            RebuildReason::Ordered => self.ordered,
        }
    }

    /// Counts one more.
    pub const fn add(&mut self, reason: RebuildReason) {
        let count = match reason {
            RebuildReason::Corruption => &mut self.corruption,
            RebuildReason::Ordered => &mut self.ordered,
        };
        *count += 1;
    }
}

/// Where the state that takes the place of another one comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildSource {
    /// A published snapshot, and the log after it.
    Snapshot {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// Its LSN.
        lsn: Lsn,
    },
    /// The log from its first record on.
    Replay,
}

/// What a rebuild will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildPlan {
    /// What the state that goes has applied; `None` when none is open.
    pub applied_lsn: Option<Lsn>,
    /// What comes in its place.
    pub source: RebuildSource,
}

/// Decides where a state that an operator wants replaced can come from again: a sound snapshot that covers what the
/// log no longer has (`snapshot`), else the whole log.
///
/// # Errors
/// Why from nowhere: then the present state stays, because nothing could take its place.
pub fn rebuild_source(snapshot: Option<(SnapshotId, Lsn)>, log: &LogFacts) -> Result<RebuildSource, String> {
    match snapshot {
        Some((snapshot_id, lsn)) => Ok(RebuildSource::Snapshot { snapshot_id, lsn }),
        None => may_replay_from_first(log).map(|()| RebuildSource::Replay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{Incarnation, IncarnationId};

    fn log(trim_point: u64) -> LogFacts {
        LogFacts {
            incarnation: Incarnation {
                generation: 1,
                id: IncarnationId::from_bytes([1; 16]),
            },
            first_lsn: Lsn::FIRST,
            has_base: false,
            base: None,
            trim_point: Lsn::new(trim_point),
        }
    }

    #[test]
    fn a_state_goes_only_when_another_one_can_be_had() {
        let snapshot_id: SnapshotId = "01HF7YAT00TDR4SXE6VVQ7GPYP".parse().unwrap();
        let snapshot = Some((snapshot_id, Lsn::new(9)));
        let from_store = RebuildSource::Snapshot {
            snapshot_id,
            lsn: Lsn::new(9),
        };
        assert_eq!(rebuild_source(snapshot, &log(5)), Ok(from_store));
        assert_eq!(rebuild_source(snapshot, &log(0)), Ok(from_store));
        assert_eq!(rebuild_source(None, &log(0)), Ok(RebuildSource::Replay));
        assert!(rebuild_source(None, &log(5)).is_err());
    }
}
