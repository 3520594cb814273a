//! Getting records into the log in a term of one's own, each at most once.
//!
//! Queued proposals are joined into one append (group commit) with `expected_tail`; one append is in flight at a
//! time. A batch keeps its bytes, sequence numbers included, until its fate is known:
//!
//! - *landed*: the log said so, or its records were read. Its proposers are answered when the records are applied.
//! - *not landed, nor will it*: the term ended first. Records of an ended term are ignored wherever they land.
//! - *unknown*: the same batch is appended again, expecting the tail right after what was applied. This cannot
//!   duplicate it: as long as the tail has not moved both attempts expect the same one, and the first to land moves
//!   it; once it has moved, the records there are read before anything is appended, and what landed is found by
//!   `(epoch, sequence)`.
//!
//! Not here: time (passed in), the log (the task appends), and who should lead (a host's business).

use super::{
    judged::AppliedRecord,
    propose::{Answer, Applied, LeadAnswer, LeadError, Proposal, ProposeError},
};
use crate::core::{LedBody, Outcome, PartitionState, Record, next_epoch};
use bytes::Bytes;
use partition_log::{AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use snapshot_store::{Leadership, Lsn, NodeId};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

/// How long an append that failed or is in doubt waits before it is repeated; doubles up to the second value.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The announcement is the first record of its term.
const ANNOUNCEMENT: u64 = 1;

/// What the task is to append now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Append {
    pub(super) records: Vec<Bytes>,
    pub(super) expected_tail: Lsn,
}

/// What an answer of the log means for the task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Go on.
    GoOn,
    /// The log's tail is below what was applied here: look at the log again.
    LogRegressed,
}

/// A term of this replica's own.
struct Term {
    leadership: Leadership,
    next_sequence: u64,
}

/// An announcement under way.
struct Candidacy {
    leadership: Leadership,
    /// Whether the announcement is known to stand in the log; what it came to shows when it is applied.
    landed: bool,
    waiting: Vec<oneshot::Sender<LeadAnswer>>,
}

/// Records whose fate is not known yet.
struct Batch {
    records: Vec<Bytes>,
    first_sequence: u64,
    /// Whether an attempt may have landed, or may still.
    in_doubt: bool,
}

/// A proposal that was handed to the log at least once.
struct Sent {
    count: usize,
    applied: Vec<Applied>,
    answer: oneshot::Sender<Answer>,
    _room: Option<OwnedSemaphorePermit>,
}

/// An answer to be sent.
enum Outgoing {
    Proposal(oneshot::Sender<Answer>, Answer),
    Lead(oneshot::Sender<LeadAnswer>, LeadAnswer),
}

/// The proposals of one partition.
pub(super) struct Proposer {
    node: NodeId,
    address: String,
    term: Option<Term>,
    candidacy: Option<Candidacy>,
    queue: VecDeque<Proposal>,
    /// The batch to append, or being appended.
    batch: Option<Batch>,
    in_flight: bool,
    /// Proposals of the present term that are not fully applied, by their first sequence.
    sent: BTreeMap<u64, Sent>,
    /// The tail after the last append that succeeded.
    tail: Lsn,
    /// Everything below this must be applied before the next append.
    read_to: Lsn,
    retry_at: Option<Instant>,
    retry_delay: Duration,
    outbox: Vec<Outgoing>,
}

impl Proposer {
    pub(super) fn new(node: NodeId, address: String) -> Self {
        Proposer {
            node,
            address,
            term: None,
            candidacy: None,
            queue: VecDeque::new(),
            batch: None,
            in_flight: false,
            sent: BTreeMap::new(),
            tail: Lsn::ZERO,
            read_to: Lsn::ZERO,
            retry_at: None,
            retry_delay: RETRY_MIN,
            outbox: Vec::new(),
        }
    }

    /// Returns the term in force if it is this replica's own, announced in this life of the process.
    pub(super) fn leading(&self) -> Option<&Leadership> {
        self.term.as_ref().map(|term| &term.leadership)
    }

    /// Returns whether nothing waits for the log.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.sent.is_empty() && self.batch.is_none() && !self.in_flight
    }

    /// Returns when [`Proposer::next_append`] is worth another look although nothing happened.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.batch.is_some())
    }

    /// Takes a proposal, or refuses it unless this replica leads; `leader` is whom to name then.
    pub(super) fn propose(&mut self, proposal: Proposal, leader: Option<&(Leadership, String)>) {
        if self.term.is_some() {
            self.queue.push_back(proposal);
        } else {
            let error = ProposeError::NotLeader {
                leader: leader.cloned(),
            };
            self.outbox.push(Outgoing::Proposal(proposal.answer, Err(error)));
        }
    }

    /// Begins to announce this replica, which has applied `leader`; a leader already is told its term at once.
    pub(super) fn lead(&mut self, answer: oneshot::Sender<LeadAnswer>, leader: Option<&Leadership>) {
        if let Some(term) = &self.term {
            self.outbox
                .push(Outgoing::Lead(answer, Ok(term.leadership.epoch)));
        } else if let Some(candidacy) = &mut self.candidacy {
            candidacy.waiting.push(answer);
        } else {
            let leadership = Leadership {
                epoch: next_epoch(leader),
                node: self.node.clone(),
            };
            self.candidacy = Some(Candidacy {
                leadership,
                landed: false,
                waiting: vec![answer],
            });
        }
    }

    /// Returns what to append now, when everything up to `applied` was applied. The caller appends it and reports
    /// to [`Proposer::appended`].
    pub(super) fn next_append(&mut self, applied: Lsn, now: Instant) -> Option<Append> {
        // A pause that is over wakes nobody any more, whatever still keeps the batch from being sent.
        self.retry_at = self.retry_at.filter(|at| now < *at);
        if self.in_flight || applied.next() < self.read_to {
            return None;
        }
        self.give_up_unwanted();
        if self.batch.is_none() {
            self.retry_at = None;
            self.batch = self.announcement().or_else(|| self.join_proposals());
        }
        if self.retry_at.is_some() {
            return None;
        }
        let batch = self.batch.as_ref()?;
        self.in_flight = true;
        Some(Append {
            records: batch.records.clone(),
            expected_tail: applied.next().max(self.tail),
        })
    }

    /// Drops what nobody waits for any more: its proposers were told that its fate is unknown.
    fn give_up_unwanted(&mut self) {
        self.queue.retain(|proposal| !proposal.answer.is_closed());
        if let Some(candidacy) = &mut self.candidacy {
            candidacy.waiting.retain(|answer| !answer.is_closed());
            if candidacy.waiting.is_empty() {
                self.candidacy = None;
                self.batch = None;
            }
        }
        if self.term.is_some()
            && let Some(batch) = &self.batch
            && self
                .sent
                .range(batch.first_sequence..)
                .all(|(_, sent)| sent.answer.is_closed())
        {
            self.sent.split_off(&batch.first_sequence);
            self.batch = None;
        }
    }

    fn announcement(&self) -> Option<Batch> {
        let candidacy = self.candidacy.as_ref().filter(|candidacy| !candidacy.landed)?;
        let record = Record::Led {
            leadership: candidacy.leadership.clone(),
            sequence: ANNOUNCEMENT,
            body: LedBody::Announce {
                address: self.address.clone(),
            },
        };
        Some(Batch {
            records: vec![record.encode()],
            first_sequence: ANNOUNCEMENT,
            in_doubt: false,
        })
    }

    /// Joins as many queued proposals as fit one append.
    fn join_proposals(&mut self) -> Option<Batch> {
        let term = self.term.as_mut()?;
        let first_sequence = term.next_sequence;
        let mut records: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        while let Some(proposal) = self.queue.front() {
            bytes += proposal.bytes();
            let fits = records.len() + proposal.bodies.len() <= BATCH_RECORDS_MAX && bytes <= BATCH_BYTES_MAX;
            if !fits && !records.is_empty() {
                break;
            }
            let Some(Proposal { bodies, answer, room }) = self.queue.pop_front() else {
                break;
            };
            let sent = Sent {
                count: bodies.len(),
                applied: Vec::new(),
                answer,
                _room: room,
            };
            self.sent.insert(term.next_sequence, sent);
            for body in bodies {
                let leadership = term.leadership.clone();
                records.push(
                    Record::Led {
                        leadership,
                        sequence: term.next_sequence,
                        body,
                    }
                    .encode(),
                );
                term.next_sequence += 1;
            }
        }
        (!records.is_empty()).then_some(Batch {
            records,
            first_sequence,
            in_doubt: false,
        })
    }

    /// Takes the log's answer to the append in flight.
    pub(super) fn appended(
        &mut self,
        result: Result<Lsn, AppendError>,
        applied: Lsn,
        now: Instant,
    ) -> Signal {
        self.in_flight = false;
        match result {
            Ok(last) => {
                self.tail = last.next();
                if let (Some(_), Some(candidacy)) = (&self.batch, &mut self.candidacy) {
                    candidacy.landed = true;
                }
                self.batch_landed();
            }
            Err(AppendError::TailMismatch { tail }) => {
                self.tail = Lsn::ZERO;
                self.read_to = tail;
                if tail < applied.next() {
                    self.wait(now);
                    return Signal::LogRegressed;
                }
            }
            Err(AppendError::Unknown { .. }) => {
                if let Some(batch) = &mut self.batch {
                    batch.in_doubt = true;
                }
                self.wait(now);
            }
            Err(AppendError::Unavailable { .. }) => self.wait(now),
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Sealed | AppendError::Log(_))) => {
                self.batch_refused(&error.to_string());
            }
        }
        Signal::GoOn
    }

    fn wait(&mut self, now: Instant) {
        self.retry_at = Some(now + self.retry_delay);
        self.retry_delay = (self.retry_delay * 2).min(RETRY_MAX);
    }

    fn batch_landed(&mut self) {
        self.batch = None;
        self.retry_at = None;
        self.retry_delay = RETRY_MIN;
    }

    /// The log will not take the batch. An earlier attempt may have landed all the same.
    fn batch_refused(&mut self, detail: &str) {
        let Some(batch) = self.batch.take() else { return };
        let detail = detail.to_owned();
        if let Some(candidacy) = self.candidacy.take() {
            let error = if batch.in_doubt {
                LeadError::Unknown
            } else {
                LeadError::Unavailable { detail }
            };
            self.fail_candidacy(candidacy, &error);
            return;
        }
        let error = match batch.in_doubt {
            true => ProposeError::Unknown { detail },
            false => ProposeError::Unavailable { detail },
        };
        for sent in self.sent.split_off(&batch.first_sequence).into_values() {
            self.outbox
                .push(Outgoing::Proposal(sent.answer, Err(error.clone())));
        }
    }

    /// Takes note of a record that was applied; called for every record in order.
    pub(super) fn applied(&mut self, record: &AppliedRecord) {
        let Some((author, sequence)) = &record.author else {
            return;
        };
        if let Some(address) = &record.announced {
            self.term_began(author, address);
        } else if self.term.as_ref().is_some_and(|term| term.leadership == *author) {
            self.own_record(record, *sequence);
        }
    }

    fn term_began(&mut self, author: &Leadership, address: &str) {
        self.end_term(&ProposeError::NotLeader {
            leader: Some((author.clone(), address.to_owned())),
        });
        let Some(candidacy) = self.candidacy.take() else {
            return;
        };
        self.batch_landed();
        if candidacy.leadership == *author {
            for answer in candidacy.waiting {
                self.outbox.push(Outgoing::Lead(answer, Ok(author.epoch)));
            }
            self.term = Some(Term {
                leadership: author.clone(),
                next_sequence: ANNOUNCEMENT + 1,
            });
        } else {
            self.fail_candidacy(
                candidacy,
                &LeadError::LostRace {
                    winner: author.clone(),
                },
            );
        }
    }

    /// Answers everything of the term with `error`: its records are ignored from here on, wherever they land.
    fn end_term(&mut self, error: &ProposeError) {
        if self.term.take().is_none() {
            return;
        }
        self.batch = None;
        for sent in std::mem::take(&mut self.sent).into_values() {
            self.outbox
                .push(Outgoing::Proposal(sent.answer, Err(error.clone())));
        }
        for proposal in std::mem::take(&mut self.queue) {
            self.outbox
                .push(Outgoing::Proposal(proposal.answer, Err(error.clone())));
        }
    }

    fn own_record(&mut self, record: &AppliedRecord, sequence: u64) {
        if self
            .batch
            .as_ref()
            .is_some_and(|batch| sequence >= batch.first_sequence)
        {
            // The log's answer was lost or is late: the record itself says that the batch landed.
            self.batch_landed();
        }
        let Some((&first, sent)) = self.sent.range_mut(..=sequence).next_back() else {
            return;
        };
        if sequence - first >= sent.count as u64 {
            return;
        }
        if record.outcome == Outcome::Skipped {
            let error = ProposeError::Skipped { lsn: record.lsn };
            if let Some(sent) = self.sent.remove(&first) {
                self.outbox.push(Outgoing::Proposal(sent.answer, Err(error)));
            }
            return;
        }
        sent.applied.push(Applied {
            lsn: record.lsn,
            reply: record.reply.clone(),
        });
        if sent.applied.len() == sent.count
            && let Some(sent) = self.sent.remove(&first)
        {
            self.outbox
                .push(Outgoing::Proposal(sent.answer, Ok(sent.applied)));
        }
    }

    /// Refuses what is still queued, because the partition is being closed; what the log may have goes on.
    pub(super) fn close(&mut self) {
        for proposal in std::mem::take(&mut self.queue) {
            self.outbox
                .push(Outgoing::Proposal(proposal.answer, Err(ProposeError::Stopping)));
        }
    }

    /// Gives up the term and answers everything: `state` says where the partition is now.
    pub(super) fn abandon(&mut self, state: &PartitionState) {
        let not_active = ProposeError::NotActive { state: state.clone() };
        for proposal in std::mem::take(&mut self.queue) {
            self.outbox
                .push(Outgoing::Proposal(proposal.answer, Err(not_active.clone())));
        }
        let never_landed = |batch: &Batch| !batch.in_doubt && !self.in_flight;
        if let Some(batch) = self.batch.take_if(|batch| never_landed(batch)) {
            for sent in self.sent.split_off(&batch.first_sequence).into_values() {
                self.outbox
                    .push(Outgoing::Proposal(sent.answer, Err(not_active.clone())));
            }
        }
        for sent in std::mem::take(&mut self.sent).into_values() {
            let detail = format!("the partition became {state}");
            self.outbox.push(Outgoing::Proposal(
                sent.answer,
                Err(ProposeError::Unknown { detail }),
            ));
        }
        if let Some(candidacy) = self.candidacy.take() {
            self.fail_candidacy(candidacy, &LeadError::NotActive { state: state.clone() });
        }
        let outbox = std::mem::take(&mut self.outbox);
        *self = Proposer {
            outbox,
            ..Proposer::new(self.node.clone(), self.address.clone())
        };
    }

    fn fail_candidacy(&mut self, candidacy: Candidacy, error: &LeadError) {
        let answers = candidacy
            .waiting
            .into_iter()
            .map(|answer| Outgoing::Lead(answer, Err(error.clone())));
        self.outbox.extend(answers);
    }

    /// Sends the answers that have come up since the last call: after the status shows what they rest on.
    pub(super) fn send_answers(&mut self) {
        for outgoing in self.outbox.drain(..) {
            // A receiver that is gone was told already that the fate of its request is unknown.
            match outgoing {
                Outgoing::Proposal(receiver, answer) => drop(receiver.send(answer)),
                Outgoing::Lead(receiver, answer) => drop(receiver.send(answer)),
            }
        }
    }
}
