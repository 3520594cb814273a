//! Three servers, of which some fail while a log is written and read.

mod nats_common;

use bytes::Bytes;
use nats_common::*;
use partition_log::conformance::{NatsServers, NatsUser};
use partition_log::{AppendError, Log};
use snapshot_store::Lsn;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Tries of each writer.
const TRIES: usize = 1000;

/// Three writers, each at a server of its own, all want the next place, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_writers_every_acknowledged_record_is_exactly_once_at_its_lsn() {
    let servers = NatsServers::start(3).await;
    let (log, _admin) = provision(&servers).await;
    let mut writers = Vec::new();
    for writer in 0..3 {
        let log = connect(&servers, NatsUser::Worker, Some(writer)).await;
        writers.push(tokio::spawn(async move {
            let mut won = BTreeMap::new();
            let mut tail = Lsn::FIRST;
            for attempt in 0..TRIES {
                let record = Bytes::from(format!("{writer}/{attempt}"));
                match log.append(P0, life(), vec![record.clone()], Some(tail)).await {
                    Ok(lsn) => {
                        assert_eq!(lsn, tail);
                        won.insert(lsn, record);
                        tail = lsn.next();
                    }
                    Err(AppendError::TailMismatch { tail: found }) => tail = found,
                    Err(error) => panic!("no server failed: {error}"),
                }
            }
            won
        }));
    }
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        for (lsn, record) in writer.await.expect("a writer ends") {
            assert_eq!(acknowledged.insert(lsn, record), None, "{lsn} was given twice");
        }
    }
    assert!(
        acknowledged.len() > TRIES / 2,
        "the race was won {} times",
        acknowledged.len()
    );
    let dense: Vec<Lsn> = (1..=acknowledged.len() as u64).map(Lsn::new).collect();
    assert_eq!(acknowledged.keys().copied().collect::<Vec<_>>(), dense);
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    let read = take(&mut stream, Lsn::FIRST, acknowledged.len()).await;
    assert_eq!(read, Ok(acknowledged.into_values().collect()));
}

/// What fails: the leader, then two of three, then all. One reader reads on through all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_writer_nor_reader_loses_or_repeats_a_record_when_servers_are_killed() {
    let mut servers = NatsServers::start(3).await;
    let (log, _admin) = provision(&servers).await;
    let js = raw(&servers, NatsUser::Admin).await;
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    let mut writer = Writer::new(connect(&servers, NatsUser::Worker, None).await);

    writer.append(20).await;
    let killed = leader(&servers, &js).await;
    servers.kill(killed);
    writer.append(20).await;
    let read = take(&mut stream, Lsn::FIRST, 40).await;
    assert_eq!(
        read.as_ref(),
        Ok(&writer.acknowledged),
        "after the leader was killed"
    );
    servers.start_again(killed);
    writer.append(5).await;

    let others: Vec<usize> = (0..3).filter(|index| *index != killed).collect();
    // The one that was away must have caught up, or it could not lead to what the others acknowledged.
    until_current(&js).await;
    for index in &others {
        servers.kill(*index);
    }
    let lost = Bytes::from_static(b"nobody acknowledges this");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let outcome = tokio::time::timeout(Duration::from_secs(1), writer.try_append(&lost)).await;
        assert!(
            !matches!(outcome, Ok(Ok(_))),
            "one server of three acknowledges nothing"
        );
        tokio::time::sleep(PAUSE).await;
    }
    servers.start_again(others[0]);
    // One of the tries may land now.
    let tail = writer_tail(&writer).await;
    for _ in 0..tail.records_since(writer.tail) {
        writer.acknowledged.push(lost.clone());
    }
    writer.tail = tail;
    writer.append(20).await;
    servers.start_again(others[1]);
    writer.append(5).await;
    until_current(&js).await;

    for index in 0..3 {
        servers.kill(index);
    }
    for index in 0..3 {
        servers.start_again(index);
    }
    writer.append(20).await;
    let rest = writer.acknowledged.split_off(40);
    let read = take(&mut stream, Lsn::new(41), rest.len()).await;
    assert_eq!(read, Ok(rest), "after two and then all were killed");
}

/// Returns where the log really ends: what the servers refuse, or take, shows it.
async fn writer_tail(writer: &Writer) -> Lsn {
    within("the tail", async {
        loop {
            let wrong = Some(Lsn::new(u64::MAX >> 1));
            let probe = vec![Bytes::from_static(b"never lands")];
            if let Err(AppendError::TailMismatch { tail }) = writer.log.append(P0, life(), probe, wrong).await
            {
                return tail;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}
