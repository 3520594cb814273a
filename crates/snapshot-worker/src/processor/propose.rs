//! What a proposal is, and what its proposer is told.

use crate::core::{LedBody, PartitionState};
use bytes::Bytes;
use partition_log::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use snapshot_store::{LeaderEpoch, Leadership, Lsn};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// More than the envelope around a command takes: two numbers, a node id of at most 64 characters, tags.
const ENVELOPE_BYTES_MAX: usize = 128;

/// The longest command, in bytes.
pub const COMMAND_BYTES_MAX: usize = RECORD_BYTES_MAX - ENVELOPE_BYTES_MAX;

/// A proposed command that was applied as accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the log.
    pub lsn: Lsn,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// Why a proposal was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead; nothing was applied, nor ever will be.
    #[error("this replica is not the partition's leader")]
    NotLeader {
        /// The leader it knows of, and where clients reach that one.
        leader: Option<(Leadership, String)>,
    },
    /// The partition is not being served here now; nothing was applied, nor ever will be.
    #[error("the partition is {state}")]
    NotActive {
        /// Where the replica is in its life.
        state: PartitionState,
    },
    /// It does not fit one append: propose less at once. Nothing was applied.
    #[error("{bytes} bytes in {commands} commands are too much for one proposal")]
    TooLarge {
        /// Bytes over all commands.
        bytes: usize,
        /// Number of commands.
        commands: usize,
    },
    /// Too many proposals wait already; nothing was applied, try again later.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// The log refuses appends; nothing was applied, nor ever will be.
    #[error("the log takes no appends: {detail}")]
    Unavailable {
        /// What the log said.
        detail: String,
    },
    /// It may have been applied, or may still be.
    #[error("the proposal may or may not have been applied: {detail}")]
    Unknown {
        /// What happened.
        detail: String,
    },
    /// One of its commands could not be applied by any replica, and an operator had it passed over: it has no effect,
    /// nor ever will have. The other commands of the proposal were applied, or will be.
    #[error("the record at {lsn} could not be applied by any replica, and an operator had it passed over")]
    Skipped {
        /// The record.
        lsn: Lsn,
    },
    /// The partition is being closed; nothing was applied, nor ever will be.
    #[error("the partition is being closed")]
    Stopping,
}

impl ProposeError {
    /// Returns the word used in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            ProposeError::NotLeader { .. } => "not-leader",
            ProposeError::NotActive { .. } => "not-active",
            ProposeError::TooLarge { .. } => "too-large",
            ProposeError::Overloaded => "overloaded",
            ProposeError::Unavailable { .. } => "unavailable",
            ProposeError::Unknown { .. } => "unknown",
            ProposeError::Skipped { .. } => "skipped",
            ProposeError::Stopping => "stopping",
        }
    }
}

/// What a proposer gets in the end.
pub(super) type Answer = Result<Vec<Applied>, ProposeError>;

/// Records that are appended together or not at all, and whoever waits for them.
pub(super) struct Proposal {
    pub(super) bodies: Vec<LedBody>,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its share of the memory for waiting proposals, given back when it is answered.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Proposal {
    /// Returns the bytes it takes in an append, at most.
    pub(super) fn bytes(&self) -> usize {
        self.bodies.iter().map(body_bytes).sum()
    }
}

fn body_bytes(body: &LedBody) -> usize {
    ENVELOPE_BYTES_MAX
        + match body {
            LedBody::Command(command) => command.len(),
            LedBody::Announce { address } => address.len(),
            LedBody::NoOp => 0,
        }
}

/// Checks that `commands` fit one append, and returns the bytes they take there.
pub(super) fn check_size(commands: &[Bytes]) -> Result<usize, ProposeError> {
    let bytes: usize = commands
        .iter()
        .map(|command| ENVELOPE_BYTES_MAX + command.len())
        .sum();
    let fits = commands.len() <= BATCH_RECORDS_MAX
        && bytes <= BATCH_BYTES_MAX
        && commands.iter().all(|command| command.len() <= COMMAND_BYTES_MAX);
    if fits {
        Ok(bytes)
    } else {
        Err(ProposeError::TooLarge {
            bytes,
            commands: commands.len(),
        })
    }
}

/// Why a replica did not become leader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeadError {
    /// Another replica announced itself first.
    #[error("another replica took the lead: {} in term {}", winner.node, winner.epoch)]
    LostRace {
        /// The term in force now.
        winner: Leadership,
    },
    /// The partition is not being served here now.
    #[error("the partition is {state}")]
    NotActive {
        /// Where the replica is in its life.
        state: PartitionState,
    },
    /// The log refuses appends.
    #[error("the log takes no appends: {detail}")]
    Unavailable {
        /// What the log said.
        detail: String,
    },
    /// The announcement may still take effect.
    #[error("the announcement was not seen in the log in time; it may still take effect")]
    Unknown,
}

/// What a candidate gets in the end.
pub(super) type LeadAnswer = Result<LeaderEpoch, LeadError>;
