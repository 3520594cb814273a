//! A log on its way from one engine to another: what its registry says meanwhile, and what is refused because of it.
//!
//! The registration of both ends carries a [`Passage`]. At any moment at most one of them may be used:
//!
//! | Source | Destination | Reading | Appends, trims |
//! |---|---|---|---|
//! | – | nothing, or arriving | source | source |
//! | leaving | nothing, or arriving | source | refused |
//! | left | arriving | refused | refused |
//! | left | – | destination | destination |
//!
//! The step from *leaving* to *left* is the point of no return. `copy` walks through these states; what is here is kept
//! by the engines, whoever asks.

use crate::{AppendError, LogError, LogInfo, ReadError, RecordStream, Registration};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};

/// How far a log is on its way to another place. `id` is drawn anew for every attempt: an attempt that was taken back
/// cannot complete afterwards, when records were appended that it has not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Passage {
    /// Its records are being copied to another place: appends and trims are refused, reading goes on.
    Leaving {
        /// The attempt.
        id: WriteId,
        /// Where it goes.
        to: String,
    },
    /// It lives elsewhere: everything is refused.
    Left {
        /// The attempt.
        id: WriteId,
        /// Where it lives.
        to: String,
    },
    /// Its records are being copied here: nobody else may use it yet.
    Arriving {
        /// The attempt.
        id: WriteId,
        /// Where it comes from.
        from: String,
        /// Trim point of the source; the records copied begin after it.
        trim_point: Lsn,
    },
}

impl Passage {
    /// Returns the attempt.
    pub fn id(&self) -> WriteId {
        match self {
            Passage::Leaving { id, .. } | Passage::Left { id, .. } | Passage::Arriving { id, .. } => *id,
        }
    }
}

/// What moving a log needs beyond [`Log`](crate::Log) and [`LogAdmin`](crate::LogAdmin), with the credentials of the
/// latter. A log that arrives is created by [`LogAdmin::provision`](crate::LogAdmin::provision) of a registration that
/// says so.
#[async_trait]
pub trait LogMove: Send + Sync + 'static {
    /// Returns where the log stands, whatever its passage.
    ///
    /// # Errors
    /// When the log is missing, of another incarnation, or does not answer.
    async fn position(&self, partition: PartitionId, incarnation: Incarnation) -> Result<LogInfo, LogError>;

    /// Reads as [`Log::read`](crate::Log::read) does, whatever the log's passage.
    ///
    /// # Errors
    /// The same that the stream ends with.
    async fn read_moving(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError>;

    /// Appends to a log that arrives, as one unit, if its tail is `expected_tail`. Returns the LSN of the last record,
    /// durable.
    ///
    /// # Errors
    /// As [`Log::append`](crate::Log::append); a log that does not arrive takes nothing.
    async fn import(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError>;

    /// Replaces the passage `from` by `to`, if `from` is what the registry says now and the change is one of those in
    /// [`may_change`]. Returns the passage now in force; repeating it is harmless.
    ///
    /// # Errors
    /// When the log is missing, of another incarnation, or does not answer.
    async fn change_passage(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError>;

    /// Deletes what arrived so far, with its registration, if the log arrives in the attempt `id`.
    ///
    /// # Errors
    /// When it does not, is missing, of another incarnation, or does not answer.
    async fn discard(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError>;
}

/// Whether a log may go from one passage to another. A log that left never comes back to life.
pub fn may_change(from: Option<&Passage>, to: Option<&Passage>) -> bool {
    match (from, to) {
        (None, Some(Passage::Leaving { .. }))
        | (Some(Passage::Leaving { .. } | Passage::Arriving { .. }), None) => true,
        (Some(Passage::Leaving { id, to }), Some(Passage::Left { id: left, to: place })) => {
            id == left && to == place
        }
        _ => false,
    }
}

#[cfg_attr(
    not(any(feature = "memory", feature = "embedded")),
    allow(dead_code, reason = "the rules of the engines")
)]
impl Registration {
    /// Checks whether anybody may use the log.
    pub(crate) fn check_use(&self) -> Result<(), LogError> {
        let partition = self.partition;
        match &self.passage {
            None | Some(Passage::Leaving { .. }) => Ok(()),
            Some(Passage::Left { to, .. }) => Err(LogError::Moved {
                partition,
                to: to.clone(),
            }),
            Some(Passage::Arriving { from, .. }) => Err(LogError::Unavailable {
                partition,
                detail: format!(
                    "its records are being copied here from {from}: wait until `tidemark log copy` is done, or run it again"
                ),
            }),
        }
    }

    /// Checks whether the log takes appends.
    pub(crate) fn check_append(&self) -> Result<(), AppendError> {
        self.check_use()?;
        if self.sealed || self.passage.is_some() {
            return Err(AppendError::Sealed);
        }
        Ok(())
    }

    /// Checks whether the log takes trims.
    pub(crate) fn check_trim(&self) -> Result<(), LogError> {
        self.check_use()?;
        match &self.passage {
            Some(Passage::Leaving { to, .. }) => Err(LogError::Unavailable {
                partition: self.partition,
                detail: format!(
                    "it is being copied to {to} and takes no trims: wait until `tidemark log copy` is done, or take it back with --unseal"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Checks whether the log takes records of another place.
    pub(crate) fn check_import(&self) -> Result<(), AppendError> {
        match &self.passage {
            Some(Passage::Arriving { .. }) => Ok(()),
            _ => Err(AppendError::Sealed),
        }
    }

    /// Checks whether what is here may be deleted by the attempt `id`.
    pub(crate) fn check_discard(&self, id: WriteId) -> Result<(), LogError> {
        match &self.passage {
            Some(Passage::Arriving { id: found, .. }) if *found == id => Ok(()),
            _ => Err(LogError::Unavailable {
                partition: self.partition,
                detail: "only a log that is still being copied here can be discarded".to_owned(),
            }),
        }
    }

    /// Replaces the passage if `from` is what it is now; returns the one in force.
    pub(crate) fn change_passage(
        &mut self,
        from: Option<&Passage>,
        to: Option<Passage>,
    ) -> (bool, Option<Passage>) {
        let changes = self.passage.as_ref() == from && may_change(from, to.as_ref());
        if changes {
            self.passage = to;
        }
        (changes, self.passage.clone())
    }

    /// Returns the trim point of the log when it is created.
    pub(crate) fn first_trim_point(&self) -> Lsn {
        match &self.passage {
            Some(Passage::Arriving { trim_point, .. }) => *trim_point,
            _ => self.first_lsn().prev(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> WriteId {
        format!("{number:026}").parse().unwrap()
    }

    fn leaving(seed: u64) -> Passage {
        Passage::Leaving {
            id: id(seed),
            to: "b".to_owned(),
        }
    }

    fn left(seed: u64) -> Passage {
        Passage::Left {
            id: id(seed),
            to: "b".to_owned(),
        }
    }

    fn arriving(seed: u64) -> Passage {
        Passage::Arriving {
            id: id(seed),
            from: "a".to_owned(),
            trim_point: Lsn::new(4),
        }
    }

    #[test]
    fn a_log_that_left_never_comes_back_and_only_its_own_attempt_lets_it_go() {
        let all = [
            None,
            Some(leaving(1)),
            Some(leaving(2)),
            Some(left(1)),
            Some(arriving(1)),
        ];
        let mut allowed = Vec::new();
        for (from, before) in all.iter().enumerate() {
            for (to, after) in all.iter().enumerate() {
                if may_change(before.as_ref(), after.as_ref()) {
                    allowed.push((from, to));
                }
            }
        }
        assert_eq!(allowed, [(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (4, 0)]);
    }

    #[test]
    fn each_stage_refuses_what_would_make_two_logs_of_one() {
        let at = |passage| Registration {
            passage,
            ..registration()
        };
        let allows = |passage| {
            let log = at(passage);
            [
                log.check_use().is_ok(),
                log.check_append().is_ok(),
                log.check_trim().is_ok(),
                log.check_import().is_ok(),
                log.check_discard(id(1)).is_ok(),
            ]
        };
        assert_eq!(allows(None), [true, true, true, false, false]);
        assert_eq!(allows(Some(leaving(1))), [true, false, false, false, false]);
        assert_eq!(allows(Some(left(1))), [false, false, false, false, false]);
        assert_eq!(allows(Some(arriving(1))), [false, false, false, true, true]);
        assert_eq!(allows(Some(arriving(2))), [false, false, false, true, false]);
        assert_eq!(at(Some(leaving(1))).check_append(), Err(AppendError::Sealed));
        let moved = at(Some(left(1))).check_use().unwrap_err().to_string();
        assert!(moved.contains("moved to b"), "{moved}");
    }

    #[test]
    fn an_arriving_log_begins_where_its_source_was_trimmed() {
        let arriving = Registration {
            passage: Some(arriving(1)),
            ..registration()
        };
        assert_eq!(arriving.first_trim_point(), Lsn::new(4));
        assert_eq!(registration().first_trim_point(), Lsn::ZERO);
    }

    #[test]
    fn a_passage_is_written_as_it_always_was() {
        let passage = Passage::Leaving {
            id: id(1),
            to: "nats://n1:4222".to_owned(),
        };
        let expected = r#"{"leaving":{"id":"00000000000000000000000001","to":"nats://n1:4222"}}"#;
        assert_eq!(serde_json::to_string(&passage).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Passage>(expected).unwrap(), passage);
    }

    fn registration() -> Registration {
        Registration {
            partition: PartitionId::new(0),
            incarnation: Incarnation {
                generation: 1,
                id: snapshot_store::IncarnationId::from_bytes([1; 16]),
            },
            fingerprint: snapshot_store::Fingerprint::from_bytes([2; 16]),
            base: None,
            sealed: false,
            passage: None,
        }
    }
}
