//! Moving logs: whatever step a run breaks off at, a rerun completes it, nobody can use both logs, and no record is
//! another one afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::LogServer;
use futures::StreamExt;
use partition_log::conformance::{incarnation, registration};
use partition_log::copy::{Copied, CopyError, CopyProgress, CopyRefusal, Place, copy, take_back};
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use partition_log::memory::MemoryLog;
use partition_log::{
    AppendError, Base, Log, LogAdmin, LogError, LogInfo, LogMove, Passage, ProvisionError, RECORD_BYTES_MAX,
    ReadError, RecordStream, Registration,
};
use snapshot_store::{Incarnation, Lsn, PartitionId, Seams, WriteId};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::Notify;

const P0: PartitionId = PartitionId::new(0);
const P1: PartitionId = PartitionId::new(1);

#[derive(Default)]
struct Counted {
    planned: AtomicU64,
    advanced: AtomicU64,
}

impl CopyProgress for Counted {
    fn planned(&self, records: u64) {
        self.planned.fetch_add(records, Ordering::Relaxed);
    }

    fn advanced(&self, records: u64) {
        self.advanced.fetch_add(records, Ordering::Relaxed);
    }
}

/// Where a run breaks off: at one of its changes, before it took place or when its answer is lost.
#[derive(Default)]
struct Fuse {
    changes: AtomicU64,
    at: Option<(u64, bool)>,
    blown: Notify,
}

impl Fuse {
    fn at(change: u64, after: bool) -> Arc<Self> {
        Arc::new(Fuse {
            at: Some((change, after)),
            ..Fuse::default()
        })
    }

    async fn change<T>(&self, change: impl Future<Output = T>) -> T {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        let (at, after) = self.at.unwrap_or((u64::MAX, false));
        if number < at {
            return change.await;
        }
        if number == at && after {
            change.await;
        }
        // The process is gone, and with it all else that it does.
        self.blown.notify_one();
        std::future::pending().await
    }
}

/// A log seen through a fuse.
struct Fused<L>(L, Arc<Fuse>);

#[async_trait]
impl<L: LogAdmin> LogAdmin for Fused<L> {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        self.1.change(self.0.provision(registration)).await
    }

    async fn set_sealed(&self, at: PartitionId, life: Incarnation, sealed: bool) -> Result<(), LogError> {
        self.1.change(self.0.set_sealed(at, life, sealed)).await
    }

    async fn trim(&self, at: PartitionId, life: Incarnation, up_to: Lsn) -> Result<Lsn, LogError> {
        self.1.change(self.0.trim(at, life, up_to)).await
    }
}

#[async_trait]
impl<L: LogMove> LogMove for Fused<L> {
    async fn position(&self, at: PartitionId, life: Incarnation) -> Result<LogInfo, LogError> {
        self.0.position(at, life).await
    }

    async fn read_moving(
        &self,
        at: PartitionId,
        life: Incarnation,
        from: Lsn,
    ) -> Result<RecordStream, ReadError> {
        self.0.read_moving(at, life, from).await
    }

    async fn import(
        &self,
        at: PartitionId,
        life: Incarnation,
        batch: Vec<Bytes>,
        expected_tail: Lsn,
    ) -> Result<Lsn, AppendError> {
        self.1.change(self.0.import(at, life, batch, expected_tail)).await
    }

    async fn change_passage(
        &self,
        at: PartitionId,
        life: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
    ) -> Result<Option<Passage>, LogError> {
        self.1.change(self.0.change_passage(at, life, from, to)).await
    }

    async fn discard(&self, at: PartitionId, life: Incarnation, id: WriteId) -> Result<(), LogError> {
        self.1.change(self.0.discard(at, life, id)).await
    }
}

fn place<L: Log + LogAdmin + LogMove + Clone>(name: &str, log: &L) -> Place {
    fused(name, log, &Arc::default())
}

fn fused<L: Log + LogAdmin + LogMove + Clone>(name: &str, log: &L, fuse: &Arc<Fuse>) -> Place {
    Place {
        name: name.to_owned(),
        log: Arc::new(log.clone()),
        admin: Arc::new(Fused(log.clone(), Arc::clone(fuse))),
        mover: Arc::new(Fused(log.clone(), Arc::clone(fuse))),
    }
}

async fn run(from: &Place, to: &Place) -> Result<Vec<Copied>, CopyError> {
    copy(from, to, &Seams::real(), &Counted::default()).await
}

fn record(lsn: u64) -> Bytes {
    Bytes::from(format!("record {lsn}"))
}

fn begun_after(partition: PartitionId, base: Option<u64>) -> Registration {
    let base = base.map(|lsn| Base {
        lsn: Lsn::new(lsn),
        chain_hash: None,
        log_bytes: 77,
    });
    Registration {
        partition,
        base,
        ..registration(0)
    }
}

/// Two partitions: one from LSN 1, trimmed; one that continues a fork and is not.
async fn filled(log: &(impl Log + LogAdmin)) -> [Registration; 2] {
    let registrations = [begun_after(P0, None), begun_after(P1, Some(40))];
    for (registration, records) in registrations.iter().zip([1..=30, 41..=55]) {
        log.provision(registration.clone()).await.unwrap();
        for lsn in records {
            let appended = log.append(registration.partition, incarnation(1), vec![record(lsn)], None);
            assert_eq!(appended.await, Ok(Lsn::new(lsn)));
        }
    }
    assert_eq!(log.trim(P0, incarnation(1), Lsn::new(12)).await, Ok(Lsn::new(12)));
    registrations
}

/// Whether the log would take a record now; it gets none.
async fn takes_records(log: &dyn Log, partition: PartitionId) -> bool {
    let far = Some(Lsn::new(1 << 40));
    let appended = log.append(partition, incarnation(1), vec![record(0)], far).await;
    matches!(appended, Err(AppendError::TailMismatch { .. }))
}

async fn records(log: &dyn Log, partition: PartitionId) -> Vec<Bytes> {
    let info = log.info(partition).await.unwrap();
    let mut next = info.trim_point.next();
    let mut stream = log.read(partition, incarnation(1), next).await.unwrap();
    let mut records = Vec::new();
    while next < info.tail {
        let batch = stream.next().await.unwrap().unwrap();
        assert_eq!(batch.first, next);
        next = batch.end();
        records.extend(batch.records);
    }
    records
}

/// Checks that `log` is what [`filled`] made, and that it lives.
async fn check_moved(log: &(impl Log + LogAdmin), registrations: &[Registration; 2]) {
    for (registration, (trim_point, tail)) in registrations.iter().zip([(12, 31), (40, 56)]) {
        let partition = registration.partition;
        assert_eq!(log.registration(partition).await.as_ref(), Ok(registration));
        let info = log.info(partition).await.unwrap();
        assert_eq!((info.trim_point.get(), info.tail.get()), (trim_point, tail));
        let expected: Vec<_> = (trim_point + 1..tail).map(record).collect();
        assert_eq!(records(log, partition).await, expected);
        let appended = log.append(partition, incarnation(1), vec![record(tail)], Some(info.tail));
        assert_eq!(appended.await, Ok(info.tail));
        let trimmed = log.trim(partition, incarnation(1), info.tail).await;
        assert_eq!(trimmed, Ok(info.tail));
    }
}

/// Checks that the old log refuses everything and names the new place.
async fn check_left(log: &(impl Log + LogAdmin), to: &str) {
    for partition in [P0, P1] {
        let moved = LogError::Moved {
            partition,
            to: to.to_owned(),
        };
        assert_eq!(log.info(partition).await, Err(moved.clone()));
        let appended = log.append(partition, incarnation(1), vec![record(0)], None).await;
        assert_eq!(appended, Err(AppendError::Log(moved.clone())));
        let trimmed = log.trim(partition, incarnation(1), Lsn::new(20)).await;
        assert_eq!(trimmed, Err(moved));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_breaks_off_at_any_change_is_completed_by_the_next() {
    let mut change = 0;
    loop {
        let mut broke_off = false;
        for after in [false, true] {
            let (old, new) = (MemoryLog::new(), MemoryLog::new());
            let registrations = filled(&old).await;
            let fuse = Fuse::at(change, after);
            let (from, to) = (fused("old", &old, &fuse), fused("new", &new, &fuse));
            tokio::select! {
                copied = run(&from, &to) => drop(copied.unwrap()),
                () = fuse.blown.notified() => broke_off = true,
            }
            for partition in [P0, P1] {
                let both = takes_records(&old, partition).await && takes_records(&new, partition).await;
                assert!(!both, "change {change}, {after}: two logs of one partition");
            }
            let copied = run(&place("old", &old), &place("new", &new)).await.unwrap();
            assert_eq!(copied.len(), 2);
            check_left(&old, "new").await;
            check_moved(&new, &registrations).await;
        }
        if !broke_off {
            break;
        }
        change += 1;
    }
    // Two partitions, each sealed, provisioned, imported, left, arrived.
    assert_eq!(change, 10);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_breaks_off_is_taken_back_until_the_first_log_left() {
    let mut outcomes = Vec::new();
    for change in 0..10 {
        let (old, new) = (MemoryLog::new(), MemoryLog::new());
        filled(&old).await;
        let fuse = Fuse::at(change, true);
        let (from, to) = (fused("old", &old, &fuse), fused("new", &new, &fuse));
        tokio::select! {
            _ = run(&from, &to) => panic!("it breaks off"),
            () = fuse.blown.notified() => {}
        }
        match take_back(&place("old", &old), Some(&place("new", &new))).await {
            Ok(_) => {
                outcomes.push(true);
                for partition in [P0, P1] {
                    assert!(takes_records(&old, partition).await);
                    assert_eq!(
                        new.registration(partition).await,
                        Err(LogError::Missing { partition })
                    );
                }
                assert_eq!(old.trim(P0, incarnation(1), Lsn::new(13)).await, Ok(Lsn::new(13)));
            }
            Err(CopyError::Refused(CopyRefusal::TooLate { .. })) => {
                outcomes.push(false);
                run(&place("old", &old), &place("new", &new)).await.unwrap();
                check_left(&old, "new").await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(
        outcomes,
        [true, true, true, true, true, true, false, false, false, false]
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_taken_back_does_not_switch_to_a_copy_without_the_newest_records() {
    let (old, new) = (MemoryLog::new(), MemoryLog::new());
    filled(&old).await;
    // It stops where everything was compared, before the first log leaves.
    let fuse = Fuse::at(6, false);
    let (from, to) = (fused("old", &old, &fuse), fused("new", &new, &fuse));
    tokio::select! {
        _ = run(&from, &to) => panic!("it breaks off"),
        () = fuse.blown.notified() => {}
    }
    let stalled = old.registration(P0).await.unwrap().passage;
    take_back(&place("old", &old), None).await.unwrap();
    let appended = old.append(P0, incarnation(1), vec![record(31)], None).await;
    assert_eq!(appended, Ok(Lsn::new(31)));
    run(&place("old", &old), &place("new", &new)).await.unwrap();
    assert_eq!(records(&new, P0).await, (13..=31).map(record).collect::<Vec<_>>());
    // What the stalled one would do next.
    let Some(Passage::Leaving { id, to }) = stalled.clone() else {
        panic!("{stalled:?}")
    };
    let left = Some(Passage::Left { id, to });
    let changed = old
        .change_passage(P0, incarnation(1), stalled, left.clone())
        .await;
    assert_ne!(changed, Ok(left));
}

/// Makes the second partition's log silent as soon as anything was copied.
struct Outage(MemoryLog, Notify, AtomicBool);

impl CopyProgress for Outage {
    fn planned(&self, _: u64) {}

    fn advanced(&self, _: u64) {
        if !self.2.swap(true, Ordering::Relaxed) {
            self.0.set_unavailable(P1, true);
            self.1.notify_one();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_silent_for_a_while_is_waited_for() {
    let (old, new) = (MemoryLog::new(), MemoryLog::new());
    let registrations = filled(&old).await;
    let outage = Outage(new.clone(), Notify::new(), AtomicBool::new(false));
    let waiting = async {
        outage.1.notified().await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        new.set_unavailable(P1, false);
    };
    let (from, to, seams) = (place("old", &old), place("new", &new), Seams::real());
    let both = async { tokio::join!(copy(&from, &to, &seams, &outage), waiting) };
    let (copied, ()) = both.await;
    assert_eq!(copied.unwrap().len(), 2);
    check_moved(&new, &registrations).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_the_same_is_not_switched_to() {
    let (old, new) = (MemoryLog::new(), MemoryLog::new());
    filled(&old).await;
    let fuse = Fuse::at(5, true);
    let (from, to) = (fused("old", &old, &fuse), fused("new", &new, &fuse));
    tokio::select! {
        _ = run(&from, &to) => panic!("it breaks off"),
        () = fuse.blown.notified() => {}
    }
    // Someone put another record there.
    new.lose_tail(P0, 1);
    let imported = new
        .import(P0, incarnation(1), vec![Bytes::from("forged")], Lsn::new(30))
        .await;
    assert_eq!(imported, Ok(Lsn::new(30)));
    let refused = run(&place("old", &old), &place("new", &new)).await;
    let Err(CopyError::Refused(CopyRefusal::Different { partition, at })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((partition, at), (P0, Lsn::new(30)));
    take_back(&place("old", &old), Some(&place("new", &new)))
        .await
        .unwrap();
    assert!(takes_records(&old, P0).await && takes_records(&old, P1).await);
}

#[tokio::test(start_paused = true)]
async fn a_destination_with_logs_and_an_empty_source_are_refused_before_anything_is_sealed() {
    let (old, new) = (MemoryLog::new(), MemoryLog::new());
    let refused = run(&place("old", &old), &place("new", &new)).await;
    assert!(
        matches!(refused, Err(CopyError::Refused(CopyRefusal::NoSource { .. }))),
        "{refused:?}"
    );
    filled(&old).await;
    // The second partition has a log there.
    new.provision(begun_after(P1, Some(40))).await.unwrap();
    let refused = run(&place("old", &old), &place("new", &new)).await;
    assert!(
        matches!(&refused, Err(CopyError::Refused(CopyRefusal::Occupied { partition, .. })) if *partition == P1),
        "{refused:?}"
    );
    assert!(takes_records(&old, P0).await && takes_records(&old, P1).await);
}

#[tokio::test(start_paused = true)]
async fn a_log_goes_to_one_place_only() {
    let (old, new, other) = (MemoryLog::new(), MemoryLog::new(), MemoryLog::new());
    filled(&old).await;
    let fuse = Fuse::at(3, true);
    let (from, to) = (fused("old", &old, &fuse), fused("new", &new, &fuse));
    tokio::select! {
        _ = run(&from, &to) => panic!("it breaks off"),
        () = fuse.blown.notified() => {}
    }
    for _ in 0..2 {
        let refused = run(&place("old", &old), &place("other", &other))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("--to new"), "{refused}");
        run(&place("old", &old), &place("new", &new)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_says_what_it_compared_and_how_far_it_is() {
    let (old, new) = (MemoryLog::new(), MemoryLog::new());
    filled(&old).await;
    let progress = Counted::default();
    let (from, to) = (place("old", &old), place("new", &new));
    let copied = copy(&from, &to, &Seams::real(), &progress).await.unwrap();
    let compared: Vec<_> = copied.iter().map(|copied| copied.compared.unwrap()).collect();
    assert_eq!(
        compared
            .iter()
            .map(|compared| compared.records)
            .collect::<Vec<_>>(),
        [18, 15]
    );
    assert_eq!(compared[1].bytes, 15 * record(41).len() as u64);
    assert_ne!(compared[0].digest, compared[1].digest);
    assert_eq!(progress.planned.into_inner(), 2 * 33);
    assert_eq!(progress.advanced.into_inner(), 2 * 33);
}

#[tokio::test]
async fn logs_move_from_a_server_to_another_with_records_of_every_size() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |at: usize| EmbeddedLog::open(dirs[at].path(), EmbeddedOptions::default()).unwrap();
    let (old, new) = (open(0), open(1));
    old.provision(registration(0)).await.unwrap();
    let sizes = [
        RECORD_BYTES_MAX,
        RECORD_BYTES_MAX,
        0,
        1,
        RECORD_BYTES_MAX,
        70_000,
        RECORD_BYTES_MAX,
    ];
    let mut expected: Vec<_> = (1..)
        .zip(sizes)
        .map(|(byte, size)| Bytes::from(vec![byte; size]))
        .collect();
    expected.extend((0..3000).map(record));
    for batch in expected.chunks(3) {
        old.append(P0, incarnation(1), batch.to_vec(), None)
            .await
            .unwrap();
    }
    let serve = |log: &EmbeddedLog| {
        let log = log.clone();
        async move { LogServer::start_movable(Arc::new(log.clone()), Arc::new(log.clone()), Arc::new(log)).await }
    };
    let servers = [serve(&old).await, serve(&new).await];
    let at = |server: &LogServer| Place {
        name: server.url(),
        log: Arc::new(server.log()),
        admin: Arc::new(server.admin()),
        mover: Arc::new(server.mover()),
    };
    let (from, to) = (at(&servers[0]), at(&servers[1]));
    let copied = run(&from, &to).await.unwrap();
    assert_eq!(copied[0].compared.unwrap().records, expected.len() as u64);
    assert_eq!(records(to.log.as_ref(), P0).await, expected);
    let moved = from.log.info(P0).await;
    assert_eq!(
        moved,
        Err(LogError::Moved {
            partition: P0,
            to: to.name.clone()
        })
    );
    let tail = Lsn::new(expected.len() as u64 + 1);
    let appended = new.append(P0, incarnation(1), vec![record(0)], Some(tail)).await;
    assert_eq!(appended, Ok(tail));
}
