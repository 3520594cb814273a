//! Read streams.
//!
//! A reader has a consumer on the servers that pushes what it is asked for, and trusts it for nothing but speed: a
//! consumer of JetStream jumps silently over what is missing, delivers nothing at all from a log that a trim has
//! emptied, and ends with the server it lives on. What makes a reader sure is its own count:
//!
//! - Only the record that is next is taken. Any other one ahead of it makes the reader ask why (`Delivery::Gap`).
//! - While nothing comes, it asks after [`IDLE_MIN`] and then ever more rarely up to [`IDLE_MAX`] where the log stands, and at
//!   each heartbeat that says that the servers have delivered beyond it.
//! - Each new consumer begins at the record that is next, and after it was made the log is looked at once more.
//!
//! An interruption that is over within [`PATIENCE`] is none: the reader goes on with the record that is next.

use super::consumer::{Consumer, Item};
use super::core::position::Delivery;
use super::link::Failure;
use super::logs::Logs;
use super::metrics;
use super::place::{Look, Place, STREAM_NOT_FOUND};
use super::registry::stored_message;
use crate::position::{READ_BYTES_MAX, READ_RECORDS_MAX, Step};
use crate::{ReadError, RecordBatch, RecordStream};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use snapshot_store::Lsn;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::time::{Instant, Sleep};

/// How long nothing comes before the reader asks where the log stands; doubled each time.
const IDLE_MIN: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(8);
/// How long the servers may fail a reader before its stream ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause before it tries again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a reader lets others run before it hands on what it has, while more is there.
const TURNS_MAX: u32 = 4;
/// How often, and at which distance, a log that ends below the reader is looked at before that is believed: a server
/// that has just become the leader may still catch up with itself.
const REGRESSION_LOOKS: u32 = 3;
const REGRESSION_PAUSE: Duration = Duration::from_millis(500);
/// How often a record that is there and was not delivered is asked for with another consumer.
const SKIPS_MAX: u32 = 5;

struct Reader {
    logs: Arc<Logs>,
    place: Arc<Place>,
    /// Reads whatever the passage of the log.
    moving: bool,
    next: Lsn,
    /// Where the log ended when the servers said so last.
    tail: Lsn,
    consumer: Option<Consumer>,
    idle: Duration,
    /// When it asks where the log stands, if nothing comes before.
    ask_at: Instant,
    alarm: Pin<Box<Sleep>>,
    /// Whether the last answer was that there are records which do not come.
    waits_in_vain: bool,
    /// Since when the servers fail it.
    failing_since: Option<Instant>,
    skips: u32,
}

/// Opens a read stream, if the log can be read from `from`.
pub(super) async fn open(
    logs: Arc<Logs>,
    place: Arc<Place>,
    from: Lsn,
    moving: bool,
) -> Result<RecordStream, ReadError> {
    let mut reader = Reader {
        logs,
        place,
        moving,
        next: from,
        tail: from,
        consumer: None,
        idle: IDLE_MIN,
        ask_at: Instant::now() + IDLE_MIN,
        alarm: Box::pin(tokio::time::sleep(IDLE_MIN)),
        waits_in_vain: false,
        failing_since: None,
        skips: 0,
    };
    match reader.look().await {
        Ok(_) => {}
        Err(Trouble::End(error)) => return Err(error),
        Err(Trouble::Interrupted(failure)) => return Err(reader.place.unavailable(&failure).into()),
    }
    let items = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next_batch().await {
            Ok(batch) => Some((Ok(batch), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(items.boxed())
}

/// What makes a reader ask where the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Nothing came for a while.
    Silence,
    /// The servers have delivered, or passed over, what is beyond the next record.
    Delivered,
}

/// Why a reader does not get on.
enum Trouble {
    End(ReadError),
    Interrupted(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Interrupted(failure)
    }
}

impl Reader {
    async fn next_batch(&mut self) -> Result<RecordBatch, ReadError> {
        loop {
            match self.advance().await {
                Ok(Some(batch)) => {
                    self.failing_since = None;
                    return Ok(batch);
                }
                Ok(None) => self.failing_since = None,
                Err(Trouble::End(error)) => return Err(error),
                Err(Trouble::Interrupted(failure)) => self.pause(failure).await?,
            }
        }
    }

    /// Waits a little before the next try; gives up when the servers have failed for too long.
    async fn pause(&mut self, failure: Failure) -> Result<(), ReadError> {
        if self.consumer.take().is_some() {
            metrics::reader_restarted();
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PATIENCE {
            return Err(self.place.unavailable(&failure).into());
        }
        tracing::debug!(stream = %self.place.stream, next = %self.next, %failure, "a reader is interrupted");
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Takes what comes next; `None` when that was no record.
    async fn advance(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            None => {
                let created = Consumer::create(&self.logs.link, &self.place.stream, self.next).await;
                // Why it was refused shows there; and the servers could have come back with fewer records.
                self.look().await?;
                self.consumer = Some(created?);
                return Ok(None);
            }
        };
        let item = tokio::select! {
            biased;
            item = consumer.next() => Some(item?),
            () = &mut self.alarm => None,
        };
        match item {
            Some(item) => match item {
                Item::Record { sequence, payload } => self.take(sequence, payload).await,
                Item::Heartbeat { delivered } if delivered >= self.next.get() => {
                    self.explain(Sign::Delivered).await
                }
                Item::Heartbeat { .. } => Ok(None),
            },
            None => self.ring().await,
        }
    }

    /// Asks, unless something came since the alarm was set: setting it with each record would cost more than reading.
    async fn ring(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        let due = Instant::now() >= self.ask_at;
        if due {
            self.idle = (self.idle * 2).min(IDLE_MAX);
            self.ask_at = Instant::now() + self.idle;
        }
        self.alarm.as_mut().reset(self.ask_at);
        if !due {
            return Ok(None);
        }
        if self.consumer.as_ref().is_some_and(Consumer::is_silent) {
            return Err(Failure::Unclear("its consumer is silent".to_owned()).into());
        }
        self.explain(Sign::Silence).await
    }

    /// Takes a record, and what came with it.
    async fn take(&mut self, sequence: u64, payload: Bytes) -> Result<Option<RecordBatch>, Trouble> {
        match Delivery::of(sequence, self.next) {
            Delivery::Next => {}
            Delivery::Repeated => return Ok(None),
            Delivery::Gap => return self.explain(Sign::Delivered).await,
        }
        let first = self.next;
        let mut bytes = payload.len();
        let mut records = vec![payload];
        let mut gap = false;
        let mut turns = TURNS_MAX;
        while let Some(consumer) = self.consumer.as_mut() {
            if records.len() >= READ_RECORDS_MAX || bytes >= READ_BYTES_MAX {
                break;
            }
            // What went wrong is met again, with nothing to deliver before it.
            match consumer.next().now_or_never() {
                Some(Ok(Item::Record { sequence, payload })) => {
                    match Delivery::of(sequence, first.plus(records.len() as u64)) {
                        Delivery::Next => {
                            bytes += payload.len();
                            records.push(payload);
                        }
                        Delivery::Repeated => {}
                        Delivery::Gap => gap = true,
                    }
                }
                Some(Ok(Item::Heartbeat { .. })) => {}
                Some(Err(_)) => gap = true,
                // Far behind, it is worth a moment to take more at once.
                None if turns > 0 && self.tail > first.plus(records.len() as u64) => {
                    turns -= 1;
                    tokio::task::yield_now().await;
                }
                None => break,
            }
            if gap {
                self.consumer = None;
            }
        }
        let batch = RecordBatch { first, records };
        self.next = batch.end();
        self.tail = self.tail.max(self.next);
        self.idle = IDLE_MIN;
        self.ask_at = Instant::now() + IDLE_MIN;
        self.waits_in_vain = false;
        self.skips = 0;
        metrics::read(self.tail.records_since(self.next));
        Ok(Some(batch))
    }

    /// Finds out why the record that is next does not come.
    async fn explain(&mut self, sign: Sign) -> Result<Option<RecordBatch>, Trouble> {
        let is_there = self.look().await?.bounds.tail > self.next;
        let was_there = std::mem::replace(&mut self.waits_in_vain, is_there);
        // What was appended only just is on its way.
        if !is_there || (sign == Sign::Silence && !was_there) {
            return Ok(None);
        }
        // It is in the log as far as its bounds say. Whether it is really there, its leader knows.
        let which = serde_json::json!({ "seq": self.next.get() });
        let found = stored_message(&self.logs.link, &self.place.stream, which).await?;
        let look = self.look().await?;
        if found.is_none() && look.bounds.tail > self.next && look.linearizable {
            return Err(Trouble::End(ReadError::Hole { at: self.next }));
        }
        self.skips += 1;
        if self.skips > SKIPS_MAX {
            let failure = Failure::Unclear(format!(
                "the record at {} is there and is not delivered",
                self.next
            ));
            return Err(Trouble::End(self.place.unavailable(&failure).into()));
        }
        self.consumer = None;
        metrics::reader_restarted();
        Ok(None)
    }

    /// Asks where the log stands, and ends the reader that cannot go on there.
    async fn look(&mut self) -> Result<Look, Trouble> {
        for count in 1.. {
            let look = match self.place.look(&self.logs.link).await {
                Ok(look) => look,
                Err(Failure::Refused {
                    code: STREAM_NOT_FOUND,
                    ..
                }) => {
                    return Err(Trouble::End(self.logs.why_gone(&self.place).await.into()));
                }
                Err(failure) => return Err(failure.into()),
            };
            if !self.moving
                && let Err(error) = self.logs.check_sealed(self.place.partition, &look.config).await
            {
                return Err(Trouble::End(error.into()));
            }
            let bounds = look.bounds;
            let step = Step::at(bounds.trim_point, bounds.tail, self.next);
            match (step, step.error()) {
                (_, None) => {
                    self.tail = bounds.tail;
                    return Ok(look);
                }
                (Step::Regressed(_), Some(error)) if look.linearizable && count >= REGRESSION_LOOKS => {
                    return Err(Trouble::End(error));
                }
                (Step::Regressed(_), Some(_)) if count < REGRESSION_LOOKS => {
                    tokio::time::sleep(REGRESSION_PAUSE).await;
                }
                (Step::Regressed(tail), Some(_)) => {
                    let next = self.next;
                    return Err(Trouble::Interrupted(Failure::Unclear(format!(
                        "the log seems to end at {tail}, below {next}, and its servers do not agree on who leads it"
                    ))));
                }
                (_, Some(error)) => return Err(Trouble::End(error)),
            }
        }
        Err(Trouble::Interrupted(Failure::Unclear(
            "the log was not looked at".to_owned(),
        )))
    }
}
