//! The log of one partition under test.

use super::{Fixture, WAIT_MAX};
use crate::{
    AppendError, Log, LogAdmin, LogError, LogInfo, ProvisionError, ReadError, RecordBatch, RecordStream,
    Registration,
};
use bytes::Bytes;
use futures::StreamExt;
use snapshot_store::{Fingerprint, Incarnation, IncarnationId, Lsn, PartitionId};
use std::{future::Future, sync::Arc, time::Duration};

/// The pause before a log is provisioned again.
const PROVISION_PAUSE: Duration = Duration::from_millis(50);

/// Returns the incarnation that the cases use for `generation`.
pub fn incarnation(generation: u64) -> Incarnation {
    let mut id = [0xab; 16];
    id[..8].copy_from_slice(&generation.to_be_bytes());
    Incarnation {
        generation,
        id: IncarnationId::from_bytes(id),
    }
}

/// Returns the registration of a log from LSN 1 on.
pub fn registration(partition: u32) -> Registration {
    Registration {
        partition: PartitionId::new(partition),
        incarnation: incarnation(1),
        fingerprint: Fingerprint::from_bytes([7; 16]),
        base: None,
        sealed: false,
        passage: None,
    }
}

/// The log of one partition, with shorthands whose failure is the case's failure.
#[derive(Clone)]
pub struct Subject {
    /// As readers and writers see it.
    pub log: Arc<dyn Log>,
    /// As admins see it.
    pub admin: Arc<dyn LogAdmin>,
    /// The partition.
    pub partition: PartitionId,
    /// Which life of its log.
    pub incarnation: Incarnation,
}

/// Waits for something that must come.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_MAX, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {WAIT_MAX:?}"),
    }
}

/// Returns the record that the cases append at `lsn`.
pub(super) fn record(lsn: u64) -> Bytes {
    Bytes::from(format!("record {lsn}"))
}

/// Takes the next item of a stream.
pub(super) async fn next(stream: &mut RecordStream) -> Result<RecordBatch, ReadError> {
    within("the next item", stream.next())
        .await
        .expect("a stream ends only with an error")
}

/// Reads on from `from` until the record before `end` was read; each record must follow the one before it.
pub(super) async fn read_on(stream: &mut RecordStream, from: Lsn, end: Lsn) -> Result<Vec<Bytes>, ReadError> {
    let mut records = Vec::new();
    let mut expected = from;
    while expected < end {
        let batch = next(stream).await?;
        assert_eq!(batch.first, expected, "an item must follow the one before it");
        assert!(!batch.records.is_empty(), "an item must not be empty");
        expected = batch.end();
        records.extend(batch.records);
    }
    assert_eq!(expected, end, "nothing can be read beyond the tail");
    Ok(records)
}

impl Subject {
    /// Provisions the log of partition 0.
    pub async fn new(fixture: &impl Fixture) -> Self {
        Self::with(fixture, registration(0)).await
    }

    /// Provisions a log.
    pub async fn with(fixture: &impl Fixture, registration: Registration) -> Self {
        let (partition, incarnation) = (registration.partition, registration.incarnation);
        let subject = Subject {
            log: fixture.log(),
            admin: fixture.admin(),
            partition,
            incarnation,
        };
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            match subject.admin.provision(registration.clone()).await {
                Ok(()) => return subject,
                // Servers that have only just found each other may lose each other once more.
                Err(ProvisionError::Log(LogError::Unavailable { .. }))
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(PROVISION_PAUSE).await;
                }
                Err(error) => panic!("a new log is provisioned: {error}"),
            }
        }
    }

    /// Returns the same log after the engine was started again.
    pub async fn restarted(self, fixture: &mut impl Fixture) -> Self {
        let Subject {
            log,
            admin,
            partition,
            incarnation,
        } = self;
        // What is left of the old engine must not keep it alive.
        drop((log, admin));
        fixture.restart().await;
        Subject {
            log: fixture.log(),
            admin: fixture.admin(),
            partition,
            incarnation,
        }
    }

    /// Appends records, at an expected tail or anywhere.
    pub async fn try_append(&self, batch: Vec<Bytes>, expected: Option<u64>) -> Result<Lsn, AppendError> {
        let expected = expected.map(Lsn::new);
        let append = self.log.append(self.partition, self.incarnation, batch, expected);
        within("an append", append).await
    }

    /// Appends the records `first..=last`, one batch each, and checks where they land.
    pub async fn append(&self, first: u64, last: u64) {
        for lsn in first..=last {
            assert_eq!(self.try_append(vec![record(lsn)], None).await, Ok(Lsn::new(lsn)));
        }
    }

    /// Trims and returns the trim point in force.
    pub async fn trim(&self, up_to: u64) -> u64 {
        let trim = self.admin.trim(self.partition, self.incarnation, Lsn::new(up_to));
        within("a trim", trim).await.expect("the log is trimmed").get()
    }

    /// Returns the state of the log.
    pub async fn info(&self) -> LogInfo {
        within("the state", self.log.info(self.partition))
            .await
            .expect("the log says how it is")
    }

    /// Returns trim point and tail.
    pub async fn bounds(&self) -> (u64, u64) {
        let info = self.info().await;
        (info.trim_point.get(), info.tail.get())
    }

    /// Opens a read stream.
    pub async fn try_read(&self, from: u64) -> Result<RecordStream, ReadError> {
        let read = self.log.read(self.partition, self.incarnation, Lsn::new(from));
        within("a read stream", read).await
    }

    /// Opens a read stream that must begin well.
    pub async fn read(&self, from: u64) -> RecordStream {
        self.try_read(from).await.expect("the log can be read from there")
    }

    /// Returns the first item from `from` on; an error at opening counts as one.
    pub async fn first(&self, from: u64) -> Result<RecordBatch, ReadError> {
        next(&mut self.try_read(from).await?).await
    }

    /// Returns all records that are in the log.
    pub async fn all(&self) -> Vec<Bytes> {
        let LogInfo { trim_point, tail, .. } = self.info().await;
        let mut stream = self.read(trim_point.next().get()).await;
        read_on(&mut stream, trim_point.next(), tail)
            .await
            .expect("the log can be read to its tail")
    }
}
