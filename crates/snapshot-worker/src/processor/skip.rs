//! Standing still before a record that cannot be applied, and passing over it when the log says so.
//!
//! 1. A replica that meets such a record reads on, without applying, up to the tail, for an order to skip it
//!    ([`SkipSearch`]). It goes on from where it stopped at every later try.
//! 2. None there: the partition is blocked. While it waits it keeps reading, so that an order takes effect at once.
//! 3. Found: the record is applied again, this time as *skipped*, which the chain hash keeps.
//!
//! The order itself is appended on an operator's request by a replica that is blocked at this very record
//! ([`append_skip`]): nobody leads then, so it carries no term.

use super::{
    replica::Replica,
    task::{Halt, LOG_ANSWER_MAX, Task, halt_of_read},
};
use crate::{
    agent::{SkipError, SkipOrder},
    core::{BlockedReason, PoisonRecord, Record, may_skip},
};
use bytes::Bytes;
use futures::StreamExt;
use partition_log::{AppendError, Log, LogError, ReadError, RecordBatch, RecordStream};
use snapshot_store::{Incarnation, Lsn, PartitionId, RecordHash};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How often an order is appended whose fate is unknown, or that others were faster than.
const APPENDS_MAX: u32 = 5;
/// How long an append whose fate is unknown waits before the log is looked at again.
const APPEND_PAUSE: Duration = Duration::from_millis(100);

/// The record that the log orders to pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SkipMark {
    pub(super) lsn: Lsn,
    pub(super) hash: RecordHash,
}

/// The search, behind a record that cannot be applied, for the order to pass over it.
pub(super) struct SkipSearch {
    log: Arc<dyn Log>,
    partition: PartitionId,
    incarnation: Incarnation,
    poison: PoisonRecord,
    /// Everything between the record and this was read.
    next: Lsn,
    found: Option<Lsn>,
}

impl SkipSearch {
    pub(super) fn new(
        log: Arc<dyn Log>,
        partition: PartitionId,
        incarnation: Incarnation,
        poison: PoisonRecord,
    ) -> Self {
        SkipSearch {
            log,
            partition,
            incarnation,
            next: poison.lsn.next(),
            poison,
            found: None,
        }
    }

    fn is_for(&self, incarnation: &Incarnation, poison: &PoisonRecord) -> bool {
        self.incarnation == *incarnation && self.poison.is(poison.lsn, &poison.hash)
    }

    /// Returns where the record stands.
    pub(super) fn lsn(&self) -> Lsn {
        self.poison.lsn
    }

    /// Returns the record once the order to pass over it was found.
    pub(super) fn mark(&self) -> Option<SkipMark> {
        self.found.map(|_| SkipMark {
            lsn: self.poison.lsn,
            hash: self.poison.hash,
        })
    }

    /// Reads on up to `tail`, exclusive, and returns where the order stands. May be dropped at any time.
    async fn up_to(&mut self, tail: Lsn) -> Result<Option<Lsn>, ReadError> {
        if self.found.is_some() || self.next >= tail {
            return Ok(self.found);
        }
        let mut records = self.open().await?;
        while self.found.is_none() && self.next < tail {
            match timeout(LOG_ANSWER_MAX, records.next()).await {
                Ok(item) => self.look_at(item)?,
                Err(_) => return Err(self.unavailable("no record arrived in time")),
            }
        }
        Ok(self.found)
    }

    /// Waits until the order shows. Ends only then, so the caller bounds it. May be dropped at any time.
    pub(super) async fn wait(&mut self) {
        if let Ok(mut records) = self.open().await {
            while self.found.is_none() {
                let item = records.next().await;
                if self.look_at(item).is_err() {
                    break;
                }
            }
        }
        if self.found.is_none() {
            // What is wrong with the log shows at the next try, which is due when the caller has waited.
            pending::<()>().await;
        }
    }

    async fn open(&self) -> Result<RecordStream, ReadError> {
        let reading = self.log.read(self.partition, self.incarnation, self.next);
        match timeout(LOG_ANSWER_MAX, reading).await {
            Ok(opened) => opened,
            Err(_) => Err(self.unavailable("no answer in time")),
        }
    }

    fn look_at(&mut self, item: Option<Result<RecordBatch, ReadError>>) -> Result<(), ReadError> {
        let batch = item.unwrap_or_else(|| Err(self.unavailable("the log ended the stream")))?;
        if batch.first != self.next {
            return Err(ReadError::Hole { at: self.next });
        }
        let position = batch
            .records
            .iter()
            .position(|record| self.poison.is_skipped_by(record));
        self.found = position.map(|index| batch.first.plus(index as u64));
        self.next = batch.end();
        Ok(())
    }

    fn unavailable(&self, detail: &str) -> ReadError {
        ReadError::Log(LogError::Unavailable {
            partition: self.partition,
            detail: detail.to_owned(),
        })
    }
}

impl Task {
    /// Stands before `poison`: says that the log must be looked at again once there is an order to pass over it.
    pub(super) async fn at_poison(&mut self, poison: PoisonRecord) -> Halt {
        let Some(local) = &self.local else {
            return Halt::Again;
        };
        let (incarnation, partition) = (local.metadata.incarnation, self.replica.partition);
        let known = self
            .search
            .take()
            .filter(|search| search.is_for(&incarnation, &poison));
        let mut search = known.unwrap_or_else(|| {
            SkipSearch::new(Arc::clone(&self.log), partition, incarnation, poison.clone())
        });
        let detail = format!(
            "the record at {} cannot be applied: {}",
            poison.lsn, poison.detail
        );
        let lsn = poison.lsn;
        self.replica.set_poison(incarnation, poison);
        let looked = match self.look_at_log().await {
            Ok((_, info)) => self.away(search.up_to(info.tail)).await,
            Err(halt) => Err(halt),
        };
        self.search = Some(search);
        match looked {
            Err(halt) => halt,
            Ok(Ok(None)) => Halt::Blocked(BlockedReason::PoisonRecord, detail),
            Ok(Ok(Some(ordered_at))) => {
                tracing::warn!(%partition, %lsn, %ordered_at, detail, "an operator has the record passed over");
                Halt::Again
            }
            Ok(Err(error)) => {
                if let ReadError::Trimmed { trim_point } = error {
                    self.note_trimmed(incarnation, trim_point);
                }
                halt_of_read(error)
            }
        }
    }

    /// Waits before the next try: at most `delay`, and less when the record in the way may be passed over.
    pub(super) async fn pause(&mut self, delay: Duration) -> Result<(), Halt> {
        let Some(mut search) = self.search.take_if(|search| search.found.is_none()) else {
            return self.away(sleep(delay)).await;
        };
        let waited = self.away(timeout(delay, search.wait())).await;
        self.search = Some(search);
        waited.map(drop)
    }
}

impl Replica {
    /// Appends an order to pass over the record this replica is blocked at.
    pub(super) async fn order_skip(&self, order: SkipOrder) -> Result<Lsn, SkipError> {
        let state = self.status.borrow().state.clone();
        let known = self.poison_known();
        let poison = known.as_ref().map(|(_, poison)| poison);
        may_skip(order.lsn, Some(&order.hash), &state, poison)?;
        let Some((incarnation, poison)) = known else {
            return Err(SkipError::Unavailable("the replica just went on".to_owned()));
        };
        let (partition, lsn) = (self.partition, order.lsn);
        let search = SkipSearch::new(Arc::clone(&self.log), partition, incarnation, poison);
        let ordered_at = append_skip(search, &order).await?;
        tracing::warn!(%partition, %lsn, %ordered_at, reason = order.reason, "an operator orders to pass over the record");
        Ok(ordered_at)
    }
}

/// Appends `order` unless it stands in the log already; returns where it stands.
async fn append_skip(mut search: SkipSearch, order: &SkipOrder) -> Result<Lsn, SkipError> {
    let record = Record::Skip {
        lsn: order.lsn,
        hash: order.hash,
        reason: order.reason.clone(),
    };
    let record = record.encode();
    let log = Arc::clone(&search.log);
    let mut in_doubt: Option<String> = None;
    // After an append in doubt every failure leaves the doubt.
    let failed = |in_doubt: &Option<String>, detail: String| match in_doubt {
        None => SkipError::Unavailable(detail),
        Some(_) => SkipError::Unknown(detail),
    };
    for _ in 0..APPENDS_MAX {
        let tail = match timeout(LOG_ANSWER_MAX, log.info(search.partition)).await {
            Ok(Ok(info)) => info.tail,
            Ok(Err(error)) => return Err(failed(&in_doubt, error.to_string())),
            Err(_) => return Err(failed(&in_doubt, "no answer in time".to_owned())),
        };
        // The tail that was told may lag; an append that expects it is refused then, and lands nowhere.
        let found = search.up_to(tail.max(search.next)).await;
        if let Some(at) = found.map_err(|error| failed(&in_doubt, error.to_string()))? {
            return Ok(at);
        }
        let batch: Vec<Bytes> = vec![record.clone()];
        let append = log.append(search.partition, search.incarnation, batch, Some(search.next));
        match timeout(LOG_ANSWER_MAX, append).await {
            Ok(Ok(at)) => return Ok(at),
            Ok(Err(AppendError::TailMismatch { tail })) => {
                let found = search.up_to(tail).await;
                if let Some(at) = found.map_err(|error| failed(&in_doubt, error.to_string()))? {
                    return Ok(at);
                }
            }
            Ok(Err(AppendError::Unknown { detail })) => {
                in_doubt = Some(detail);
                sleep(APPEND_PAUSE).await;
            }
            Ok(Err(error)) => return Err(failed(&in_doubt, error.to_string())),
            Err(_) => in_doubt = Some("no answer in time".to_owned()),
        }
    }
    Err(match in_doubt {
        Some(detail) => SkipError::Unknown(detail),
        None => SkipError::Unavailable(format!("others appended first {APPENDS_MAX} times")),
    })
}
