//! Several writers at once.

use super::Fixture;
use super::subject::{Subject, registration};
use crate::{AppendError, Registration};
use bytes::Bytes;
use snapshot_store::{Lsn, PartitionId};
use std::collections::BTreeMap;

const ROUNDS: u64 = 40;
const APPENDERS: u64 = 16;
const BATCHES: u64 = 12;

/// Two writers append at the same expected tail at the same time. One is told its LSN, the other the new tail, and
/// nothing of the loser lands, then or later.
pub async fn of_two_writers_with_one_expected_tail_exactly_one_wins(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    let mut winners = Vec::new();
    for round in 1..=ROUNDS {
        let attempts = ["a", "b"].map(|writer| {
            let log = log.clone();
            let record = Bytes::from(format!("{writer} {round}"));
            tokio::spawn(async move { (record.clone(), log.try_append(vec![record], Some(round)).await) })
        });
        let mut won = Vec::new();
        for attempt in attempts {
            match attempt.await.expect("a writer ends") {
                (record, Ok(lsn)) => {
                    assert_eq!(lsn, Lsn::new(round));
                    won.push(record);
                }
                (_, Err(error)) => {
                    assert_eq!(
                        error,
                        AppendError::TailMismatch {
                            tail: Lsn::new(round + 1)
                        }
                    );
                }
            }
        }
        assert_eq!(won.len(), 1, "exactly one writer wins round {round}");
        winners.append(&mut won);
    }
    assert_eq!(log.all().await, winners);
    let log = log.restarted(fixture).await;
    if log.log.info(log.partition).await.is_ok() {
        assert_eq!(log.all().await, winners, "nothing of a loser lands later");
    }
}

/// Many writers append batches without a condition: all LSNs together are dense, and each record is read back at the
/// LSN that its writer was told.
pub async fn many_appenders_get_dense_lsns_and_every_record_is_at_its_own(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|appender| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut placed = Vec::new();
                for batch in 0..BATCHES {
                    let size = 1 + (appender + batch) % 5;
                    let records: Vec<_> = (0..size)
                        .map(|n| Bytes::from(format!("{appender}/{batch}/{n}")))
                        .collect();
                    let last = log
                        .try_append(records.clone(), None)
                        .await
                        .expect("an append lands");
                    placed.push((last.minus(size - 1), records));
                }
                placed
            })
        })
        .collect();
    let mut acknowledged = BTreeMap::new();
    for appender in appenders {
        let placed = appender.await.expect("an appender ends");
        assert!(
            placed.is_sorted_by_key(|(first, _)| *first),
            "a writer's batches keep their order"
        );
        for (first, records) in placed {
            for (n, record) in records.into_iter().enumerate() {
                let before = acknowledged.insert(first.plus(n as u64), record);
                assert_eq!(before, None, "an LSN is given once");
            }
        }
    }
    let dense: Vec<_> = (1..=acknowledged.len() as u64).map(Lsn::new).collect();
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), dense);
    assert_eq!(log.all().await, acknowledged.into_values().collect::<Vec<_>>());
}

/// Writers of different partitions share an engine and nothing else.
pub async fn partitions_do_not_mix(fixture: &mut impl Fixture) {
    // Neighbours in key order, with one of two bytes.
    let numbers = [0, 1, 255, 256];
    let mut logs = Vec::new();
    for number in numbers {
        let registration = Registration {
            partition: PartitionId::new(number),
            ..registration(number)
        };
        logs.push(Subject::with(fixture, registration).await);
    }
    let writers: Vec<_> = logs
        .iter()
        .cloned()
        .map(|log| {
            tokio::spawn(async move {
                for n in 1..=20 {
                    let record = Bytes::from(format!("{} {n}", log.partition));
                    assert_eq!(log.try_append(vec![record], None).await, Ok(Lsn::new(n)));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    assert_eq!(logs[1].trim(20).await, 20);
    assert_eq!(logs[2].trim(7).await, 7);
    for (log, first) in logs.iter().zip([1, 21, 8, 1]) {
        let expected: Vec<_> = (first..=20)
            .map(|n| Bytes::from(format!("{} {n}", log.partition)))
            .collect();
        assert_eq!(log.all().await, expected, "partition {}", log.partition);
    }
}
