//! The committer: the one thread that changes anything.
//!
//! 1. Take what waits in the queue, up to a limit, in order; decide each request on the position that the ones
//!    before it leave, and collect the changes in one batch.
//! 2. Write the batch and sync it. A crash before that loses requests that nobody was answered; afterwards all of
//!    them are there.
//! 3. Publish the new positions, which wakes the readers, then answer.
//!
//! When writing or syncing fails, nobody knows what is on the disk, and syncing again could report success for
//! pages that were lost. So the appends of that group are answered "unknown", and everything after it is refused
//! until the database was opened again (`reopen`).
//!
//! On a disk that is nearly full (`reserve`) appends are refused and the rest is done, with the reserve's room; then
//! what was trimmed is given back to the disk at once.

use super::format::Position;
use super::reopen::{Keeper, REOPEN_EVERY};
use super::request::{Append, Reply, Request, refuse};
use super::store::Store;
use super::{Cell, Shared};
use crate::position::{check_base, check_incarnation, check_same};
use crate::{AppendError, LogError, Passage, ProvisionError, Registration};
use rocksdb::WriteBatch;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};
use tokio::sync::mpsc;

/// Requests of one group at most.
const GROUP_REQUESTS_MAX: usize = 512;
/// Bytes after which a group is closed; its last request may go beyond.
pub(super) const GROUP_BYTES_MAX: usize = 8 << 20;

/// Runs until it is told to stop, or nobody is left who could ask.
pub(super) fn run(shared: &Shared, mut requests: mpsc::Receiver<Request>, mut keeper: Keeper) {
    loop {
        if shared.failure().is_some() && !keeper.reopen(shared) {
            match refuse_all(shared, &mut requests) {
                Refused::GoOn => std::thread::sleep(REOPEN_EVERY),
                Refused::Stop => return,
            }
            continue;
        }
        let Some(first) = requests.blocking_recv() else {
            return;
        };
        let shortage = keeper.reserve.shortage();
        let store = shared.store.read().unwrap_or_else(PoisonError::into_inner);
        let Some(store) = store.as_ref() else { return };
        let mut group = Group::new(shared, store, shortage.clone());
        let mut next = Some(first);
        while let Some(request) = next {
            if group.take(request) {
                requests.close();
            }
            next = if group.is_full() {
                None
            } else {
                requests.try_recv().ok()
            };
        }
        let changes = shortage.is_some() && !group.batch.is_empty();
        if changes {
            keeper.reserve.give_up();
        }
        let freed = group.freed > 0;
        group.commit();
        if changes {
            if freed && shared.failure().is_none() {
                give_back(shared, store);
            }
            keeper.reserve.hold();
        }
    }
}

/// Gives the room of what was trimmed back to the disk, without waiting until there is more of it.
fn give_back(shared: &Shared, store: &Store) {
    // What was trimmed in memory is not written, and the write-ahead log that held it goes.
    if let Err(error) = store.flush() {
        tracing::warn!(%error, "the trimmed log was not flushed on a full disk");
        return;
    }
    for (partition, cell) in shared.cells() {
        if let Err(error) = store.reclaim(partition, cell.position().trim_point) {
            tracing::warn!(%partition, %error, "trimmed files were not dropped on a full disk");
        }
    }
}

/// What came after the requests that were refused.
enum Refused {
    GoOn,
    Stop,
}

/// Answers what waits with the reason why nothing is taken.
fn refuse_all(shared: &Shared, requests: &mut mpsc::Receiver<Request>) -> Refused {
    let fault = shared.failure().unwrap_or_default();
    loop {
        match requests.try_recv() {
            Ok(Request::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return Refused::Stop,
            Ok(request) => refuse(request, &fault),
            Err(mpsc::error::TryRecvError::Empty) => return Refused::GoOn,
        }
    }
}

/// The log of a partition as the requests of the group leave it.
struct Draft {
    registration: Registration,
    position: Position,
    /// Tail before the group, and the cumulative log bytes at each record since.
    committed_tail: Lsn,
    bytes_since: Vec<u64>,
    moved: bool,
    registered: bool,
    /// Nothing of it is left.
    discarded: bool,
}

impl Draft {
    fn new(registration: Registration, position: Position) -> Self {
        Draft {
            registration,
            position,
            committed_tail: position.tail,
            bytes_since: Vec::new(),
            moved: false,
            registered: false,
            discarded: false,
        }
    }
}

/// Answers one request, once it is known whether the group was committed (or what went wrong).
type Answer = Box<dyn FnOnce(Option<&str>)>;

struct Group<'a> {
    shared: &'a Shared,
    store: &'a Store,
    /// Why no records are taken; `None` when they are.
    shortage: Option<String>,
    batch: WriteBatch,
    drafts: BTreeMap<PartitionId, Draft>,
    answers: Vec<Answer>,
    bytes: usize,
    freed: u64,
}

impl<'a> Group<'a> {
    fn new(shared: &'a Shared, store: &'a Store, shortage: Option<String>) -> Self {
        Group {
            shared,
            store,
            shortage,
            batch: WriteBatch::default(),
            drafts: BTreeMap::new(),
            answers: Vec::new(),
            bytes: 0,
            freed: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= GROUP_REQUESTS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    /// Decides one request. Returns whether it is the one to stop after.
    fn take(&mut self, request: Request) -> bool {
        match request {
            Request::Append(append, reply) => {
                let result = self.append(&append);
                self.answers.push(Box::new(move |fault| {
                    let result = match (fault, result) {
                        (None, result) => result,
                        (Some(fault), Ok(_)) => Err(AppendError::Unknown {
                            detail: fault.to_owned(),
                        }),
                        (Some(fault), Err(_)) => Err(AppendError::Unavailable {
                            detail: fault.to_owned(),
                        }),
                    };
                    reply.send(result).ok();
                }));
            }
            Request::Trim {
                partition,
                incarnation,
                up_to,
                reply,
            } => {
                let result = self.trim(partition, incarnation, up_to);
                self.answer_after_commit(partition, result, reply);
            }
            Request::Seal {
                partition,
                incarnation,
                sealed,
                reply,
            } => {
                let result = self.seal(partition, incarnation, sealed);
                self.answer_after_commit(partition, result, reply);
            }
            Request::Provision { registration, reply } => {
                let partition = registration.partition;
                let result = self.provision(registration);
                self.answer_after_commit(partition, result, reply);
            }
            Request::ChangePassage {
                partition,
                incarnation,
                from,
                to,
                reply,
            } => {
                let result = self.change_passage(partition, incarnation, from.as_ref(), to);
                self.answer_after_commit(partition, result, reply);
            }
            Request::Discard {
                partition,
                incarnation,
                id,
                reply,
            } => {
                let result = self.discard(partition, incarnation, id);
                self.answer_after_commit(partition, result, reply);
            }
            Request::Stop => return true,
        }
        false
    }

    fn answer_after_commit<T: 'static, E: From<LogError> + 'static>(
        &mut self,
        partition: PartitionId,
        result: Result<T, E>,
        reply: Reply<T, E>,
    ) {
        self.answers.push(Box::new(move |fault| {
            let result = match fault {
                None => result,
                Some(fault) => Err(LogError::Unavailable {
                    partition,
                    detail: fault.to_owned(),
                }
                .into()),
            };
            reply.send(result).ok();
        }));
    }

    /// Returns the draft of a partition that has a log.
    fn draft(&mut self, partition: PartitionId) -> Result<&mut Draft, LogError> {
        use std::collections::btree_map::Entry;
        match self.drafts.entry(partition) {
            Entry::Occupied(entry) if entry.get().discarded => Err(LogError::Missing { partition }),
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let cell = self.shared.cell(partition)?;
                Ok(entry.insert(Draft::new(cell.registration(), cell.position())))
            }
        }
    }

    fn append(&mut self, append: &Append) -> Result<Lsn, AppendError> {
        let shortage = self.shortage.clone();
        let draft = self.draft(append.partition)?;
        check_incarnation(&draft.registration, append.incarnation)?;
        match append.imported {
            true => draft.registration.check_import()?,
            false => draft.registration.check_append()?,
        }
        let tail = draft.position.tail;
        if append.expected_tail.is_some_and(|expected| expected != tail) {
            return Err(AppendError::TailMismatch { tail });
        }
        if let Some(detail) = shortage {
            return Err(AppendError::Unavailable { detail });
        }
        let mut lsn = tail;
        let mut at = draft.position.bytes_at_tail;
        let mut placed = Vec::with_capacity(append.batch.len());
        for record in &append.batch {
            at += record.len() as u64;
            placed.push((lsn, at, record));
            lsn = lsn.next();
        }
        draft.bytes_since.extend(placed.iter().map(|(_, at, _)| at));
        draft.position.tail = lsn;
        draft.position.bytes_at_tail = at;
        draft.moved = true;
        for (lsn, at, record) in placed {
            self.store
                .put_record(&mut self.batch, append.partition, lsn, at, record);
        }
        self.bytes += append.bytes;
        Ok(lsn.prev())
    }

    fn trim(
        &mut self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let store = self.store;
        let draft = self.draft(partition)?;
        check_incarnation(&draft.registration, incarnation)?;
        draft.registration.check_trim()?;
        let Position {
            trim_point,
            tail,
            bytes_at_trim_point,
            ..
        } = draft.position;
        let up_to = up_to.min(tail.prev());
        if up_to <= trim_point {
            return Ok(trim_point);
        }
        let at = if up_to >= draft.committed_tail {
            let index = usize::try_from(up_to.records_since(draft.committed_tail)).unwrap_or(usize::MAX);
            draft.bytes_since.get(index).copied()
        } else {
            store
                .bytes_at(partition, up_to)
                .map_err(|detail| LogError::Unavailable { partition, detail })?
        };
        let Some(at) = at else {
            let detail = format!("the record at {up_to} is missing in the middle: the log is damaged");
            return Err(LogError::Unavailable { partition, detail });
        };
        draft.position.trim_point = up_to;
        draft.position.bytes_at_trim_point = at;
        draft.moved = true;
        store.remove_records(&mut self.batch, partition, trim_point, up_to);
        self.freed += at.saturating_sub(bytes_at_trim_point);
        Ok(up_to)
    }

    fn seal(
        &mut self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        let draft = self.draft(partition)?;
        check_incarnation(&draft.registration, incarnation)?;
        if draft.registration.sealed != sealed {
            draft.registration.sealed = sealed;
            draft.registered = true;
        }
        Ok(())
    }

    fn change_passage(
        &mut self,
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<&Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        let draft = self.draft(partition)?;
        check_incarnation(&draft.registration, incarnation)?;
        let (changed, passage) = draft.registration.change_passage(from, to);
        draft.registered |= changed;
        Ok(passage)
    }

    fn discard(
        &mut self,
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
    ) -> Result<(), LogError> {
        let draft = self.draft(partition)?;
        check_incarnation(&draft.registration, incarnation)?;
        draft.registration.check_discard(id)?;
        draft.discarded = true;
        let tail = draft.position.tail;
        self.store.remove_log(&mut self.batch, partition, tail);
        Ok(())
    }

    fn provision(&mut self, registration: Registration) -> Result<(), ProvisionError> {
        check_base(&registration)?;
        let partition = registration.partition;
        if let Ok(draft) = self.draft(partition) {
            return check_same(&draft.registration, &registration);
        }
        let position = Position::of_new(&registration);
        let draft = Draft {
            moved: true,
            registered: true,
            ..Draft::new(registration, position)
        };
        self.drafts.insert(partition, draft);
        Ok(())
    }

    fn commit(mut self) {
        let fault = self.write();
        if fault.is_none() {
            self.publish();
        }
        for answer in self.answers {
            answer(fault.as_deref());
        }
    }

    /// Returns what went wrong; then this log takes nothing until it was opened again.
    fn write(&mut self) -> Option<String> {
        for (partition, draft) in self.drafts.iter().filter(|(_, draft)| !draft.discarded) {
            if draft.moved {
                self.store
                    .put_position(&mut self.batch, *partition, &draft.position);
            }
            if draft.registered {
                self.store.put_registration(&mut self.batch, &draft.registration);
            }
        }
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return None;
        }
        let error = self.store.commit(batch).err()?;
        let fault = format!("its disk failed or is full: {error}");
        tracing::error!(
            fault,
            "the log takes nothing until its database could be opened again"
        );
        self.shared.set_failure(Some(fault.clone()));
        Some(fault)
    }

    fn publish(&mut self) {
        for (partition, draft) in std::mem::take(&mut self.drafts) {
            if draft.discarded {
                self.shared.remove(partition);
                continue;
            }
            match self.shared.cell(partition) {
                Ok(cell) => cell.publish(draft.registration, draft.position),
                Err(_) => {
                    let cell = Arc::new(Cell::new(draft.registration, draft.position));
                    self.shared.insert(partition, cell);
                }
            }
        }
        self.shared.freed(self.freed);
    }
}
