//! The embedded log and the memory log answer every sequence of requests alike, also across restarts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::StreamExt;
use partition_log::conformance::{incarnation, registration};
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use partition_log::memory::MemoryLog;
use partition_log::{AppendError, Log, LogAdmin, LogError, LogInfo, ReadError};
use proptest::prelude::*;
use snapshot_store::{Lsn, PartitionId};

const PARTITION: PartitionId = PartitionId::new(0);

/// One request; positions are relative to the tail, so that most of them are near something interesting.
#[derive(Clone, Debug)]
enum Request {
    Append {
        sizes: Vec<usize>,
        expected: Option<i64>,
    },
    Trim {
        of: u64,
        offset: i64,
    },
    Seal(bool),
    Read {
        offset: i64,
    },
    Restart,
}

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Appended(Result<Lsn, AppendError>),
    Trimmed(Result<Lsn, LogError>),
    Sealed(Result<(), LogError>),
    Read(Result<Vec<Bytes>, ReadError>),
    Nothing,
}

fn request() -> impl Strategy<Value = Request> {
    let sizes = prop::collection::vec(0..40usize, 1..4);
    prop_oneof![
        6 => (sizes, prop::option::of(prop_oneof![4 => Just(0i64), 1 => -3..4i64]))
            .prop_map(|(sizes, expected)| Request::Append { sizes, expected }),
        3 => (1..3u64, -3..4i64).prop_map(|(of, offset)| Request::Trim { of, offset }),
        1 => any::<bool>().prop_map(Request::Seal),
        3 => (-8..3i64).prop_map(|offset| Request::Read { offset }),
        1 => Just(Request::Restart),
    ]
}

fn shifted(lsn: Lsn, offset: i64) -> Lsn {
    Lsn::new(lsn.get().saturating_add_signed(offset).max(1))
}

async fn ask<L: Log + LogAdmin>(log: &L, request: &Request, number: usize) -> Answer {
    let LogInfo { tail, .. } = log.info(PARTITION).await.unwrap();
    match request {
        Request::Append { sizes, expected } => {
            let batch = sizes
                .iter()
                .map(|size| Bytes::from(vec![number as u8; *size]))
                .collect();
            let expected = expected.map(|offset| shifted(tail, offset));
            Answer::Appended(log.append(PARTITION, incarnation(1), batch, expected).await)
        }
        Request::Trim { of, offset } => {
            let up_to = shifted(Lsn::new(tail.get() / of), *offset);
            Answer::Trimmed(log.trim(PARTITION, incarnation(1), up_to).await)
        }
        Request::Seal(sealed) => Answer::Sealed(log.set_sealed(PARTITION, incarnation(1), *sealed).await),
        Request::Read { offset } => Answer::Read(read(log, shifted(tail, *offset), tail).await),
        Request::Restart => Answer::Nothing,
    }
}

async fn read<L: Log>(log: &L, from: Lsn, tail: Lsn) -> Result<Vec<Bytes>, ReadError> {
    let mut stream = log.read(PARTITION, incarnation(1), from).await?;
    let (mut next, mut records) = (from, Vec::new());
    while next < tail {
        let batch = stream.next().await.unwrap()?;
        assert_eq!(batch.first, next);
        next = batch.end();
        records.extend(batch.records);
    }
    Ok(records)
}

async fn compare(requests: &[Request]) {
    let dir = tempfile::tempdir().unwrap();
    let open = || EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap();
    let (memory, mut embedded) = (MemoryLog::new(), open());
    memory.provision(registration(0)).await.unwrap();
    embedded.provision(registration(0)).await.unwrap();
    for (number, request) in requests.iter().enumerate() {
        if matches!(request, Request::Restart) {
            embedded.close().await;
            embedded = open();
        }
        let (expected, found) = (
            ask(&memory, request, number).await,
            ask(&embedded, request, number).await,
        );
        assert_eq!(found, expected, "request {number}: {request:?}");
        assert_eq!(
            embedded.info(PARTITION).await,
            memory.info(PARTITION).await,
            "after request {number}"
        );
        let registered = memory.registration(PARTITION).await;
        assert_eq!(
            embedded.registration(PARTITION).await,
            registered,
            "after request {number}"
        );
    }
    embedded.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_logs_answer_alike(requests in prop::collection::vec(request(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&requests));
    }
}
