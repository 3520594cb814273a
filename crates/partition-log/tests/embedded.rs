//! What only the embedded engine can do: crash, be closed, be opened twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use partition_log::conformance::{WAIT_MAX, incarnation, registration};
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions, OpenError};
use partition_log::{AppendError, Log, LogAdmin, LogError, ReadError};
use snapshot_store::{Lsn, PartitionId};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};
use tokio::time::timeout;

const PARTITION: PartitionId = PartitionId::new(0);

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, EmbeddedOptions::default()).unwrap()
}

#[tokio::test]
async fn a_folder_that_is_open_is_refused_by_name_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let refused = EmbeddedLog::open(dir.path(), EmbeddedOptions::default())
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(
        refused.to_string().contains(dir.path().to_str().unwrap()),
        "{refused}"
    );
    log.close().await;
    open(dir.path()).provision(registration(0)).await.unwrap();
}

#[tokio::test]
async fn a_folder_of_a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    std::fs::write(
        dir.path().join("format.json"),
        r#"{"format":"tidemark-log","version":9}"#,
    )
    .unwrap();
    let refused = EmbeddedLog::open(dir.path(), EmbeddedOptions::default())
        .err()
        .unwrap();
    assert!(
        matches!(refused, OpenError::NewerFormat { found: 9, .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains(dir.path().to_str().unwrap()),
        "{refused}"
    );
}

#[tokio::test]
async fn a_log_ends_with_its_last_clone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.provision(registration(0)).await.unwrap();
    let clone = log.clone();
    drop(log);
    clone
        .append(PARTITION, incarnation(1), vec!["a".into()], None)
        .await
        .unwrap();
    drop(clone);
    assert_eq!(open(dir.path()).info(PARTITION).await.unwrap().tail, Lsn::new(2));
}

#[tokio::test]
async fn a_closed_log_ends_its_readers_and_answers_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.provision(registration(0)).await.unwrap();
    let mut waiting = log.read(PARTITION, incarnation(1), Lsn::FIRST).await.unwrap();
    assert!(waiting.next().now_or_never().is_none());
    timeout(WAIT_MAX, log.close()).await.unwrap();
    let ended = timeout(WAIT_MAX, waiting.next()).await.unwrap();
    assert!(
        matches!(ended, Some(Err(ReadError::Log(LogError::Unavailable { .. })))),
        "{ended:?}"
    );
    let append = log
        .append(PARTITION, incarnation(1), vec!["a".into()], None)
        .await;
    assert!(matches!(append, Err(AppendError::Unavailable { .. })));
    assert!(matches!(
        log.info(PARTITION).await,
        Err(LogError::Unavailable { .. })
    ));
    let trim = log.trim(PARTITION, incarnation(1), Lsn::FIRST).await;
    assert!(matches!(trim, Err(LogError::Unavailable { .. })));
    // Closing twice is closing once.
    timeout(WAIT_MAX, log.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_everything_that_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.provision(registration(0)).await.unwrap();
    let appends: Vec<_> = (0..200)
        .map(|n| {
            let log = log.clone();
            let record = Bytes::from(format!("record {n}"));
            tokio::spawn(async move { log.append(PARTITION, incarnation(1), vec![record], None).await })
        })
        .collect();
    tokio::task::yield_now().await;
    timeout(WAIT_MAX, log.close()).await.unwrap();
    let mut acknowledged = 0;
    for append in appends {
        match timeout(WAIT_MAX, append).await.unwrap().unwrap() {
            Ok(_) => acknowledged += 1,
            Err(error) => assert!(matches!(error, AppendError::Unavailable { .. }), "{error}"),
        }
    }
    assert_eq!(
        open(dir.path()).info(PARTITION).await.unwrap().tail,
        Lsn::new(acknowledged + 1)
    );
}

fn folder_bytes(dir: &Path) -> u64 {
    // A file may go between listing and looking.
    std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum()
}

#[tokio::test]
async fn trimmed_space_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        write_buffer_bytes: 1 << 20,
        wal_bytes_max: 4 << 20,
        ..EmbeddedOptions::default()
    };
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    log.provision(registration(0)).await.unwrap();
    let mut seed = 1u64;
    // What does not compress.
    let mut noise = || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as u8
    };
    let mut last = Lsn::ZERO;
    for _ in 0..24 {
        let record = Bytes::from((0..1 << 20).map(|_| noise()).collect::<Vec<_>>());
        let batch = vec![record; 3];
        last = log.append(PARTITION, incarnation(1), batch, None).await.unwrap();
    }
    assert_eq!(log.trim(PARTITION, incarnation(1), last).await, Ok(last));
    assert_eq!(log.info(PARTITION).await.unwrap().held_bytes, Some(0));
    log.append(PARTITION, incarnation(1), vec!["after".into()], Some(last.next()))
        .await
        .unwrap();
    let before = 72 << 20;
    let given_back = async {
        while folder_bytes(&dir.path().join("db")) > before / 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT_MAX, given_back)
        .await
        .expect("the files of trimmed records go");
    log.close().await;
    let log = open(dir.path());
    let batch = log
        .read(PARTITION, incarnation(1), last.next())
        .await
        .unwrap()
        .next()
        .await;
    assert_eq!(batch.unwrap().unwrap().records, ["after"]);
}

/// Names the folder in the environment of the process that is to be killed.
const CRASH_DIR: &str = "TIDEMARK_LOG_CRASH_DIR";
const PARTITIONS: u32 = 3;

/// Not a test of its own: what the killed process runs. It appends and trims until it is killed, and says each time
/// what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else {
        return;
    };
    let log = open(Path::new(&dir));
    let writers: Vec<_> = (0..PARTITIONS)
        .map(|number| {
            let log = log.clone();
            tokio::spawn(async move {
                log.provision(registration(number)).await.unwrap();
                let partition = PartitionId::new(number);
                for round in 0..100_000u64 {
                    let tail = log.info(partition).await.unwrap().tail;
                    let batch: Vec<_> = (0..1 + round % 4).map(|n| record(number, tail.plus(n))).collect();
                    let last = log
                        .append(partition, incarnation(1), batch, Some(tail))
                        .await
                        .unwrap();
                    say(&format!("landed {number} {last}"));
                    if round % 7 == 3 {
                        // Sometimes everything.
                        let up_to = if round % 2 == 0 { last } else { last.minus(5) };
                        let trim_point = log.trim(partition, incarnation(1), up_to).await.unwrap();
                        say(&format!("trimmed {number} {trim_point}"));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

fn record(partition: u32, lsn: Lsn) -> Bytes {
    Bytes::from(format!("{partition}/{lsn}"))
}

/// Says something at once, past the test harness.
fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn start_victim(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(CRASH_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[derive(Clone, Copy, Default)]
struct Said {
    landed: u64,
    trimmed: u64,
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged_and_no_trim() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = [Said::default(); PARTITIONS as usize];
    for round in 0..5u64 {
        let mut victim = start_victim(dir.path());
        let lines = BufReader::new(victim.stderr.take().unwrap()).lines();
        for (count, line) in lines.enumerate() {
            let line = line.unwrap();
            let Some((what, rest)) = line.split_once(' ') else {
                continue;
            };
            let Some((partition, lsn)) = rest.split_once(' ') else {
                continue;
            };
            let (Ok(partition), Ok(lsn)) = (partition.parse::<usize>(), lsn.parse::<u64>()) else {
                continue;
            };
            match what {
                "landed" => said[partition].landed = lsn,
                "trimmed" => said[partition].trimmed = lsn,
                _ => continue,
            }
            // At another place in each round; what it still says until it is dead counts as well.
            if count as u64 >= 60 + 37 * round {
                victim.kill().unwrap();
            }
        }
        assert!(!victim.wait().unwrap().success(), "it was killed");
        check_survived(dir.path(), &said).await;
    }
    assert!(
        said.iter().all(|said| said.landed > 0 && said.trimmed > 0),
        "every partition was used"
    );
}

async fn check_survived(dir: &Path, said: &[Said]) {
    let log = open(dir);
    for (partition, said) in (0..PARTITIONS).zip(said) {
        if said.landed == 0 {
            continue;
        }
        let info = log.info(PartitionId::new(partition)).await.unwrap();
        assert!(
            info.tail.get() > said.landed,
            "acknowledged {}, tail {}",
            said.landed,
            info.tail
        );
        assert!(
            info.trim_point.get() >= said.trimmed,
            "trimmed {}, is {}",
            said.trimmed,
            info.trim_point
        );
        let mut stream = log
            .read(
                PartitionId::new(partition),
                incarnation(1),
                info.trim_point.next(),
            )
            .await
            .unwrap();
        let mut next = info.trim_point.next();
        let mut bytes = 0;
        while next < info.tail {
            let batch = stream.next().await.unwrap().unwrap();
            assert_eq!(batch.first, next);
            for found in batch.records {
                assert_eq!(found, record(partition, next));
                bytes += found.len() as u64;
                next = next.next();
            }
        }
        assert_eq!(info.held_bytes, Some(bytes));
    }
    log.close().await;
}
