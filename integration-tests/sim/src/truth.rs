//! What a log's records amount to, computed from the records alone: the state, its digest and the chain hash at each LSN.
//!
//! Who leads is decided by the product's own `judge`; commands are decoded and applied here, independently of the
//! state machine.

use bytes::Bytes;
use prost::Message as _;
use snapshot_proto::kv::{KvCommand, operation::Change};
use snapshot_store::{ChainHash, Fingerprint, Incarnation, Leadership, Lsn, PairDigest, StateDigest};
use snapshot_worker::core::{Outcome, Record, Verdict, judge};
use std::collections::BTreeMap;

/// Distance of the LSNs at which a state is kept, so that earlier ones need not be computed from the first record.
const KEPT_EVERY: u64 = 64;

/// The state after some record.
#[derive(Clone)]
pub(crate) struct Replayed {
    lsn: Lsn,
    chain: ChainHash,
    leader: Option<Leadership>,
    pairs: BTreeMap<Bytes, Bytes>,
}

impl Replayed {
    fn apply(&mut self, bytes: &Bytes) {
        self.lsn = self.lsn.next();
        let outcome = match Record::decode(bytes) {
            Err(_) => Outcome::Ignored,
            Ok(record) => {
                let verdict = judge(self.leader.as_ref(), &record);
                match verdict {
                    Verdict::Apply(command) => change(&mut self.pairs, command),
                    Verdict::TakeLead { leadership, .. } => self.leader = Some(leadership.clone()),
                    Verdict::Pass | Verdict::Ignore | Verdict::Note => {}
                }
                verdict.outcome()
            }
        };
        self.chain = self.chain.extend(self.lsn, outcome.byte(), bytes);
    }

    /// Returns the value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.pairs.get(key)
    }

    fn digest(&self) -> StateDigest {
        let mut digest = PairDigest::new();
        for (key, value) in &self.pairs {
            digest.pair(key, value);
        }
        digest.finish()
    }
}

fn change(pairs: &mut BTreeMap<Bytes, Bytes>, command: &[u8]) {
    let Some(operation) = KvCommand::decode(command)
        .ok()
        .and_then(|command| command.operation)
    else {
        return;
    };
    match operation.change {
        Some(Change::Put(value)) => {
            pairs.insert(operation.key, value);
        }
        Some(Change::Delete(_)) => {
            pairs.remove(&operation.key);
        }
        None => {}
    }
}

/// All records a log ever took, also those it has trimmed.
#[derive(Clone)]
pub(crate) struct Truth {
    records: Vec<Bytes>,
    /// States at multiples of [`KEPT_EVERY`], from LSN 0 up.
    kept: Vec<Replayed>,
    /// The state that was asked for last: the next one is most often a few records later.
    recent: Option<Replayed>,
    /// Digests that were asked for: all replicas of a partition come to the same ones.
    digests: BTreeMap<Lsn, (ChainHash, StateDigest)>,
}

impl Truth {
    pub(crate) fn new(fingerprint: Fingerprint, incarnation: Incarnation) -> Self {
        let origin = Replayed {
            lsn: Lsn::ZERO,
            chain: ChainHash::origin(&fingerprint, &incarnation),
            leader: None,
            pairs: BTreeMap::new(),
        };
        Truth {
            records: Vec::new(),
            kept: vec![origin],
            recent: None,
            digests: BTreeMap::new(),
        }
    }

    /// Adds the records of one append; returns the LSN of the last.
    pub(crate) fn append(&mut self, batch: &[Bytes]) -> Lsn {
        self.records.extend_from_slice(batch);
        self.last()
    }

    /// Returns the record at `lsn`.
    pub(crate) fn record(&self, lsn: Lsn) -> Option<Bytes> {
        self.records.get(lsn.prev().get() as usize).cloned()
    }

    /// Forgets the records after `last`, as the log did.
    pub(crate) fn lose_after(&mut self, last: Lsn) {
        self.records.truncate(last.get() as usize);
        self.kept.retain(|state| state.lsn <= last);
        self.recent = None;
        self.digests.retain(|lsn, _| *lsn <= last);
    }

    /// Returns the LSN of the last record.
    pub(crate) fn last(&self) -> Lsn {
        Lsn::new(self.records.len() as u64)
    }

    /// Returns the state after the record at `lsn`; `None` when no such record was ever appended.
    pub(crate) fn at(&mut self, lsn: Lsn) -> Option<&Replayed> {
        if lsn > self.last() {
            return None;
        }
        self.keep_up_to(lsn)?;
        let kept = self.kept.get((lsn.get() / KEPT_EVERY) as usize)?;
        let recent = self.recent.take();
        let mut state = recent
            .filter(|recent| (kept.lsn..=lsn).contains(&recent.lsn))
            .unwrap_or_else(|| kept.clone());
        self.replay(&mut state, lsn);
        Some(self.recent.insert(state))
    }

    /// Returns chain hash and digest of the state after the record at `lsn`; `None` as above.
    pub(crate) fn digests_at(&mut self, lsn: Lsn) -> Option<(ChainHash, StateDigest)> {
        if let Some(known) = self.digests.get(&lsn) {
            return Some(*known);
        }
        let state = self.at(lsn)?;
        let digests = (state.chain, state.digest());
        self.digests.insert(lsn, digests);
        Some(digests)
    }

    fn keep_up_to(&mut self, lsn: Lsn) -> Option<()> {
        loop {
            let newest = self.kept.last()?;
            let next = newest.lsn.plus(KEPT_EVERY);
            if next > lsn {
                return Some(());
            }
            let mut state = newest.clone();
            self.replay(&mut state, next);
            self.kept.push(state);
        }
    }

    fn replay(&self, state: &mut Replayed, to: Lsn) {
        for record in &self.records[state.lsn.get() as usize..to.get() as usize] {
            state.apply(record);
        }
    }
}
