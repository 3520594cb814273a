//! Appends to one log: one batch at a time, made of all appends that wait.
//!
//! 1. Take what waits, up to the largest batch, and decide each append on the tail that the ones before it leave
//!    (`core::group`). The tail is the one that the last answer left; whoever would be told "mismatch" by it is told so
//!    only after the servers were asked.
//! 2. Send what lands as one atomic batch that carries the expected last sequence. It lands as a whole and exactly
//!    there, or not at all, whoever else writes.
//! 3. Answer. Where the tail was another one, nothing landed, and the group is decided again on the new tail.
//!
//! When no answer comes, the same batch is sent again at the same place: it cannot land twice. Is the place taken by
//! then, its first record says by whom: it carries the batch's own id. What cannot be found out in time is answered
//! "unknown"; such a batch may land later, only at this very place.

use super::core::group::{Refusal, Verdict, Wish, decide};
use super::link::{Failure, Link, understand};
use super::metrics::{self, Unclear};
use super::place::Place;
use super::registry::stored_message;
use crate::{AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use async_nats::HeaderMap;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use snapshot_store::Lsn;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// The first pause before an unclear batch is sent again; each further one is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

const EXPECTED_LAST: &str = "Nats-Expected-Last-Sequence";
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// On the first record of each batch: whose it is.
const APPEND_ID: &str = "Tidemark-Append";

/// Why an append did not succeed.
#[derive(Clone, Debug)]
pub(super) enum NotAppended {
    /// As the contract says it.
    Error(AppendError),
    /// The stream takes no appends, or is gone: the registry knows why.
    Closed(Closed),
}

/// What the servers say of a stream that takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    Sealed,
    Gone,
}

type Outcome = Result<Lsn, NotAppended>;

/// An append that waits.
pub(super) struct Pending {
    pub(super) batch: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) expected_tail: Option<Lsn>,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// One attempt.
    pub(super) attempt: Duration,
    /// All attempts of a batch.
    pub(super) batch: Duration,
}

/// The one writer of a log in this process.
pub(super) struct Appender {
    pub(super) link: Link,
    pub(super) place: Arc<Place>,
    pub(super) limits: Limits,
    pub(super) queue: mpsc::Receiver<Pending>,
    /// Where the log ended when the servers said so last.
    pub(super) tail: Option<Lsn>,
}

/// What became of a batch.
enum Delivered {
    Landed,
    /// Nothing landed: the log ends elsewhere, where the servers said so.
    WrongTail(Option<Lsn>),
    /// Nothing landed.
    NotLanded(NotAppended),
    Unknown(String),
}

impl Appender {
    /// Runs until nobody is left who could append.
    pub(super) async fn run(mut self) {
        let mut held: Option<Pending> = None;
        loop {
            let first = match held.take() {
                Some(pending) => pending,
                None => match self.queue.recv().await {
                    Some(pending) => pending,
                    None => return,
                },
            };
            let (mut records, mut bytes) = (first.batch.len(), first.bytes);
            let mut group = vec![first];
            while let Ok(next) = self.queue.try_recv() {
                records += next.batch.len();
                bytes += next.bytes;
                if records > BATCH_RECORDS_MAX || bytes > BATCH_BYTES_MAX {
                    held = Some(next);
                    break;
                }
                group.push(next);
            }
            // Whoever does not wait any more left before anything was sent.
            group.retain(|pending| !pending.reply.is_closed());
            if !group.is_empty() {
                self.commit(group).await;
            }
        }
    }

    async fn commit(&mut self, group: Vec<Pending>) {
        let deadline = Instant::now() + self.limits.batch;
        let mut confirmed = false;
        loop {
            let tail = match self.tail {
                Some(tail) => tail,
                None => match self.place.look(&self.link).await {
                    Ok(look) => {
                        confirmed = look.linearizable;
                        look.bounds.tail
                    }
                    Err(failure) => return refuse_all(group, &of_look(&failure)),
                },
            };
            let verdicts = decide(tail, group.iter().map(Pending::wish));
            if !confirmed
                && verdicts
                    .iter()
                    .any(|verdict| matches!(verdict, Verdict::Mismatch(_)))
            {
                if self.tail.take().is_some() {
                    continue;
                }
                let detail = "the servers do not agree on who leads the log: its tail is not certain";
                return refuse_all(group, &unavailable(detail));
            }
            let records: Vec<Bytes> = group
                .iter()
                .zip(&verdicts)
                .filter(|(_, verdict)| matches!(verdict, Verdict::Lands(_)))
                .flat_map(|(pending, _)| pending.batch.iter().cloned())
                .collect();
            let end = tail.plus(records.len() as u64);
            let delivered = match records.is_empty() {
                true => Delivered::Landed,
                false => self.deliver(tail, &records, deadline).await,
            };
            match delivered {
                Delivered::Landed => {
                    self.tail = Some(end);
                    return answer(group, &verdicts);
                }
                Delivered::WrongTail(found) => {
                    self.tail = found;
                    confirmed = found.is_some();
                    if Instant::now() >= deadline {
                        return refuse_all(group, &unavailable("other writers were always faster"));
                    }
                }
                Delivered::NotLanded(error) => {
                    self.tail = None;
                    return refuse_all(group, &error);
                }
                Delivered::Unknown(detail) => {
                    self.tail = None;
                    return answer_unknown(group, &verdicts, &detail);
                }
            }
        }
    }

    /// Sends a batch until it is known what became of it, or the time is up.
    async fn deliver(&self, tail: Lsn, records: &[Bytes], deadline: Instant) -> Delivered {
        let begin = Instant::now();
        let id = format!("{:032x}", rand::random::<u128>());
        let last = tail.plus(records.len() as u64).prev();
        let mut unclear: Option<String> = None;
        let mut pause = PAUSE_MIN;
        let delivered = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(detail) = unclear.as_ref().filter(|_| left.is_zero()) {
                break Delivered::Unknown(detail.clone());
            }
            let limit = self.limits.attempt.min(left.max(PAUSE_MIN));
            match self.send(tail, records, &id, limit).await {
                Ok(ack) if ack.sequence == last.get() => break Delivered::Landed,
                Ok(ack) => {
                    let found = ack.sequence;
                    break Delivered::Unknown(format!("it was acknowledged at {found} in place of {last}"));
                }
                Err(failure) => match (self.after(failure, tail, &id, unclear.is_some()).await, &unclear) {
                    (Some(delivered), _) => break delivered,
                    (None, Some(_)) => {}
                    (None, None) => unclear = Some("no acknowledgement came".to_owned()),
                },
            }
            tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        metrics::appended(begin.elapsed(), records.len());
        if unclear.is_some() {
            metrics::unclear(match delivered {
                Delivered::Landed => Unclear::Landed,
                Delivered::WrongTail(_) | Delivered::NotLanded(_) => Unclear::NotLanded,
                Delivered::Unknown(_) => Unclear::Unknown,
            });
        }
        delivered
    }

    /// Decides what a failed attempt means; `None` when that is not clear yet. `unclear`: an earlier attempt of the same
    /// batch may have landed.
    async fn after(&self, failure: Failure, tail: Lsn, id: &str, unclear: bool) -> Option<Delivered> {
        let refusal = match &failure {
            Failure::Refused { code, text } => Refusal::of(*code, text),
            Failure::NotSent(_) => Refusal::Other,
            Failure::Unclear(_) => return None,
        };
        if let (Refusal::WrongTail(last), true) = (refusal, unclear) {
            return match self.is_ours(tail, id).await {
                Some(true) => Some(Delivered::Landed),
                Some(false) => Some(Delivered::WrongTail(tail_after(last))),
                None => None,
            };
        }
        if unclear {
            return None;
        }
        Some(match refusal {
            Refusal::WrongTail(last) => Delivered::WrongTail(tail_after(last)),
            Refusal::Sealed => Delivered::NotLanded(NotAppended::Closed(Closed::Sealed)),
            Refusal::NoStream => Delivered::NotLanded(NotAppended::Closed(Closed::Gone)),
            Refusal::Other => Delivered::NotLanded(unavailable(&failure.to_string())),
        })
    }

    /// Whether the record at `at` is the first one of the batch `id`; `None` when it cannot be read, or not any more.
    async fn is_ours(&self, at: Lsn, id: &str) -> Option<bool> {
        let which = serde_json::json!({ "seq": at.get() });
        let message = stored_message(&self.link, &self.place.stream, which)
            .await
            .ok()??;
        Some(
            message
                .headers
                .get(APPEND_ID)
                .is_some_and(|found| found.as_str() == id),
        )
    }

    /// Sends a batch once.
    async fn send(
        &self,
        tail: Lsn,
        records: &[Bytes],
        id: &str,
        limit: Duration,
    ) -> Result<PublishAck, Failure> {
        let Some((last, before)) = records.split_last() else {
            return Err(Failure::NotSent("the batch is empty".to_owned()));
        };
        self.link.check().map_err(Failure::NotSent)?;
        let batch = format!("{:016x}", rand::random::<u64>());
        let subject = &self.place.subject;
        let headers = |index: usize| {
            let mut headers = HeaderMap::new();
            if index == 0 {
                headers.insert(EXPECTED_LAST, tail.prev().to_string());
                headers.insert(APPEND_ID, id);
            }
            if !before.is_empty() {
                headers.insert(BATCH_ID, batch.as_str());
                headers.insert(BATCH_SEQUENCE, (index + 1).to_string());
            }
            if index > 0 && index == before.len() {
                headers.insert(BATCH_COMMIT, "1");
            }
            headers
        };
        for (index, record) in before.iter().enumerate() {
            self.link
                .client()
                .publish_with_headers(subject.clone(), headers(index), record.clone())
                .await
                // Without its last message, a batch does not land.
                .map_err(|error| Failure::NotSent(error.to_string()))?;
        }
        let answer = self
            .link
            .request(subject, Some(headers(before.len())), last.clone(), limit)
            .await?;
        understand(&answer.payload)
    }
}

impl Pending {
    fn wish(&self) -> Wish {
        Wish {
            records: self.batch.len(),
            expected_tail: self.expected_tail,
        }
    }
}

fn tail_after(last: Option<u64>) -> Option<Lsn> {
    last.map(|last| Lsn::new(last).next())
}

fn unavailable(detail: &str) -> NotAppended {
    NotAppended::Error(AppendError::Unavailable {
        detail: detail.to_owned(),
    })
}

fn of_look(failure: &Failure) -> NotAppended {
    match failure {
        Failure::Refused { code, text } if Refusal::of(*code, text) == Refusal::NoStream => {
            NotAppended::Closed(Closed::Gone)
        }
        failure => unavailable(&failure.to_string()),
    }
}

/// Whoever gave up waiting gets no answer.
fn answer(group: Vec<Pending>, verdicts: &[Verdict]) {
    for (pending, verdict) in group.into_iter().zip(verdicts) {
        let outcome = match *verdict {
            Verdict::Lands(last) => Ok(last),
            Verdict::Mismatch(tail) => Err(NotAppended::Error(AppendError::TailMismatch { tail })),
        };
        pending.reply.send(outcome).ok();
    }
}

fn answer_unknown(group: Vec<Pending>, verdicts: &[Verdict], detail: &str) {
    for (pending, verdict) in group.into_iter().zip(verdicts) {
        let detail = detail.to_owned();
        let error = match verdict {
            Verdict::Lands(_) => AppendError::Unknown { detail },
            Verdict::Mismatch(_) => AppendError::Unavailable { detail },
        };
        pending.reply.send(Err(NotAppended::Error(error))).ok();
    }
}

fn refuse_all(group: Vec<Pending>, error: &NotAppended) {
    for pending in group {
        pending.reply.send(Err(error.clone())).ok();
    }
}
