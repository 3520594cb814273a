//! The proposer against a log that loses, delays and interleaves: whatever happens, no record counts twice, and
//! every answer is true.

use super::bed::node;
use crate::{
    core::{LedBody, Outcome, PartitionState, Record, Verdict, judge},
    processor::{
        judged::AppliedRecord,
        propose::{Answer, LeadAnswer, Proposal, ProposeError},
        proposer::{Append, Proposer},
    },
};
use bytes::Bytes;
use partition_log::AppendError;
use proptest::prelude::*;
use snapshot_store::{LeaderEpoch, Leadership, Lsn};
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Lead,
    Propose,
    /// The append in flight is answered.
    Answer(Fate),
    /// The oldest delayed append takes place.
    Release,
    /// Some records are applied.
    Apply(usize),
    /// Another node appends something.
    Strange,
    /// Another node takes the lead.
    Rival,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Told,
    LandedUntold,
    Lost,
    Delayed,
    Refused,
}

fn any_step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        4 => Just(Fate::Told),
        1 => Just(Fate::LandedUntold),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Delayed),
        1 => Just(Fate::Refused),
    ];
    prop_oneof![
        2 => Just(Step::Lead),
        6 => Just(Step::Propose),
        8 => fate.prop_map(Step::Answer),
        2 => Just(Step::Release),
        6 => (1usize..5).prop_map(Step::Apply),
        1 => Just(Step::Strange),
        1 => Just(Step::Rival),
    ]
}

struct World {
    proposer: Proposer,
    log: Vec<Bytes>,
    applied: usize,
    leader: Option<Leadership>,
    in_flight: Option<Append>,
    delayed: Vec<Append>,
    now: Instant,
    proposals: Vec<(u32, oneshot::Receiver<Answer>)>,
    candidacies: Vec<oneshot::Receiver<LeadAnswer>>,
    /// Where each command was accepted.
    accepted: BTreeMap<u32, Vec<Lsn>>,
}

impl World {
    fn new() -> Self {
        World {
            proposer: Proposer::new(node("me"), String::new()),
            log: Vec::new(),
            applied: 0,
            leader: None,
            in_flight: None,
            delayed: Vec::new(),
            now: Instant::now(),
            proposals: Vec::new(),
            candidacies: Vec::new(),
            accepted: BTreeMap::new(),
        }
    }

    fn tail(&self) -> Lsn {
        Lsn::new(self.log.len() as u64 + 1)
    }

    fn land(&mut self, append: &Append) -> Result<Lsn, AppendError> {
        if append.expected_tail != self.tail() {
            return Err(AppendError::TailMismatch { tail: self.tail() });
        }
        self.log.extend(append.records.iter().cloned());
        Ok(self.tail().prev())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lead => {
                let (answer, receiver) = oneshot::channel();
                self.proposer.lead(answer, self.leader.as_ref());
                self.candidacies.push(receiver);
            }
            Step::Propose => self.propose(),
            Step::Answer(fate) => self.answer(fate),
            Step::Release if !self.delayed.is_empty() => {
                let append = self.delayed.remove(0);
                self.land(&append).ok();
            }
            Step::Release => {}
            Step::Apply(count) => (0..count).for_each(|_| self.apply_next()),
            Step::Strange => self.strange(99, LedBody::NoOp),
            Step::Rival => {
                // A rival has read to the tail, so its epoch is greater than any that took effect before.
                let body = LedBody::Announce {
                    address: String::new(),
                };
                self.strange(self.last_epoch() + 1, body);
            }
        }
        self.proposer.send_answers();
        if self.in_flight.is_none() {
            self.in_flight = self.proposer.next_append(Lsn::new(self.applied as u64), self.now);
        }
    }

    fn propose(&mut self) {
        let number = self.proposals.len() as u32;
        let (answer, receiver) = oneshot::channel();
        let bodies = vec![LedBody::Command(Bytes::copy_from_slice(&number.to_be_bytes()))];
        let leader = self.leader.clone().map(|leader| (leader, String::new()));
        self.proposer.propose(
            Proposal {
                bodies,
                answer,
                room: None,
            },
            leader.as_ref(),
        );
        self.proposals.push((number, receiver));
    }

    fn answer(&mut self, fate: Fate) {
        let Some(append) = self.in_flight.take() else {
            return;
        };
        let unknown = Err(AppendError::Unknown {
            detail: String::new(),
        });
        let result = match fate {
            Fate::Told => self.land(&append),
            Fate::LandedUntold => {
                self.land(&append).ok();
                unknown
            }
            Fate::Lost => unknown,
            Fate::Delayed => {
                self.delayed.push(append);
                unknown
            }
            Fate::Refused => Err(AppendError::Unavailable {
                detail: String::new(),
            }),
        };
        self.proposer
            .appended(result, Lsn::new(self.applied as u64), self.now);
        self.now += Duration::from_secs(2);
    }

    fn strange(&mut self, epoch: u64, body: LedBody) {
        let leadership = Leadership {
            epoch: LeaderEpoch::new(epoch),
            node: node("other"),
        };
        self.log.push(
            Record::Led {
                leadership,
                sequence: 1,
                body,
            }
            .encode(),
        );
    }

    fn last_epoch(&self) -> u64 {
        let mut leader = None;
        for bytes in &self.log {
            let record = Record::decode(bytes).unwrap();
            if let Verdict::TakeLead { leadership, .. } = judge(leader.as_ref(), &record) {
                leader = Some(leadership.clone());
            }
        }
        leader.map_or(0, |leader| leader.epoch.get())
    }

    fn apply_next(&mut self) {
        let Some(bytes) = self.log.get(self.applied) else {
            return;
        };
        let record = Record::decode(bytes).unwrap();
        self.applied += 1;
        let lsn = Lsn::new(self.applied as u64);
        let verdict = judge(self.leader.as_ref(), &record);
        let outcome = verdict.outcome();
        let mut announced = None;
        match verdict {
            Verdict::Apply(command) => {
                let number = u32::from_be_bytes(command[..].try_into().unwrap());
                self.accepted.entry(number).or_default().push(lsn);
            }
            Verdict::TakeLead { leadership, address } => {
                self.leader = Some(leadership.clone());
                announced = Some(address.to_owned());
            }
            _ => {}
        }
        let Record::Led {
            leadership, sequence, ..
        } = &record
        else {
            return;
        };
        self.proposer.applied(&AppliedRecord {
            lsn,
            author: Some((leadership.clone(), *sequence)),
            outcome,
            announced,
            reply: Bytes::new(),
        });
        assert!(outcome != Outcome::Skipped);
    }

    /// Lets everything under way come to its end.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.step(Step::Answer(Fate::Told));
            self.step(Step::Apply(self.log.len()));
            if self.proposer.is_idle() && self.in_flight.is_none() && self.applied == self.log.len() {
                break;
            }
        }
        while !self.delayed.is_empty() {
            self.step(Step::Release);
        }
        self.step(Step::Apply(self.log.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_record_counts_twice_and_every_answer_is_true(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        for (number, receiver) in &mut world.proposals {
            let accepted = world.accepted.get(number).cloned().unwrap_or_default();
            prop_assert!(accepted.len() <= 1, "command {} was accepted at {:?}", number, accepted);
            match receiver.try_recv() {
                Ok(Ok(applied)) => prop_assert_eq!(vec![applied[0].lsn], accepted),
                Ok(Err(ProposeError::NotLeader { .. })) => prop_assert!(accepted.is_empty()),
                other => prop_assert!(false, "command {} got {:?}", number, other),
            }
        }
        for receiver in &mut world.candidacies {
            prop_assert!(receiver.try_recv().is_ok(), "a candidate was not answered");
        }
        // No announcement of one's own stands twice in the log, nor any command.
        let mut records = world.log.clone();
        records.retain(|bytes| matches!(
            Record::decode(bytes), Ok(Record::Led { leadership, .. }) if leadership.node == node("me")
        ));
        let count = records.len();
        records.sort();
        records.dedup();
        prop_assert_eq!(records.len(), count);
    }
}

#[test]
fn whoever_waits_when_the_partition_halts_is_told_the_truth() {
    let mut world = World::new();
    for step in [Step::Lead, Step::Answer(Fate::Told), Step::Apply(1)] {
        world.step(step);
    }
    // One is in flight, one waits behind it.
    world.step(Step::Propose);
    world.step(Step::Propose);
    assert!(world.in_flight.is_some());
    world.proposer.abandon(&PartitionState::Restoring);
    world.proposer.send_answers();
    let mut answers = world
        .proposals
        .iter_mut()
        .map(|(_, receiver)| receiver.try_recv().unwrap());
    assert!(matches!(answers.next(), Some(Err(ProposeError::Unknown { .. }))));
    assert!(matches!(
        answers.next(),
        Some(Err(ProposeError::NotActive { .. }))
    ));
    assert!(world.proposer.leading().is_none());
}

#[test]
fn an_append_that_is_tried_again_does_not_keep_its_task_awake_until_it_is_answered() {
    let mut world = World::new();
    world.step(Step::Lead);
    world.step(Step::Answer(Fate::Refused));
    assert!(world.in_flight.is_some(), "the pause is over");
    assert_eq!(world.proposer.retry_at(), None);
    // Nor does one that has to read first.
    world.step(Step::Strange);
    world.step(Step::Answer(Fate::Lost));
    world.step(Step::Answer(Fate::Told));
    assert!(world.in_flight.is_none(), "its expected tail was wrong");
    world.now += Duration::from_secs(60);
    world.step(Step::Release);
    assert_eq!(world.proposer.retry_at(), None);
}
