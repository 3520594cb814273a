//! What becomes of each record of a run, before the state machine is asked.

use super::{metadata::StateMetadata, skip::SkipMark};
use crate::core::{Outcome, PoisonRecord, Record, RecordError, Verdict, judge};
use bytes::Bytes;
use snapshot_store::{Leadership, Lsn, RecordHash};

/// What became of one record.
#[derive(Clone, Debug)]
pub(super) struct AppliedRecord {
    pub(super) lsn: Lsn,
    /// The term it was written in and its number there; `None` for a record without leader.
    pub(super) author: Option<(Leadership, u64)>,
    pub(super) outcome: Outcome,
    /// Address of the leader whose term began with this record; `None` for any other record.
    pub(super) announced: Option<String>,
    /// What the state machine answered; empty for anything but an accepted command.
    pub(super) reply: Bytes,
}

/// A record, what becomes of it, and the command to run if it holds one that counts.
pub(super) struct Judged {
    pub(super) record: AppliedRecord,
    pub(super) command: Option<Bytes>,
}

/// Decides what becomes of each record, up to the first that cannot be parsed, and moves the leader and the applied LSN in
/// `metadata` past them.
pub(super) fn judge_run(
    metadata: &mut StateMetadata,
    records: &[Bytes],
    skip: Option<SkipMark>,
) -> (Vec<Judged>, Option<PoisonRecord>) {
    let mut judged = Vec::with_capacity(records.len());
    for bytes in records {
        let lsn = metadata.applied_lsn.next();
        if skip.is_some_and(|mark| mark.lsn == lsn && mark.hash == RecordHash::of(bytes)) {
            judged.push(passed_over(lsn, bytes));
        } else {
            match judge_record(metadata, lsn, bytes) {
                Ok(record) => judged.push(record),
                Err(error) => return (judged, Some(poison_record(lsn, bytes, error.to_string()))),
            }
        }
        metadata.applied_lsn = lsn;
    }
    (judged, None)
}

fn judge_record(metadata: &mut StateMetadata, lsn: Lsn, bytes: &Bytes) -> Result<Judged, RecordError> {
    let record = Record::decode(bytes)?;
    let verdict = judge(metadata.leader.as_ref().map(|(leader, _)| leader), &record);
    let outcome = verdict.outcome();
    let mut announced = None;
    let mut command = None;
    match verdict {
        Verdict::Apply(bytes) => command = Some(bytes.clone()),
        Verdict::TakeLead { leadership, address } => {
            metadata.leader = Some((leadership.clone(), address.to_owned()));
            announced = Some(address.to_owned());
        }
        Verdict::Pass | Verdict::Ignore | Verdict::Note => {}
    }
    let record = AppliedRecord {
        lsn,
        author: author(record),
        outcome,
        announced,
        reply: Bytes::new(),
    };
    Ok(Judged { record, command })
}

fn author(record: Record) -> Option<(Leadership, u64)> {
    match record {
        Record::Led {
            leadership, sequence, ..
        } => Some((leadership, sequence)),
        Record::Skip { .. } => None,
    }
}

pub(super) fn poison_record(lsn: Lsn, bytes: &Bytes, detail: String) -> PoisonRecord {
    PoisonRecord {
        lsn,
        bytes: bytes.len() as u64,
        hash: RecordHash::of(bytes),
        author: passed_over(lsn, bytes).record.author.map(|(author, _)| author),
        detail,
    }
}

/// Returns what becomes of a record that an operator has passed over; also one that cannot be parsed.
fn passed_over(lsn: Lsn, bytes: &Bytes) -> Judged {
    let record = AppliedRecord {
        lsn,
        author: Record::decode(bytes).ok().and_then(author),
        outcome: Outcome::Skipped,
        announced: None,
        reply: Bytes::new(),
    };
    Judged {
        record,
        command: None,
    }
}
